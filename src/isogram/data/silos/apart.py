"""Rows that stand twice: a private row that is also a public anchor, or at two nodes."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from isogram.data.modalities.base import Item
from isogram.data.silos.cells import composed

Mark = TypeVar("Mark", bound=Hashable)

REMEDY = "a row is private to one node, or public: leave it out of the other"


@dataclass(frozen=True)
class Source:
    """Rows of one node, or the anchors of one modality.

    kind: whose items can be the same. hashes: of what encoders see of each. names: of rows that have one of their own,
    such as concepts; "" for others. site: of the node.
    """

    kind: str
    items: Sequence[Item]
    hashes: Sequence[str]
    names: Sequence[str]
    site: str = ""


def shared_rows(
    nodes: Mapping[str, Source], anchors: Mapping[str, Source], *, private: bool = False
) -> dict[str, dict[int, str]]:
    """Node -> row -> what it is the same as, in words; of nodes of two sites the later one has it.

    An id that is a concept's name counts as equal content does, unless it is only a number: those mean nothing.

    Args:
        nodes: rows of each.
        anchors: of each modality.
        private: nothing counts as chance (differential privacy).
    """
    chance = set() if private else _repeated([*nodes.values(), *anchors.values()])
    common = _repeated(list(anchors.values()))
    public = {
        (source.kind, mark): f"{item.where} (anchor)"
        for source in anchors.values()
        for item, mark in zip(source.items, source.hashes, strict=True)
    }
    concepts = {composed(name) for source in anchors.values() for name in source.names if not name.isdecimal()}
    first: dict[tuple[str, str], tuple[str, str]] = {}
    found: dict[str, dict[int, str]] = {name: {} for name in nodes}
    for node, row, item, key, name in _rows(nodes):
        if name in concepts:
            found[node][row] = f"anchor {name!r} = {item.where} (private, by its id)"
        if key in public and key not in common:
            found[node][row] = f"{public[key]} = {item.where} (private)"
        if key in public or key in chance or row in found[node]:
            continue
        other, where = first.setdefault(key, (node, item.where))
        # A site may see one thing in two modalities.
        if other != node and not (nodes[node].site and nodes[other].site == nodes[node].site):
            found[node][row] = f"{where} (node {other!r}) = {item.where} (node {node!r})"
    return found


def _rows(nodes: Mapping[str, Source]) -> Iterator[tuple[str, int, Item, tuple[str, str], str]]:
    for node, source in nodes.items():
        rows = zip(source.items, source.hashes, source.names, strict=True)
        for row, (item, mark, name) in enumerate(rows):
            yield node, row, item, (source.kind, mark), name


def _repeated(sources: Sequence[Source]) -> set[tuple[str, str]]:
    """Texts or rows of numbers that some source repeats by itself: no sign of a row that two share. Files are one."""
    return repeats(
        [
            (source.kind, [mark for item, mark in zip(source.items, source.hashes, strict=True) if item.path is None])
            for source in sources
        ]
    )[1]


def repeats(sources: Sequence[tuple[str, Sequence[Mark]]]) -> tuple[set[str], set[tuple[str, Mark]]]:
    """Equal rows that may be chance: of sources, each of a kind, with a mark of each row.

    Returns:
        Kinds of which some source repeats a tenth of its rows, as short notes and few whole numbers do: there any equal
        rows may be chance. And each row, with its kind, that some source repeats.
    """
    plain: set[str] = set()
    repeated: set[tuple[str, Mark]] = set()
    for kind, marks in sources:
        again = {mark: times for mark, times in Counter(marks).items() if times > 1}
        repeated |= {(kind, mark) for mark in again}
        if sum(again.values()) - len(again) > 0.1 * len(marks):
            plain.add(kind)
    return plain, repeated
