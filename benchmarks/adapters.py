"""Which adapter and which average win where: every rule on federations of 4 to 48 sites.

    python benchmarks/adapters.py tune                 # rates, on private rows set aside; prints, for docs/log.md
    python benchmarks/adapters.py run [STUDY ...]      # rows of the studies, to results/adapters.jsonl

Studies (a row's data set is "STUDY:SETTING", its method the rule):

- adapters: digits at 4, 12 and 48 sites, tcga-brca at 9, labels alike ("iid") or skewed, each adapter method; GeoLoRA
  and FedIT without the geometric loss; GeoLoRA with refreshes.
- shift: sites with sensors of their own, GeoLoRA and GeoDoRA: on public anchors; with each site's rows standardised by
  their own mean and spread; and with the anchors recorded by each sensor, too, which standardises by them.
- doubt: a third of the sites noisy, mislabelled, small, or with wrong or synthetic anchors; each average and, as the
  control, its weights dealt to other sites ("node 1" to "node 6").
- heads: class directions by Laplace, at the start and after training, beside the means of the first study.
- minilm: some of the methods on the pretrained MiniLM, tcga-brca at 9 skewed sites, a quarter of the steps.
- anchor-batch: the default run on the tuning split of tcga-brca with 6, 32 or 128 anchors a step.
- goals: sites that all label their rows, the product's own settings for each `goal`, before rounds ("start") and after.
- consensus: the same sites; precision weights in the consensus of one-shot alignment, no training.

Rows that are there are skipped; cells run in two processes of one thread each. Two hours on two cores.
"""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

import numpy as np
import torch
import typer

from isogram.bench import Row, read_rows, rewrite
from isogram.config import AlignConfig, AverageConfig, Config, ModelConfig, TermWeights, TrainConfig
from isogram.data import FederatedData, load
from isogram.data.base import HeldOut
from isogram.data.distort import KINDS, corrupt, shift_sensors, standardize_sites
from isogram.data.sites import load_sites
from isogram.evaluation import evaluate
from isogram.federation import Federation, align, train
from isogram.files import append_lines
from isogram.goal import Goal
from isogram.methods import plain

PATH = Path("results/adapters.jsonl")
SEEDS = range(5)
SHUFFLES = range(1, 7)
"""A seed and rule; 30 different ones in all."""

SITES = {"digits-4": 4, "digits-12": 12, "digits-48": 48, "tcga-brca-9": 9, "machines-8": 8, "pen-6": 18}
LABELS = ("iid", "skewed")
ANCHORS = {"digits": 5, "tcga-brca": 100, "machines": 100}
ADAPTERS = ("geolora", "geodora", "fedit", "ffa-lora", "rolora", "dora", "full")
PARTS = ("geolora no geometry", "fedit no geometry")
REFRESHES = ("geolora refresh random", "geolora refresh gradient")
RULES = ("uniform", "samples", "node", "parameter", "relative")
RATES = dict.fromkeys(ADAPTERS, 3e-3)
PATIENTS_RATES = RATES | dict.fromkeys(("geolora", "fedit", "dora", "full"), 1e-3)
"""Learning rate of each method: tuned on tcga-brca and on digits (`tune`, docs/log.md); on machines those of digits."""

WIDTHS = {"tcga-brca-9": 96, "machines-8": 96}
"""Of the small trunk, which must hold the frame; 64 elsewhere."""

GEOMETRY = TermWeights.only(task=1, cka=0.1, frame=0.1)
PLAIN = TermWeights.only(task=1)
TRAINING = TrainConfig(rounds=8, steps=16, batch=16, weights=GEOMETRY)
"""Every site has labels here, and training pays: more of it than the default, and rows need not stay in place."""


@dataclass(frozen=True)
class Cell:
    """One rule on one split."""

    study: str
    setting: str
    rule: str
    seed: int


