"""What a run writes down of what its federation does, so that it can go on from the last complete round."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from isogram import checkpoint, federation
from isogram.accountant import card
from isogram.bench import Row, score, solutions
from isogram.config import Config, EgressConfig
from isogram.data import FederatedData
from isogram.egress import Ask, Line, Oversight
from isogram.errors import ConfigError, IsogramError
from isogram.federation import Federation, Tick
from isogram.files import append_lines, keep_lines, write_atomic
from isogram.messages import Entry
from isogram.methods import RECIPES, solution
from isogram.progress import Watch
from isogram.report.page import write_page
from isogram.run_folder import (
    CHECKPOINTS,
    EGRESS,
    EVALUATION,
    MESSAGES,
    METRICS,
    MODEL,
    RESULTS,
    STATE,
    forget_noise,
    left,
    noise_secret,
    run_id,
    state,
    write_json,
)
from isogram.tensor_file import read_tensors, write_tensors
from isogram.view import view

COMPARED = tuple(recipe for recipe in RECIPES if not recipe.trained and not recipe.bound)
"""Methods without training that stand beside the run in its table; seconds each."""

PAGE_EVERY = 20.0
"""Seconds, at least, between two pages of a run that goes on: a browser that shows one loads the next by itself."""


class Recorder:
    """Writes down what a federation does, and knows how far it had come."""

    def __init__(self, folder: Path, config: Config, data: FederatedData, ask: Ask | None = None) -> None:
        self.folder, self.config, self.data = folder, config, data
        self._oversight = Oversight(ask, log=self._log_egress)
        self._messages = 0
        self._lines: Counter[str] = Counter()
        self._seconds = 0.0
        self.not_run: dict[str, str] = {}
        """Methods that failed beside the run, and why."""

    def aligned(self, watch: Watch) -> tuple[Federation, int]:
        """The federation after alignment or the last complete round, and the number of that round."""
        start = self._checkpoint(0)
        if not start.exists():
            self._cut({MESSAGES: 0, METRICS: 0})
            self._go_on(None)
            watch.say("one-shot alignment")
            clock = time.perf_counter()
            fed = federation.align(
                self.data, self.config, run_id(self.folder), noise_secret(self.folder), oversight=self._oversight
            )
            self._log(fed, [(0, "", "seconds", time.perf_counter() - clock), *_spent(fed)])
            write_tensors(start, checkpoint.alignment_state(fed), self._position(fed))
            self._state(fed)
            watch.say(f"fit: {_fit(fed)}")
            if fed.budget is not None:
                watch.say(spent_privacy(fed))
            for line in fed.refused:
                watch.tell(line)
            return fed, 0
        done = max(int(path.stem.removeprefix("round-")) for path in start.parent.glob("round-*.safetensors"))
        watch.say(f"going on after round {done} of {self.config.train.rounds}")
        tensors, begun = read_tensors(start)
        fed = federation.gather(
            self.data, self.config, run_id(self.folder), noise_secret(self.folder), oversight=self._oversight
        )
        fed = checkpoint.restore_alignment(fed, tensors)
        fed = replace(fed, refused=tuple(begun["refused"]))
        last, position = read_tensors(self._checkpoint(done))
        lines = self._cut({name: position["lines"][name] for name in (MESSAGES, METRICS)})
        self._go_on(done)
        fed.ledger.entries = [_entry(line) for line in lines[MESSAGES]]
        self._seconds = sum(m["value"] for m in map(json.loads, lines[METRICS]) if m["metric"] == "seconds")
        if done:
            fed = checkpoint.restore_round(fed, last, position)
        return fed, done

    def trained(self, fed: Federation, watch: Watch) -> Federation:
        """All rounds that are left, a checkpoint after each."""
        if not self.config.train.rounds:
            return fed
        if not fed.round:
            fed = federation.start_training(fed)
        watch.begin(fed)
        shown = -PAGE_EVERY
        with _tensorboard(self.folder, self.config, fed.round) as board:
            while fed.round < self.config.train.rounds:
                if time.perf_counter() - shown > PAGE_EVERY:
                    write_page(self.folder, live=True)
                    shown = time.perf_counter()
                metrics: list[tuple[int, str, str, float]] = []

                def tell(tick: Tick, metrics: list[tuple[int, str, str, float]] = metrics) -> None:
                    metrics += [(tick.round, tick.node, f"loss/{name}", value) for name, value in tick.terms.items()]
                    watch.tick(tick)

                clock = time.perf_counter()
                fed = federation.train_round(fed, tell)
                metrics += [(fed.round, "", "seconds", time.perf_counter() - clock), *_spent(fed)]
                self._log(fed, metrics)
                for round, node, name, value in metrics if board else ():
                    board.add_scalar(f"{name}/{node}" if node else name, value, round)
                write_tensors(self._checkpoint(fed.round), checkpoint.round_state(fed), self._position(fed))
                self._state(fed)
        return fed

    def evaluated(self, fed: Federation, watch: Watch) -> tuple[Row, ...]:
        """Model, table and view; the run is complete. Without a method that fails in its comparison, which is told.

        Under differential privacy no other method is beside it: what they release of private rows has no noise.
        """
        checkpoint.final_model(fed, self.data).save(self.folder / MODEL)
        watch.say("evaluating on held-out rows")
        rows: list[Row] = []
        if fed.budget is not None:
            rows += [row for row in self._start(fed) if not self.config.train.rounds or row.metric not in _COSTS]
        # Other methods are simulated here to be compared: what they would send, nobody sends.
        compared = self.config.model_copy(update={"egress": EgressConfig()})
        for recipe in COMPARED if fed.budget is None else ():
            left = list(recipe.names)
            try:
                for found, seconds in solutions(recipe, self.data, compared, None):
                    rows += score(found, self.data, self.config, seconds)
                    left.remove(found.method)
            except Exception as error:  # whatever it is, the run's own model does not depend on it
                self.not_run |= dict.fromkeys(left, _reason(error))
        for method, reason in self.not_run.items():
            watch.tell(f"{method}: not run: {reason}")
        if self.config.train.rounds:
            rows += score(solution("isogram", fed), self.data, self.config, self._seconds)
            watch.say(f"rounds: {_before_and_after(rows)}")
        write_atomic(self.folder / RESULTS, "".join(json.dumps(asdict(row)) + "\n" for row in rows).encode())
        write_json(self.folder / EVALUATION, asdict(view(self.data, fed.nodes)))
        self._state(fed, complete=True)
        forget_noise(self.folder)
        return tuple(rows)

    def _start(self, fed: Federation) -> list[Row]:
        """What the run's own alignment is worth; bytes and seconds are of the whole run."""
        start = replace(fed, nodes=tuple(copy(node) for node in fed.nodes))
        for node in start.nodes:
            node.fall_back()
        return score(solution("closed-form", start), self.data, self.config, self._seconds)

    def _checkpoint(self, round: int) -> Path:
        return self.folder / CHECKPOINTS / f"round-{round:04d}.safetensors"

    def _position(self, fed: Federation) -> dict[str, Any]:
        known = {"round": fed.round, "history": list(fed.history), "refused": list(fed.refused)}
        model = {"model": fed.nodes[0].shared.about} if fed.round else {}
        return known | model | {"lines": dict(self._lines)}

    def _cut(self, lines: dict[str, int]) -> dict[str, list[str]]:
        self._lines = Counter(lines)
        self._messages = lines[MESSAGES]
        return {name: keep_lines(self.folder / name, count) for name, count in lines.items()}

    def _go_on(self, done: int | None) -> None:
        """Says in the log of what left that sending begins again, and asks for nothing a second time.

        done: the last complete round; None: not even the alignment is.
        """
        keep_lines(self.folder / EGRESS)
        sent = left(self.folder)
        self._oversight.asked = {(line["node"], line["kind"]) for line in sent}
        append_lines(self.folder / EGRESS, [json.dumps({"resumed": done})] if sent or done is not None else [])

    def _log(self, fed: Federation, metrics: list[tuple[int, str, str, float]]) -> None:
        entries = fed.ledger.entries[self._messages :]
        self._messages = len(fed.ledger.entries)
        self._seconds += sum(value for _, _, name, value in metrics if name == "seconds")
        keys = ("round", "node", "metric", "value")
        lines = {
            MESSAGES: [json.dumps(asdict(entry)) for entry in entries],
            METRICS: [json.dumps(dict(zip(keys, values, strict=True))) for values in metrics],
        }
        for name, added in lines.items():
            append_lines(self.folder / name, added)
            self._lines[name] += len(added)

    def _log_egress(self, lines: Sequence[Line]) -> None:
        append_lines(self.folder / EGRESS, (json.dumps(asdict(line)) for line in lines))

    def _state(self, fed: Federation, *, complete: bool = False) -> None:
        found = state(self.config, self.data)
        now: dict[str, Any] = {"round": fed.round, "complete": complete, "seconds": round(self._seconds, 3)}
        now |= {"goal": self.config.goal, "fit": _fit(fed)}
        if fed.budget is not None:
            now["privacy"] = card(self.config, fed.round)
        if fed.refused:
            now["refused"] = list(fed.refused)
        if self.not_run:
            now["not_run"] = self.not_run
        write_json(self.folder / STATE, found | now)


