"""What stands where in an anchor set: names of columns, and which files belong to it. docs/anchor-sets.md.

Such folders come from other organisations: nothing that a table says makes isogram read a file outside of its folder.
"""

import csv
import math
import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from isogram.data.modalities import KINDS
from isogram.data.silos.tables import number
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


def is_modality(column: str) -> bool:
    """Whether a column of the table of concepts holds items."""
    return column != CONCEPT and column.partition(":")[0] not in ABOUT


def are_files(folder: Path, cells: Iterable[str], suffixes: Collection[str] | None = None) -> bool:
    """Whether a column is of files: more than half of its cells end in a suffix (".png"), or are paths of files there.

    So that neither a text that happens to be the name of a file, nor a path without one, makes all others look wrong.

    Args:
        folder: of the set.
        cells: of the column; empty ones do not count.
        suffixes: that the column's kind reads, in lower case; None if that is not known: those of all kinds, or the one
            that all cells have, if they are paths. Other endings are no suffixes: "node.js" is a text.
    """
    told = [cell for cell in cells if cell]
    found = [re.search(r"\.[A-Za-z]\w{0,9}$", cell) for cell in told]
    ends = ["" if end is None else end[0].lower() for end in found]
    there = [isinstance(find(folder, cell), Path) for cell in told]
    if suffixes is None:
        paths = any(there) or all("/" in cell and not re.search(r"\s", cell) for cell in told)
        suffixes = {*SUFFIXES, *(ends if paths and len(set(ends)) == 1 else ())} - {""}
    return 2 * sum(end in suffixes or file for end, file in zip(ends, there, strict=True)) > len(told)


def own_tables(folder: Path) -> list[Path]:
    """Files `MODALITY.csv` beside the table of concepts: with a column `concept`, and a number in another column.

    So is a link that leads out of the folder, which is not looked at, or what cannot be: who reads the set is told.
    """
    root, found = folder.resolve(), []
    for path in sorted(folder.glob("*.csv")):
        leads_out = path.is_file() and not path.resolve().is_relative_to(root)
        if path.name != "anchors.csv" and (leads_out or (path.is_file() and _may_hold_numbers(path))):
            found.append(path)
    return found


def _may_hold_numbers(path: Path) -> bool:
    try:
        return _holds_numbers(path)
    except OSError:
        return True


def _holds_numbers(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = file.readline(1 << 20)
        try:
            for separator in ",;\t|":  # a wrong one is told when the table is read
                names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
                if CONCEPT in names:
                    place, rows = names.index(CONCEPT), csv.reader(file, delimiter=separator)
                    return any(math.isfinite(number(cell)) for row in rows for cell in row[:place] + row[place + 1 :])
        except csv.Error:
            return CONCEPT in header
    return False


class Wrong(NamedTuple):
    """Why a cell names no file that may be read."""

    what: str
    remedy: str


def find(folder: Path, cell: str) -> Path | Wrong:
    """The file in the folder that a cell names, or what is wrong with it."""
    path, windows = folder / cell, PureWindowsPath(cell)
    if PurePosixPath(cell).is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        return Wrong("leads out of the folder", "put the file into it, and name it from there")
    if "\\" in cell:
        return Wrong("a path with \\", "write / between folders")
    try:
        if not path.is_file():
            return Wrong("no such file in the folder", "add it, or leave the cell empty")
        if not path.resolve().is_relative_to(folder.resolve()):
            return Wrong("a link that leads out of the folder", "put the file itself there")
    except (OSError, RuntimeError, ValueError):  # too long, a link in a circle, a zero byte
        return Wrong("no name of a file", "correct it, or say by a configuration of which kind the column is")
    return path


def inside(folder: Path, cell: str) -> Path:
    """The file in the folder that a cell names.

    Raises:
        DataError: it is none, or outside of the folder.
    """
    found = find(folder, cell)
    if isinstance(found, Wrong):
        raise DataError(f"{cell[:200]!r}: {found.what}; {found.remedy}")
    return found