def cells(studies: Sequence[str]) -> Iterator[Cell]:
    """All of the studies asked for, seed by seed, so that an interrupted run has whole comparisons."""
    for seed in SEEDS:
        if "adapters" in studies:
            for name in ("digits-4", "digits-12", "tcga-brca-9", "digits-48"):
                for labels in LABELS:
                    for rule in ("start", *ADAPTERS, *PARTS, *(() if name == "digits-48" else REFRESHES)):
                        yield Cell("adapters", f"{name} {labels}", rule, seed)
        if "shift" in studies:
            for name in ("machines-8", "pen-6"):
                for rule in ("start", "geolora", "geodora"):
                    for way in ("", " standardised", " recorded"):
                        yield Cell("shift", name, rule + way, seed)
        if "heads" in studies:
            for name in ("digits-12", "tcga-brca-9"):
                for labels in LABELS:
                    for rule in ("start laplace", "geolora laplace"):
                        yield Cell("adapters", f"{name} {labels}", rule, seed)
        if "goals" in studies:
            for setting in ("digits-12 iid", *(f"{n} {how}" for n in ("machines-8", "tcga-brca-9") for how in LABELS)):
                for goal in get_args(Goal):
                    yield Cell("goals", setting, f"start {goal}", seed)
                    yield Cell("goals", setting, goal, seed)
        if "minilm" in studies:
            for rule in ("start", "geolora", "geodora", "fedit", "dora"):
                yield Cell("minilm", "tcga-brca-9 skewed", rule, seed)
        if "anchor-batch" in studies:
            for rule in ("start", "6", "32", "128"):
                for more in (0, len(SEEDS)):  # the effect is small: twice the seeds
                    yield Cell("anchor-batch", "tcga-brca", rule, seed + more)
        for kind in KINDS:
            if "doubt" in studies:
                controls = [f"{rule} {n}" for rule in ("node", "parameter") for n in SHUFFLES]
                for rule in ("start", *RULES, *controls):
                    yield Cell("doubt", kind, rule, seed)
            if "consensus" in studies:
                for rule in ("uniform", "precision"):
                    yield Cell("consensus", kind, rule, seed)


def data_of(cell: Cell) -> FederatedData:
    """The federation of a cell."""
    name, _, labels = cell.setting.partition(" ")
    if cell.study == "anchor-batch":
        return load("tcga-brca-tuning", anchors=100, seed=cell.seed)
    if cell.study in ("doubt", "consensus"):
        clean = load_sites("digits", sites=12, iid=True, anchors=ANCHORS["digits"], seed=cell.seed)
        return corrupt(clean, cell.setting, seed=cell.seed)[0]
    source = "digits" if name.startswith(("digits", "pen")) else name.rpartition("-")[0]
    data = load_sites(source, sites=SITES[name], iid=labels != "skewed", anchors=ANCHORS[source], seed=cell.seed)
    if cell.study == "shift":
        shifted = ["pen" if name == "pen-6" else "vibration"]
        data = shift_sensors(data, seed=cell.seed, modalities=shifted, anchors_too="recorded" in cell.rule)
        if "standardised" in cell.rule:
            data = standardize_sites(data)
    return data


def config_of(cell: Cell) -> Config:
    """The settings of a cell."""
    word, *ways = cell.rule.split()
    if cell.study == "anchor-batch":
        return plain(Config(seed=cell.seed, train=TrainConfig(anchor_batch=6 if word == "start" else int(word))))
    if cell.study == "goals":
        return Config(data="digits", seed=cell.seed, goal=ways[0] if ways else word)
    adapter = word if cell.study != "doubt" and word in ADAPTERS else "geolora"
    rates = PATIENTS_RATES if cell.setting.startswith("tcga") else RATES
    weights = PLAIN if "geometry" in ways else GEOMETRY
    # Many nodes and many controls: fewer steps each.
    steps = 6 if cell.study == "doubt" or cell.setting.startswith("digits-48") else TRAINING.steps
    train = TRAINING.model_copy(update={"lr": rates[adapter], "weights": weights, "steps": steps})
    if "refresh" in ways:
        train = train.model_copy(update={"refresh": 2, "refresh_basis": ways[-1]})
    if cell.study == "minilm":
        train = train.model_copy(update={"rounds": 4, "steps": 8})
    average = AverageConfig()
    if cell.study == "doubt" and word != "start":
        rule = "parameter" if word == "relative" else word
        shuffle = int(ways[0]) + len(SHUFFLES) * cell.seed if ways else 0
        average = AverageConfig(rule=rule, relative=word == "relative", shuffle=shuffle)
    precise = cell.study == "consensus" and word == "precision"
    config = Config(
        data="digits",
        seed=cell.seed,
        align=AlignConfig(precision=precise),
        model=ModelConfig(
            trunk="minilm" if cell.study == "minilm" else "small",
            adapter=adapter,
            width=WIDTHS.get(cell.setting.split()[0], 64),
        ),
        train=train,
        average=average,
    )
    return plain(config, head="laplace" if ways[-1:] == ["laplace"] else "means")


