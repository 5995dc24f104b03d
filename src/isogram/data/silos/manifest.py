"""What one node holds, found but not read: its items with ids, classes and groups. docs/your-data.md."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from isogram.config import ModalityConfig, SiloNode
from isogram.data.modalities import kind_of
from isogram.data.modalities.base import Item, Kind
from isogram.data.sheets import Problems, few
from isogram.data.silos.tables import TextTable, is_table, read_table
from isogram.errors import DataError

FASTA = frozenset({".fasta", ".fa", ".fna", ".faa", ".ffn"})
FOLDER = "folder"
"""What `label` and `group` are called where subfolders say them."""

_CELLS = ("text", "sequence")
"""Kinds whose items stand in a table's cells, though files of them may be read, too."""

_LOOKED_AT = 200


@dataclass
class Manifest:
    """Items [n] of a node, and what is known of each.

    ids: distinct; of a column, or else file names or lines, and then not `named`.
    labels: "" where unknown; None where nothing says them. groups: "" for a row that stands alone.
    columns: what is read -> the column that it is read from; unused: the other columns. bad: a line for each row that
    cannot be an item, with its remedy.
    """

    items: list[Item] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    labels: list[str] | None = None
    groups: list[str] = field(default_factory=list)
    named: bool = False
    columns: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Rows, also those that are no items."""
        return len(self.items) + len(self.bad)


def read_manifest(node: SiloNode, config: ModalityConfig, problems: Problems) -> Manifest:
    """The items of a node; an empty list if what is wrong with all of them was noted.

    Args:
        node: of which site and modality, and where it is.
        config: of its modality; for tables with `columns`, all numbers but for id, label and group if that is empty.
        problems: what is wrong with the whole, such as an absent column. Single rows that cannot be items are `bad`.

    Raises:
        ConfigError: there is no such kind; or a library is missing that the kind or Parquet needs.
    """
    kind, before = kind_of(config), len(problems)
    if node.data.is_dir():
        found = _of_folder(node, kind, problems)
    elif not node.data.exists():
        problems.append(f"node {node.name!r}: no file or folder {node.data}; correct silos.nodes.data")
        return Manifest()
    elif node.data.suffix.lower() in FASTA:
        found = _of_fasta(node, kind, problems)
    elif is_table(node.data):
        found = _of_table(node, kind, config, problems)
    else:
        reads = "the folder that holds it, or a table of paths" if kind.suffixes else "a CSV, TSV or Parquet"
        problems.append(f"node {node.name!r}: {node.data} is no folder or table; name {reads}")
        return Manifest()
    if found.named:
        again = [repr(name) for name, times in Counter(found.ids).items() if times > 1]
        problems.some(
            f"{node.data}: ids that stand twice:", again, "an id names one row; rows of one patient share a `group`"
        )
    if not found.items and not found.bad and len(problems) == before:
        problems.append(f"node {node.name!r}: {node.data} holds no items; fill it in")
    return found


def _of_folder(node: SiloNode, kind: Kind, problems: Problems) -> Manifest:
    """Every file of the kind, however deep, in the order of their paths."""
    root = node.data
    if not kind.suffixes:
        where = "a table of numbers" if kind.name == "table" else "a CSV, TSV or Parquet with a column of them"
        problems.append(
            f"node {node.name!r}: {root} is a folder, and items of kind {kind.name} are no files; name {where}"
        )
        return Manifest()
    for key in ("column", "id"):
        if getattr(node, key):
            problems.append(f"node {node.name!r}: {root} is a folder without columns; leave {key} out, or name a table")
    for key in ("label", "group"):
        if getattr(node, key) not in ("", FOLDER):
            problems.append(
                f"node {node.name!r}: {key} = {getattr(node, key)!r}, and {root} is a folder without columns; use "
                f'"{FOLDER}", for its subfolders, or name a table with a column of paths'
            )
    found, passed = Manifest(), list[Path]()
    for path in _files(root):
        if path.suffix.lower() not in kind.suffixes:
            passed.append(path)
            continue
        found.items.append(Item(str(path), path=path))
        found.ids.append(path.relative_to(root).as_posix())
    folders = [Path(name).parent for name in found.ids]
    if node.label == FOLDER:
        found.labels = [folder.parts[0] if folder.parts else "" for folder in folders]
    found.groups = [folder.as_posix() if node.group == FOLDER and folder.parts else "" for folder in folders]
    for key in ("label", "group"):
        if getattr(node, key) == FOLDER:
            found.columns[key] = FOLDER
            if found.items and not any(folder.parts for folder in folders):
                problems.append(f'node {node.name!r}: {key} = "{FOLDER}", and {root} has no subfolders; leave it out')
    if passed:
        counts = Counter(sorted(path.suffix.lower() or "no suffix" for path in passed)).most_common(5)
        found.notes.append(
            f"{root}: {len(passed)} other files passed over ({', '.join(f'{n} {suffix}' for suffix, n in counts)})"
        )
    if not found.items:
        tables = [path for path in passed if is_table(path)]
        meant = f"; did you mean the table {tables[0]}?" if len(tables) == 1 else f"; it reads {_list(kind.suffixes)}"
        problems.append(f"node {node.name!r}: {root} has no file of kind {kind.name} among {len(passed)}{meant}")
    return found


def _files(root: Path) -> list[Path]:
    """Files below a folder, those that are hidden left out, in an order that no file system decides.

    Raises:
        DataError: a folder below cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); get permission, or move it elsewhere")

    found = []
    for folder, below, names in os.walk(root, onerror=refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _of_fasta(node: SiloNode, kind: Kind, problems: Problems) -> Manifest:
    """Each record is an item; its id is the first word after ">"."""
    path, found, before = node.data, Manifest(named=True), len(problems)
    if kind.name != "sequence":
        problems.append(f"node {node.name!r}: {path} is FASTA, which holds sequences, not kind {kind.name}")
    given = [key for key in ("column", "id", "label", "group") if getattr(node, key)]
    if given:
        problems.append(
            f"node {node.name!r}: {path} is FASTA, which has no columns; leave {', '.join(given)} out, or name a table "
            "with a column of sequences"
        )
    if len(problems) > before:
        return found
    start, parts = 0, list[str]()

    def close() -> None:
        if start and not any(parts):
            found.bad.append(f"{path}, line {start}: record {found.ids.pop()!r} is empty; fill it in or drop it")
        elif start:
            found.items.append(Item(f"{path}, line {start}", text="".join(parts)))
        parts.clear()

    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                text = line.strip()
                if text.startswith(";"):  # a comment
                    continue
                if text.startswith(">"):
                    close()
                    start = number
                    found.ids.append((text[1:].split() or [f"line {number}"])[0])
                elif text and not start:
                    problems.append(f"{path}, line {number}: {text[:20]!r} before the first record; it begins with >")
                    return found
                else:
                    parts.append(text)
        close()
    except UnicodeDecodeError:
        problems.append(f"{path}: no text after line {number}; save it as FASTA in UTF-8")
    found.groups = [""] * len(found.items)
    return found


def _of_table(node: SiloNode, kind: Kind, config: ModalityConfig, problems: Problems) -> Manifest:
    table, before = read_table(node.data, problems), len(problems)
    if not table:
        return Manifest()
    about = {key: getattr(node, key) for key in ("id", "label", "group") if getattr(node, key)}
    for key, name in about.items():
        table.has(name, problems, key)
    rest = [name for name in table.columns if name not in about.values()]
    found = Manifest(columns=dict(about), named="id" in about)
    if kind.name == "table":
        numbers = _numeric(table, rest, config, problems)
        found.columns, read = {"numbers": ", ".join(numbers)} | found.columns, [*numbers]
        items = _rows(table, numbers, found)
    else:
        read = [_column(node, kind, table, rest, problems)]
        found.columns = {"items": read[0]} | found.columns
        items = _cells(table, read[0], kind, found) if read[0] else {}
    found.unused = [name for name in rest if name not in read]
    if len(problems) > before:
        return Manifest(columns=found.columns, unused=found.unused)
    ids = table.column(node.id) if node.id else [table.place(row) for row in range(len(table))]
    for row in [row for row in items if not ids[row]]:
        found.bad.append(f"{table.where(row)}, column {node.id!r}: no id; give each row its own")
        del items[row]
    found.items, found.ids = list(items.values()), [ids[row] for row in items]
    for key in ("label", "group"):
        cells = table.column(about[key]) if key in about else None
        of_rows = None if cells is None else [cells[row] for row in items]
        if key == "label":
            found.labels = of_rows
        else:
            found.groups = of_rows or [""] * len(items)
    return found


def _column(node: SiloNode, kind: Kind, table: TextTable, rest: Sequence[str], problems: Problems) -> str:
    """The column of items; "" if it is not there, or could be any of several."""
    if node.column:
        return node.column if table.has(node.column, problems, "column") else ""
    if node.modality in rest:
        return node.modality
    fitting = [name for name in rest if _fits(table.cells[name][:_LOOKED_AT].tolist(), kind)]
    if len(fitting) == 1:
        return fitting[0]
    what = "text" if kind.name in _CELLS or not kind.suffixes else f"paths of files ({_list(kind.suffixes)})"
    which = f"columns {few(fitting)} all may be" if fitting else f"none of the columns {few(rest)} has"
    problems.append(f"node {node.name!r}: {table.path}: {which} its {what}; say it by column = NAME")
    return ""


def _fits(cells: Sequence[str], kind: Kind) -> bool:
    told = [cell for cell in cells if cell]
    if kind.name in _CELLS or not kind.suffixes:
        return any(not math.isfinite(number(cell)) for cell in told)
    return bool(told) and _are_paths(told, kind)


def _are_paths(cells: Iterable[str], kind: Kind) -> bool:
    ends = tuple(kind.suffixes)
    return all(cell.lower().endswith(ends) for cell in cells if cell)


def _cells(table: TextTable, column: str, kind: Kind, found: Manifest) -> dict[int, Item]:
    """Row -> its item: the file that a cell names, or the cell itself."""
    cells, folder = table.column(column), table.path.parent
    files = bool(kind.suffixes) and (kind.name not in _CELLS or _are_paths(cells, kind))
    items = {}
    for row, cell in enumerate(cells):
        if not cell:
            found.bad.append(f"{table.where(row)}, column {column!r}: empty; fill it in, or drop the row")
        elif not files:
            items[row] = Item(table.where(row), text=cell.replace("\r\n", "\n").replace("\r", "\n"))
        elif wrong := _no_file(folder / cell, cell):
            found.bad.append(f"{table.where(row)}, column {column!r}: {wrong}")
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
    return f"no file {cell[:200]!r}; {hint}"


def _numeric(
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


def _rows(table: TextTable, columns: Mapping[str, list[float]], found: Manifest) -> dict[int, Item]:
    """Row -> its numbers; rows that lack one are noted, a line each."""
    items = {}
    for row in range(len(table)) if columns else ():
        values = tuple((name, numbers[row]) for name, numbers in columns.items())
        wrong = [f"{name!r}: {table.cells[name][row] or 'empty'}" for name, value in values if not math.isfinite(value)]
        if wrong:
            found.bad.append(
                f"{table.where(row)}, no finite number in column {', '.join(wrong[:3])}; impute it or drop the row, "
                "decimals are written with a point"
            )
        else:
            items[row] = Item(table.where(row), values=values)
    return items


def number(cell: str) -> float:
    """A cell's number, NaN if it is none; 2024_01, which Python takes for one, is none."""
    try:
        return float(cell.replace("_", "x"))
    except ValueError:
        return math.nan


def _list(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(suffixes))
