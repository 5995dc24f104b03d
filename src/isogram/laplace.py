"""A linear head on frame coordinates with its posterior: what it takes from private rows are two plain sums.

y = W u + noise with one-hot y, Gaussian noise of variance s2 and W ~ N(0, I / prior): Laplace's approximation of the
last layer (Daxberger et al. 2021, "Laplace Redux") is exact here. Shapes: n rows, r coordinates, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isogram.alignment import pack, unpack
from isogram.errors import DataError, MessageError


@dataclass(frozen=True)
class GaussianHead:
    """mean [C, r] of the class rows, and their common precision [r, r]."""

    mean: Tensor
    precision: Tensor

    def scores(self, rows: Tensor) -> Tensor:
        """[n, C] expected one-hot vectors of rows [n, r]."""
        return rows.double() @ self.mean.T

    def variance(self, rows: Tensor) -> Tensor:
        """[n] variance of a score under the posterior, the noise not counted: u^T P^-1 u, large where rows were few."""
        rows = rows.double()
        return (rows * torch.linalg.solve(self.precision, rows.T).T).sum(1)


def head_statistics(rows: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """A node's two sums: packed sum of u u^T [r(r+1)/2] and sum of u by class [C, r]; float64.

    Sums of nodes add up to those of all their rows, so a secure sum can carry them.

    Args:
        rows: [n, r] frame coordinates of labelled rows, none of them twice.
        labels: [n] integers.
        n_classes: C.

    Raises:
        DataError: a label outside 0..C-1.
    """
    if len(labels) and not ((labels >= 0) & (labels < n_classes)).all():
        raise DataError(f"labels must lie in 0..{n_classes - 1}; leave out the rows that have none")
    rows = rows.double()
    first = torch.zeros(n_classes, rows.shape[1], dtype=torch.float64).index_add_(0, labels.long(), rows)
    return pack(rows.T @ rows), first


def head_posterior(second: Tensor, first: Tensor, noise: float, prior: float) -> GaussianHead:
    """Posterior from sums of `head_statistics`: P = sum u u^T / noise + prior I, mean = (sum u by class) P^-1 / noise.

    The mean is the ridge regression onto one-hot vectors, without intercept, with ridge noise * prior.
    """
    moment = unpack(second.double())
    precision = moment / noise + prior * torch.eye(len(moment), dtype=torch.float64)
    return GaussianHead(torch.linalg.solve(precision, first.double().T / noise).T, precision)


def merge_heads_laplace(heads: Sequence[GaussianHead], prior: float) -> GaussianHead:
    """Precision-weighted mean of nodes' heads: the head of all their rows pooled, for the prior is counted once.

    P = sum_n P_n - (N - 1) prior I, mean = (sum_n mean_n P_n) P^-1. A direction without rows has no weight.

    Raises:
        MessageError: no heads, or heads of different shapes.
    """
    shapes = {tuple(head.mean.shape) for head in heads}
    if len(shapes) != 1:
        raise MessageError(
            f"heads of shapes {sorted(shapes)} cannot be merged; all nodes need the same classes and rank"
        )
    extra = (len(heads) - 1) * prior * torch.eye(len(heads[0].precision), dtype=torch.float64)
    precision = torch.stack([head.precision for head in heads]).sum(0) - extra
    weighted = torch.stack([head.mean @ head.precision for head in heads]).sum(0)
    return GaussianHead(torch.linalg.solve(precision, weighted.T).T, precision)
