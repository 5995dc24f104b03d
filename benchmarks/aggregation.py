"""What a precision-weighted average costs next to a plain sum: bandwidth and memory, for updates that stream by.

    python benchmarks/aggregation.py

50 updates, each half values and half precisions, of tensors as the adapter of a layer of 8192 outputs has them at rank
8. The average checks an update's values as a round does (`validation`) and adds it (`WeightedSum`); the plain sum is
numpy's `acc += x` over the same bytes as one array. One thread; medians of interleaved repetitions.

- 50x10MB, 50x20MB: updates are read one after the other from files (in the page cache) into one buffer, both timed with
  the reading;
- 50x10MB-memory: reading is left out, five buffers take turns: larger together than the cache of most machines.

bandwidth_ratio is the plain sum's time over the average's. peak_updates is the growth of a fresh process' memory at its
peak, the buffer of the update in hand included, in updates. Rows of the data set "perf" go to results/perf.jsonl (they
replace older ones). Under a minute.
"""

import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
import typer

from isogram.averaging import WeightedSum
from isogram.bench import Row, replace_rows
from isogram.config import AverageConfig
from isogram.messages import Up
from isogram.soundness import Bounds
from isogram.validation import KINDS

PATH = Path("results/perf.jsonl")
NODES, LAYER, MODEL = 50, (8192, 8), "benchmark, rank 8"
NUMBERS = LAYER[0] * LAYER[1]
CONFIG = AverageConfig(rule="parameter")
CHECKS, BOUNDS = KINDS[Up]["update"].groups, Bounds(rho=0.1, power=2.0, n_anchors=4, places=4)


def random_update(megabytes: int, seed: int) -> np.ndarray:
    """Values of all layers, then as many precisions: squares of Gaussians, of which the clip bounds some."""
    layers = round(megabytes * 1e6 / (2 * 4 * NUMBERS))
    numbers = np.random.default_rng(seed).standard_normal(2 * layers * NUMBERS, dtype=np.float32)
    numbers[layers * NUMBERS :] **= 2
    return numbers


def as_update(buffer: np.ndarray, node: int) -> Up:
    """An update whose tensors are parts of the buffer."""
    tensors = torch.from_numpy(buffer).view(2, -1, *LAYER)
    adapters, precision = ({f"layer{n}.B": part for n, part in enumerate(half)} for half in tensors)
    return Up(
        node=f"node{node:02}",
        modality="any",
        round=2,
        anchor_hash="0" * 64,
        samples=100,
        model=MODEL,
        adapters=adapters,
        precision=precision,
    )


def from_files(paths: list[Path]) -> Iterator[np.ndarray]:
    """The files' numbers, one after the other in one buffer."""
    buffer = np.empty(paths[0].stat().st_size // 4, np.float32)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            file.readinto(buffer.data)
        yield buffer


def zeros(size: int) -> dict[str, torch.Tensor]:
    """The adapters before the round, which a server has anyhow."""
    return {f"layer{n}.B": torch.zeros(LAYER) for n in range(size // (2 * NUMBERS))}


def average(buffers: Iterator[np.ndarray], previous: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a server does with a round's updates."""
    sums = WeightedSum(previous, CONFIG)
    for node, buffer in enumerate(buffers):
        update = as_update(buffer, node)
        for name, value in update.arrays():
            assert CHECKS[name.partition("/")[0]](value, BOUNDS) is None
        sums.add(update, 1 / NODES)
    return sums.result()[0]


def plain_sum(buffers: Iterator[np.ndarray], previous: dict[str, torch.Tensor]) -> np.ndarray:
    """The same bytes, added up."""
    total = np.zeros(2 * NUMBERS * len(previous), np.float32)
    for buffer in buffers:
        total += buffer
    return total


def seconds(buffers: Iterable[np.ndarray], size: int, repetition: int) -> tuple[float, float]:
    """Of a plain sum and an average; who goes first alternates."""
    found, previous = {}, zeros(size)
    for function in (plain_sum, average) if repetition % 2 else (average, plain_sum):
        start = time.perf_counter()
        function(iter(buffers), previous)
        found[function] = time.perf_counter() - start
    return found[plain_sum], found[average]


class Streamed:
    """Buffers from files anew on each iteration."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __iter__(self) -> Iterator[np.ndarray]:
        return from_files(self.paths)


def report(buffers: Iterable[np.ndarray], size: int, name: str, repetitions: int) -> Row:
    """The ratio of medians, printed with the bandwidths."""
    taken = [seconds(buffers, size, repetition) for repetition in range(repetitions + 1)][1:]
    plain, ours = (median(column) for column in zip(*taken, strict=True))
    gigabytes = NODES * 4 * size / 1e9
    print(
        f"{name:16} plain sum {gigabytes / plain:5.1f} GB/s, average {gigabytes / ours:5.1f} GB/s: {plain / ours:.2f}"
    )
    return perf("bandwidth_ratio", name, plain / ours)


def peak(folder: Path) -> float:
    """Growth of this process' memory while it averages the files in a folder, at its peak, in updates (Linux)."""
    paths = sorted(folder.iterdir())
    size = paths[0].stat().st_size
    small = random_update(1, 0)
    average(iter([small]), zeros(small.size))  # what a first call loads is no part of an average
    previous = zeros(size // 4)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew here
    average(from_files(paths), previous)
    return (_memory("VmHWM") - before) / size


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def perf(metric: str, direction: str, value: float) -> Row:
    """A row of the data set "perf"."""
    return Row("perf", "aggregation", 0, 0, metric, direction, round(value, 4))


def main(repetitions: int = 21, peak_of: str = "") -> None:
    """Measure, print, and put the rows in the place of older ones. peak_of: used inside, for a process of its own."""
    torch.set_num_threads(1)
    if peak_of:
        print(peak(Path(peak_of)))
        return
    rows = []
    for megabytes in (10, 20):
        name = f"{NODES}x{megabytes}MB"
        with TemporaryDirectory() as folder:
            for node in range(NODES):
                random_update(megabytes, node).tofile(Path(folder) / f"{node:02}")
            size = random_update(megabytes, 0).size
            rows.append(report(Streamed(sorted(Path(folder).iterdir())), size, name, repetitions))
            command = [sys.executable, __file__, "--peak-of", folder]
            found = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(f"{name:16} peak memory {found:.2f} updates, the one in hand included")
            rows.append(perf("peak_updates", name, found))
        if megabytes == 10:
            few = [random_update(megabytes, seed) for seed in range(5)]
            rows.append(report([few[n % 5] for n in range(NODES)], size, f"{name}-memory", repetitions))
    replace_rows(PATH, rows)


if __name__ == "__main__":
    typer.run(main)
