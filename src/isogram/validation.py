"""What a receiver expects of the next message; anything else is refused before it is used.

A receiver knows whom it asked for what in which round, by which anchors and settings: `Expected`. From it follow the
fields that may stand in the message, and of each field type and shape, checked before an array is allocated, and the
values that it may take (`soundness`). Masked sums can be anything: `secure_sum` says what a spoilt one does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import chain

from isogram import soundness
from isogram.errors import MessageError
from isogram.messages import Down, M, Message, Up
from isogram.secure_sum.fields import BYTES
from isogram.secure_sum.masks import KEYS
from isogram.secure_sum.recovery import PARCEL
from isogram.secure_sum.shamir import SHARE
from isogram.soundness import Bounds, Check
from isogram.wire import MAX_ARRAYS, MAX_HEADER, SIZES, Array, Layout

Shape = tuple[str | int, ...]
"""Lengths: numbers; letters, bound by what the receiver knows or by where they stand first; "tri k": k(k+1)/2."""

LONGEST = {"d": 1 << 20, "r": 1 << 14, "m": 1 << 14, "p": 1 << 10, "b": 1 << 22, "s": MAX_ARRAYS}
"""Of lengths that a receiver may not know: embeddings, coordinates, nodes in a sum, peers, names, fields of a sum."""

MOST_SAMPLES = 1 << 48


@dataclass(frozen=True)
class Field:
    """One array: its type on the wire, its shape, what its values may be, and what to do where they are not."""

    dtype: str
    shape: Shape
    check: Check
    remedy: str = "leave the node out of this round"


_VERSION = "server and nodes need the same version and settings"
_MASKED = "all nodes need the same classes and rank"
_SUM = "leave the node out of this sum"

FIELDS: dict[type[Message], dict[str, Field]] = {
    Up: {
        "index": Field("I32", ("k",), soundness.positions),
        "gram": Field("F32", ("tri k",), soundness.shrunk_gram),
        "quality": Field("F32", ("k",), soundness.weights),
        "key": Field("U8", (32,), soundness.public_keys),
        "counts": Field("I64", ("C",), soundness.anything, _MASKED),
        "head": Field("I64", ("C", "r"), soundness.anything, _MASKED),
        "second": Field("I64", ("tri r",), soundness.anything, _MASKED),
        "directions": Field("F32", ("C", "r"), soundness.directions),
        "block_start": Field("F32", ("k", "K"), soundness.finite),
        "block_trained": Field("F32", ("k", "K"), soundness.finite),
        "embeddings": Field("F32", ("k", "d"), soundness.finite),
        "pair": Field("U8", (KEYS,), soundness.public_keys),
        "parcels": Field("U8", ("m", PARCEL), soundness.anything, _SUM),
        "summand": Field("U8", ("v", BYTES), soundness.anything, _SUM),
        "shares": Field("U8", ("m", SHARE), soundness.anything, _SUM),
    },
    Down: {
        "frame": Field("F32", ("K", "r"), soundness.frame, _VERSION),
        "geometry": Field("F32", ("tri K",), soundness.mean_gram, _VERSION),
        "others": Field("F32", ("tri K",), soundness.mean_gram, _VERSION),
        "quality": Field("F32", ("k",), soundness.weights, _VERSION),
        "keys": Field("U8", ("m", 32), soundness.public_keys, _VERSION),
        "evidence": Field("U8", ("C",), soundness.flags, _VERSION),
        "head": Field("F32", ("C", "r"), soundness.directions, _VERSION),
        "prototypes": Field("F32", ("K", "d"), soundness.finite, _VERSION),
        "counterparts": Field("F32", ("K", "d"), soundness.finite_rows, _VERSION),
        "siblings": Field("F32", ("K", "d"), soundness.finite_rows, _VERSION),
        "peers": Field("F32", ("p", "K", "d"), soundness.finite_rows, _VERSION),
        "names": Field("U8", ("b",), soundness.names, _VERSION),
        "pairs": Field("U8", ("m", KEYS), soundness.public_keys, _VERSION),
        "parcels": Field("U8", ("m", PARCEL), soundness.anything, _VERSION),
        "present": Field("U8", ("m",), soundness.flags, _VERSION),
        "scales": Field("F32", ("s",), soundness.scales, _VERSION),
    },
}

GROUPS = {"adapters": "adapter", "precision": "precision", "sketches": "sketch"}
"""Fields that are mappings, and what one of their arrays is called."""


@dataclass(frozen=True)
class Kind:
    """A message of one purpose: arrays that it must have and may have; numbers that it may; its rounds.

    groups: mappings, each with exactly the arrays that are expected, and the check of their values.
    """

    must: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    groups: Mapping[str, Check] = field(default_factory=dict)
    first: int = 0
    last: int | None = None


def _kind(must: str = "", may: str = "", numbers: str = "", first: int = 0, last: int | None = None) -> Kind:
    return Kind(frozenset(must.split()), frozenset(may.split()), frozenset(numbers.split()), first=first, last=last)


_UPDATE = {"adapters": soundness.finite, "precision": soundness.positive, "sketches": soundness.finite}

KINDS: dict[type[Message], dict[str, Kind]] = {
    Up: {
        "gram": _kind("gram", "index quality"),
        "key": _kind("key", "index", first=1),
        "counts": _kind("counts", "index", first=1),
        "sums": _kind("head", "index second", first=1),
        "directions": _kind("directions", "index", first=1),
        "embeddings": _kind("embeddings", "index"),
        "pair": _kind("pair", "index"),
        "parcels": _kind("parcels", "index"),
        "summand": _kind("summand", "index"),
        "shares": _kind("shares", "index"),
        "blocks": _kind("index block_start block_trained", first=2),
        "update": Kind(may=frozenset({"index"}), numbers=frozenset({"samples"}), groups=_UPDATE, first=2),
    },
    Down: {
        "weights": _kind("quality", last=0),
        "others": _kind("others", last=0),
        "frame": _kind("frame", numbers="fit", first=1),
        "head": _kind("head", first=1),
        "finish": _kind(may="head", first=1),
        "keys": _kind("names keys", first=1),
        "evidence": _kind("names keys evidence", numbers="second", first=1),
        "pairs": _kind("names pairs", numbers="threshold"),
        "sealed": _kind("parcels present scales"),
        "present": _kind("present"),
        "targets": _kind(may="frame geometry head prototypes counterparts siblings peers", first=2),
        "average": Kind(groups={"adapters": soundness.finite}, first=2),
        "bases": Kind(groups={"adapters": soundness.orthonormal}, first=2),
    },
}
"""What may be asked for. Rounds 0 and 1 are alignment; `federation` says what is sent when."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Expected:
    """What a receiver knows of the next message; `read` makes a message of bytes that are as expected, and only those.

    kind: of `KINDS`. node: whose message it is, the sender's on the way up and the receiver's on the way down. Of the
    settings, rho and power as in `config.AlignConfig`, and ways: how many ways to fit there are. lengths: by the
    letters of shapes, those known; K and C at least, and k on the way down. places: of an index, K if not given.
    second: whether second moments were asked for. counted: whether an update says of how many rows it is. model and
    the shapes of each group: of what trains in this round.
    """

    kind: str
    node: str
    round: int
    anchor_hash: str
    lengths: Mapping[str, int]
    rho: float
    power: float
    run: str = ""
    modality: str = ""
    places: int | None = None
    ways: int = 1
    second: bool = False
    counted: bool = True
    model: str = ""
    groups: Mapping[str, Shapes] = field(default_factory=dict)

    def read(self, of: type[M], blob: bytes) -> M:
        """The message in the bytes, if all of it is as expected.

        Raises:
            MessageError: names the sender, what is wrong, and what to do about it.
        """
        sender = f"node {self.node!r}" if of is Up else f"the server, to node {self.node!r},"
        try:
            message = of.from_bytes(blob, lambda found: self._check_layout(of, found))
        except _Unexpected as error:
            raise MessageError(f"{sender} {error}") from error
        except MessageError as error:
            raise MessageError(f"{sender} sent what cannot be read: {error}") from error
        if text := self._wrong_value(of, message):
            raise MessageError(f"{sender} {text}")
        return message

    def limit(self, of: type[Message]) -> int:
        """Bytes that the message has at most: who reads from a stream stops there."""
        kind, sizes = KINDS[of][self.kind], {**LONGEST, "k": self.lengths["K"], **self.lengths}
        arrays = [(FIELDS[of][name].dtype, _resolved(FIELDS[of][name].shape, sizes)) for name in kind.must | kind.may]
        arrays += [("F32", shape) for group in kind.groups for shape in self.groups.get(group, {}).values()]
        total = 8 + MAX_HEADER
        for dtype, shape in arrays:
            size = SIZES[dtype]
            for length in shape:
                size *= length
            total += size
        return total

    def wrong_layout(self, of: type[Message], found: Layout) -> str | None:
        """What is not as expected before values are looked at, and a remedy; the first, for others may build on it."""
        return next(chain(self._wrong_texts(of, found.texts), self._wrong_arrays(of, found.arrays)), None)

    def _check_layout(self, of: type[Message], found: Layout) -> None:
        if text := self.wrong_layout(of, found):
            raise _Unexpected(text)

    def _wrong_texts(self, of: type[Message], texts: Mapping[str, str]) -> Iterator[str]:
        kind = KINDS[of][self.kind]
        if not kind.first <= self.round <= (self.round if kind.last is None else kind.last):
            yield f"was asked for {self.kind!r} in round {self.round}, where nobody sends it: {_VERSION}"
        told = {name: text[:80] for name, text in texts.items()}
        if told.get("node") != self.node:
            yield f"sent a message of node {told.get('node')!r}: leave it out, nobody speaks for another"
        if told.get("anchor_hash") != self.anchor_hash:
            yield (
                f"uses anchors {told.get('anchor_hash', '')[:8]!r}, the receiver's are {self.anchor_hash[:8]!r}: "
                "give all the same anchor files"
            )
        if told.get("round") != str(self.round):
            yield f"sent a message of round {told.get('round')!r} in round {self.round}: leave late answers out"
        if texts.get("run") != (self.run or None):
            yield f"sent a message of run {told.get('run', '')!r} in run {self.run!r}: leave it out"
        if of is Up and told.get("modality") != self.modality:
            yield f"sent a message of modality {told.get('modality')!r}, its own is {self.modality!r}: leave it out"
        if texts.get("model") != (self.model or None):
            yield (
                f"sent adapters of {told.get('model', '')!r}, not of {self.model!r}: "
                "give all nodes the same trunk, adapter and rank"
            )
        ranges = {
            "samples": (1, MOST_SAMPLES) if self.counted else (0, 0),
            "fit": (0, self.ways - 1),
            "second": (0, 1),
            "threshold": (2, LONGEST["m"]),
        }
        for entry in fields(of):
            if entry.type is not int or entry.name == "round":
                continue
            least, most = ranges[entry.name] if entry.name in kind.numbers else (0, 0)
            text = told.get(entry.name, "0")
            if not text.isascii() or not text.isdigit() or str(int(text)) != text or not least <= int(text) <= most:
                if entry.name == "samples" and self.counted:
                    yield f"sent adapters trained on {text} rows: give it rows, or take it out of the federation"
                yield f"sent {entry.name} = {text!r}, of {least} to {most}: {_VERSION}"

    def _wrong_arrays(self, of: type[Message], arrays: Mapping[str, Array]) -> Iterator[str]:
        kind, sizes = KINDS[of][self.kind], dict(self.lengths)
        must = kind.must | ({"second"} if self.second and "second" in kind.may else frozenset())
        may = must | (kind.may if self.second else kind.may - {"second"})
        expected = {f"{group}/{name}": s for group in kind.groups for name, s in self.groups.get(group, {}).items()}
        for name in sorted((must | expected.keys()) - arrays.keys()):
            group, _, key = name.partition("/")
            if group == "sketches":
                yield f"should send a sketch {expected[name]} of {key!r} and sent none: set train.refresh alike"
            yield f"lacks the {_called(name)}, which {self.kind!r} has: {_VERSION}"
        for name in sorted(arrays.keys() - may - expected.keys()):
            yield f"sent the unknown {_called(name)} with {self.kind!r}: {_VERSION}"
        if of is Up and "index" not in arrays:
            sizes["k"] = self.lengths["K"]
        for name, of_field in FIELDS[of].items():
            if name in arrays:
                yield from _misshapen(name, arrays[name], of_field, sizes)
        for name, shape in expected.items():
            array = arrays[name]
            group, _, key = name.partition("/")
            if array.shape != shape and group == "sketches":
                yield f"should send a sketch {shape} of {key!r} and sent one of {array.shape}: set train.refresh alike"
            if array.shape != shape:
                called = _called(name)
                yield f"sent the {called} as {array.shape}, it is {shape}: give all nodes the same trunk and rank"
            if array.dtype != "F32":
                yield f"sent the {_called(name)} as {array.dtype}: send F32, that is float32"

    def _wrong_value(self, of: type[Message], message: Message) -> str | None:
        kind, anchors = KINDS[of][self.kind], self.lengths["K"]
        bounds = Bounds(self.rho, self.power, anchors, anchors if self.places is None else self.places)
        for name, value in message.arrays():
            group, slash, _ = name.partition("/")
            check = kind.groups[group] if slash else FIELDS[of][name].check
            if what := check(value, bounds):
                remedy = "lower train.lr" if slash else FIELDS[of][name].remedy
                return f"sent {what} in the {_called(name)}: {remedy}"
        return None


