"""Short runs on tables, and whether two of them left the same."""

import json
from importlib import import_module

from rich.console import Console

from isogram.bench import read_rows
from isogram.config_file import read_config
from isogram.progress import Watch
from isogram.run_folder import left

run_module = import_module("isogram.run")
QUIET = Watch(Console(quiet=True))
RELOADS = 'http-equiv="refresh"'
"""In the page of a run that goes on."""
SETTINGS = ["threads=1", "model.width=48", "model.layers=1", "train.rounds=6", "train.steps=2", "train.lr=0.01"]
SETTINGS += ["train.projector_lr=0.01", "train.frame_update=0.3"]


def settings(file, folder, *more):
    return read_config(file, [*SETTINGS, f"output.folder='{folder}'", *more])


def logs(folder):
    """The three logs, but for how long things took and hashes of what fresh keys mask; of what left twice, once."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    sent = [line | ({"sha256": ""} if line["masked"] else {}) for line in left(folder)]
    return (folder / "messages.jsonl").read_text(), [m for m in metrics if m["metric"] != "seconds"], sent


def egress(folder):
    """All lines of the log of what left."""
    return [json.loads(line) for line in (folder / "egress.jsonl").read_text().splitlines()]


def assert_same(folder, whole):
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert logs(folder) == logs(whole)
    last = "checkpoints/round-0006.safetensors"
    assert (folder / last).read_bytes() == (whole / last).read_bytes()
    scores = [[r for r in read_rows([f / "results.jsonl"]) if r.metric != "seconds"] for f in (folder, whole)]
    assert scores[0] == scores[1]


class Stopping(Watch):
    """Stops a run in its third round, after some of the nodes."""

    def tick(self, tick):
        if tick.round == 3 and tick.node == "north" and tick.terms:
            raise KeyboardInterrupt
