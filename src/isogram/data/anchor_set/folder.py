"""The folder of an anchor set, read: `anchors.csv` or `anchors.parquet`, and the files that belong to it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from isogram.config import ModalityConfig
from isogram.data.anchor_set.layout import (
    ABOUT,
    CELLS,
    CONCEPT,
    FILE,
    ROWS,
    SUFFIXES,
    SYNTHETIC,
    Wrong,
    are_files,
    find,
    is_modality,
    own_tables,
)
from isogram.data.base import FloatArray, IntArray
from isogram.data.modalities import KINDS, kind_of
from isogram.data.modalities.base import Item
from isogram.data.sheets import Problems
from isogram.data.silos.tables import TextTable, number, read_table


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


def read_anchor_set(
    folder: Path, modalities: Mapping[str, ModalityConfig], table: TextTable | None = None
) -> AnchorTable:
    """The anchors of a run's modalities.

    Args:
        folder: with `anchors.csv` or `anchors.parquet`.
        modalities: column -> what stands in it; other columns are passed over. A modality of kind table has no column
            but a file `MODALITY.csv`, with a column `concept` and columns of numbers.
        table: of concepts, in the place of the folder's, as if it stood there.

    Raises:
        DataError: all that is wrong, by file and line: concepts that are empty or stand twice, absent columns and
            files, paths that lead out of the folder, a quality outside (0, 1], synthetic items of full quality.
        ConfigError: there is no such kind.
    """
    problems = Problems()
    table = open_table(folder, problems, table)
    if not table:
        problems.stop()
    found: dict[str, dict[int, Item]] = {}
    for name, config in modalities.items():
        kind = config.kind or name
        if kind in ROWS:
            found[name] = _rows(folder, name, config.columns, table, problems)
        elif table.has(name, problems):
            reads = KINDS[kind].suffixes if kind in CELLS else None
            found[name] = cell_items(table, name, problems, files=_is_of_files(kind), suffixes=reads)
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


def guess_modalities(folder: Path, table: TextTable | None = None) -> dict[str, ModalityConfig]:
    """Every modality that the folder holds: those of columns of files (`are_files`) by suffix, of other columns text.

    Where suffixes do not tell of which kind files are, it is called `FILE`, which nothing can encode.

    Args:
        folder: of the set.
        table: as in `read_anchor_set`.

    Raises:
        DataError: the table of concepts cannot be read; what is wrong inside is for `read_anchor_set` to tell.
    """
    problems = Problems()
    table = open_table(folder, problems, table)
    if not table:
        problems.stop()
    guessed = {}
    for name in filter(is_modality, table.columns):
        cells = [cell for cell in table.column(name) if cell]
        if not cells:
            continue  # to be filled
        kinds = {SUFFIXES.get(Path(cell).suffix.lower(), FILE) for cell in cells}
        suffixes = KINDS[name].suffixes if name in CELLS else None  # a modality that is called as its kind
        kind = "text" if not are_files(folder, cells, suffixes) else kinds.pop() if len(kinds) == 1 else FILE
        guessed[name] = ModalityConfig(kind=kind)
    return guessed | {path.stem: ModalityConfig(kind="table") for path in own_tables(folder)}


def open_table(folder: Path, problems: Problems, table: TextTable | None = None) -> TextTable:
    """The table of concepts, an empty one if it cannot be used: what is wrong with it as a whole was noted.

    table: one that has been read, in the place of the folder's.
    """
    before = len(problems)
    table = _find_table(folder, problems) if table is None else table
    if len(problems) > before or not table.has(CONCEPT, problems):
        return TextTable(folder / "anchors.csv")
    if "license" in table.columns:
        problems.append(f"{table.path}: column 'license'; it is called 'licence' here: rename it")
    held = {*filter(is_modality, table.columns), *(path.stem for path in own_tables(folder))}
    strangers = [name for name in table.columns if ":" in name and name.partition(":")[0] in ABOUT]
    strangers = [name for name in strangers if name.partition(":")[2] not in held]
    problems.some(f"{table.path}: columns about modalities that it does not have:", strangers, "rename or drop them")
    concepts_of(table, problems)
    return table


def _find_table(folder: Path, problems: Problems) -> TextTable:
    here = [path for path in (folder / "anchors.csv", folder / "anchors.parquet") if path.exists()]
    nothing = TextTable(folder / "anchors.csv")
    if not here:
        where = folder if folder.is_dir() else f"{folder}, which is no folder"
        problems.append(f"no anchors.csv or anchors.parquet in {where}; name the folder of an anchor set")
        return nothing
    if len(here) == 2:
        problems.append(f"{folder} has anchors.csv and anchors.parquet; remove the one that is not up to date")
        return nothing
    if isinstance(wrong := find(folder, here[0].name), Wrong):
        problems.append(f"{here[0]}: {wrong.what}; {wrong.remedy}")
        return nothing
    return read_table(here[0], problems)


class _About(NamedTuple):
    provenance: str
    quality: float
    licence: str


def concepts_of(table: TextTable, problems: Problems) -> list[str]:
    """Of each row, its concept; those that are empty or stand twice are noted."""
    concepts = table.column(CONCEPT)
    rows: dict[str, list[str]] = {}
    for row, name in enumerate(concepts):
        rows.setdefault(name, []).append(table.place(row))
    problems.some(f"{table.path}: column {CONCEPT!r} is empty:", rows.pop("", []), "name each concept")
    again = [
        f"{name!r} ({', '.join(places[:5])}{', ...' if len(places) > 5 else ''})"
        for name, places in rows.items()
        if len(places) > 1
    ]
    problems.some(f"{table.path}: concepts that stand twice:", again, "keep one row of each")
    return concepts


def cell_items(
    table: TextTable,
    name: str,
    problems: Problems,
    *,
    files: bool = False,
    suffixes: Collection[str] | None = None,
) -> dict[int, Item]:
    """Row -> its item of a column of `files`, or of what its cells look like: texts may stand in files.

    suffixes: for `are_files`.
    """
    folder, cells = table.path.parent, table.column(name)
    files = files or are_files(folder, cells, suffixes)
    found: dict[int, Item] = {}
    wrong: dict[Wrong, list[str]] = {}
    for row, cell in enumerate(cells):
        where = f"{table.where(row)}, column {name!r}"
        if not cell:
            continue
        if not files:
            found[row] = Item(where, text=cell.replace("\r\n", "\n").replace("\r", "\n"))
            continue
        path = find(folder, cell)
        if isinstance(path, Wrong):
            wrong.setdefault(path, []).append(f"{cell[:100]!r} ({table.place(row)})")
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
    path = find(folder, f"{name}.csv")
    if isinstance(path, Wrong):
        its = folder / f"{name}.csv"
        problems.append(
            f"{its}: {path.what}; {path.remedy}"
            if its.is_symlink()
            else f"no file {its}; a modality of kind table has one, with a column {CONCEPT!r}"
        )
        return {}
    if name in anchors.columns:
        problems.append(f"{path} and a column of {anchors.path} are both called {name!r}; rename one")
    before = len(problems)
    table = read_table(path, problems)
    if len(problems) > before:
        return {}
    wanted = columns or [column for column in table.columns if column != CONCEPT]
    if not wanted:
        problems.append(f"{table.path} has no columns of numbers")
    wanted = [column for column in wanted if table.has(column, problems)]
    if not table.has(CONCEPT, problems):
        return {}
    mine = concepts_of(table, problems)
    known = {concept: row for row, concept in enumerate(anchors.column(CONCEPT))}
    strangers = [
        f"{concept!r} ({table.place(row)})" for row, concept in enumerate(mine) if concept and concept not in known
    ]
    problems.some(f"{table.path}: concepts that {anchors.path.name} does not have:", strangers, "add or drop them")
    numbers, bad = {column: table.column(column) for column in wanted}, []
    found: dict[int, Item] = {}
    for row, concept in enumerate(mine):
        values = tuple((column, number(cells[row])) for column, cells in numbers.items())
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
        provenance, quality, licence = (_said(table, row, what, name) for what in ABOUT)
        weight = number(quality[1] or "1")
        if not 0 < weight <= 1:
            outside[f"{table.where(row)}, column {quality[0]!r}: {quality[1]}"] = None
        elif weight == 1 and provenance[1].lower().startswith(SYNTHETIC):
            full.append(f"{name!r} ({table.place(row)})")
        about[name][row] = _About(provenance[1], weight, licence[1])
    problems.some("quality that is not above 0 and at most 1:", list(outside), "correct it, or leave the item out")
    problems.some(f"{table.path}: synthetic items of quality 1:", full, "give them a lower one, such as 0.5")
    return about


def _said(table: TextTable, row: int, what: str, name: str) -> tuple[str, str]:
    """The column that says it of an item, and what it says; empty if none does."""
    for column in (f"{what}:{name}", what):
        if column in table.columns and (text := str(table.cells[column][row])):
            return column, text
    return what, ""
