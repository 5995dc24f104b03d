"""Nodes elsewhere: what they are told is kept until they have answered that it is done; all are asked at once."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from isogram.config import Config
from isogram.envelope import Part, Reply, Request
from isogram.errors import FederationError, MessageError
from isogram.federation.exchange import Answers, Asked, Heard, Member
from isogram.federation.link import Link, Lost
from isogram.federation.membership import LONGEST, Away, Facts, Quorum
from isogram.federation.state import Federation
from isogram.local.respond import FINISH, HELLO, gives
from isogram.local.steps import TRAINING
from isogram.messages import Down, Ledger
from isogram.wire import layout

_NOT_BEGUN = "was away when the run began, or did not fit; it takes part in the next one"

QUEUE, MADE = "queue/", "made"
"""In a checkpoint: prefix of what nodes were told and have not done; attempts in which stages were completed."""


@dataclass
class Remote:
    """An `Exchange` over a `Link`.

    run, settings, attempt, made: of `envelope.Request`. wait: seconds that a step may take. told: is given what
    happens, a name, a node and a line, for whoever watches: "asked", "answered", "lost". facts: what members said of
    themselves when the run began; they are its members to the end. barred: those that are not asked in this attempt,
    and why not.
    """

    link: Link
    run: str
    settings: str
    quorum: Quorum = field(default_factory=Quorum)
    wait: float = 600.0
    attempt: int = 0
    stage: int = 0
    told: Callable[[str, str, str], None] = lambda what, node, line: None
    queue: dict[str, list[Part]] = field(default_factory=dict)
    number: dict[str, int] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    made: list[int] = field(default_factory=list)
    facts: dict[str, Facts] = field(default_factory=dict)
    barred: dict[str, str] = field(default_factory=dict)

    def meet(self, names: Sequence[str]) -> dict[str, Mapping[str, Any] | str]:
        """Ask nodes who they are; of each what it says, or why it says nothing."""
        parts = {name: [Part(0, HELLO, 0, b"")] for name in names}
        found: dict[str, Mapping[str, Any] | str] = {}
        for name, reply in self._carry(parts):
            found[name] = str(reply) if isinstance(reply, MessageError) else (reply.facts or {})
        return found

    def tell(self, step: str, member: Member, down: Down) -> None:
        """As `Exchange.tell`: with the next that the node is asked for."""
        self._enqueue(member, step, down.round, down.to_bytes())

    def ask(self, asked: Asked) -> Answers:
        """As `Exchange.ask`, all at once."""
        self._enter(asked.round)
        for member in asked.members:
            down = asked.prepare(member)
            message = down.to_bytes() if any(True for _ in down.arrays()) else b""
            self._enqueue(member, asked.step, asked.round, message)
            asked.heard(member.name, {})
        yield from self._flushed(asked.members, asked.heard)

    def finish(self, members: Sequence[Member], prepare: Callable[[Member], Down]) -> list[str]:
        """Tell nodes what is left to tell, and that the run is over; names of those that have not heard it."""
        for member in members:
            down = prepare(member)
            self._enter(down.round)
            self._enqueue(member, FINISH, down.round, down.to_bytes())
        return self.deliver(members)

    def deliver(self, members: Sequence[Member]) -> list[str]:
        """Tell nodes what is left to tell; names of those that have not heard it: for them it is kept."""
        missed = []
        for member, answer in self._flushed(members, lambda node, terms: None):
            if isinstance(answer, MessageError):
                self.excuse(member, MessageError(f"{answer}; it was not told of the end and has no model of its own"))
                missed.append(member.name)
        return missed

    def _enter(self, round: int) -> None:
        self.stage = max(0, round - 1)
        self.made += [self.attempt] * (self.stage - len(self.made))

    def _enqueue(self, member: Member, step: str, round: int, message: bytes) -> None:
        self.number[member.name] = self.number.get(member.name, 0) + 1
        queue = self.queue.setdefault(member.name, [])
        if step == "average":
            _replace(queue, message)
        queue.append(Part(self.number[member.name], step, round, message))

    def _flushed(self, members: Sequence[Member], heard: Heard) -> Iterator[tuple[Member, bytes | MessageError]]:
        replies = dict(self._carry({member.name: self.queue[member.name] for member in members}))
        answers: list[tuple[Member, bytes | MessageError]] = []
        for member in members:
            reply, name = replies[member.name], member.name
            done = 0 if isinstance(reply, MessageError) else reply.done
            # What gives a message, or makes it, is of this moment: who missed it is not asked for it later.
            left = [part for part in self.queue[name] if part.number > done]
            self.queue[name] = [part for part in left if not gives(part.step) and part.step not in TRAINING]
            answers.append((member, reply if isinstance(reply, MessageError) else reply.message))
            heard(name, {})
        yield from answers

    def excuse(self, member: Member, error: MessageError) -> bool:
        """As `Exchange.excuse`: the quorum says how many there must be, see `settle`."""
        self.told("lost", member.name, str(error))
        self.why[member.name] = str(error)
        return True

    def settle(self, asked: Sequence[Member], answered: Sequence[str]) -> None:
        """As `Exchange.settle`.

        Raises:
            FederationError: fewer than the quorum.
        """
        if lacking := self.quorum.lacking(asked, answered):
            why = [self.why[member.name] for member in asked if member.name in self.why]
            raise FederationError(f"{lacking}; bring back those that are lost, and go on by resume", *why)
        self.why.clear()

    def _carry(self, parts: Mapping[str, Sequence[Part]]) -> Iterator[tuple[str, Reply | MessageError]]:
        requests = {}
        made = tuple(self.made[: self.stage])
        for name, some in parts.items():
            if name not in self.barred:
                asked = Request(name, self.run, self.settings, self.stage, self.attempt, tuple(some), made)
                requests[name] = asked.to_bytes()
                self.told("asked", name, some[-1].step)
        found = self.link.ask(requests, self.wait, lambda name: self.told("answered", name, ""))
        for name in parts:
            if name in self.barred:
                yield name, MessageError(self.barred[name])
            else:
                yield name, _read(name, self.run, found.get(name, Lost("the engine says nothing of it")))

    # What a checkpoint keeps.

    def state(self) -> dict[str, Tensor]:
        """Once a stage is complete: what nodes were told and have not done, as tensors of bytes; and `made`."""
        return {MADE: torch.tensor([*self.made, self.attempt])} | {
            f"{QUEUE}{part.number}/{part.round}/{part.step}/{name}": torch.frombuffer(
                bytearray(part.message) or bytearray(1), dtype=torch.uint8
            )
            for name, parts in self.queue.items()
            for part in parts
        }

    def restore(self, state: Mapping[str, Tensor], number: Mapping[str, int], attempt: int) -> None:
        """Go on from a checkpoint, in a new attempt."""
        self.number, self.attempt, self.queue = dict(number), attempt, {}
        self.made = state[MADE].tolist()
        for key, value in state.items():
            if key.startswith(QUEUE):
                n, round, step, name = key.removeprefix(QUEUE).split("/", 3)
                part = Part(int(n), step, int(round), value.numpy().tobytes())
                self.queue.setdefault(name, []).append(part)
        for parts in self.queue.values():
            parts.sort(key=lambda part: part.number)


def join(remote: Remote, sites: Mapping[str, str], config: Config, source: str = "") -> Federation:
    """A federation of nodes elsewhere; nothing is sent yet but the question who they are.

    Of a run that goes on (`Remote.facts`), its members are those that it began with, whether they answer now or not.

    Args:
        remote: how they are reached.
        sites: modality of each node that may take part, by its name.
        config: settings.
        source: hash of what the anchors of all nodes must be made of; the one that most have if not given.

    Raises:
        FederationError: too few nodes that answer, and fit: says of each why not.
    """
    began, problems = remote.facts, dict[str, str]()
    facts: dict[str, Facts] = {}
    for name, found in remote.meet([name for name in sorted(sites) if not began or name in began]).items():
        try:
            facts[name] = Facts.of(name, found)
        except MessageError as error:
            problems[name] = str(error)
    common = Counter(own.agreed for own in (began or facts).values() if source in ("", own.source))
    agreed = common.most_common(1)[0][0] if common else (source, "", 0, 0)
    for name, own in facts.items():
        if problem := own.unlike(name, sites[name], agreed, began.get(name)):
            remote.barred[name] = problem
    if began:
        remote.barred |= {name: f"node {name!r} is in the consortium file no more" for name in began.keys() - sites}
        problems |= {name: f"node {name!r} {_NOT_BEGUN}" for name in sites if name not in began}
    problems |= remote.barred
    for name, line in sorted(problems.items()):
        remote.told("lost", name, line)
    remote.facts = began or {name: own for name, own in facts.items() if name not in problems}
    expected = {name: own.modality for name, own in began.items()} or sites
    everybody = [Away(name, modality, torch.zeros(0), False) for name, modality in expected.items()]
    if lacking := remote.quorum.lacking(everybody, facts.keys() - problems):
        raise FederationError(lacking, *(line for _, line in sorted(problems.items())))
    _, anchor_hash, anchors, n_classes = agreed
    members = tuple(
        Away(name, own.modality, torch.tensor(own.index, dtype=torch.int64), own.labelled)
        for name, own in remote.facts.items()
    )
    return Federation(config, (), anchors, anchor_hash, n_classes, Ledger(), run=remote.run, away=(members, remote))


def _replace(queue: list[Part], average: bytes) -> None:
    """Drop averages of the same names: the newest stands for all, but for those that were merged into new bases."""
    names = layout(average).arrays.keys()
    merged = max((at for at, part in enumerate(queue, 1) if part.step == "bases"), default=0)
    queue[merged:] = [p for p in queue[merged:] if p.step != "average" or layout(p.message).arrays.keys() != names]


def _read(name: str, run: str, found: bytes | Lost) -> Reply | MessageError:
    if isinstance(found, Lost):
        return MessageError(f"node {name!r} did not answer: {found.why}")
    try:
        reply = Reply.read(found)
    except MessageError as error:
        return MessageError(f"node {name!r} sent {str(error)[:LONGEST]}")
    if reply.refused:
        return MessageError(f"node {name!r} refused: {reply.refused[:LONGEST]}")
    if (reply.node, reply.run) != (name, run):
        of = f"node {reply.node[:LONGEST]!r} in run {reply.run[:LONGEST]!r}"
        return MessageError(f"node {name!r} sent a reply of {of}: left out")
    return reply
