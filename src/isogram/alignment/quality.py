"""How far each anchor item can be trusted, from the Grams alone: nobody says which items are wrong (docs/anchors.md).

Every node's items are placed by ridge regression on its other anchors, which its Gram suffices for. An item that stands
for its concept lies where the other modalities' items lie; one that does not lies as anywhere.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from isogram.alignment.cross_fit import cross_fit
from isogram.alignment.gram import center, unshrink

FOLDS, REPEATS, PASSES = 5, 3, 4
"""Cross-fitting, how often it is repeated, and passes in which doubtful items lose their say."""

PRIOR, STRENGTH = 0.02, 50.0
"""Share of wrong items before any is seen, and how many anchors' worth of evidence that is: docs/log.md."""

POWER, LEAST = 2, 1e-3
"""Weight of an item: its probability to this power, and not less than this; times what is declared."""

MOST, FAINTEST, NARROWEST = 0.6, 0.5, 1.0
"""Share of wrong items at most; mean and sd of partners' similarity at least, in sds of strangers'."""

EM_STEPS, MESSAGE_STEPS = 20, 5

MIN_JUDGED = 10
"""Anchors below which nothing is doubted."""


class _Fold(NamedTuple):
    """Held-out anchors of each node: positions in the set, and unit coordinates in the frame of the others."""

    anchors: list[Tensor]
    rows: list[Tensor]


def item_quality(
    matrices: Sequence[Float[Tensor, "_ _"]],
    indices: Sequence[Int[Tensor, " _"]],
    n_anchors: int,
    modalities: Sequence[str],
    *,
    rank: int,
    power: float,
    declared: Sequence[Float[Tensor, " _"]] | None = None,
) -> list[Float[Tensor, " _"]]:
    """Weight in (0, 1] of each node's items: about the square of the probability that it belongs to its concept.

    Per node and other modality, the cosine of a held-out item with the modality's mean coordinates of the same anchor,
    over those of different anchors, is N(0, 1) if either item is wrong, and N(mu, s^2) else, mu and s by EM; similarity
    above mu is never evidence against an item. That of two wrong items and one right one can be told from three of
    which one is wrong, so beliefs are passed on until they agree (sum-product; a node's own evidence does not come back
    to it). The share of wrong items of a node has a beta prior that it takes many anchors to overrule: without it
    partners that are far apart, as on digits, are taken for wrong ones (docs/log.md).

    Args:
        matrices: per node, the shrunk Gram M_n over its anchors.
        indices: per node, the positions of those anchors.
        n_anchors: K.
        modalities: per node, its modality; nodes of one modality do not judge each other.
        rank: of the frame; as much of it as the anchors that are left allow.
        power: of the frame.
        declared: per node, weights that are known, which the estimates multiply.

    Returns:
        Per node, weights; those declared, or 1, where there is nothing to judge by: few anchors or one modality.
    """
    known = [torch.ones(len(index), dtype=torch.float64) for index in indices]
    if declared is not None:
        known = [quality.double() for quality in declared]
    if n_anchors < MIN_JUDGED or len(set(modalities)) < 2:
        return known
    kernels = [unshrink(matrix.double()) for matrix in matrices]
    draw = torch.Generator().manual_seed(n_anchors)
    folds = [fold for _ in range(REPEATS) for fold in torch.randperm(n_anchors, generator=draw).chunk(FOLDS)]
    kinds = list(dict.fromkeys(modalities))
    weight, right = known, [torch.ones_like(quality) for quality in known]
    for _ in range(PASSES):
        found = [_placed(kernels, indices, n_anchors, weight, fold, rank, power) for fold in folds]
        similar = {
            (node, kind): value
            for node, own in enumerate(modalities)
            for kind in kinds
            if kind != own
            and (value := _similarity(found, node, _of(kind, modalities), weight, indices, n_anchors)) is not None
        }
        if not similar:
            return known
        right = [p[index] for p, index in zip(_beliefs(similar, indices, modalities, n_anchors), indices, strict=True)]
        weight = [q * p.clamp_min(LEAST) for q, p in zip(known, right, strict=True)]
    return [q * (p**POWER).clamp_min(LEAST) for q, p in zip(known, right, strict=True)]


def _of(kind: str, modalities: Sequence[str]) -> list[int]:
    return [node for node, own in enumerate(modalities) if own == kind]


def _placed(
    kernels: Sequence[Tensor],
    indices: Sequence[Tensor],
    n_anchors: int,
    weight: Sequence[Tensor],
    fold: Int[Tensor, " _"],
    rank: int,
    power: float,
) -> _Fold:
    parts = cross_fit(kernels, indices, n_anchors, weight, fold, rank=rank, power=power)
    return _Fold([part.held_out for part in parts], [normalize(part.places()[0], dim=1) for part in parts])


