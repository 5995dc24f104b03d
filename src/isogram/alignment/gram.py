"""Gram matrices of the anchors: what a node says about its features without sending one of them."""

import torch
from jaxtyping import Float
from torch import Tensor

from isogram.errors import AnchorError


def center(matrix: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """Double-centred matrix H K H with H = I - 11^T/k (differentiable)."""
    return matrix - matrix.mean(0, keepdim=True) - matrix.mean(1, keepdim=True) + matrix.mean()


def gram(features: Float[Tensor, "k F"]) -> Float[Tensor, "k k"]:
    """Centred linear Gram matrix of k rows (differentiable). Centring the rows first keeps it exactly symmetric PSD."""
    centred = features - features.mean(0)
    return centred @ centred.T


def shrink(matrix: Float[Tensor, "k k"], rho: float) -> Float[Tensor, "k k"]:
    """Shrunk Gram M = K (K + rho tr(K)/k I)^-1: the smoother of ridge regression onto the anchors themselves.

    Eigenvalues go from [0, inf) to [0, 1), so nodes with different feature scales and widths can be averaged.

    Raises:
        AnchorError: the Gram is zero, that is, all anchors look the same to this node.
    """
    k = len(matrix)
    scale = matrix.trace() / k
    if not scale > 0:
        raise AnchorError("the anchors' Gram matrix is zero: every anchor has the same features at this node")
    smoother = torch.linalg.solve(matrix + rho * scale * torch.eye(k, dtype=matrix.dtype), matrix)
    return (smoother + smoother.T) / 2


def unshrink(m: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """K / c of M = K (K + c I)^-1: the Gram that was shrunk, but for its scale.

    Of a smoother of M's kind that holds for any kernel; rows and columns of it are the Gram of fewer anchors.
    """
    kernel = torch.linalg.solve(torch.eye(len(m), dtype=m.dtype) - m, m)
    return (kernel + kernel.T) / 2


def pack(matrix: Float[Tensor, "k k"]) -> Float[Tensor, " k*(k+1)//2"]:
    """Lower triangle of a symmetric matrix, row by row: the k(k+1)/2 numbers that a message carries."""
    row, col = torch.tril_indices(*matrix.shape)
    return matrix[row, col]


def unpack(triangle: Float[Tensor, " t"]) -> Float[Tensor, "k k"]:
    """Inverse of `pack`.

    Raises:
        AnchorError: the length is not k(k+1)/2 for any k.
    """
    k = round(((8 * len(triangle) + 1) ** 0.5 - 1) / 2)
    if k * (k + 1) // 2 != len(triangle):
        raise AnchorError(f"{len(triangle)} numbers do not fill the triangle of a square matrix")
    row, col = torch.tril_indices(k, k)
    matrix = torch.zeros(k, k, dtype=triangle.dtype)
    matrix[row, col] = triangle
    matrix[col, row] = triangle
    return matrix
