"""Rows that stand twice: a private row that is also a public anchor, or at two nodes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from isogram.data.modalities.base import Item

REMEDY = "a row is private to one node, or public: leave it out of the other"


@dataclass(frozen=True)
class Source:
    """Rows of one node, or the anchors of one modality.

    hashes: of each item's content. names: of rows that have one of their own, such as concepts; "" for others.
    """

    modality: str
    items: Sequence[Item]
    hashes: Sequence[str]
    names: Sequence[str]


def shared_rows(nodes: Mapping[str, Source], anchors: Mapping[str, Source]) -> dict[str, dict[int, str]]:
    """Node -> row -> what it is the same as, in words; of two nodes the later one has it.

    An id that is a concept's name counts as equal content does, unless it is only a number: those mean nothing.
    """
    repeated, chance = _by_chance([*nodes.values(), *anchors.values()])
    public = {
        (source.modality, mark): f"{item.where} (anchor)"
        for source in anchors.values()
        for item, mark in zip(source.items, source.hashes, strict=True)
    }
    concepts = {name for source in anchors.values() for name in source.names if not name.isdecimal()}
    first: dict[tuple[str, str], tuple[str, str]] = {}
    found: dict[str, dict[int, str]] = {name: {} for name in nodes}
    for node, row, item, key, name in _rows(nodes):
        if name in concepts:
            found[node][row] = f"anchor {name!r} = {item.where} (private, by its id)"
        if key in public and key not in repeated:
            found[node][row] = f"{public[key]} = {item.where} (private)"
        if key in public or key in chance or row in found[node]:
            continue
        other, where = first.setdefault(key, (node, item.where))
        if other != node:
            found[node][row] = f"{where} (node {other!r}) = {item.where} (node {node!r})"
    return found


def _rows(nodes: Mapping[str, Source]) -> Iterator[tuple[str, int, Item, tuple[str, str], str]]:
    for node, source in nodes.items():
        rows = zip(source.items, source.hashes, source.names, strict=True)
        for row, (item, mark, name) in enumerate(rows):
            yield node, row, item, (source.modality, mark), name


def _by_chance(sources: Sequence[Source]) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Texts or rows of numbers that some source repeats by itself, and all that are no sign of a row two nodes share.

    Where a source repeats a tenth of its rows, as short notes do, all equal ones of nodes of its modality may be
    chance; with an anchor only those that are repeated themselves. Files of the same bytes never are.
    """
    repeated: set[tuple[str, str]] = set()
    plain: set[str] = set()
    for source in sources:
        cells = [mark for item, mark in zip(source.items, source.hashes, strict=True) if item.path is None]
        again = {mark: times for mark, times in Counter(cells).items() if times > 1}
        repeated |= {(source.modality, mark) for mark in again}
        if sum(again.values()) - len(again) > 0.1 * len(cells):
            plain.add(source.modality)
    every = {
        (source.modality, mark)
        for source in sources
        if source.modality in plain
        for item, mark in zip(source.items, source.hashes, strict=True)
        if item.path is None
    }
    return repeated, repeated | every
