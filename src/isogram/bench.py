"""Benchmarks: methods x anchors x seeds -> tidy rows, one JSON object a line. Interrupted ones can go on."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, astuple, dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from isogram.config import FILES, SILOS, Config
from isogram.config_file import read_config, to_toml
from isogram.data import ENCODED, FederatedData, is_here, open_data
from isogram.errors import ConfigError, DataError
from isogram.federation import Progress
from isogram.files import append_lines, make_folder, write_atomic
from isogram.goal import goal_of
from isogram.methods import METHODS, RECIPES, Recipe, Solution, allowed, settings_for

T = TypeVar("T")
R = TypeVar("R")

DEFAULT_TRUNK = Config().model.trunk

QUICK = {"tcga-brca": 100, "tcga-brca-chain": 100, "digits": 5, "digits-sites": 5, "machines": 100, "pictures": 200}
"""Data sets of the quick benchmark, and the number of anchors of each."""

QUICK_SEEDS = (0, 1)


@dataclass(frozen=True, order=True)
class Row:
    """One figure of one method on one split. anchors: K, on `digits` per class; direction: "" where there is none."""

    dataset: str
    method: str
    anchors: int
    seed: int
    metric: str
    direction: str
    value: float


@dataclass(frozen=True)
class Cell:
    """One recipe on one split: what a worker does at a time."""

    config: Config
    recipe: int
    names: tuple[str, ...]


def score(solution: Solution, data: FederatedData, config: Config, seconds: float) -> list[Row]:
    """All rows of one solution: figures on held-out rows, bytes, seconds of the run that led to it."""
    name = solution.method if config.model.trunk == DEFAULT_TRUNK else f"{solution.method}@{config.model.trunk}"

    def row(metric: str, direction: str, value: float) -> Row:
        return Row(config.data, name, config.anchors, config.seed, metric, direction, round(value, 6))

    rows = [row(s.metric, s.direction, s.value) for s in solution.scores(data)]
    rows += [row("bytes_per_node", "", solution.bytes_per_node), row("seconds", "", seconds)]
    if solution.fell_back is not None:
        rows.append(row("fell_back", "", len(solution.fell_back)))
    return rows


def solutions(
    recipe: Recipe, data: FederatedData, config: Config, progress: Progress | None
) -> Iterator[tuple[Solution, float]]:
    """What a recipe leaves, each with the seconds since the recipe began."""
    start = time.perf_counter()
    for solution in recipe.run(data, settings_for(recipe, config), progress):
        yield solution, time.perf_counter() - start


def timed(cell: Cell) -> tuple[list[Row], float]:
    """Rows of a cell, and the seconds it took: data, recipe and scores."""
    start = time.perf_counter()
    return run_cell(cell), time.perf_counter() - start


def run_cell(cell: Cell) -> list[Row]:
    """Load the split, run the recipe, score what was asked for. One thread, so that cells can run side by side."""
    torch.set_num_threads(1)
    config, rows = cell.config, []
    data, left = open_data(config), set(cell.names)
    for solution, seconds in solutions(RECIPES[cell.recipe], data, config, None):
        if solution.method in left:
            rows += score(solution, data, config, seconds)
            left.remove(solution.method)
        if not left:
            break
    return rows


def check_settings(config: Config, path: Path, *, default: bool) -> None:
    """Rows name data, method, trunk, anchors and seed alone: what else is not the default needs a file of its own.

    Its settings are kept beside it, in a file of its name that ends in .toml, and rows of other settings are not added.

    Raises:
        ConfigError: other settings than the rows in `path` have, or than the default file may hold.
    """
    varied: dict[str, Any] = {"name": "", "data": Config().data, "anchors": Config().anchors, "seed": 0}
    model = config.model.model_copy(update={"trunk": DEFAULT_TRUNK})
    plain = config.model_copy(update={**varied, "model": model, "output": Config().output})
    usual = Config()
    if config.data in (FILES, SILOS) or config.goal != goal_of(config.data):
        plain = plain.model_copy(update={"data": config.data})  # rows of another goal than usual are of this data alone
    else:
        usual = Config(data=config.data).model_copy(update=varied)
    if default:
        if plain != usual:
            raise ConfigError("settings other than the defaults need a file of their own: name one with --out")
        return
    beside = path.with_suffix(".toml")
    before = read_config(beside).model_copy(update={"name": ""}) if beside.exists() else usual
    if path.exists() and before != plain:
        raise ConfigError(f"{path} has rows of other settings; name another file with --out")
    if plain != usual:
        make_folder(path.parent)
        write_atomic(beside, to_toml(plain).encode())


def plan(configs: Iterable[Config], methods: Sequence[str], done: Iterable[Row]) -> list[Cell]:
    """Cells that are not in the rows already written, cheap recipes first.

    Raises:
        ConfigError: a method that does not exist.
    """
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise ConfigError(f"no method {', '.join(map(repr, unknown))}; choose from {', '.join(METHODS)}")
    have = {
        (row.dataset, row.method.partition("@")[0], row.anchors, row.seed, row.method.partition("@")[2]) for row in done
    }
    cells = []
    for config in configs:
        trunk = "" if config.model.trunk == DEFAULT_TRUNK else config.model.trunk
        for number, recipe in enumerate(RECIPES):
            asked = [name for name in recipe.names if name in methods]
            missing = tuple(n for n in asked if (config.data, n, config.anchors, config.seed, trunk) not in have)
            if missing:
                cells.append(Cell(config, number, missing))
    return sorted(cells, key=lambda cell: RECIPES[cell.recipe].trained)


def fitting(config: Config) -> list[str]:
    """Names of the methods that a data set has what they need for."""
    return [name for recipe in allowed(open_data(config)) for name in recipe.names]


def plan_quick(done: Iterable[Row]) -> tuple[list[Cell], list[str]]:
    """Cells of every data set of `QUICK` with the default settings, and the data sets left out.

    Those that have to be encoded first are left out where they are not here yet: that alone takes longer than the rest.
    """
    left_out = [name for name in QUICK if name in ENCODED and not is_here(name)]
    cells, rows = [], list(done)
    for name in [name for name in QUICK if name not in left_out]:
        configs = [Config(data=name, anchors=QUICK[name], seed=seed) for seed in QUICK_SEEDS]
        cells += plan(configs, fitting(configs[0]), rows)
    return sorted(cells, key=lambda cell: RECIPES[cell.recipe].trained), left_out


def bench(
    cells: Sequence[Cell], path: Path, jobs: int, finished: Callable[[Cell, float], None]
) -> list[tuple[Cell, float]]:
    """Run cells in `jobs` processes and append each one's rows to `path` as it is done; sort the file at the end.

    Returns:
        The cells in the order they ended, each with its seconds, as `finished` is told them.
    """
    make_folder(path.parent)
    ended: list[tuple[Cell, float]] = []
    rewrite(path)  # an interrupted run may have left half a line

    def keep(cell: Cell, result: tuple[list[Row], float]) -> None:
        rows, seconds = result
        append_lines(path, (json.dumps(asdict(row)) for row in rows))
        ended.append((cell, seconds))
        finished(*ended[-1])

    side_by_side(timed, cells, jobs, keep)
    rewrite(path)
    return ended


def side_by_side(work: Callable[[T], R], tasks: Iterable[T], jobs: int, ended: Callable[[T, R], None]) -> None:
    """Each task in one of `jobs` processes; `ended` is told as they end. Whatever is raised stops all of them."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(work, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                ended(futures[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in active_children():
                child.terminate()
            raise


def rewrite(path: Path) -> list[Row]:
    """Sort a file of rows, each once, without the half line that an interruption may have left; the rows it has."""
    kept = {astuple(row)[:-1]: row for row in read_rows([path])} if path.exists() else {}
    rows = [kept[key] for key in sorted(kept)]
    write_atomic(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows).encode())
    return rows


def replace_rows(path: Path, rows: Iterable[Row]) -> None:
    """Put rows in the place of those of the same data, method, anchors, seed, metric and direction; keep the others."""
    make_folder(path.parent)
    if path.exists():
        rewrite(path)
    append_lines(path, (json.dumps(asdict(row)) for row in rows))
    rewrite(path)


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """All rows of some files; a last line cut off by an interruption is left out.

    Raises:
        DataError: a line that is not a row; names file and line.
    """
    rows = []
    for path in paths:
        lines = path.read_text().split("\n")
        for number, line in enumerate(lines, 1):
            if not line or (number == len(lines) and not line.endswith("}")):
                continue
            try:
                rows.append(Row(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise DataError(f"{path}:{number}: not a benchmark row ({error}); delete the line") from error
    return rows
