"""The command `isogram`. What only some commands need is imported where they run: `isogram --help` answers at once."""

from importlib.metadata import version as installed
from typing import Annotated

import typer

from isogram.cli.benchmarks import bench, table
from isogram.cli.datasets import example_data, fetch_data, list_data
from isogram.cli.runs import align, audit, demo, doctor, export, init, run, write_report

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
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
app.command()(export)
app.command()(demo)
app.command()(bench)
app.command()(table)

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Built-in data sets; an example of your own.")
app.add_typer(data_app, name="data")
data_app.command("list")(list_data)
data_app.command("fetch")(fetch_data)
data_app.command("example")(example_data)
