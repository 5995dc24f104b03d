"""What the public anchors are worth: how many, and what missing, wrong, synthetic or one-sided ones cost.

    python benchmarks/anchors.py tune                  # weights from the Grams; prints, for docs/log.md
    python benchmarks/anchors.py run [STUDY ...]       # rows of the studies, to results/anchors.jsonl
    python benchmarks/anchors.py run --trained [STUDY] # the same of the trained model, at some of the points

Studies (a row's data set is "SOURCE:SETTING", K real anchors at first: 100 on tcga-brca and pictures, 5 a digit):

- count: K = 25, 50, 100, 200. On tcga-brca weights from the Grams alone: other methods are in results/tcga-brca.jsonl.
  On pictures K = 100 is "wrong 0%".
- missing: each modality lacks a share of the anchors, drawn for itself.
- wrong: a share of each modality's items, or of RNA's alone, exchanged among themselves; "told": their quality is
  declared, the best that weights from the Grams can come to.
- synthetic: as many as a share of the real ones, made from these alone, added or instead; "at .3": their quality as
  declared; "dropped": real ones left out and nothing instead. On pictures they are other pictures, recordings and
  words of the same concepts, instead of the real items, in speech alone too, or beside them as anchors of their own.
- uncovered: no anchor of a PAM50 subtype, or of some digits; "random": as many left out at random.

`closed-form` is the product's own, with its choice by left-out anchors; the other methods do without (`plain`). Rows
that are there are skipped; cells run in one process of one thread. An hour.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import typer

from isogram import data as sets
from isogram import methods
from isogram.bench import Row, read_rows, rewrite
from isogram.config import AlignConfig, Config
from isogram.data import FederatedData, anchors, digits, evaluation, load, tcga
from isogram.data.base import IntArray
from isogram.data.distort import generator
from isogram.data.pictures import variant_items
from isogram.evaluation import classify, evaluate, ranks
from isogram.files import append_lines

PATH = Path("results/anchors.jsonl")
SEEDS, FEWER = range(10), range(5)
"""FEWER: of what trains, and of points that matter less; see `seeds`."""

KNOWN = {"tcga-brca": 100, "digits": 5, "pictures": 100}
"""Source -> K."""

STUDIES = ("count", "missing", "wrong", "synthetic", "uncovered")
METHODS = ("no-message", "relative", "oneshot", "oneshot-hsic", "robust", "closed-form", "closed-form robust")
COUNTED = {"tcga-brca": ("robust", "closed-form robust"), "pictures": METHODS}
"""Source -> methods of the study "count"."""

COUNTS = (25, 50, 100, 200)
SPARED: dict[str, tuple[str, ...]] = {"tcga-brca": (), "digits": (), "pictures": ("relative",)}
TRAINED = ("isogram", "isogram robust")
TRAINED_AT = ("wrong 0%", "missing 30%", "wrong 10%", "wrong 20%", "added 100%", "replaced 50%", "uncovered Basal")
LEFT_OUT = {"tcga-brca": ("r10", "cka"), "digits": (), "pictures": ("r1", "cka")}
"""Figures that no table shows: they would double the file."""

LOW = 0.3
"""Quality of synthetic items where it is declared."""


@dataclass(frozen=True)
class Cell:
    """One method on one changed anchor set."""

    source: str
    setting: str
    method: str
    anchors: int
    seed: int


@dataclass(frozen=True)
class Changed:
    """The federation of a cell. gone: kinds of rows without anchors; kinds: of the held-out rows, None if not asked."""

    data: FederatedData
    gone: frozenset[int] = frozenset()


def settings(source: str, study: str) -> list[str]:
    """Names of a study's points."""
    if study == "count":
        return ["count"] if source in COUNTED else []
    if study == "missing":
        return [f"missing {share}%" for share in ((10, 30, 50) if source == "pictures" else (10, 20, 30, 40, 50))]
    if study == "wrong":
        wrong = [f"wrong {share}%" for share in (0, 5, 10, 20, 30, 40) if (source, share) != ("pictures", 5)]
        return wrong + ([f"wrong {share}% in RNA" for share in (10, 20, 40)] if source == "tcga-brca" else [])
    if study == "synthetic" and source != "digits":
        shares = (50, 100, 200) if source == "tcga-brca" else (100,)  # of a real item there is one variant
        added = [f"added {share}%{way}" for share in shares for way in ("", f" at {LOW}")]
        instead = [f"{how} {share}%" for share in (25, 50, 75) for how in ("replaced", "dropped")]
        spoken = [f"replaced {share}% in speech" for share in (25, 50, 75)] * (source == "pictures")
        return added + instead + [f"replaced {share}% at {LOW}" for share in (25, 50, 75)] + spoken
    if study == "uncovered" and source == "tcga-brca":
        return [f"{how} {name}" for name in tcga.SUBTYPES for how in ("uncovered", "random")]
    if study == "uncovered" and source == "digits":
        return [f"{how} {number}" for number in (1, 2, 3, 4, 5) for how in ("uncovered", "random")]
    return []


