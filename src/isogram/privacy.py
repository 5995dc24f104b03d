"""What differential privacy asks of the other settings: those that follow from it, and those that it refuses, and why.

The guarantee itself: docs/privacy.md. Every tensor that leaves a node, and every one in the saved model, has to be a
function of public data or of what came out of a mechanism with noise; a setting that makes another one is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pydantic import BaseModel

from isogram.goal import completed, leaves

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "align": {"propagate": False},
    "train": {"weights": {"task": 0.0, "teacher": 0.0}},
    "average": {"rule": "uniform", "head": "means"},
}
"""Group -> settings in the place of the defaults, where epsilon is above 0 and they are not given.

Rounds learn from public anchors alone then, and all of epsilon is for class directions: what DP-SGD on the task term
added at a few hundred rows was less than what their noise took away (docs/log.md).
"""

FOLLOWS = frozenset(key for key, _ in leaves(DEFAULTS))
"""Every setting that differential privacy decides where it is not given, dotted."""


@dataclass(frozen=True)
class Refusal:
    """A setting that cannot be had with differential privacy. allowed: of its value and the configuration."""

    key: str
    allowed: Callable[[Any, Any], bool]
    remedy: str
    why: str


REFUSED = (
    Refusal(
        "align.propagate",
        lambda value, _: not value,
        "false",
        "it learns a node's map from its own rows, and that map is in the saved model and under every later message",
    ),
    Refusal(
        "average.head",
        lambda value, _: value == "means",
        "means",
        "class directions are released once, as sums to which each row adds one vector of length 1: anchors fits "
        "scores to rows, which one row can change without bound, and laplace would release second moments, too",
    ),
    Refusal(
        "average.rule",
        lambda value, _: value == "uniform",
        "uniform",
        "other rules send how many rows a node has, which adding or removing one changes, or second moments of "
        "gradients",
    ),
    Refusal(
        "average.robust",
        lambda value, _: value == "none",
        "none",
        "votes are class directions of a node's own rows, bare and without noise",
    ),
    Refusal(
        "train.weights.teacher",
        lambda value, _: not value,
        "0",
        "it is a term of the private rows of every node: it would spend epsilon to hold rows in place, which the "
        "public anchors do at no cost",
    ),
    Refusal(
        "train.frame_update",
        lambda value, _: not value,
        "0",
        "it moves the frame, and class directions would have to be released again after every round",
    ),
    Refusal(
        "train.refresh_basis",
        lambda value, config: value != "gradient" or not config.train.refresh,
        "random",
        "it sends sketches of gradients of private rows, which are neither clipped nor given noise",
    ),
    Refusal(
        "model.gradient_checkpointing",
        lambda value, _: not value,
        "false",
        "it throws away the activations from which a row's own gradient is made",
    ),
    Refusal(
        "privacy.head_share",
        lambda value, config: value < 1 or not trains_on_rows(config),
        "less than 1, or train.weights.task to 0",
        "it leaves nothing of epsilon for rounds that train on private rows",
    ),
)
"""Settings that are refused where epsilon is above 0. The table in docs/privacy.md is made of them."""


def trains_on_rows(config: Any) -> bool:
    """Whether rounds have a term of private rows and anything that learns from it."""
    learns = config.model.trunk != "none" or config.train.projector_lr > 0
    return bool(config.train.rounds and config.train.weights.task and learns)


def head_rank(privacy: Any, n_classes: int, coordinates: int) -> int:
    """Leading frame coordinates in which class sums are released, of a `PrivacyConfig`.

    Noise is the same in each, and the frame's are in the order of what nodes agree on: few carry most of the classes.
    """
    return min(privacy.head_rank or n_classes, coordinates)


def refusals(config: BaseModel) -> list[str]:
    """Why a configuration cannot give the privacy that it asks for, a sentence for each setting; [] where it can."""
    if not config.privacy.epsilon:  # type: ignore[attr-defined]
        return []
    found = []
    for refusal in REFUSED:
        value = reduce(getattr, refusal.key.split("."), config)
        if not refusal.allowed(value, config):
            told = str(value).lower() if isinstance(value, bool) else value
            found.append(
                f"{refusal.key} = {told} is refused with privacy.epsilon: {refusal.why}; set it to {refusal.remedy}"
            )
    return found


def with_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Groups of settings as they are given, completed by what follows from differential privacy if it is asked for."""
    privacy = given.get("privacy", {})
    epsilon = privacy.get("epsilon") if isinstance(privacy, Mapping) else getattr(privacy, "epsilon", 0)
    return completed(given, DEFAULTS) if isinstance(epsilon, int | float) and epsilon > 0 else dict(given)
