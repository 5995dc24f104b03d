"""A second opinion on messages, slow and naive: whether bytes are a message that its receiver may use.

Written from what `messages` says of the fields, without any code of the validation that it judges: struct, json and
numpy alone, one `if` after the other. Tolerances are twice the validation's, so that last bits decide nothing.
"""

import json
import struct
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from isogram.validation import Expected

TYPES = {"F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "u1"}

MUST = {
    "gram": ["gram"],
    "key": ["key"],
    "counts": ["counts"],
    "sums": ["head"],
    "directions": ["directions"],
    "embeddings": ["embeddings"],
    "pair": ["pair"],
    "parcels": ["parcels"],
    "summand": ["summand"],
    "shares": ["shares"],
    "blocks": ["block_start", "block_trained", "index"],
    "update": [],
    "weights": ["quality"],
    "others": ["others"],
    "frame": ["frame"],
    "head": ["head"],
    "keys": ["names", "keys"],
    "evidence": ["names", "keys", "evidence"],
    "pairs": ["names", "pairs"],
    "sealed": ["parcels", "present", "scales"],
    "present": ["present"],
    "targets": [],
    "average": [],
    "bases": [],
    "finish": [],
}
MAY = {
    "gram": ["index", "quality"],
    "targets": ["frame", "geometry", "head", "prototypes", "counterparts", "siblings", "peers"],
    "finish": ["head"],
}


def judge(blob: bytes, direction: str, expected: Expected) -> str | None:
    """Why the receiver of these bytes may not use them, None if it may."""
    try:
        return _judge(blob, direction, expected)
    except (ValueError, KeyError, TypeError, IndexError, struct.error, OverflowError, RecursionError) as error:
        return f"no message: {error!r}"


def _judge(blob: bytes, direction: str, e: Expected) -> str | None:
    (length,) = struct.unpack("<Q", blob[:8])
    if 8 + length > len(blob):
        return "header longer than the blob"
    twice: list[str] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        twice.extend(["twice"] * (len({k for k, _ in found}) != len(found)))
        return dict(found)

    header = json.loads(str(blob[8 : 8 + length], "utf-8"), object_pairs_hook=pairs)
    metadata = header.pop("__metadata__")
    if list(metadata) != ["message"]:
        return "other metadata"
    texts = json.loads(metadata["message"], object_pairs_hook=pairs)
    if twice:
        return "a key twice"
    body = blob[8 + length :]
    seen = np.zeros(len(body), dtype=int)
    arrays: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        if sorted(entry) != ["data_offsets", "dtype", "shape"] or not 0 <= begin <= end <= len(body):
            return f"{name}: offsets"
        if any(isinstance(n, bool | float) or n < 0 for n in (*entry["shape"], begin, end)):
            return f"{name}: numbers that are none"
        seen[begin:end] += 1
        arrays[name] = np.frombuffer(body[begin:end], dtype=TYPES[entry["dtype"]]).reshape(entry["shape"])
    if (seen != 1).any():
        return "bytes in no array or in two"
    return _texts(texts, direction, e) or _arrays(arrays, texts, direction, e)


def _texts(texts: dict[str, str], direction: str, e: Expected) -> str | None:
    right = {"type": direction, "node": e.node, "round": str(e.round), "anchor_hash": e.anchor_hash}
    if direction == "Up":
        right["modality"] = e.modality
    if e.run:
        right["run"] = e.run
    if e.model:
        right["model"] = e.model
    for name, value in right.items():
        if texts.get(name) != value:
            return f"{name} is {texts.get(name)!r}"
    rest = {name: value for name, value in texts.items() if name not in right}
    count = rest.pop("samples", "") if e.kind == "update" and e.counted else "1"
    if not (count.isdecimal() and 1 <= int(count) <= 2**48):
        return "samples"
    if e.kind == "frame" and not 0 <= int(rest.pop("fit", "0")) < e.ways:
        return "fit"
    if e.kind == "evidence" and rest.pop("second", "0") not in ("0", "1"):
        return "second"
    if e.kind == "pairs" and not 2 <= int(rest.pop("threshold", "0")) <= 2**14:
        return "threshold"
    # A number at its default need not travel, and may.
    left = {
        n: v
        for n, v in rest.items()
        if not (v == "0" and n in {"samples", "fit", "second", "threshold"} and n in _own(direction))
    }
    return f"texts {sorted(left)}" if left else None


def _own(direction: str) -> set[str]:
    return {"samples"} if direction == "Up" else {"fit", "second", "threshold"}


def _arrays(arrays: dict[str, np.ndarray], texts: dict[str, str], direction: str, e: Expected) -> str | None:
    anchors, classes = e.lengths["K"], e.lengths["C"]
    plain = {name: value for name, value in arrays.items() if "/" not in name}
    must = set(MUST[e.kind]) | ({"second"} if e.kind == "sums" and e.second else set())
    may = must | set(MAY.get(e.kind, [])) | ({"index"} if direction == "Up" else set())
    if not must <= set(plain) <= may:
        return f"fields {sorted(plain)}"
    groups = {f"{group}/{name}": shape for group, shapes in e.groups.items() for name, shape in shapes.items()}
    if set(arrays) - set(plain) != set(groups):
        return "adapters"
    for name, shape in groups.items():
        value = arrays[name]
        if value.dtype != "<f4" or value.shape != tuple(shape) or not np.isfinite(value).all():
            return name
        if name.startswith("precision/") and (value < 0).any():
            return name
        if e.kind == "bases" and np.abs(value.astype(float) @ value.T - np.eye(len(value))).max() > 2e-4:
            return name
    k = e.lengths.get("k", anchors)
    if direction == "Up" and "index" in plain:
        index = plain["index"]
        places = anchors if e.places is None else e.places
        if index.dtype != "<i4" or index.ndim != 1 or any(not 0 <= i < places for i in index.tolist()):
            return "index"
        if any(a >= b for a, b in zip(index.tolist(), index.tolist()[1:], strict=False)):
            return "index order"
        k = len(index)
    r = e.lengths.get("r", plain["head"].shape[1] if "head" in plain else None)
    d = next(
        (plain[n].shape[-1] for n in ("embeddings", "prototypes", "counterparts", "siblings", "peers") if n in plain), 1
    )
    m = e.lengths.get("m", len(next((plain[n] for n in ("parcels", "pairs", "present") if n in plain), [])))
    shapes = {
        "index": ("<i4", (k,)),
        "gram": ("<f4", (k * (k + 1) // 2,)),
        "quality": ("<f4", (k,)),
        "key": ("u1", (32,)),
        "counts": ("<i8", (classes,)),
        "head": ("<i8" if direction == "Up" else "<f4", (classes, r)),
        "directions": ("<f4", (classes, r)),
        "second": ("<i8", (r * (r + 1) // 2,) if r else None),
        "block_start": ("<f4", (k, anchors)),
        "block_trained": ("<f4", (k, anchors)),
        "embeddings": ("<f4", (k, d)),
        "frame": ("<f4", (anchors, r)),
        "geometry": ("<f4", (anchors * (anchors + 1) // 2,)),
        "others": ("<f4", (anchors * (anchors + 1) // 2,)),
        "keys": ("u1", (len(plain.get("keys", [])), 32)),
        "evidence": ("u1", (classes,)),
        "prototypes": ("<f4", (anchors, d)),
        "counterparts": ("<f4", (anchors, d)),
        "siblings": ("<f4", (anchors, d)),
        "peers": ("<f4", (len(plain.get("peers", [])), anchors, d)),
        "pair": ("u1", (64,)),
        "parcels": ("u1", (m, 148)),
        "summand": ("u1", (e.lengths.get("v"), 7)),
        "shares": ("u1", (m, 66)),
        "names": ("u1", (len(plain.get("names", [])),)),
        "pairs": ("u1", (m, 64)),
        "present": ("u1", (m,)),
        "scales": ("<f4", (len(plain.get("scales", [])),)),
    }
    for name, value in plain.items():
        dtype, shape = shapes[name]
        if value.dtype != dtype or value.shape != shape or 0 in value.shape[1:]:
            return f"{name} is {value.dtype} {value.shape}"
        if problem := _value(name, value, direction, e):
            return f"{name}: {problem}"
    return None


def _value(name: str, value: np.ndarray, direction: str, e: Expected) -> str | None:
    if name in ("gram", "geometry", "others"):
        return _gram(name, value, e)
    if name in ("block_start", "block_trained", "embeddings", "frame", "prototypes") and not np.isfinite(value).all():
        return "not finite"
    if name == "frame" and max(np.linalg.norm(row.astype(float)) for row in value) > 1.0001 * e.lengths["K"] ** e.power:
        return "rows too long"
    if name == "quality" and any(not 0 < float(q) <= 1 for q in value):
        return "weights"
    if name == "scales" and any(not 0 < s < np.inf or np.log2(s) % 1 for s in value.astype(float)):
        return "scales"
    if name == "names":
        found = json.loads(bytes(value))
        if not isinstance(found, list) or any(not isinstance(n, str) for n in found) or found != sorted(set(found)):
            return "names"
    if name in ("evidence", "present") and any(int(v) not in (0, 1) for v in value):
        return "flags"
    if name in ("key", "keys", "pair", "pairs"):
        rows = [bytes(row) for row in value.reshape(-1, 32)]
        for row in rows:
            X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(row))  # ValueError: small order
        if len(set(rows)) != len(rows):
            return "a key twice"
    unit = name == "directions" or (name == "head" and direction == "Down")
    if unit or name in ("counterparts", "siblings", "peers"):
        for row in value.reshape(-1, value.shape[-1]):
            if np.isnan(row).all():
                continue
            if not np.isfinite(row).all():
                return "a row in part"
            norm = float(np.sqrt(sum(float(x) ** 2 for x in row)))
            if unit and norm != 0 and abs(norm - 1) > 2e-4:
                return "norms"
    return None


def _gram(name: str, packed: np.ndarray, e: Expected) -> str | None:
    if not np.isfinite(packed).all():
        return "not finite"
    k = 0
    while k * (k + 1) // 2 < len(packed):
        k += 1
    m = np.zeros((k, k))
    at = 0
    for row in range(k):
        for col in range(row + 1):
            m[row, col] = m[col, row] = packed[at]
            at += 1
    values = np.linalg.eigvalsh(m)
    sums = m.sum(1)
    if name != "gram":
        scale = np.abs(np.diag(m)).max()
        if scale > e.lengths["K"] ** max(1, 2 * e.power) * 1.0001:
            return "too large"
        # Cholesky tolerates what it rounds.
        if values[0] < -2e-5 * scale or np.linalg.norm(sums) > 2e-5 * scale * k:
            return "no Gram"
        return None
    if k < 2 or values[0] < -2e-5 or values[-1] > k / (k + e.rho) + 2e-5 or np.linalg.norm(sums) > 2e-5 * np.sqrt(k):
        return "no shrunk Gram"
    ridge = sum(v / (1 - v) for v in np.clip(values, 0, k / (k + e.rho))) * e.rho / k
    spread = sum((1 - v) ** -2 for v in np.clip(values, 0, k / (k + e.rho))) * e.rho / k
    return "another ridge" if abs(ridge - 1) > 2e-2 + 2e-5 * spread else None
