"""Messages of every kind as they should be, and what can be wrong with each."""

from dataclasses import replace

import torch

from isogram.alignment import gram, pack, shrink, unpack
from isogram.messages import Down, Ledger, Up
from isogram.validation import KINDS, Expected

K, C, R, RHO = 12, 3, 5, 0.1
SHAPES = {"adapters": {"x.lora_B": (4, 2)}, "precision": {"x.lora_B": (4, 2)}, "sketches": {"x": (4, 6)}}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shrunk(k=K, rho=RHO, seed=0):
    return pack(shrink(gram(draw(k, 20, seed=seed)), rho))


def key(byte=9):
    return torch.tensor([byte, *[0] * 31], dtype=torch.uint8)


def pair_of(byte):
    return torch.cat([key(byte), key(byte + 1)])


def text(of):
    return torch.frombuffer(bytearray(of.encode()), dtype=torch.uint8)


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
    "pair": {"pair": torch.cat([key(9), key(5)])},
    "parcels": {"parcels": torch.full((3, 148), 7, dtype=torch.uint8)},
    "summand": {"summand": torch.full((5, 7), 255, dtype=torch.uint8)},
    "shares": {"shares": torch.full((3, 66), 7, dtype=torch.uint8)},
    "pairs": {"names": text('["a", "b", "c"]'), "pairs": torch.stack([pair_of(n) for n in (9, 11, 13)])},
    "sealed": {
        "parcels": torch.full((3, 148), 7, dtype=torch.uint8),
        "present": torch.tensor([1, 0, 1], dtype=torch.uint8),
        "scales": torch.tensor([2.0**30, 2.0**-9]),
    },
    "present": {"present": torch.tensor([1, 0, 1], dtype=torch.uint8)},
    "directions": {"directions": torch.cat([unit(draw(C - 1, R)), torch.full((1, R), torch.nan)])},
    "weights": {"quality": torch.full((10,), 0.5)},
    "others": {"others": shrunk()},
    "frame": {"frame": draw(K, R)},
    "head": {"head": torch.cat([unit(draw(1, R)), torch.zeros(1, R), torch.full((1, R), torch.nan)])},
    "finish": {"head": torch.cat([unit(draw(2, R)), torch.full((1, R), torch.nan)])},
    "keys": {"keys": torch.stack([key(9), key(5)]), "names": text('["a", "b"]')},
    "evidence": {
        "keys": torch.stack([key(9), key(5)]),
        "names": text('["a", "b"]'),
        "evidence": torch.tensor([0, 1, 1], dtype=torch.uint8),
    },
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
NUMBERS = {"update": {"samples": 9}, "frame": {"fit": 2}, "evidence": {"second": 1}, "pairs": {"threshold": 2}}


def sample(kind, **changes):
    """A message of a kind as it should be, but for some fields, and what its receiver expects."""
    up = kind in KINDS[Up]
    round = 0 if kind in ("gram", "weights", "others") else 2
    lengths = {"K": K, "C": C, "r": R} | ({} if up else {"k": 10})
    lengths |= {"parcels": {"m": 3}, "shares": {"m": 3}, "summand": {"v": 5}}.get(kind, {})
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
    "a threshold of one": ("pairs", "threshold", lambda _: 1, "threshold = '1', of 2 to 16384"),
    "no threshold": ("pairs", "threshold", lambda _: 0, "threshold = '0', of 2 to 16384"),
    "a threshold with a frame": ("frame", "threshold", lambda _: 2, "threshold = '2', of 0 to 0"),
    "shares for another number of nodes": ("shares", "shares", lambda v: v[1:], r"as \(2, 66\), it is \(3, 66\)"),
    "parcels of another size": ("sealed", "parcels", lambda v: v[:, 1:], r"as \(3, 147\), it is \(3, 148\)"),
    "flags for another number of nodes": ("sealed", "present", lambda v: v[1:], r"as \(2,\), it is \(3,\)"),
    "another number of summands": ("summand", "summand", lambda v: v[1:], r"as \(4, 7\), it is \(5, 7\)"),
    "bare summands": ("summand", "summand", lambda v: v.float(), "the summand as F32, it is U8"),
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
    "a pair of small order": ("pair", "pair", at(32, 1), "a point of small order"),
    "a pair of one key": ("pair", "pair", at(32, 9), "one key twice in the pair"),
    "a node's pair twice": ("pairs", "pairs", lambda v: v[[0, 1, 1]], "one key twice in the pairs"),
    "names that are no JSON": ("pairs", "names", at(0, 255), "what is no JSON in the names"),
    "names that are no list": ("pairs", "names", lambda _: text('{"a": 1}'), "what is no list of texts"),
    "names that are numbers": ("pairs", "names", lambda _: text("[1, 2]"), "what is no list of texts"),
    "a name twice": ("pairs", "names", lambda _: text('["a", "a"]'), "names that stand twice or in no order"),
    "names in no order": ("pairs", "names", lambda _: text('["b", "a"]'), "names that stand twice or in no order"),
    "half present": ("present", "present", at(0, 2), "numbers beside 0 and 1 in the present"),
    "a scale of 0": ("sealed", "scales", at(0, 0), "numbers that are no powers of two in the scales"),
    "a scale of 3": ("sealed", "scales", at(0, 3), "numbers that are no powers of two in the scales"),
    "an infinite scale": ("sealed", "scales", at(0, INF), "numbers that are no powers of two in the scales"),
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
