"""What a public anchor set says about the modalities before anything is trained. Pure functions, docs/doctor.md.

The test of a pair permutes the Grams that nodes send. Held-out anchors tell how large the effect is, but cannot carry
a test: each is held out of one fold and trained on in the others, so that permuting within folds is too lenient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from scipy.stats import norm
from torch import Generator, Tensor
from torch.nn.functional import normalize

from isogram.alignment.gram import gram, shrink
from isogram.alignment.oneshot import Standardizer, one_shot
from isogram.errors import AnchorError

TEST_RHO = 1.0
"""Ridge of the Grams that are tested, more than alignment uses: a test wants the strong directions (docs/log.md)."""

ENOUGH = 50
"""Permutations that reach the value of `relation`, after which more would change nothing."""

PRIOR, NARROWEST, STEPS = 0.02, 1.0, 30
"""Of `suspicion`: share of wrong items, least sd of true partners' similarity, EM steps."""


class Relation(NamedTuple):
    """cka: debiased; z: cka over its sd under permutation, in closed form; p: share of permutations that reach it."""

    cka: float
    z: float
    p: float


@dataclass(frozen=True)
class Block:
    """One fold of one pair: positions [n] of its held-out anchors in the set, cosines [n, n] between the modalities."""

    index: Int[Tensor, " n"]
    cosine: Float[Tensor, "n n"]


