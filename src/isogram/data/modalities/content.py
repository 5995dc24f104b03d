"""What is in an item: the bytes by which its tokens are kept, and what encoders see, by which rows are the same."""

import hashlib
import json
from functools import cache
from typing import Any, cast

from isogram.data.modalities.base import Canonical, Item, Kind, opened


def content_hash(item: Item) -> str:
    """The sha256, in hex, of a file's bytes, of a cell's UTF-8, or of names and numbers as JSON.

    Raises:
        BadItem: its file cannot be read.
    """
    if item.values is not None:
        return hashlib.sha256(json.dumps(item.values, separators=(",", ":")).encode()).hexdigest()
    if item.text is not None:
        return hashlib.sha256(item.text.encode("utf-8", "surrogatepass")).hexdigest()
    with opened(item) as file:  # in blocks: a recording of a day needs no memory to be known again
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_key(item: Item) -> str:
    """The same with what decides how a kind reads it: a cell is not a file, and files go by their suffix.

    Raises:
        BadItem: its file cannot be read.
    """
    form = "cell" if item.path is None else f"file {item.path.suffix.lower()}"
    return hashlib.sha256(f"{form}\n{content_hash(item)}".encode()).hexdigest()


def seen_hash(kind: Kind, read: Any, otherwise: str) -> str:
    """The sha256, in hex, of what encoders see of an item: equal for one row in other bytes.

    Args:
        kind: that read it.
        read: what it made of it.
        otherwise: a hash of the item's bytes, where its kind does not say what is seen.
    """
    if _is_canonical(type(kind)):
        return hashlib.sha256(cast(Canonical, kind).content(read)).hexdigest()
    if isinstance(read, str):
        return hashlib.sha256(read.encode("utf-8", "surrogatepass")).hexdigest()
    return otherwise


@cache
def _is_canonical(kind: type) -> bool:
    """Once for each kind: a look at a protocol takes as long as the reading of a row."""
    return issubclass(kind, Canonical)
