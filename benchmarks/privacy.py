"""What differential privacy costs: epsilon 1, 3, 8 and none, class directions alone and with rounds.

    python benchmarks/privacy.py run [STUDY ...]      # rows that are missing, to results/privacy.jsonl

Studies (a row's data set is "privacy:DATA", its method "STUDY EPSILON"):

- closed-form: class directions alone, no rounds; 20 seeds.
- rounds: the default under `privacy.epsilon`: rounds learn from public anchors, all of epsilon is for class directions.
  Rounds never look at these, so one training serves every epsilon.
- dp-sgd: rounds learn from labelled rows, too (`train.weights.task`), with 0.8 of epsilon for class directions.

EPSILON is a number; "inf": the same settings without noise and without clipping; "default": those of a run without
privacy, which may do what it refuses. Noise has the seed of the split, so that rows can be made again: such runs keep
no secret and guarantee nothing. Settings were chosen on tcga-brca-tuning and on digits, seeds from 100 (docs/log.md).
Twenty minutes on one core, and as long again for digits-sites (`--data digits-sites --seeds 3`).
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import typer

from isogram import accountant
from isogram.bench import Row, read_rows, rewrite
from isogram.config import Config
from isogram.data import FederatedData, load
from isogram.evaluation import evaluate
from isogram.federation import Federation, align, train
from isogram.files import append_lines
from isogram.report.privacy_tables import privacy_blocks
from isogram.report.tables import Results

PATH = Path("results/privacy.jsonl")
ANCHORS = {"digits": 5, "tcga-brca": 100, "digits-sites": 5}
EPSILONS = ("1", "3", "8", "inf")
SEEDS = {"closed-form": 20, "rounds": 5, "dp-sgd": 5}
TASK = {"digits": 0.1, "tcga-brca": 0.1, "digits-sites": 1.0}
"""Weight of the task term without privacy, which dp-sgd keeps."""

_ALL_BITS = 1e9  # a bound that no gradient reaches


def config_of(data: str, study: str, epsilon: str, seed: int) -> Config:
    """The settings of a cell."""
    train: dict[str, Any] = {} if study != "closed-form" else {"rounds": 0}
    if epsilon == "default":
        return Config(data=data, seed=seed, train=train)
    privacy: dict[str, Any] = {"epsilon": 8.0 if epsilon == "inf" else float(epsilon), "noise_seed": seed}
    if study == "dp-sgd":
        train["weights"] = {"task": TASK[data]}
        privacy["head_share"] = 0.8
    if epsilon == "inf":
        privacy["clip"] = _ALL_BITS
    return Config(data=data, seed=seed, train=train, privacy=privacy)


@contextmanager
def silence(wanted: bool) -> Iterator[None]:
    """Within it no noise is added, whatever epsilon is."""
    found = accountant._budget

    def silent(*settings: Any) -> accountant.Budget:
        budget = found(*settings)
        return replace(budget, head=0.0, step=None if budget.step is None else 0.0)

    with patch.object(accountant, "_budget", silent if wanted else found):
        yield


def rows_of(data: FederatedData, name: str, method: str, seed: int, fed: Federation, seconds: float) -> list[Row]:
    """Figures on held-out rows, seconds."""
    scores = evaluate(data, {node.name: node.embed for node in fed.nodes}, fed.heads or fed.head)
    figures = [(s.metric, s.direction, s.value) for s in scores] + [("seconds", "", seconds)]
    return [Row(f"privacy:{name}", method, ANCHORS[name], seed, m, d, round(v, 6)) for m, d, v in figures]


def run_cell(name: str, study: str, seed: int, epsilons: Sequence[str]) -> Iterator[list[Row]]:
    """Rows of one study on one split."""
    data = load(name, anchors=ANCHORS[name], seed=seed)
    trained: Federation | None = None
    for epsilon in epsilons:
        start, config = time.perf_counter(), config_of(name, study, epsilon, seed)
        with silence(epsilon == "inf"):
            fed = align(data, config)
            if study == "rounds" and epsilon != "default":
                trained = trained or train(fed)
                fed = replace(trained, head=fed.head, heads=fed.heads)
            elif study != "closed-form":
                fed = train(fed)
        yield rows_of(data, name, f"{study} {epsilon}", seed, fed, time.perf_counter() - start)


app = typer.Typer(add_completion=False)


@app.command()
def run(studies: list[str], data: str = "tcga-brca,digits", seeds: int = max(SEEDS.values())) -> None:
    """Rows that are missing, of the first `seeds` seeds."""
    torch.set_num_threads(1)
    have = {(row.dataset, row.method, row.seed) for row in rewrite(PATH)} if PATH.exists() else set()
    start = time.monotonic()
    for study in studies:
        for seed in range(min(seeds, SEEDS[study])):
            for name in data.split(","):
                asked = (*EPSILONS, *(() if study == "dp-sgd" else ("default",)))
                left = [e for e in asked if (f"privacy:{name}", f"{study} {e}", seed) not in have]
                for rows in run_cell(name, study, seed, left):
                    append_lines(PATH, (json.dumps(asdict(row)) for row in rows))
                print(f"{study} {name} {seed}: {(time.monotonic() - start) / 60:.1f} min", flush=True)
    rewrite(PATH)
    assert read_rows([PATH])


@app.command()
def table() -> None:
    """The tables of docs/privacy.md."""
    for name, text in privacy_blocks(Results(read_rows([PATH]))).items():
        print(f"{name}\n\n{text}\n")


if __name__ == "__main__":
    app()
