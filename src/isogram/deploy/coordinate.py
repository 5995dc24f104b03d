"""The server's side of a run over a link: alignment, rounds, a checkpoint after each; stopped anywhere, it goes on.

run.json           how far it has come, and who is where
events.jsonl       what happened, a line each
round-0000 ...     safetensors: what the server knows after alignment, and after each round
server.safetensors what the server has at the end: frame, consensus, class directions, adapters; no node's own map
untold.safetensors what nodes have still to be told that were away at the end
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from isogram import federation
from isogram.checkpoint import alignment_state, restore_alignment, restore_round, round_state
from isogram.config import Config
from isogram.errors import IsogramError, RunError
from isogram.federation import Federation
from isogram.federation.link import Link
from isogram.federation.membership import Away, Facts, Quorum
from isogram.federation.remote import Remote, join
from isogram.files import append_lines, keep_lines, make_folder
from isogram.local.respond import settings_of
from isogram.run_folder import locked, read_json, write_json
from isogram.tensor_file import read_tensors, write_tensors

STATE, EVENTS, FINAL, UNTOLD = "run.json", "events.jsonl", "server.safetensors", "untold.safetensors"

READY, TRAINING, LATE, LOST = "ready", "training", "late", "lost"
"""What a node is: has answered, is asked, did not answer the last time, or never did."""


@dataclass(frozen=True)
class Plan:
    """What a consortium agreed on, as its server needs it.

    sites: node -> modality. wait: seconds for one step. anchors: hash of the set that all nodes must have.
    """

    config: Config
    sites: Mapping[str, str]
    anchors: str
    quorum: Quorum
    wait: float


def coordinate(
    link: Link, plan: Plan, folder: Path, run: str, watch: Callable[[Path], None] = lambda path: None
) -> Path:
    """A run from its beginning or from its last complete round to its end; returns the file of what the server has.

    Of a run that is complete, nodes that were away at its end are told of it, and nothing else is done.

    Args:
        link: to the nodes.
        plan: what was agreed on.
        folder: of this run; made if it is not there.
        run: its name, the same whenever it goes on.
        watch: called with the folder whenever something in it has changed.

    Raises:
        FederationError: too few nodes answer; what is complete stays, and the run can go on.
        RunError: the folder is of another run, settings or process.
    """
    make_folder(folder)
    with locked(folder):
        return _Course(link, plan, folder, run, watch).run()


class _Course:
    """One attempt at a run, and what it writes down."""

    def __init__(self, link: Link, plan: Plan, folder: Path, run: str, watch: Callable[[Path], None]) -> None:
        self.plan, self.folder, self.watch = plan, folder, watch
        found = read_json(folder / STATE) if (folder / STATE).exists() else None
        mine = {"run": run, "settings": settings_of(plan.config), "anchors": plan.anchors}
        if found is not None and (wrong := [key for key, value in mine.items() if found[key] != value]):
            raise RunError(f"{folder} is a run of other {wrong[0]} than now; go on with those, or begin a new run")
        self.state: dict[str, Any] = found or {"round": None, "complete": False, "untold": [], "attempt": -1}
        self.state |= mine | {"rounds": plan.config.train.rounds, "problems": []}
        if not self.state["complete"]:
            self.state["attempt"] += 1
            # Those of before as well: a site that has left the consortium stays a member of its runs.
            before = {name: node["modality"] for name, node in self.state.get("nodes", {}).items()}
            self.state["nodes"] = {
                name: {"modality": modality, "is": LOST, "why": "", "sent": 0, "got": 0}
                for name, modality in sorted({**before, **plan.sites}.items())
            }
        attempt = self.state["attempt"]
        keep_lines(folder / EVENTS)
        self.remote = Remote(link, run, mine["settings"], plan.quorum, plan.wait, attempt, told=self.told)

    def run(self) -> Path:
        """See `coordinate`."""
        self.write()
        if self.state["complete"]:
            self.tell_late()
            return self.folder / FINAL
        try:
            return self._run()
        except IsogramError as error:
            self.state["problems"] = list(error.problems)
            self.told("stopped", "", str(error))
            raise

    def _run(self) -> Path:
        done = self.state["round"]
        if done is not None:
            aligned, begun = read_tensors(self.file(0))
            self.remote.facts = {name: Facts(**own) for name, own in begun["members"].items()}
        fed = join(self.remote, self.plan.sites, self.plan.config, self.plan.anchors)
        if done is None:
            clock = time.monotonic()
            fed = federation.one_shot(fed)
            self.complete(fed, 0, alignment_state(fed), time.monotonic() - clock)
        else:
            fed = self.go_on(fed, done, aligned, begun)
        if not fed.round and self.plan.config.train.rounds:
            fed = federation.start_training(fed)
        while fed.round < self.plan.config.train.rounds:
            clock = time.monotonic()
            fed = federation.train_round(fed)
            self.complete(fed, fed.round, round_state(fed), time.monotonic() - clock)
        last = fed.last_round
        missed = self.remote.finish(
            fed.members, lambda member: fed.send(member, "finish", last, head=fed.head_of(member))
        )
        final = self.folder / FINAL
        write_tensors(final, alignment_state(fed) if not fed.round else round_state(fed), {"run": self.state["run"]})
        left = {"stage": self.remote.stage, "numbers": self.remote.number}
        write_tensors(self.folder / UNTOLD, self.remote.state(), left)
        self.state |= {"complete": True, "untold": missed}
        self.told("complete", "", "")
        return final

    def tell_late(self) -> None:
        """Tell those that were away at the end, in the attempt that was the last: they have done all before it."""
        if self.state["untold"]:
            tensors, left = read_tensors(self.folder / UNTOLD)
            self.remote.restore(tensors, left["numbers"], self.remote.attempt)
            self.remote.stage = left["stage"]
            away = []
            for name in self.state["untold"]:
                if name in self.plan.sites:
                    away.append(Away(name, self.state["nodes"][name]["modality"], torch.zeros(0), False))
                else:
                    self.told("lost", name, f"node {name!r} has left the consortium, and has no model of its own")
            self.state["untold"] = self.remote.deliver(away)
            self.told("complete", "", "")

    def go_on(
        self, fed: Federation, done: int, aligned: Mapping[str, torch.Tensor], begun: Mapping[str, Any]
    ) -> Federation:
        """The federation after its last complete round; of its members, too, that did not answer now."""
        last, position = (aligned, begun) if not done else read_tensors(self.file(done))
        self.remote.restore(last, position["numbers"], self.remote.attempt)
        fed = replace(restore_alignment(fed, aligned), refused=tuple(begun["refused"]))
        self.told("resumed", "", f"after round {done}")
        return restore_round(fed, last, position) if done else fed

    def file(self, round: int) -> Path:
        """Of a round's checkpoint."""
        return self.folder / f"round-{round:04d}.safetensors"

    def complete(self, fed: Federation, round: int, tensors: Mapping[str, Any], seconds: float) -> None:
        """Write a round down; only then it is complete."""
        position: dict[str, Any] = {"round": fed.round, "history": [], "refused": list(fed.refused)}
        position["numbers"] = self.remote.number
        if not round:
            position["members"] = {name: asdict(own) for name, own in self.remote.facts.items()}
        if fed.round:
            position["model"] = next(iter(fed.shared.values())).about
        write_tensors(self.file(round), {**tensors, **self.remote.state()}, position)
        for member in fed.members:
            own = [entry for entry in fed.ledger.entries if entry.node == member.name]
            node = self.state["nodes"][member.name]
            node["sent"] += sum(entry.bytes for entry in own if entry.direction == "up")
            node["got"] += sum(entry.bytes for entry in own if entry.direction == "down")
        fed.ledger.entries.clear()
        self.state["round"] = round
        self.told("round", "", f"{seconds:.3f}")

    def told(self, what: str, node: str, line: str) -> None:
        """Write down what happened, and who is where."""
        there = self.state["nodes"].get(node)
        if there is not None and what == "lost":
            there |= {"is": LOST if there["is"] == LOST else LATE, "why": line}
        elif there is not None and what == "answered":
            there |= {"is": READY, "why": ""}
        elif there is not None and there["is"] != LOST:
            there["is"] = TRAINING
        event = {"time": round(time.time(), 3), "what": what, "node": node, "line": line, "round": self.state["round"]}
        append_lines(self.folder / EVENTS, [json.dumps(event)])
        self.write()
        self.watch(self.folder)

    def write(self) -> None:
        """The state of the run, for whoever asks."""
        write_json(self.folder / STATE, self.state)
