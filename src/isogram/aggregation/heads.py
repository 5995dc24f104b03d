"""Class directions from what labelled nodes send: secure sums, sums with noise, or votes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from isogram import robust
from isogram.aggregation.order import in_order
from isogram.alignment import classes, unpack
from isogram.errors import MessageError
from isogram.messages import Up
from isogram.secure_sum import MIN_EVIDENCE, total

HEAD_PRIOR = 20.0
"""Precision of a class direction before any row is seen, as if so many unit rows had been seen in each direction."""


def merge_counts(updates: Sequence[Up]) -> Tensor:
    """[C] rows of each class over all nodes, 0 for fewer than `MIN_EVIDENCE`: asked before any sum is sent.

    Raises:
        MessageError: counts of different lengths, or that do not add up to counts; names the nodes.
    """
    counts = _total(updates, "counts")
    if not ((counts >= 0) & (counts == counts.round())).all():
        nodes = ", ".join(repr(update.node) for update in in_order(updates))
        raise MessageError(
            f"class counts of nodes {nodes} do not add up to whole numbers: one of them is of another round or spoilt, "
            "and masked it does not show which: look at the versions and settings of each"
        )
    return torch.where(counts >= MIN_EVIDENCE, counts, 0)


def merge_heads(updates: Sequence[Up], evidence: Tensor) -> Tensor:
    """Class directions [C, r] in the frame from secure sums; NaN rows where evidence [C] is 0.

    From class sums alone they are unit class means. With second moments S = sum u u^T, too, they are the rows of
    (sum u by class) (S + `HEAD_PRIOR` I)^-1: the mean of a linear head's posterior, for which Laplace's approximation
    of the last layer is exact (Daxberger et al. 2021, "Laplace Redux"), and the precision-weighted mean of the heads
    that the nodes would have fitted each by itself.

    Raises:
        MessageError: sums of different shapes; names the nodes.
    """
    sums = _total(updates, "head")
    if any(update.second is not None for update in updates):
        precision = unpack(_total(updates, "second"))
        sums = torch.linalg.solve(precision + HEAD_PRIOR * torch.eye(len(precision), dtype=torch.float64), sums.T).T
    directions = torch.nn.functional.normalize(sums, dim=1)
    return torch.where(evidence[:, None] > 0, directions, torch.nan)


def merge_noisy_heads(updates: Sequence[Up], frame: Tensor, noise: float, width: int) -> Tensor:
    """Class directions [C, r] from sums with Gaussian noise; NaN where noise alone would have as large a sum.

    All of it is made of what was released and of the frame, which is public, so it costs nothing more. From unit sums
    in the leading coordinates each anchor gets class scores, and from these come directions in all coordinates, which
    noise moves less (`alignment.classes.evidence_head`).

    Args:
        updates: one per labelled node.
        frame: [K, r].
        noise: standard deviation of what each node added to each number.
        width: coordinates that are not 0.

    Raises:
        MessageError: sums of different shapes; names the nodes.
    """
    sums = _total(updates, "head")
    known = sums.square().sum(1) > len(updates) * noise**2 * width
    directions = torch.full_like(sums, torch.nan)
    if known.any():
        scores = classes.anchor_classes(frame.double(), sums[known])
        directions[known] = torch.nn.functional.normalize(classes.evidence_head(scores, frame.double()), dim=1)
    return directions


def merge_directions(updates: Sequence[Up], rule: robust.Rule) -> tuple[Tensor, dict[str, str]]:
    """Class directions [C, r] by `robust.vote`; and the nodes whose votes do not count, each with a line that says so.

    Raises:
        MessageError: directions of different shapes; names the nodes.
    """
    senders = [update.node for update in in_order(updates) if update.directions is not None]
    head, counts = robust.vote(_sent(updates, "directions"), rule)
    told = {
        node: f"node {node!r} tells other classes than the other nodes do: it is left out from here on; look at its "
        "labels"
        for node, count in zip(senders, counts, strict=True)
        if not count
    }
    return head, told


def _total(updates: Sequence[Up], field: str) -> Tensor:
    return total(_sent(updates, field))


def _sent(updates: Sequence[Up], field: str) -> list[Tensor]:
    """A field of all updates that have it, in node order and of one shape."""
    senders = [update for update in in_order(updates) if getattr(update, field) is not None]
    values = [getattr(update, field) for update in senders]
    for sender, value in zip(senders, values, strict=True):
        if value.shape != values[0].shape:
            raise MessageError(
                f"nodes {senders[0].node!r} and {sender.node!r} sent {field} of shapes {tuple(values[0].shape)} and "
                f"{tuple(value.shape)}; all nodes need the same classes and rank"
            )
    return values
