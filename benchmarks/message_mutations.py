"""Ways to spoil a message, from single bits to whole messages of another round; see `fuzz_messages`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch

from isogram.messages import Message
from isogram.validation import Expected


@dataclass(frozen=True)
class Sample:
    """A message that is as its receiver expects it."""

    of: type[Message]
    expected: Expected
    blob: bytes


Rng = np.random.Generator
Mutation = Callable[[Sample, Rng, list[Sample]], bytes]


def _open(blob: bytes) -> tuple[dict[str, Any], bytearray]:
    length = int.from_bytes(blob[:8], "little")
    return json.loads(blob[8 : 8 + length]), bytearray(blob[8 + length :])


def _close(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(body)


def flip(sample: Sample, rng: Rng, others: list[Sample]) -> bytes:
    """A few bits, half the time in the header."""
    blob = bytearray(sample.blob)
    end = len(blob) if rng.random() < 0.5 else 8 + int.from_bytes(blob[:8], "little")
    for at in rng.integers(0, end, rng.integers(1, 5)):
        blob[at] ^= 1 << int(rng.integers(8))
    return bytes(blob)


def cut(sample: Sample, rng: Rng, others: list[Sample]) -> bytes:
    """A piece taken out, put in twice, or noise at the end."""
    blob = sample.blob
    a, b = sorted(int(n) for n in rng.integers(0, len(blob) + 1, 2))
    pieces = (blob[:a], blob[:a] + blob[b:], blob[:b] + blob[a:], blob + rng.bytes(b - a), rng.bytes(a))
    return pieces[rng.integers(len(pieces))]


def length(sample: Sample, rng: Rng, others: list[Sample]) -> bytes:
    """Another length of the header."""
    true = int.from_bytes(sample.blob[:8], "little")
    choices = (true + int(rng.integers(-9, 10)), int(rng.integers(0, 1 << 62)), 0, (1 << 64) - 1, len(sample.blob))
    return max(0, choices[rng.integers(len(choices))]).to_bytes(8, "little") + sample.blob[8:]


ODD: tuple[Any, ...] = (
    -1,
    0,
    1,
    3,
    2**31,
    2**63,
    2**64,
    10**30,
    1.0,
    1e400,
    float("nan"),
    True,
    None,
    "7",
    [],
    {},
    [2],
)


def describe(sample: Sample, rng: Rng, others: list[Sample]) -> bytes:
    """Type, shape or offsets of an array, or its name."""
    header, body = _open(sample.blob)
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return _close({**header, "x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, body)
    name = names[rng.integers(len(names))]
    entry = header[name]
    odd = ODD[rng.integers(len(ODD))]
    match rng.integers(9):
        case 0:
            entry["dtype"] = ("F64", "F16", "BF16", "I32", "I64", "U8", "I8", "BOOL", "F32", odd)[rng.integers(10)]
        case 1:
            entry["shape"] = [*entry["shape"][:-1], odd]
        case 2:
            entry["shape"] = ([1, *entry["shape"]], entry["shape"][::-1], [], odd, [1] * 70)[rng.integers(5)]
        case 3:
            entry["data_offsets"][rng.integers(2)] = odd
        case 4:
            entry["data_offsets"] = [int(n) for n in rng.integers(0, len(body) + 9, 2)]
        case 5:
            del entry[list(entry)[rng.integers(3)]]
        case 6:
            del header[name]
        case 7:
            other = (
                "",
                "/",
                "x",
                "__metadata__",
                f"adapters/{name}",
                f"{name}/",
                "node",
                "samples",
                "\ud800",
                "é" * 99,
            )
            header[other[rng.integers(len(other))]] = header.pop(name)
        case _:
            kind = others[rng.integers(len(others))]
            fields = [n for n in _open(kind.blob)[0] if n != "__metadata__"] or ["gram"]
            header[fields[rng.integers(len(fields))]] = header.pop(name)
    return _close(header, body)


def text(sample: Sample, rng: Rng, others: list[Sample]) -> bytes:
    """Another node, round, model ...: one text of the metadata."""
    header, body = _open(sample.blob)
    texts = json.loads(header["__metadata__"]["message"])
    known = ("type", "node", "round", "anchor_hash", "run", "modality", "samples", "model", "fit", "second", "colour")
    name = known[rng.integers(len(known))]
    values = (
        "",
        "0",
        "1",
        "2",
        "-1",
        "01",
        "1_0",
        " 1",
        "\uff11",
        "9" * 5000,
        "1e3",
        "nan",
        "Up",
        "Down",
        "x",
        3,
        None,
        {},
    )
    texts[name] = values[rng.integers(len(values))]
    if rng.random() < 0.1:
        texts.pop(name)
    header["__metadata__"]["message"] = json.dumps(texts, ensure_ascii=bool(rng.integers(2)))
    if rng.random() < 0.1:
        header["__metadata__"]["more"] = "x"
    return _close(header, body)


def syntax(sample: Sample, rng: Rng, others: list[Sample]) -> bytes:
    """JSON that is deep, huge, in another encoding, or says something twice."""
    header, body = _open(sample.blob)
    plain = json.dumps(header).encode()
    depth, names = int(10 ** rng.uniform(1, 5)), list(header)
    name = names[rng.integers(len(names))]
    again = json.dumps({name: header[name]}).encode()
    choices = (
        b'{"x":' * depth + b"1" + b"}" * depth,
        b"[" * depth,
        plain[:-1] + b', "' + b"x" * depth + b'": 1}',
        plain[:-1] + b", " + again[1:],
        plain.decode().encode("utf-16"),
        plain + b" " * depth,
        plain.replace(b'"dtype"', b'"\\u0064type"', 1),
        b"\xff" + plain,
        plain.replace(b"[", b"[" + b"9" * depth + b",", 1),
        plain[:-1] + b', "__metadata__": null}',
        json.dumps(
            {**header, **{f"a{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(99)}}
        ).encode(),
    )
    return _close(choices[rng.integers(len(choices))], body)


FLOATS = (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -1e-45, 0.0, -0.0, 1.0, -1.0, 2.0, 1e6)


def value(sample: Sample, rng: Rng, others: list[Sample]) -> bytes:
    """One number or a few of them, or all in some way."""
    header, body = _open(sample.blob)
    names = [name for name in header if name != "__metadata__" and header[name]["shape"] not in ([0],)]
    if not names:
        return flip(sample, rng, others)
    entry = header[names[rng.integers(len(names))]]
    begin, end = entry["data_offsets"]
    kind = {"F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "u1"}[entry["dtype"]]
    numbers = np.frombuffer(bytes(body[begin:end]), dtype=kind).copy()
    at = rng.integers(0, len(numbers), min(len(numbers), int(rng.choice([1, 1, 1, 2, 9]))))
    if kind == "<f4":
        with np.errstate(all="ignore"):
            match rng.integers(7):
                case 0 | 1 | 2:
                    numbers[at] = FLOATS[rng.integers(len(FLOATS))]
                case 3:
                    numbers[at] += np.float32(rng.normal() * 10 ** rng.uniform(-8, 1))
                case 4:
                    numbers *= np.float32(rng.choice([-1, 0, 0.5, 0.9, 0.999, 1.001, 1.1, 2, 1e30]))
                case 5:
                    numbers += rng.normal(size=len(numbers)).astype("<f4") * np.float32(10 ** rng.uniform(-8, 0))
                case _:
                    rng.shuffle(numbers)
    else:
        limits = np.iinfo(kind)
        numbers[at] = rng.choice([limits.min, limits.max, 0, 1, 2, int(rng.integers(0, limits.max))])
        if rng.random() < 0.2:
            numbers[:] = numbers[::-1] if rng.random() < 0.5 else numbers[0]
    body[begin:end] = numbers.tobytes()
    return _close(header, body)


def swap(sample: Sample, rng: Rng, others: list[Sample]) -> bytes:
    """An array of another message put in, in the place of one or beside them."""
    header, body = _open(sample.blob)
    theirs, their_body = _open(others[rng.integers(len(others))].blob)
    names = [name for name in theirs if name != "__metadata__"]
    if not names:
        return cut(sample, rng, others)
    arrays = {n: (e, bytes(body[slice(*e["data_offsets"])])) for n, e in header.items() if n != "__metadata__"}
    name = names[rng.integers(len(names))]
    target = list(arrays)[rng.integers(len(arrays))] if arrays and rng.random() < 0.5 else name
    arrays[target] = (theirs[name], bytes(their_body[slice(*theirs[name]["data_offsets"])]))
    if arrays and rng.random() < 0.3:
        arrays.pop(list(arrays)[rng.integers(len(arrays))])
    found, whole = {"__metadata__": header["__metadata__"]}, b""
    for n, (entry, part) in arrays.items():
        found[n] = {**entry, "data_offsets": [len(whole), len(whole) + len(part)]}
        whole += part
    return _close(found, whole)


def replay(sample: Sample, rng: Rng, others: list[Sample]) -> bytes:
    """A whole message of another round, node or kind."""
    return others[rng.integers(len(others))].blob


def convert(sample: Sample, rng: Rng, others: list[Sample]) -> bytes:
    """One array in another type or shape, all else in order."""
    header, _ = _open(sample.blob)
    arrays = safetensors.torch.load(sample.blob)
    if not arrays:
        return flip(sample, rng, others)
    name = sorted(arrays)[rng.integers(len(arrays))]
    of = arrays[name]
    types = (torch.float16, torch.float64, torch.bfloat16, torch.int32, torch.int64, torch.uint8, torch.bool)
    shapes = (
        of[None],
        of[..., None],
        of[:-1] if of.ndim else of,
        torch.cat([of, of]) if of.ndim else of,
        of.mT if of.ndim > 1 else of.flip(0),
        of[:0],
    )
    choice = rng.integers(2)
    arrays[name] = (
        of.to(types[rng.integers(len(types))]) if choice else shapes[rng.integers(len(shapes))].contiguous().clone()
    )
    return safetensors.torch.save(arrays, metadata=header["__metadata__"])


MUTATIONS: tuple[Mutation, ...] = (flip, cut, length, describe, text, syntax, value, value, swap, replay, convert)
