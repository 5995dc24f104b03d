"""Who holds what: nodes with private rows, the public anchor set, and the sealed held-out rows.

Shapes: N private rows, K anchor concepts, k of them present in one modality, T tokens, c values per token.
"""

import contextlib
import contextvars
import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogram.config import ModalityConfig
from isogram.errors import AnchorError, ConfigError, DataError, HeldOutError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
Look = Callable[[FloatArray], FloatArray]
"""How an instrument sees rows."""

UNLABELLED = -1

UNPACKED = 1 << 30
"""Bytes that one file may unpack to, as the numbers or text made of it: of small files whole memories can come."""


@dataclass(frozen=True)
class AnchorItems:
    """The public anchors that exist in one modality.

    index [k] positions in the anchor set, ascending; tokens [k, T, c]; quality [k] in (0, 1], 1 for a real item.
    control [k]: a number that gives items away and means nothing, such as an utterance's length; None: there is none.
    """

    index: IntArray
    tokens: FloatArray
    quality: FloatArray
    control: FloatArray | None = None

    def __post_init__(self) -> None:
        _check_tokens(self.tokens, "anchors")
        if not len(self.index) == len(self.tokens) == len(self.quality):
            raise AnchorError("anchor index, tokens and quality must have the same length")
        if self.control is not None and self.control.shape != self.index.shape:
            raise AnchorError(f"{len(self.index)} anchors, controls {self.control.shape}; give one number per anchor")
        if np.any(np.diff(self.index) <= 0):
            raise AnchorError("anchor positions must be ascending and distinct; sort the items and drop duplicates")
        if np.any(self.quality <= 0) or np.any(self.quality > 1):
            raise AnchorError("anchor quality must lie in (0, 1]; leave an anchor out instead of giving it weight 0")

    def renumbered(self, place: IntArray) -> "AnchorItems":
        """The items whose concept has a new position in `place` [K]; -1 there leaves a concept out."""
        new = place[self.index]
        kept = new >= 0
        control = None if self.control is None else self.control[kept]
        return AnchorItems(new[kept].astype(np.int64), self.tokens[kept], self.quality[kept], control)


