"""Every method of the tables, by name: the product's own, peers, baselines and bounds, on one harness."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from isogram import baselines, federation
from isogram.config import AverageConfig, Config, TermWeights
from isogram.data import FederatedData
from isogram.errors import ConfigError
from isogram.evaluation import Embed
from isogram.federation import Federation, Progress


@dataclass(frozen=True)
class Solution:
    """What a method leaves: coordinates per node, class directions, bytes a node sent (mean over the nodes).

    fell_back: nodes that chose the one-shot start, where the method lets them. metrics: those that mean something.
    """

    method: str
    embed: Mapping[str, Embed]
    head: Tensor | None
    bytes_per_node: float
    fell_back: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ("r1", "r10", "cka", "pam50", "accuracy")


Run = Callable[[FederatedData, Config, Progress | None], Iterator[Solution]]


@dataclass(frozen=True)
class Recipe:
    """A run that ends in one row of the table or several; `trained` runs take rounds, the others seconds."""

    names: tuple[str, ...]
    run: Run
    trained: bool
    sends: str


def solution(method: str, fed: Federation, **fields: Any) -> Solution:
    """What a federation leaves, under a method's name."""
    sent = sum(fed.ledger.sent(node.name) for node in fed.nodes) / len(fed.nodes)
    return Solution(method, {node.name: node.embed for node in fed.nodes}, fed.head, sent, **fields)


def _alone(name: str, solve: Callable[[FederatedData, Config], Federation]) -> Run:
    def run(data: FederatedData, config: Config, progress: Progress | None) -> Iterator[Solution]:
        yield solution(name, solve(data, config))

    return run


def _oneshot(name: str, metric: bool) -> Run:
    def run(data: FederatedData, config: Config, progress: Progress | None) -> Iterator[Solution]:
        align = config.align.model_copy(update={"metric": metric})
        yield solution(name, federation.align(data, config.model_copy(update={"align": align})))

    return run


def _paired(data: FederatedData, config: Config, progress: Progress | None) -> Iterator[Solution]:
    if data.all_paired is None:
        raise ConfigError(f"{data.name} has no pairs beyond its anchors; leave out the method `paired`")
    fed = federation.align(replace(data, anchors=data.all_paired()), config)
    yield solution("paired", fed)


def _own_labels(data: FederatedData, config: Config, progress: Progress | None) -> Iterator[Solution]:
    embed, head = baselines.own_labels(data, config)
    yield Solution("own-labels", embed, head, 0.0, metrics=("pam50", "accuracy"))


def _duration(data: FederatedData, config: Config, progress: Progress | None) -> Iterator[Solution]:
    yield Solution("duration", baselines.by_control(data, config.seed), None, 0.0, metrics=("r1", "r10"))


def _isogram(data: FederatedData, config: Config, progress: Progress | None) -> Iterator[Solution]:
    fed = federation.train(federation.align(data, config), progress)
    yield solution("isogram", fed)
    fed, fell_back = federation.keep_better(fed, data, progress)
    yield solution("isogram+oneshot", fed, fell_back=tuple(fell_back))


def without_frame(
    name: str,
    lr: float,
    projector_lr: float,
    weights: TermWeights,
    data: FederatedData,
    config: Config,
    progress: Progress | None,
) -> Iterator[Solution]:
    """Rounds without a frame, from bases of the nodes' own, A and B averaged each by itself as is usual.

    Rates: benchmarks/tune.py, on held-out anchors; anchors in a step: as many as these methods are known with.
    """
    settings = {"weights": weights, "lr": lr, "projector_lr": projector_lr, "anchor_batch": 128, "refresh": 0}
    train = config.train.model_copy(update=settings)
    model = config.model.model_copy(update={"adapter": "fedit", "start": ""})
    config = config.model_copy(update={"train": train, "model": model, "average": AverageConfig()})
    fed = federation.train(federation.start_apart(data, config), progress)
    yield solution(name, fed)
    if name == "cka":
        yield solution("cka-frame", federation.read_through_frame(fed))


_FEDAVG = partial(without_frame, "fedavg-lora", 1e-3, 0.0, TermWeights.only(task=1, teacher=1))
_CKA = partial(without_frame, "cka", 1e-4, 0.0, TermWeights.only(task=0.1, cka=1))
_PROTOTYPES = partial(without_frame, "prototypes", 1e-3, 1e-2, TermWeights.only(task=0.1, prototype=1))

RECIPES = (
    Recipe(("local",), _alone("local", baselines.local), False, "class sums"),
    Recipe(("no-message",), _alone("no-message", baselines.no_message), False, "class sums"),
    Recipe(("relative",), _alone("relative", baselines.relative), False, "class sums"),
    Recipe(("duration",), _duration, False, "nothing"),
    Recipe(("oneshot",), _oneshot("oneshot", metric=False), False, "one Gram, class sums"),
    Recipe(("oneshot-hsic",), _oneshot("oneshot-hsic", metric=True), False, "two Grams, class sums"),
    Recipe(("fedavg-lora",), _FEDAVG, True, "adapters, class sums"),
    Recipe(("cka", "cka-frame"), _CKA, True, "adapters, Grams, class sums"),
    Recipe(("prototypes",), _PROTOTYPES, True, "adapters, anchor embeddings, class sums"),
    Recipe(("isogram", "isogram+oneshot"), _isogram, True, "adapters, Grams, class sums"),
    Recipe(("paired",), _paired, False, "two Grams, class sums"),
    Recipe(("own-labels",), _own_labels, False, "nothing"),
)

METHODS = tuple(name for recipe in RECIPES for name in recipe.names)


def allowed(data: FederatedData) -> tuple[Recipe, ...]:
    """The recipes that a data set has what they need for."""
    absent = {
        "paired": data.all_paired is None,
        "duration": not data.held_out.controlled,
        "own-labels": not data.classes,
    }
    return tuple(recipe for recipe in RECIPES if not absent.get(recipe.names[0], False))


def solve(name: str, data: FederatedData, config: Config, progress: Progress | None = None) -> Solution:
    """One method's solution on a data set.

    Raises:
        ConfigError: no such method, or one that this data set does not allow.
    """
    for recipe in RECIPES:
        if name in recipe.names:
            return next(s for s in recipe.run(data, config, progress) if s.method == name)
    raise ConfigError(f"no method {name!r}; choose from {', '.join(METHODS)}")