def _before_and_after(rows: Sequence[Row]) -> str:
    """What rounds did to each figure, mean over directions: a run keeps the trained model in any case."""
    found = []
    for metric, name in (("r1", "R@1"), ("pam50", "PAM50"), ("accuracy", "accuracy")):
        means = []
        for method in ("closed-form", "isogram"):
            values = [row.value for row in rows if row.metric == metric and row.method.partition("@")[0] == method]
            means += [f"{fmean(values):.3f}"] if values else []
        found += [f"{name} {' -> '.join(means)}"] if len(means) == 2 else []
    return ", ".join(found) or "no held-out rows to measure them on"


def _reason(error: Exception) -> str:
    """Of a method's failure, on one line; what is no error of ours by its type, too."""
    text = "; ".join(str(error).splitlines())
    return text if isinstance(error, IsogramError) else f"{type(error).__name__}: {text}"


_COSTS = ("bytes_per_node", "seconds")


def _spent(fed: Federation) -> list[tuple[int, str, str, float]]:
    """Epsilon of all that was released so far, the same at each node that labels rows; others release nothing."""
    return [] if fed.budget is None else [(fed.round, "", "epsilon", fed.budget.spent(fed.round))]


def spent_privacy(fed: Federation) -> str:
    """How much of epsilon is spent so far."""
    assert fed.budget is not None
    now, privacy = fed.budget.spent(fed.round), fed.config.privacy
    seeded = "" if privacy.noise_seed is None else "; privacy.noise_seed is known, so there is NO guarantee"
    return f"privacy: epsilon {now:.3g} of {privacy.epsilon:g} is spent, at delta {privacy.delta:g}{seeded}"


def _fit(fed: Federation) -> str:
    how = "chosen by left-out anchors" if fed.way else "as it is set"
    if not fed.way and fed.config.align.choose:
        how += ": left-out anchors are not clearly for another"
    return f"{fed.ways[fed.way]} ({how})"


def _entry(line: str) -> Entry:
    found = json.loads(line)
    return Entry(**(found | {"shape": tuple(found["shape"])}))


@contextmanager
def _tensorboard(folder: Path, config: Config, done: int) -> Iterator[Any]:
    """A writer if the configuration asks for one; what an interrupted round logged is purged."""
    if not config.output.tensorboard:
        yield None
        return
    with summary_writer()(str(folder / "tensorboard"), purge_step=done + 1) as board:
        yield board


def summary_writer() -> Any:
    """TensorBoard's class.

    Raises:
        ConfigError: it is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "output.tensorboard = true needs TensorBoard: pip install -e '.[tensorboard]' in the clone, or set it to "
            "false"
        ) from error
    return SummaryWriter
