"""Anchors held out of everything - frame, fits - and placed as new rows would be: the server can, from the Grams alone.

Ridge regression needs no more of its features than inner products, so no feature leaves a node.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isogram.alignment.consensus import consensus
from isogram.alignment.frame import canonical_frame
from isogram.alignment.gram import center


def sound_anchors(weight: Float[Tensor, " k"], least: int = 0) -> Bool[Tensor, " k"]:
    """Which anchors weigh at least half: what a doubtful one would be placed at says nothing of new rows.

    All of them, if fewer than `least` do.
    """
    sound = weight >= 0.5
    return sound if sound.sum() >= least else torch.ones_like(sound)


@dataclass(frozen=True)
class Part:
    """One node's anchors in one fold: k that stay and h that are held out.

    held_out [h]: their positions in the anchor set; among [k, k], across [h, k]: products, centred on the mean of those
    that stay; target [k, r]: their places in the frame, centred alike; weight [k].
    """

    held_out: Int[Tensor, " h"]
    among: Float[Tensor, "k k"]
    across: Float[Tensor, "h k"]
    target: Float[Tensor, "k r"]
    weight: Float[Tensor, " k"]

    def places(self, ridge: float = 1.0) -> tuple[Float[Tensor, "h r"], Float[Tensor, "k r"]]:
        """Where weighted ridge puts the anchors held out; and each of those that stay by a fit without it, too.

        Coordinates are from the mean of those that stay. ridge: in units of the kernels' c, see `gram.unshrink`.
        """
        if not len(self.weight):
            nothing = torch.zeros(len(self.held_out), self.target.shape[1], dtype=torch.float64)
            return nothing, self.target
        share, root = self.weight / self.weight.sum(), (self.weight / self.weight.max()).sqrt()[:, None]
        kernel, target = root * self.among * root.T, root * self.target
        penalty = ridge * torch.eye(len(kernel), dtype=torch.float64)
        dual = torch.linalg.solve(kernel + penalty, target)
        # (I - H) y = ridge dual, with H the smoother: the leave-one-out residual is that over 1 - leverage.
        leverage = torch.linalg.solve(kernel + penalty, kernel).diagonal() + share
        left = (target - ridge * dual / (1 - leverage).clamp_min(1e-6)[:, None]) / root
        return self.across @ (root * dual), left


def cross_fit(
    kernels: Sequence[Float[Tensor, "_ _"]],
    indices: Sequence[Int[Tensor, " _"]],
    n_anchors: int,
    weight: Sequence[Float[Tensor, " _"]],
    fold: Int[Tensor, " _"],
    *,
    rank: int,
    power: float,
) -> list[Part]:
    """Per node what a fold leaves it, with the frame of the consensus of the anchors that stay.

    Args:
        kernels: per node, K / c over its anchors, see `gram.unshrink`.
        indices: per node, the positions of those anchors.
        n_anchors: K.
        weight: per node, of its anchors in consensus and fit.
        fold: positions of the anchors that are held out.
        rank: of the frame; as much of it as the anchors that stay allow.
        power: of the frame.
    """
    train = torch.ones(n_anchors, dtype=torch.bool)
    train[fold] = False
    place = train.cumsum(0) - 1
    inside = [train[index] for index in indices]
    smoothers, at, say = [], [], []
    for kernel, index, own, q in zip(kernels, indices, inside, weight, strict=True):
        part = center(kernel[own][:, own])
        smoothers.append(torch.linalg.solve(part + torch.eye(len(part), dtype=part.dtype), part))
        at.append(place[index[own]])
        say.append(q[own])
    merged = consensus(smoothers, at, int(train.sum()), say, connected=False)
    frame = canonical_frame(merged, min(rank, len(merged) - 1), power)
    parts = []
    for kernel, index, own, here, q in zip(kernels, indices, inside, at, say, strict=True):
        share = q / q.sum().clamp_min(torch.finfo(q.dtype).tiny)
        level = kernel[:, own] @ share  # of a row's products with the weighted mean row
        middle = level[own] @ share
        among = kernel[own][:, own] - level[own][:, None] - level[own][None, :] + middle
        across = kernel[~own][:, own] - level[~own][:, None] - level[own][None, :] + middle
        parts.append(Part(index[~own], among, across, frame[here] - share @ frame[here], q))
    return parts
