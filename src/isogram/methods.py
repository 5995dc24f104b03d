"""Every method of the tables, by name: the product's own, peers, baselines and bounds, on one harness."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from isogram import baselines, federation
from isogram.config import AverageConfig, Config, TermWeights
from isogram.data import FederatedData
from isogram.errors import ConfigError
from isogram.evaluation import Embed, Head, Pairs, Score, evaluate, evaluate_pairs
from isogram.federation import Federation, Progress


@dataclass(frozen=True)
class Solution:
    """What a method leaves: coordinates per node, class directions, bytes a node sent (mean over the nodes).

    fell_back: nodes that chose the one-shot start, where the method lets them. metrics: those that mean something.
    pairs: where every two modalities have coordinates of their own, these; then embed and head are empty.
    """

    method: str
    embed: Mapping[str, Embed]
    head: Head
    bytes_per_node: float
    fell_back: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ("r1", "r10", "cka", "pam50", "accuracy")
    pairs: Pairs | None = None

    def scores(self, data: FederatedData) -> list[Score]:
        """Its figures on held-out rows, those that mean something."""
        found = evaluate(data, self.embed, self.head) if self.pairs is None else evaluate_pairs(data, self.pairs)
        return [score for score in found if score.metric in self.metrics]


Run = Callable[[FederatedData, Config, Progress | None], Iterator[Solution]]


@dataclass(frozen=True)
class Recipe:
    """A run that ends in one row of the table or several; `trained` runs take rounds, the others seconds.

    bound: no method to choose, for it uses what nobody may have. possible: whether a data set has what it needs.
    """

    names: tuple[str, ...]
    run: Run
    trained: bool
    sends: str
    bound: bool = False
    possible: Callable[[FederatedData], bool] = lambda data: True


def settings_for(recipe: Recipe, config: Config) -> Config:
    """A run's settings as a recipe takes them: other methods have no part in what protects Isogram's averages."""
    if {"closed-form", "isogram"} & set(recipe.names):
        return config
    average = config.average.model_copy(update={"robust": "none"})
    align = config.align.model_copy(update={"outliers": False})
    return config.model_copy(update={"average": average, "align": align})


def solution(method: str, fed: Federation, **fields: Any) -> Solution:
    """What a federation leaves, under a method's name."""
    sent = sum(fed.ledger.sent(node.name) for node in fed.nodes) / len(fed.nodes)
    return Solution(method, {node.name: node.embed for node in fed.nodes}, fed.heads or fed.head, sent, **fields)


def _alone(name: str, solve: Callable[[FederatedData, Config], Federation]) -> Run:
    def run(data: FederatedData, config: Config, progress: Progress | None) -> Iterator[Solution]:
        yield solution(name, solve(data, config))

    return run


def _oneshot(name: str, metric: bool) -> Run:
    def run(data: FederatedData, config: Config, progress: Progress | None) -> Iterator[Solution]:
        yield solution(name, federation.align(data, plain(config, metric=metric)))

    return run


def plain(
    config: Config, *, metric: bool | None = None, head: Literal["anchors", "means", "laplace"] = "means"
) -> Config:
    """One-shot alignment and no more: what a node's own rows or its classes could add is left out.

    Args:
        config: the settings.
        metric: as in `AlignConfig`; as it is if None.
        head: as in `AverageConfig`.
    """
    changed = {} if metric is None else {"metric": metric}
    align = config.align.model_copy(update=changed | {"decorrelate": False, "choose": False, "propagate": False})
    average = config.average.model_copy(update={"head": head})
    return config.model_copy(update={"align": align, "average": average})


def _closed_form(data: FederatedData, config: Config, progress: Progress | None) -> Iterator[Solution]:
    yield solution("closed-form", federation.align(data, config))


