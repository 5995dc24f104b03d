"""The main job on one split, watched: data, one-shot alignment, federated rounds, evaluation, table."""

import torch
from rich.console import Console

from isogram import bench
from isogram.config import FILES, SILOS, Config
from isogram.data import FederatedData, open_data
from isogram.errors import ConfigError
from isogram.evaluation import scope
from isogram.federation import Tick
from isogram.methods import RECIPES, Recipe, Solution, allowed
from isogram.progress import Steps
from isogram.report.terminal import summary

STEPS = ("fetch data", "one-shot alignment", "federated rounds", "evaluation")


def run_demo(config: Config, console: Console, progress: Console) -> list[bench.Row]:
    """Every method that the data set allows, side by side; prints the table of held-out rows to `console`.

    Raises:
        DataError: the data cannot be had.
        ConfigError, AnchorError: settings that do not fit the data.
    """
    if config.data in (FILES, SILOS):
        raise ConfigError("the demo compares methods on a built-in set; for your own data: isogram run")
    torch.set_num_threads(config.threads)
    with Steps(progress, STEPS) as steps:
        steps.begin(STEPS[0], 1, "reading; the first time it is downloaded, about a minute")
        data = open_data(config)
        rows = sum(len(node.tokens) for node in data.nodes)
        steps.advance("")
        steps.end(f"{len(data.nodes)} nodes, {rows} private rows, {len(data.anchors)} public anchors")
        recipes = allowed(data)
        found = _aligned([r for r in recipes if not r.trained], data, config, steps)
        found += _trained([r for r in recipes if r.trained], data, config, steps)
        found.sort(key=lambda pair: [name for r in RECIPES for name in r.names].index(pair[0].method))
        scored = _scored(found, data, config, steps)
    title = f"{config.data}, {len(data.anchors)} public anchors, seed {config.seed}"
    console.print(summary(scored, scope(data), title, _notes(data, [solution for solution, _ in found])))
    return scored


def _aligned(recipes: list[Recipe], data: FederatedData, config: Config, steps: Steps) -> list[tuple[Solution, float]]:
    found: list[tuple[Solution, float]] = []
    steps.begin(STEPS[1], len(recipes))
    for recipe in recipes:
        found += bench.solutions(recipe, data, config, None)
        steps.advance(", ".join(recipe.names))
    steps.end()
    return found


def _trained(recipes: list[Recipe], data: FederatedData, config: Config, steps: Steps) -> list[tuple[Solution, float]]:
    found: list[tuple[Solution, float]] = []
    steps.begin(STEPS[2], config.train.rounds * (len(recipes) + 1))  # isogram+oneshot decides by a second run
    for recipe in recipes:

        def show(tick: Tick, names: str = " / ".join(recipe.names)) -> None:
            if not tick.node:
                losses = ", ".join(f"{name} {value:.3f}" for name, value in tick.terms.items())
                steps.advance(f"{names}, round {tick.round} of {tick.rounds}: {losses}")

        found += bench.solutions(recipe, data, config, show)
    steps.end()
    return found


def _scored(found: list[tuple[Solution, float]], data: FederatedData, config: Config, steps: Steps) -> list[bench.Row]:
    rows: list[bench.Row] = []
    steps.begin(STEPS[3], len(found))
    for solution, seconds in found:
        rows += bench.score(solution, data, config, seconds)
        steps.advance(solution.method)
    steps.end()
    return rows


def _notes(data: FederatedData, found: list[Solution]) -> list[str]:
    notes = [
        f"{s.method}: {len(s.fell_back)} of {len(data.nodes)} nodes fell back to their one-shot start"
        for s in found
        if s.fell_back is not None
    ]
    if data.all_paired is not None:
        notes.append(
            "paired: every other row as a public anchor, which nobody may have; own-labels: nodes told all their labels"
        )
    return [*notes[:1], *data.notes, *notes[1:]]
