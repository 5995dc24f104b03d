"""What a kind of data is: how an item is read, and what makes tokens of it."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from isogram.config import ModalityConfig
from isogram.data.base import UNPACKED, FloatArray
from isogram.errors import DataError

MOST = 1_000_000
"""Samples a second that a file may claim: what is resampled from more would not fit a memory."""


@dataclass(frozen=True)
class Item:
    """One thing of a silo or an anchor set, not read yet: a file, a cell of text, or a row of numbers.

    where: as people find it: "photos/cat.png" or "notes.csv, line 7". Exactly one of the others is not None.
    path: of a file. text: of a cell, or the letters of a sequence. values: name of a column -> its number.
    """

    where: str
    path: Path | None = None
    text: str | None = None
    values: tuple[tuple[str, float], ...] | None = None


class BadItem(DataError):
    """An item that cannot be read or encoded; its message names where it stands and the remedy."""


class Encoder(Protocol):
    """A frozen, public function from what a kind reads to tokens; it sees one item at a time.

    It may be called from several threads at once. An attribute `rate`, if it has one, is that of the sound it hears.

    fingerprint: changes whenever the same item may get other tokens: of code, weights and settings. Keys the cache;
        empty where a look-up would be slower than the encoder, and nothing is kept.
    batch: items that it is given at once, at most.
    """

    @property
    def fingerprint(self) -> str:
        """Of code, weights and settings."""
        ...

    @property
    def batch(self) -> int:
        """Items."""
        ...

    def __call__(self, read: Sequence[Any]) -> FloatArray:
        """Items as their kind reads them -> [n, T, c] float32, the same T and c for all items there are."""
        ...


class Kind(Protocol):
    """One row of `KINDS`: what it reads, and its tokenizer that needs no download.

    suffixes: of the files it reads, lower case, with their dot; empty where its items are cells or rows.
    """

    @property
    def name(self) -> str:
        """As settings call it."""
        ...

    @property
    def suffixes(self) -> frozenset[str]:
        """Of files."""
        ...

    def read(self, item: Item, config: ModalityConfig) -> Any:
        """The item as its encoders take it: pixels, a waveform, text, numbers.

        Raises:
            BadItem: it cannot be, with where and remedy.
        """
        ...

    def describe(self, read: Any) -> str:
        """A few words on one item for `isogram node check`: "640 x 480", "1.8 s at 16,000 Hz", "12 words"."""
        ...

    def builtin(self, config: ModalityConfig) -> Encoder:
        """The tokenizer that needs no download."""
        ...


@runtime_checkable
class Columned(Protocol):
    """A kind whose items have named columns of numbers, in an order that `ModalityConfig.columns` fixes.

    What it reads has `others`: the columns of the item that the settings do not name.
    """

    def columns(self, item: Item) -> tuple[str, ...]:
        """All that an item has, in its own order.

        Raises:
            BadItem: it cannot be read.
        """
        ...


@runtime_checkable
class Canonical(Protocol):
    """A kind that says when two items are one and the same row, in whatever files or cells they stand.

    Of kinds that do not, text is the same if it is equal as read, and other items if their bytes are.
    """

    def content(self, read: Any) -> bytes:
        """What encoders see of an item."""
        ...


@runtime_checkable
class Changing(Protocol):
    """A kind whose reading changes some items more than others, which people have to know."""

    def changes(self, read: Any) -> tuple[str, ...]:
        """What was done to an item, as it goes on after "1 of 6": "at 8,000 Hz, resampled to 16,000"."""
        ...


@dataclass(frozen=True)
class Builtin:
    """An encoder that is one function, and nothing to load.

    version: part of the fingerprint; another one whenever the function gives other tokens. Empty: see `Encoder`.
    """

    kind: str
    version: str
    tokens: Callable[[Sequence[Any]], FloatArray]
    batch: int = 64

    @property
    def fingerprint(self) -> str:
        """Of code alone."""
        return self.version and f"builtin {self.kind} {self.version}"

    def __call__(self, read: Sequence[Any]) -> FloatArray:
        """[n, T, c]; see `Encoder`."""
        return self.tokens(read)


def path_of(item: Item) -> Path:
    """Where the item's file is.

    Raises:
        BadItem: it has none, or there is no such file.
    """
    if item.path is None:
        raise BadItem(f"{item.where}: is to be read from a file; give a column of paths, or a folder")
    try:
        there = item.path.is_file()
    except OSError as error:
        raise _unreadable(item, error) from error
    if not there:
        raise BadItem(f"{item.where}: there is no file {item.path}; correct the path or leave it out")
    return item.path


def bytes_of(item: Item) -> bytes:
    """All of the item's file.

    Raises:
        BadItem: as `path_of`; it cannot be read, or has more than `UNPACKED` bytes.
    """
    with opened(item) as file:
        refuse_large(item, os.fstat(file.fileno()).st_size)
        return file.read()


@contextmanager
def opened(item: Item) -> Iterator[BufferedReader]:
    """The item's file, of any size.

    Raises:
        BadItem: as `path_of`; or it cannot be read.
    """
    path = path_of(item)
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise _unreadable(item, error) from error


def refuse_large(item: Item, size: float, what: str = "cut it into pieces") -> None:
    """Before it is unpacked to `size` bytes.

    Raises:
        BadItem: that is more than `UNPACKED`.
    """
    if size > UNPACKED:
        raise BadItem(
            f"{item.where}: unpacks to {size / 2**30:,.1f} GiB, and at most {UNPACKED / 2**30:.3g} GiB are read; {what}"
        )


def resampling(rate: int, to: int) -> tuple[str, ...]:
    """Of `Changing.changes`, what is said of a rate that is another one than wanted."""
    return (f"at {rate:,} Hz, resampled to {to:,}",) if rate != to else ()


def numbers_content(columns: Sequence[str], values: NDArray[np.float64]) -> bytes:
    """Named columns of numbers as encoders see them, see `Canonical`: to single precision, however they are written."""
    with np.errstate(over="ignore"):
        seen = values.astype("<f4") + np.float32(0)  # no sign of a zero
    return f"{json.dumps(list(columns))} {seen.shape}\n".encode() + seen.tobytes()


def _unreadable(item: Item, error: OSError) -> BadItem:
    return BadItem(f"{item.where}: cannot be read ({error.strerror or error}); get permission to read it")
