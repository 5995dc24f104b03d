"""Averages of adapters: what each update weighs, and the weighted mean as they stream by.

Updates are those that `validation` let through, so that none can spoil a sum by its shape or by NaN.

theta = (prior theta_previous + sum_n L_n theta_n) / (prior + sum_n L_n): two plain sums over nodes n. L_n is a number,
or for the rule "parameter" the diagonal of the node's precision: the mode of the product of the nodes' Gaussian
posteriors (Al-Shedivat et al. 2021, "Federated Learning via Posterior Averaging", with diagonal covariances). Nodes
then send L_n and L_n theta_n (`local.precision_of`), so that both sums are plain, and a secure sum can carry them.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from isogram import robust
from isogram.aggregation import RESIDUAL_FLOOR, in_order
from isogram.config import AverageConfig
from isogram.errors import MessageError
from isogram.messages import Up
from isogram.soundness import is_finite

_NO_EVIDENCE = 1e-30  # float32 sums lose digits below; it takes gradients of 1e-15
_PIECE = 1 << 17  # numbers at a time, so that what is made on the way stays small


def node_weights(
    updates: Sequence[Up], config: AverageConfig, residuals: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Weight of each node's adapters, in node order; they sum to 1.

    By rule: 1; N_n; N_n over the residual of the node's anchors; 1, for its precisions count a node's rows already. The
    cap bounds a node's share of the total, for the rule "parameter" that of the sum of all precisions.

    Args:
        updates: one per node.
        config: the rule.
        residuals: of `aggregation.node_residuals`, for the rule "node".

    Raises:
        MessageError: the rule "node" without the residual of a node.
    """
    updates = in_order(updates)
    shares: dict[str, float] = {}
    for update in updates:
        share = float(update.samples) if config.rule in ("samples", "node") else 1.0
        if config.rule == "node":
            if residuals is None or update.node not in residuals:
                raise MessageError(f'node {update.node!r} sent no Gram to weigh it by; set average.rule = "samples"')
            share /= max(residuals[update.node], RESIDUAL_FLOOR)
        shares[update.node] = share
    if config.cap < 1:
        mass = {update.node: _mass(update, config) for update in updates}
        capped = _capped({node: share * mass[node] for node, share in shares.items()}, config.cap)
        shares = {node: share / mass[node] if mass[node] else 0.0 for node, share in capped.items()}
    total = sum(shares.values())
    dealt = dealers([update.node for update in updates], config)
    return {node: shares[dealer] / total if total else 1 / len(shares) for node, dealer in dealt.items()}


def dealers(nodes: Sequence[str], config: AverageConfig) -> dict[str, str]:
    """Whose weight and precision each node's adapters get: its own, unless they are shuffled, the control.

    A rule that weighs by anything real has to beat the same weights at other nodes.
    """
    if not config.shuffle or len(nodes) < 2:
        return {node: node for node in nodes}
    rng = np.random.default_rng(config.shuffle)
    order = rng.permutation(len(nodes))
    while (order == np.arange(len(nodes))).all():
        order = rng.permutation(len(nodes))
    return {node: nodes[dealer] for node, dealer in zip(nodes, order, strict=True)}


def _capped(shares: Mapping[str, float], cap: float) -> dict[str, float]:
    """Shares of sum 1, none above the cap: what is cut off goes to the others in proportion, or all get the same."""
    some = {node for node, share in shares.items() if share > 0}
    if cap * len(some) <= 1:
        return {node: 1 / len(some) if node in some else 0.0 for node in shares}
    full: set[str] = set()
    while True:
        rest = some - full
        scale = (1 - cap * len(full)) / sum(shares[node] for node in sorted(rest))
        over = {node for node in rest if shares[node] * scale > cap}
        if not over:
            return {node: cap if node in full else scale * share for node, share in shares.items()}
        full |= over


def _mass(update: Up, config: AverageConfig) -> float:
    """Sum of all precisions that a node sent; 1 where the rule has no use for them."""
    if config.rule != "parameter":
        return 1.0
    return sum(float(value.sum(dtype=torch.float64)) for _, value in sorted(update.precision.items()))


