"""One batch of items: read by their kind, seen by the encoder, and whatever is wrong with one of them said of it."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isogram.config import ModalityConfig
from isogram.data.base import FloatArray
from isogram.data.modalities.base import BadItem, Changing, Encoder, Item, Kind
from isogram.data.modalities.content import seen_hash
from isogram.data.modalities.store import Kept
from isogram.data.sheets import few
from isogram.errors import DataError, IsogramError

Results = list[Kept | BadItem | None]
"""Of each item of a batch: what became of it, what is wrong, or None if it was only read."""

_SHOWN = 5
"""Ways in which items of a node are changed that are named."""


class Failed(BadItem):
    """The encoder, not its kind, cannot do with an item; it may be so with all."""


def read_item(kind: Kind, item: Item, config: ModalityConfig) -> Any:
    """What the kind makes of an item.

    Raises:
        BadItem: it cannot be read, for whatever reason: a package's kind may raise anything.
        ConfigError: a library is missing.
    """
    try:
        return kind.read(item, config)
    except IsogramError:
        raise
    except Exception as error:
        raise BadItem(
            f"{item.where}: cannot be read as {kind.name} ({type(error).__name__}: {error}); replace it or leave it out"
        ) from error


def counted(said: Sequence[tuple[str, Sequence[str]]], n: int) -> tuple[str, ...]:
    """Lines such as "2 of 9 at 8,000 Hz, resampled to 16,000: a.wav", the most frequent first.

    Args:
        said: of items that there is something to say of, where they stand and what it is.
        n: items there are.
    """
    times = Counter(one for _, some in said for one in some)
    first = {one: where for where, some in reversed(said) for one in some}
    lines = [f"{count:,} of {n:,} {one}: {first[one]}" for one, count in times.most_common(_SHOWN)]
    return (*lines, *([f"{len(times) - _SHOWN} more such notes"] if len(times) > _SHOWN else []))


@dataclass(frozen=True)
class Reading:
    """Items as a kind reads them by the settings, before any encoder.

    alike: whether columns beside those of the settings are wrong. borrowed: whether the columns are the anchors' and
    nobody chose them, so that others are worth a note.
    """

    kind: Kind
    config: ModalityConfig
    alike: bool
    borrowed: bool = False

    def read(self, item: Item) -> Any:
        """What the kind makes of an item.

        Raises:
            BadItem, ConfigError: as `read_item`; or it has columns that it may not have.
        """
        one = read_item(self.kind, item, self.config)
        self.check(item, getattr(one, "others", ()))
        return one

    def check(self, item: Item, others: Sequence[str]) -> None:
        """Whether an item may have columns beside those of the settings.

        Raises:
            BadItem: it has, and may not.
        """
        if self.alike and others:
            raise BadItem(
                f"{item.where}: has columns {few(others)} beside {few(self.config.columns)}, which the first item has; "
                "name those to use in `columns` of the modality"
            )

    def changes(self, read: Any) -> tuple[str, ...]:
        """What the kind says that it did to an item."""
        return self.kind.changes(read) if isinstance(self.kind, Changing) else ()

    def said(self, others: Sequence[str], changes: Sequence[str]) -> tuple[str, ...]:
        """What people have to know of an item with these other columns and changes, see `counted`."""
        lost = ("with other columns than the anchors, which are not read",) if self.borrowed and others else ()
        return (*lost, *changes)


@dataclass(frozen=True)
class Reader:
    """Items of one batch to tokens, or to what is wrong with them."""

    reading: Reading
    encoder: Encoder

    def __call__(
        self, items: Sequence[Item], keys: Sequence[str], permits: threading.Semaphore, *, only_look: bool
    ) -> Results:
        """What becomes of items, of which `keys` are hashes.

        Args:
            items: of one batch.
            keys: of each, for kinds that do not say what is seen.
            permits: one is held while the encoder works.
            only_look: read them, but leave out the encoder.
        """
        found: Results = []
        read = []
        for item in items:
            try:
                read.append(self.reading.read(item))
                found.append(None)
            except BadItem as error:
                found.append(error)
        good = [place for place, one in enumerate(found) if one is None]
        if good and not only_look:
            with permits:
                tokens = self._encode(read, [items[place] for place in good])
            for place, one, made in zip(good, read, tokens, strict=True):
                if isinstance(made, BadItem):
                    found[place] = made
                else:
                    seen = seen_hash(self.reading.kind, one, keys[place])
                    found[place] = Kept(made, seen, tuple(getattr(one, "others", ())), self.reading.changes(one))
        return found

    def look(self, item: Item) -> tuple[str, FloatArray]:
        """What the kind says of an item, and its tokens [1, T, c]; it is read once, and nothing of it is kept.

        Raises:
            BadItem, ConfigError: as `Reading.read`; or the encoder cannot do with it.
        """
        one = self.reading.read(item)
        [tokens] = self._encode([one], [item])
        if isinstance(tokens, BadItem):
            raise tokens
        return self.reading.kind.describe(one), tokens[None]

    def _encode(self, read: Sequence[Any], items: Sequence[Item]) -> list[FloatArray | BadItem]:
        try:
            tokens = np.asarray(self.encoder(read), np.float32)
        except Exception as error:
            if len(read) > 1:  # which of them is it?
                return [self._encode([one], [item])[0] for one, item in zip(read, items, strict=True)]
            if isinstance(error, DataError):
                return [BadItem(f"{items[0].where}: {error}")]
            return [
                Failed(
                    f"{items[0].where}: encoder {self.reading.config.encoder!r} of {self.reading.kind.name} fails "
                    f"({type(error).__name__}: {error}); choose another one, or leave the item out"
                )
            ]
        if tokens.ndim != 3 or len(tokens) != len(read):
            raise DataError(
                f"encoder {self.reading.config.encoder!r} of {self.reading.kind.name} gives {tokens.shape} for "
                f"{len(read)} items; it must give [items, tokens, values]"
            )
        wrong = "the encoder gives numbers that are not finite; look at the item, or choose another encoder"
        return [
            one if np.isfinite(one).all() else BadItem(f"{item.where}: {wrong}")
            for one, item in zip(tokens, items, strict=True)
        ]
