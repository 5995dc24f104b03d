"""Means that a few nodes cannot move far: coordinate by coordinate, and of changes that are no longer than most.

Every node counts alike, whatever it says of itself: a node that lies also lies about its number of rows.
"""

from collections.abc import Mapping, Sequence
from statistics import median, median_high
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

Rule = Literal["median", "trimmed"]

AGREE = 0.5
"""Of the median agreement: below it a vote does not count. Chosen at seeds 100-105."""

CLEAR = 0.1
"""Median cosine between nodes, of changes or of votes, below which nobody is blamed: there is nothing to agree with."""

CONFIRMED = 0.5
"""Mean cosine with votes from which on class sums are taken. Honest ones had .64 or more at seeds 100 and 103."""


def middle(values: Sequence[Tensor], rule: Rule) -> Tensor:
    """Median or trimmed mean of each coordinate, float64 (Yin et al. 2018, arXiv 1803.01498).

    With t = n // 3 values that are anything, every coordinate of either lies between the least and the largest of the
    other n - t. "trimmed" leaves out the t least and the t largest; of 3 or 4 values both are the same, and of 2 they
    are the mean, which withstands nothing.

    Args:
        values: one tensor per node, all of one shape, without NaN. Their order is of no account.
        rule: which of the two.
    """
    ordered = torch.stack([value.double() for value in values]).sort(dim=0).values
    cut = (len(values) - 1) // 2 if rule == "median" else len(values) // 3
    return ordered[cut : len(values) - cut].mean(0)


Adapters = Mapping[str, Tensor]


def changes(values: Mapping[str, Adapters], before: Mapping[str, Adapters]) -> dict[str, dict[str, Tensor]]:
    """Node -> what a round has changed of its adapters, float64. before: node -> adapters as the round began."""
    return {
        node: {name: value.double() - before[node][name].double() for name, value in found.items()}
        for node, found in values.items()
    }


def opposed(changed: Mapping[str, Adapters]) -> list[str]:
    """Nodes whose change points against the others': its median cosine with theirs is negative.

    Of all adapters together, over all nodes, also those that do not average with it. Honest nodes' cosines fall towards
    0 as rounds go on (docs/log.md), so that nobody is blamed once the median node's is below `CLEAR`. Fewer than 3
    nodes cannot tell.

    Args:
        changed: node -> change of its adapters, of the same names.
    """
    if len(changed) < 3 or not next(iter(changed.values())):
        return []
    rows = torch.stack([torch.cat([found[name].flatten() for name in sorted(found)]) for found in changed.values()])
    rows = normalize(rows, dim=1)
    cosine = rows @ rows.T
    others = ~torch.eye(len(rows), dtype=torch.bool)
    found = [median(row[there].tolist()) for row, there in zip(cosine, others, strict=True)]
    return [node for node, value in zip(changed, found, strict=True) if value < 0 and median(found) >= CLEAR]


def bounded(changed: Mapping[str, Adapters]) -> dict[str, dict[str, Tensor]]:
    """Every node's change cut to the median length of all nodes' changes (Sun et al. 2019, arXiv 1911.07963).

    The length is that of all adapters together. It is what protects groups so small that a third of all nodes may be
    half of one: there a coordinate's middle value is nobody's to hold, but nobody can carry it far.

    Args:
        changed: node -> change of its adapters.
    """
    length = {
        node: float(torch.stack([change.norm() for change in found.values()]).norm()) if found else 0.0
        for node, found in changed.items()
    }
    most = median(length.values()) if length else 0.0
    share = {node: most / own if own > most else 1.0 for node, own in length.items()}
    return {node: {name: share[node] * change for name, change in found.items()} for node, found in changed.items()}


def agreement(votes: Sequence[Tensor]) -> list[float]:
    """How far each node's class directions are those of the others: the median over these of the mean cosine.

    Of an even number the larger of the two in the middle: of three nodes, one of them hostile, either of the honest
    ones agrees with one other. Nodes without a class in common do not judge each other; one that nobody judges has 1.

    Args:
        votes: [C, r] per node, unit rows, NaN for classes that it does not speak of.
    """
    found = []
    for place, vote in enumerate(votes):
        cosines = [(vote * other).sum(1) for number, other in enumerate(votes) if number != place]
        known = [float(cosine.nanmean()) for cosine in cosines if not cosine.isnan().all()]
        found.append(median_high(known) if known else 1.0)
    return found


def vote(votes: Sequence[Tensor], rule: Rule) -> tuple[Tensor, list[bool]]:
    """Class directions [C, r], float64, and whose votes count.

    A node that agrees with the others less than half as far as the median node does tells other classes than they do:
    its whole vote is left out, unless even the median node hardly agrees. Of the rest, of each class, the middle by
    coordinate, as a unit row; NaN where nobody speaks of the class.

    Args:
        votes: as in `agreement`.
        rule: of `middle`.
    """
    votes = [one.double() for one in votes]
    found = agreement(votes)
    usual = median(found)
    counts = [value >= AGREE * usual or usual < CLEAR for value in found]
    head = torch.full(votes[0].shape, torch.nan, dtype=torch.float64)
    for c in range(len(head)):
        rows = [one[c] for one, count in zip(votes, counts, strict=True) if count and not one[c].isnan().any()]
        if rows:
            head[c] = normalize(middle(rows, rule), dim=0)
    return head, counts


def confirmed(sums: Tensor, votes: Tensor) -> Tensor:
    """Class directions [C, r], float64, from sums if they are what votes say (`doubt`), else the votes.

    Of classes that nobody votes for sums say nothing.

    Args:
        sums, votes: [C, r], unit rows, NaN for classes that nobody speaks of.
    """
    if doubt(sums, votes):
        return votes.double()
    return torch.where(votes.isnan().any(1, keepdim=True), torch.nan, sums.double())


def doubt(sums: Tensor, votes: Tensor) -> str:
    """What speaks against sums, in words; "" if nothing does.

    Nobody sees who spoils a sum, but everybody sees what nodes say bare. Sums have to speak of all classes that votes
    speak of, with a mean cosine of `CONFIRMED` or more and none against its vote.

    Args:
        sums, votes: as in `confirmed`.
    """
    cosine = (sums.double() * votes.double()).sum(1)[~votes.isnan().any(1)]
    if not len(cosine):
        return "speak of classes that no node votes for"
    if cosine.isnan().any():
        return "lack a class that nodes vote for: it has too few rows, or one of the counts is false"
    if cosine.mean() >= CONFIRMED and cosine.min() >= 0:
        return ""
    return "are not what nodes vote for: one of them is spoilt, and masked it does not show which"
