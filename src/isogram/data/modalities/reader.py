"""One batch of items: read by their kind, seen by the encoder, and whatever is wrong with one of them said of it."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isogram.config import ModalityConfig
from isogram.data.base import FloatArray
from isogram.data.modalities.base import BadItem, Encoder, Item, Kind
from isogram.data.modalities.content import seen_hash
from isogram.data.modalities.store import Kept
from isogram.data.sheets import few
from isogram.errors import DataError, IsogramError

Results = list[Kept | BadItem | None]
"""Of each item of a batch: what became of it, what is wrong, or None if it was only read."""


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


@dataclass(frozen=True)
class Reader:
    """Items of one batch to tokens, or to what is wrong with them.

    alike: whether columns beside those of the settings are wrong.
    """

    kind: Kind
    encoder: Encoder
    config: ModalityConfig
    alike: bool

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
                read.append(self.read(item))
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
                    seen = seen_hash(self.kind, one, keys[place])
                    found[place] = Kept(made, seen, tuple(getattr(one, "others", ())))
        return found

    def read(self, item: Item) -> Any:
        """What the kind makes of an item.

        Raises:
            BadItem, ConfigError: as `read_item`; or it has columns that it may not have.
        """
        one = read_item(self.kind, item, self.config)
        self.check(item, getattr(one, "others", ()))
        return one

    def look(self, item: Item) -> tuple[str, FloatArray]:
        """What the kind says of an item, and its tokens [1, T, c]; it is read once, and nothing of it is kept.

        Raises:
            BadItem, ConfigError: as `read`; or the encoder cannot do with it.
        """
        one = self.read(item)
        [tokens] = self._encode([one], [item])
        if isinstance(tokens, BadItem):
            raise tokens
        return self.kind.describe(one), tokens[None]

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
                    f"{items[0].where}: encoder {self.config.encoder!r} of {self.kind.name} fails "
                    f"({type(error).__name__}: {error}); choose another one, or leave the item out"
                )
            ]
        if tokens.ndim != 3 or len(tokens) != len(read):
            raise DataError(
                f"encoder {self.config.encoder!r} of {self.kind.name} gives {tokens.shape} for {len(read)} items; it "
                "must give [items, tokens, values]"
            )
        wrong = "the encoder gives numbers that are not finite; look at the item, or choose another encoder"
        return [
            one if np.isfinite(one).all() else BadItem(f"{item.where}: {wrong}")
            for one, item in zip(tokens, items, strict=True)
        ]