def _pairwise(name: str, data: FederatedData, config: Config, progress: Progress | None) -> Iterator[Solution]:
    feds = baselines.align_pairs(name, data, config)
    pairs = {pair: ({node.name: node.embed for node in fed.nodes}, fed.head) for pair, fed in feds.items()}
    ledger = next(iter(feds.values())).ledger
    sent = sum(ledger.sent(node.name) for node in data.nodes) / len(data.nodes)
    yield Solution(name, {}, None, sent, pairs=pairs)


def _paired(data: FederatedData, config: Config, progress: Progress | None) -> Iterator[Solution]:
    if data.all_paired is None:
        raise ConfigError(f"{data.name} has no pairs beyond its anchors; leave out the method `paired`")
    align = config.align.model_copy(update={"propagate": False})
    average = config.average.model_copy(update={"head": "means"})
    config = config.model_copy(update={"align": align, "average": average})
    yield solution("paired", federation.align(replace(data, anchors=data.all_paired()), config))


def _own_labels(data: FederatedData, config: Config, progress: Progress | None) -> Iterator[Solution]:
    embed, head = baselines.own_labels(data, config)
    yield Solution("own-labels", embed, head, 0.0, metrics=("pam50", "accuracy"))


def _told_anchors(data: FederatedData, config: Config, progress: Progress | None) -> Iterator[Solution]:
    embed, head = baselines.told_anchors(data, config)
    yield Solution("anchor-labels+ssl", embed, head, 0.0, metrics=("pam50", "accuracy"))


def _duration(data: FederatedData, config: Config, progress: Progress | None) -> Iterator[Solution]:
    yield Solution("duration", baselines.by_control(data, config.seed), None, 0.0, metrics=("r1", "r10"))


def _isogram(data: FederatedData, config: Config, progress: Progress | None) -> Iterator[Solution]:
    fed = federation.train(federation.align(data, config), progress)
    yield solution("isogram", fed)
    fed, fell_back = federation.keep_better(fed, data, progress)
    yield solution("isogram+oneshot", fed, fell_back=tuple(fell_back))


@dataclass(frozen=True)
class Peer:
    """Rounds without a frame: rates (benchmarks/tune.py, on held-out anchors), loss terms, who averages."""

    lr: float
    projector_lr: float
    weights: TermWeights
    across: Literal["all", "attention", "alone"] = "all"

    def settings(self, config: Config) -> Config:
        """A run's settings with those of this peer.

        A and B are averaged each by itself as is usual; anchors in a step: as many as these methods are known with.
        Where the goal is classes there is no teacher: docs/log.md.
        """
        weights = self.weights
        if config.goal == "classes":
            weights = weights.model_copy(update={"teacher": 0.0})
        settings = {
            "weights": weights,
            "lr": self.lr,
            "projector_lr": self.projector_lr,
            "anchor_batch": 128,
            "refresh": 0,
        }
        train = config.train.model_copy(update=settings)
        model = config.model.model_copy(update={"adapter": "fedit", "start": ""})
        average = AverageConfig(across=self.across, head="means")
        return config.model_copy(update={"train": train, "model": model, "average": average})


def without_frame(
    name: str, peer: Peer, data: FederatedData, config: Config, progress: Progress | None
) -> Iterator[Solution]:
    """Rounds of a peer, from bases of the modalities' own."""
    fed = federation.train(federation.start_apart(data, peer.settings(config)), progress)
    yield solution(name, fed)
    if name == "cka":
        yield solution("cka-frame", federation.read_through_frame(fed))


def _centralised(data: FederatedData, config: Config, progress: Progress | None) -> Iterator[Solution]:
    fed, sent = baselines.centralised(data, config, progress)
    of = {node.name: node.embed for node in fed.nodes}
    embed = baselines.seen_level({node.name: of[node.modality] for node in data.nodes}, baselines.level(data)[1])
    heads = {node.name: fed.heads[node.modality] for node in data.nodes if node.modality in fed.heads}
    yield Solution("centralised", embed, heads or fed.head, sent)