@dataclass(frozen=True)
class NodeData:
    """Private rows of one node: no row leaves it, nor anything with an entry per row.

    tokens [N, T, c] float32; labels [N] int64 with `UNLABELLED` where unknown, or None if the node has none.
    anchors: its own recordings of the public anchors, where its instruments differ from those of the public items.
    """

    name: str
    modality: str
    tokens: FloatArray
    labels: IntArray | None = None
    anchors: AnchorItems | None = None

    def __post_init__(self) -> None:
        _check_tokens(self.tokens, f"node {self.name!r}")
        if self.labels is not None and self.labels.shape != (len(self.tokens),):
            raise DataError(
                f"node {self.name!r}: {len(self.tokens)} rows, labels {self.labels.shape}; give one label per row"
            )

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes that this node labels, in ascending order."""
        if self.labels is None:
            return ()
        return tuple(int(c) for c in np.unique(self.labels) if c != UNLABELLED)


@dataclass(frozen=True)
class AnchorSet:
    """K public concepts and, per modality, the items that stand for them.

    source: hash of what the items were made of, for sites that hold some modalities each; absent: items are hashed.
    """

    ids: tuple[str, ...]
    items: Mapping[str, AnchorItems]
    source: str = ""

    def __post_init__(self) -> None:
        for modality, item in self.items.items():
            if len(item.index) and not 0 <= item.index[0] <= item.index[-1] < len(self.ids):
                raise AnchorError(
                    f"{modality}: anchor positions must lie in 0..{len(self.ids) - 1}, the anchors there are"
                )

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def hash(self) -> str:
        """What all nodes must agree on: sha256 over ids, and over their source, or items and their positions."""
        digest = hashlib.sha256("\n".join(self.ids).encode())
        if self.source:
            digest.update(self.source.encode())
            return digest.hexdigest()
        for modality in sorted(self.items):
            item = self.items[modality]
            digest.update(modality.encode())
            for array in (item.index, item.tokens, item.quality):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def subset(self, keep: IntArray) -> "AnchorSet":
        """The anchor set with only the concepts at positions `keep` (ascending), renumbered from 0."""
        place = _places(len(self), keep)
        items = {modality: item.renumbered(place) for modality, item in self.items.items()}
        return AnchorSet(tuple(self.ids[i] for i in keep), items, self.source)


_evaluating: contextvars.ContextVar[bool] = contextvars.ContextVar("isogram_evaluating", default=False)


@contextlib.contextmanager
def evaluation() -> Iterator[None]:
    """The only scope in which held-out rows may be read."""
    token = _evaluating.set(True)
    try:
        yield
    finally:
        _evaluating.reset(token)


class HeldOut:
    """Held-out rows, sealed: any read outside `evaluation()` fails the run.

    paired: row i is the same patient (machine, concept) in every modality, so retrieval has a right answer.
    labels: per modality, absent where nobody knows them. Without any rows there is nothing to evaluate.
    ids: names of the paired rows, for people to read.
    private: true classes of each node's private rows, also where the node was not told: for a reference.
    anchors: [K] true classes of the anchors, for a bound; None where nobody knows them.
    seen: node -> how its instruments see held-out rows, where they differ: [n, T, c] -> [n, T, c], the same each time.
    controls: modality -> [n], as `AnchorItems.control`, where there is one.
    """

    def __init__(
        self,
        tokens: Mapping[str, FloatArray],
        labels: Mapping[str, IntArray],
        *,
        paired: bool,
        private: Mapping[str, IntArray],
        anchors: IntArray | None = None,
        ids: Sequence[str] = (),
        seen: Mapping[str, Look] | None = None,
        controls: Mapping[str, FloatArray] | None = None,
    ) -> None:
        for modality, rows in tokens.items():
            _check_tokens(rows, f"held-out {modality}")
        self._tokens, self._labels, self._private, self.paired = dict(tokens), dict(labels), dict(private), paired
        self.ids, self._seen, self._anchors = tuple(ids), dict(seen or {}), anchors
        self._controls = dict(controls or {})
        for modality, values in self._controls.items():
            if values.shape != self._tokens[modality].shape[:1]:
                raise DataError(
                    f"held-out {modality}: {len(self._tokens[modality])} rows, controls {values.shape}; give one "
                    "number per row"
                )

    @property
    def hash(self) -> str:
        """Tells whether they are the same rows and classes, whoever looks, without opening them to anybody."""
        digest = hashlib.sha256(f"paired={self.paired}".encode())
        for kind in (self._tokens, self._labels):
            for modality, array in kind.items():
                digest.update(f"{modality}/{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that have held-out rows."""
        return tuple(self._tokens)

    @property
    def labelled(self) -> tuple[str, ...]:
        """Those whose held-out rows have true classes."""
        return tuple(self._labels)

    def tokens(self, modality: str, node: str = "") -> FloatArray:
        """[n, T, c] held-out rows of one modality, as `node` sees them or, without one, as they are.

        Raises:
            HeldOutError: read outside `evaluation()`.
            DataError: the node's view does not keep shape and type, or is not finite.
        """
        self._check()
        rows = self._tokens[modality]
        if node not in self._seen:
            return rows
        seen = self._seen[node](rows)
        _check_tokens(seen, f"held-out {modality} as seen by {node!r}")
        if seen.shape != rows.shape:
            raise DataError(f"held-out {modality} as seen by {node!r}: {seen.shape}, not {rows.shape}; keep the shape")
        return seen

    @property
    def controlled(self) -> tuple[str, ...]:
        """Those whose rows have a control."""
        return tuple(self._controls)

    def control(self, modality: str) -> FloatArray:
        """[n] their controls."""
        self._check()
        return self._controls[modality]

    def labels(self, modality: str) -> IntArray:
        """[n] their true classes."""
        self._check()
        return self._labels[modality]

    @property
    def knows_anchors(self) -> bool:
        """Whether the anchors' true classes are among them."""
        return self._anchors is not None

    def anchor_labels(self) -> IntArray:
        """[K] true classes of the anchors, which no node and no server is told.

        Raises:
            HeldOutError: read outside `evaluation()`.
            ConfigError: nobody knows them.
        """
        self._check()
        if self._anchors is None:
            raise ConfigError("the anchors' classes are not known here; leave out what needs them: `anchor-labels+ssl`")
        return self._anchors

    def knows_rows(self, node: str) -> bool:
        """Whether the true classes of a node's private rows are among them."""
        return node in self._private

    def private_labels(self, node: str) -> IntArray:
        """[N] true classes of one node's private rows."""
        self._check()
        return self._private[node]

    def seen_through(self, looks: Mapping[str, Look]) -> "HeldOut":
        """The same rows where each node named looks through one more instrument, the last in its line."""
        new = copy.copy(self)
        new._seen = self._seen | {
            node: _in_line(self._seen[node], look) if node in self._seen else look for node, look in looks.items()
        }
        return new

    def keeping(self, rows: Mapping[str, IntArray]) -> "HeldOut":
        """The same where each node named keeps only some private rows, by position: their true classes follow."""
        new = copy.copy(self)
        new._private = self._private | {node: self._private[node][kept] for node, kept in rows.items()}
        return new

    def of_anchors(self, keep: IntArray) -> "HeldOut":
        """The same with the classes of only the anchors at positions `keep`."""
        new = copy.copy(self)
        new._anchors = None if self._anchors is None else self._anchors[keep]
        return new

    @staticmethod
    def _check() -> None:
        if not _evaluating.get():
            raise HeldOutError("held-out rows were read outside evaluation; only `isogram.evaluation` may open them")


