"""A message's bytes, read with suspicion: what a safetensors blob says it holds, before any of it is believed.

Layout: 8 bytes of length, that much JSON, and the arrays without a gap (docs of safetensors, "Format"). Nothing else is
ever parsed, and nothing is allocated by what a header claims.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isogram.errors import MessageError

HEADER = "message"
"""The one entry of the metadata: a JSON object of texts."""

MAX_HEADER = 1 << 22
"""Bytes of JSON; the header of ten thousand adapters takes a third."""

MAX_ARRAYS = 1 << 15

MAX_DIMENSIONS = 8

SIZES = {"F32": 4, "F16": 2, "I64": 8, "I32": 4, "U8": 1}
"""Bytes of a number, by its type's name on the wire. Others do not travel."""


@dataclass(frozen=True)
class Array:
    """What a header says of one array."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """What a blob says it holds: texts by name, arrays by name on the wire."""

    texts: Mapping[str, str]
    arrays: Mapping[str, Array]


def layout(blob: bytes) -> Layout:
    """What a blob says it holds; nothing is allocated for an array.

    Raises:
        MessageError: no safetensors in UTF-8 with one JSON object of texts, keys that stand twice, arrays that overlap,
            leave gaps, or do not fill the blob, or more of anything than a message has.
    """
    if len(blob) < 8:
        raise MessageError(f"{len(blob)} bytes are no message: the length of the header alone takes 8")
    length = int.from_bytes(blob[:8], "little")
    if length > min(MAX_HEADER, len(blob) - 8):
        raise MessageError(f"a header of {length} bytes: {len(blob) - 8} bytes follow, and {MAX_HEADER} are the limit")
    found = _object(blob[8 : 8 + length], "the header")
    metadata = found.pop("__metadata__", {})
    if not isinstance(metadata, dict) or set(metadata) - {HEADER} or not isinstance(metadata.get(HEADER, ""), str):
        raise MessageError(f"the metadata hold something beside one text {HEADER!r}")
    texts = _object(metadata.get(HEADER, "{}").encode(errors="surrogatepass"), "the metadata")
    if not all(isinstance(text, str) for text in texts.values()):
        raise MessageError("the metadata are no mapping of names to texts")
    if len(found) > MAX_ARRAYS:
        raise MessageError(f"{len(found)} arrays, of {MAX_ARRAYS} at most")
    arrays: dict[str, Array] = {}
    places: list[tuple[int, int, str]] = []
    for name, entry in found.items():
        arrays[name], begin, end = _array(name, entry)
        places.append((begin, end, name))
    at = 0
    for begin, end, name in sorted(places):
        if begin != at:
            raise MessageError(f"array {name[:60]!r} begins at byte {begin}, not where the one before it ends, at {at}")
        at = end
    if at != len(blob) - 8 - length:
        raise MessageError(f"arrays end at byte {at} of {len(blob) - 8 - length}")
    return Layout(texts, arrays)


def _array(name: str, entry: object) -> tuple[Array, int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise MessageError(f"array {name[:60]!r} is described by something else than dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise MessageError(
            f"array {name[:60]!r} is of type {str(dtype)[:20]!r}; those that travel are {', '.join(SIZES)}"
        )
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS or not _counts(offsets) or len(offsets) != 2:
        raise MessageError(f"array {name[:60]!r} has a shape or offsets that are none")
    size = SIZES[dtype]
    for length in shape:
        size *= length
    if offsets[1] - offsets[0] != size:
        raise MessageError(f"array {name[:60]!r} of shape {shape} takes {size} bytes, not those from {offsets}")
    return Array(dtype, tuple(shape)), offsets[0], offsets[1]


def _counts(value: Any) -> bool:
    # `True` is an int, too, and a list of numbers beyond 64 bits would be slow to multiply.
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in value)


def _object(text: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text.decode(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"{what} is no JSON in UTF-8: {str(error)[:100]}") from error
    if not isinstance(found, dict):
        raise MessageError(f"{what} is no mapping")
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    for name, value in pairs:
        (name + value if isinstance(value, str) else name).encode()  # half a surrogate pair is no text
    return found