def seeds(source: str, study: str, setting: str, method: str) -> range:
    """Of a cell: all for what is cheap or what a recommendation rests on."""
    if source == "pictures":
        least = study in ("missing", "count") or not setting.startswith(("wrong", "dropped", "replaced"))
        return FEWER if least or setting.endswith("in speech") or f"at {LOW}" in setting else SEEDS
    if method.startswith("closed-form"):
        least = source == "digits" or study in ("missing", "synthetic", "uncovered")
        return FEWER if least else SEEDS
    return FEWER if method in TRAINED else SEEDS


def cells(sources: Sequence[str], studies: Sequence[str], *, trained: bool) -> Iterator[Cell]:
    """All of the studies asked for, seed by seed, so that an interrupted run has whole comparisons."""
    for seed in SEEDS:
        for source in sources:
            for study in studies:
                for setting in settings(source, study):
                    if trained and (setting not in TRAINED_AT or source == "pictures"):
                        continue
                    names: tuple[str, ...] = TRAINED if trained else METHODS
                    if study == "wrong" and not trained and setting != "wrong 0%":
                        names += ("told",)
                    if study == "count":
                        names = COUNTED[source]
                    counts = [k for k in COUNTS if (source, k) != ("pictures", 100)]
                    for k in counts if study == "count" else (KNOWN[source],):
                        for method in names:
                            if seed in seeds(source, study, setting, method) and method not in SPARED[source]:
                                yield Cell(source, setting, method, k, seed)


@lru_cache(maxsize=8)
def loaded(source: str, k: int, seed: int) -> FederatedData:
    """A federation as it is."""
    return load(source, anchors=k, seed=seed)


@lru_cache(maxsize=1)
def anchor_digits(k: int, seed: int) -> IntArray:
    """Classes of the digits' anchors."""
    return digits.anchor_digits(anchors=k, seed=seed)


def changed(cell: Cell) -> Changed:
    """The federation of a cell."""
    word, *rest = cell.setting.split()
    data = loaded(cell.source, cell.anchors, cell.seed)
    if word == "count":
        return Changed(data)
    if word in ("uncovered", "random"):
        return _without(cell, data, word == "random", rest[0])
    share = float(rest[0].rstrip("%")) / 100
    quality = float(rest[2]) if rest[1:2] == ["at"] else 1.0
    if word == "missing":
        return Changed(anchors.missing(data, share, cell.seed))
    if word == "wrong":
        data, positions = anchors.wrong(data, share, cell.seed, ("rna",) if rest[1:] else None)
        return Changed(anchors.declare(data, positions, 1e-3) if cell.method == "told" else data)
    if word == "dropped":
        return Changed(data.subset_anchors(np.sort(_order(cell)[round(share * cell.anchors) :])))
    if cell.source == "pictures":
        some = np.sort(_order(cell)[: round(share * cell.anchors)])
        variants = variant_items(cell.seed, cell.anchors)
        if rest[1:2] == ["in"]:
            variants = {m: items for m, items in variants.items() if m.startswith(rest[2])}
        return Changed(anchors.varied(data, variants, some, quality, added=word == "added"))
    return Changed(anchors.synthetic(data, share, cell.seed, quality, instead=word == "replaced"))


def _order(cell: Cell) -> IntArray:
    """In which anchors are left out: that of `anchors.synthetic`, so that the same real ones stay."""
    return generator(cell.seed, "synthetic").permutation(cell.anchors)


def _without(cell: Cell, data: FederatedData, random: bool, name: str) -> Changed:
    if cell.source == "digits":
        kinds = anchor_digits(cell.anchors, cell.seed)
        gone = frozenset(np.random.default_rng([cell.seed, 4]).permutation(10)[: int(name)].tolist())
    else:
        kinds, gone = tcga.subtypes(data.anchors.ids), frozenset({tcga.SUBTYPES.index(name)})
    if not random:
        return Changed(anchors.uncovered(data, kinds, gone), gone)
    n = int(np.isin(kinds, list(gone)).sum())
    kept = np.sort(np.random.default_rng([cell.seed, 5]).permutation(len(kinds))[n:])
    return Changed(data.subset_anchors(kept), gone)


