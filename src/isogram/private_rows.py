"""Whether an array holds a private row as it is: a run of numbers equal, bit for bit, to a row's features."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHORTEST = 4
"""Features of a row, below which the same numbers stand elsewhere by chance, and nothing is found."""

NEAR = 1e-5
"""Of a row's length: what float32 and another batch size change of coordinates, with a margin."""

_PIECE = 1 << 20
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))


class PrivateRows:
    """The rows of a node that are no public item, found in an array by a rolling hash (Karp & Rabin 1987).

    Rows that repeat one number say nothing and are not looked for.

    Args:
        rows: [n, F] raw features.
        public: [k, F] of the public items.
    """

    def __init__(self, rows: Tensor, public: Tensor) -> None:
        self.public = public
        own, known = (_bits(values) for values in (rows, public))
        shown = {row.tobytes() for row in known}
        self.secret = np.array([row.tobytes() not in shown for row in own], dtype=bool)
        telling = self.secret & (own != own[:, :1]).any(1)
        self._rows = own[telling] if own.shape[1] >= SHORTEST else own[:0]
        powers = np.cumprod(np.full(own.shape[1], _BASE)) * _INVERSE
        hashes = (self._rows * powers).sum(1, dtype=np.uint64)
        order = hashes.argsort()
        self._rows, self._hashes = self._rows[order], hashes[order]

    def are_in(self, array: Tensor) -> bool:
        """Whether any row stands in an array of floats, of whatever shape."""
        flat, length = _bits(array.reshape(1, -1))[0], self._rows.shape[1]
        return any(self._hit(piece) for piece in _pieces(flat, length)) if len(self._rows) else False

    def _hit(self, piece: NDArray[np.uint32]) -> bool:
        length = self._rows.shape[1]
        found = _hashes(piece, length)
        at = np.searchsorted(self._hashes, found).clip(max=len(self._hashes) - 1)
        starts = np.flatnonzero(self._hashes[at] == found)
        return any((self._rows[at[start]] == piece[start : start + length]).all() for start in starts)


def same_points(sent: Tensor, own: Tensor, public: Tensor) -> bool:
    """Whether a row of `sent` [k, d] is one of `own` [n, d], but for the last digits.

    Who lies where one of `public` [m, d] lies shows nothing that this public item does not show.
    """
    sent, own, public = sent.double(), own.double(), public.double()
    telling = (own != 0).any(1) & ~_near(own, public, 2 * NEAR).any(1)
    return bool(_near(sent, own[telling], NEAR).any())


def _near(points: Tensor, others: Tensor, share: float) -> Tensor:
    """[n, m] whether a point is as near to another as this share of the other's length."""
    return torch.cdist(points, others) <= share * others.norm(dim=1)


def _bits(values: Tensor) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values.detach().float().cpu().numpy()).view(np.uint32)


def _pieces(flat: NDArray[np.uint32], length: int) -> Iterator[NDArray[np.uint32]]:
    for start in range(0, len(flat) - length + 1, _PIECE):
        yield flat[start : start + _PIECE + length - 1]


def _hashes(flat: NDArray[np.uint32], length: int) -> NDArray[np.uint64]:
    """Hash of every run of that length, modulo 2^64: from two sums of a run, divided by the base's power before it."""
    powers = np.cumprod(np.full(len(flat), _BASE))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(flat * powers)])
    back = np.cumprod(np.full(len(flat) - length + 1, _INVERSE))
    found: NDArray[np.uint64] = (sums[length:] - sums[:-length]) * back
    return found
