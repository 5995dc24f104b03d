"""What `align.secure` costs in quality: it needs `align.metric` and `align.choose` off, which see single Grams.

    python benchmarks/secure_grams.py            # to results/secure_grams.jsonl; three minutes

The method `closed-form` in its default, without these two, and with Grams in sums, on five seeds; of each seed the mean
over directions.
"""

from pathlib import Path
from statistics import mean, stdev

import torch
import typer

from isogram.bench import Row, replace_rows
from isogram.config_file import read_config
from isogram.data import open_data
from isogram.evaluation import evaluate
from isogram.methods import solve

PATH = Path("results/secure_grams.jsonl")
SETS = {"tcga-brca": "r1", "digits": "accuracy", "machines": "accuracy"}
"""Data -> the figure that they are judged by."""

APART = ("align.metric=false", "align.choose=false")
WAYS = {"default": (), "without single Grams": APART, "sums of Grams": (*APART, "align.secure=true")}


def figure(name: str, metric: str, seed: int, settings: tuple[str, ...]) -> float:
    """Mean over directions."""
    config = read_config(None, (f"data={name}", f"seed={seed}", *settings))
    data = open_data(config)
    found = solve("closed-form", data, config)
    return mean(one.value for one in evaluate(data, found.embed, found.head) if one.metric == metric)


def main(seeds: int = 5) -> None:
    """Measure, print, and put the rows in the place of older ones."""
    torch.set_num_threads(1)
    for name, metric in SETS.items():
        for way, settings in WAYS.items():
            values = [figure(name, metric, seed, settings) for seed in range(seeds)]
            dataset = f"secure-grams:{name}"
            rows = [Row(dataset, way, 0, seed, metric, "mean", round(one, 4)) for seed, one in enumerate(values)]
            replace_rows(PATH, rows)
            print(f"{name:10} {way:21} {metric:9} {mean(values):.3f} ± {stdev(values):.3f}", flush=True)


if __name__ == "__main__":
    typer.run(main)
