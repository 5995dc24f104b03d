"""Many nodes in one process: seconds and memory of 10, 100 and 1,000 nodes, alignment and three rounds.

    python benchmarks/nodes.py            # to results/nodes.jsonl; twenty minutes, in one thread

Each node has 30 rows of `digits`, drawn from those of its modality, and the rounds of the default. Every size runs in a
process of its own, so that memory is its own; the smaller ones go first. Processor seconds are those of a machine that
has other work too.
"""

import json
import subprocess
import sys
from pathlib import Path

import typer

from isogram.bench import Row, replace_rows

PATH = Path("results/nodes.jsonl")
SIZES = (10, 100, 1000)
ROWS, ROUNDS, ANCHORS = 30, 3, 5

MEASURED = """
import json, resource, sys, time
from dataclasses import replace
import numpy as np
import torch
from isogram import federation
from isogram.config import Config, TrainConfig
from isogram.data import load
torch.set_num_threads(1)
count, rows, rounds, anchors = map(int, sys.argv[1:])
data = load("digits", anchors=anchors, seed=0)
draw = np.random.default_rng(0)
nodes = []
for number in range(count):
    whole = data.nodes[number % len(data.nodes)]
    some = draw.choice(len(whole.tokens), rows, replace=False)
    labels = None if whole.labels is None else whole.labels[some]
    nodes.append(replace(whole, name=f"{whole.name}-{number:04d}", tokens=whole.tokens[some], labels=labels))
data = replace(data, nodes=tuple(nodes))
config = Config(data="digits", anchors=anchors, train=TrainConfig(rounds=rounds))
start, worked = time.perf_counter(), time.process_time()
fed = federation.align(data, config)
aligned = time.perf_counter() - start
fed = federation.train(fed)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
seconds, processor = time.perf_counter() - start, time.process_time() - worked
print(json.dumps({"align": aligned, "seconds": seconds, "processor_seconds": processor, "megabytes": memory}))
"""


def main(sizes: list[int] = typer.Option(SIZES, help="Numbers of nodes.")) -> None:  # noqa: B008
    """Rows of each size: seconds of the alignment, of all, and most memory the process ever had."""
    for size in sizes:
        command = [sys.executable, "-c", MEASURED, *map(str, (size, ROWS, ROUNDS, ANCHORS))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        replace_rows(PATH, [Row("nodes", "federation", size, 0, key, "", round(v, 3)) for key, v in found.items()])
        print(
            f"{size} nodes: {found['align']:.1f} s to align, {found['seconds']:.1f} s in all "
            f"({found['seconds'] / size:.3f} a node, {found['processor_seconds'] / size:.3f} of the processor's), "
            f"{found['megabytes']:.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
