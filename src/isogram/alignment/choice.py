"""How nodes fit - kernel, ridge, whether coordinates are decorrelated - chosen by anchors that no fit has seen.

The server has all it takes in the Grams that nodes have sent anyhow: `cross_fit`. No setting is best everywhere: on
tables of genes a light ridge, a linear kernel and decorrelation, on encoders' tokens a heavy ridge, a Gaussian part and
none (docs/log.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from isogram.alignment.cross_fit import cross_fit, sound_anchors
from isogram.alignment.decorrelate import decorrelation
from isogram.alignment.gram import shrink, unshrink
from isogram.alignment.kernel import kernel_gram

SHARES, RIDGES = (1.0, 0.3), (1.0, 3.0, 10.0)
"""To choose from: of the linear part in the kernel; and ridges, as multiples of the one that is set."""

FOLDS = 5

LEAST = 20
"""Anchors below which nothing is chosen."""

CLEARLY = 2.0
"""Standard errors by which another way to fit must find anchors better than the one that is set."""


@dataclass(frozen=True)
class Fit:
    """How a node fits its map. share: of the linear part in the kernel; ridge: relative to its mean eigenvalue."""

    share: float
    ridge: float
    decorrelate: bool

    def __str__(self) -> str:
        kernel = "linear kernel" if self.share == 1 else f"kernel {1 - self.share:.0%} Gaussian"
        return f"{kernel}, ridge {self.ridge:g}, {'' if self.decorrelate else 'not '}decorrelated"


def ways(start: Fit) -> list[Fit]:
    """What there is to choose from, `start` first: it is of the linear kernel.

    Decorrelation is tried only where `start` asks for it.
    """
    others = product(SHARES, RIDGES, dict.fromkeys((start.decorrelate, False)))
    return list(dict.fromkeys([start, *(Fit(share, start.ridge * ridge, turn) for share, ridge, turn in others)]))


def as_kernel(m: Float[Tensor, "k k"], share: float, rho: float) -> Float[Tensor, "k k"]:
    """The shrunk Gram of another kernel, from that of the linear one; `share` as in `Kernel.fit`."""
    return m if share == 1 else shrink(kernel_gram(unshrink(m), share), rho)


def choose_fit(
    matrices: Sequence[Float[Tensor, "_ _"]],
    indices: Sequence[Int[Tensor, " _"]],
    n_anchors: int,
    modalities: Sequence[str],
    *,
    start: Fit,
    rank: int,
    power: float,
    quality: Sequence[Float[Tensor, " _"]],
) -> int:
    """The way to fit, as its number in `ways(start)`, under which anchors that were left out find each other best.

    Score of an anchor: mean reciprocal rank among those left out with it, over the pairs of nodes of different
    modalities that hold it, both ways. `start` stays unless another's mean is better by `CLEARLY` standard errors of
    the paired difference over anchors, or if there are fewer than `LEAST` anchors.

    Args:
        matrices: per node, the shrunk Gram M_n over its anchors, under the ridge of `start` and the linear kernel.
        indices: per node, the positions of those anchors.
        n_anchors: K.
        modalities: per node, its modality.
        start: what is set.
        rank: of the frame.
        power: of the frame.
        quality: per node, weights of its anchors.
    """
    if n_anchors < LEAST or len(set(modalities)) < 2:
        return 0
    scores = {way: torch.zeros(n_anchors, dtype=torch.float64) for way in ways(start)}
    times = torch.zeros(n_anchors, dtype=torch.float64)
    weight = [q.double() for q in quality]
    folds = torch.randperm(n_anchors, generator=torch.Generator().manual_seed(n_anchors)).chunk(FOLDS)
    for share in SHARES:
        kernels = [unshrink(as_kernel(m.double(), share, start.ridge)) for m in matrices]
        for fold in folds:
            parts = cross_fit(kernels, indices, n_anchors, weight, fold, rank=rank, power=power)
            sound = [sound_anchors(part.weight) for part in parts]
            for ridge in RIDGES:
                rows, left = zip(*(part.places(ridge) for part in parts), strict=True)
                for way in [way for way in scores if (way.share, way.ridge) == (share, start.ridge * ridge)]:
                    places = [
                        z @ decorrelation(own[full]) if way.decorrelate and full.sum() > 1 else z
                        for z, own, full in zip(rows, left, sound, strict=True)
                    ]
                    found, judged = _scores(places, [part.held_out for part in parts], n_anchors, modalities)
                    scores[way] += found
                    times += judged * (way == start)
    at = times > 0
    means = [score[at] / times[at] for score in scores.values()]
    best = max(range(len(means)), key=lambda way: float(means[way].mean()))
    gain = means[best] - means[0]
    clear = len(gain) >= LEAST and gain.mean() > CLEARLY * gain.std() / len(gain) ** 0.5
    return best if clear else 0


def _scores(
    places: Sequence[Float[Tensor, "_ r"]],
    held_out: Sequence[Int[Tensor, " _"]],
    n_anchors: int,
    modalities: Sequence[str],
) -> tuple[Float[Tensor, " K"], Float[Tensor, " K"]]:
    """Sum of each anchor's reciprocal ranks, and how many they are."""
    total, times = torch.zeros(2, n_anchors, dtype=torch.float64)
    for a, b in combinations(range(len(places)), 2):
        common = held_out[a][torch.isin(held_out[a], held_out[b])]
        if modalities[a] == modalities[b] or len(common) < 2:
            continue
        x, y = (normalize(places[n][torch.isin(held_out[n], common)], dim=1) for n in (a, b))
        cosine = x @ y.T
        for s in (cosine, cosine.T):
            total[common] += 1 / (s >= s.diagonal()[:, None]).sum(1)
        times[common] += 2
    return total, times
