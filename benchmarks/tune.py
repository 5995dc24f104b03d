"""How the settings of the trained methods were chosen: every grid below on the tuning split, three seeds from 100 on.

    python benchmarks/tune.py [METHOD ...]

Each method gets 18 trials: three rates, times three of the projector, times two choices of its loss. Prints, for each,
the mean over seeds on held-out anchors (never test patients). Half a minute a setting; results are in docs/log.md.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, product
from typing import Literal

import numpy as np
import torch

from isogram import methods
from isogram.config import Config, ModelConfig, TermWeights
from isogram.data import load

RATES = (1e-4, 1e-3, 1e-2)
PROJECTOR = (0, 1, 10)
"""Rate of the projector, in rates of the trunk."""

GRIDS: dict[str, list[TermWeights]] = {
    "fedavg-lora": [TermWeights.only(task=1, teacher=t) for t in (0, 1)],
    "fedcola": [TermWeights.only(task=1, teacher=t) for t in (0, 1)],
    "cka": [TermWeights.only(task=0.1, cka=1, teacher=t) for t in (0, 1)],
    "prototypes": [TermWeights.only(task=0.1, prototype=1, teacher=t) for t in (0, 1)],
    "creamfl": [TermWeights.only(task=0.1, inter=1, intra=i) for i in (0.1, 1)],
    "fedmuscle": [TermWeights.only(task=0.1, muscle=1, teacher=t) for t in (0, 1)],
    "isogram": [TermWeights(teacher=t) for t in (0, 1)],
    "centralised": [TermWeights(teacher=t) for t in (0, 1)],
}


def trial(name: str, lr: float, projector_lr: float, weights: TermWeights) -> methods.Run:
    """A method with these settings; those that start at the frame keep the other defaults."""
    if name not in ("isogram", "centralised"):
        across: Literal["all", "attention"] = "attention" if name == "fedcola" else "all"
        return partial(methods.without_frame, name, methods.Peer(lr, projector_lr, weights, across))
    recipe = next(recipe for recipe in methods.RECIPES if name in recipe.names)

    def run(data: object, config: Config, progress: object) -> Iterator[methods.Solution]:
        train = config.train.model_copy(update={"lr": lr, "projector_lr": projector_lr, "weights": weights})
        solutions = recipe.run(data, config.model_copy(update={"train": train}), progress)  # type: ignore[arg-type]
        return islice(solutions, 1)  # without the second run, which decides per node

    return run


def means(run: Callable[..., Iterator[methods.Solution]], trunk: str, seeds: range) -> dict[str, dict[str, float]]:
    """Per method that the run yields: mean of each metric over seeds and directions."""
    found: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        config = Config(data="tcga-brca-tuning", anchors=100, seed=seed, model=ModelConfig(trunk=trunk))
        data = load(config.data, anchors=config.anchors, seed=seed)
        for solution in run(data, config, None):
            for score in solution.scores(data):
                if score.metric != "pam50" or score.direction == "mirna":
                    found.setdefault(solution.method, {}).setdefault(score.metric, []).append(score.value)
    return {method: {metric: float(np.mean(v)) for metric, v in values.items()} for method, values in found.items()}


def main() -> None:
    """Print one line a setting."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or GRIDS:
        for weights, lr, own in product(GRIDS[name], RATES, PROJECTOR):
            terms = " ".join(f"{term} {value:g}" for term, value in weights if value)
            for method, values in means(trial(name, lr, lr * own, weights), "small", range(100, 103)).items():
                figures = " ".join(f"{metric} {value:.3f}" for metric, value in values.items())
                print(f"{method} lr {lr:g} projector {lr * own:g} ({terms}): {figures}", flush=True)


if __name__ == "__main__":
    main()
