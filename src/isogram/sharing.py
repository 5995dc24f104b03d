"""Who shares what: the nodes that average an adapter, over all modalities, within one, or in between.

`average.across` says how far. A group is the nodes that end a round with the same adapters: all of them, those of a
modality, or each node alone.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from isogram import averaging, robust
from isogram.config import AverageConfig
from isogram.messages import Up
from isogram.model.node_model import OUT

ALL = ""
"""The group of all nodes."""

Groups = dict[str, dict[str, Tensor]]
"""Group -> tensors by name."""

_ATTENTION = re.compile(r"att(entio)?n", re.IGNORECASE)


def group_of(node: str, modality: str, across: str) -> str:
    """The group that a node is in."""
    return {"all": ALL, "alone": node}.get(across, modality)


def is_common(name: str, across: str) -> bool:
    """Whether a tensor of the shared model is the same in all groups.

    "trunk": but for the map from the trunk to coordinates. "attention": in layers with that in their name (FedCola,
    arXiv 2404.12467).
    """
    if across == "trunk":
        return name != OUT
    return across == "all" or (across == "attention" and bool(_ATTENTION.search(name)))


def split(states: Mapping[str, Mapping[str, Tensor]], across: str) -> tuple[dict[str, Tensor], Groups]:
    """What all groups have alike, and what each has apart; a group without anything apart is left out."""
    first = next(iter(states.values()))
    common = {name: value for name, value in first.items() if is_common(name, across)}
    apart = {g: {n: v for n, v in state.items() if n not in common} for g, state in states.items()}
    return common, {group: state for group, state in apart.items() if state}


def average(
    updates: Sequence[Up],
    previous: Mapping[str, Mapping[str, Tensor]],
    config: AverageConfig,
    residuals: Mapping[str, float] | None = None,
) -> tuple[Groups, list[str]]:
    """Averages of adapters for each group, by `averaging.average`; a group without an update keeps what it had.

    With `config.robust` changes are `robust.bounded` over all groups first.

    Args:
        updates: one per node.
        previous: group -> the adapters as they are now, of the same names in all groups.
        config: `across`, and the rule by which nodes weigh.
        residuals: for the rule "node".

    Returns:
        Group -> adapters, and a line for each that no node had evidence for.

    Raises:
        MessageError: as `averaging.average` does.
    """
    if config.robust != "none" and config.across != "alone":
        updates = _bounded(updates, previous, config.across)
    names = list(next(iter(previous.values())))
    common = [name for name in names if is_common(name, config.across)]
    own = [name for name in names if name not in common]
    found: Groups = {group: dict(before) for group, before in previous.items()}
    notes: list[str] = []
    if common:
        before = next(iter(previous.values()))
        values, notes = averaging.average(
            [_only(u, common) for u in updates], {name: before[name] for name in common}, config, residuals
        )
        for state in found.values():
            state |= values
    if own and config.across == "pooled":
        return _pooled([_only(u, own) for u in updates], found, config, residuals), notes
    for group, before in previous.items() if own else ():
        members = [_only(u, own) for u in updates if group_of(u.node, u.modality, config.across) == group]
        if members:
            values, more = averaging.average(members, {name: before[name] for name in own}, config, residuals)
            found[group] |= values
            notes += more
    return found, notes


def opposed(
    updates: Sequence[Up], previous: Mapping[str, Mapping[str, Tensor]], config: AverageConfig
) -> dict[str, str]:
    """Nodes whose updates point against the others' (`robust.opposed`), each with a line that says so.

    None without `config.robust`, or where nodes share nothing.

    Args:
        updates: that `averaging.refuse` let through.
        previous: as in `average`.
        config: `robust` and `across`.
    """
    if config.robust == "none" or config.across == "alone":
        return {}
    found = robust.opposed(_changes(updates, previous, config.across))
    why = "sent an update that points against the others': it is left out from here on"
    return {node: f"node {node!r} {why}" for node in found}


def _changes(
    updates: Sequence[Up], previous: Mapping[str, Mapping[str, Tensor]], across: str
) -> dict[str, dict[str, Tensor]]:
    before = {u.node: previous[group_of(u.node, u.modality, across)] for u in updates}
    return robust.changes({u.node: u.adapters for u in updates}, before)


def _bounded(updates: Sequence[Up], previous: Mapping[str, Mapping[str, Tensor]], across: str) -> list[Up]:
    """The updates, none of them longer than the median one."""
    cut = robust.bounded(_changes(updates, previous, across))
    before = {u.node: previous[group_of(u.node, u.modality, across)] for u in updates}
    return [
        replace(u, adapters={name: before[u.node][name].double() + change for name, change in cut[u.node].items()})
        for u in updates
    ]


def _only(update: Up, names: Iterable[str]) -> Up:
    kept = set(names)
    return replace(
        update,
        adapters={name: value for name, value in update.adapters.items() if name in kept},
        precision={name: value for name, value in update.precision.items() if name in kept},
    )


@dataclass(frozen=True)
class Pooling:
    """One tensor between "all" and "none": its mean over all nodes, each group's own, and how much of it is kept.

    mean, groups: float64, of the tensor's shape; kept: group -> c in [0, 1].
    """

    mean: Tensor
    groups: dict[str, Tensor]
    kept: dict[str, float]

    def value(self, group: str) -> Tensor:
        """[...] mean + c (its own - mean)."""
        return self.mean + self.kept[group] * (self.groups[group] - self.mean)


def pool(values: Sequence[Tensor], weights: Sequence[float], groups: Sequence[str]) -> Pooling:
    """Shrink each group's mean of a tensor towards the mean of all, by how far groups differ beyond what nodes do.

    With node n in group m(n), theta_n = mu + b_m + e_n, of variance t2 (between groups) and s2 (between the nodes of
    one) per entry: the posterior mean of mu + b_m keeps c_m = t2 / (t2 + v_m) of the group's own, v_m = s2 sum_m (w_n /
    W_m)^2 the variance of its mean. Both variances are estimated from the values by moments, over all p entries of the
    tensor: the James-Stein estimator towards a common mean (Efron & Morris 1973, "Stein's estimation rule and its
    competitors - an empirical Bayes approach"), for groups of unequal size (DerSimonian & Laird 1986). Groups that
    differ no more than chance are one (c = 0); far apart, each is its own (c = 1). The statistics are sums over nodes
    of w, w^2, w theta and w ||theta||^2. Where no group has two nodes nothing tells groups from nodes, and c = 0.

    Args:
        values: one tensor per node, all of one shape.
        weights: of the nodes, sum 1.
        groups: of the nodes.
    """
    p = max(values[0].numel(), 1)
    of: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        of.setdefault(group, []).append(i)
    total = {group: sum(weights[i] for i in members) for group, members in of.items()}
    of = {group: members for group, members in of.items() if total[group] > 0}
    share = {group: sum(weights[i] ** 2 for i in members) / total[group] ** 2 for group, members in of.items()}
    means, spread = {}, 0.0
    for group, members in of.items():
        means[group] = torch.stack([weights[i] / total[group] * values[i].double() for i in members]).sum(0)
        spread += sum(weights[i] * float((values[i] - means[group]).square().sum()) for i in members)
    mean = torch.stack([total[group] * own for group, own in means.items()]).sum(0)
    freedom = sum(total[group] * (1 - share[group]) for group in of)
    if freedom <= _NONE or len(of) < 2:
        return Pooling(mean, means, dict.fromkeys(of, 0.0))
    within = spread / (p * freedom)
    between = sum(total[group] * float((own - mean).square().sum()) for group, own in means.items()) / p
    chance = within * sum(total[group] * share[group] * (1 - total[group]) for group in of)
    apart = max(0.0, between - chance) / (1 - sum(total[group] ** 2 for group in of))
    return Pooling(mean, means, {group: apart / (apart + within * share[group]) if apart else 0.0 for group in of})


def _pooled(
    updates: Sequence[Up], previous: Groups, config: AverageConfig, residuals: Mapping[str, float] | None
) -> Groups:
    weights = averaging.node_weights(updates, config, residuals)
    updates = sorted(updates, key=lambda update: update.node)
    groups = [group_of(update.node, update.modality, config.across) for update in updates]
    found = {group: dict(before) for group, before in previous.items()}
    for name in updates[0].adapters:
        pooling = pool([u.adapters[name] for u in updates], [weights[u.node] for u in updates], groups)
        for group in pooling.groups:
            before = previous[group][name]
            found[group][name] = ((pooling.value(group) + config.prior * before) / (1 + config.prior)).float()
    return found


_NONE = 1e-12  # of weights that sum to 1
