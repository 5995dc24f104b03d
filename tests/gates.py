"""Settings of small federations whose nodes send little, everything, or votes."""

from pathlib import Path

from isogram.config import (
    AlignConfig,
    AverageConfig,
    Config,
    EgressConfig,
    ModelConfig,
    TermWeights,
    TrainConfig,
)

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


def allowing(*names, config=CONFIG):
    return config.model_copy(update={"egress": EgressConfig(allow=names)})
