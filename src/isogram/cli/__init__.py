"""The command `isogram`. What only some commands need is imported where they run: `isogram --help` answers at once."""

from importlib.metadata import version as installed
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from isogram.cli import deploy
from isogram.cli.anchors import check as check_anchors
from isogram.cli.anchors import fill, hash_set
from isogram.cli.benchmarks import bench, table
from isogram.cli.datasets import example_data, fetch_data, list_data
from isogram.cli.runs import align, audit, demo, doctor, export, init, run, write_report
from isogram.cli.serving import pictures, serve
from isogram.cli.silos import check as check_node
from isogram.cli.use import classify, embed, search

__all__ = ["app"]


class _Commands(TyperGroup):
    """Its help is commands alone, so that they stay one screen: its own options are the usual ones."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        with formatter.indentation():
            formatter.write_text(self.help)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)


class _Command(TyperCommand):
    """Its help is plain text, and typer escapes brackets in it as if it were rich's markup."""

    def get_help(self, ctx: Any) -> str:
        return super().get_help(ctx).replace("\\[", "[")


class _Typer(typer.Typer):
    """Help in plain text, of every command in it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, **options)

    def command(self, name: str | None = None, **options: Any) -> Any:
        return super().command(name, cls=_Command, **options)


app = _Typer(
    cls=_Commands,
    help="\b\nTrain one multimodal transformer across silos that share no sample.\n"
    "Exit: 0 ok, 1 bug, 2 input, 3 refused, 4 machine, 5 unsent, 130 interrupted.",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"isogram {installed('isogram')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(init)
app.command()(doctor)
app.command()(align)
app.command()(run)
app.command("report")(write_report)
app.command()(audit)
app.command()(embed)
app.command()(search)
app.command()(classify)
app.command()(export)
app.command()(serve)
app.command()(pictures)
app.command()(demo)
app.command()(bench)
app.command()(table)

data_app = _Typer(help="Built-in data sets; an example of your own.")
app.add_typer(data_app, name="data")
data_app.command("list")(list_data)
data_app.command("fetch")(fetch_data)
data_app.command("example")(example_data)

node_app = _Typer(help="Check the data of a silo of your own.")
app.add_typer(node_app, name="node")
node_app.command("check")(check_node)

anchors_app = _Typer(help="Check an anchor set, hash it, fill it up.")
app.add_typer(anchors_app, name="anchors")
anchors_app.command("check")(check_anchors)
anchors_app.command("hash")(hash_set)
anchors_app.command("fill")(fill)

deploy_app = _Typer(help="A federation between machines.")
app.add_typer(deploy_app, name="deploy")
for command in (
    deploy.init,
    deploy.check,
    deploy.server,
    deploy.node,
    deploy.start,
    deploy.status,
    deploy.resume,
    deploy.stop,
    deploy.simulate,
):
    deploy_app.command()(command)
