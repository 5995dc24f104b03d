"""Cells of a table as items: the files they name, themselves, or rows of numbers; and those that cannot be any."""

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from isogram.config import ModalityConfig
from isogram.data.modalities.base import Item, Kind
from isogram.data.sheets import Problems, excerpt
from isogram.data.silos.tables import TextTable, number

WRITTEN = ("text", "sequence")
"""Kinds whose items stand in a table's cells, though files of them may be read, too."""


def composed(text: str) -> str:
    """The same letters as one character each, however a keyboard or file system wrote them: Unicode's NFC."""
    return unicodedata.normalize("NFC", text)


def are_paths(cells: Iterable[str], kind: Kind) -> bool:
    """Whether cells, as far as they are filled in, end as the files of a kind do."""
    ends = tuple(kind.suffixes)
    return all(cell.lower().endswith(ends) for cell in cells if cell)


def items_of(table: TextTable, column: str, kind: Kind, bad: list[str]) -> dict[int, Item]:
    """Row -> its item: the file that a cell names, or the cell itself; of other rows a line in `bad`."""
    cells, folder = table.column(column), table.path.parent
    files = bool(kind.suffixes) and (kind.name not in WRITTEN or are_paths(cells, kind))
    items = {}
    for row, cell in enumerate(cells):
        if not cell:
            bad.append(f"{table.where(row)}, column {column!r}: empty; fill it in, or drop the row")
        elif not files:
            items[row] = Item(table.where(row), text=cell.replace("\r\n", "\n").replace("\r", "\n"))
        elif wrong := _no_file(folder / cell, cell):
            bad.append(f"{table.where(row)}, column {column!r}: {wrong}")
        else:
            items[row] = Item(f"{folder / cell} ({table.where(row)})", path=folder / cell)
    return items


def _no_file(path: Path, cell: str) -> str:
    try:
        if path.is_file():
            return ""
    except (OSError, ValueError):  # too long for a name
        pass
    hint = "write / between folders" if "\\" in cell else "paths count from the table's folder"
    return f"no file {excerpt(cell)!r}; {hint}"


def _shown(cell: str) -> str:
    return repr(excerpt(cell))[1:-1] or "empty"


def numbers_of(
    table: TextTable, rest: Sequence[str], config: ModalityConfig, problems: Problems
) -> Mapping[str, list[float]]:
    """Column -> its numbers, NaN where a cell is none. Without `columns`, those that hold a number."""
    if config.columns:
        there = [name for name in config.columns if table.has(name, problems, "columns")]
        return {name: [number(cell) for cell in table.cells[name]] for name in there}
    columns = {name: [number(cell) for cell in table.cells[name]] for name in rest}
    numbers = {name: values for name, values in columns.items() if any(map(math.isfinite, values))}
    counted = [
        name
        for name, values in numbers.items()
        if len(values) > 3 and values in ([*range(len(values))], [*range(1, len(values) + 1)])
    ]
    problems.some(
        f"{table.path}: columns that only count the lines:", counted, "name them as id, or leave them out: no features"
    )
    if not numbers:
        problems.append(f"{table.path}: no column of numbers; encode them as numbers, or name another kind")
    return numbers


def rows_of(table: TextTable, columns: Mapping[str, list[float]], bad: list[str]) -> dict[int, Item]:
    """Row -> its numbers; rows that lack one are a line each in `bad`."""
    items = {}
    for row in range(len(table)) if columns else ():
        values = tuple((name, numbers[row]) for name, numbers in columns.items())
        wrong = [f"{name!r}: {_shown(table.cells[name][row])}" for name, value in values if not math.isfinite(value)]
        if wrong:
            bad.append(
                f"{table.where(row)}, no finite number in column {', '.join(wrong[:3])}; impute it or drop the row, "
                "decimals are written with a point"
            )
        else:
            items[row] = Item(table.where(row), values=values)
    return items
