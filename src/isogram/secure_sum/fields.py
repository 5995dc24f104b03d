"""Floats as one vector of fixed-point integers, and back. Sums of them are exact, in whatever order they are made.

A vector is of integers modulo 2^56: seven bytes a number travel, 1.75 times those of a float32. Each of n parties may
give values up to (2^55 - 1) / n after scaling, so that no sum leaves -2^55..2^55. At the scale of `scale_for` a mean
over n parties is off by n x largest / 2^55 at most: at 1000 parties by 3e-14 of the largest value that a party may
give, so that means down to 3e-8 of that value are right to 1e-6.
"""

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from isogram.errors import MessageError

BYTES = 7
"""Of a number on its way."""

_UNUSED = 64 - 8 * BYTES


def limit(parties: int) -> int:
    """The largest integer that each of so many parties may give."""
    return ((1 << (8 * BYTES - 1)) - 1) // parties


def scale_for(largest: float, parties: int) -> float:
    """The finest scale, a power of two, at which each of `parties` may give values up to `largest`.

    Raises:
        MessageError: `largest` is not a finite number above 0.
    """
    if not 0 < largest < math.inf:
        raise MessageError(f"values of a secure sum up to {largest}: say a finite number above 0")
    most = Fraction(limit(parties)) / Fraction(largest)
    power = most.numerator.bit_length() - most.denominator.bit_length()
    return math.ldexp(1.0, power if Fraction(2) ** power <= most else power - 1)


def pack(fields: Mapping[str, Tensor], scales: Mapping[str, float], parties: int) -> Tensor:
    """All numbers of all fields times their scales, rounded: int64 [n], by the fields' names in order.

    Args:
        fields: floats of any shape.
        scales: one for each field, the same at all parties.
        parties: how many add up.

    Raises:
        MessageError: a field without a scale or a scale without a field; NaN, or a value too large: names the field.
    """
    if fields.keys() != scales.keys():
        raise MessageError(
            f"fields {sorted(fields)} of a secure sum have scales of {sorted(scales)}: give all nodes the same settings"
        )
    parts = [torch.empty(0, dtype=torch.int64)]
    for name in sorted(fields):
        scaled = (fields[name].detach().double().flatten() * scales[name]).round_()
        if not (scaled.abs() <= limit(parties)).all():
            raise MessageError(
                f"{name!r} holds NaN or a value beyond {limit(parties) / scales[name]:.3g}, the most that each of "
                f"{parties} nodes may give to a secure sum: lower train.lr, or take a coarser scale"
            )
        parts.append(scaled.to(torch.int64))
    return torch.cat(parts)


def unpack(vector: Tensor, shapes: Mapping[str, tuple[int, ...]], scales: Mapping[str, float]) -> dict[str, Tensor]:
    """Fields of a sum of vectors that `pack` made, float64.

    Raises:
        MessageError: the vector is not as long as the fields.
    """
    sizes = {name: math.prod(shapes[name]) for name in sorted(shapes)}
    if vector.shape != (sum(sizes.values()),):
        raise MessageError(f"a secure sum of shape {tuple(vector.shape)}, and its fields have {sum(sizes.values())}")
    parts = vector.split(list(sizes.values()))
    return {name: (part.double() / scales[name]).reshape(shapes[name]) for name, part in zip(sizes, parts, strict=True)}


def narrow(vector: np.ndarray) -> Tensor:
    """Uint64 [n] modulo 2^56, as bytes [n, 7] uint8, the lowest first."""
    little = np.ascontiguousarray(vector, dtype="<u8")
    return torch.from_numpy(np.ascontiguousarray(little.view(np.uint8).reshape(-1, 8)[:, :BYTES]))


def widen(narrowed: Tensor) -> np.ndarray:
    """Uint64 [n] again, below 2^56."""
    wide = np.zeros((len(narrowed), 8), dtype=np.uint8)
    wide[:, :BYTES] = narrowed.numpy()
    return wide.reshape(-1).view("<u8").astype(np.uint64, copy=False)


def signed(vector: np.ndarray) -> Tensor:
    """Uint64 [n] modulo 2^56 as the integers of -2^55..2^55 that they stand for, int64."""
    return torch.from_numpy((vector << np.uint64(_UNUSED)).view(np.int64) >> np.int64(_UNUSED))
