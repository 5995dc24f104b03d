"""A third of the nodes lies: what plain averaging loses, and what the robust options do.

    python benchmarks/hostile.py tune SOURCE          # seeds 100-101; prints, for docs/log.md
    python benchmarks/hostile.py run SOURCE           # rows that are missing, seeds 0-4, to results/hostile.jsonl
    python benchmarks/hostile.py outliers NAME 25,50  # Grams that stand out, seeds 100-107; any data set and numbers
                                                      # of anchors; prints, for docs/privacy.md

SOURCE is tcga-brca (K = 100, goal pairs) or digits-sites (5 anchors a digit, goal classes; a trunk of width
64, half of the default), else with the settings of today.
A row's data set is "SOURCE:ATTACK", its method an option; figures are those of the honest nodes on their held-out rows,
and the hostile nodes of a seed are the same in all its cells. Attacks are those of `isogram.hostile`; "honest": nobody
lies; "absent": the hostile third is not there, which is what perfect detection could have. Options: `plain`; `outliers`
(align.outliers alone); `median` and `trimmed`, each with align.outliers. 6 s a cell on tcga-brca, 15 s on digits-sites.
"""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from isogram import federation
from isogram.aggregation import outliers as standing_out
from isogram.bench import Row, rewrite
from isogram.config import Config
from isogram.data import FederatedData, load
from isogram.evaluation import Score, evaluate
from isogram.files import append_lines
from isogram.hostile import (
    HostileLedger,
    Lie,
    a_little,
    flip_labels,
    inner_product,
    permute_anchors,
    scaled,
    sign_flipped,
    spoilt_sums,
    spread,
)
from isogram.messages import Ledger

PATH = Path("results/hostile.jsonl")
ANCHORS = {"tcga-brca": 100, "digits-sites": 5}
MODEL: dict[str, dict[str, int]] = {"tcga-brca": {}, "digits-sites": {"width": 64}}
"""Source -> settings of the model that are not the default: half the width on digits-sites, for time."""

KEPT = {"tcga-brca": (("r1", None), ("pam50", "mirna")), "digits-sites": (("accuracy", None),)}
"""Source -> figures that tables show: metric and direction."""

LIES: dict[str, Lie] = {
    "scaled": scaled,
    "sign-flipped": sign_flipped,
    "inner-product": inner_product,
    "a-little": a_little,
    "spoilt-sums": spoilt_sums,
}
DATA = ("label-flipped", "anchors", "anchors-together")
ATTACKS = (*LIES, *DATA)

FOUND = {"align": {"outliers": True}}
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {},
    "outliers": FOUND,
    "median": {**FOUND, "average": {"robust": "median"}},
    "trimmed": {**FOUND, "average": {"robust": "trimmed"}},
}


def cells() -> list[tuple[str, str]]:
    """Attack and option; outliers alone only where there is one to find, or nobody to blame."""
    found = [("absent", "plain")]
    for attack in ("honest", *ATTACKS):
        options = [option for option in OPTIONS if option != "outliers" or attack in ("honest", *DATA[1:])]
        found += [(attack, option) for option in options]
    return found


def attacked(data: FederatedData, attack: str, liars: tuple[str, ...], seed: int) -> tuple[FederatedData, Ledger]:
    """The federation as the attack makes it, and what carries its messages."""
    if attack == "absent":
        return replace(data, nodes=honest(data, liars)), Ledger()
    if attack == "label-flipped":
        return flip_labels(data, liars), Ledger()
    if attack in DATA:
        return permute_anchors(data, liars, seed=seed, together=attack == "anchors-together"), Ledger()
    return data, HostileLedger(liars, LIES[attack]) if attack in LIES else Ledger()


def honest(data: FederatedData, liars: tuple[str, ...]) -> tuple[Any, ...]:
    """The other nodes."""
    return tuple(node for node in data.nodes if node.name not in liars)


