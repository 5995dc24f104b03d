"""Nodes that lie, to try what a federation survives: what they hold is changed, or what they send.

A ledger of this kind stands between node and server, so that everything else is the product's own:

    liars = spread(data, seed=0)
    ledger = HostileLedger(liars, scaled)
    fed = federation.train(federation.align(data, config, ledger=ledger))

A liar computes as it should and changes its messages; `flip_labels` and `permute_anchors` change its data, and it
computes on these. Benchmark: `benchmarks/hostile.py`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from isogram.data import FederatedData
from isogram.data.base import NodeData
from isogram.data.distort import generator
from isogram.errors import ConfigError
from isogram.messages import Down, Ledger, M, Up
from isogram.secure_sum import fixed_point
from isogram.validation import MOST_SAMPLES

SHARE = 1 / 3
"""Of the nodes, that lie: what the robust options are made for."""

FACTOR, TURNED = 100.0, -10.0
"""Of `scaled` and `sign_flipped`."""

LITTLE = 1.5
"""Of `a_little`: standard deviations, as in the experiments of Baruch et al."""

Adapters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Known:
    """What a liar knows when it sends an update.

    before: adapters that the round began with. changes: of these, in the latest honest update of each liar that has
    made one so far, its own last; others' of this round where they came first, else of the round before.
    """

    before: Adapters
    changes: Sequence[Adapters]


Lie = Callable[[Up, Known], Up]


def scaled(up: Up, known: Known, factor: float = FACTOR) -> Up:
    """An update whose change is `factor` times what it should be; it claims all rows there are, if asked."""
    changed = {name: known.before[name] + factor * change for name, change in known.changes[-1].items()}
    return replace(up, adapters=changed, samples=MOST_SAMPLES if up.samples else 0)


def sign_flipped(up: Up, known: Known) -> Up:
    """The opposite of what the node has learnt, ten times."""
    return replace(scaled(up, known, TURNED), samples=up.samples)


def a_little(up: Up, known: Known) -> Up:
    """All liars send their mean, moved by a little in every coordinate (Baruch et al. 2019, "A Little Is Enough").

    Little enough to hide among honest nodes that differ as the liars' own honest updates do: `LITTLE` standard
    deviations, against the direction that the mean goes.
    """
    changed = {}
    for name in known.changes[-1]:
        found = torch.stack([change[name] for change in known.changes])
        mean, sd = found.mean(0), found.std(0, correction=0)
        changed[name] = known.before[name] + mean - LITTLE * sd * mean.sign()
    return replace(up, adapters=changed)


def inner_product(up: Up, known: Known) -> Up:
    """All liars send the opposite of their mean, as long as it is (Xie et al. 2019, "Fall of Empires", epsilon 1)."""
    changed = {}
    for name in known.changes[-1]:
        changed[name] = known.before[name] - torch.stack([change[name] for change in known.changes]).mean(0)
    return replace(up, adapters=changed)


def spoilt_sums(up: Up, known: Known) -> Up:
    """Honest but for its masked class sums, to which it adds `FACTOR` rows of a direction of its own for each class."""
    if up.head is None:
        return up
    draw = torch.Generator().manual_seed(up.round)
    turned = normalize(torch.randn(up.head.shape, generator=draw, dtype=torch.float64), dim=1)
    return replace(up, head=up.head + fixed_point(FACTOR * turned))


class HostileLedger(Ledger):
    """Carries messages like any ledger; those of `liars` are changed before they leave the node."""

    def __init__(self, liars: Collection[str], lie: Lie) -> None:
        super().__init__()
        self._liars, self._lie = frozenset(liars), lie
        self._before: dict[str, dict[str, Tensor]] = {}
        self._changes: dict[str, Adapters] = {}

    def carry(self, message: M, read: Callable[[type[M], bytes], M] | None = None) -> M:
        """As `Ledger.carry`."""
        if message.node in self._liars:
            if isinstance(message, Up):
                message = cast(M, self._lie(message, self._known(message)))
            elif isinstance(message, Down):
                self._before.setdefault(message.node, {}).update(message.adapters)
        return super().carry(message, read)

    def _known(self, up: Up) -> Known:
        """Adapters that no average has come of yet have begun at 0, as those of all low-rank methods do."""
        before = {name: torch.zeros_like(value) for name, value in up.adapters.items()}
        before |= {name: value for name, value in self._before.get(up.node, {}).items() if name in before}
        if up.adapters:
            self._changes.pop(up.node, None)
            self._changes[up.node] = {name: value - before[name] for name, value in up.adapters.items()}
        there = [change for change in self._changes.values() if change.keys() == up.adapters.keys()]
        return Known(before, there if up.adapters else [{}])


def spread(data: FederatedData, *, seed: int, share: float = SHARE) -> tuple[str, ...]:
    """Names of a share of the nodes, as many of each modality as can be; never all nodes of one.

    Raises:
        ConfigError: there is no such node, for a share so small or modalities of one node.
    """
    draw = generator(seed, "hostile")
    groups = [[node.name for node in data.nodes if node.modality == modality] for modality in data.modalities]
    groups = [list(draw.permutation(groups[g])) for g in draw.permutation(len(groups))]
    spare = [group[1:] for group in groups]
    turns = [str(group[turn]) for turn in range(max(map(len, spare))) for group in spare if turn < len(group)]
    names = turns[: int(share * len(data.nodes) + 1e-9)]
    if not names:
        raise ConfigError(f"share={share} of {len(data.nodes)} nodes, one of each modality honest, is none: take more")
    return tuple(sorted(names))


def flip_labels(data: FederatedData, liars: Collection[str]) -> FederatedData:
    """Every label of a liar is the next of the classes that it holds. Nodes without labels stay as they are."""

    def flipped(node: NodeData) -> NodeData:
        if node.labels is None or len(node.classes) < 2:
            return node
        following = dict(zip(node.classes, (*node.classes[1:], node.classes[0]), strict=True))
        return replace(node, labels=np.array([following.get(label, label) for label in node.labels.tolist()]))

    return _changed(data, liars, flipped)


def permute_anchors(data: FederatedData, liars: Collection[str], *, seed: int, together: bool) -> FederatedData:
    """The anchors of liars in a wrong order: each node's own, or, `together`, the same for all that hold as many."""

    def permuted(node: NodeData) -> NodeData:
        anchors = data.anchors_of(node)
        order = generator(seed, "order", "" if together else node.name).permutation(len(anchors.index))
        return replace(node, anchors=replace(anchors, tokens=anchors.tokens[order]))

    return _changed(data, liars, permuted)


def _changed(data: FederatedData, liars: Collection[str], change: Callable[[NodeData], NodeData]) -> FederatedData:
    nodes = tuple(change(node) if node.name in liars else node for node in data.nodes)
    return replace(data, nodes=nodes, all_paired=None)