PEERS = {
    "local-trained": Peer(1e-3, 0.0, TermWeights.only(task=1, teacher=1), across="alone"),
    "fedavg-lora": Peer(1e-3, 0.0, TermWeights.only(task=1, teacher=1)),
    "fedcola": Peer(1e-3, 0.0, TermWeights.only(task=1, teacher=1), across="attention"),
    "cka": Peer(1e-4, 0.0, TermWeights.only(task=0.1, cka=1)),
    "prototypes": Peer(1e-3, 1e-2, TermWeights.only(task=0.1, prototype=1)),
    "creamfl": Peer(1e-3, 1e-2, TermWeights.only(task=0.1, inter=1, intra=1)),
    "fedmuscle": Peer(1e-3, 1e-2, TermWeights.only(task=0.1, muscle=1)),
}


def _peer(name: str) -> Run:
    return partial(without_frame, name, PEERS[name])


RECIPES = (
    Recipe(("local",), _alone("local", baselines.local), False, "class sums"),
    Recipe(("no-message",), _alone("no-message", baselines.no_message), False, "class sums"),
    Recipe(("relative",), _alone("relative", baselines.relative), False, "class sums"),
    Recipe(("duration",), _duration, False, "nothing", bound=True, possible=lambda d: bool(d.held_out.controlled)),
    Recipe(("oneshot",), _oneshot("oneshot", metric=False), False, "one Gram, class sums"),
    Recipe(("oneshot-hsic",), _oneshot("oneshot-hsic", metric=True), False, "two Grams, class sums"),
    Recipe(("closed-form",), _closed_form, False, "two Grams, class directions"),
    *(Recipe((name,), partial(_pairwise, name), False, "anchor features, class sums") for name in baselines.PAIRWISE),
    Recipe(("local-trained",), _peer("local-trained"), True, "nothing"),
    Recipe(("fedavg-lora",), _peer("fedavg-lora"), True, "adapters, class sums"),
    Recipe(("fedcola",), _peer("fedcola"), True, "adapters, class sums"),
    Recipe(("cka", "cka-frame"), _peer("cka"), True, "adapters, Grams, class sums"),
    Recipe(("prototypes",), _peer("prototypes"), True, "adapters, anchor embeddings, class sums"),
    Recipe(("creamfl",), _peer("creamfl"), True, "adapters, anchor embeddings, class sums"),
    Recipe(("fedmuscle",), _peer("fedmuscle"), True, "adapters, anchor embeddings, class sums"),
    Recipe(("isogram", "isogram+oneshot"), _isogram, True, "adapters, Grams, class sums"),
    Recipe(("centralised",), _centralised, True, "all private rows and labels", bound=True),
    Recipe(
        ("paired",), _paired, False, "two Grams, class sums", bound=True, possible=lambda d: d.all_paired is not None
    ),
    Recipe(
        ("anchor-labels+ssl",),
        _told_anchors,
        False,
        "nothing",
        bound=True,
        possible=lambda d: d.held_out.knows_anchors,
    ),
    Recipe(("own-labels",), _own_labels, False, "nothing", bound=True, possible=lambda d: bool(d.classes)),
)

METHODS = tuple(name for recipe in RECIPES for name in recipe.names)


def allowed(data: FederatedData) -> tuple[Recipe, ...]:
    """The recipes that a data set has what they need for."""
    return tuple(recipe for recipe in RECIPES if recipe.possible(data))


def solve(name: str, data: FederatedData, config: Config, progress: Progress | None = None) -> Solution:
    """One method's solution on a data set.

    Raises:
        ConfigError: no such method, or one that this data set does not allow.
    """
    for recipe in RECIPES:
        if name in recipe.names:
            own = settings_for(recipe, config)
            return next(s for s in recipe.run(data, own, progress) if s.method == name)
    raise ConfigError(f"no method {name!r}; choose from {', '.join(METHODS)}")
