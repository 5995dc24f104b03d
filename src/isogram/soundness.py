"""What each number of a message may be, beside its type and shape: checks of values, each with a word for what fails.

The word names what should not be there: "NaN or infinity". Shape letters as in `messages`.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from torch import Tensor

from isogram.alignment import unpack

TOLERANCE = 1e-5
"""Of eigenvalues, row sums and norms: what float32 leaves of them, with a margin."""

UNIT_TOLERANCE = 1e-4
"""Of the norms of directions and bases."""

_INFINITY = 0x7F800000  # as bits of a float32: those of finite positive numbers are below, of negative ones above

RIDGE_TOLERANCE = 1e-2
"""Of a Gram's ridge, relative; more where its eigenvalues are so close to 1 that float32 cannot tell."""


@dataclass(frozen=True)
class Bounds:
    """Settings that say what values can be: ridge of the Grams, power of the frame; K anchors, `places` for an index.

    places: K but where held-out anchors are numbered apart.
    """

    rho: float
    power: float
    n_anchors: int
    places: int


Check = Callable[[Tensor, Bounds], str | None]


def anything(value: Tensor, bounds: Bounds) -> str | None:
    """Masked sums are uniform over all int64: no single one can be wrong."""
    return None


def is_finite(value: Tensor) -> bool:
    """Without NaN and infinity."""
    # The sum of finite numbers is finite, unless they are so large that it takes a second look.
    return math.isfinite(value.sum()) or bool(torch.isfinite(value).all())


def finite(value: Tensor, bounds: Bounds) -> str | None:
    """Without NaN and infinity."""
    return None if is_finite(value) else "NaN or infinity"


def positive(value: Tensor, bounds: Bounds) -> str | None:
    """Second moments, float32: finite, none below 0."""
    if value.numpy().view(np.uint32).max(initial=0) < _INFINITY:
        return None
    # Among what is left there may be -0.0, which has the bits of a negative number.
    return finite(value, bounds) or ("negative numbers" if bool((value < 0).any()) else None)


def shrunk_gram(packed: Tensor, bounds: Bounds) -> str | None:
    """What `alignment.shrink` makes of any centred Gram of k anchors, and nothing else.

    M = K (K + c I)^-1 with c = rho tr(K) / k and K 1 = 0. So M 1 = 0; with l the eigenvalues of K, those of M are
    m = l / (l + c), in [0, k / (k + rho)], for no l exceeds tr(K); and sum m / (1 - m) = tr(K) / c = k / rho. By it and
    concavity tr M lies between that of one direction, k / (k + rho), and that of k - 1 equal ones.
    """
    if text := finite(packed, bounds):
        return text
    m = unpack(packed.double())
    k, rho = len(m), bounds.rho
    if k < 2:
        return f"{k} anchors"
    top, most = k / (k + rho), (k - 1) / (1 + rho * (k - 1) / k)
    trace = float(m.trace())
    if not top - k * TOLERANCE <= trace <= most + k * TOLERANCE:
        return f"a trace of {trace:.4g}, where shrunk Grams of {k} anchors have {top:.4g} to {most:.4g},"
    if float(m.sum(1).norm()) > TOLERANCE * k**0.5:
        return "rows that do not sum to 0"
    values = torch.linalg.eigvalsh(m)
    if float(values[0]) < -TOLERANCE or float(values[-1]) > top + TOLERANCE:
        return f"eigenvalues from {float(values[0]):.4g} to {float(values[-1]):.4g}, outside 0 to {top:.4g},"
    slack = 1 - values.clamp(0, top)
    off = abs(float((values / slack).sum()) * rho / k - 1)
    if off > RIDGE_TOLERANCE + TOLERANCE * float((1 / slack.square()).sum()) * rho / k:
        return f"another ridge than align.rho = {rho}"
    return None