def solve(data: FederatedData, config: Config, *, trained: bool) -> Federation:
    """Aligned and, if asked for, trained."""
    fed = align(data, config)
    return train(fed) if trained else fed


def run_cell(cell: Cell) -> list[Row]:
    """Figures on held-out rows, bytes a node sent, seconds."""
    torch.set_num_threads(1)
    data, config = data_of(cell), config_of(cell)
    start = time.perf_counter()
    fed = solve(data, config, trained=cell.rule.split()[0] != "start" and cell.study != "consensus")
    seconds = time.perf_counter() - start
    scores = evaluate(data, {node.name: node.embed for node in fed.nodes}, fed.heads or fed.head)
    figures = [(s.metric, s.direction, s.value) for s in scores]
    figures.append(("bytes_per_node", "", sum(fed.ledger.sent(node.name) for node in fed.nodes) / len(fed.nodes)))
    figures.append(("seconds", "", seconds))
    name = f"{cell.study}:{cell.setting}"
    return [Row(name, cell.rule, len(data.anchors), cell.seed, m, d, round(v, 6)) for m, d, v in figures]


def set_aside(data: FederatedData, seed: int, share: float = 0.3) -> FederatedData:
    """Held-out rows from the nodes' own: what may be looked at while settings are chosen."""
    draw = np.random.default_rng([seed, 7])
    nodes, tokens, labels = [], {}, {}
    for node in data.nodes:
        assert node.labels is not None
        order = draw.permutation(len(node.tokens))
        away, kept = np.split(order, [round(share * len(order))])
        nodes.append(replace(node, tokens=node.tokens[kept], labels=node.labels[kept]))
        tokens.setdefault(node.modality, []).append(node.tokens[away])
        labels.setdefault(node.modality, []).append(node.labels[away])
    held_out = HeldOut(
        {m: np.concatenate(parts) for m, parts in tokens.items()},
        {m: np.concatenate(parts) for m, parts in labels.items()},
        paired=False,
        private={},
    )
    return replace(data, nodes=tuple(nodes), held_out=held_out, all_paired=None)


def tuned(adapter: str, setting: str, lr: float, seed: int) -> float:
    """Mean accuracy on rows set aside."""
    torch.set_num_threads(1)
    cell = Cell("adapters", setting, adapter, seed)
    config = config_of(cell)
    config = config.model_copy(update={"train": config.train.model_copy(update={"lr": lr})})
    data = set_aside(data_of(cell), seed)
    fed = solve(data, config, trained=lr > 0)
    scores = evaluate(data, {node.name: node.embed for node in fed.nodes}, fed.head)
    return float(np.mean([s.value for s in scores]))


app = typer.Typer(add_completion=False)


@app.command()
def tune(adapters: str = ",".join(ADAPTERS), rates: str = "0,1e-3,3e-3,1e-2,3e-2", seeds: int = 2) -> None:
    """Print accuracy by method and rate, mean over two settings and seeds from 100 on."""
    settings = ("digits-12 skewed", "tcga-brca-9 skewed")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for adapter in adapters.split(","):
            for lr in map(float, rates.split(",")):
                found = [
                    [pool.submit(tuned, adapter, setting, lr, seed) for seed in range(100, 100 + seeds)]
                    for setting in settings
                ]
                means = [float(np.mean([f.result() for f in futures])) for futures in found]
                print(f"{adapter:9} lr {lr:7g}: " + "  ".join(f"{m:.3f}" for m in means), flush=True)


@app.command()
def run(studies: list[str]) -> None:
    """Rows that are missing."""
    have = {(row.dataset, row.method, row.seed) for row in rewrite(PATH)} if PATH.exists() else set()
    left = [c for c in cells(studies) if (f"{c.study}:{c.setting}", c.rule, c.seed) not in have]
    start = time.monotonic()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run_cell, cell): cell for cell in left}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                append_lines(PATH, (json.dumps(asdict(row)) for row in future.result()))
                minutes = (time.monotonic() - start) / 60
                print(f"{done}/{len(left)} {minutes:.1f} min {futures[future]}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    rewrite(PATH)
    assert read_rows([PATH])


if __name__ == "__main__":
    app()
