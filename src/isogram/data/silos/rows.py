"""Items of nodes and anchors as tokens, with what is known of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from isogram.config import ModalityConfig, SiloNode, SilosConfig
from isogram.data.anchor_set import AnchorTable
from isogram.data.base import UNLABELLED, FloatArray, IntArray
from isogram.data.modalities.base import Item
from isogram.data.modalities.encode import encode
from isogram.data.room import check_room
from isogram.data.sheets import Problems
from isogram.data.silos.apart import Source
from isogram.data.silos.manifest import Manifest
from isogram.errors import DataError

Told = Callable[[str, int, int], None]
"""Part of the data, items encoded, items in all."""

CHECK = "isogram node check"
"""The command that names all rows that cannot be used."""

SKIP = "silos.skip_bad = true leaves such rows out"

_SHOWN = 20
"""Rows of one node that cannot be used and are named one by one."""


@dataclass(frozen=True)
class Rows:
    """Encoded rows of a node: tokens [n, T, c].

    hashes: of what encoders see. ids: of a column, else "". groups, names: see `Manifest`. labels: None if nothing says
    them. left: a line a row not used. notes: see `Encoded`.
    """

    name: str
    node: SiloNode
    kind: str
    tokens: FloatArray
    items: Sequence[Item]
    hashes: Sequence[str]
    ids: Sequence[str]
    groups: Sequence[str]
    names: Sequence[tuple[str, ...]]
    labels: IntArray | None
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def only(self, keep: NDArray[np.bool_], *left: str) -> "Rows":
        """Some of the rows; `left` says of the others why they are not among them.

        Raises:
            DataError: their tokens do not fit the memory beside those that there are.
        """
        if keep.all():
            return replace(self, left=self.left + left)
        check_room((int(keep.sum()), *self.tokens.shape[1:]))
        return replace(
            self,
            tokens=self.tokens[keep],
            items=list(compress(self.items, keep)),
            hashes=list(compress(self.hashes, keep)),
            ids=list(compress(self.ids, keep)),
            groups=list(compress(self.groups, keep)),
            names=list(compress(self.names, keep)),
            labels=None if self.labels is None else self.labels[keep],
            left=self.left + left,
        )


@dataclass(frozen=True)
class Public:
    """Encoded items of the anchor set in one modality: positions [k] of their concepts, ascending."""

    positions: IntArray
    tokens: FloatArray
    quality: FloatArray
    source: Source


def encode_anchors(
    table: AnchorTable, configs: Mapping[str, ModalityConfig], skip: bool, tell: Told, problems: Problems
) -> tuple[dict[str, Public], list[str]]:
    """The anchor set's items of these modalities as tokens; and what was left out of it."""
    public, notes = {}, []
    for modality, held in table.items.items():
        if modality not in configs:
            continue
        try:
            done = encode(held.items, configs[modality], skip_bad=True, told=_part(tell, f"anchors, {modality}"))
        except DataError as error:
            say(error.problems, 0, problems, "isogram anchors check")
            continue
        if done.bad and not skip:
            say(done.bad, len(held.items), problems, "isogram anchors check")
        elif done.bad:
            left = first(done.bad, "isogram anchors check")
            notes.append(f"anchors: {len(done.bad)} of {len(held.items)} {modality} left out: {left}")
        notes += [f"anchors, {modality}: {note}" for note in done.notes]
        positions, items = held.positions[done.kept], [held.items[i] for i in done.kept]
        names = [table.concepts[i] for i in positions]
        public[modality] = Public(
            positions, done.tokens, held.quality[done.kept], Source(configs[modality].kind, items, done.hashes, names)
        )
    return public, notes


def encode_rows(
    silos: SilosConfig,
    nodes: Mapping[str, SiloNode],
    configs: Mapping[str, ModalityConfig],
    manifests: Mapping[str, Manifest],
    classes: Sequence[str],
    tell: Told,
    problems: Problems,
) -> list[Rows]:
    """The rows of each node as tokens; those that cannot be encoded are problems, or left out with `skip_bad`."""
    number = {name: position for position, name in enumerate(classes)}
    rows = []
    for name, node in nodes.items():
        manifest = manifests[name]
        if not manifest.items:
            problems.append(f"node {name!r}: no row can be used: {first(manifest.bad, CHECK)}")
            continue
        try:
            done = encode(
                manifest.items,
                configs[node.modality],
                skip_bad=True,
                borrowed=not silos.modality(node.modality).columns,
                told=_part(tell, name),
            )
        except DataError as error:
            say(error.problems, 0, problems)
            continue
        if not silos.skip_bad:
            say(done.bad, len(manifest.items), problems)
        labels = None
        if manifest.labels is not None:
            labels = np.array([number.get(manifest.labels[i], UNLABELLED) for i in done.kept], dtype=np.int64)
        rows.append(
            Rows(
                name,
                node,
                configs[node.modality].kind,
                done.tokens,
                [manifest.items[i] for i in done.kept],
                done.hashes,
                [manifest.ids[i] if manifest.named else "" for i in done.kept],
                [manifest.groups[i] for i in done.kept],
                [manifest.names[i] for i in done.kept],
                labels,
                (*manifest.bad, *done.bad),
                done.notes,
            )
        )
    return rows


def say(bad: Sequence[str], n: int, problems: Problems, by: str = CHECK) -> None:
    """Rows that cannot be used are problems, the first ones by name.

    Args:
        bad: a line each.
        n: rows there are: some that can be used are left if these are left out. 0: they cannot be left out.
        problems: gets the lines.
        by: the command that names all.
    """
    lines = list(bad[:_SHOWN])
    if len(bad) > _SHOWN:
        where = bad[_SHOWN].partition(":")[0]
        lines.append(f"{where} and {len(bad) - _SHOWN - 1} more rows: as above; {by} names all")
    if 0 < len(bad) < n:
        lines[-1] += f"; {SKIP}"
    problems += lines


def first(lines: Sequence[str], by: str) -> str:
    """The first of some lines, and what command names the others."""
    return lines[0] + (f" (and {len(lines) - 1} more: {by} names all)" if len(lines) > 1 else "")


def _part(tell: Told, name: str) -> Callable[[int, int], None]:
    return lambda done, total: tell(name, done, total)
