"""Classes where nobody labels rows: labels reach a node through the anchors' places in the frame, and spread from them.

Shape letters: k anchors at the node, N private rows, F features, r coordinates, C classes that the head knows.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist
from torch import Tensor
from torch.nn.functional import normalize, pad

from isogram.alignment.oneshot import LinearMap, Standardizer, Waves
from isogram.errors import DataError

WIDTH, RIDGE = 2.0, 0.1
"""Of `anchor_scores`: kernel exp(-WIDTH d^2 / median d^2), and what is added to its diagonal."""

RIDGES = tuple(10.0**e for e in (-3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1))
"""Of `class_part`, relative to the mean eigenvalue of the rows' Gram matrix."""

SMOOTH = 1.0
"""Of `evidence_head`: ridge, relative to the mean eigenvalue of the places' second moment."""

NEIGHBOURS, SPREAD = 6, 0.95
"""Of `propagate`: edges from each row, and the share of its label that a row takes from its neighbours."""

ROW_SLACK = 0.25
"""Of `spread`: standard errors by which it may be the worse, for every row per anchor."""

STUDENTS = 8
"""Of `Node.learn_classes`: times that a student without waves is asked for a look; then one with waves is."""

WAVES = 500
"""Of `random_waves`."""

RANK = 1e-2
"""Singular values below it, relative to the largest, count as 0: class directions need not be independent."""

TEMPERATURE, SHARPEN = 0.1, 2.0
"""Of the anchors' classes: softmax of cosines; of what a student learns: power of the propagated labels."""


def anchor_scores(
    rows: Float[Tensor, "N F"], labels: Int[Tensor, " N"], anchors: Float[Tensor, "k F"], n_classes: int
) -> Float[Tensor, "k C"]:
    """What a node that labels its rows makes of the public anchors: class scores, rows of sum 1.

    Kernel ridge on one-hot labels with a Gaussian kernel; scores below 0 count as 0. Classes without a row score 0.
    """
    x, y = rows.double().numpy(), torch.nn.functional.one_hot(labels, n_classes).double().numpy()
    among = cdist(x, x, "sqeuclidean")
    scale = np.median(among[np.triu_indices(len(x), 1)]) if len(x) > 1 else 1.0
    width = WIDTH / (scale or 1.0)
    prior = y.mean(0)
    weights = np.linalg.solve(np.exp(-width * among) + RIDGE * np.eye(len(x)), y - prior)
    scores = np.exp(-width * cdist(anchors.double().numpy(), x, "sqeuclidean")) @ weights + prior
    positive = np.clip(scores, 0, None) + 1e-9 * (prior > 0)
    return torch.from_numpy(positive / positive.sum(1, keepdims=True))


def evidence_head(scores: Float[Tensor, "k C"], places: Float[Tensor, "k r"]) -> Float[Tensor, "C r"]:
    """Class directions in the frame such that anchors' cosines to them follow their scores: ridge on unit places."""
    unit = normalize(places, dim=1)
    moment = unit.T @ unit
    ridge = SMOOTH * moment.trace() / len(moment)
    centred = scores - scores.mean(0)
    return torch.linalg.solve(moment + ridge * torch.eye(len(moment), dtype=moment.dtype), unit.T @ centred).T


def anchor_classes(places: Float[Tensor, "k r"], head: Float[Tensor, "C r"]) -> Float[Tensor, "k C"]:
    """Probability of each class for each anchor, from its place in the frame and the class directions alone."""
    return (normalize(places, dim=1) @ normalize(head, dim=1).T / TEMPERATURE).softmax(1)


def views(tokens: Float[Tensor, "n T c"]) -> tuple[Float[Tensor, "n F"], ...]:
    """Two looks at rows of standardised tokens: as they are, and without each row's mean token.

    What a recording has all along - a voice, a channel, a lighting - is most of what makes rows alike, and often not
    what they say. Neighbours by either look count (docs/log.md).
    """
    level = tokens - tokens.mean(1, keepdim=True)
    spread = level.std((0, 1), keepdim=True)
    level = torch.where(spread > 0, level / spread.clamp_min(torch.finfo(spread.dtype).tiny), level)
    return tuple(x.flatten(1) - x.flatten(1).mean(0) for x in ((tokens, level) if tokens.shape[1] > 1 else (tokens,)))


