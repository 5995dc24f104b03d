"""How well a node's features tell where an anchor lies, from the node's Gram alone: no feature leaves the node."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isogram.alignment.gram import center, unshrink

_LEAST = 1e-6  # of 1 - 1/k - M_ii: a Gram as a message carries it has no more digits


def anchor_residuals(m: Float[Tensor, "k k"], target: Float[Tensor, "k r"]) -> Float[Tensor, " k"]:
    """Leave-one-out residual of each anchor when its place is predicted from the node's other anchors.

    With the mean place, M + 1 1^T / k of the shrunk Gram M = K (K + c I)^-1 is the smoother matrix of ridge regression
    with kernel K and an intercept, so the prediction that leaves anchor i out, also of the means, errs by
    (y_i - (M y)_i) / (1 - 1/k - M_ii) for centred y (Golub, Heath and Wahba 1979): no fit is repeated.

    Args:
        m: shrunk Gram of the node's anchors, see `alignment.shrink`.
        target: where they are, centred here.

    Returns:
        Squared norms over the mean squared norm of the target: about 1 is what the mean place as prediction gives.
        1 everywhere if the target does not vary, for then there is nothing to predict.
    """
    centred = target - target.mean(0)
    scale = centred.square().sum(1).mean()
    if not scale > torch.finfo(scale.dtype).tiny:
        return torch.ones_like(centred[:, 0])
    errors = (centred - m @ centred) / (1 - 1 / len(m) - m.diagonal()).clamp_min(_LEAST)[:, None]
    return errors.square().sum(1) / scale


def sub_smoother(m: Float[Tensor, "k k"], index: Int[Tensor, " j"]) -> Float[Tensor, "j j"]:
    """The shrunk Gram that a node with only these of its anchors has, under the same kernel and ridge.

    K / c = M (I - M)^-1, of which the rows and columns are taken, centred and shrunk again.
    """
    kernel = center(unshrink(m)[index[:, None], index])
    return torch.linalg.solve(kernel + torch.eye(len(index), dtype=m.dtype), kernel)
