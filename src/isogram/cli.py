"""The command `isogram`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from isogram import bench as benchmarks
from isogram import report
from isogram.config import Config, ModelConfig, TrunkName
from isogram.data import DATASETS, load
from isogram.demo import Steps, run_demo
from isogram.errors import ConfigError, IsogramError
from isogram.methods import METHODS

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train one multimodal transformer across silos that share no modality and no sample.",
)
console, errors = Console(), Console(stderr=True)

Data = Annotated[str, typer.Option("--data", help=f"Data set: {', '.join(DATASETS)}.")]
Trunk = Annotated[TrunkName, typer.Option("--trunk", help="Transformer between projector and frame.")]
DEFAULT = Config()


@contextmanager
def _explained(interrupted: str = "interrupted") -> Iterator[None]:
    """Errors raised on purpose end the command with a line each on stderr instead of a traceback."""
    try:
        yield
    except ValidationError as error:
        for problem in error.errors():
            errors.print(f"[red]error[/] {'.'.join(map(str, problem['loc']))}: {problem['msg']}", highlight=False)
        raise typer.Exit(2) from error
    except IsogramError as error:
        errors.print(f"[red]error[/] {error}", highlight=False)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        errors.print(interrupted)
        raise typer.Exit(130) from None


@app.command()
def demo(
    data: Data = "tcga-brca",
    anchors: Annotated[
        int | None, typer.Option(help="Public anchors K; 100 if not given, 5 per digit on digits.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split and of everything random.")] = 0,
    trunk: Trunk = DEFAULT.model.trunk,
) -> None:
    """Run the main job on one split, every method side by side, and print the table."""
    with _explained():
        if anchors is None:
            anchors = 5 if data == "digits" else DEFAULT.anchors
        run_demo(Config(data=data, anchors=anchors, seed=seed, model=ModelConfig(trunk=trunk)), console)


def _numbers(text: str) -> list[int]:
    """Numbers that "0-4,7" stands for: 0, 1, 2, 3, 4, 7."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ConfigError(f"cannot read {text!r} as numbers; write for example 0-4 or 25,50,100")
        if dash and int(last) < int(first):
            raise ConfigError(f"{part!r} runs backwards; write {last}-{first}")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


@app.command()
def bench(
    data: Data = "tcga-brca",
    anchors: Annotated[str, typer.Option(help="Numbers of anchors, such as 25,50,100.")] = "100",
    seeds: Annotated[str, typer.Option(help="Seeds, such as 0-19.")] = "0-4",
    methods: Annotated[str, typer.Option(help=f"Names, comma between: {', '.join(METHODS)}.")] = ",".join(METHODS),
    trunk: Trunk = DEFAULT.model.trunk,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File of rows; results/DATA.jsonl if not given.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes side by side, one thread each.")] = 1,
) -> None:
    """Run methods over seeds and append tidy rows (JSON lines). Rows that exist are not run again."""
    with _explained("interrupted: rows that are finished are kept, and the same command goes on from there"):
        path = out or Path("results") / f"{data}.jsonl"
        configs = [
            Config(data=data, anchors=k, seed=s, model=ModelConfig(trunk=trunk))
            for k in _numbers(anchors)
            for s in _numbers(seeds)
        ]
        done = benchmarks.read_rows([path]) if path.exists() else []
        cells = benchmarks.plan(configs, methods.split(","), done)
        for name in {config.data for config in configs} if cells else ():
            load(name, anchors=configs[0].anchors, seed=configs[0].seed)  # one download, before the processes start
        with Steps(console, ("benchmark",)) as steps:
            steps.begin("benchmark", len(cells))
            benchmarks.bench(cells, path, jobs, lambda cell: steps.advance(_described(cell)))
            steps.end(str(path))


def _described(cell: benchmarks.Cell) -> str:
    return f"K = {cell.config.anchors}, seed {cell.config.seed}: {', '.join(cell.names)}"


@app.command()
def table(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Texts with table blocks.")],
    results: Annotated[Path, typer.Option(help="Folder of rows.")] = Path("results"),
    picture: Annotated[Path | None, typer.Option(help="Draw the picture too, .svg or .png.")] = None,
) -> None:
    """Write the tables of the documentation from committed rows."""
    with _explained():
        found = report.Results(benchmarks.read_rows(sorted(results.glob("*.jsonl"))))
        made = report.blocks(found)
        for file in files:
            file.write_text(report.fill(file.read_text(), made))
            console.print(f"wrote {file}")
        if picture is not None:
            report.picture(found, picture)
            console.print(f"drew {picture}")