class _Unexpected(MessageError):
    """Of a layout that is sound and not what was asked for."""


def _called(name: str) -> str:
    group, slash, key = name.partition("/")
    return f"{GROUPS[group]}{' of' if group == 'sketches' else ''} {key[:80]!r}" if slash else name[:80]


def _resolved(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
    found = []
    for length in shape:
        of = length if isinstance(length, int) else sizes[length.removeprefix("tri ")]
        found.append(of * (of + 1) // 2 if isinstance(length, str) and length.startswith("tri ") else of)
    return tuple(found)


def _misshapen(name: str, array: Array, expected: Field, sizes: dict[str, int]) -> Iterator[str]:
    """What is wrong with type and shape; letters that are not bound yet are bound to what they are here."""
    if array.dtype != expected.dtype:
        yield f"sent the {name} as {array.dtype}, it is {expected.dtype}: {expected.remedy}"
    if len(array.shape) == len(expected.shape):
        for length, letter in zip(array.shape, expected.shape, strict=True):
            if isinstance(letter, str) and letter not in sizes and not letter.startswith("tri "):
                sizes[letter] = min(max(length, 0 if letter == "k" else 1), LONGEST.get(letter, sizes["K"]))
        shape = _resolved(expected.shape, sizes)
        if array.shape != shape:
            yield f"sent the {name} as {array.shape}, it is {shape}: {expected.remedy}"
    else:
        yield f"sent the {name} in {len(array.shape)} dimensions, it has {len(expected.shape)}: {expected.remedy}"
