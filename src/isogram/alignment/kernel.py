"""The kernel of a node's ridge: linear, or linear in part and Gaussian in part. From inner products alone.

So a server has it from the Grams that nodes send, and can say which of the two finds anchors better: `choice`.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from isogram.alignment.gram import center

WIDTH = 2.0
"""The Gaussian is exp(-WIDTH d^2 / median d^2), over the distances d between anchors."""


@dataclass(frozen=True)
class Kernel:
    """k(x, a) = linear <x, a> + gaussian exp(-|x - a|^2 / width)."""

    linear: float = 1.0
    gaussian: float = 0.0
    width: float = math.inf

    @classmethod
    def fit(cls, gram: Float[Tensor, "k k"], share: float) -> "Kernel":
        """Width and weights by the anchors, so that the linear part has this share of the centred kernel's trace.

        Args:
            gram: centred linear Gram of the anchors, of any scale.
            share: in (0, 1]; 1 is the linear kernel as it is.
        """
        off = squared_distances(gram)[~torch.eye(len(gram), dtype=torch.bool)]
        if share == 1 or not (off.median() > 0 and gram.trace() > 0):
            return cls()
        width = float(off.median()) / WIDTH
        size = float(center(torch.exp(-squared_distances(gram) / width)).trace())
        return cls(share / float(gram.trace()), (1 - share) / size, width)

    def __call__(self, gram: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
        """Between the anchors, from their linear Gram."""
        if not self.gaussian:
            return self.linear * gram
        return self.linear * gram + self.gaussian * torch.exp(-squared_distances(gram) / self.width)


def squared_distances(gram: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """Of rows of which these are the inner products, from whatever point."""
    norms = gram.diagonal()
    return (norms[:, None] + norms[None, :] - 2 * gram).clamp_min(0)


def kernel_gram(gram: Float[Tensor, "k k"], share: float) -> Float[Tensor, "k k"]:
    """Centred kernel matrix of the anchors, from their centred linear Gram; `share` as in `Kernel.fit`."""
    return gram if share == 1 else center(Kernel.fit(gram, share)(gram))
