"""Closed-form peers that share anchor features and align two modalities at a time: no frame, and no third modality.

Each modality's nodes send their standardised anchor features. For every two modalities the server fits maps on the
anchors that both hold, and these go to the nodes. What a method has to choose it chooses among `TRIALS` settings, by
how well anchors that a fit has not seen find each other.

Shape letters: k common anchors, F features, q principal coordinates (those of the anchors, all of them: every method
here is a function of inner products with anchors, so nothing is lost), r coordinates of the pair.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import combinations, product

import torch
from torch import Tensor
from torch.nn.functional import normalize

from isogram.alignment import LinearMap, Standardizer, fit_map
from isogram.config import Config
from isogram.data import FederatedData
from isogram.egress import Oversight
from isogram.evaluation import retrieval
from isogram.federation import Federation, class_directions, gather
from isogram.local import MIN_ANCHORS, stream
from isogram.representations import whole

TRIALS = 8
"""Settings that each method may choose from."""

FOLDS = 5

Side = tuple[LinearMap, ...]
"""Maps of one modality's principal coordinates, block by block of the pair's; both sides have the same blocks."""

Fit = Callable[[Tensor, Tensor, tuple[float, ...]], tuple[Side, Side]]
"""Principal coordinates of the same anchors [k, q], [k, q'] and a setting -> the two sides."""


def ridge(x: Tensor, y: Tensor, setting: tuple[float, ...]) -> tuple[Side, Side]:
    """Ridge from each modality onto the other's features. setting: rho, relative to the mean eigenvalue.

    Two blocks: the other's features as predicted, beside one's own. With unit rows in each, the cosine of a pair is the
    mean of the two ways.
    """
    there = fit_map(x, y - y.mean(0), setting[0], clip=None)
    back = fit_map(y, x - x.mean(0), setting[0], clip=None)
    return (there, _centred(x)), (_centred(y), back)


def cca(x: Tensor, y: Tensor, setting: tuple[float, ...]) -> tuple[Side, Side]:
    """Regularised CCA; each coordinate counts by its correlation in the cosine, as in CSA (arXiv 2410.07610).

    setting: ridge relative to the mean eigenvalue, share of the canonical directions that are kept.
    """
    rho, share = setting
    wx, wy = _whitening(x, rho), _whitening(y, rho)
    cross = ((x - x.mean(0)) @ wx).T @ ((y - y.mean(0)) @ wy)
    left, correlation, right = torch.linalg.svd(cross, full_matrices=False)
    rank = max(1, round(share * len(correlation)))
    weight = correlation[:rank].sqrt()
    return (_affine(x, wx @ left[:, :rank] * weight),), (_affine(y, wy @ right[:rank].T * weight),)


def procrustes(x: Tensor, y: Tensor, setting: tuple[float, ...]) -> tuple[Side, Side]:
    """Rotation between the first principal components of both (Schönemann 1966). setting: their number."""
    vx, vy = _directions(x)[0], _directions(y)[0]
    rank = min(int(setting[0]), vx.shape[1], vy.shape[1])
    vx, vy = vx[:, :rank], vy[:, :rank]
    left, _, right = torch.linalg.svd(((x - x.mean(0)) @ vx).T @ ((y - y.mean(0)) @ vy))
    return (_affine(x, vx @ left),), (_affine(y, vy @ right.T),)


METHODS: dict[str, tuple[Fit, Sequence[tuple[float, ...]]]] = {
    "pairwise-ridge": (ridge, [(rho,) for rho in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)]),
    "cca": (cca, list(product((0.01, 0.1, 1.0, 10.0), (0.25, 1.0)))),
    "procrustes": (procrustes, [(float(rank),) for rank in (4, 8, 16, 24, 32, 48, 64, 96)]),
}


@dataclass(frozen=True)
class PairMap:
    """A node's coordinates in one pair: standardised features [n, F] -> principal coordinates -> the side's blocks.

    middle [F], axes [F, q]: of the modality's anchors.
    """

    standardize: Standardizer
    middle: Tensor
    axes: Tensor
    side: Side

    def __call__(self, features: Tensor) -> Tensor:
        """[n, r] from raw features [n, F]."""
        return embed_side((self.standardize(features) - self.middle) @ self.axes, self.side)