def _similarity(
    folds: Sequence[_Fold],
    node: int,
    others: Sequence[int],
    weight: Sequence[Tensor],
    indices: Sequence[Tensor],
    n_anchors: int,
) -> Float[Tensor, " K"] | None:
    """Of the node's items with the other nodes' mean ones, in sds of strangers; NaN where no pair; None without any."""
    say = torch.zeros(len(indices), n_anchors, dtype=torch.float64)
    for other in others:
        say[other, indices[other]] = weight[other]
    total, times = torch.zeros(n_anchors, dtype=torch.float64), torch.zeros(n_anchors, dtype=torch.float64)
    strangers = []
    for fold in folds:
        mean = torch.zeros(n_anchors, fold.rows[node].shape[1], dtype=torch.float64)
        for other in others:
            mean[fold.anchors[other]] += say[other, fold.anchors[other], None] * fold.rows[other]
        common = fold.anchors[node][mean[fold.anchors[node]].any(1)]
        if len(common) < 3:
            continue
        s = fold.rows[node][torch.isin(fold.anchors[node], common)] @ normalize(mean[common], dim=1).T
        s = center(s)
        total[common], times[common] = total[common] + s.diagonal(), times[common] + 1
        strangers.append(s[~torch.eye(len(s), dtype=torch.bool)])
    if not strangers or not (spread := torch.cat(strangers).std(correction=0)) > 0:
        return None
    return (total / times - torch.cat(strangers).mean()) / spread  # 0 / 0 where there is no pair


def _beliefs(
    similar: Mapping[tuple[int, str], Tensor],
    indices: Sequence[Tensor],
    modalities: Sequence[str],
    n_anchors: int,
) -> list[Float[Tensor, " K"]]:
    """Per node, the probability that its item of each anchor is right."""
    share = [PRIOR] * len(indices)
    fits = {
        pair: (max(FAINTEST, float(v.nanmedian())), max(NARROWEST, float(v[~v.isnan()].std(correction=0))))
        for pair, v in similar.items()
    }
    right = [torch.ones(n_anchors, dtype=torch.float64) for _ in indices]
    for _ in range(EM_STEPS):
        ratio = {pair: _ratio(v, *fits[pair]) for pair, v in similar.items()}
        sent = {pair: torch.full((n_anchors,), 1 - share[pair[0]], dtype=torch.float64) for pair in similar}
        for _ in range(MESSAGE_STEPS):
            sent = {(node, kind): _belief(node, kind, share[node], ratio, sent, modalities) for node, kind in similar}
        right = [_belief(node, None, share[node], ratio, sent, modalities) for node in range(len(indices))]
        for (node, kind), v in similar.items():
            both = right[node] * _mean([right[other] for other in _of(kind, modalities)])
            fits[node, kind] = _normal(v, both)
        for node, index in enumerate(indices):
            wrong = float((1 - right[node][index]).sum())
            share[node] = min(MOST, (wrong + STRENGTH * PRIOR) / (len(index) + STRENGTH))
    return right


def _belief(
    node: int,
    without: str | None,
    share: float,
    ratio: Mapping[tuple[int, str], Tensor],
    sent: Mapping[tuple[int, str], Tensor],
    modalities: Sequence[str],
) -> Float[Tensor, " K"]:
    """Probability that the node's items are right by all other modalities but one: what is passed on to that one."""
    own = modalities[node]
    logit = torch.full_like(next(iter(ratio.values())), 1 / share - 1).log()
    for (who, kind), r in ratio.items():
        if who == node and kind != without:
            partner = _mean([sent[other, own] for other in _of(kind, modalities) if (other, own) in sent])
            logit = logit + torch.where(r.isnan(), 0.0, (partner * r + 1 - partner).log())
    return logit.sigmoid()


def _ratio(v: Tensor, centre: float, spread: float) -> Tensor:
    """Density of partners over that of strangers; at least 1 above the centre of partners."""
    low = v.clamp_max(centre)
    log = low.square() / 2 - ((low - centre) / spread).square() / 2 - torch.tensor(spread).log()
    return torch.where(v >= centre, log.clamp_min(0), log).exp()


def _normal(v: Tensor, weight: Tensor) -> tuple[float, float]:
    """Weighted mean and sd where there is a value, not below what is plausible."""
    there = ~v.isnan()
    v, weight = v[there], weight[there].clamp_min(1e-9)
    centre = float((weight * v).sum() / weight.sum())
    spread = float((weight * (v - centre) ** 2).sum() / weight.sum()) ** 0.5
    return max(FAINTEST, centre), max(NARROWEST, spread)


def _mean(rows: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(rows)).mean(0)
