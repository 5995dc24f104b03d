"""Mutated messages against the validation: none may be accepted wrongly, none may crash it or make it hang.

    python benchmarks/fuzz_messages.py --count 100000 --seed 0

Messages of every kind come from small runs of the simulated machines. Each mutant is made of one of them, under what
its receiver expects, by one of `MUTATIONS`; it is refused with a `MessageError`, or else a second, naive validation
(`message_oracle`) has to find it fit for use. Prints the counts by kind of mutation; the exit code is 1 if a message
was accepted wrongly, raised anything but a `MessageError`, or took longer than `SLOW` seconds. Under a minute.
"""

import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import typer
from message_mutations import MUTATIONS, Sample
from message_oracle import judge

from isogram import federation
from isogram.config import AlignConfig, AverageConfig, Config, ModelConfig, TermWeights, TrainConfig
from isogram.data import AnchorSet, FederatedData, load
from isogram.egress import Oversight
from isogram.errors import MessageError
from isogram.messages import Ledger, Message

SLOW = 2.0
"""Seconds for one message, after which it counts as one that hangs."""

EACH = 8
"""Messages kept of each kind."""


def corpus(anchors: int = 16) -> list[Sample]:
    """Messages of every kind, of runs with all that may be asked for."""
    data = load("machines", anchors=anchors, seed=100)
    items = dict(data.anchors.items)
    some = data.nodes[0].modality
    place = np.where(np.arange(anchors) % 5 == 4, -1, np.arange(anchors))
    items[some] = items[some].renumbered(place)
    data = replace(data, anchors=AnchorSet(data.anchors.ids, items))
    train = TrainConfig(rounds=2, steps=2, weights=TermWeights(frame=1, cka=1, prototype=1, inter=1, intra=1, muscle=1))
    config = Config(data="machines", anchors=anchors, model=ModelConfig(width=24, layers=1, rank=2), train=train)
    every = config.model_copy(
        update={
            "align": AlignConfig(metric=True, robust=True),
            "average": AverageConfig(rule="parameter", head="laplace"),
            "train": train.model_copy(update={"refresh": 1, "refresh_basis": "gradient", "frame_update": 0.5}),
        }
    )
    voted = config.model_copy(
        update={"average": AverageConfig(robust="median"), "train": train.model_copy(update={"rounds": 1})}
    )
    found: defaultdict[tuple[type[Message], str], list[Sample]] = defaultdict(list)
    with _listening(found):
        done = _run(data, every, "one")
        for node in done.nodes:
            done.send(node, "finish", done.last_round, head=done.head_of(node))
        federation.keep_better(_run(data, config, "two"), data)
        federation.align(data, voted, "three")
        _summed(data, config, "four")
    return [sample for samples in found.values() for sample in samples[:: max(1, len(samples) // EACH)][:EACH]]


def _summed(data: FederatedData, config: Config, run: str) -> None:
    """A secure sum of updates that no node sends bare."""
    kinds = ("pair", "parcels", "summand", "shares")
    fed = federation.gather(data, config, run, oversight=Oversight(more=kinds))
    fed = federation.start_training(federation.one_shot(fed))
    fed.tell("trained", fed.members, lambda node: fed.deliver(node, "targets", federation.targets(fed, node, 2)))
    shapes = {name: tuple(value.shape) for name, value in (fed.nodes[0].summand or {}).items()}
    federation.secure_sum(fed, 2, fed.members, shapes, dict.fromkeys(shapes, 1e6))


def _run(data: FederatedData, config: Config, run: str) -> federation.Federation:
    return federation.train(federation.align(data, config, run))


@contextmanager
def _listening(found: defaultdict[tuple[type[Message], str], list[Sample]]) -> Iterator[None]:
    carry = Ledger.carry

    def heard(self: Ledger, message: Any, read: Any) -> Any:
        expected = read.__self__
        found[type(message), expected.kind].append(Sample(type(message), expected, message.to_bytes()))
        return carry(self, message, read)

    Ledger.carry = heard  # type: ignore[method-assign]
    try:
        yield
    finally:
        Ledger.carry = carry  # type: ignore[method-assign]


@dataclass
class Outcome:
    """Counts by mutation; wrong: messages accepted against the oracle's judgement; broken: those that crash or hang.

    same: of those accepted, the same message in other bytes. The rest are other messages, as fit for use.
    """

    refused: Counter[str] = field(default_factory=Counter)
    same: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    slowest: float = 0.0


def fuzz(samples: list[Sample], count: int, seed: int) -> Outcome:
    """Try `count` mutants, drawn from the seed."""
    rng, outcome = np.random.default_rng(seed), Outcome()
    before = signal.signal(signal.SIGALRM, _too_slow)
    for number in range(count):
        sample, mutation = samples[rng.integers(len(samples))], MUTATIONS[rng.integers(len(MUTATIONS))]
        blob = mutation(sample, rng, samples)
        while blob == sample.blob:
            blob = mutation(sample, rng, samples)
        where = f"mutant {number} ({mutation.__name__}) of {sample.of.__name__} {sample.expected.kind!r}"
        began = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, SLOW)
        try:
            message = sample.expected.read(sample.of, blob)
        except MessageError:
            outcome.refused[mutation.__name__] += 1
        except Exception as error:
            outcome.broken.append(f"{where}: {error!r}")
        else:
            outcome.accepted[mutation.__name__] += 1
            outcome.same[mutation.__name__] += message.to_bytes() == sample.blob
            if reason := judge(blob, sample.of.__name__, sample.expected):
                outcome.wrong.append(f"{where}: {reason}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        outcome.slowest = max(outcome.slowest, time.perf_counter() - began)
    signal.signal(signal.SIGALRM, before)
    return outcome


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"longer than {SLOW} s")


def main(count: int = 100_000, seed: int = 0) -> None:
    """Fuzz and print the counts."""
    torch.set_num_threads(1)
    samples = corpus()
    kinds = Counter((sample.of.__name__, sample.expected.kind) for sample in samples)
    print(f"{len(samples)} messages of {len(kinds)} kinds, {count} mutants, seed {seed}")
    began = time.perf_counter()
    outcome = fuzz(samples, count, seed)
    seconds = time.perf_counter() - began
    for name in sorted({mutation.__name__ for mutation in MUTATIONS}):
        counts = (counter[name] for counter in (outcome.refused, outcome.accepted, outcome.same))
        print("{:10} refused {:6}, accepted {:6}, of these the same message {:6}".format(name, *counts))
    print(
        f"all: refused {outcome.refused.total()}, accepted {outcome.accepted.total()} ({outcome.same.total()} the same)"
    )
    print(f"accepted wrongly {len(outcome.wrong)}, crashed or hung {len(outcome.broken)}")
    print(f"{1e3 * seconds / count:.2f} ms per mutant, the slowest {1e3 * outcome.slowest:.0f} ms")
    for line in (*outcome.wrong, *outcome.broken)[:20]:
        print(line)
    raise typer.Exit(bool(outcome.wrong or outcome.broken))


if __name__ == "__main__":
    typer.run(main)
