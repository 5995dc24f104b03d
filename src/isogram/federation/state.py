"""What a federation is between two steps: nodes, and what the server knows; and how it sends a node a message."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from isogram import privacy, sharing
from isogram.accountant import Budget, budget_of
from isogram.alignment import DEFAULT_RANK, Fit
from isogram.config import Config
from isogram.data import FederatedData
from isogram.egress import Oversight
from isogram.errors import ConfigError, MessageError
from isogram.federation.exchange import Asked, Exchange, Heard, InProcess, Member
from isogram.local import Node, ways_of
from isogram.local.rosters import HELD_BACK
from isogram.local.steps import STEPS
from isogram.messages import Down, Ledger, Up
from isogram.model import SharedModel
from isogram.noise import Noise, secret_of
from isogram.validation import Expected


@dataclass(frozen=True)
class Tick:
    """What training tells while it goes on: a node begins (no terms) or ends its steps, or a round is over (no node).

    round counts from 1; terms: mean of each loss term over the node's steps, or over the nodes; refused: what did not
    count in the round, a line each that says whose, why, and what was done instead.
    """

    round: int
    rounds: int
    node: str
    terms: dict[str, float]
    refused: tuple[str, ...] = ()


Progress = Callable[[Tick], None]


@dataclass(frozen=True)
class Federation:
    """Nodes and what the server knows: frame [K, r], consensus [K, K], head [C, r] with NaN rows for unseen classes.

    Also, once training has begun, the adapters that all nodes share and those that a group of them has apart (see
    `sharing`), the rounds that are complete, and each one's mean loss terms. heads: node -> class directions, where
    nodes do not have `head` in common. votes: those that nodes voted for (`average.robust`).
    start_consensus: that of one-shot alignment, which `frame_update` moves away from. residuals: how far each node's
    anchors are from where the other modalities place them, for precision weights. left_out: nodes that get all that the
    others get and whose answers count for nothing (`align.outliers`, `average.robust`). refused: what did not count so
    far, a line each, as in `Tick`.
    run: of `messages.Message`. shared: group -> the model that its nodes train. away: nodes that do not live in this
    process, and how they are reached; `nodes` is empty then.
    """

    config: Config
    nodes: tuple[Node, ...]
    n_anchors: int
    anchor_hash: str
    n_classes: int
    ledger: Ledger
    consensus: Tensor | None = None
    frame: Tensor | None = None
    head: Tensor | None = None
    start_consensus: Tensor | None = None
    heads: dict[str, Tensor] = field(default_factory=dict)
    votes: Tensor | None = None
    adapters: dict[str, Tensor] = field(default_factory=dict)
    apart: sharing.Groups = field(default_factory=dict)
    round: int = 0
    history: tuple[dict[str, float], ...] = ()
    residuals: dict[str, float] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    refused: tuple[str, ...] = ()
    way: int = 0
    run: str = ""
    shared: dict[str, SharedModel] = field(default_factory=dict)
    away: tuple[tuple[Member, ...], Exchange] | None = None

    @property
    def members(self) -> tuple[Member, ...]:
        """All nodes, as the server knows them."""
        return self.nodes if self.away is None else self.away[0]

    @property
    def exchange(self) -> Exchange:
        """How nodes are reached."""
        return (
            InProcess(self.nodes, lambda node: node.reset(self.adapters_of(node)))
            if self.away is None
            else self.away[1]
        )

    @property
    def budget(self) -> Budget | None:
        """Noise and what it spends; None without differential privacy."""
        return budget_of(self.config)

    @property
    def heard(self) -> tuple[Member, ...]:
        """The nodes whose answers count."""
        return tuple(member for member in self.members if member.name not in self.left_out)

    def without(self, told: Mapping[str, str]) -> "Federation":
        """The federation that does not hear some nodes any more; told: each with a line that says why."""
        return replace(self, left_out=self.left_out | told.keys(), refused=(*self.refused, *told.values()))

    @property
    def width(self) -> int:
        """Coordinates of the frame, r."""
        return min(self.config.align.rank or DEFAULT_RANK, self.n_anchors - 1)

    def group(self, node: Member) -> str:
        """The nodes that a node has all adapters in common with."""
        return sharing.group_of(node.name, node.modality, self.config.average.across)

    def adapters_of(self, node: Member) -> dict[str, Tensor]:
        """All adapters of a node's model but those that stay at home."""
        return self.adapters | self.apart.get(self.group(node), {})

    def head_of(self, node: Member) -> Tensor | None:
        """Class directions for a node's coordinates."""
        return self.heads.get(node.name) if self.heads else self.head

    @property
    def ways(self) -> list[Fit]:
        """How nodes may fit; `way` is the number of the one that was chosen."""
        return ways_of(self.config.align)

    @property
    def last_round(self) -> int:
        """Number of the round after training: 0 and 1 are alignment."""
        return self.config.train.rounds + 2

    def down(self, node: Member, round: int, **fields: object) -> Down:
        """A message to a node, not sent yet."""
        return Down(node=node.name, round=round, anchor_hash=self.anchor_hash, run=self.run, **fields)  # type: ignore[arg-type]

    def send(self, node: Member, kind: str, round: int, **fields: object) -> Down:
        """The same as the node gets it, see `deliver`."""
        return self.deliver(node, kind, self.down(node, round, **fields))

    def deliver(self, node: Member, kind: str, down: Down, **known: Any) -> Down:
        """A message as the node gets it: over the ledger, and only if it is what the node expects in this round.

        Args:
            node: that gets it.
            kind: of `validation.KINDS`.
            down: from the server.
            known: more fields of `validation.Expected`.

        Raises:
            MessageError: it is something else; names the field.
        """
        expected = self._expected(node, kind, down.round, {"k": len(node.index)}, known)
        return self.ledger.carry(down, expected.read)

    def receive(self, node: Member, kind: str, round: int, up: Up | bytes, **known: Any) -> Up:
        """A node's message as the server gets it: over the ledger, and only if it is what was asked for.

        Args:
            node: that was asked.
            kind: of `validation.KINDS`.
            round: that the server is in.
            up: what the node answers, or its bytes.
            known: more fields of `validation.Expected`.

        Raises:
            MessageError: it is something else; names node and field.
        """
        expected = self._expected(node, kind, round, {}, {"modality": node.modality} | known)
        return (
            self.ledger.read(Up, up, expected.read) if isinstance(up, bytes) else self.ledger.carry(up, expected.read)
        )

    def tell(self, step: str, members: Sequence[Member], prepare: Callable[[Member], Down]) -> None:
        """Have nodes take a message each: a step of `local.steps` that gives none back."""
        exchange = self.exchange
        for member in members:
            exchange.tell(step, member, prepare(member))

    def ask(
        self,
        step: str,
        round: int,
        members: Sequence[Member],
        prepare: Callable[[Member], Down] | None = None,
        *,
        refused: dict[str, str] | None = None,
        heard: Heard = lambda node, terms: None,
        carried: bool = True,
        settle: bool = True,
        **known: Any,
    ) -> list[Up]:
        """Messages of nodes as the server gets them, in order of members: a step of `local.steps` that gives some.

        Args:
            step: of `local.steps.STEPS`.
            round: that the server is in.
            members: that are asked.
            prepare: the message that a node is asked with, as it gets it; one without arrays if not given.
            refused: gets for each node whose message cannot be used why not; if not given, the first one raises.
            heard: told who begins and who has done.
            carried: not where a node makes the message for itself.
            settle: look whether enough of the members have answered; who keeps values to itself has.
            known: more fields of `validation.Expected`.

        Raises:
            MessageError: a message that cannot be used, where `refused` is not given.
        """
        ups: list[Up] = []
        there: list[str] = []
        exchange = self.exchange
        bare = prepare or (lambda member: self.down(member, round))
        for member, answer in exchange.ask(Asked(step, round, members, bare, heard)):
            try:
                if isinstance(answer, MessageError):
                    raise answer
                got = answer if isinstance(answer, Up) and not carried else None
                ups.append(got or self.receive(member, STEPS[step].gives, round, answer, **known))
                there.append(member.name)
            except MessageError as error:
                there += [member.name] * (HELD_BACK in str(error))
                excused = exchange.excuse(member, error)
                if refused is not None:
                    refused[member.name] = str(error)
                elif not excused:
                    raise
        if settle:
            exchange.settle(members, there)
        return ups

    def _expected(
        self, node: Member, kind: str, round: int, lengths: dict[str, int], known: dict[str, Any]
    ) -> Expected:
        align, known = self.config.align, dict(known)
        lengths = {"K": self.n_anchors, "C": self.n_classes} | lengths | known.pop("lengths", {})
        if self.frame is not None or kind == "frame":
            lengths["r"] = self.width
        return Expected(
            kind,
            node.name,
            round,
            self.anchor_hash,
            lengths,
            align.rho,
            align.power,
            self.run,
            ways=len(self.ways),
            **known,
        )


