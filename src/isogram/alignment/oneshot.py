"""One-shot alignment: each node's ridge regression from its own features onto the frame. No training, one message."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isogram.alignment.consensus import consensus
from isogram.alignment.frame import canonical_frame
from isogram.alignment.gram import center, gram, shrink
from isogram.alignment.kernel import Kernel, kernel_gram, squared_distances
from isogram.errors import AnchorError


@dataclass(frozen=True)
class Standardizer:
    """Per-feature standardisation fitted on the public anchors alone, so what follows says nothing of private rows.

    mean [F], scale [F]; results are clipped at +-clip standard deviations.
    """

    mean: Float[Tensor, " F"]
    scale: Float[Tensor, " F"]
    clip: float

    @classmethod
    def fit(cls, anchors: Float[Tensor, "k F"], clip: float) -> "Standardizer":
        """Mean and standard deviation of the anchors; a feature constant over them gets scale infinity, that is, 0."""
        anchors = anchors.double()
        scale = anchors.std(0, correction=0)
        return cls(anchors.mean(0), torch.where(scale > 1e-6 * anchors.mean(0).abs(), scale, torch.inf), clip)

    @classmethod
    def none(cls, width: int) -> "Standardizer":
        """Leaves features of this width as they are."""
        return cls(torch.zeros(width, dtype=torch.float64), torch.ones(width, dtype=torch.float64), torch.inf)

    def __call__(self, features: Float[Tensor, "n F"]) -> Float[Tensor, "n F"]:
        """Standardised float64 features."""
        return ((features.double() - self.mean) / self.scale).clamp(-self.clip, self.clip)


@dataclass(frozen=True)
class Waves:
    """cos(s @ frequency + phase) @ weight: random features of a Gaussian kernel (Rahimi & Recht 2007), weighted.

    frequency [F, D], phase [D], weight [D, r]; s [n, F] standardised features.
    """

    frequency: Float[Tensor, "F D"]
    phase: Float[Tensor, " D"]
    weight: Float[Tensor, "D r"]

    def features(self, standardized: Float[Tensor, "n F"]) -> Float[Tensor, "n D"]:
        """The waves before they are weighted."""
        return (standardized @ self.frequency + self.phase).cos()

    def __call__(self, standardized: Float[Tensor, "n F"]) -> Float[Tensor, "n r"]:
        """What they add to coordinates."""
        return self.features(standardized) @ self.weight


@dataclass(frozen=True)
class Gaussians:
    """k @ weight with k_a = exp(-|scale s - a|^2 / width), of the public anchors a that a map was fitted to.

    scale [F], landmarks [k, F]: scaled anchors; width []; weight [k, r]; s [n, F] standardised features.
    """

    scale: Float[Tensor, " F"]
    landmarks: Float[Tensor, "k F"]
    width: Float[Tensor, ""]
    weight: Float[Tensor, "k r"]

    def __call__(self, standardized: Float[Tensor, "n F"]) -> Float[Tensor, "n r"]:
        """What they add to coordinates."""
        rows = standardized * self.scale
        near = (rows**2).sum(1)[:, None] + (self.landmarks**2).sum(1) - 2 * rows @ self.landmarks.T
        return torch.exp(-near.clamp_min(0) / self.width) @ self.weight


@dataclass(frozen=True)
class LinearMap:
    """Standardise, then an affine map: u = s(x) @ weight + bias, and what is curved if any. weight [F, r], bias [r]."""

    standardize: Standardizer
    weight: Float[Tensor, "F r"]
    bias: Float[Tensor, " r"]
    waves: Waves | None = None
    gaussians: Gaussians | None = None

    def __call__(self, features: Float[Tensor, "n F"]) -> Float[Tensor, "n r"]:
        """Frame coordinates of raw features."""
        standardized = self.standardize(features)
        coordinates, curve = standardized @ self.weight + self.bias, self.curved(standardized)
        return coordinates if curve is None else coordinates + curve

    def curved(self, standardized: Float[Tensor, "n F"]) -> Float[Tensor, "n r"] | None:
        """The part of the coordinates that is not affine, of standardised features; None where there is none."""
        parts = [part(standardized) for part in (self.waves, self.gaussians) if part is not None]
        return torch.stack(parts).sum(0) if parts else None

    def then(self, turn: Float[Tensor, "r r"]) -> "LinearMap":
        """The map, and after it a linear change of coordinates: u @ turn."""
        waves, gaussians = self.waves, self.gaussians
        return LinearMap(
            self.standardize,
            self.weight @ turn,
            self.bias @ turn,
            None if waves is None else replace(waves, weight=waves.weight @ turn),
            None if gaussians is None else replace(gaussians, weight=gaussians.weight @ turn),
        )


def _dual(kernel: Float[Tensor, "k k"], target: Float[Tensor, "k r"], rho: float) -> Float[Tensor, "k r"]:
    ridge = rho * kernel.trace() / len(kernel)
    return torch.linalg.solve(kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype), target)


def fit_map(
    anchors: Float[Tensor, "k F"],
    target: Float[Tensor, "k r"],
    rho: float,
    clip: float | None,
    metric: Float[Tensor, " F"] | None = None,
    quality: Float[Tensor, " k"] | None = None,
    share: float = 1.0,
) -> LinearMap:
    """Kernel ridge, solved in the k x k dual, from a node's anchor features onto its rows of the frame.

    The node's rows of the frame are centred before the fit and their mean is added back, because a node that holds only
    some of the anchors sees the frame off-centre. The ridge is rho times the mean eigenvalue of the Gram matrix.

    With quality q, over its largest, it is weighted ridge: sum_a q_a ||y_a - u(x_a)||^2, means weighted by q, and the
    ridge rho times the mean squared norm of the features weighted by q. An anchor of weight 0 is as if absent, but for
    standardising: a wrong item is still a real one. Only ratios of weights count.

    Args:
        anchors: raw features of the k anchors the node holds.
        target: their coordinates in the frame.
        rho: ridge relative to the Gram's mean eigenvalue.
        clip: bound on standardised features; None takes the features as they are, not standardised.
        metric: non-negative feature weights, see `feature_metric`.
        quality: non-negative weights of the anchors, not all 0; all the same if not given.
        share: of the linear part in the kernel, see `Kernel.fit`; the rest is Gaussian.

    Raises:
        AnchorError: the anchors' features do not vary.
    """
    standardize = Standardizer.none(anchors.shape[1]) if clip is None else Standardizer.fit(anchors, clip)
    features = standardize(anchors)
    q = torch.ones(len(features), dtype=torch.float64) if quality is None else quality.double() / quality.max()
    middle, mean = _mean(features, q), _mean(target, q)
    root = q.sqrt()[:, None]
    centred = root * (features - middle)
    weighted = centred if metric is None else centred * metric
    kernel = weighted @ centred.T
    if not kernel.trace() > 0:
        raise AnchorError("the anchors' features do not vary at this node; nothing can be fitted to them")
    ridge = rho * float(len(q) / q.sum())
    if share == 1:
        weight = weighted.T @ _dual(kernel, root * (target - mean), ridge)
        return LinearMap(standardize, weight, mean - middle @ weight)
    stretch = torch.ones_like(middle) if metric is None else metric.sqrt()
    of = Kernel.fit(metric_gram(features, metric), share)
    landmarks, at = features * stretch, q / q.sum()
    near = torch.exp(-squared_distances(landmarks @ landmarks.T) / of.width)
    level = near @ at
    bent = near - level[:, None] - level[None, :] + at @ level
    dual = root * _dual(of.linear * kernel + of.gaussian * root * bent * root.T, root * (target - mean), ridge)
    weight = of.linear * (features - middle).T @ dual * (1 if metric is None else metric[:, None])
    curve = of.gaussian * (dual - at[:, None] * dual.sum(0))
    gaussians = Gaussians(stretch, landmarks, torch.tensor(of.width, dtype=torch.float64), curve)
    return LinearMap(standardize, weight, mean - middle @ weight - level @ curve, gaussians=gaussians)


def _mean(rows: Float[Tensor, "k F"], q: Float[Tensor, " k"]) -> Float[Tensor, " F"]:
    """Weighted by q; where all weigh the same, the plain mean to the last bit."""
    return rows.mean(0) if bool((q == q[0]).all()) else q @ rows / q.sum()


def left_out(
    anchors: Float[Tensor, "k F"],
    target: Float[Tensor, "k r"],
    rho: float,
    clip: float,
    metric: Float[Tensor, " F"] | None = None,
    share: float = 1.0,
) -> Float[Tensor, "k r"]:
    """Where maps fitted without each anchor in turn place it: as `fit_map` places rows that it has not seen.

    Closed form, see `anchor_residuals`; the standardiser and the metric are those of all anchors, and all weigh alike.
    """
    smoother = shrink(kernel_gram(metric_gram(Standardizer.fit(anchors, clip)(anchors), metric), share), rho)
    mean = target.mean(0)
    centred = target - mean
    slack = (1 - 1 / len(smoother) - smoother.diagonal()).clamp_min(1e-6)
    return target - (centred - smoother @ centred) / slack[:, None]


def feature_metric(
    features: Float[Tensor, "k F"],
    others: Float[Tensor, "k k"],
    power: int = 4,
    sharpness: float = 4.0,
    floor: float = 1e-3,
) -> Float[Tensor, " F"]:
    """Feature weights by HSIC with the consensus of the *other* modalities: the gain that exchanging Grams pays.

    Feature j scores s_j = x_j^T M^power x_j / (x_j^T x_j) over its mean under chance, tr(M^power) / (k - 1), and
    weighs max(s_j, floor)^sharpness, scaled to mean 1. A feature that tells anchors apart as the others do counts.
    Where the others hold none of these anchors, all features count the same.

    Args:
        features: standardised features of the k anchors.
        others: mean shrunk Gram of the other modalities on the same anchors.
        power, sharpness, floor: see above.

    Returns:
        Weights of the squared features; use them as `metric` in `fit_map`.
    """
    centred = features - features.mean(0)
    target = center(torch.linalg.matrix_power(others, power))
    norm = (centred**2).sum(0)
    score = (centred * (target @ centred)).sum(0) / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    chance = target.trace() / (len(features) - 1)
    # Where the others hold none of these anchors, what is left is roundoff, which the power would blow up.
    informed = center(others).trace() > 1e-9
    weight = (score / chance).clamp_min(floor) ** sharpness if informed else torch.ones_like(score)
    weight = torch.where(norm > 0, weight, torch.zeros_like(weight))
    return weight / weight.mean()


def metric_gram(features: Float[Tensor, "k F"], metric: Float[Tensor, " F"] | None) -> Float[Tensor, "k k"]:
    """Centred Gram of standardised features under a metric."""
    return gram(features if metric is None else features * metric.sqrt())


DEFAULT_RANK = 96
"""Of the frame, where no rank is asked for; more coordinates gained nothing."""


@dataclass(frozen=True)
class OneShot:
    """What one-shot alignment gives: the frame [K, r] and, per modality, the map onto it."""

    frame: Float[Tensor, "K r"]
    maps: Mapping[str, LinearMap]


def one_shot(
    anchors: Mapping[str, Float[Tensor, "_ _"]],
    indices: Mapping[str, Int[Tensor, " _"]],
    n_anchors: int,
    *,
    rank: int | None,
    rho: float,
    power: float,
    clip: float,
    metric: bool,
    quality: Mapping[str, Float[Tensor, " _"]] | None = None,
    nodes: Mapping[str, int] | None = None,
    connected: bool = True,
) -> OneShot:
    """The whole of one-shot alignment without nodes or messages: what `federation.align` does, up to float32.

    Without what `align.choose`, `align.decorrelate` and `align.propagate` add.

    Args:
        anchors: per modality, raw features [k, F] of the anchors that exist in it.
        indices: per modality, their positions in the anchor set.
        n_anchors: K.
        rank, rho, power, clip, metric: as in `config.AlignConfig`; a rank above K - 1 counts as K - 1.
        quality: per modality, weight in (0, 1] of each anchor, in the consensus and in the fit; 1 if not given.
        nodes: per modality, how many nodes hold it: each has a say in the consensus; 1 if not given.
        connected: as in `consensus`.

    Raises:
        AnchorError: as in `consensus`, `canonical_frame` and `fit_map`.
    """
    standard = {m: Standardizer.fit(x, clip)(x) for m, x in anchors.items()}
    # A pair of anchors weighs q_a q_b at each of a modality's n nodes, hence sqrt(n) q an anchor.
    weight = {
        m: (torch.ones(len(x)) if quality is None else quality[m]).double() * (1 if nodes is None else nodes[m]) ** 0.5
        for m, x in anchors.items()
    }

    def merge(grams: Mapping[str, Tensor], whole: bool) -> Tensor:
        of = list(grams)
        return consensus(
            [grams[m] for m in of], [indices[m] for m in of], n_anchors, [weight[m] for m in of], connected=whole
        )

    grams = {m: shrink(gram(x), rho) for m, x in standard.items()}
    metrics: dict[str, Tensor] = {}
    if metric:
        for m, index in indices.items():
            others = merge({other: matrix for other, matrix in grams.items() if other != m}, whole=False)
            metrics[m] = feature_metric(standard[m], others[index][:, index])
        grams = {m: shrink(metric_gram(x, metrics[m]), rho) for m, x in standard.items()}
    frame = canonical_frame(merge(grams, whole=connected), min(rank or DEFAULT_RANK, n_anchors - 1), power)
    own = quality or {}
    maps = {m: fit_map(x, frame[indices[m]], rho, clip, metrics.get(m), own.get(m)) for m, x in anchors.items()}
    return OneShot(frame, maps)
