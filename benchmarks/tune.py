"""How the settings of the trained methods were chosen: every grid below on the tuning split, three seeds from 100 on.

    python benchmarks/tune.py [METHOD ...]

Prints, for each setting, the mean over seeds on held-out anchors (never test patients). Half a minute a setting;
results are in docs/log.md.
"""

import sys
from functools import partial
from itertools import product

import numpy as np
import torch

from isogram import methods
from isogram.config import Config, ModelConfig, TermWeights
from isogram.data import load
from isogram.evaluation import evaluate

RATES = (1e-4, 1e-3, 1e-2)
GRIDS = {
    "fedavg-lora": [{"task": 1, "teacher": t} for t in (0, 1)],
    "cka": [{"task": 0.1, "cka": 1, "teacher": t} for t in (0, 1)],
    "prototypes": [{"task": 0.1, "prototype": 1, "teacher": t} for t in (0, 1)],
}


def means(run: methods.Run, trunk: str, seeds: range) -> dict[str, dict[str, float]]:
    """Per method that the run yields: mean of each metric over seeds and directions."""
    found: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        config = Config(data="tcga-brca-tuning", anchors=100, seed=seed, model=ModelConfig(trunk=trunk))
        data = load(config.data, anchors=config.anchors, seed=seed)
        for solution in run(data, config, None):
            for score in evaluate(data, solution.embed, solution.head):
                if score.metric != "pam50" or score.direction == "mirna":
                    found.setdefault(solution.method, {}).setdefault(score.metric, []).append(score.value)
    return {method: {metric: float(np.mean(v)) for metric, v in values.items()} for method, values in found.items()}


def main() -> None:
    """Print one line a setting."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or GRIDS:
        for weights, lr, own in product(GRIDS[name], RATES, (0, 1, 10)):
            run = partial(methods.without_frame, name, lr, lr * own, TermWeights.only(**weights))
            for method, values in means(run, "small", range(100, 103)).items():
                figures = " ".join(f"{metric} {value:.3f}" for metric, value in values.items())
                print(f"{method} lr {lr:g} projector {lr * own:g} {weights}: {figures}", flush=True)


if __name__ == "__main__":
    main()
