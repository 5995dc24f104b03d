"""Secure sums over nodes, wherever they live: four questions, and at each of them some nodes may be lost."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isogram.alignment import consensus_of_sums
from isogram.alignment import unpack as unpack_gram
from isogram.averaging import WeightedSum
from isogram.errors import MessageError
from isogram.federation.exchange import Member
from isogram.federation.state import Federation
from isogram.local.rosters import HELD_BACK
from isogram.local.summing import bytes_of, names_of, rows_of, sum_label
from isogram.messages import Down, Up
from isogram.secure_sum import Collector, SpoiltError, blamed, default_threshold, scale_for, unpack
from isogram.secure_sum.recovery import PARCEL

MOST_ROWS, MOST_VALUE = 2.0**17, 16.0
"""Of one node, and of an adapter's numbers: a node with more is left out of a sum, with a line that says so.

The wider they are the coarser are sums. With more rows nodes can weigh alike: `average.rule = "uniform"`.
"""


@dataclass(frozen=True)
class Summed:
    """fields: sums over `nodes`, float64. refused: why a node is not among them, by its name.

    spoilt: what nodes did that are, and whose shares were left out.
    """

    fields: dict[str, Tensor]
    nodes: tuple[str, ...]
    refused: dict[str, str]
    spoilt: tuple[str, ...] = ()


@dataclass
class Attendance:
    """Who was lost in the sums of one round: the quorum is of all nodes, whichever sum they are in."""

    fed: Federation
    round: int
    lost: set[str] = field(default_factory=set)

    def ask(
        self,
        step: str,
        members: Sequence[Member],
        refused: dict[str, str],
        prepare: Callable[[Member], Down] | None = None,
        **lengths: int,
    ) -> list[Up]:
        """As `Federation.ask`, of the members of a sum.

        Raises:
            FederationError: fewer than the quorum are there; nothing of the sum is seen.
        """
        fed, told = self.fed, dict[str, str]()
        ups = fed.ask(step, self.round, members, prepare, refused=told, settle=False, lengths=lengths)
        refused |= told
        names = {member.name for member in members}
        # Who keeps values to itself, or cannot open what another sent, is there.
        self.lost |= {name for name, line in told.items() if HELD_BACK not in line and not blamed(line, names)}
        fed.exchange.settle(fed.heard, [member.name for member in fed.heard if member.name not in self.lost])
        return ups


def secure_sum(
    fed: Federation,
    round: int,
    members: Sequence[Member],
    shapes: Mapping[str, tuple[int, ...]],
    largest: Mapping[str, float],
    threshold: int | None = None,
    attendance: Attendance | None = None,
) -> Summed:
    """The sum of what nodes have made and kept (`local.SummingNode.summand`): their server sees nothing else of it.

    Where too few are left because they cannot open what one node sent them, all begin once more without that node.

    Args:
        fed: the federation.
        round: that the server is in.
        members: that are asked; two or more.
        shapes: of the fields of each node's summand.
        largest: of each field, the largest absolute value that a node may give; a node with a larger one is left out.
        threshold: how many nodes have to stay until the end; `secure_sum.default_threshold` if not given.
        attendance: of the round, if it has more sums than this one.

    Raises:
        MessageError: fewer than the threshold are left, or shares that do not fit; see `secure_sum.Collector`. Says of
            each node that is not there why not.
        FederationError: fewer than the quorum answer.
    """
    attendance = attendance or Attendance(fed, round)
    refused: dict[str, str] = {}
    try:
        try:
            return _sum(attendance, members, shapes, largest, threshold, refused)
        except SpoiltError as error:
            refused.clear()
            refused[error.node] = str(error)
            attendance.lost.add(error.node)
            rest = [member for member in members if member.name != error.node]
            return _sum(attendance, rest, shapes, largest, threshold, refused)
    except MessageError as error:
        lines = [line for line in refused.values() if line not in error.problems]
        raise MessageError(*error.problems, *lines) from error


def _sum(
    attendance: Attendance,
    members: Sequence[Member],
    shapes: Mapping[str, tuple[int, ...]],
    largest: Mapping[str, float],
    threshold: int | None,
    refused: dict[str, str],
) -> Summed:
    """One sum; `SpoiltError` where it can begin again without a node."""
    fed, round = attendance.fed, attendance.round
    sent = attendance.ask("pair", members, refused)
    pairs = {up.node: up.pair.numpy().tobytes() for up in sent if up.pair is not None}
    needed = default_threshold(len(pairs)) if threshold is None else threshold
    collector = Collector(sum_label(fed.run, round), pairs, needed)
    names, n_fields = collector.roster.names, sum(math.prod(shape) for shape in shapes.values())

    def still(answered: Sequence[str]) -> tuple[list[Member], Tensor]:
        present = torch.tensor([name in answered for name in names], dtype=torch.uint8)
        return [member for member in members if member.name in answered], present

    def told(kind: str, **arrays: object) -> Callable[[Member], Down]:
        return lambda member: fed.send(member, kind, round, **arrays)

    roster = {"names": names_of(names), "pairs": rows_of(pairs, names, 0), "threshold": needed}
    there, _ = still(names)
    lengths = {"m": len(names), "v": n_fields}
    sent = attendance.ask("parcels", there, refused, told("pairs", **roster), **lengths)
    parcels = {up.node: bytes_of(up.parcels, names) for up in sent if up.parcels is not None}
    routed = collector.route({node: {to: p for to, p in own.items() if to != node} for node, own in parcels.items()})

    scales = {name: scale_for(largest[name], len(names)) for name in shapes}
    in_order = torch.tensor([scales[name] for name in sorted(scales)])
    there, present = still(list(routed))

    def sealed(member: Member) -> Down:
        own = rows_of(routed[member.name], names, PARCEL)
        return fed.send(member, "sealed", round, parcels=own, present=present, scales=in_order)

    for up in attendance.ask("summand", there, refused, sealed, **lengths):
        assert up.summand is not None
        collector.add(up.node, up.summand)
    try:
        survivors = collector.close()
    except MessageError as error:
        raise _spoilt_by(refused, names) or error from None

    there, present = still(survivors)
    sent = attendance.ask("shares", there, refused, told("present", present=present), **lengths)
    shares = {up.node: bytes_of(up.shares, names) for up in sent if up.shares is not None}
    total, spoilt = _total(collector, {node: {of: own[of] for of in routed} for node, own in shares.items()})
    missing = {name: line for name, line in refused.items() if name not in survivors}
    return Summed(unpack(total, shapes, scales), tuple(survivors), missing, spoilt)


def _spoilt_by(refused: Mapping[str, str], names: Sequence[str]) -> SpoiltError | None:
    """Whose parcels most nodes cannot open, if any."""
    by = {node: culprit for node, line in refused.items() if (culprit := blamed(line, names))}
    if not by:
        return None
    worst = Counter(by.values()).most_common(1)[0][0]
    those = ", ".join(repr(node) for node, culprit in by.items() if culprit == worst)
    return SpoiltError(worst, f"node {worst!r} sent shares that nodes cannot open ({those}): left out of the sum")


def _total(collector: Collector, shares: dict[str, dict[str, bytes]]) -> tuple[Tensor, tuple[str, ...]]:
    """The sum by the shares that fit, and a line for each node whose shares do not."""
    lines: list[str] = []
    while True:
        try:
            return collector.total(shares), tuple(lines)
        except SpoiltError as error:
            del shares[error.node]
            lines.append(f"{error}; the sum is that of the others' shares, and has this node's values")
        except MessageError as error:
            raise MessageError(*error.problems, *lines) from error


def consensus(fed: Federation) -> tuple[Tensor, list[str]]:
    """The consensus [K, K] of Grams by a secure sum (`align.secure`); lines for nodes that are not in it, or spoilt it.

    Raises:
        AnchorError: as `alignment.consensus`.
        MessageError, FederationError: as `secure_sum`; or there is one node alone, whose Gram the sum would be.
    """
    if len(fed.heard) < 2:
        raise MessageError("align.secure sums the Grams of two nodes or more, and there is one: set it to false")
    fed.tell("kept gram", fed.heard, lambda node: fed.down(node, 0))
    shape = (fed.n_anchors * (fed.n_anchors + 1) // 2,)
    fields = ("gram", "weight")
    found = secure_sum(fed, 0, fed.heard, dict.fromkeys(fields, shape), dict.fromkeys(fields, 1.0))
    lines = [f"{line}; its Gram is not in the consensus" for line in found.refused.values()]
    total = consensus_of_sums(*(unpack_gram(found.fields[field]) for field in fields))
    return total, [*lines, *found.spoilt]


def average(
    fed: Federation,
    round: int,
    previous: Mapping[str, Tensor],
    members: Sequence[Member],
    prepare: Callable[[Member], Down],
    attendance: Attendance,
) -> tuple[dict[str, Tensor], list[str]]:
    """Averages of adapters by a secure sum of what nodes make of a round (`average.secure`).

    Args:
        fed: the federation.
        round: that the server is in.
        previous: the adapters that train in this round, as they are.
        members: whose updates are averaged; where nothing can be summed, all stays as it is.
        prepare: what each of them trains on.
        attendance: of the round.

    Returns:
        The averages; and a line for each node that is not in them, or spoilt them, and for each adapter that nobody had
        evidence for.

    Raises:
        FederationError: fewer than the quorum are there.
    """
    if len(members) < 2:
        why = "a sum over one node would show its update: it stays at home, and adapters stay as they were"
        return dict(previous), [f"node {member.name!r}: {why}; it is left out of this round" for member in members]
    config = fed.config.average
    fed.tell("trained", members, prepare)
    weight = 1.0 if config.rule == "uniform" else MOST_ROWS
    weight *= config.clip if config.rule == "parameter" else 1.0
    shapes = {f"adapters/{name}": tuple(value.shape) for name, value in previous.items()}
    largest = dict.fromkeys(shapes, weight * MOST_VALUE)
    of = {f"precision/{name}": tuple(value.shape) for name, value in previous.items()}
    weights: dict[str, tuple[int, ...]] = of if config.rule == "parameter" else {"weight": ()}
    largest |= dict.fromkeys(weights, weight)
    try:
        found = secure_sum(fed, round, members, shapes | weights, largest, attendance=attendance)
    except MessageError as error:
        those = ", ".join(repr(member.name) for member in members)
        return dict(previous), [f"{'; '.join(error.problems)}; adapters of nodes {those} stay as they were"]
    total = WeightedSum(previous, config)
    total.add_sums(found.nodes, found.fields)
    averages, unknown = total.result()
    lines = [f"{line}; it is left out of this round" for line in found.refused.values()]
    return averages, [*lines, *found.spoilt, *unknown]
