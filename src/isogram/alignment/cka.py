"""Centred kernel alignment, biased and debiased.

Kornblith et al. 2019 (arXiv 1905.00414) for CKA; Song et al. 2012 (JMLR 13, eq. 5) for unbiased HSIC.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from isogram.alignment.gram import center
from isogram.errors import AnchorError


def hsic(a: Float[Tensor, "k k"], b: Float[Tensor, "k k"]) -> Float[Tensor, ""]:
    """Biased HSIC, tr(K H L H) / (k - 1)^2, of two Gram matrices (differentiable)."""
    return (center(a) * center(b)).sum() / (len(a) - 1) ** 2


def hsic_unbiased(a: Float[Tensor, "k k"], b: Float[Tensor, "k k"]) -> Float[Tensor, ""]:
    """Unbiased HSIC (differentiable); may be negative.

    Raises:
        AnchorError: fewer than four rows, where the estimator does not exist.
    """
    k = len(a)
    if k < 4:
        raise AnchorError(f"the unbiased HSIC needs at least 4 anchors, got {k}")
    a, b = a - torch.diag(a.diagonal()), b - torch.diag(b.diagonal())
    cross = (a * b).sum()
    means = a.sum() * b.sum() / ((k - 1) * (k - 2))
    rows = 2 * a.sum(0) @ b.sum(0) / (k - 2)
    return (cross + means - rows) / (k * (k - 3))


def cka(a: Float[Tensor, "k k"], b: Float[Tensor, "k k"]) -> Float[Tensor, ""]:
    """Biased CKA in [0, 1] (differentiable). High even for unrelated features once k is near their dimension."""
    return hsic(a, b) / (hsic(a, a) * hsic(b, b)).sqrt().clamp_min(torch.finfo(a.dtype).tiny)


def cka_embedded(z: Float[Tensor, "k d"], target: Float[Tensor, "k k"]) -> Float[Tensor, ""]:
    """Biased CKA of the Gram of embeddings with a centred target (differentiable), without forming that Gram.

    With centred z, <z z^T, T> = sum(z * T z) and ||z z^T|| = ||z^T z||: O(k^2 d), a third of the time of `cka`.
    """
    z = z - z.mean(0)
    size = (z.T @ z).norm() * target.norm()
    return (z * (target @ z)).sum() / size.clamp_min(torch.finfo(z.dtype).tiny)


def cka_debiased(a: Float[Tensor, "k k"], b: Float[Tensor, "k k"]) -> Float[Tensor, ""]:
    """CKA from unbiased HSIC: zero in expectation for unrelated features, and therefore sometimes below zero.

    Where an unbiased self-HSIC is not positive beyond roundoff, as for anchors that are all equally far apart, nothing
    distinguishes the features from noise and 0 is returned.

    Raises:
        AnchorError: fewer than four rows.
    """
    own_a, own_b = hsic_unbiased(a, a), hsic_unbiased(b, b)
    roundoff = 100 * torch.finfo(a.dtype).eps
    if own_a <= roundoff * hsic(a, a) or own_b <= roundoff * hsic(b, b):
        return torch.zeros((), dtype=a.dtype)
    return hsic_unbiased(a, b) / (own_a.sqrt() * own_b.sqrt())
