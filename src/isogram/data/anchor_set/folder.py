"""The folder of an anchor set: `anchors.csv` (or `anchors.parquet`), and the files that it names. docs/anchor-sets.md.

Such folders come from other organisations: nothing that a table says makes isogram read a file outside of its folder.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import numpy as np

from isogram.config import ModalityConfig
from isogram.data.base import FloatArray, IntArray
from isogram.data.modalities import KINDS, kind_of
from isogram.data.modalities.base import Item
from isogram.data.sheets import Problems
from isogram.data.silos.tables import TextTable, read_table
from isogram.errors import DataError

CONCEPT, PROVENANCE, QUALITY, LICENCE = "concept", "provenance", "quality", "licence"
ABOUT = (PROVENANCE, QUALITY, LICENCE)
"""Columns that hold for a whole row, or as `quality:MODALITY` for one modality of it, which comes first."""

SYNTHETIC = "synthetic"
"""How the provenance of an item begins that a program made up."""

CELLS, ROWS = frozenset({"text", "sequence"}), frozenset({"table"})
"""Kinds whose items stand in the anchor table itself, and those in a table of their own; all others are files."""

FILE = "file"
"""No kind: what files are called as long as nobody says of which they are."""

SUFFIXES = {suffix: kind.name for kind in KINDS.values() for suffix in kind.suffixes}
"""Of files, in lower case -> the kind that reads them."""


class Held(NamedTuple):
    """What an anchor set holds of one modality: positions [k] of the concepts, their items, quality [k] in (0, 1]."""

    positions: IntArray
    items: list[Item]
    quality: FloatArray


@dataclass(frozen=True)
class AnchorTable:
    """An anchor set as its folder has it, not encoded yet.

    concepts: in the order of the table; those that no modality asked for holds are left out.
    provenance, licence: modality -> one text per item, empty where nobody said.
    """

    folder: Path
    concepts: tuple[str, ...]
    items: Mapping[str, Held]
    provenance: Mapping[str, tuple[str, ...]]
    licence: Mapping[str, tuple[str, ...]]


def read_anchor_set(folder: Path, modalities: Mapping[str, ModalityConfig]) -> AnchorTable:
    """The anchors of a run's modalities.

    Args:
        folder: with `anchors.csv` or `anchors.parquet`.
        modalities: column -> what stands in it; other columns are passed over. A modality of kind table has no column
            but a file `MODALITY.csv`, with a column `concept` and columns of numbers.

    Raises:
        DataError: all that is wrong, by file and line: concepts that are empty or stand twice, absent columns and
            files, paths that lead out of the folder, a quality outside (0, 1], synthetic items of full quality.
        ConfigError: there is no such kind.
    """
    problems = Problems()
    table = open_table(folder, problems)
    if not table:
        problems.stop()
    found: dict[str, dict[int, Item]] = {}
    for name, config in modalities.items():
        kind = config.kind or name
        if kind in ROWS:
            found[name] = _rows(folder, name, config.columns, table, problems)
        elif table.has(name, problems):
            found[name] = _cells(table, name, _is_of_files(kind), problems)
    about = _about(table, found, problems)
    problems.stop()
    used = sorted({row for rows in found.values() for row in rows})
    place = {row: position for position, row in enumerate(used)}
    concepts = table.column(CONCEPT)
    return AnchorTable(
        folder,
        tuple(concepts[row] for row in used),
        {
            name: Held(
                np.array([place[row] for row in rows], dtype=np.int64),
                list(rows.values()),
                np.array([about[name][row].quality for row in rows], dtype=np.float32),
            )
            for name, rows in found.items()
        },
        {name: tuple(about[name][row].provenance for row in rows) for name, rows in found.items()},
        {name: tuple(about[name][row].licence for row in rows) for name, rows in found.items()},
    )


def guess_modalities(folder: Path) -> dict[str, ModalityConfig]:
    """Every modality that the folder holds, its kind by the suffixes of its files; what names no file is text.

    A column is of files if a cell of it names one that is there, or if all look so; where their suffixes do not tell of
    which kind, it is called `FILE`, which nothing can encode.

    Raises:
        DataError: the table cannot be read.
    """
    problems = Problems()
    table = open_table(folder, problems)
    guessed = {}
    for name in cell_columns(table):
        cells = [cell for cell in table.column(name) if cell]
        if not cells:
            continue  # to be filled
        kinds = {SUFFIXES.get(Path(cell).suffix.lower(), "") for cell in cells}
        if (cells and "" not in kinds) or any(isinstance(_find(folder, cell), Path) for cell in cells):
            guessed[name] = ModalityConfig(kind=kinds.pop() or FILE if len(kinds) == 1 else FILE)
        else:
            guessed[name] = ModalityConfig(kind="text")
    for path in own_tables(folder):
        if path.stem in guessed:
            problems.append(f"{path} and a column of {table.path} are both called {path.stem!r}; rename one")
        guessed[path.stem] = ModalityConfig(kind="table")
    problems.stop()
    return guessed


def open_table(folder: Path, problems: Problems) -> TextTable:
    """The table of concepts, an empty one if it cannot be used: what is wrong with it as a whole was noted."""
    here = [path for path in (folder / "anchors.csv", folder / "anchors.parquet") if path.exists()]
    nothing = TextTable(folder / "anchors.csv")
    if not here:
        where = folder if folder.is_dir() else f"{folder}, which is no folder"
        problems.append(f"no anchors.csv or anchors.parquet in {where}; name the folder of an anchor set")
        return nothing
    if len(here) == 2:
        problems.append(f"{folder} has anchors.csv and anchors.parquet; remove the one that is not up to date")
        return nothing
    try:
        inside(folder, here[0].name)
    except DataError as error:
        problems.append(f"{folder}: {error}")
        return nothing
    before = len(problems)
    table = read_table(here[0], problems)
    if len(problems) > before:
        return nothing
    if not table.has(CONCEPT, problems):
        return nothing
    if "license" in table.columns:
        problems.append(f"{table.path}: column 'license'; it is called 'licence' here: rename it")
    held = {*cell_columns(table), *(path.stem for path in own_tables(folder))}
    strangers = [name for name in table.columns if ":" in name and name.partition(":")[0] in ABOUT]
    strangers = [name for name in strangers if name.partition(":")[2] not in held]
    problems.some(f"{table.path}: columns about modalities that it does not have:", strangers, "rename or drop them")
    _check_concepts(table, problems)
    return table


def cell_columns(table: TextTable) -> list[str]:
    """Columns that are modalities."""
    return [
        name for name in table.columns if name != CONCEPT and name not in ABOUT and name.partition(":")[0] not in ABOUT
    ]


def own_tables(folder: Path) -> list[Path]:
    """Files `MODALITY.csv` beside the table of concepts: what begins with a header that has `concept` in it."""
    found = []
    for path in sorted(folder.glob("*.csv")):
        if path.name != "anchors.csv" and path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            with path.open("rb") as file:
                header = file.readline(1 << 20).decode("utf-8-sig", "replace")
            if CONCEPT in (cell.strip().strip('"') for cell in header.split(",")):
                found.append(path)
    return found


def inside(folder: Path, cell: str) -> Path:
    """The file in the folder that a cell names.

    Raises:
        DataError: it is none, or outside of the folder.
    """
    found = _find(folder, cell)
    if isinstance(found, _Wrong):
        raise DataError(f"{cell[:200]!r}: {found.what}; {found.remedy}")
    return found


class _Wrong(NamedTuple):
    what: str
    remedy: str


def _find(folder: Path, cell: str) -> Path | _Wrong:
    """The file that a cell names, or what is wrong with it."""
    path, windows = folder / cell, PureWindowsPath(cell)
    if PurePosixPath(cell).is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        return _Wrong("leads out of the folder", "put the file into it, and name it from there")
    if "\\" in cell:
        return _Wrong("a path with \\", "write / between folders")
    try:
        if not path.is_file():
            return _Wrong("no such file in the folder", "add it, or leave the cell empty")
        if not path.resolve().is_relative_to(folder.resolve()):
            return _Wrong("a link that leads out of the folder", "put the file itself there")
    except (OSError, RuntimeError, ValueError):  # too long, a link in a circle, a zero byte
        return _Wrong("no name of a file", "correct it, or say by a configuration of which kind the column is")
    return path


class _About(NamedTuple):
    provenance: str
    quality: float
    licence: str


def _check_concepts(table: TextTable, problems: Problems) -> None:
    concepts = table.column(CONCEPT)
    empty = [table.where(row) for row, name in enumerate(concepts) if not name]
    problems.some(f"column {CONCEPT!r} is empty:", empty, "name each concept")
    again = [repr(name) for name, count in Counter(concepts).items() if name and count > 1]
    problems.some(f"{table.path}: concepts that stand twice:", again, "keep one row of each")


def _cells(table: TextTable, name: str, files: bool, problems: Problems) -> dict[int, Item]:
    """Row -> its item of a modality that has a column; long texts may stand in files, if all of the column do."""
    folder, cells = table.path.parent, table.column(name)
    files = files or all(isinstance(_find(folder, cell), Path) for cell in cells if cell)
    found: dict[int, Item] = {}
    wrong: dict[_Wrong, list[str]] = {}
    for row, cell in enumerate(cells):
        where = f"{table.where(row)}, column {name!r}"
        if not cell:
            continue
        if not files:
            found[row] = Item(where, text=cell.replace("\r\n", "\n").replace("\r", "\n"))
            continue
        path = _find(folder, cell)
        if isinstance(path, _Wrong):
            wrong.setdefault(path, []).append(f"{cell[:100]!r} ({_line(table, row)})")
        else:
            found[row] = Item(where, path=path)
    for (what, remedy), places in wrong.items():
        problems.some(f"{table.path}, column {name!r}: {what}:", places, remedy)
    if not any(cells):
        problems.append(f"{table.path}: column {name!r} is empty; fill in its items, or leave that modality out")
    return found


def _is_of_files(kind: str) -> bool:
    if kind in KINDS or kind == FILE:
        return kind not in CELLS
    return bool(kind_of(ModalityConfig(kind=kind)).suffixes)


def _rows(folder: Path, name: str, columns: Sequence[str], anchors: TextTable, problems: Problems) -> dict[int, Item]:
    """Row of the table of concepts -> its item of a modality that has a table of its own."""
    before = len(problems)
    try:
        table = read_table(inside(folder, f"{name}.csv"), problems)
    except DataError:
        problems.append(
            f"no file {folder / f'{name}.csv'}; a modality of kind table has one, with a column {CONCEPT!r}"
        )
        return {}
    if len(problems) > before:
        return {}
    wanted = columns or [column for column in table.columns if column != CONCEPT]
    for column in (CONCEPT, *wanted):
        table.has(column, problems)
    if not wanted:
        problems.append(f"{table.path} has no columns of numbers")
    if len(problems) > before:
        return {}
    _check_concepts(table, problems)
    known = {concept: row for row, concept in enumerate(anchors.column(CONCEPT))}
    mine = table.column(CONCEPT)
    strangers = [repr(concept) for concept in mine if concept and concept not in known]
    problems.some(f"{table.path}: concepts that {anchors.path.name} does not have:", strangers, "add or drop them")
    numbers, bad = {column: table.column(column) for column in wanted}, []
    found: dict[int, Item] = {}
    for row, concept in enumerate(mine):
        values = tuple((column, _number(cells[row])) for column, cells in numbers.items())
        bad += [
            f"{table.where(row)}, column {column!r}: {numbers[column][row] or 'empty'}"
            for column, value in values
            if not np.isfinite(value)
        ]
        found[known.get(concept, -1)] = Item(table.where(row), values=values)
    problems.some("not a finite number:", bad, "impute them, or drop the row; decimals are written with a point")
    return dict(sorted(found.items()))


def _about(
    table: TextTable, found: Mapping[str, Mapping[int, Item]], problems: Problems
) -> dict[str, dict[int, _About]]:
    """What the columns beside the items say of each: its own column first, then the row's."""
    about: dict[str, dict[int, _About]] = {name: {} for name in found}
    outside: dict[str, None] = {}  # a row's column counts once, for however many items it speaks
    full = []
    for name, row in ((name, row) for name, rows in found.items() for row in rows if row >= 0):
        provenance, quality, licence = (cell_about(table, row, what, name) for what in ABOUT)
        number = _number(quality[1] or "1")
        if not 0 < number <= 1:
            outside[f"{table.where(row)}, column {quality[0]!r}: {quality[1]}"] = None
        elif number == 1 and provenance[1].lower().startswith(SYNTHETIC):
            full.append(f"{name!r} ({_line(table, row)})")
        about[name][row] = _About(provenance[1], number, licence[1])
    problems.some("quality that is not above 0 and at most 1:", list(outside), "correct it, or leave the item out")
    problems.some(f"{table.path}: synthetic items of quality 1:", full, "give them a lower one, such as 0.5")
    return about


def cell_about(table: TextTable, row: int, what: str, name: str) -> tuple[str, str]:
    """The column that says it of an item, and what it says; empty if none does."""
    for column in (f"{what}:{name}", what):
        if column in table.columns and (text := str(table.cells[column][row])):
            return column, text
    return what, ""


def _line(table: TextTable, row: int) -> str:
    return table.where(row).removeprefix(f"{table.path}, ")


def _number(text: str) -> float:
    try:
        return float(text.replace("_", "x"))
    except ValueError:
        return np.nan