@dataclass(frozen=True)
class FederatedData:
    """A federation's data as one object: what a benchmark needs, and no single party ever sees.

    all_paired: the anchor set of everything that is not held out, where rows of all modalities belong together: what
    nobody may have, for the upper bound. notes: what a reader of its figures has to know.
    encoders: modality -> how raw items of it became tokens, as `ModalityConfig` has it, where a file may be embedded.
    sources: for a run's record and a model's card: `anchor_folder`, its hash as `isogram anchors hash` prints it, and
    `encoder_files`, modality -> hash of the files of an encoder that can change, that is of the hub or a folder.
    """

    name: str
    nodes: tuple[NodeData, ...]
    anchors: AnchorSet
    held_out: HeldOut
    classes: tuple[str, ...]
    all_paired: Callable[[], AnchorSet] | None = None
    notes: tuple[str, ...] = ()
    encoders: Mapping[str, ModalityConfig] = field(default_factory=dict)
    sources: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [node.name for node in self.nodes]
        if len(set(names)) != len(names):
            raise DataError(f"node names must be distinct, got {names}")
        for node in self.nodes:
            if node.modality not in self.anchors.items:
                raise AnchorError(
                    f"node {node.name!r} holds {node.modality!r}, of which no anchor exists; add anchors of it"
                )
            shape = self.anchors.items[node.modality].tokens.shape[1:]
            if node.tokens.shape[1:] != shape:
                raise DataError(
                    f"node {node.name!r}: rows are {node.tokens.shape[1:]} tokens x values, anchors {shape}; "
                    "tokenize both alike"
                )
            if node.classes and node.classes[-1] >= len(self.classes):
                raise DataError(
                    f"node {node.name!r}: label {node.classes[-1]}, but there are {len(self.classes)} classes from 0"
                )
            own, public = node.anchors, self.anchors.items[node.modality]
            if own is not None and not (
                np.array_equal(own.index, public.index) and own.tokens.shape == public.tokens.shape
            ):
                raise AnchorError(
                    f"node {node.name!r}: its own recordings {own.tokens.shape} are not of the public anchors "
                    f"{public.tokens.shape} at the same positions; record these anchors, or use `subset_anchors`"
                )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities in order of their first node."""
        return tuple(dict.fromkeys(node.modality for node in self.nodes))

    def anchors_of(self, node: NodeData) -> AnchorItems:
        """The anchors as this node has them: its own recordings, or else the public items of its modality."""
        return node.anchors or self.anchors.items[node.modality]

    def subset_anchors(self, keep: IntArray) -> "FederatedData":
        """The same federation with only the anchors at positions `keep` (ascending), nodes' own recordings included."""
        place = _places(len(self.anchors), keep)
        nodes = tuple(
            node if node.anchors is None else replace(node, anchors=node.anchors.renumbered(place))
            for node in self.nodes
        )
        held_out = self.held_out.of_anchors(keep)
        return replace(self, anchors=self.anchors.subset(keep), nodes=nodes, held_out=held_out)


def _places(n: int, keep: IntArray) -> IntArray:
    """[n] new position of each of n concepts, -1 of those that are not kept."""
    place = np.full(n, -1, dtype=np.int64)
    place[keep] = np.arange(len(keep))
    return place


def _in_line(first: Look, then: Look) -> Look:
    return lambda rows: then(first(rows))


def _check_tokens(tokens: FloatArray, where: str) -> None:
    if tokens.ndim != 3 or tokens.dtype != np.float32:
        raise DataError(f"{where}: tokens must be float32 [rows, tokens, values], got {tokens.dtype} {tokens.shape}")
    if not np.isfinite(tokens).all():
        bad = int(np.flatnonzero(~np.isfinite(tokens).all(axis=(1, 2)))[0])
        raise DataError(f"{where}: row {bad} holds NaN or infinity; drop or impute it")