def gather(
    data: FederatedData,
    config: Config,
    run: str = "",
    secret: bytes | None = None,
    *,
    ledger: Ledger | None = None,
    oversight: Oversight | None = None,
) -> Federation:
    """Nodes with their data and anchors; nothing is sent yet.

    Args:
        data: nodes and anchors.
        config: settings.
        run: its name in all messages, see `messages.Message`.
        secret: of the noise; it serves one run, see `noise`. One of its own if not given.
        ledger: that all messages go through; a new one if not given.
        oversight: of what leaves the nodes; one of its own if not given.

    Raises:
        ConfigError: settings that differential privacy refuses, also those of a copy that was never validated.
        EgressError: `egress.allow` lacks what a node has to send.
    """
    if refused := privacy.refusals(config):
        raise ConfigError(*refused)
    secret = secret or secret_of(config.privacy)
    oversight, size = oversight or Oversight(), len(data.anchors)
    nodes = tuple(
        Node(
            node,
            data.anchors_of(node),
            size,
            data.anchors.hash,
            config,
            run,
            len(data.classes),
            Noise(secret, node.name) if config.privacy.epsilon else None,
            oversight,
        )
        for node in sorted(data.nodes, key=lambda node: node.name)
    )
    return Federation(config, nodes, size, data.anchors.hash, len(data.classes), ledger or Ledger(), run=run)