def align_pairs(name: str, data: FederatedData, config: Config) -> dict[tuple[str, str], Federation]:
    """Every two modalities' nodes in coordinates of their own, by one of `METHODS`; they share one ledger.

    Where two modalities have fewer than four anchors in common, nothing aligns them: nodes keep bases of their own, as
    in `local`.
    """
    fed = gather(data, config, oversight=Oversight(more=("embeddings",)))
    for node in fed.nodes:
        node.map = node.standardize
    sent = [fed.receive(node, "embeddings", 0, node.send_embeddings(0)) for node in fed.nodes]
    features = {
        m: torch.stack([whole(update, fed.n_anchors) for update in sent if update.modality == m]).nanmean(0)
        for m in data.modalities
    }
    found: dict[tuple[str, str], Federation] = {}
    for a, b in combinations(data.modalities, 2):
        pair = replace(fed, nodes=tuple(copy(node) for node in fed.nodes if node.modality in (a, b)))
        common = ~(features[a].isnan().any(1) | features[b].isnan().any(1))
        sides: dict[str, tuple[Tensor, Tensor, Side]] = {}
        if common.sum() >= MIN_ANCHORS:
            middle = {m: features[m][common].mean(0) for m in (a, b)}
            axes = {m: _directions(features[m][common])[0] for m in (a, b)}
            x, y = ((features[m][common] - middle[m]) @ axes[m] for m in (a, b))
            fit, settings = METHODS[name]
            order = torch.randperm(len(x), generator=stream(fed.anchor_hash, a, b, "folds"))
            chosen = fit(x, y, choose(fit, x, y, settings, order))
            sides = {m: (middle[m], axes[m], side) for m, side in zip((a, b), chosen, strict=True)}
        for node in pair.nodes:
            if sides:
                node.map = PairMap(node.standardize, *sides[node.modality])
            else:
                node.fit_apart(data.anchors.items[node.modality], fed.width)
        found[a, b] = replace(pair, head=class_directions(pair, 1))
    return found


def choose(fit: Fit, x: Tensor, y: Tensor, settings: Sequence[tuple[float, ...]], order: Tensor) -> tuple[float, ...]:
    """The setting under which held-out anchors find each other best, both ways: mean reciprocal rank over folds.

    Args:
        fit: of the method.
        x: [k, q] of the anchors.
        y: [k, q'] of the same.
        settings: to choose from; the first of those that are equally good is taken.
        order: [k] permutation that deals anchors to folds of four or more, five folds at most.
    """
    folds = order.chunk(max(2, min(FOLDS, len(order) // 4)))

    def score(setting: tuple[float, ...]) -> float:
        total = 0.0
        for fold in folds:
            rest = order[~torch.isin(order, fold)]
            left, right = fit(x[rest], y[rest], setting)
            total += _reciprocal_rank(embed_side(x[fold], left), embed_side(y[fold], right)) * len(fold)
        return total

    return max(settings, key=score)


def embed_side(z: Tensor, side: Side) -> Tensor:
    """[n, r] coordinates in a pair from principal coordinates [n, q]: unit rows in each block where there are two."""
    blocks = [block(z) for block in side]
    return blocks[0] if len(blocks) == 1 else torch.cat([normalize(block, dim=1) for block in blocks], dim=1)


def _reciprocal_rank(x: Tensor, y: Tensor) -> float:
    """Mean of 1 / rank of the true partner, both ways; ties count against, as in `evaluation.retrieval`."""
    n = len(x)
    recalls = [retrieval(left, right, range(1, n + 1)) for left, right in ((x, y), (y, x))]
    # 1 / rank is what is left of the sum over k of [rank <= k] (1/k - 1/(k+1)), and 1/n at the end.
    gain = [1 / k - 1 / (k + 1) for k in range(1, n)] + [1 / n]
    return sum(r * g for recall in recalls for r, g in zip(recall, gain, strict=True)) / 2


def _directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Principal axes [F, q] of the rows of x [k, F] and their singular values [q], those that are not roundoff."""
    _, values, axes = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    keep = values > 1e-9 * values[0].clamp_min(torch.finfo(values.dtype).tiny)
    return axes[keep].T, values[keep]


def _whitening(x: Tensor, rho: float) -> Tensor:
    """[q, q'] onto principal components of damped unit variance."""
    axes, values = _directions(x)
    return axes / (values**2 + rho * (values**2).sum() / len(x)).sqrt()


def _affine(x: Tensor, weight: Tensor) -> LinearMap:
    return LinearMap(Standardizer.none(x.shape[1]), weight, -x.mean(0) @ weight)


def _centred(x: Tensor) -> LinearMap:
    return _affine(x, torch.eye(x.shape[1], dtype=x.dtype))
