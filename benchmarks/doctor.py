"""How often the doctor is right: related anchors accepted, unrelated ones refused, wrong ones named.

    python benchmarks/doctor.py

Appends rows to results/doctor.jsonl, skips those that are there, and prints progress; twenty minutes on one core.
Thresholds were set on seeds from 1000 on (docs/log.md); rows are of seeds from 0 on. One modality is hit, by turns:

- permuted P: P percent of its items change places among each other (0: as they are);
- noise: its items are Gaussian noise with the mean and spread of each column;
- other rows: its items, and its nodes' rows, are those of another data set.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch

from isogram.bench import Row, rewrite
from isogram.config import Config
from isogram.data import AnchorItems, FederatedData, load
from isogram.data.digits import Corpus, read, split
from isogram.doctor import Diagnosis, examine
from isogram.evaluation import evaluate
from isogram.federation import align
from isogram.files import append_lines

PATH = Path("results/doctor.jsonl")
SIZES = {"tcga-brca": (25, 50, 100, 200), "machines": (25, 50, 100, 200), "digits": (1, 2, 5, 20)}
UNRELATED = ("noise", "other rows")
PERMUTED = (0, 10, 20, 40)
SEEDS, SEEDS_PERMUTED, SEEDS_EVALUATED = 100, 30, 5
DONORS = {"tcga-brca": ("digits", "image"), "machines": ("digits", "speech"), "digits": ("machines", "vibration")}
"""Where other rows come from."""


@cache
def corpora() -> dict[str, Corpus]:
    """Digits as published, read once."""
    return read()


@lru_cache(maxsize=4)
def largest(name: str, seed: int) -> FederatedData:
    """The data set with all anchors that it has: smaller anchor sets are a part of it."""
    size = SIZES[name][-1]
    return split(corpora(), anchors=size, seed=seed) if name == "digits" else load(name, anchors=size, seed=seed)


def sized(name: str, anchors: int, seed: int) -> FederatedData:
    """As `load`, without reading files again."""
    if name == "digits":
        return split(corpora(), anchors=anchors, seed=seed)
    data = largest(name, seed)
    return replace(data, anchors=data.anchors.subset(np.arange(anchors)))


def spoil(data: FederatedData, name: str, hit: str, condition: str, seed: int) -> tuple[FederatedData, set[str]]:
    """The data under a condition, and the ids of the anchors whose item in modality `hit` is wrong."""
    rng, items, nodes = np.random.default_rng([seed, len(data.anchors)]), data.anchors.items[hit], data.nodes
    tokens, wrong = items.tokens.copy(), np.arange(len(items.tokens))
    if condition == "noise":
        tokens = (items.tokens.mean(0) + items.tokens.std(0) * rng.normal(size=tokens.shape)).astype(np.float32)
    elif condition == "other rows":
        source, modality = DONORS[name]
        donor = largest(source, seed)
        tokens = rng.permutation(donor.anchors.items[modality].tokens)[: len(tokens)]
        rows = next(node.tokens for node in donor.nodes if node.modality == modality)
        nodes = tuple(replace(n, tokens=rows, labels=None) if n.modality == hit else n for n in data.nodes)
    else:
        wrong = rng.permutation(wrong)[: round(int(condition.split()[1]) / 100 * len(tokens))]
        tokens[wrong] = tokens[np.roll(wrong, 1)]
    spoilt = {**data.anchors.items, hit: AnchorItems(items.index, tokens, items.quality)}
    return replace(data, nodes=nodes, anchors=replace(data.anchors, items=spoilt)), {data.anchors.ids[i] for i in wrong}


def figures(found: Diagnosis, hit: str, condition: str, wrong: set[str]) -> Iterator[tuple[str, str, float]]:
    """Metric, direction and value of what one diagnosis says, but for whether it refuses."""
    concerned = [pair for pair in found.pairs if hit in (pair.a, pair.b)]
    if condition in UNRELATED:
        yield "named", "", float(any(hit in finding.where for finding in found.refusals))
        for pair in concerned:
            yield "p", f"{pair.a}-{pair.b}", pair.p
    else:
        right = [s for s in found.suspects if s.anchor in wrong and hit in s.modality.split(" or ")]
        yield "auc", "", float(np.mean([pair.auc for pair in concerned]))
        yield "suspects", "", len(found.suspects)
        yield "suspects_right", "", len(right)
        yield "suspects_there", "", len(wrong)


def worth(data: FederatedData, config: Config) -> Iterator[tuple[str, str, float]]:
    """What one-shot alignment on these anchors gives on the true held-out rows."""
    fed = align(data, config)
    scores = evaluate(data, {node.name: node.embed for node in fed.nodes}, fed.head)
    metric, told = "r1" if data.held_out.paired else "accuracy", {node.modality for node in data.nodes if node.classes}
    # Labels reach a modality without any through the alignment alone.
    yield metric, "", float(np.mean([s.value for s in scores if s.metric == metric and s.direction not in told]))


def cells() -> Iterator[tuple[str, int, int, str]]:
    """Data set, seed, anchors and condition of all that is to be run."""
    for name, sizes in SIZES.items():
        for seed in range(SEEDS):
            for anchors in sizes:
                for condition in ("permuted 0", *UNRELATED):
                    yield name, seed, anchors, condition
                for percent in PERMUTED[1:]:
                    if seed < SEEDS_PERMUTED:
                        yield name, seed, anchors, f"permuted {percent}"


def main() -> None:
    """Run what is missing."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    # "refused" is the last row of a cell: with it the cell is complete.
    have = {(row.dataset, row.seed, row.anchors, row.method) for row in rewrite(PATH) if row.metric == "refused"}
    todo = [cell for cell in cells() if (f"doctor:{cell[0]}", *cell[1:]) not in have]
    for number, (name, seed, anchors, condition) in enumerate(todo, 1):
        data, config = sized(name, anchors, seed), Config(data=name, anchors=anchors, seed=seed)
        hit = data.modalities[seed % len(data.modalities)]
        data, wrong = spoil(data, name, hit, condition, seed)
        diagnosis = examine(data, config)
        found = list(figures(diagnosis, hit, condition, wrong))
        if condition not in UNRELATED and seed < SEEDS_EVALUATED:
            found += worth(data, config)
        found.append(("refused", "", float(bool(diagnosis.refusals))))
        rows = [Row(f"doctor:{name}", condition, anchors, seed, m, d, round(v, 6)) for m, d, v in found]
        append_lines(PATH, (json.dumps(asdict(row)) for row in rows))
        if number % 100 == 0 or number == len(todo):
            print(f"{number} of {len(todo)}: {name}, seed {seed}, {time.perf_counter() - start:.0f} s", flush=True)
    rewrite(PATH)


if __name__ == "__main__":
    main()
