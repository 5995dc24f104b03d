"""What a receiver reads, and all that it refuses: every check by a message that nothing else refuses."""

import json
import re
import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isogram import soundness, validation
from isogram.aggregation import merge_counts
from isogram.alignment import gram, pack, shrink, unpack
from isogram.errors import MessageError
from isogram.messages import Down, Ledger, Up
from isogram.secure_sum import SumParty
from isogram.soundness import Bounds
from isogram.validation import FIELDS, KINDS, Expected
from isogram.wire import MAX_ARRAYS, MAX_HEADER, layout

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from fuzz_messages import corpus, fuzz  # noqa: E402
from message_oracle import judge  # noqa: E402

K, C, R, RHO = 12, 3, 5, 0.1
SHAPES = {"adapters": {"x.lora_B": (4, 2)}, "precision": {"x.lora_B": (4, 2)}, "sketches": {"x": (4, 6)}}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shrunk(k=K, rho=RHO, seed=0):
    return pack(shrink(gram(draw(k, 20, seed=seed)), rho))


def key(byte=9):
    return torch.tensor([byte, *[0] * 31], dtype=torch.uint8)


def unit(rows):
    return torch.nn.functional.normalize(rows, dim=1)


ARRAYS = {
    "gram": {"gram": shrunk(10), "index": torch.arange(10).int(), "quality": torch.full((10,), 0.5)},
    "key": {"key": key()},
    "counts": {"counts": torch.tensor([5, -(2**63), 2**63 - 1])},
    "sums": {"head": torch.ones(C, R, dtype=torch.int64), "second": torch.ones(R * (R + 1) // 2, dtype=torch.int64)},
    "embeddings": {"embeddings": draw(K, 7)},
    "blocks": {"index": torch.tensor([0, 2]).int(), "block_start": draw(2, K), "block_trained": draw(2, K)},
    "update": {
        "adapters": {"x.lora_B": draw(4, 2)},
        "precision": {"x.lora_B": draw(4, 2).abs()},
        "sketches": {"x": draw(4, 6)},
    },
    "directions": {"directions": torch.cat([unit(draw(C - 1, R)), torch.full((1, R), torch.nan)])},
    "weights": {"quality": torch.full((10,), 0.5)},
    "others": {"others": shrunk()},
    "frame": {"frame": draw(K, R)},
    "head": {"head": torch.cat([unit(draw(1, R)), torch.zeros(1, R), torch.full((1, R), torch.nan)])},
    "keys": {"keys": torch.stack([key(9), key(5)])},
    "evidence": {"keys": torch.stack([key(9), key(5)]), "evidence": torch.tensor([0, 1, 1], dtype=torch.uint8)},
    "targets": {
        "frame": draw(K, R),
        "geometry": pack(gram(draw(K, R))),
        "head": unit(draw(C, R)),
        "prototypes": draw(K, 7),
        "counterparts": torch.cat([draw(K - 1, 7), torch.full((1, 7), torch.nan)]),
        "siblings": draw(K, 7),
        "peers": torch.cat([draw(2, K - 1, 7), torch.full((2, 1, 7), torch.nan)], 1),
    },
    "average": {"adapters": {"x.lora_B": draw(4, 2)}},
    "bases": {"adapters": {"x.lora_B": torch.linalg.qr(draw(2, 4).T).Q}},
}
NUMBERS = {"update": {"samples": 9}, "frame": {"fit": 2}, "evidence": {"second": 1}}


def sample(kind, **changes):
    """A message of a kind as it should be, but for some fields, and what its receiver expects."""
    up = kind in KINDS[Up]
    round = 0 if kind in ("gram", "weights", "others") else 2
    lengths = {"K": K, "C": C, "r": R} | ({} if up else {"k": 10})
    groups = {"average": {"adapters": {"x.lora_B": (4, 2)}}, "bases": {"adapters": {"x.lora_B": (4, 2)}}}
    expected = Expected(
        kind,
        "a",
        round,
        "h" * 64,
        lengths,
        RHO,
        2.0,
        run="r",
        modality="rna" if up else "",
        places=4 if kind == "blocks" else None,
        ways=3,
        second=kind == "sums",
        model="m, rank 2" if kind == "update" else "",
        groups=SHAPES if kind == "update" else groups.get(kind, {}),
    )
    values = {"node": "a", "round": round, "anchor_hash": "h" * 64, "run": "r"} | ARRAYS[kind] | NUMBERS.get(kind, {})
    if kind == "bases":
        expected = replace(expected, groups={"adapters": {"x.lora_B": (2, 4)}})
        values["adapters"] = {"x.lora_B": torch.linalg.qr(draw(4, 2)).Q.T}
    values |= ({"modality": "rna"} if up else {}) | ({"model": "m, rank 2"} if kind == "update" else {})
    return (Up if up else Down)(**(values | changes)), expected


EVERY = [kind for kinds in KINDS.values() for kind in kinds]


def read(message, expected):
    return Ledger().carry(message, expected.read)


@pytest.mark.parametrize("kind", EVERY)
def test_what_is_as_expected_is_read_and_the_oracle_agrees(kind):
    message, expected = sample(kind)
    found = read(message, expected)
    assert [name for name, _ in found.arrays()] == [name for name, _ in message.arrays()]
    assert judge(message.to_bytes(), type(message).__name__, expected) is None
    assert len(message.to_bytes()) <= expected.limit(type(message))


def test_every_field_of_a_message_has_a_specification():
    for of, specified in FIELDS.items():
        arrays = {name for name, entry in of.__dataclass_fields__.items() if entry.type == torch.Tensor | None}
        groups = {n for n in ("adapters", "precision", "sketches") if n in of.__dataclass_fields__}
        assert set(specified) == arrays
        assert {
            name for kind in KINDS[of].values() for name in (*kind.must, *kind.may, *kind.groups)
        } == arrays | groups


def spoilt(kind, field, change):
    message, expected = sample(kind)
    return replace(message, **{field: change(getattr(message, field))}), expected


def at(index, value):
    def change(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[index] = value
        return tensor

    return change


def one(change):
    return lambda group: {name: change(value) for name, value in group.items()}


def less_centred(packed):
    return pack(unpack(packed) + 0.05 * torch.eye(10, dtype=torch.float64))


def test_rows_are_sent_where_a_rule_needs_them_and_nowhere_else():
    message, expected = sample("update")
    uncounted = replace(expected, counted=False)
    with pytest.raises(MessageError, match="sent samples = '9', of 0 to 0"):
        read(message, uncounted)
    assert judge(message.to_bytes(), "Up", uncounted) == "texts ['samples']"
    silent = replace(message, samples=0)
    assert read(silent, uncounted).samples == 0
    assert judge(silent.to_bytes(), "Up", uncounted) is None
    with pytest.raises(MessageError, match="trained on 0 rows"):
        read(silent, expected)


NAN, INF = float("nan"), float("inf")
LAYOUT = {
    # kind, field, change, what is said; seen before an array is made
    "another node": ("gram", "node", lambda _: "b", "sent a message of node 'b'"),
    "a replay": ("key", "round", lambda _: 1, "sent a message of round '1' in round 2"),
    "other anchors": ("gram", "anchor_hash", lambda _: "x" * 64, "uses anchors 'xxxxxxxx'"),
    "another run": ("gram", "run", lambda _: "s", "sent a message of run 's' in run 'r'"),
    "no run": ("frame", "run", lambda _: "", "sent a message of run '' in run 'r'"),
    "another modality": ("gram", "modality", lambda _: "b", "modality 'b', its own is 'rna'"),
    "another model": ("update", "model", lambda _: "m, rank 4", "adapters of 'm, rank 4', not of 'm, rank 2'"),
    "a model with a Gram": ("gram", "model", lambda _: "m", "adapters of 'm', not of ''"),
    "no rows": ("update", "samples", lambda _: 0, "trained on 0 rows"),
    "negative rows": ("update", "samples", lambda _: -1, "trained on -1 rows"),
    "too many rows": ("update", "samples", lambda _: 2**60, "trained on 1152921504606846976 rows"),
    "rows with a Gram": ("gram", "samples", lambda _: 3, "trained on 3 rows"),
    "a way that is none": ("frame", "fit", lambda _: 3, "fit = '3', of 0 to 2"),
    "a way with a head": ("head", "fit", lambda _: 1, "fit = '1', of 0 to 0"),
    "second moments, asked twice": ("evidence", "second", lambda _: 2, "second = '2', of 0 to 1"),
    "a field missing": ("gram", "gram", lambda _: None, "lacks the gram"),
    "second moments missing": ("sums", "second", lambda _: None, "lacks the second"),
    "a field of another kind": ("gram", "embeddings", lambda _: draw(10, 3), "unknown embeddings with 'gram'"),
    "an adapter missing": ("update", "adapters", lambda _: {}, "lacks the adapter 'x.lora_B'"),
    "a precision missing": ("update", "precision", lambda _: {}, "lacks the precision 'x.lora_B'"),
    "a sketch missing": ("update", "sketches", lambda _: {}, "should send a sketch .4, 6. of 'x' and sent none"),
    "a foreign adapter": ("average", "adapters", lambda a: a | {"y": draw(1)}, "unknown adapter 'y'"),
    "adapters with a Gram": ("gram", "adapters", lambda _: {"y": draw(1)}, "unknown adapter 'y'"),
    "an adapter's shape": ("update", "adapters", one(lambda v: v[:, :1]), r"adapter 'x.lora_B' as \(4, 1\)"),
    "an adapter's type": ("update", "adapters", one(lambda v: v.int()), "adapter 'x.lora_B' as I32"),
    "a sketch's shape": ("update", "sketches", one(lambda v: v[:, :1]), r"sent one of \(4, 1\)"),
    "a type": ("gram", "index", lambda v: v.long(), "the index as I64, it is I32"),
    "a shape": ("gram", "gram", lambda v: v[:-1], r"the gram as \(54,\), it is \(55,\)"),
    "dimensions": ("gram", "gram", lambda v: v[None], "the gram in 2 dimensions, it has 1"),
    "two lengths that differ": ("blocks", "block_trained", lambda v: v[:1], r"as \(1, 12\), it is \(2, 12\)"),
    "coordinates that differ": ("sums", "head", lambda v: v[:, 1:], r"the head as \(3, 4\), it is \(3, 5\)"),
    "votes in other coordinates": ("directions", "directions", lambda v: v[:, 1:], r"as \(3, 4\), it is \(3, 5\)"),
    "no length at all": ("embeddings", "embeddings", lambda v: v[:, :0], r"as \(12, 0\), it is \(12, 1\)"),
    "too great a length": ("keys", "keys", lambda v: v[:1].expand(1 << 15, 32), r"it is \(16384, 32\)"),
}
VALUES = {
    "positions outside": ("gram", "index", at(9, K), r"positions outside 0..11 in the index"),
    "negative positions": ("gram", "index", at(0, -1), r"positions outside 0..11 in the index"),
    "held-out positions outside": ("blocks", "index", at(1, 4), r"positions outside 0..3"),
    "positions twice": ("gram", "index", at(1, 0), "positions that do not ascend in the index"),
    "a weight of 0": ("gram", "quality", at(3, 0), r"numbers outside \(0, 1\] in the quality"),
    "a weight above 1": ("weights", "quality", at(3, 1.5), r"numbers outside \(0, 1\] in the quality"),
    "a weight of NaN": ("weights", "quality", at(3, NAN), r"numbers outside \(0, 1\] in the quality"),
    "NaN in a Gram": ("gram", "gram", at(3, NAN), "NaN or infinity in the gram"),
    "too large a trace": ("gram", "gram", lambda v: 1.1 * v, "a trace of"),
    "too small a trace": ("gram", "gram", lambda v: 0.05 * v, "a trace of"),
    "an indefinite Gram": ("gram", "gram", lambda v: v + 1.5 * pack(_swing()), "eigenvalues from -"),
    "too large an eigenvalue": ("gram", "gram", lambda v: v + 0.3 * pack(_peak(v)), "eigenvalues from"),
    "a Gram off its centre": ("gram", "gram", less_centred, "rows that do not sum to 0 in the gram"),
    "another ridge": ("gram", "gram", lambda _: shrunk(10, 0.15), "another ridge than align.rho = 0.1"),
    "a key of small order": ("key", "key", at(0, 0), "a point of small order"),
    "a key twice": ("keys", "keys", lambda v: v[[0, 0]], "one key twice in the keys"),
    "a key of small order among others": ("evidence", "keys", at(0, 1), "a point of small order"),
    "evidence of 2": ("evidence", "evidence", at(0, 2), "numbers beside 0 and 1"),
    "infinite blocks": ("blocks", "block_start", at(0, INF), "NaN or infinity in the block_start"),
    "infinite blocks after training": ("blocks", "block_trained", at(0, NAN), "NaN or infinity in the block_trained"),
    "infinite embeddings": ("embeddings", "embeddings", at(0, -INF), "NaN or infinity in the embeddings"),
    "an infinite frame": ("frame", "frame", at(0, INF), "NaN or infinity in the frame"),
    "a frame too large": ("targets", "frame", at(0, 200), "rows of norm 200, beyond 144, in the frame"),
    "infinite prototypes": ("targets", "prototypes", at(0, INF), "NaN or infinity in the prototypes"),
    "an infinite geometry": ("targets", "geometry", at(0, INF), "NaN or infinity in the geometry"),
    "a geometry too large": ("targets", "geometry", lambda v: 1e9 * v, "numbers as large as"),
    "a geometry off its centre": ("targets", "geometry", lambda v: v + 1, "rows that do not sum to 0 in the geometry"),
    "a consensus that is indefinite": ("others", "others", lambda v: -v, "a negative eigenvalue in the others"),
    "directions that are long": ("head", "head", lambda v: 1.1 * v, "rows of a norm beside 1 and 0"),
    "votes that are long": ("directions", "directions", lambda v: 1.1 * v, "rows of a norm beside 1 and 0"),
    "votes in part": ("directions", "directions", at(0, NAN), "NaN in a part of a row"),
    "directions in part": ("head", "head", at(0, NAN), "NaN in a part of a row"),
    "counterparts in part": ("targets", "counterparts", at(0, NAN), "NaN in a part of a row"),
    "siblings in part": ("targets", "siblings", at(0, INF), "infinity, or NaN in a part of a row"),
    "peers in part": ("targets", "peers", at(0, NAN), "NaN in a part of a row"),
    "NaN in an adapter": ("update", "adapters", one(at(0, NAN)), "NaN or infinity in the adapter 'x.lora_B'"),
    "infinity in a sketch": ("update", "sketches", one(at(0, INF)), "NaN or infinity in the sketch of 'x'"),
    "a negative precision": ("update", "precision", one(at(0, -1)), "negative numbers in the precision"),
    "an infinite precision": ("update", "precision", one(at(0, INF)), "NaN or infinity in the precision"),
    "NaN in an average": ("average", "adapters", one(at(0, NAN)), "NaN or infinity in the adapter"),
    "a basis that is none": ("bases", "adapters", one(lambda v: 1.01 * v), "rows that are not orthonormal"),
}


WRONG = LAYOUT | VALUES


def _swing():
    """Centred, of trace 0: two eigenvalues of 1 and -1."""
    u, v = torch.linalg.qr(draw(10, 2) - draw(10, 2).mean(0)).Q.T
    return torch.outer(u, u) - torch.outer(v, v)


def _peak(packed):
    """Lifts the largest eigenvalue at the cost of the least of those that are not 0."""
    vectors = torch.linalg.eigh(unpack(packed)).eigenvectors
    return torch.outer(vectors[:, -1], vectors[:, -1]) - torch.outer(vectors[:, 1], vectors[:, 1])


@pytest.mark.parametrize("case", list(WRONG))
def test_what_is_not_as_expected_is_refused_by_both(case):
    kind, field, change, said = WRONG[case]
    message, expected = spoilt(kind, field, change)
    sender = "node 'a' " if isinstance(message, Up) else "the server, to node 'a', "
    with pytest.raises(MessageError, match=said) as caught:
        read(message, expected)
    assert str(caught.value).startswith(sender) and ": " in str(caught.value), "names the sender, and a remedy"
    assert judge(message.to_bytes(), type(message).__name__, expected)


@pytest.mark.parametrize("case", list(VALUES))
def test_it_is_the_check_of_the_field_that_refuses(case, monkeypatch):
    kind, field, change, _ = WRONG[case]
    message, expected = spoilt(kind, field, change)
    of = type(message)
    if field in FIELDS[of]:
        monkeypatch.setitem(FIELDS, of, FIELDS[of] | {field: replace(FIELDS[of][field], check=_none)})
    else:
        kinds = KINDS[of] | {kind: replace(KINDS[of][kind], groups=dict.fromkeys(KINDS[of][kind].groups, _none))}
        monkeypatch.setitem(KINDS, of, kinds)
    read(message, expected)


def _none(value, bounds):
    return None


@pytest.mark.parametrize("group", ["adapters", "precision"])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (4, 1), (1, 2), (2,), (), (4, 2, 1)])
def test_adapters_that_would_broadcast_are_refused(group, shape):
    message, expected = sample("update", **{group: {"x.lora_B": torch.ones(shape)}})
    with pytest.raises(MessageError, match=r"as \(.*\), it is \(4, 2\): give all nodes the same trunk and rank"):
        read(message, expected)


@pytest.mark.parametrize(
    ("value", "said"), [(-1e-30, "negative"), (-0.0, None), (0.0, None), (3e38, None), (INF, "infinity"), (NAN, "NaN")]
)
def test_a_precision_is_finite_and_not_negative(value, said):
    message, expected = sample("update", precision={"x.lora_B": torch.full((4, 2), value)})
    if said is None:
        read(message, expected)
        return
    with pytest.raises(MessageError, match=f"{said}.* in the precision 'x.lora_B'"):
        read(message, expected)


def test_large_numbers_whose_sum_overflows_are_not_infinite():
    message, expected = sample("update", adapters={"x.lora_B": torch.full((4, 2), 3e38)})
    read(message, expected)


@pytest.mark.parametrize("k", [0, 1])
def test_a_gram_of_no_anchors_or_of_one_is_refused(k):
    message, expected = sample("gram", index=torch.arange(k).int(), gram=torch.zeros(k), quality=torch.ones(k))
    with pytest.raises(MessageError, match=f"sent {k} anchors in the gram"):
        read(message, expected)


def test_a_kind_has_its_rounds():
    message, expected = sample("weights", round=1)
    with pytest.raises(MessageError, match="'weights' in round 1, where nobody sends it"):
        read(message, replace(expected, round=1))


@pytest.mark.parametrize("rho", [1e-4, 0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize(("k", "width"), [(4, 1), (4, 40), (30, 3), (60, 200)])
def test_every_shrunk_gram_is_sound_after_the_wire(k, width, rho):
    features = draw(k, width) * torch.logspace(0, 2, width, dtype=torch.float64)
    packed = pack(shrink(gram(features), rho)).float()
    assert soundness.shrunk_gram(packed, Bounds(rho, 2.0, k, k)) is None


def test_equal_directions_and_one_direction_are_the_bounds_of_the_trace():
    k, rho = 8, 0.1
    for features in (torch.eye(k, dtype=torch.float64), draw(k, 1)):
        m = shrink(gram(features), rho)
        ends = (k / (k + rho), (k - 1) / (1 + rho * (k - 1) / k))
        assert min(abs(float(m.trace()) - end) for end in ends) < 1e-9


# Bytes.

BLOB = sample("key")[0].to_bytes()
LENGTH = int.from_bytes(BLOB[:8], "little")
HEADER = json.loads(BLOB[8 : 8 + LENGTH])
BODY = BLOB[8 + LENGTH :]


def blob(header, body=BODY):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def with_entry(**entry):
    return blob({**HEADER, "key": {**HEADER["key"], **entry}})


SECOND = {"dtype": "U8", "shape": [32], "data_offsets": [0, 32]}
BYTES = {
    "nothing": (b"", "the length of the header alone takes 8"),
    "a header beyond the end": (struct.pack("<Q", len(BLOB)) + BLOB[8:], "a header of"),
    "a header beyond all bounds": (struct.pack("<Q", MAX_HEADER + 1) + b" " * (MAX_HEADER + 9), "are the limit"),
    "no JSON": (blob(b"{"), "no JSON in UTF-8"),
    "another encoding": (blob(json.dumps(HEADER).encode("utf-16")), "no JSON in UTF-8"),
    "half a surrogate pair": (blob({**HEADER, "\ud800": SECOND}), "no JSON in UTF-8"),
    "deep JSON": (blob(b'{"x":' * 100_000), "no JSON in UTF-8"),
    "a number of 10000 digits": (
        blob(json.dumps(HEADER).encode().replace(b"[32]", b"[" + b"9" * 10000 + b"]")),
        "JSON",
    ),
    "a list": (blob([1]), "no mapping"),
    "a key twice": (blob(json.dumps(HEADER).encode()[:-1] + b', "key": 1}'), "a key stands twice"),
    "a text twice": (
        blob({**HEADER, "__metadata__": {"message": '{"type": "Up", "type": "Up"}'}}),
        "a key stands twice",
    ),
    "more metadata": (blob({**HEADER, "__metadata__": {**HEADER["__metadata__"], "x": "y"}}), "beside one text"),
    "metadata that are none": (blob({**HEADER, "__metadata__": None}), "beside one text"),
    "a text that is none": (
        blob({**HEADER, "__metadata__": {"message": '{"type": 1}'}}),
        "no mapping of names to texts",
    ),
    "too many arrays": (
        blob({f"{n}": 0 for n in range(MAX_ARRAYS + 1)}),
        f"{MAX_ARRAYS + 1} arrays, of {MAX_ARRAYS} at most",
    ),
    "an entry that is none": (blob({**HEADER, "key": 7}), "something else than dtype, shape and data_offsets"),
    "more in an entry": (with_entry(more=1), "something else than dtype, shape and data_offsets"),
    "a type that does not travel": (with_entry(dtype="F64"), "is of type 'F64'"),
    "a negative length": (with_entry(shape=[-32]), "a shape or offsets that are none"),
    "a length that is no integer": (with_entry(shape=[32.0]), "a shape or offsets that are none"),
    "a length that is a truth value": (with_entry(shape=[True, 32]), "a shape or offsets that are none"),
    "an absurd length": (with_entry(shape=[2**62, 0]), "a shape or offsets that are none"),
    "many dimensions": (with_entry(shape=[1] * 9 + [32]), "a shape or offsets that are none"),
    "three offsets": (with_entry(data_offsets=[0, 32, 32]), "a shape or offsets that are none"),
    "a shape beyond the bytes": (with_entry(shape=[2**40]), "takes 1099511627776 bytes"),
    "bytes in two arrays": (blob({**HEADER, "x": SECOND}), "begins at byte 0"),
    "a gap": (blob({**HEADER, "key": {**SECOND, "data_offsets": [1, 33]}}, BODY + b"x"), "begins at byte 1"),
    "bytes in no array": (blob(HEADER, BODY + b"x"), "arrays end at byte 32 of 33"),
    "bytes that are not there": (blob(HEADER, BODY[:-1]), "arrays end at byte 32 of 31"),
}


@pytest.mark.parametrize("case", list(BYTES))
def test_bytes_that_are_no_message_are_refused_before_an_array_is_made(case, monkeypatch):
    wrong, said = BYTES[case]
    monkeypatch.setattr(safetensors.torch, "load", _never)
    with pytest.raises(MessageError, match=said):
        layout(wrong)
    with pytest.raises(MessageError, match="node 'a' sent what cannot be read: not a Up message: .*"):
        sample("key")[1].read(Up, wrong)
    assert judge(wrong, "Up", sample("key")[1])


def _never(*_):
    raise AssertionError("an array was made of a message that is refused")


@pytest.mark.parametrize("case", list(LAYOUT))
def test_what_the_layout_shows_is_refused_before_an_array_is_made(case, monkeypatch):
    kind, field, change, _ = WRONG[case]
    message, expected = spoilt(kind, field, change)
    sent = message.to_bytes()
    monkeypatch.setattr(safetensors.torch, "load", _never)
    with pytest.raises(MessageError):
        expected.read(type(message), sent)


# The fuzzer, and what it judges by.


@pytest.fixture(scope="module")
def samples():
    found = corpus(anchors=12)
    assert {s.expected.kind for s in found} == set(EVERY), "messages of every kind"
    assert all(judge(s.blob, s.of.__name__, s.expected) is None for s in found)
    return found


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_no_mutant_is_accepted_wrongly_or_breaks_the_reader(samples, seed):
    outcome = fuzz(samples, 100, seed)
    assert not outcome.wrong and not outcome.broken
    assert outcome.refused.total() > 50


def test_the_fuzzer_notices_a_validation_that_is_not_there(samples, monkeypatch):
    monkeypatch.setattr(validation.Expected, "_wrong_value", lambda *_: None)
    assert len(fuzz(samples, 1000, 0).wrong) > 20
    monkeypatch.setattr(validation.Expected, "_check_layout", lambda *_: None)
    assert len(fuzz(samples, 1000, 0).wrong) > 100


# One door, and nothing that runs what it reads.


def sources():
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "src").rglob("*.py")}


def test_no_message_reaches_a_receiver_but_through_what_it_expects():
    calls = {path: re.findall(r"\.carry\(.*", text) for path, text in sources().items()}
    assert calls.pop("src/isogram/hostile.py") == [".carry(message, read)"], "a ledger that passes on what it is given"
    assert {path: len(found) for path, found in calls.items() if found} == {"src/isogram/federation/state.py": 2}
    assert all(".read)" in call or "_expected(" in call for found in calls.values() for call in found)
    parsed = {path for path, text in sources().items() if re.search(r"(?<!int)\.from_bytes\(", text)}
    assert parsed == {"src/isogram/messages.py", "src/isogram/validation.py"}


UNSAFE = re.compile(
    r"\bpickle\b|\bmarshal\b|\bshelve\b|\bdill\b|\bjoblib\b|yaml\.(unsafe_)?load|allow_pickle\s*=\s*True"
    r"|(?<![\w.])(eval|exec)\(|(?<!safetensors\.)torch\.load\((?![^)]*weights_only=True)"
)


def test_nothing_is_unpickled_or_run():
    assert UNSAFE.search("torch.load(path)") and not UNSAFE.search("torch.load(path, weights_only=True)")
    assert UNSAFE.search("x = eval(text)") and not UNSAFE.search("model.eval()")
    assert UNSAFE.search("np.load(f, allow_pickle=True)")
    found = {path: UNSAFE.findall(text) for path, text in sources().items() if UNSAFE.search(text)}
    assert not found


@pytest.mark.parametrize("spoil", [lambda v: v + 1, lambda v: -v, lambda v: v ^ 3])
def test_counts_that_do_not_add_up_are_refused_though_no_single_one_shows_it(spoil):
    parties = [SumParty() for _ in range(3)]
    keys = torch.stack([party.key for party in parties])
    masked = [party.masked(torch.tensor([7.0, 9.0, 5.0]), keys, 2, "counts") for party in parties]
    ups = [replace(sample("counts")[0], node=name, counts=v) for name, v in zip("abc", masked, strict=True)]
    assert merge_counts(ups).tolist() == [21, 27, 15]
    read(replace(ups[0], counts=spoil(masked[0])), sample("counts")[1])
    with pytest.raises(MessageError, match="counts of nodes 'a', 'b', 'c' do not add up"):
        merge_counts([replace(ups[0], counts=spoil(masked[0])), *ups[1:]])
