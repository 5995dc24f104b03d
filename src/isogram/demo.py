"""The main job on one split, watched: data, one-shot alignment, federated rounds, evaluation, table."""

from collections.abc import Sequence
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from isogram import bench, report
from isogram.config import Config
from isogram.data import FederatedData, load
from isogram.methods import RECIPES, Recipe, Solution


class Steps:
    """A progress bar for each step of a long job; where the output is no terminal, plain lines instead."""

    def __init__(self, console: Console, names: Sequence[str]) -> None:
        bar = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        note = TextColumn("[dim]{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
        self._console = console
        self._bars = Progress(*bar, note, console=console, expand=True, disable=not console.is_terminal)
        self._tasks = {name: self._bars.add_task(name, total=None, start=False, note="") for name in names}
        self._at: TaskID | None = None
        self._name = ""

    def __enter__(self) -> "Steps":
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def begin(self, name: str, total: int, note: str = "") -> None:
        """Start the step of this name; it ends after `total` calls of `advance`."""
        self._name, self._at = name, self._tasks[name]
        self._bars.start_task(self._at)
        self._bars.update(self._at, total=total)
        self.say(note)

    def say(self, note: str) -> None:
        """What the step is about to do."""
        assert self._at is not None, "begin a step first"
        self._bars.update(self._at, note=note)
        if self._bars.disable and note:
            self._console.print(f"{self._name}: {note}", highlight=False)

    def advance(self, note: str) -> None:
        """One part done, and what it gave."""
        assert self._at is not None, "begin a step first"
        self._bars.advance(self._at)
        self.say(note)

    def end(self, note: str = "") -> None:
        """Stop the step's clock."""
        assert self._at is not None, "begin a step first"
        self.say(note)
        self._bars.update(self._at, note=note)
        self._bars.stop_task(self._at)


STEPS = ("fetch data", "one-shot alignment", "federated rounds", "evaluation")


def run_demo(config: Config, console: Console) -> None:
    """Every method that the data set allows, side by side; prints the table of held-out rows.

    Raises:
        DataError: the data cannot be had.
        ConfigError, AnchorError: settings that do not fit the data.
    """
    with Steps(console, STEPS) as steps:
        steps.begin(STEPS[0], 1, "reading; the first time it is downloaded, about a minute")
        data = load(config.data, anchors=config.anchors, seed=config.seed)
        rows = sum(len(node.tokens) for node in data.nodes)
        steps.advance("")
        steps.end(f"{len(data.nodes)} nodes, {rows} private rows, {len(data.anchors)} public anchors")
        allowed = [recipe for recipe in RECIPES if recipe.names != ("paired",) or data.all_paired is not None]
        found = _aligned([r for r in allowed if not r.trained], data, config, steps)
        found += _trained([r for r in allowed if r.trained], data, config, steps)
        found.sort(key=lambda pair: [name for r in RECIPES for name in r.names].index(pair[0].method))
        scored = _scored(found, data, config, steps)
    console.print(_table(report.Results(scored), data, config, [solution for solution, _ in found]))


def _aligned(recipes: list[Recipe], data: FederatedData, config: Config, steps: Steps) -> list[tuple[Solution, float]]:
    found: list[tuple[Solution, float]] = []
    steps.begin(STEPS[1], len(recipes))
    for recipe in recipes:
        found += bench.solutions(recipe, data, config, None)
        steps.advance(", ".join(recipe.names))
    steps.end()
    return found


def _trained(recipes: list[Recipe], data: FederatedData, config: Config, steps: Steps) -> list[tuple[Solution, float]]:
    found: list[tuple[Solution, float]] = []
    steps.begin(STEPS[2], config.train.rounds * (len(recipes) + 1))  # isogram+oneshot decides by a second run
    for recipe in recipes:

        def tick(round: int, rounds: int, terms: dict[str, float], names: str = " / ".join(recipe.names)) -> None:
            losses = ", ".join(f"{name} {value:.3f}" for name, value in terms.items())
            steps.advance(f"{names}, round {round} of {rounds}: {losses}")

        found += bench.solutions(recipe, data, config, tick)
    steps.end()
    return found


def _scored(found: list[tuple[Solution, float]], data: FederatedData, config: Config, steps: Steps) -> list[bench.Row]:
    rows: list[bench.Row] = []
    steps.begin(STEPS[3], len(found))
    for solution, seconds in found:
        rows += bench.score(solution, data, config, seconds)
        steps.advance(solution.method)
    steps.end()
    return rows


def _table(results: report.Results, data: FederatedData, config: Config, found: list[Solution]) -> Table:
    """Metrics that this data set has, one line a method."""
    columns = dict(report.COLUMNS)
    if not config.data.startswith("tcga"):
        columns = {
            name: column
            for name, column in columns.items()
            if column[0] in ("r1", "r10", "cka") and data.held_out.paired
        }
        columns |= {f"accuracy {d}": ("accuracy", d) for d in results.directions(config.data, "accuracy")}
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{config.data}, {len(data.anchors)} public anchors, seed {config.seed}: held-out rows",
        title_justify="left",
    )
    table.add_column("method", no_wrap=True)
    for name in (*columns, "kB sent", "seconds"):
        table.add_column(name, justify="right")
    for solution in found:
        suffix = "" if solution.method in results.methods(config.data) else f"@{config.model.trunk}"
        key = (config.data, solution.method + suffix, config.anchors)
        cells = [report.figure(results.mean(*key, *column)) for column in columns.values()]
        sent, seconds = results.mean(*key, "bytes_per_node"), results.mean(*key, "seconds")
        table.add_row(solution.method, *cells, report.size(sent), report.figure(seconds, 1))
    notes = [
        f"{s.method}: {len(s.fell_back)} of {len(data.nodes)} nodes fell back to their one-shot start"
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
            "paired: every other row as a public anchor, which nobody may have; own-labels: nodes told all their labels"
        )
    table.caption, table.caption_justify = "\n".join(notes), "left"
    return table
