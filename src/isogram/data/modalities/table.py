"""Rows of numbers: of a CSV or Parquet, one item a row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isogram.config import ModalityConfig
from isogram.data.base import FloatArray
from isogram.data.modalities.base import BadItem, Builtin, Encoder, Item, numbers_content
from isogram.data.sheets import TOKENS, few
from isogram.data.tokens import chunk_columns


@dataclass(frozen=True)
class Row:
    """Numbers in the order of the settings' `columns`. others: columns that the settings do not name."""

    values: NDArray[np.float64]
    others: tuple[str, ...]
    columns: tuple[str, ...]


class TableKind:
    """Named columns of numbers; the settings say which and in what order."""

    name = "table"
    suffixes: frozenset[str] = frozenset()

    def columns(self, item: Item) -> tuple[str, ...]:
        """All that the row has; see `Columned`."""
        if not item.values:
            raise BadItem(f"{item.where}: holds no numbers; give a table with columns of numbers")
        return tuple(name for name, _ in item.values)

    def read(self, item: Item, config: ModalityConfig) -> Row:
        """The numbers; see `Kind.read`."""
        own = self.columns(item)
        wanted, held = config.columns or own, dict(item.values or ())
        if missing := [name for name in wanted if name not in held]:
            raise BadItem(f"{item.where}: lacks the columns {few(missing)}; add them, or name others in `columns`")
        values = np.array([held[name] for name in wanted], np.float64)
        with np.errstate(over="ignore"):
            finite = np.isfinite(values.astype(np.float32))
        if not finite.all():
            bad = [name for name, good in zip(wanted, finite, strict=True) if not good]
            raise BadItem(f"{item.where}: no finite number in the columns {few(bad)}; impute it or leave the row out")
        known = set(wanted)
        return Row(values, tuple(name for name in own if name not in known), wanted)

    def describe(self, read: Row) -> str:
        """How many numbers."""
        return f"{len(read.values):,} number{'' if len(read.values) == 1 else 's'}"

    def content(self, read: Row) -> bytes:
        """The numbers by their columns."""
        return numbers_content(read.columns, read.values)

    def builtin(self, config: ModalityConfig) -> Encoder:
        """The columns in their order, cut into at most 8 tokens."""
        # No fingerprint: cutting is faster than looking up.
        return Builtin(self.name, "", _tokens, batch=4096)


def _tokens(rows: Sequence[Row]) -> FloatArray:
    values = np.stack([row.values for row in rows])
    return chunk_columns(values, min(TOKENS, values.shape[1]))


TABLE = TableKind()
