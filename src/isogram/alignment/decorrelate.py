"""New rows' coordinates made as uncorrelated as the frame's own are: what a ridge fitted to few anchors leaves undone.

The frame's coordinates are uncorrelated over the anchors, and so are the fitted places of the anchors. Places of rows
that the fit has not seen are not: its errors are common to many coordinates, and cosines count them many times.
"""

import torch
from jaxtyping import Float
from torch import Tensor


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
    T = C^-1/2 (C^1/2 diag(C) C^1/2)^1/2 C^-1/2 (Dowson & Landau 1982), with the shrunk covariance as C. A coordinate
    that does not vary stays as it is.
    """
    covariance = shrunk_covariance(rows.double())
    variances = covariance.diagonal()
    still = ~(variances > 1e-12 * variances.max())
    covariance = covariance + torch.diag(torch.where(still, 1.0, 0.0))
    half, inverse = _power(covariance, 0.5), _power(covariance, -0.5)
    middle = _power(half @ torch.diag(covariance.diagonal()) @ half, 0.5)
    return inverse @ middle @ inverse


def _power(matrix: Float[Tensor, "r r"], exponent: float) -> Float[Tensor, "r r"]:
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * values.clamp_min(1e-12 * values.max()) ** exponent) @ vectors.T
