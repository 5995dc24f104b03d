"""What a secure sum costs: bytes and seconds of a node and of the server, next to the same numbers sent bare.

    python benchmarks/secure_sum.py

2.6 million numbers (10 MB of float32) at each of 9 nodes: once with all of them, once with two that are lost after they
have shared, and one more after it has sent its values. Bare: float32 written to bytes, and read and added by the server
in float64. One thread, seconds of the processor, medians over nodes and repetitions. Bytes are of all four phases,
without the framing of messages, which bare numbers have, too.

- bytes_ratio: bytes that a node sends over those of its numbers bare; bytes_down: what comes to it, the sum aside.
- node_seconds: packing, masks, shares, keys; server_seconds: adding, and all masks that it takes off; bare both.
- round_share: node and server one after the other, over a round of 5 seconds.

Rows of the data set "perf" go to results/secure_sum.jsonl (they replace older ones). A minute.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
import typer

from isogram.bench import Row, replace_rows
from isogram.secure_sum import Collector, Party, pack, scale_for, unpack

PATH = Path("results/secure_sum.jsonl")
NODES, SIZE, ROUND = 9, 2_600_000, 5.0

T = TypeVar("T")


class Clock:
    """Seconds of the processor by who spends them."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def __call__(self, who: str, do: Callable[[], T]) -> T:
        """What `do` returns; its time goes to `who`."""
        start = time.process_time()
        found = do()
        self.spent[who] = self.spent.get(who, 0.0) + time.process_time() - start
        return found


def secure(values: dict[str, torch.Tensor], lost: set[str], late: set[str]) -> tuple[Clock, dict[str, int], float]:
    """One sum; seconds, bytes by direction of a node that stays, and the mean's largest error over the largest value.

    lost: after phase 1. late: after phase 2.
    """
    clock, n = Clock(), len(values)
    scales = {"x": scale_for(8.0, n)}
    parties = {name: clock(name, lambda name=name: Party(name, "benchmark")) for name in values}
    keys = {name: clock(name, party.advertise) for name, party in parties.items()}
    collector = clock("server", lambda: Collector("benchmark", keys))
    threshold = collector.roster.threshold
    sent = {name: clock(name, lambda p=party: p.share(keys, threshold)) for name, party in parties.items()}
    parcels = clock("server", lambda: collector.route(sent))
    up = down = 0
    for name in values:
        if name in lost:
            continue
        vector = clock(name, lambda name=name: pack({"x": values[name]}, scales, n))
        masked = clock(name, lambda name=name, vector=vector: parties[name].masked(vector, parcels[name]))
        up = masked.nbytes
        clock("server", lambda name=name, masked=masked: collector.add(name, masked))
    survivors = clock("server", collector.close)
    revealed = {
        name: clock(name, lambda name=name: parties[name].unmask(survivors)) for name in survivors if name not in late
    }
    total = clock("server", lambda: collector.total(revealed))
    found = clock("server", lambda: unpack(total, {"x": (SIZE,)}, scales)["x"]) / len(survivors)
    exact = torch.stack([values[name].double() for name in survivors]).mean(0)
    one = next(iter(revealed))
    up += len(keys[one]) + sum(map(len, sent[one].values())) + sum(map(len, revealed[one].values()))
    down += sum(map(len, keys.values())) + sum(map(len, parcels[one].values())) + n  # a flag for each of who is left
    return clock, {"up": up, "down": down}, float((found - exact).abs().max() / exact.abs().max())


def bare(values: dict[str, torch.Tensor]) -> Clock:
    """The same mean of numbers that are sent as they are."""
    clock, total = Clock(), np.zeros(SIZE)
    for name, value in values.items():
        blob = clock(name, lambda value=value: value.numpy().tobytes())
        clock("server", lambda blob=blob: np.add(total, np.frombuffer(blob, dtype=np.float32), out=total))
    return clock


def main(repetitions: int = 5) -> None:
    """Measure, print, and put the rows in the place of older ones."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    values = {f"node{n}": torch.randn(SIZE, generator=generator).clamp(-8, 8) for n in range(NODES)}
    rows: list[Row] = []

    def row(metric: str, direction: str, value: float) -> None:
        rows.append(Row("perf", "secure sum", 0, 0, metric, direction, float(f"{value:.5g}")))
        print(f"{direction:24} {metric:16} {rows[-1].value:g}")

    plain = [bare(values) for _ in range(repetitions + 1)][1:]
    row("node_seconds", "bare", median(clock.spent[name] for clock in plain for name in values))
    row("server_seconds", "bare", median(clock.spent["server"] for clock in plain))
    for direction, lost, late in (("9 nodes", set(), set()), ("9 nodes, 3 lost", {"node1", "node6"}, {"node4"})):
        runs = [secure(values, lost, late) for _ in range(repetitions + 1)][1:]
        there = [name for name in values if name not in lost | late]
        node = median(clock.spent[name] for clock, _, _ in runs for name in there)
        server = median(clock.spent["server"] for clock, _, _ in runs)
        sizes = runs[0][1]
        row("bytes_ratio", direction, sizes["up"] / (4 * SIZE))
        row("bytes_down", direction, sizes["down"])
        row("node_seconds", direction, node)
        row("server_seconds", direction, server)
        row("round_share", direction, (node + server) / ROUND)
        row("mean_error", direction, max(error for _, _, error in runs))
    replace_rows(PATH, rows)


if __name__ == "__main__":
    typer.run(main)
