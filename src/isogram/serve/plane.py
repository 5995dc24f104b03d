"""The map: the frame's coordinates of all banks in their two leading principal directions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isogram.data.base import FloatArray, IntArray
from isogram.inference.bank import unit

DRAWN = 4000
"""Points on the map at most, over all banks."""


@dataclass(frozen=True)
class Plane:
    """centre [r] and directions [2, r] of the map; explained: share of the variance along each."""

    centre: NDArray[np.float64]
    directions: NDArray[np.float64]
    explained: tuple[float, float]

    @classmethod
    def of(cls, banks: Sequence[FloatArray]) -> "Plane":
        """Of coordinates [n, r] each, taken at unit length, for cosines are what search goes by.

        Each bank counts alike, however many items it has.
        """
        held = [unit(bank).astype(np.float64) for bank in banks if len(bank)]
        if not held:
            return cls(np.zeros(1), np.zeros((2, 1)), (0.0, 0.0))
        centre = np.mean([bank.mean(0) for bank in held], axis=0)
        spread = np.mean([(bank - centre).T @ (bank - centre) / len(bank) for bank in held], axis=0)
        values, vectors = np.linalg.eigh(spread)
        values, directions = np.pad(values[::-1], (0, 1))[:2], np.pad(vectors.T[::-1], ((0, 1), (0, 0)))[:2]
        # The sign of a principal direction is arbitrary: its largest entry is made positive.
        largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)
        share = values / max(float(spread.trace()), 1e-12)
        return cls(centre, directions * np.where(largest < 0, -1, 1), (float(share[0]), float(share[1])))

    def place(self, coordinates: FloatArray) -> FloatArray:
        """[n, r] -> [n, 2]."""
        return ((unit(coordinates) - self.centre) @ self.directions.T).astype(np.float32)


def drawn(sizes: Sequence[int], most: int = DRAWN) -> list[IntArray]:
    """Of banks of these sizes, the rows on the map: all; or one of each and of what is left the same share of each.

    Evenly spaced, and no more than `most` over all banks: of more banks than that the first ones have a dot.
    """
    held = sum(n > 0 for n in sizes)
    share = 1.0 if sum(sizes) <= most else max(0, most - held) / sum(sizes)
    found, left = [], most
    for n in sizes:
        dots = min(n, left, 1 + int(n * share))
        found.append(np.unique(np.linspace(0, n - 1, dots).astype(np.int64)))
        left -= dots
    return found
