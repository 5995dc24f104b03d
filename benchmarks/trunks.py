"""Which trunk: none, small, MiniLM pretrained, MiniLM random, on held-out anchors, and what a step of each costs.

    python benchmarks/trunks.py

Appends rows to results/trunks.jsonl (five seeds, the tuning split; never test patients) and prints the cost of a step
relative to the small trunk: medians of interleaved repetitions in one thread. All trunks get the same short training,
a quarter of the default's rows and half of its rounds, because MiniLM is slow. About half an hour on one core.
"""

import time
from pathlib import Path
from statistics import median

import torch

from isogram.bench import bench, plan, read_rows
from isogram.config import Config, ModelConfig, TrainConfig
from isogram.methods import plain
from isogram.model import SharedModel

TRUNKS = ("none", "small", "minilm", "minilm-random")
TRAIN = TrainConfig(rounds=2, batch=8, anchor_batch=32)
PATH = Path("results/trunks.jsonl")


def step_seconds(repetitions: int = 7) -> dict[str, float]:
    """Median seconds of one forward and backward pass over 40 rows of 8 tokens."""
    torch.set_num_threads(1)
    models = {trunk: SharedModel(ModelConfig(trunk=trunk), 96) for trunk in TRUNKS[1:]}
    seconds: dict[str, list[float]] = {trunk: [] for trunk in models}
    tokens = torch.randn(TRAIN.batch + TRAIN.anchor_batch, 8, 96, generator=torch.Generator().manual_seed(0))
    for _ in range(repetitions + 1):
        for trunk, model in models.items():
            start = time.perf_counter()
            out = model(tokens)
            assert isinstance(out, torch.Tensor)
            out.square().mean().backward()
            seconds[trunk].append(time.perf_counter() - start)
    return {trunk: median(values[1:]) for trunk, values in seconds.items()}


def main() -> None:
    """Cost first, then the rows that are missing."""
    cost = step_seconds()
    print({trunk: round(value / cost["small"], 1) for trunk, value in cost.items()}, "x a step of the small trunk")
    for trunk in TRUNKS:
        model = ModelConfig(trunk=trunk)
        configs = [plain(Config(data="tcga-brca-tuning", seed=seed, model=model, train=TRAIN)) for seed in range(5)]
        methods = ["oneshot-hsic", "isogram"] if trunk == "small" else ["isogram"]
        done = read_rows([PATH]) if PATH.exists() else []
        bench(
            plan(configs, methods, done),
            PATH,
            1,
            lambda cell: print(cell.config.model.trunk, cell.config.seed, flush=True),
        )


if __name__ == "__main__":
    main()