def neighbour_graph(features: Float[Tensor, "n F"]) -> Float[Tensor, "n n"]:
    """Weights exp(-d / mean d), d = 1 - cosine, from each row to its nearest ones; halved where only one is near."""
    unit = normalize(features.double(), dim=1)
    cosine = unit @ unit.T
    cosine.fill_diagonal_(-torch.inf)
    near = cosine.topk(min(NEIGHBOURS, len(unit) - 1), dim=1)
    distance = 1 - near.values
    weight = (-distance / distance.mean().clamp_min(1e-12)).exp()
    graph = torch.zeros_like(cosine).scatter_(1, near.indices, weight)
    return (graph + graph.T) / 2


def propagate(
    looks: Sequence[Float[Tensor, "n _"]],
    anchors: Float[Tensor, "k C"],
    labels: Float[Tensor, "N C"],
) -> tuple[Float[Tensor, "N C"], Float[Tensor, "k C"]]:
    """Class probabilities of a node's rows, from those of its anchors and of the rows that have some, over its graph.

    F = (I - a D^-1/2 W D^-1/2)^-1 E over the sum W of the looks' graphs (Zhou et al. 2004), E scaled to the same sum
    for every class; then class masses are set to the anchors' (Zhu, Ghahramani & Lafferty 2003) and rows to 1.

    Args:
        looks: of the anchors, then of the rows, n = k + N.
        anchors: their class probabilities.
        labels: of the rows, 0 of all classes where unknown.

    Returns:
        Of all rows; and of the anchors, each by the others' evidence and not its own.
    """
    k, prior = len(anchors), anchors.mean(0)
    graph = torch.stack([neighbour_graph(look) for look in looks]).sum(0)
    root = graph.sum(1).rsqrt()
    system = torch.eye(len(graph), dtype=graph.dtype) - SPREAD * (root[:, None] * graph * root)
    evidence = torch.cat([anchors, labels])
    evidence = evidence / evidence.sum(0).clamp_min(0.5)
    own = torch.eye(len(graph), k, dtype=graph.dtype)
    spread, reach = torch.linalg.solve(system, torch.cat([evidence, own], 1)).split([evidence.shape[1], k], 1)
    mass = prior / spread.clamp_min(0).mean(0).clamp_min(1e-300)
    without = spread[:k] - reach.diagonal()[:, None] * evidence[:k]
    found, left = (_shares(values * mass, prior) for values in (spread[k:], without))
    return found, left


def spread(
    looks: Sequence[Float[Tensor, "n _"]],
    places: Float[Tensor, "k r"],
    unseen: Float[Tensor, "k r"],
    labels: Float[Tensor, "N C"],
    head: Float[Tensor, "C r"],
    students: Sequence[Float[Tensor, "n _"]] = (),
) -> Float[Tensor, "N C"] | None:
    """Class probabilities of a node's rows: those that it labels, and for the others what `propagate` makes of them.

    Then each student in turn, a ridge, learns them, and the scores that it gives to rows left out are one more look to
    spread them by: rows that differ only in what no class depends on come to be alike.

    Args:
        looks: of the anchors, then of the rows.
        places: of the anchors in the frame.
        unseen: where the node's map puts each anchor that it was not fitted to.
        labels: of the rows, 0 of all classes where unknown.
        head: unit directions of the classes.
        students: what each sees, of the anchors, then of the rows.

    Returns:
        None if spreading names left-out anchors worse than the map does, in balanced accuracy and beyond the slack: a
        quarter of a standard error for every row that there is per anchor, two at most. Rows are what spreading lives
        on, and an anchor left out takes with it what its class's rows would have had.
    """
    at_anchors = anchor_classes(places, head)
    found, left = propagate(looks, at_anchors, labels)
    gain, error = accuracy_gain(*(values.argmax(1) for values in (at_anchors, left, anchor_classes(unseen, head))))
    k, known = len(places), labels.sum(1, keepdim=True) > 0
    if gain < -error * min(2.0, ROW_SLACK * len(labels) / k):
        return None
    for seen in students:
        learnt, rows = sharpened(torch.where(known, labels, found)), seen[k:]
        weight, scores = _ridge(rows - rows.mean(0), learnt - learnt.mean(0))
        look = torch.cat([(seen[:k] - rows.mean(0)) @ weight, scores])
        found, _ = propagate([*looks, look], at_anchors, labels)
    return torch.where(known, labels, found)


