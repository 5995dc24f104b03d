"""What one node holds, found but not read: its items with ids, classes and groups. docs/your-data.md."""

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path, PurePosixPath

from isogram.config import ModalityConfig, SiloNode
from isogram.data.modalities import kind_of
from isogram.data.modalities.base import Item, Kind
from isogram.data.modalities.fasta import SUFFIXES as FASTA
from isogram.data.modalities.fasta import read_records
from isogram.data.sheets import Problems, excerpt, few, nearest, not_utf8
from isogram.data.silos.cells import WRITTEN, are_paths, composed, items_of, numbers_of, rows_of
from isogram.data.silos.tables import TextTable, is_table, number, read_table

_ID = "an id names one row"

FOLDER = "folder"
"""What `label` and `group` are called where subfolders say them."""

_LOOKED_AT = 200

_PLACE = re.compile(r"\w+ \d+")
"""Of a row, such as "line 7"."""


@dataclass
class Manifest:
    """Items [n] of a node, and what is known of each.

    ids: distinct; of a column, or else file names or lines, and then not `named`.
    labels: "" where unknown; None where nothing says them. groups: "" for a row that stands alone.
    names: by which rows of other modalities of the site are of the same thing: an id, a file's name, a group.
    columns: what is read -> the column that it is read from; unused: the other columns. bad: a line for each row that
    cannot be an item, with its remedy.
    """

    items: list[Item] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    labels: list[str] | None = None
    groups: list[str] = field(default_factory=list)
    names: list[tuple[str, ...]] = field(default_factory=list)
    named: bool = False
    columns: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Rows, also those that are no items."""
        return len(self.items) + len(self.bad)


def read_manifest(
    node: SiloNode,
    config: ModalityConfig,
    problems: Problems,
    table: TextTable | None = None,
    *,
    private: bool = False,
) -> Manifest:
    """The items of a node; an empty list if what is wrong with all of them was noted.

    Args:
        node: of which site and modality, and where it is.
        config: of its modality; for tables with `columns`, all numbers but for id, label and group if that is empty.
        problems: what is wrong with the whole, such as an absent column. Single rows that cannot be items are `bad`.
        table: the node's, if it has been read already, with `skip`.
        private: no row may decide whether another is used (differential privacy), so an id that stands twice is a
            problem of the whole; else rows after the first that has it are `bad`.

    Raises:
        ConfigError: there is no such kind; or a library is missing that the kind or Parquet needs.
    """
    kind, before = kind_of(config), len(problems)
    try:
        found = _found(node, kind, config, problems, table)
    except OSError as error:
        problems.append(
            f"node {node.name!r}: cannot read {error.filename or node.data} ({error.strerror or error}); get "
            "permission to read it, or move it elsewhere"
        )
        return Manifest()
    if found.named:
        _keep_first(found, node.data, problems, private=private)
    if not found.items and not found.bad and len(problems) == before:
        problems.append(f"node {node.name!r}: {node.data} holds no items; fill it in")
    return found


def _keep_first(found: Manifest, path: Path, problems: Problems, *, private: bool) -> None:
    """Takes rows out whose id an earlier one has; or that is a problem."""
    first: dict[str, int] = {}
    twice = {row: before for row, name in enumerate(found.ids) if (before := first.setdefault(name, row)) != row}
    lines = []
    for row, before in twice.items():
        place = _PLACE.match(found.items[before].where.rpartition(f"{path}, ")[2])
        where = f" ({place[0]})" if place else ""
        lines.append(f"{found.items[row].where}: its id {excerpt(found.ids[row])!r} is that of an earlier row{where}")
    remedy = _ID + ("" if path.suffix.lower() in FASTA else "; rows of one patient share a `group`")
    if private or not lines:
        problems.some("ids that stand twice:", lines, remedy)
        return
    found.bad += [f"{line}; {remedy}" for line in lines]
    keep = [row not in twice for row in range(len(found.ids))]
    found.items, found.ids = list(compress(found.items, keep)), list(compress(found.ids, keep))
    found.groups, found.names = list(compress(found.groups, keep)), list(compress(found.names, keep))
    found.labels = None if found.labels is None else list(compress(found.labels, keep))


def one_group(manifest: Manifest) -> str:
    """What it means that all rows are of one group, and what to do; "" where they are of several, or of none."""
    groups = set(manifest.groups)
    if len(manifest.items) < 2 or len(groups) > 1 or not all(groups):
        return ""
    return (
        f"all rows are of one group, {excerpt(groups.pop())!r} (group = {manifest.columns['group']!r}); groups stay "
        "together, so no row can be held out: name a column of patients or the like, or leave group out"
    )


def _found(node: SiloNode, kind: Kind, config: ModalityConfig, problems: Problems, table: TextTable | None) -> Manifest:
    if node.data.is_dir():
        return _of_folder(node, kind, problems)
    if not node.data.exists():
        problems.append(f"node {node.name!r}: no file or folder {node.data}; {_nearest_path(node.data)}")
    elif not node.data.is_file():
        problems.append(f"node {node.name!r}: {node.data} is a device or pipe; save it as a file, and name that")
    elif node.data.suffix.lower() in FASTA:
        return _of_fasta(node, kind, problems)
    elif is_table(node.data):
        table = read_table(node.data, problems, skip=True) if table is None else table
        return _of_table(table, node, kind, config, problems)
    else:
        reads = "the folder that holds it, or a table of paths" if kind.suffixes else "a CSV, TSV or Parquet"
        problems.append(f"node {node.name!r}: {node.data} is no folder or table; name {reads}")
    return Manifest()


def _nearest_path(path: Path) -> str:
    there = next(folder for folder in path.parents if folder.is_dir())
    lost, *rest = path.relative_to(there).parts
    near = nearest(lost, sorted(path.name for path in there.iterdir()))
    found = there.joinpath(near, *rest)
    return f"did you mean {found if found.exists() else there / near}?" if near else f"correct its path below {there}"


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
    paths = [PurePosixPath(composed(name)) for name in found.ids]
    depth = 0
    for key in ("label", "group"):  # counted from the top: of a folder that has both, groups are inside of classes
        if getattr(node, key) == FOLDER:
            found.columns[key] = FOLDER
            said = [path.parts[depth] if len(path.parts) > depth + 1 else "" for path in paths]
            if key == "label":
                found.labels, depth = said, 1
            else:
                found.groups = said
            if found.items and not any(said):
                where = (
                    "no subfolders in its subfolders, which are classes"
                    if key == "group" and depth
                    else "no subfolders"
                )
                problems.append(f'node {node.name!r}: {key} = "{FOLDER}", and {root} has {where}; leave it out')
                found.labels = None
    found.groups = found.groups or [""] * len(paths)
    called = [path.with_suffix("") for path in paths]
    # Another modality of the site may know nothing of this one's classes; but 1.png in each class is one name of many.
    inside = [PurePosixPath(*path.parts[-max(1, len(path.parts) - 1) :]) for path in called]
    inside = inside if node.label == FOLDER and len(set(inside)) == len(set(called)) else called
    found.names = [
        tuple(dict.fromkeys([name.as_posix(), within.as_posix(), *([group] if group else [])]))
        for name, within, group in zip(called, inside, found.groups, strict=True)
    ]
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
    """Files below a folder, those that are hidden left out, in an order that no file system decides."""

    def refuse(error: OSError) -> None:
        raise error

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
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for at, name, letters in read_records(file):
            where = f"{path}, line {at}"
            if name is None and (broken := not_utf8(letters)):
                problems.append(f"{where}: {broken}; save it as FASTA in UTF-8")
                return found
            if name is None:
                problems.append(f"{where}: {letters[:20]!r} before the first record; it begins with >")
                return found
            if broken := not_utf8(name) or not_utf8(letters):
                found.bad.append(f"{where}: in this record {broken}; save it as FASTA in UTF-8, or drop it")
            elif letters:
                found.items.append(Item(where, text=letters))
                found.ids.append(name)
            else:
                found.bad.append(f"{where}: record {name!r} is empty; fill it in or drop it")
    found.groups, found.names = [""] * len(found.items), [(name,) for name in found.ids]
    return found


def _of_table(table: TextTable, node: SiloNode, kind: Kind, config: ModalityConfig, problems: Problems) -> Manifest:
    before = len(problems)
    if not table:
        return Manifest()
    about = {key: getattr(node, key) for key in ("id", "label", "group") if getattr(node, key)}
    absent = [name for key, name in about.items() if not _has(table, node, key, problems)]
    rest = [name for name in table.columns if name not in about.values()]
    found = Manifest(columns=dict(about), named="id" in about, bad=list(table.bad))
    if kind.name == "table":
        # With a column misspelt, the one that is meant would be taken for an item's.
        numbers = numbers_of(table, rest, config, problems) if config.columns or not absent else {}
        found.columns, read = {"numbers": ", ".join(numbers)} | found.columns, [*numbers]
        items = rows_of(table, numbers, found.bad)
    else:
        read = [_column(node, kind, table, rest, problems) if node.column or not absent else ""]
        found.columns = {"items": read[0]} | found.columns
        items = items_of(table, read[0], kind, found.bad) if read[0] else {}
        if read[0] and not items:
            _check_paths(table, node, read[0], kind, problems)
    found.unused = [name for name in rest if name not in read]
    if len(problems) > before:
        return Manifest(columns=found.columns, unused=found.unused)
    said = {key: [composed(cell) for cell in table.column(name)] for key, name in about.items()}
    ids = said.get("id") or [table.place(row) for row in range(len(table))]
    for row in [row for row in items if not ids[row]]:
        found.bad.append(f"{table.where(row)}, column {node.id!r}: no id; give each row its own")
        del items[row]
    found.items, found.ids = list(items.values()), [ids[row] for row in items]
    if "label" in said:
        found.labels = [said["label"][row] for row in items]
    found.groups = [said["group"][row] for row in items] if "group" in said else [""] * len(items)
    found.names = [(name,) if name else () for name in (found.ids if found.named else found.groups)]
    return found


def _has(table: TextTable, node: SiloNode, key: str, problems: Problems) -> bool:
    """Whether the table has the column that a setting names; if not, that is noted."""
    name = getattr(node, key)
    if name != FOLDER or name in table.columns or key == "id":
        return table.has(name, problems, key)
    problems.append(
        f'node {node.name!r}: {key} = "{FOLDER}" is for folders, and {table.path} is a table; name its column '
        f"(there are {few(table.columns)}), or leave {key} out"
    )
    return False


def _check_paths(table: TextTable, node: SiloNode, column: str, kind: Kind, problems: Problems) -> None:
    """Notes a column in which no cell looks like a file's name, though the kind's items are files."""
    told = [cell for cell in table.column(column) if cell]
    if kind.suffixes and kind.name not in WRITTEN and told and not any(are_paths([cell], kind) for cell in told):
        problems.append(
            f"node {node.name!r}: {table.path}, column {column!r}: no cell is the path of a file of kind {kind.name} "
            f"({_list(kind.suffixes)}); name a column of paths by column, or another kind of {node.modality!r}"
        )


def _column(node: SiloNode, kind: Kind, table: TextTable, rest: Sequence[str], problems: Problems) -> str:
    """The column of items; "" if it is not there, or could be any of several."""
    if node.column:
        return node.column if table.has(node.column, problems, "column") else ""
    if node.modality in rest:
        return node.modality
    fitting = [name for name in rest if _fits(table.cells[name][:_LOOKED_AT].tolist(), kind)]
    if len(fitting) == 1:
        return fitting[0]
    what = "text" if kind.name in WRITTEN or not kind.suffixes else f"paths of files ({_list(kind.suffixes)})"
    which = f"columns {few(fitting)} all may be" if fitting else f"none of the columns {few(rest)} has"
    problems.append(f"node {node.name!r}: {table.path}: {which} its {what}; say it by column = NAME (--column NAME)")
    return ""


def _fits(cells: Sequence[str], kind: Kind) -> bool:
    told = [cell for cell in cells if cell]
    if kind.name in WRITTEN or not kind.suffixes:
        return any(not math.isfinite(number(cell)) for cell in told)
    return bool(told) and are_paths(told, kind)


def _list(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(suffixes))