def u_center(matrix: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """Zero diagonal and zero row sums: inner products of such are unbiased HSIC (Szekely & Rizzo 2014, section 3.1)."""
    k = len(matrix)
    hollow = matrix - torch.diag(matrix.diagonal())
    row = hollow.sum(1, keepdim=True) / (k - 2)
    centred = hollow - row - row.T + hollow.sum() / ((k - 1) * (k - 2))
    return centred - torch.diag(centred.diagonal())


def null_sd(n: int) -> float:
    """Standard deviation of debiased CKA over all n! permutations, whatever the two Grams are; its mean is 0.

    With zero diagonals and row sums, sums over disjoint and over overlapping index pairs are multiples of the sums of
    squares, and the variance of sum_ij A_ij B_p(i)p(j) collapses to 2 |A|^2 |B|^2 / (n (n - 3)).
    """
    return (2 / (n * (n - 3))) ** 0.5


def relation(
    left: Float[Tensor, "n _"], right: Float[Tensor, "n _"], clip: float, permutations: int, draw: Generator
) -> Relation:
    """Are two modalities' features of the same n >= 4 anchors related? Exact if the pairs are exchangeable.

    Drawing stops once `ENOUGH` permutations reached the value, which is exact too (Besag & Clifford 1991).

    Raises:
        AnchorError: features of either that do not vary over these anchors.
    """
    a, b = (u_center(shrink(gram(Standardizer.fit(x, clip)(x)), TEST_RHO)) for x in (left, right))
    norms = a.norm() * b.norm()
    if not norms > 1e-9:  # anchors that are all equally far apart
        return Relation(0.0, 0.0, 1.0)
    n, b = len(a), b / norms
    value = float((a * b).sum())
    reached, drawn, p = 0, 0, 1.0
    while drawn < permutations and reached < ENOUGH:
        one, drawn = torch.randperm(n, generator=draw), drawn + 1
        reached += float((a * b.index_select(0, one).index_select(1, one)).sum()) >= value - 1e-12
        p = reached / drawn if reached == ENOUGH else (1 + reached) / (1 + drawn)
    return Relation(value, value / null_sd(n), p)


def serial(features: Float[Tensor, "n _"], clip: float, permutations: int, draw: Generator) -> float:
    """p-value of: anchors that follow each other in the set are more alike than others are.

    Then pairs are not exchangeable, and two unrelated modalities that share the order look related to `relation`.
    """
    matrix = shrink(gram(Standardizer.fit(features, clip)(features)), TEST_RHO)
    orders = torch.rand(permutations, len(matrix), generator=draw).argsort(1)
    value, null = matrix.diagonal(1).sum(), matrix[orders[:, :-1], orders[:, 1:]].sum(1)
    return float((1 + (null >= value - 1e-12).sum()) / (1 + permutations))


def cross_fit(
    anchors: Mapping[str, Float[Tensor, "_ _"]],
    indices: Mapping[str, Int[Tensor, " _"]],
    folds: Sequence[Int[Tensor, " _"]],
    *,
    rank: int | None,
    rho: float,
    power: float,
    clip: float,
    metric: bool,
    quality: Mapping[str, Float[Tensor, " _"]],
    nodes: Mapping[str, int],
) -> dict[tuple[str, str], list[Block]]:
    """Cosines of held-out anchors, each fold embedded by one-shot alignment on all others.

    Blocks of fewer than two anchors are left out, and so are modalities that are left with fewer than two anchors, or
    with such that do not vary.

    Args:
        folds: positions in the anchor set; together all of it.
        anchors, indices, rank, rho, power, clip, metric, quality, nodes: as in `one_shot`.
    """
    blocks: dict[tuple[str, str], list[Block]] = {pair: [] for pair in combinations(anchors, 2)}
    n_anchors = sum(map(len, folds))
    for fold in folds:
        train = torch.ones(n_anchors, dtype=torch.bool)
        train[fold] = False
        place = train.cumsum(0) - 1
        inside = {m: train[index] for m, index in indices.items()}
        able = [m for m, x in anchors.items() if inside[m].sum() > 1 and (x[inside[m]] != x[inside[m]][0]).any()]
        if len(able) < 2:
            continue
        try:
            fitted = one_shot(
                {m: anchors[m][inside[m]] for m in able},
                {m: place[indices[m][inside[m]]] for m in able},
                int(train.sum()),
                rank=rank,
                rho=rho,
                power=power,
                clip=clip,
                metric=metric,
                quality={m: quality[m][inside[m]] for m in able},
                nodes=nodes,
                connected=False,  # parts of a frame that nothing connects give cosines at chance, which is the truth
            )
        except AnchorError:
            continue  # so few or so alike that nothing can be fitted to them
        rows = {m: normalize(fitted.maps[m](anchors[m][~inside[m]]), dim=1) for m in able}
        index = {m: indices[m][~inside[m]] for m in able}
        for a, b in combinations(able, 2):
            common = index[a][torch.isin(index[a], index[b])]
            if len(common) > 1:
                left, right = rows[a][torch.isin(index[a], common)], rows[b][torch.isin(index[b], common)]
                blocks[a, b].append(Block(common, left @ right.T))
    return blocks


def partner_ranks(blocks: Sequence[Block]) -> tuple[float, float, float]:
    """How well held-out anchors find their partner, mean over both directions; (.5, 0, 0) without a block.

    Returns:
        Probability that the partner is closer than a random other one (AUC), share found first, and that share's
        chance. Ties count half, and against being first.
    """
    below, first, chance, n = 0.0, 0.0, 0.0, 0
    for block in blocks:
        s, k = block.cosine, len(block.cosine)
        own = s.diagonal()
        for rows in (s, s.T):
            less, ties = (rows < own[:, None]).sum(1), (rows == own[:, None]).sum(1) - 1
            below += float((less + ties.double() / 2).sum()) / (k - 1) / 2
            first += float((less == k - 1).sum()) / 2
        chance, n = chance + 1, n + k  # one in k at random, for k anchors
    return (below / n, first / n, chance / n) if n else (0.5, 0.0, 0.0)


def suspicion(
    blocks: Mapping[tuple[str, str], Sequence[Block]], modalities: Sequence[str], n_anchors: int
) -> Float[Tensor, "K _"]:
    """[K, 1 + modalities] per anchor: probability that all its items belong together, then that one modality's is off.

    A mixture with known null (local false discovery rate; Efron 2008): similarities of two anchors that do not belong
    together, standardised, are N(0, 1); those of true partners N(mu, s^2) per pair, by EM; an item that is off makes
    all its pairs such mismatches. Similarity above mu is never evidence against an anchor. The share of wrong items is
    fixed: estimated, it grows wherever partners are not normal, and good anchors are blamed.

    Args:
        blocks: of the pairs that are known to be related, the only ones that can tell.
    """
    values: dict[tuple[str, str], Tensor] = {}
    for pair, found in blocks.items():
        value, others = torch.full((n_anchors,), torch.nan, dtype=torch.float64), []
        for block in found:
            s = block.cosine - block.cosine.mean(0) - block.cosine.mean(1, keepdim=True) + block.cosine.mean()
            rest = s[~torch.eye(len(s), dtype=torch.bool)]
            value[block.index] = s.diagonal() - rest.mean()
            others.append(rest - rest.mean())
        if others and (scale := torch.cat(others).square().mean().sqrt()) > 0:
            values[pair] = value / scale
    fits = {
        pair: (float(v.nanmedian()), max(NARROWEST, float(v[~v.isnan()].std(correction=0))))
        for pair, v in values.items()
    }
    states = ["", *modalities]
    prior = torch.tensor([1 - PRIOR * len(modalities), *[PRIOR] * len(modalities)], dtype=torch.float64).clamp_min(
        PRIOR
    )
    posterior = (prior / prior.sum()).expand(n_anchors, -1)
    for _ in range(STEPS if values else 0):
        logit = prior.log().repeat(n_anchors, 1)
        for pair, v in values.items():
            centre, spread = fits[pair]
            against = torch.from_numpy(norm.logpdf(v.numpy()) - norm.logpdf(v.numpy(), centre, spread))
            against = torch.where(v < centre, against, 0.0)  # not a number where the pair does not hold the anchor
            logit[:, [states.index(m) for m in pair]] += against[:, None]
        posterior = logit.softmax(1)
        for pair, v in values.items():
            fine = 1 - posterior[:, [states.index(m) for m in pair]].sum(1)
            weight = torch.where(v.isnan(), 0.0, fine).clamp_min(1e-9)
            centre = float((weight * v.nan_to_num()).sum() / weight.sum())
            spread = float((weight * (v.nan_to_num() - centre) ** 2).sum() / weight.sum()) ** 0.5
            fits[pair] = (centre, max(NARROWEST, spread))
    return posterior


def twins(features: Float[Tensor, "k F"], closer: float) -> list[tuple[int, int]]:
    """Pairs of rows whose squared distance is below `closer` times the mean one."""
    squares = features.square().sum(1)
    distance = squares[:, None] + squares[None, :] - 2 * features @ features.T
    near = torch.triu(distance < closer * distance.mean(), 1)
    return [(int(i), int(j)) for i, j in near.nonzero()]


def near(features: Float[Tensor, "k F"], closer: float) -> list[tuple[int, int]]:
    """Pairs of rows that are each other's nearest, and far nearer than either's next: variants of one item.

    Squared distance below `closer` times that to any third row: unlike a distance alone, this spares families of items
    that are all alike, such as clocks at every hour (Lowe 2004, section 7.1). Three of a kind spare each other, too.
    """
    if len(features) < 3:
        return []
    squares = features.square().sum(1)
    distance = squares[:, None] + squares[None, :] - 2 * features @ features.T
    distance = distance.clamp_min(0).fill_diagonal_(torch.inf)
    (first, second), nearest = distance.topk(2, largest=False).values.T, distance.argmin(1)
    mutual = nearest[nearest] == torch.arange(len(features))
    alone = first < closer * torch.minimum(second, second[nearest])
    return [(i, int(nearest[i])) for i in torch.nonzero(mutual & alone).flatten().tolist() if i < nearest[i]]


def faint(features: Float[Tensor, "k F"], weaker: float) -> list[int]:
    """Rows that are all but the mean row: squared distance to it below `weaker` times the median one."""
    distance = (features - features.mean(0)).square().sum(1)
    return torch.nonzero(distance < weaker * distance.median()).flatten().tolist()
