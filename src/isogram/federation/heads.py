"""Class directions: by secure sums over labelled nodes, with noise, or by votes; shared by whom they mean the same."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from isogram import aggregation, robust
from isogram.errors import ConfigError, MessageError
from isogram.federation.exchange import Member
from isogram.federation.state import Federation
from isogram.local.rosters import HELD_BACK
from isogram.local.summing import names_of
from isogram.messages import Ledger, Up
from isogram.privacy import head_rank

_AS_THEY_WERE = "and class directions stay as they were"


def with_heads(fed: Federation, round: int) -> Federation:
    """The federation with class directions of its nodes as they are now, shared by all whose coordinates mean the same.

    Those are all nodes, but with `average.head_within`, or without a frame, the nodes of one modality (without a frame
    all, if adapters are averaged over all); a node alone has those of its own rows, and sends nothing. Directions by
    the anchors depend on the frame alone, not on what nodes have learnt: once made, they stay. So do those with noise,
    for each release costs. Where no sum can be made without showing a single node's, they stay as they were.
    """
    average = fed.config.average
    if average.robust != "none" and fed.frame is not None:
        return _voted(fed, round)
    once = fed.budget is not None or (average.head == "anchors" and fed.frame is not None)
    if once and (fed.head is not None or fed.heads):
        return fed
    alone = average.across == "alone"
    common = average.across == "all" if fed.frame is None else not average.head_within
    lines: list[str] = []
    if common and not alone:
        head = class_directions(fed, round, lines=lines)
        fed = replace(fed, refused=(*fed.refused, *lines))
        return fed if lines else replace(fed, head=head, heads={})
    heads: dict[str, Tensor] = {}
    for members in _groups(fed, "name" if alone else "modality"):
        ledger, kept = Ledger() if alone else fed.ledger, len(lines)
        head = class_directions(replace(fed, ledger=ledger), round, members, lines)
        found = {node.name: fed.heads.get(node.name) if len(lines) > kept else head for node in members}
        heads |= {name: own for name, own in found.items() if own is not None}
    return replace(fed, head=None, heads=heads, refused=(*fed.refused, *lines))


def _groups(fed: Federation, by: Literal["name", "modality"]) -> list[tuple[Member, ...]]:
    """The nodes that have class directions in common."""
    groups: dict[str, list[Member]] = {}
    for node in fed.members:
        groups.setdefault(getattr(node, by), []).append(node)
    return [tuple(members) for members in groups.values()]


def _voted(fed: Federation, round: int) -> Federation:
    """With `average.robust`: class directions by votes, or by sums that the votes confirm.

    Votes depend on the frame alone, as directions by the anchors do: once cast, they stay. Whose vote does not count is
    not heard any more, in sums neither. A sum has to be of two nodes or more: of one it would be bare. Of sums that are
    none nobody knows whose fault it is, or it may pass, as that of an update may: all are asked again the next time.

    Raises:
        MessageError: no vote that can be read.
    """
    average, votes, rule = fed.config.average, fed.votes, fed.config.average.robust
    assert rule != "none"
    if votes is None:
        told: dict[str, str] = {}
        sent = fed.ask("directions", round, [node for node in fed.heard if node.labelled], refused=told)
        told = {n: f"{line}; its vote does not count, and it is left out from here on" for n, line in told.items()}
        if not sent and told:
            raise MessageError(*told.values())
        if not sent:
            return replace(fed, head=None, heads={})
        votes, others = aggregation.merge_directions(sent, rule)
        fed = replace(fed.without(told | others), votes=votes)
    if average.head == "anchors":
        return replace(fed, head=votes, heads={})
    heads: dict[str, Tensor] = {}
    refused: list[str] = []
    for members in _groups(fed, "modality") if average.head_within else [fed.members]:
        head = votes
        names = [repr(node.name) for node in members if node in fed.heard and node.labelled]
        if len(names) > 1:
            try:
                lines: list[str] = []
                sums = class_directions(fed, round, members, lines)
                if sums is None:
                    raise MessageError(*lines)
                doubt, head = robust.doubt(sums, votes), robust.confirmed(sums, votes)
                doubt = doubt and f"class sums of nodes {', '.join(names[:-1])} and {names[-1]} {doubt}"
            except MessageError as error:
                doubt = str(error)
            if doubt:
                refused.append(f"{doubt}; votes are taken in the place of these sums")
        heads |= {node.name: head for node in members}
    return replace(fed, head=None, heads=heads, refused=(*fed.refused, *refused))


def class_directions(
    fed: Federation, round: int, among: Sequence[Member] | None = None, lines: list[str] | None = None
) -> Tensor | None:
    """[C, r] class directions from secure sums over the nodes that have labels; None if none has. Among all, or some.

    First counts, then sums of the classes that enough rows speak for: no sum of a few rows is ever seen. With
    `average.head = "anchors"` what is summed are directions that each node fits to its own view of the anchors, in the
    frame; where there is no frame, class sums. With "laplace" also the rows' second moment, if there are enough in all
    and of two nodes or more.

    A node that alone has labels gives them bare; one that is left alone, elsewhere, gives none. Of nodes elsewhere one
    that is lost before the total of the counts is left out; after that none can be: by the difference of two totals
    its counts would show. Nodes see to that, too (`local.rosters`).

    Args:
        fed: the federation.
        round: that the server is in.
        among: nodes that may be in the sums.
        lines: gets why there are no sums, where labelled nodes have made none.

    Raises:
        ConfigError: `average.robust` without a frame, in which alone votes could confirm a sum.
    """
    labelled = [node for node in fed.heard if node.labelled and (among is None or node in among)]
    if not labelled:
        return None
    if fed.config.average.robust != "none" and fed.frame is None:
        raise ConfigError(
            "average.robust needs a frame, in which class directions are compared, and this method has none; set "
            'average.robust = "none", or align first'
        )
    lines, whole = [] if lines is None else lines, len(labelled)
    # In this process nobody is lost, and the first line that is raised says what is wrong.
    refused: dict[str, str] | None = None if fed.away is None else {}
    while True:
        keys = aggregation.in_order(fed.ask("key", round, labelled))
        labelled = _still(labelled, keys)
        names, told = sorted(member.name for member in labelled), ", ".join(repr(up.node) for up in keys)
        parties: dict[str, Any] = {
            "keys": torch.stack([up.key for up in keys if up.key is not None]),
            "names": names_of(names),
        }
        if fed.budget is not None:
            return _noisy_directions(fed, round, labelled, parties)
        if len(labelled) == 1 < whole:
            lines.append(f"class sums over node {told} alone would be bare: there are none, {_AS_THEY_WERE}")
            return None
        prepare = partial(fed.send, kind="keys", round=round, **parties)
        counts = fed.ask("counts", round, labelled, prepare, refused=refused)
        if len(counts) == len(labelled):
            break
        if held := [line for line in (refused or {}).values() if HELD_BACK in line]:
            lines.append(f"{'; '.join(held)}; there are no class sums, {_AS_THEY_WERE}")
            return None
        # Masks of who is lost stay in the sum, so that nothing of it is seen: begin again without it.
        labelled = _still(labelled, counts)
    rows = aggregation.merge_counts(counts)
    evidence = (rows > 0).to(torch.uint8)
    # With fewer rows than coordinates a second moment would show the plane that these few lie in; of one node, its own.
    width = fed.nodes[0].coordinates if fed.frame is None else fed.frame.shape[1]
    enough = len(labelled) > 1 and float(rows.sum()) >= width
    second = int(fed.config.average.head == "laplace" and enough)
    by_anchors = fed.config.average.head == "anchors" and fed.frame is not None
    sums = fed.ask(
        "scores" if by_anchors else "head",
        round,
        labelled,
        lambda node: fed.send(node, "evidence", round, **parties, evidence=evidence, second=second),
        refused=refused,
        second=bool(second),
    )
    if len(sums) < len(labelled):
        why = "; ".join((refused or {}).values())
        lines.append(
            f"{why}; class counts of nodes {told} are summed, so that no class sums can be without it, {_AS_THEY_WERE}"
        )
        return None
    return aggregation.merge_heads(sums, evidence)


def _still(members: Sequence[Member], ups: Sequence[Up]) -> list[Member]:
    """Those of them that have answered."""
    answered = {up.node for up in ups}
    return [member for member in members if member.name in answered]


def _noisy_directions(fed: Federation, round: int, labelled: list[Member], parties: Mapping[str, Any]) -> Tensor:
    """The same under differential privacy: no counts, and sums of all classes."""
    assert fed.budget is not None and fed.frame is not None
    evidence = torch.ones(fed.n_classes, dtype=torch.uint8)
    sums = fed.ask(
        "noisy head", round, labelled, lambda node: fed.send(node, "evidence", round, **parties, evidence=evidence)
    )
    if len(sums) < len(labelled):
        raise MessageError("a node was lost while noisy class sums were made, which are made once: begin a new run")
    width = head_rank(fed.config.privacy, fed.n_classes, fed.frame.shape[1])
    return aggregation.merge_noisy_heads(sums, fed.frame, fed.budget.head, width)
