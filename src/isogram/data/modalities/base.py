"""What a kind of data is: how an item is read, and what makes tokens of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from isogram.config import ModalityConfig
from isogram.data.base import FloatArray
from isogram.errors import DataError


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

    fingerprint: changes whenever the same item may get other tokens: of code, weights and settings. Keys the cache.
    batch: items that it is given at once, at most.
    """

    fingerprint: str
    batch: int

    def __call__(self, read: Sequence[Any]) -> FloatArray:
        """Items as their kind reads them -> [n, T, c] float32, the same T and c for all items there are."""
        ...


class Kind(Protocol):
    """One row of `KINDS`: what it reads, and its tokenizer that needs no download.

    suffixes: of the files it reads, lower case, with their dot; empty where its items are cells or rows.
    """

    name: str
    suffixes: frozenset[str]

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
