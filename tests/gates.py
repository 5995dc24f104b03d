"""Settings of small federations whose nodes send little, everything, or votes."""

from pathlib import Path

from isogram import federation
from isogram.config import (
    AlignConfig,
    AverageConfig,
    Config,
    EgressConfig,
    ModelConfig,
    TermWeights,
    TrainConfig,
)
from isogram.egress import Oversight

SRC = Path(__file__).parents[1] / "src" / "isogram"
K, ROWS = 16, 23
TRAIN = TrainConfig(rounds=2, steps=1, batch=8)
CONFIG = Config(data="machines", anchors=K, model=ModelConfig(width=24, layers=1, rank=2), train=TRAIN)
EVERYTHING = CONFIG.model_copy(
    update={
        "align": AlignConfig(robust=True),
        "average": AverageConfig(rule="parameter", head="laplace"),
        "train": TRAIN.model_copy(
            update={
                "refresh": 1,
                "refresh_basis": "gradient",
                "frame_update": 0.5,
                "weights": TermWeights(prototype=1, cka=1),
            }
        ),
    }
)
VOTES = CONFIG.model_copy(update={"average": AverageConfig(robust="median")})


SUM = ("pair", "parcels", "summand", "shares")


def summing(data):
    """Nodes that have trained, and keep what came of it for a secure sum."""
    fed = federation.gather(data, CONFIG, oversight=Oversight(more=SUM))
    fed = federation.start_training(federation.one_shot(fed))
    fed.tell("trained", fed.members, lambda node: fed.deliver(node, "targets", federation.targets(fed, node, 2)))
    return fed


def add_up(fed, **more):
    """The secure sum of what they keep."""
    shapes = {name: tuple(value.shape) for name, value in fed.nodes[0].summand.items()}
    return federation.secure_sum(fed, 2, fed.members, shapes, dict.fromkeys(shapes, 1e6), **more)


def allowing(*names, config=CONFIG):
    return config.model_copy(update={"egress": EgressConfig(allow=names)})
