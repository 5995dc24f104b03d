"""Secure sums over nodes, wherever they live: four questions, and at each of them some nodes may be lost."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isogram.alignment import consensus_of_sums
from isogram.alignment import unpack as unpack_gram
from isogram.averaging import WeightedSum
from isogram.errors import MessageError
from isogram.federation.exchange import Member
from isogram.federation.state import Federation
from isogram.local.summing import bytes_of, rows_of, sum_label
from isogram.messages import Down
from isogram.secure_sum import Collector, default_threshold, scale_for, unpack
from isogram.secure_sum.recovery import PARCEL

MOST_ROWS, MOST_VALUE = 2.0**17, 16.0
"""Of one node, and of an adapter's numbers: a node with more is left out of a sum, with a line that says so.

The wider they are the coarser are sums. With more rows nodes can weigh alike: `average.rule = "uniform"`.
"""


@dataclass(frozen=True)
class Summed:
    """fields: sums over `nodes`, float64. refused: why a node is not among them, by its name."""

    fields: dict[str, Tensor]
    nodes: tuple[str, ...]
    refused: dict[str, str]


def secure_sum(
    fed: Federation,
    round: int,
    members: Sequence[Member],
    shapes: Mapping[str, tuple[int, ...]],
    largest: Mapping[str, float],
    threshold: int | None = None,
) -> Summed:
    """The sum of what nodes have made and kept (`local.SummingNode.summand`): their server sees nothing else of it.

    Args:
        fed: the federation.
        round: that the server is in.
        members: that are asked; two or more.
        shapes: of the fields of each node's summand.
        largest: of each field, the largest absolute value that a node may give; a node with a larger one is left out.
        threshold: how many nodes have to stay until the end; `secure_sum.default_threshold` if not given.

    Raises:
        MessageError: fewer than the threshold are left, or shares that do not fit; see `secure_sum.Collector`.
        FederationError: fewer than the quorum answer.
    """
    refused: dict[str, str] = {}
    sent = fed.ask("pair", round, members, refused=refused)
    pairs = {up.node: up.pair.numpy().tobytes() for up in sent if up.pair is not None}
    needed = default_threshold(len(pairs)) if threshold is None else threshold
    collector = Collector(sum_label(fed.run, round), pairs, needed)
    names, n_fields = collector.roster.names, sum(math.prod(shape) for shape in shapes.values())

    def still(answered: Sequence[str]) -> tuple[list[Member], Tensor]:
        present = torch.tensor([name in answered for name in names], dtype=torch.uint8)
        return [member for member in members if member.name in answered], present

    def told(kind: str, **arrays: object) -> Callable[[Member], Down]:
        return lambda member: fed.send(member, kind, round, **arrays)

    roster = {
        "names": torch.frombuffer(bytearray(json.dumps(names).encode()), dtype=torch.uint8),
        "pairs": rows_of(pairs, names, 0),
        "threshold": needed,
    }
    there, _ = still(names)
    lengths = {"m": len(names), "v": n_fields}
    sent = fed.ask("parcels", round, there, told("pairs", **roster), refused=refused, lengths=lengths)
    parcels = {up.node: bytes_of(up.parcels, names) for up in sent if up.parcels is not None}
    routed = collector.route({node: {to: p for to, p in own.items() if to != node} for node, own in parcels.items()})

    scales = {name: scale_for(largest[name], len(names)) for name in shapes}
    in_order = torch.tensor([scales[name] for name in sorted(scales)])
    there, present = still(list(routed))

    def sealed(member: Member) -> Down:
        own = rows_of(routed[member.name], names, PARCEL)
        return fed.send(member, "sealed", round, parcels=own, present=present, scales=in_order)

    for up in fed.ask("summand", round, there, sealed, refused=refused, lengths=lengths):
        assert up.summand is not None
        collector.add(up.node, up.summand)
    survivors = collector.close()

    there, present = still(survivors)
    sent = fed.ask("shares", round, there, told("present", present=present), refused=refused, lengths=lengths)
    shares = {up.node: bytes_of(up.shares, names) for up in sent if up.shares is not None}
    total = collector.total({node: {of: own[of] for of in routed} for node, own in shares.items()})
    missing = {name: line for name, line in refused.items() if name not in survivors}
    return Summed(unpack(total, shapes, scales), tuple(survivors), missing)


def consensus(fed: Federation) -> tuple[Tensor, dict[str, str]]:
    """The consensus [K, K] of Grams by a secure sum (`align.secure`), and why nodes are not in it.

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
    return consensus_of_sums(*(unpack_gram(found.fields[field]) for field in fields)), found.refused


def average(
    fed: Federation,
    round: int,
    previous: Mapping[str, Tensor],
    members: Sequence[Member],
    prepare: Callable[[Member], Down],
) -> tuple[dict[str, Tensor], list[str], dict[str, str]]:
    """Averages of adapters by a secure sum of what nodes make of a round (`average.secure`).

    Args:
        fed: the federation.
        round: that the server is in.
        previous: the adapters that train in this round, as they are.
        members: whose updates are averaged; of fewer than two nothing can be summed, and all stays as it is.
        prepare: what each of them trains on.

    Returns:
        The averages, a line for each adapter that nobody had evidence for, and why nodes are not in them.

    Raises:
        MessageError, FederationError: as `secure_sum` does.
    """
    if len(members) < 2:
        why = "a sum over one node would show its update: it stays at home, and adapters stay as they were"
        return dict(previous), [], {member.name: f"node {member.name!r}: {why}" for member in members}
    config = fed.config.average
    fed.tell("trained", members, prepare)
    weight = 1.0 if config.rule == "uniform" else MOST_ROWS
    weight *= config.clip if config.rule == "parameter" else 1.0
    shapes = {f"adapters/{name}": tuple(value.shape) for name, value in previous.items()}
    largest = dict.fromkeys(shapes, weight * MOST_VALUE)
    of = {f"precision/{name}": tuple(value.shape) for name, value in previous.items()}
    weights: dict[str, tuple[int, ...]] = of if config.rule == "parameter" else {"weight": ()}
    found = secure_sum(fed, round, members, shapes | weights, largest | dict.fromkeys(weights, weight))
    total = WeightedSum(previous, config)
    total.add_sums(found.nodes, found.fields)
    return *total.result(), found.refused
