"""What a server may tell a node or ask it for: the steps of the protocol, and the method of `Node` that does each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from isogram.local.training import Node, refresh_number, sketched
from isogram.messages import Down, Up


@dataclass(frozen=True)
class Answer:
    """What a node did: the message that it sends if it was asked for one, and what it tells about its training."""

    up: Up | None = None
    terms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One step at a node.

    do: with the node, the message that came with the request, without arrays where `takes` is empty, and the round.
    takes, gives: kinds of messages, of `validation.KINDS`, down and up; empty for none.
    """

    do: Callable[[Node, Down, int], Answer]
    takes: str = ""
    gives: str = ""


def _told(method: Callable[[Node, Down], None], takes: str) -> Step:
    def do(node: Node, down: Down, round: int) -> Answer:
        method(node, down)
        return Answer()

    return Step(do, takes)


def _asked(method: Callable[[Node, Down, int], Up], gives: str, takes: str = "") -> Step:
    return Step(lambda node, down, round: Answer(method(node, down, round)), takes, gives)


def _round(node: Node, down: Down, round: int) -> Answer:
    return Answer(*node.train_round(down, sketched(node.config.train, round - 1)))


def _trained(node: Node, down: Down, round: int) -> Answer:
    return Answer(terms=node.train_summand(down, sketched(node.config.train, round - 1)))


def _kept_gram(node: Node, down: Down, round: int) -> Answer:
    node.keep_gram()
    return Answer()


TRAINING = ("round", "trained")
"""Steps that begin from the averaged adapters."""


STEPS: dict[str, Step] = {
    "gram": _asked(lambda node, _, round: node.send_gram(round), "gram"),
    "kept gram": Step(_kept_gram),
    "weights": _told(lambda node, down: node.weigh(down), "weights"),
    "others": _told(lambda node, down: node.learn_metric(down), "others"),
    "frame": _told(lambda node, down: node.take_frame(down), "frame"),
    "key": _asked(lambda node, _, round: node.send_key(round), "key"),
    "counts": _asked(lambda node, down, _: node.send_counts(down, node.n_classes), "counts", "keys"),
    "head": _asked(lambda node, down, _: node.send_head(down), "sums", "evidence"),
    "scores": _asked(lambda node, down, _: node.send_scores(down), "sums", "evidence"),
    "noisy head": _asked(lambda node, down, _: node.send_noisy_head(down), "sums", "evidence"),
    "directions": _asked(lambda node, _, round: node.send_directions(round, node.n_classes), "directions"),
    "classes": _told(lambda node, down: node.learn_classes(down), "head"),
    "round": Step(_round, "targets", "update"),
    "trained": Step(_trained, "targets"),
    "pair": _asked(lambda node, _, round: node.send_pair(round), "pair"),
    "parcels": _asked(lambda node, down, _: node.send_parcels(down), "parcels", "pairs"),
    "summand": _asked(lambda node, down, _: node.send_summand(down), "summand", "sealed"),
    "shares": _asked(lambda node, down, _: node.send_shares(down), "shares", "present"),
    "average": _told(lambda node, down: node.load(down), "average"),
    "bases": _told(lambda node, down: node.refresh(down, refresh_number(node.config.train, down.round - 1)), "bases"),
    "trained gram": _asked(lambda node, _, round: node.send_trained_gram(round), "gram"),
    "embeddings": _asked(lambda node, _, round: node.send_embeddings(round), "embeddings"),
}
"""By name. Lambdas, because a method is looked up when it is called: tests and audits replace some."""
