"""A bound for labels: the anchors' classes are told, and each node goes on alone with them and its unlabelled rows.

Label propagation (Zhou et al. 2004, "Learning with local and global consistency") from the node's anchors over its
private rows, then a student: kernel ridge on the node's own features onto what was propagated, so that a new row needs
no graph. Nothing is exchanged, hence a node may look at its private rows to scale its features.

Shape letters: k anchors at the node, n = k + its private rows, T tokens, c values, F = T c, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from isogram.config import Config
from isogram.data import FederatedData, evaluation
from isogram.evaluation import Embed
from isogram.federation import gather

STUDENT_RIDGE = 0.1
"""Of the student's kernel, whose diagonal is 1."""

FOLDS = 5


@dataclass(frozen=True)
class Setting:
    """neighbours: of a row in the graph; spread: alpha, how far labels travel.

    centred: whether a row's mean token is taken out, which for cepstra is the channel of the recording.
    """

    neighbours: int
    spread: float
    centred: bool


SETTINGS = tuple(Setting(*values) for values in product((5, 10), (0.95, 0.99), (True, False)))
"""Eight to choose from, as many as the closed-form peers have."""


@dataclass(frozen=True)
class Scaler:
    """Raw tokens [n, T, c] -> features [n, F]: every value over its standard deviation over rows and tokens."""

    scale: Tensor
    centred: bool

    @classmethod
    def fit(cls, tokens: Tensor, centred: bool) -> "Scaler":
        """The scale of these tokens; a value that is constant counts for nothing."""
        tokens = cls._centre(tokens, centred)
        deviation = tokens.flatten(0, 1).std(0, correction=0)
        return cls(torch.where(deviation > 1e-6, deviation, torch.inf), centred)

    def __call__(self, tokens: object) -> Tensor:
        """[n, F] float64."""
        return (self._centre(torch.as_tensor(tokens).double(), self.centred) / self.scale).flatten(1)

    @staticmethod
    def _centre(tokens: Tensor, centred: bool) -> Tensor:
        return tokens - tokens.mean(1, keepdim=True) if centred else tokens


@dataclass(frozen=True)
class Student:
    """Scores of classes: a Gaussian kernel of `width` to the rows [n, F] it was fitted on, times weights [n, C]."""

    scaler: Scaler
    rows: Tensor
    width: Tensor
    weight: Tensor

    def __call__(self, tokens: object) -> Tensor:
        """[m, C] of raw tokens [m, T, c]."""
        return _gaussian(torch.cdist(self.scaler(tokens), self.rows), self.width) @ self.weight


def told_anchors(data: FederatedData, config: Config) -> tuple[dict[str, Embed], Tensor]:
    """Class scores as coordinates per node, and their directions.

    The settings are chosen at each node, by the told classes of anchors whose labels were left out. With one anchor a
    class there is nothing to leave out, and the first setting is taken.

    Raises:
        ConfigError: nobody knows the anchors' classes.
    """
    with evaluation():
        told = torch.from_numpy(data.held_out.anchor_labels())
    embed: dict[str, Embed] = {}
    for node in gather(data, config).nodes:
        tokens = np.concatenate([data.anchors_of(node.data).tokens, node.data.tokens])
        embed[node.name] = learn(torch.from_numpy(tokens).double(), told[node.index], len(data.classes))
    return embed, torch.eye(len(data.classes), dtype=torch.float64)


def learn(tokens: Tensor, told: Tensor, classes: int) -> Student:
    """Propagate and teach.

    Args:
        tokens: [n, T, c], those of the labelled anchors first.
        told: [k] their classes.
        classes: C.
    """
    setting = choose(tokens, told, classes)
    scaler = Scaler.fit(tokens, setting.centred)
    rows = scaler(tokens)
    distance = torch.cdist(rows, rows)
    labels = propagate(spreader(distance, setting), told, torch.arange(len(told)), classes).argmax(1)
    labels[: len(told)] = told
    width = distance.median()
    kernel = _gaussian(distance, width) + STUDENT_RIDGE * torch.eye(len(rows), dtype=rows.dtype)
    return Student(scaler, rows, width, torch.linalg.solve(kernel, one_hot(labels, classes).double() - 1 / classes))


def choose(tokens: Tensor, told: Tensor, classes: int, settings: Sequence[Setting] = SETTINGS) -> Setting:
    """The setting that names most anchors right whose label it was not given; the first of equals.

    Anchors are dealt to folds class by class, so that the others of a class stay labelled.
    """
    fold_of = torch.tensor([int((told[:i] == c).sum()) for i, c in enumerate(told)]) % FOLDS
    distance = {}
    for centred in {setting.centred for setting in settings}:
        rows = Scaler.fit(tokens, centred)(tokens)
        distance[centred] = torch.cdist(rows, rows)

    def right(setting: Setting) -> int:
        spread = spreader(distance[setting.centred], setting)
        found = 0
        for fold in fold_of.unique():
            out, given = (fold_of == fold).nonzero().flatten(), (fold_of != fold).nonzero().flatten()
            named = propagate(spread, told[given], given, classes)[out].argmax(1)
            found += int((named == told[out]).sum())
        return found

    return max(settings, key=right)


def spreader(distance: Tensor, setting: Setting) -> Tensor:
    """[n, n] (I - alpha S)^-1, S the normalised graph of nearest neighbours.

    An edge weighs exp(-d^2 / (s s')), s and s' its ends' distances to their own last neighbours (Zelnik-Manor & Perona
    2004): regions of any density are connected, and no width has to be chosen.
    """
    n = len(distance)
    near, index = distance.topk(min(setting.neighbours + 1, n), largest=False)
    reach = near[:, -1].clamp_min(torch.finfo(distance.dtype).tiny)
    weight = torch.zeros_like(distance).scatter_(1, index, torch.exp(-(near**2) / (reach[:, None] * reach[index])))
    weight.fill_diagonal_(0)
    weight = torch.maximum(weight, weight.T)
    scale = weight.sum(1).clamp_min(torch.finfo(weight.dtype).tiny).rsqrt()
    return torch.linalg.inv(torch.eye(n, dtype=weight.dtype) - setting.spread * scale[:, None] * weight * scale)


def propagate(spread: Tensor, told: Tensor, at: Tensor, classes: int) -> Tensor:
    """[n, C] shares of classes at every row, from `told` [a] at rows `at` [a]; each class has the same mass in all."""
    start = torch.zeros(len(spread), classes, dtype=spread.dtype)
    start[at, told] = 1
    mass = spread @ start
    return mass / mass.sum(0).clamp_min(torch.finfo(mass.dtype).tiny)


def _gaussian(distance: Tensor, width: Tensor) -> Tensor:
    return torch.exp(-((distance / width) ** 2) / 2)