def mean_gram(packed: Tensor, bounds: Bounds) -> str | None:
    """A consensus of shrunk Grams, or the Gram of a frame: finite, centred, positive semi-definite.

    Entries of a mean of shrunk Grams are at most 1, so eigenvalues of a consensus are at most K, and those of the
    frame's Gram at most K^(2 power).
    """
    if text := finite(packed, bounds):
        return text
    m = unpack(packed.double())
    scale = float(m.diagonal().abs().max())
    if scale > max(bounds.n_anchors, 2) ** max(1.0, 2 * bounds.power):
        return f"numbers as large as {scale:.4g}"
    if float(m.sum(1).norm()) > TOLERANCE * scale * len(m):
        return "rows that do not sum to 0"
    lifted = m + TOLERANCE * max(scale, torch.finfo(torch.float32).tiny) * torch.eye(len(m), dtype=m.dtype)
    # Cholesky exists if and only if all eigenvalues are positive, at a tenth of their cost.
    return "a negative eigenvalue" if int(torch.linalg.cholesky_ex(lifted).info) else None


def frame(value: Tensor, bounds: Bounds) -> str | None:
    """Rows of U diag(w)^power, rotated or not: finite, no longer than the largest w can make them."""
    if text := finite(value, bounds):
        return text
    longest = float(value.double().norm(dim=1).max())
    most = bounds.n_anchors**bounds.power
    return f"rows of norm {longest:.4g}, beyond {most:.4g}," if longest > most * (1 + TOLERANCE) else None


def positions(value: Tensor, bounds: Bounds) -> str | None:
    """Places in the anchor set, strictly ascending."""
    value = value.long()
    if len(value) and not 0 <= int(value.min()) <= int(value.max()) < bounds.places:
        return f"positions outside 0..{bounds.places - 1}"
    return None if bool((value.diff() > 0).all()) else "positions that do not ascend"


def weights(value: Tensor, bounds: Bounds) -> str | None:
    """Numbers in (0, 1]."""
    return None if bool(((value > 0) & (value <= 1)).all()) else "numbers outside (0, 1]"


def flags(value: Tensor, bounds: Bounds) -> str | None:
    """Numbers 0 and 1."""
    return None if bool((value <= 1).all()) else "numbers beside 0 and 1"


def public_keys(value: Tensor, bounds: Bounds) -> str | None:
    """X25519 keys [m, 32], or one, [32]: distinct, and each leads to a secret (RFC 7748, section 6.1).

    A point of small order leads to the secret 0 whatever the other side's key is, and everybody knows it.
    """
    keys = [row.numpy().tobytes() for row in value.reshape(-1, 32)]
    if len(set(keys)) != len(keys):
        return "one key twice"
    for key in keys:
        try:
            _PROBE.exchange(X25519PublicKey.from_public_bytes(key))
        except ValueError:
            return "a point of small order, which hides nothing,"
    return None


_PROBE = X25519PrivateKey.generate()


def names(value: Tensor, bounds: Bounds) -> str | None:
    """A JSON list of distinct texts, in order."""
    try:
        found = json.loads(value.numpy().tobytes().decode())
    except (ValueError, RecursionError):
        return "what is no JSON"
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        return "what is no list of texts"
    return None if found == sorted(set(found)) else "names that stand twice or in no order"


def scales(value: Tensor, bounds: Bounds) -> str | None:
    """Powers of two, finite and above 0."""
    good = value.isfinite() & (value > 0) & (torch.frexp(value).mantissa == 0.5)
    return None if bool(good.all()) else "numbers that are no powers of two"


def directions(value: Tensor, bounds: Bounds) -> str | None:
    """Class directions [C, r]: rows of norm 1, of 0, or NaN throughout where no rows speak for the class."""
    if text := finite_rows(value, bounds):
        return text
    norms = value.double().norm(dim=1)
    good = norms.isnan() | (norms == 0) | ((norms - 1).abs() < UNIT_TOLERANCE)
    return None if bool(good.all()) else "rows of a norm beside 1 and 0"


def finite_rows(value: Tensor, bounds: Bounds) -> str | None:
    """Rows that are finite, or NaN throughout: anchors that nobody holds, classes that nobody has."""
    absent = value.isnan().all(-1, keepdim=True)
    return None if bool((value.isfinite() | absent).all()) else "infinity, or NaN in a part of a row,"


def orthonormal(value: Tensor, bounds: Bounds) -> str | None:
    """Rows [r, i] of a basis."""
    if text := finite(value, bounds):
        return text
    rows = value.double()
    off = rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype)
    return None if float(off.abs().max()) < UNIT_TOLERANCE else "rows that are not orthonormal"
