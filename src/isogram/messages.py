"""All that crosses a node's boundary: one typed message up, one down, as safetensors; and the ledger of their bytes.

Shape letters: K anchors, k of them at the node, h held-out anchors, r frame coordinates, d embedding width, C classes.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from isogram.errors import MessageError
from isogram.wire import HEADER, Layout, layout

M = TypeVar("M", bound="Message")


@dataclass(frozen=True, kw_only=True)
class Message:
    """What both directions share. Floats travel as float32; a field left at its default costs nothing.

    run: that the message belongs to, the same at all in it and at no other run; "" where there is but one.
    """

    node: str
    round: int
    anchor_hash: str
    run: str = ""
    adapters: Mapping[str, Tensor] = field(default_factory=dict)

    def arrays(self) -> Iterator[tuple[str, Tensor]]:
        """Every array that travels, by its name on the wire, in a fixed order."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Tensor):
                yield entry.name, value
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Mapping):
                for name in sorted(value):
                    yield f"{entry.name}/{name}", value[name]

    def to_bytes(self) -> bytes:
        """The message as one safetensors blob."""
        header = {"type": type(self).__name__}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, str | int) and value != entry.default:
                header[entry.name] = str(value)
        arrays = {name: _wire(value) for name, value in self.arrays()}
        # One metadata entry, for the order of several is not fixed and the same message should be the same bytes.
        return safetensors.torch.save(arrays, metadata={HEADER: json.dumps(header)})

    @classmethod
    def from_bytes(cls, blob: bytes, check: Callable[[Layout], None] | None = None) -> Self:
        """Parse a message of this type.

        Args:
            blob: of `to_bytes`.
            check: raises where the layout is not what is expected; asked before an array is allocated.

        Raises:
            MessageError: not safetensors, another type of message, a field that the type does not have, or one missing.
        """
        try:
            found = layout(blob)
        except MessageError as error:
            raise MessageError(f"not a {cls.__name__} message: {error}") from error
        header = dict(found.texts)
        if header.pop("type", None) != cls.__name__:
            raise MessageError(
                f"expected a {cls.__name__} message; the sender and the receiver must run the same protocol"
            )
        kinds = {entry.name: entry.type for entry in fields(cls)}
        plain = {name for name, kind in kinds.items() if kind in (str, int)}
        grouped = {name for name, kind in kinds.items() if kind == Mapping[str, Tensor]}
        known = set(kinds) - plain - grouped
        alone = {name for name in found.arrays if "/" not in name or name.partition("/")[0] not in grouped}
        if unknown := sorted((set(header) - plain) | (alone - known)):
            raise MessageError(
                f"{cls.__name__} message has unknown fields {unknown}; is the sender's version the same?"
            )
        if check is not None:
            check(found)
        groups: dict[str, dict[str, Tensor]] = {name: {} for name in grouped}
        try:
            arrays = safetensors.torch.load(blob)
            for name in sorted(set(arrays) - alone):  # in one order, whatever the hashes of texts
                group, _, key = name.partition("/")
                groups[group][key] = arrays.pop(name)
            values: dict[str, Any] = {name: int(text) if kinds[name] is int else text for name, text in header.items()}
            return cls(**values, **arrays, **groups)  # type: ignore[arg-type]
        except (SafetensorError, TypeError, ValueError) as error:
            raise MessageError(f"incomplete {cls.__name__} message: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Up(Message):
    """Node to server.

    gram [k(k+1)/2]: packed shrunk Gram of the anchors; index [k] int32: which anchors, absent if all; quality [k]: the
    anchors' weights, absent if all 1; key [32] uint8: public key of the secure sums; counts [C], head [C, r], second
    [r(r+1)/2] int64: masked class counts, class sums, packed second moment of the rows in them (`isogram.secure_sum`);
    directions [C, r]: unit class directions by what the node makes of the anchors, bare, NaN where it has few rows;
    block_start, block_trained [h, K]: similarities of held-out anchors to the frame's anchors, before and after
    training; embeddings [k, d]: of the anchors, only in peers that share them; samples: private rows behind the
    adapters; model: what these belong to; precision: of every adapter, by its name and in its shape, the diagonal of
    its precision; where there is one, adapters are multiplied by it; sketches: of each adapted layer, by its name, a
    sketch of the loss gradient. Of sums that go on without lost nodes (`secure_sum.recovery`), over m nodes and v
    numbers, all uint8: pair [64], parcels [m, 148], summand [v, 7], shares [m, 66]; zeros where there is nothing.
    """

    modality: str
    samples: int = 0
    model: str = ""
    precision: Mapping[str, Tensor] = field(default_factory=dict)
    sketches: Mapping[str, Tensor] = field(default_factory=dict)
    gram: Tensor | None = None
    index: Tensor | None = None
    quality: Tensor | None = None
    key: Tensor | None = None
    counts: Tensor | None = None
    head: Tensor | None = None
    second: Tensor | None = None
    directions: Tensor | None = None
    block_start: Tensor | None = None
    block_trained: Tensor | None = None
    embeddings: Tensor | None = None
    pair: Tensor | None = None
    parcels: Tensor | None = None
    summand: Tensor | None = None
    shares: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Down(Message):
    """Server to node.

    frame [K, r]: canonical frame; geometry [K(K+1)/2]: packed Gram of the frame, the target of CKA; others
    [K(K+1)/2]: packed consensus of the nodes of other modalities; quality [k]: weights of the node's anchors, by what
    all Grams say; fit: how to fit the map, a number of `alignment.ways`, 0 for as it is set; keys [m, 32] uint8: of the
    secure sums, in node order; names [b] uint8: a JSON list of the m nodes' names; evidence [C] uint8: classes that
    enough rows speak for; second: 1 if their second moment is asked for, too; head [C, r]: class directions, NaN where
    it is 0; prototypes, counterparts, siblings [K, d], peers [p, K, d]: anchor embeddings, only in peers that share
    them (see `representations`); of sums that go on without lost nodes: names, too, pairs [m, 64] and parcels [m, 148]
    uint8, what they sent; present [m] uint8: whose shares, or summands, have come; scales [s] of the summand's fields,
    in order; threshold: how many nodes have to stay.
    """

    frame: Tensor | None = None
    geometry: Tensor | None = None
    others: Tensor | None = None
    quality: Tensor | None = None
    fit: int = 0
    keys: Tensor | None = None
    evidence: Tensor | None = None
    second: int = 0
    head: Tensor | None = None
    prototypes: Tensor | None = None
    counterparts: Tensor | None = None
    siblings: Tensor | None = None
    peers: Tensor | None = None
    names: Tensor | None = None
    pairs: Tensor | None = None
    parcels: Tensor | None = None
    present: Tensor | None = None
    scales: Tensor | None = None
    threshold: int = 0


def _wire(value: Tensor) -> Tensor:
    # A copy, because safetensors refuses tensors that overlap in memory.
    value = value.detach().clone(memory_format=torch.contiguous_format)
    return value.float() if value.is_floating_point() else value


@dataclass(frozen=True)
class Entry:
    """One array (or, with field "header", the framing) of one message."""

    direction: str
    node: str
    round: int
    field: str
    shape: tuple[int, ...]
    bytes: int


class Ledger:
    """Counts every byte that crosses a boundary, by field, because it is the only way across: see `carry`.

    Args:
        listen: is given every message as its receiver got it, for an audit.
    """

    def __init__(self, listen: Callable[[Message], None] | None = None) -> None:
        self.entries: list[Entry] = []
        self._listen = listen

    def carry(self, message: M, read: Callable[[type[M], bytes], M] | None = None) -> M:
        """Serialise, count and parse: the receiver gets what the wire gives, never the sender's object.

        Args:
            message: as the sender made it.
            read: how the receiver reads it, `validation.Expected.read`; if not given the message is only parsed.
        """
        blob = message.to_bytes()
        self._count(message, len(blob))
        return self._heard(type(message).from_bytes(blob) if read is None else read(type(message), blob))

    def read(self, of: type[M], blob: bytes, read: Callable[[type[M], bytes], M]) -> M:
        """A message that came over a wire; counted as the receiver reads it."""
        got = read(of, blob)
        self._count(got, len(blob))
        return self._heard(got)

    def _count(self, message: Message, size: int) -> None:
        direction = type(message).__name__.lower()
        payload = 0
        for name, value in message.arrays():
            own = _wire(value).nbytes
            payload += own
            self.entries.append(Entry(direction, message.node, message.round, name, tuple(value.shape), own))
        self.entries.append(Entry(direction, message.node, message.round, "header", (), size - payload))

    def _heard(self, got: M) -> M:
        if self._listen is not None:
            self._listen(got)
        return got

    def __copy__(self) -> "Ledger":
        twin = Ledger(self._listen)
        twin.entries = list(self.entries)
        return twin

    def sent(self, node: str) -> int:
        """Bytes that a node sent, headers included."""
        return sum(entry.bytes for entry in self.entries if entry.direction == "up" and entry.node == node)
