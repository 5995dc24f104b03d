"""A bound for labels: the anchors' classes are told, and each node goes on alone with them and its unlabelled rows.

Label propagation from the node's anchors over its private rows, then a student, kernel ridge onto what was propagated,
so that a new row needs no graph: `alignment.classes` has both. Nothing is exchanged, hence a node may look at its
private rows to scale its features.

Shape letters: k anchors at the node, n = k + its private rows, T tokens, c values, F = T c, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from isogram.alignment import Standardizer, classes
from isogram.config import Config
from isogram.data import FederatedData, evaluation
from isogram.evaluation import Embed
from isogram.federation import gather


@dataclass(frozen=True)
class Setting:
    """What makes two rows alike.

    standard: whether each feature is standardised on the anchors, as nodes of a federation have it. centred: looks at
    the tokens, with a row's mean token taken out or left in: for cepstra it is the channel of the recording.
    """

    standard: bool
    centred: tuple[bool, ...]


SETTINGS = tuple(
    Setting(standard, centred) for standard in (False, True) for centred in ((False, True), (False,), (True,))
)
"""No more of them than the closed-form peers have."""


@dataclass(frozen=True)
class Look:
    """Tokens [n, T, c] -> features [n, F]: each value over its standard deviation over rows and tokens, centred."""

    centred: bool
    scale: Tensor
    middle: Tensor

    @classmethod
    def fit(cls, tokens: Tensor, centred: bool) -> "Look":
        """The scale and mean of these tokens; a value that is constant counts for nothing."""
        tokens = cls._level(tokens, centred)
        deviation = tokens.flatten(0, 1).std(0, correction=0)
        scale = torch.where(deviation > 1e-6, deviation, torch.inf)
        return cls(centred, scale, (tokens / scale).flatten(1).mean(0))

    def __call__(self, tokens: Tensor) -> Tensor:
        """[n, F] float64."""
        return (self._level(tokens, self.centred) / self.scale).flatten(1) - self.middle

    @staticmethod
    def _level(tokens: Tensor, centred: bool) -> Tensor:
        return tokens - tokens.mean(1, keepdim=True) if centred else tokens


class Student:
    """Scores of classes, learnt from raw tokens [n, T, c]; those of the anchors, of classes `told` [k], come first.

    A class's share of the rows is taken out of its scores: balanced accuracy is what they are for.

    right: sum over the classes of two anchors or more of the share of them that the others' labels name right.
    """

    def __init__(
        self, setting: Setting, standardize: Standardizer, tokens: Tensor, told: Tensor, n_classes: int
    ) -> None:
        self.setting = setting
        self._standardize = standardize if setting.standard else None
        self._n_classes = n_classes
        tokens = self._scaled(tokens)
        self._looks = tuple(Look.fit(tokens, centred) for centred in setting.centred)
        looks = [look(tokens) for look in self._looks]
        unknown = torch.zeros(len(tokens) - len(told), n_classes, dtype=torch.float64)
        anchors = one_hot(told, n_classes).double()
        found, left = (_even(part, anchors) for part in classes.propagate(looks, anchors, unknown))
        several = [told == c for c, number in enumerate(anchors.sum(0)) if number > 1]
        self.right = sum(float((left[of].argmax(1) == told[of]).double().mean()) for of in several)
        self._rows, self._labels = torch.cat(looks, 1), torch.cat([told, found.argmax(1)])

    def __call__(self, tokens: object) -> Tensor:
        """[m, C] of raw tokens [m, T, c]."""
        scaled = self._scaled(torch.as_tensor(tokens).double())
        features = torch.cat([look(scaled) for look in self._looks], 1)
        scores = classes.anchor_scores(self._rows, self._labels, features, self._n_classes)
        return _even(scores, one_hot(self._labels, self._n_classes).double())

    def _scaled(self, tokens: Tensor) -> Tensor:
        return tokens if self._standardize is None else self._standardize(tokens.flatten(1)).reshape(tokens.shape)


def _even(scores: Tensor, labels: Tensor) -> Tensor:
    """Scores [m, C] over the share of each class in one-hot labels [n, C]: as if all classes were as frequent."""
    return scores / labels.mean(0).clamp_min(torch.finfo(scores.dtype).tiny)


def told_anchors(data: FederatedData, config: Config) -> tuple[dict[str, Embed], Tensor]:
    """Class scores as coordinates per node, and their directions.

    Raises:
        ConfigError: nobody knows the anchors' classes.
    """
    with evaluation():
        told = torch.from_numpy(data.held_out.anchor_labels())
    embed: dict[str, Embed] = {}
    for node in gather(data, config).nodes:
        anchors = torch.from_numpy(data.anchors_of(node.data).tokens).double()
        tokens = torch.cat([anchors, torch.from_numpy(node.data.tokens).double()])
        embed[node.name] = learn(tokens, told[node.index], len(data.classes), config.align.clip)
    return embed, torch.eye(len(data.classes), dtype=torch.float64)


def learn(tokens: Tensor, told: Tensor, n_classes: int, clip: float, settings: Sequence[Setting] = SETTINGS) -> Student:
    """The student whose graph names anchors best by the labels of the others; the first of equals.

    With one anchor a class none can be named by the others, and the first setting is taken.

    Args:
        tokens: [n, T, c], those of the labelled anchors first.
        told: [k] their classes.
        n_classes: C.
        clip: as in `AlignConfig`.
        settings: to choose from.
    """
    standardize = Standardizer.fit(tokens[: len(told)].flatten(1), clip=clip)
    level = Look.fit(tokens, centred=True).scale.isfinite().any()  # without its mean token a row may be nothing
    fit = [each for each in settings if level or not any(each.centred)]
    return max((Student(each, standardize, tokens, told, n_classes) for each in fit), key=lambda found: found.right)
