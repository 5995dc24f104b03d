"""What the correction for hubs is worth in search, against which points; and what a search costs.

    python benchmarks/search.py tune      # which points, how many neighbours; prints, on seeds from 100 on
    python benchmarks/search.py run       # R@1 and R@10 on held-out rows, to results/search.jsonl
    python benchmarks/search.py speed     # 100,000 items x 96 coordinates: seconds and memory, to the same file

A score is twice the cosine less an item's mean cosine with its nearest points, which are: `anchors`, the public ones'
places in the frame (what `Bank` has); `own`, the private rows of the node that holds the items; `query`, those of the
node that asks; `items`, the items themselves. Alignment is `closed-form`. Minutes, in one process of one thread; on
pictures a minute a seed.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
import typer

from isogram import data as sets
from isogram.bench import Row, replace_rows
from isogram.config import Config
from isogram.data import evaluation, load
from isogram.data.base import FloatArray
from isogram.federation import align
from isogram.inference.bank import NEIGHBOURS, hubness, unit

PATH = Path("results/search.jsonl")
SEEDS = range(5)
SETS = (("tcga-brca", 50), ("tcga-brca", 100), ("tcga-brca", 200), ("machines", 100), ("pictures", 200))
TUNED = (("tcga-brca-tuning", 50), ("tcga-brca-tuning", 100), ("pictures-tuning", 100))
TRIED = (3, 5, 10, 20)
POINTS = ("anchors", "own", "query", "items")
ITEMS, COORDINATES, QUERIES = 100_000, 96, 50

Coordinates = Mapping[str, FloatArray]


def directions(name: str, anchors: int, seed: int) -> Iterator[tuple[FloatArray, FloatArray, dict[str, FloatArray]]]:
    """For every two nodes of different modality: queries [n, r], items [n, r] that answer them, points by name."""
    torch.set_num_threads(1)
    data = load(name, anchors=anchors, seed=seed)
    fed = align(data, Config(data=name.removesuffix("-tuning"), anchors=anchors, seed=seed))
    assert fed.frame is not None
    frame = fed.frame.numpy()
    with evaluation():
        held = {n.name: n.embed(data.held_out.tokens(n.modality, n.name)).numpy() for n in fed.nodes}
    private = {n.name: n.embed(n.data.tokens).numpy() for n in fed.nodes}
    for a, b in permutations(fed.nodes, 2):
        if a.modality != b.modality:
            items = held[b.name]
            points = {"anchors": frame, "own": private[b.name], "query": private[a.name], "items": items}
            yield held[a.name], items, points


def recalls(queries: FloatArray, items: FloatArray, points: FloatArray | None, neighbours: int) -> tuple[float, float]:
    """R@1 and R@10, hubs corrected by `points` or not at all. Ties count against."""
    score = 2 * unit(queries) @ unit(items).T
    if points is items:  # none is its own neighbour
        own = unit(items) @ unit(items).T
        np.fill_diagonal(own, -np.inf)
        score = score - np.sort(own, 1)[:, ::-1][:, :neighbours].mean(1)
    elif points is not None:
        score = score - hubness(items, points, neighbours)
    rank = (score >= score.diagonal()[:, None]).sum(1) - 1
    return float((rank < 1).mean()), float((rank < 10).mean())


app = typer.Typer(add_completion=False)


@app.command()
def tune(seeds: int = 5) -> None:
    """Print gains over the cosine."""
    for name, anchors in TUNED:
        if not sets.is_here(name):
            continue
        found: dict[str, list[tuple[float, float]]] = {}
        for seed in range(100, 100 + seeds):
            for queries, items, points in directions(name, anchors, seed):
                found.setdefault("cosine", []).append(recalls(queries, items, None, 1))
                for which in POINTS:
                    for k in TRIED:
                        found.setdefault(f"{which} {k}", []).append(recalls(queries, items, points[which], k))
        means = {key: np.mean(values, 0) for key, values in found.items()}
        print(f"{name} K = {anchors}: cosine R@1 {means['cosine'][0]:.4f} R@10 {means['cosine'][1]:.4f}")
        for key, mean in means.items():
            print(f"  {key:10s} {mean[0] - means['cosine'][0]:+.4f} {mean[1] - means['cosine'][1]:+.4f}", flush=True)


@app.command()
def run() -> None:
    """Rows of each set that is here: means over all directions."""
    for name, anchors in SETS:
        for seed in SEEDS if sets.is_here(name) else ():
            found: dict[str, list[tuple[float, float]]] = {}
            for queries, items, points in directions(name, anchors, seed):
                for which in ("cosine", *POINTS):
                    values = recalls(queries, items, points.get(which), NEIGHBOURS)
                    found.setdefault(which, []).append(values)
            rows = [
                Row(f"search:{name}", which, anchors, seed, metric, "", round(float(value), 6))
                for which, values in found.items()
                for metric, value in zip(("r1", "r10"), np.mean(values, 0), strict=True)
            ]
            replace_rows(PATH, rows)
            print(name, anchors, seed, {which: np.round(np.mean(v, 0), 3).tolist() for which, v in found.items()})


MEASURED = """
import json, resource, sys, time
import numpy as np
from isogram.inference import Bank
start = time.perf_counter()
bank = Bank.load(sys.argv[1])
queries = np.random.default_rng(1).normal(size=(int(sys.argv[2]), bank.coordinates.shape[1]))
bank.search(queries[0])
loaded, seconds = time.perf_counter() - start, []
for query in queries:
    start = time.perf_counter()
    hits = [bank[hit.position] for hit in bank.search(query)]
    seconds.append(time.perf_counter() - start)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"load": loaded, "median": float(np.median(seconds)), "most": max(seconds), "megabytes": memory}))
"""


@app.command()
def speed() -> None:
    """A process of its own reads a bank and searches it; most memory it ever had, and seconds a query."""
    import pyarrow as pa

    from isogram.inference import Bank

    draw = np.random.default_rng(0)
    coordinates = draw.normal(size=(ITEMS, COORDINATES)).astype(np.float32)
    names = [f"photos/item-{i}.png" for i in range(ITEMS)]
    texts = pa.table({"id": names, "where": names, "path": names, "text": [""] * ITEMS, "label": ["some"] * ITEMS})
    start = time.perf_counter()
    hubs = hubness(coordinates, coordinates[:200])
    built = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.parquet"
        Bank(coordinates, hubs, texts, {"model": "none"}).save(path)
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(path), str(QUERIES)], capture_output=True, text=True, check=True
        )
    found = {"hubness": built, **json.loads(done.stdout)}
    rows = [Row("search:speed", "bank", ITEMS, 0, key, "", round(value, 6)) for key, value in found.items()]
    replace_rows(PATH, rows)
    print(found)


if __name__ == "__main__":
    app()