def _shares(masses: Float[Tensor, "n C"], prior: Float[Tensor, " C"]) -> Float[Tensor, "n C"]:
    masses = masses.clamp_min(0)
    total = masses.sum(1, keepdim=True)
    return torch.where(total > 0, masses / total.clamp_min(1e-300), prior)


def accuracy_gain(
    truth: Int[Tensor, " n"], new: Int[Tensor, " n"], old: Int[Tensor, " n"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Balanced accuracy of `new` minus that of `old` on the same rows, and its standard error."""
    gain = (new == truth).double() - (old == truth).double()
    of = [gain[truth == c] for c in truth.unique()]
    error = torch.stack([each.var(correction=0) / len(each) for each in of]).sum().sqrt() / len(of)
    return torch.stack([each.mean() for each in of]).mean(), error


def class_scores(rows: Float[Tensor, "n r"], head: Float[Tensor, "C r"]) -> Float[Tensor, "n C"]:
    """Cosine of each row with each class's direction; NaN for a class without evidence, whose row of the head is."""
    return normalize(rows, dim=1) @ head.double().T


def best_class(scores: Float[Tensor, "n C"]) -> Int[Tensor, " n"]:
    """The class of the largest score; one without evidence (NaN) is never named.

    Raises:
        DataError: no class of a row has evidence.
    """
    if scores.isnan().all(1).any():
        raise DataError(
            "no class can be named: none has evidence here, for too few rows were labelled; label more, and run again"
        )
    return scores.nan_to_num(nan=-torch.inf).argmax(1)


def classify(rows: Float[Tensor, "n r"], head: Float[Tensor, "C r"]) -> Int[Tensor, " n"]:
    """Class whose direction has the largest cosine; see `best_class`."""
    return best_class(class_scores(rows, head))


def sharpened(classes: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
    """Probabilities to the power `SHARPEN`, rows of sum 1: propagated ones are too flat to learn from."""
    return normalize(classes**SHARPEN, p=1, dim=1)


def random_waves(standardize: Standardizer, draw: torch.Generator) -> Waves:
    """`WAVES` random features of the kernel exp(-d^2 / 2F) over the F features that vary, not yet weighted."""
    varies = standardize.scale.isfinite()
    frequency = torch.randn(len(varies), WAVES, generator=draw) / varies.sum().clamp_min(1).sqrt() * varies[:, None]
    phase = 2 * math.pi * torch.rand(WAVES, generator=draw)
    return Waves(frequency.double(), phase.double(), torch.zeros(WAVES, 0, dtype=torch.float64))


def beside_waves(standardized: Float[Tensor, "n F"], waves: Waves) -> Float[Tensor, "n _"]:
    """Standardised features, and waves of the same expected square: of the kernel x.y + F exp(-d^2 / 2F)."""
    return torch.cat([standardized, _size(waves) * waves.features(standardized)], 1)


def _size(waves: Waves) -> float:
    return math.sqrt(2 * int(waves.frequency.any(1).sum()) / len(waves.phase))


def class_part(
    start: LinearMap,
    rows: Float[Tensor, "N F"],
    classes: Float[Tensor, "N C"],
    head: Float[Tensor, "C r"],
    waves: Waves,
) -> LinearMap | None:
    """A map into the span of the class directions, learnt from the node's own rows; see `with_part`.

    A ridge from standardised features onto class probabilities gives scores s, and b H^+ s is the place at which the
    class directions H see them. b keeps the part's mean square over these rows that of what `start` has there. The
    ridge sees waves, too, if its error at rows left out is the less for it by one standard error.

    Args:
        start: the node's map.
        rows: raw features.
        classes: their class probabilities; sharpened here.
        head: unit directions, one per column of `classes`.
        waves: random, their weights of no account.

    Returns:
        None where it would not pay: where rows that the ridge has not seen get their class less often right from it
        than from `start`, by balanced accuracy and one standard error.
    """
    x, sharp = start.standardize(rows), sharpened(classes)
    truth, learnt = sharp.argmax(1), sharp - sharp.mean(0)
    both, plain = beside_waves(x, waves), x.shape[1]
    middle = both.mean(0)
    (weight, unseen), (linear, by_linear) = (_ridge(seen, learnt) for seen in (both - middle, x - middle[:plain]))
    less = ((learnt - by_linear).square() - (learnt - unseen).square()).sum(1)
    curved = bool(less.mean() > less.std() / math.sqrt(len(less)))
    if not curved:
        weight, unseen = pad(linear, (0, 0, 0, len(weight) - plain)), by_linear
    by_start = (normalize(start(rows), dim=1) @ head.T).argmax(1)
    gain, error = accuracy_gain(truth, unseen.argmax(1), by_start)
    if gain <= error:
        return None
    weight = weight @ torch.linalg.pinv(head, rtol=RANK).T
    before, after = start(rows) @ span(head), (both - middle) @ weight
    weight = weight * (before.square().sum() / after.square().sum().clamp_min(1e-300)).sqrt()
    kept = replace(waves, weight=_size(waves) * weight[plain:]) if curved else None
    return LinearMap(start.standardize, weight[:plain], -middle @ weight, kept)


def _ridge(x: Float[Tensor, "N F"], y: Float[Tensor, "N C"]) -> tuple[Float[Tensor, "F C"], Float[Tensor, "N C"]]:
    """Weights of the ridge of least leave-one-out error among `RIDGES`, and its predictions of rows left out.

    x and y are centred; the mean that a left-out row has a part in is accounted for as in `anchor_residuals`.
    """
    vectors, size, right = torch.linalg.svd(x, full_matrices=False)
    values, turned = size.square(), vectors.T @ y
    best: tuple[float, Tensor, Tensor] | None = None
    for ridge in RIDGES:
        penalty = ridge * values.sum() / len(x)
        kept = values / (values + penalty)
        leverage = (vectors.square() * kept).sum(1) + 1 / len(x)
        unseen = y - (y - vectors @ (kept[:, None] * turned)) / (1 - leverage).clamp_min(1e-9)[:, None]
        error = float((y - unseen).square().sum())
        if best is None or error < best[0]:
            best = error, right.T @ ((size / (values + penalty))[:, None] * turned), unseen
    assert best is not None
    return best[1], best[2]


def with_part(start: LinearMap, part: LinearMap) -> LinearMap:
    """`start`, with `part` in the place of what it has in the span of `part`."""
    spanned = part.weight if part.waves is None else torch.cat([part.weight, part.waves.weight])
    found = start.then(torch.eye(start.weight.shape[1], dtype=torch.float64) - span(spanned))
    return replace(found, weight=found.weight + part.weight, bias=found.bias + part.bias, waves=part.waves)


def span(rows: Float[Tensor, "_ r"]) -> Float[Tensor, "r r"]:
    """Projector onto the span of the rows, directions of less than `RANK` of the largest left out."""
    _, size, right = torch.linalg.svd(rows, full_matrices=False)
    kept = right[size > RANK * size[0]]
    return kept.T @ kept