class WeightedSum:
    """The weighted mean of updates that come one after the other, in node order; not one of them is kept.

    For one number per node sums are in float64; for the rule "parameter", which takes a second sum of each parameter's
    precision, in float32.
    """

    def __init__(self, previous: Mapping[str, Tensor], config: AverageConfig) -> None:
        self._previous, self._config = previous, config
        self._nodes: list[str] = []
        of_parameters = config.rule == "parameter"
        kind = torch.float32 if of_parameters else torch.float64
        shapes = {key: value.shape for key, value in previous.items()}
        self._values = _zeros(shapes, kind)
        self._weights = _zeros(shapes if of_parameters else dict.fromkeys(shapes, torch.Size()), kind)

    def add(self, update: Up, weight: float) -> None:
        """Add L theta and L of each adapter that the update has.

        Args:
            update: of a node whose name comes after those before.
            weight: of `node_weights`.

        Raises:
            MessageError: a precision that the rule needs is absent; names node and key.
            ValueError: nodes out of order: sums would depend on who answered first.
        """
        if self._nodes and update.node <= self._nodes[-1]:
            raise ValueError(f"node {update.node!r} after {self._nodes[-1]!r}: add updates in the order of node names")
        by_parameter = self._config.rule == "parameter"
        for key in update.adapters if by_parameter else ():
            if key not in update.precision:
                raise MessageError(
                    f"node {update.node!r} sent no precision of {key!r}; set average.rule the same at every node"
                )
        self._nodes.append(update.node)
        for key, value in update.adapters.items():
            for values, product in _pieces(self._values[key], value):
                values.add_(product, alpha=weight)
            if by_parameter:
                self._weights[key].add_(update.precision[key], alpha=weight)
            else:
                self._weights[key] += weight

    def add_sums(self, nodes: Sequence[str], fields: Mapping[str, Tensor]) -> None:
        """Add what a secure sum has of several nodes, as `local.SummingNode.summand` names it."""
        self._nodes += nodes
        for key, values in self._values.items():
            values.add_(fields[f"adapters/{key}"])
            self._weights[key].add_(fields[f"precision/{key}" if self._config.rule == "parameter" else "weight"])

    def result(self) -> tuple[dict[str, Tensor], list[str]]:
        """The averages, float32, and a line for each key that no node had evidence for: it keeps its previous value.

        So does a single parameter whose precisions are all 0. More updates may be added afterwards.

        Raises:
            MessageError: a sum is too large for float32; names the key.
        """
        found, without = {}, []
        for key, previous in self._previous.items():
            evidence = float(self._weights[key].mean()) if previous.numel() else 0.0
            prior = self._config.prior * evidence
            if previous.numel() and evidence <= _NO_EVIDENCE:
                without.append(
                    f"nodes {', '.join(map(repr, self._nodes))} have no evidence on {key!r}: it stays as it was"
                )
            out = torch.empty(previous.shape, dtype=torch.float32)
            weights = self._weights[key].expand(previous.shape)
            for target, before, values, total in _pieces(out, previous, self._values[key], weights):
                mean = (values + prior * before) / (total + prior)
                target.copy_(torch.where(total > _NO_EVIDENCE, mean, before))
            if not (math.isfinite(evidence) and is_finite(out)):
                raise MessageError(f"the precisions of {key!r} are too large to be summed; lower average.temper")
            found[key] = out
        return found, without


def average(
    updates: Iterable[Up],
    previous: Mapping[str, Tensor],
    config: AverageConfig,
    residuals: Mapping[str, float] | None = None,
) -> tuple[dict[str, Tensor], list[str]]:
    """Average updates: see `node_weights` for the weights, `WeightedSum` for what it returns.

    With `config.robust` the average is `robust.middle`, which weighs nobody.

    Raises:
        MessageError: as these two.
    """
    updates = in_order(list(updates))
    if config.robust != "none":
        rule, share = config.robust, config.prior / (1 + config.prior)
        found = {key: robust.middle([update.adapters[key] for update in updates], rule) for key in previous}
        return {key: torch.lerp(value, previous[key].double(), share).float() for key, value in found.items()}, []
    weights = node_weights(updates, config, residuals)
    if config.rule == "parameter" and config.shuffle:
        updates = _shuffled(updates, previous, config)
    sums = WeightedSum(previous, config)
    for update in updates:
        sums.add(update, weights[update.node])
    return sums.result()


def _shuffled(updates: Sequence[Up], previous: Mapping[str, Tensor], config: AverageConfig) -> list[Up]:
    """The same adapters, each under the precision of the node that `dealers` names."""
    precision = {update.node: update.precision for update in updates}
    out = []
    for update in updates:
        other = precision[dealers(list(precision), config)[update.node]]
        adapters = {}
        for key, product in update.adapters.items():
            own = update.precision[key]
            theta = torch.where(own > 0, product / own, previous[key])  # unknown where the node had no evidence
            adapters[key] = other[key] * theta
        out.append(replace(update, adapters=adapters, precision=other))
    return out


def _zeros(shapes: Mapping[str, torch.Size], dtype: torch.dtype) -> dict[str, Tensor]:
    """Zeros of each shape, in one piece of memory, which is added to faster than many."""
    sizes = [shape.numel() for shape in shapes.values()]
    parts = torch.zeros(sum(sizes), dtype=dtype).split(sizes)
    return {key: part.view(shapes[key]) for key, part in zip(shapes, parts, strict=True)}


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same numbers of each tensor, some at a time, so that what is made of them stays small and near."""
    if tensors[0].numel() <= _PIECE:
        yield tensors
    else:
        yield from zip(*(tensor.reshape(-1).split(_PIECE) for tensor in tensors), strict=True)