def scores(source: str, attack: str, option: str, seed: int) -> tuple[list[Score], int, int]:
    """Figures of the honest nodes; how many hostile nodes and how many honest ones alignment has left out."""
    data = load(source, anchors=ANCHORS[source], seed=seed)
    liars = spread(data, seed=seed)
    config = Config.model_validate(
        {"data": source, "anchors": ANCHORS[source], "seed": seed, "model": MODEL[source], **OPTIONS[option]}
    )
    changed, ledger = attacked(data, attack, liars, seed)
    fed = federation.train(federation.align(changed, config, ledger=ledger))
    measured = replace(data, nodes=honest(data, liars))
    found = evaluate(measured, {node.name: node.embed for node in fed.nodes}, fed.heads or fed.head)
    kept = [s for s in found if any(s.metric == m and d in (None, s.direction) for m, d in KEPT[source])]
    return kept, len(fed.left_out & set(liars)), len(fed.left_out - set(liars))


app = typer.Typer(add_completion=False)
Source = Annotated[str, typer.Argument(help=", ".join(ANCHORS))]


def seeds_of(text: str) -> range:
    """The numbers that "0-4" stands for."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def mean(found: list[Score], metric: str) -> float:
    """Over directions without a part of their own."""
    values = [s.value for s in found if s.metric == metric and ":" not in s.direction]
    return sum(values) / len(values)


@app.command()
def tune(source: Source, seeds: str = "100-101", only: str = "") -> None:
    """Print figures at tuning seeds."""
    torch.set_num_threads(1)
    for attack, option in cells():
        if only and only not in f"{attack} {option}":
            continue
        for seed in seeds_of(seeds):
            start = time.perf_counter()
            found, caught, blamed = scores(source, attack, option, seed)
            figures = {metric: round(mean(found, metric), 3) for metric, _ in KEPT[source]}
            each = [round(s.value, 3) for s in found]
            told = f"left out {caught}+{blamed}, {time.perf_counter() - start:.0f} s"
            print(f"{attack:18} {option:9} {seed} {figures} {each} {told}", flush=True)


@app.command()
def outliers(name: str, anchors: str, seeds: str = "100-107", only: str = "") -> None:
    """Print how many hostile nodes, and how many honest ones, stand out by their Grams; `only`: "honest", an attack."""
    torch.set_num_threads(1)
    for many in map(int, anchors.split(",")):
        config = Config(data=name, anchors=many)
        for attack in ("honest", *DATA[1:]) if not only else (only,):
            caught = lying = blamed = truthful = 0
            for seed in seeds_of(seeds):
                data = load(name, anchors=many, seed=seed)
                liars = () if attack == "honest" else spread(data, seed=seed)
                changed, _ = attacked(data, attack, liars, seed)
                fed = federation.gather(changed, config)
                out = standing_out(
                    [fed.receive(node, "gram", 0, node.send_gram(0)) for node in fed.nodes], fed.n_anchors
                )
                caught, lying = caught + len(out.keys() & set(liars)), lying + len(liars)
                blamed, truthful = blamed + len(out.keys() - set(liars)), truthful + len(data.nodes) - len(liars)
            told = f"found {caught} of {lying} hostile nodes, blamed {blamed} of {truthful} honest ones"
            print(f"{name:18} {many:4} anchors, {attack:16} {told}", flush=True)


@app.command()
def run(source: Source, seeds: str = "0-4", options: str = ",".join(OPTIONS)) -> None:
    """Rows that are missing."""
    torch.set_num_threads(1)
    have = {(row.dataset, row.method, row.seed) for row in rewrite(PATH)} if PATH.exists() else set()
    for seed in seeds_of(seeds):
        for attack, option in cells():
            if (f"{source}:{attack}", option, seed) in have or option not in options.split(","):
                continue
            start = time.perf_counter()
            found, caught, blamed = scores(source, attack, option, seed)
            figures = [(s.metric, s.direction, s.value) for s in found]
            figures += [("caught", "", caught), ("blamed", "", blamed), ("seconds", "", time.perf_counter() - start)]
            rows = [
                Row(f"{source}:{attack}", option, ANCHORS[source], seed, metric, direction, round(value, 6))
                for metric, direction, value in figures
            ]
            append_lines(PATH, (json.dumps(asdict(row)) for row in rows))
            print(seed, attack, option, *(round(mean(found, metric), 3) for metric, _ in KEPT[source]), flush=True)
    rewrite(PATH)


if __name__ == "__main__":
    app()
