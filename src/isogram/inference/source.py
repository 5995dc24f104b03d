"""What a model is used on: items in hand, or a folder, table or file of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from isogram.config import SiloNode
from isogram.data.base import FloatArray
from isogram.data.modalities import kind_of
from isogram.data.modalities.base import Item
from isogram.data.modalities.fasta import SUFFIXES as FASTA
from isogram.data.sheets import ID, Problems, read_sheet
from isogram.data.silos.manifest import Manifest, read_manifest
from isogram.data.silos.tables import is_table, read_table
from isogram.errors import DataError

if TYPE_CHECKING:
    from isogram.inference.model import Model

WRITTEN = ("text", "sequence")
"""Kinds of which a string is the content; of others it is a path."""


@dataclass(frozen=True)
class Source:
    """Items [n] of one node, with ids and labels ("" if unknown).

    tokens: of a table of a run on files, whose modality has no encoder; else None.
    bad: a line for each row that is no item, with its remedy. notes: what else to know, as of files of other kinds.
    """

    items: tuple[Item, ...]
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    tokens: FloatArray | None = None
    bad: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, manifest: Manifest) -> "Source":
        """What a folder or table of a node holds, and what of it is no item."""
        labels = manifest.labels or [""] * len(manifest.items)
        bad, notes = tuple(manifest.bad), tuple(manifest.notes)
        return cls(tuple(manifest.items), tuple(manifest.ids), tuple(labels), bad=bad, notes=notes)

    def __len__(self) -> int:
        return len(self.items)

    def kept(self, rows: Sequence[int], bad: Sequence[str] = (), notes: Sequence[str] = ()) -> "Source":
        """These rows of it, a line for each that was left out, and notes of these."""
        return Source(
            tuple(self.items[i] for i in rows),
            tuple(self.ids[i] for i in rows),
            tuple(self.labels[i] for i in rows),
            None if self.tokens is None else self.tokens[list(rows)],
            (*self.bad, *bad),
            (*self.notes, *notes),
        )

    def only(self, row: str) -> "Source":
        """The item with this id; the only one there is if it is "".

        Raises:
            DataError: there is none, or more than one.
        """
        if row and row not in self.ids:
            lost = f"; and {len(self.bad)} that cannot be read, the first: {self.bad[0]}" if self.bad else ""
            raise DataError(f"no item has the id {row!r}; there are {', '.join(self.ids[:5])}{lost}")
        if not row and len(self) + len(self.bad) != 1:
            raise DataError(f"{len(self) + len(self.bad)} items where one is meant; say which by --row ID")
        return replace(self.kept([self.ids.index(row) if row else 0]), bad=())


def as_items(items: Sequence[Any], kind: str) -> list[Item]:
    """What somebody gave for items of a kind, as `Item`s.

    Raises:
        DataError: something that is none, or one string where a list is meant.
    """
    if isinstance(items, str | bytes | Path | Mapping) or not isinstance(items, Iterable):
        raise DataError(f"items are one {type(items).__name__}; give a list, also of one")
    return [_as_item(one, i, kind in WRITTEN) for i, one in enumerate(items, 1)]


def _as_item(one: Any, number: int, written: bool) -> Item:
    if isinstance(one, Item):
        return one
    if isinstance(one, Path) or (isinstance(one, str) and not written):
        return Item(str(one), path=Path(one))
    if isinstance(one, str):
        return Item(f"item {number}", text=one)
    if isinstance(one, Mapping):
        return Item(f"item {number}", values=tuple((str(name), _number(number, name, v)) for name, v in one.items()))
    raise DataError(f"item {number} is {type(one).__name__}; give a path, text, or a mapping from columns to numbers")


def _number(item: int, column: Any, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"item {item}, column {str(column)!r}: {value!r:.60} is no number; encode it as one") from error


def read_source(
    model: "Model",
    node: str,
    data: Path,
    *,
    column: str = "",
    id: str = "",
    label: str = "",
    one: bool = False,
    like: Mapping[str, SiloNode] = MappingProxyType({}),
) -> Source:
    """The items of a folder or table as `silos.nodes.data` may name, or of one file of the modality's kind.

    Of a modality without encoder: the rows of a CSV with the columns of the node's own table, see `data.files`.

    Args:
        model: that is to see them.
        node: of the model, or a modality that one node alone holds.
        data: where they are.
        column: of paths, text or sequences, see `SiloNode`.
        id: column of their names.
        label: column of their classes; or "folder".
        one: of a kind whose files may be CSV, too, `data` is an item and no table of them.
        like: node -> settings of a run, whose columns are taken where the table has them and no others are named.

    Raises:
        DataError: all that is wrong with the whole; rows that are no items only if no other is, see `Source.bad`.
        ConfigError: a library is missing that the kind or Parquet needs.
    """
    node = model.node(node)
    modality = model.nodes[node]
    if modality not in model.saved.encoders:
        return _of_numbers(data, id, label)
    config = model.encoder(node)
    suffix = data.suffix.lower()
    if data.is_file() and suffix in kind_of(config).suffixes - FASTA and (one or not is_table(data)):
        return Source((Item(str(data), path=data),), (data.name,), ("",))
    problems, table = Problems(), None
    if node in like and data.is_file() and is_table(data):
        table = read_table(data, problems, skip=True)
        problems.stop()
        own = like[node]
        column, id = (
            given or (name if name in table.columns else "") for given, name in ((column, own.column), (id, own.id))
        )
    silo = SiloNode(name=node, modality=modality, data=data, column=column, id=id, label=label)
    found = read_manifest(silo, config, problems, table)
    if not found.items:
        problems += found.bad
    problems.stop()
    return Source.of(found)


def _of_numbers(data: Path, id: str, label: str) -> Source:
    if id not in ("", ID):
        raise DataError(f"the names of rows are in the column `{ID}` of such tables; leave --id out")
    if not data.is_file():
        raise DataError(f"no file {data}; this node's rows are numbers: name a CSV with the columns of its own table")
    problems = Problems()
    sheet = read_sheet(data, label, problems)
    if sheet and label and sheet.labels is None:
        problems.append(f"{data}: no column {label!r}; leave --label out")
    problems.stop()
    places = tuple(sheet.line(row) for row in range(len(sheet.values)))
    ids = sheet.ids or tuple(f"line {line}" for line in sheet.lines)
    labels = sheet.labels or ("",) * len(ids)
    return Source(tuple(Item(place) for place in places), ids, labels, sheet.tokens())


def node_for(model: "Model", file: Path | None = None) -> str:
    """The one node whose items are such files, or without a file: are written.

    Raises:
        DataError: there is none, or several.
    """
    takes = []
    for node, modality in model.nodes.items():
        if modality in model.saved.encoders:
            config = model.encoder(node)
            if config.kind in WRITTEN if file is None else file.suffix.lower() in kind_of(config).suffixes:
                takes.append(node)
    if len(takes) == 1:
        return takes[0]
    what = "text" if file is None else f"{file.suffix or 'such'} files"
    if takes:
        raise DataError(f"several nodes take {what}: {', '.join(takes)}; say by --from which is to see it")
    raise DataError(f"no node takes {what}; there are {', '.join(f'{n} ({m})' for n, m in model.nodes.items())}")
