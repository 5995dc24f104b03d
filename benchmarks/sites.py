"""Does one trunk shared across modalities pay? Rules of sharing on `digits-sites`: 12 nodes with sensors of their own.

    python benchmarks/sites.py tune RULE ...      # on private rows set aside, seeds 100-102; prints, for docs/log.md
    python benchmarks/sites.py run RULE ...       # rows on held-out rows, seeds 0-9, to results/sites.jsonl

A rule is words in any order, such as "frame none lr=1e-2": the start (`frame`: one-shot alignment, or `apart`: nodes in
bases of their own); who averages (`all`, `trunk`, `pooled`, `attention`, `none`, `alone`; `start`: no training); `cka`
for that loss term where there is no frame; `standardised` for sites that standardise by their own rows; `frozen` for a
trunk that does not train, the control (only the map from it to coordinates does); with `trunk`, `transfer` for one that
only the other modalities have trained; `few` for 30 rows a site instead of 150; an adapter's name; KEY=VALUE for a
setting of `train`, `model` or `average`. Or `default` and who averages: the settings of today. Rows that are there are
skipped. A quarter of a minute a cell.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import torch
import typer
from adapters import set_aside

from isogram import federation
from isogram.bench import Row, rewrite
from isogram.config import AdapterName, AverageConfig, Config, ModelConfig, TermWeights, TrainConfig
from isogram.data import FederatedData, load
from isogram.data.distort import shift_sensors, standardize_sites
from isogram.data.sites import SITES, STRENGTH, load_sites
from isogram.evaluation import Score, evaluate
from isogram.federation import Federation
from isogram.files import append_lines
from isogram.methods import plain

PATH = Path("results/sites.jsonl")
DATA = "digits-sites"
ROWS = f"{DATA}:across"
"""Name of the data set in the rows: they are not those of `isogram bench`."""

ACROSS = ("all", "trunk", "pooled", "attention", "none", "alone")
FEW = 30
TRAINING = TrainConfig(rounds=8, steps=16, batch=16, lr=3e-3, weights=TermWeights.only(task=1, cka=0.1, frame=0.1))


def config_of(rule: str, seed: int) -> Config:
    """The settings that a rule's words stand for."""
    words = rule.split()
    if words[0] == "default":
        _, across = words
        average = {} if across == "start" else {"across": across}
        return Config.model_validate({"data": DATA, "seed": seed, "average": average})
    train, model = TRAINING.model_dump(), {"width": 64}
    average: dict[str, Any] = {}
    if "apart" in words:
        train["weights"] = TermWeights.only(task=1, cka=0.1 if "cka" in words else 0)
    for word in words:
        key, given, text = word.partition("=")
        if given:
            value = float(text) if text[0].isdigit() else text
            if key in TermWeights.model_fields:
                train["weights"] = dict(train["weights"]) | {key: value}
            else:
                groups = {"train": TrainConfig, "model": ModelConfig, "average": AverageConfig}
                name = next(name for name, kind in groups.items() if key in kind.model_fields)
                {"train": train, "model": model, "average": average}[name][key] = value
        elif word in ACROSS:
            average["across"] = word
        elif word in get_args(AdapterName):
            model["adapter"] = word
        elif word not in ("frame", "apart", "cka", "start", "standardised", "frozen", "few", "transfer"):
            raise ValueError(f"no word {word!r} in a rule; see the top of this file")
    groups = {"train": train, "model": model, "average": average}
    config = Config.model_validate({"data": DATA, "goal": "pairs", "seed": seed, **groups})
    return plain(config, head=average.get("head", "means"))


def solve(rule: str, data: FederatedData, config: Config) -> Federation:
    """Started and, unless the rule says `start`, trained."""
    words = rule.split()
    fed = federation.start_apart(data, config) if "apart" in words else federation.align(data, config)
    if "start" in words:
        return fed
    return _trained(federation.start_training(fed), frozen="frozen" in words)


def _trained(fed: Federation, *, frozen: bool) -> Federation:
    for model in {id(node.shared): node.shared for node in fed.nodes}.values() if frozen else ():
        model.method = replace(model.method, turns=(frozenset(),))
    while fed.round < fed.config.train.rounds:
        fed = federation.train_round(fed)
    return fed


