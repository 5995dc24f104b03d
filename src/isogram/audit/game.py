"""The game of an audit: each row of each node is in by a coin of its own, and an attacker says which are, by messages.

Canaries are rows of noise that belong to nobody's distribution: what a node learns of them it learns by heart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isogram.data import FederatedData, NodeData
from isogram.data.base import UNLABELLED, evaluation
from isogram.errors import ConfigError

Bools = NDArray[np.bool_]

MIN_ROWS = 8
"""Of a node, below which halves say nothing."""


@dataclass(frozen=True)
class Game:
    """Candidates: the nodes' rows, canaries last. labels: true classes where anybody knows them, else -1.

    data: with all candidates in; labels: node -> [n]; canaries: of each node; seed: of coins and noise.
    """

    data: FederatedData
    labels: Mapping[str, NDArray[np.int64]]
    canaries: int
    seed: int

    @classmethod
    def of(cls, data: FederatedData, canaries: int, seed: int) -> "Game":
        """The game on a federation's data.

        Raises:
            ConfigError: a node has too few rows to leave half of them out.
        """
        small = [node.name for node in data.nodes if len(node.tokens) < MIN_ROWS]
        if small:
            raise ConfigError(
                f"node {small[0]!r} has fewer than {MIN_ROWS} rows: an audit leaves half of them out; "
                "audit a run without it"
            )
        with evaluation():
            truth = {node.name: _truth(data, node, canaries) for node in data.nodes}
        nodes = tuple(_with_canaries(data, node, canaries, [seed, 1, i]) for i, node in enumerate(data.nodes))
        return cls(replace(data, nodes=nodes), truth, canaries, seed)

    def coins(self, replay: int) -> dict[str, Bools]:
        """Node -> [n] who is in, in one replay: fair and independent coins."""
        found = {}
        for number, node in enumerate(self.data.nodes):
            found[node.name] = np.random.default_rng([self.seed, 2, replay, number]).random(len(node.tokens)) < 0.5
        return found

    def played(self, coins: Mapping[str, Bools]) -> FederatedData:
        """The federation with only those rows that are in."""
        return replace(self.data, nodes=tuple(_kept(node, coins[node.name]) for node in self.data.nodes))

    def pool(self, modality: str) -> NodeData:
        """All candidates of one modality, in the order of node names: what the attacker knows of the population."""
        of = self.members(modality)
        labels = None
        if any(node.labels is not None for node in of):
            labels = np.concatenate([np.full(len(n.tokens), -1) if n.labels is None else n.labels for n in of])
        return NodeData(f"attacker of {modality}", modality, np.concatenate([n.tokens for n in of]), labels)

    def members(self, modality: str) -> list[NodeData]:
        """Nodes of a modality, by name."""
        of = [node for node in self.data.nodes if node.modality == modality]
        return sorted(of, key=lambda node: node.name)

    def places(self, modality: str) -> dict[str, slice]:
        """Where each node's candidates are in the pool."""
        found, start = {}, 0
        for node in self.members(modality):
            found[node.name] = slice(start, start + len(node.tokens))
            start += len(node.tokens)
        return found

    def is_canary(self, node: str) -> Bools:
        """[n] which candidates of a node are canaries."""
        n = next(len(of.tokens) for of in self.data.nodes if of.name == node)
        return np.arange(n) >= n - self.canaries


def _truth(data: FederatedData, node: NodeData, canaries: int) -> NDArray[np.int64]:
    known = data.held_out.private_labels(node.name) if data.held_out.knows_rows(node.name) else node.labels
    own = np.full(len(node.tokens), -1) if known is None else known
    return np.concatenate([own, np.full(canaries, -1)])


def _with_canaries(data: FederatedData, node: NodeData, canaries: int, seed: list[int]) -> NodeData:
    draw = np.random.default_rng(seed)
    public = data.anchors_of(node).tokens
    noise = draw.standard_normal((canaries, *public.shape[1:]))
    rows = (public.mean(0) + public.std(0) * noise).astype(np.float32)
    labels = node.labels
    if labels is not None:
        known = np.array(node.classes or (UNLABELLED,), dtype=np.int64)
        labels = np.concatenate([labels, draw.choice(known, canaries)])
    return replace(node, tokens=np.concatenate([node.tokens, rows]), labels=labels)


def _kept(node: NodeData, keep: Bools) -> NodeData:
    return replace(node, tokens=node.tokens[keep], labels=None if node.labels is None else node.labels[keep])