def apart(solution: methods.Solution, data: FederatedData, gone: frozenset[int]) -> list[tuple[str, str, float]]:
    """R@1, mean over directions, or accuracy by modality, on held-out rows that no anchor covers and on the others."""
    found = []
    with evaluation():
        rows = {n.name: solution.embed[n.name](data.held_out.tokens(n.modality, n.name)) for n in data.nodes}
        labels: dict[str, IntArray] = {m: data.held_out.labels(m) for m in data.held_out.labelled}
    for side in ("uncovered", "covered"):
        values: dict[tuple[str, str], list[float]] = {}
        for a in data.nodes:
            within = np.isin(labels[a.modality], list(gone)) == (side == "uncovered")
            if data.held_out.paired:
                for b in data.nodes:
                    if b.modality != a.modality:
                        hits = (ranks(rows[a.name], rows[b.name]) < 1).numpy()
                        if within.any():
                            values.setdefault(("r1", ""), []).append(hits[within].mean())
            elif solution.head is not None:
                hits = classify(rows[a.name], solution.head).numpy() == labels[a.modality]
                values.setdefault(("accuracy", a.modality), []).append(hits[within].mean())
        found += [(f"{metric}-{side}", direction, float(np.mean(v))) for (metric, direction), v in values.items()]
    return found


def config_of(cell: Cell) -> Config:
    """Settings of a cell's method: the defaults, and weights from the Grams for "robust"."""
    align = AlignConfig(robust="robust" in cell.method)
    config = Config(data=cell.source, anchors=cell.anchors, seed=cell.seed, align=align)
    return config if cell.method.startswith("closed-form") else methods.plain(config)


def run_cell(cell: Cell) -> list[Row]:
    """Figures on held-out rows, bytes a node sent, seconds."""
    torch.set_num_threads(1)
    at, config = changed(cell), config_of(cell)
    start = time.perf_counter()
    known = {"robust": "oneshot-hsic", "told": "oneshot-hsic"}
    solution = methods.solve(known.get(cell.method, cell.method.removesuffix(" robust")), at.data, config)
    seconds = time.perf_counter() - start
    scores = evaluate(at.data, solution.embed, solution.head)
    figures = [(s.metric, s.direction, s.value) for s in scores if s.metric not in LEFT_OUT[cell.source]]
    if at.gone:
        figures += apart(solution, at.data, at.gone)
    figures += [("bytes_per_node", "", solution.bytes_per_node), ("seconds", "", seconds)]
    name = f"{cell.source}:{cell.setting}"
    return [Row(name, cell.method, cell.anchors, cell.seed, m, d, round(v, 6)) for m, d, v in figures]


app = typer.Typer(add_completion=False)


@app.command()
def tune(seeds: int = 6) -> None:
    """Print what weights from the Grams gain, by the prior's strength and the power, on seeds from 100 on."""
    from isogram.alignment import quality

    for source, k, metric in (
        ("tcga-brca-tuning", 100, "r1"),
        ("tcga-brca-tuning", 50, "r1"),
        ("digits", 5, "accuracy"),
    ):
        for share in (0, 0.1, 0.2, 0.3):
            line = []
            for strength, power in ((None, 0), (1, 2), (20, 2), (50, 1), (50, 2), (50, 4), (200, 2)):
                if strength:
                    quality.STRENGTH, quality.POWER = float(strength), power
                values = []
                for seed in range(100, 100 + seeds):
                    data, _ = anchors.wrong(load(source, anchors=k, seed=seed), share, seed)
                    config = methods.plain(Config(seed=seed, align=AlignConfig(robust=strength is not None)))
                    found = methods.solve("oneshot-hsic", data, config)
                    scores = evaluate(data, found.embed, found.head)
                    values.append(np.mean([s.value for s in scores if s.metric == metric]))
                line.append(f"{'no weights' if strength is None else f'{strength}^{power}'} {np.mean(values):.3f}")
            print(f"{source} K = {k}, {share:.0%} wrong: " + ", ".join(line), flush=True)


@app.command()
def run(
    studies: list[str] = typer.Argument(None),  # noqa: B008
    source: str = "",
    trained: bool = False,
) -> None:
    """Rows that are missing, of one source or of all that are here."""
    sources = [name for name in KNOWN if source in ("", name) and sets.is_here(name)]
    have = {(row.dataset, row.method, row.anchors, row.seed) for row in rewrite(PATH)} if PATH.exists() else set()
    wanted = cells(sources, studies or STUDIES, trained=trained)
    left = [c for c in wanted if (f"{c.source}:{c.setting}", c.method, c.anchors, c.seed) not in have]
    start = time.monotonic()
    for done, cell in enumerate(left, 1):
        append_lines(PATH, (json.dumps(vars(row)) for row in run_cell(cell)))
        print(f"{done}/{len(left)} {(time.monotonic() - start) / 60:.1f} min {cell}", flush=True)
    rewrite(PATH)
    assert read_rows([PATH])


if __name__ == "__main__":
    app()