def transferred(data: FederatedData, config: Config) -> list[Score]:
    """Accuracy of each modality on a trunk that the nodes of the others have trained, frozen while maps are trained.

    Beside a frozen trunk that nobody has trained it tells whether anything that a trunk learns holds for a modality
    that it never saw.
    """
    aligned, found = federation.align(data, config), []
    for modality in data.modalities:
        others = tuple(node for node in aligned.nodes if node.modality != modality)
        trunk = federation.train(replace(aligned, nodes=others)).adapters
        fed = _trained(replace(federation.start_training(aligned), adapters=trunk), frozen=True)
        seen = evaluate(data, {node.name: node.embed for node in fed.nodes}, fed.head)
        found += [score for score in seen if score.direction == modality]
    return found


def scores(rule: str, data: FederatedData, seed: int) -> tuple[list[Score], float]:
    """Figures on held-out rows, and bytes that a node sent."""
    if "few" in rule.split():
        data = few(data)
    if "standardised" in rule.split():
        data = standardize_sites(data)
    if "transfer" in rule.split():
        return transferred(data, config_of(rule, seed)), 0.0
    fed = solve(rule, data, config_of(rule, seed))
    found = evaluate(data, {node.name: node.embed for node in fed.nodes}, fed.heads or fed.head)
    return found, sum(fed.ledger.sent(node.name) for node in fed.nodes) / len(fed.nodes)


def few(data: FederatedData) -> FederatedData:
    """The same sites with the first `FEW` of each class's rows."""
    nodes = []
    for node in data.nodes:
        assert node.labels is not None
        rows = np.concatenate([np.flatnonzero(node.labels == c)[: FEW // len(node.classes)] for c in node.classes])
        nodes.append(replace(node, tokens=node.tokens[rows], labels=node.labels[rows]))
    return replace(data, nodes=tuple(nodes))


def tuning(seed: int) -> FederatedData:
    """The federation with a third of every site's rows set aside as held-out rows, seen through each site's sensor."""
    plain = set_aside(load_sites("digits", sites=SITES, iid=False, anchors=5, seed=seed), seed)
    return shift_sensors(plain, seed=seed, strength=STRENGTH)


def seeds_of(text: str) -> Sequence[int]:
    """The numbers that "0-4" stands for."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


app = typer.Typer(add_completion=False)
Rules = Annotated[list[str], typer.Argument()]


@app.command()
def tune(rules: Rules, seeds: str = "100-102") -> None:
    """Print accuracy on rows set aside: image, speech, pen, their mean."""
    torch.set_num_threads(1)
    for rule in rules:
        start, found = time.perf_counter(), []
        for seed in seeds_of(seeds):
            found.append([s.value for s in scores(rule, tuning(seed), seed)[0] if s.metric == "accuracy"])
        means = np.mean(found, 0)
        seconds = (time.perf_counter() - start) / len(found)
        figures = " / ".join(f"{m:.3f}" for m in means)
        each = " ".join(f"{np.mean(f):.3f}" for f in found)
        print(f"{rule:60} {figures}   mean {means.mean():.3f}   ({each})   {seconds:.0f} s", flush=True)


@app.command()
def run(rules: Rules, seeds: str = "0-9") -> None:
    """Rows that are missing."""
    torch.set_num_threads(1)
    have = {(row.method, row.seed) for row in rewrite(PATH)} if PATH.exists() else set()
    for seed in seeds_of(seeds):
        data = load(DATA, anchors=5, seed=seed)
        for rule in rules:
            if (rule, seed) in have:
                continue
            start = time.perf_counter()
            found, sent = scores(rule, data, seed)
            figures = [(s.metric, s.direction, s.value) for s in found]
            figures += [("bytes_per_node", "", sent), ("seconds", "", time.perf_counter() - start)]
            rows = [Row(ROWS, rule, 5, seed, metric, direction, round(v, 6)) for metric, direction, v in figures]
            append_lines(PATH, (json.dumps(asdict(row)) for row in rows))
            print(seed, rule, [round(s.value, 3) for s in found], flush=True)
    rewrite(PATH)


if __name__ == "__main__":
    app()
