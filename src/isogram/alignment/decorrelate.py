"""New rows' coordinates made as uncorrelated as the frame's own are: what a ridge fitted to few anchors leaves undone.

The frame's coordinates are uncorrelated over the anchors, and so are the fitted places of the anchors. Places of rows
that the fit has not seen are not: its errors are common to many coordinates, and cosines count them many times.
"""

import torch
from jaxtyping import Float
from torch import Tensor

FAINT = 1e-6
"""Of the largest variance: below it, rounding would be taken for correlation."""


def shrunk_covariance(rows: Float[Tensor, "n r"]) -> Float[Tensor, "r r"]:
    """Covariance with its off-diagonal shrunk towards 0, by how much of it chance alone would make.

    (1 - l) S + l diag(S) with l = sum Var(s_ij) / sum s_ij^2 over i != j, at most 1 (Schaefer & Strimmer 2005, target
    "D"): no setting to choose, and positive definite for any n >= 2 if every coordinate varies.
    """
    n = len(rows)
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / n
    squares = centred**2
    variance = (squares.T @ squares / n - covariance**2) / (n - 1)
    off = 1 - torch.eye(covariance.shape[0], dtype=rows.dtype)
    total = (off * covariance**2).sum()
    share = ((off * variance).sum() / total).clamp(0, 1) if total > 0 else torch.ones_like(total)
    return covariance * (1 - share * off)


def decorrelation(rows: Float[Tensor, "n r"]) -> Float[Tensor, "r r"]:
    """Symmetric T such that rows @ T have uncorrelated coordinates of the same variances as before.

    Of all such maps the one that moves the rows least: optimal transport from N(0, C) to N(0, diag C),
    T = C^-1/2 (C^1/2 diag(C) C^1/2)^1/2 C^-1/2 (Dowson & Landau 1982), with the shrunk covariance as C. Coordinates of
    less than `FAINT` of the largest variance stay as they are.
    """
    covariance = shrunk_covariance(rows.double())
    variances = covariance.diagonal()
    kept = (variances > FAINT * variances.max()).nonzero().flatten()
    found = torch.eye(len(covariance), dtype=torch.float64)
    if len(kept):
        inner = covariance[kept[:, None], kept]
        half, inverse = _power(inner, 0.5), _power(inner, -0.5)
        found[kept[:, None], kept] = inverse @ _power(half @ torch.diag(inner.diagonal()) @ half, 0.5) @ inverse
    return found


def _power(matrix: Float[Tensor, "r r"], exponent: float) -> Float[Tensor, "r r"]:
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * values.clamp_min(1e-15 * values.max()) ** exponent) @ vectors.T
