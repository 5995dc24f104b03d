"""What is compared: one federation's rows under four protocols, each with every message that the server saw.

The server is the attacker here. Whatever nodes send it has; what it sends them it has, too.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from isogram import federation
from isogram.alignment import unpack
from isogram.config import Config, EgressConfig
from isogram.data import FederatedData
from isogram.errors import ConfigError
from isogram.local import Node
from isogram.messages import Ledger, Message, Up
from isogram.methods import PEERS
from isogram.secure_sum import total


@dataclass(frozen=True)
class Recording:
    """One replay: settings it ran with, messages in order; and class prototypes, if the protocol sends these.

    prototypes: node -> [p, r], NaN for classes that it has no row of; framed: whether coordinates are those of a frame.
    """

    config: Config
    messages: tuple[Message, ...]
    framed: bool = True
    prototypes: Mapping[str, Tensor] = field(default_factory=dict)

    def of(self, node: str) -> tuple[Message, ...]:
        """To and from one node."""
        return tuple(message for message in self.messages if message.node == node)

    def class_sums(self, modality: str) -> Iterator["ClassSums"]:
        """What the server reads out of each secure sum that nodes of this modality have a part in, in order."""
        within = self.config.average.head_within or (not self.framed and self.config.average.across != "all")
        sums: dict[int, list[Up]] = {}
        for message in self.messages:
            if isinstance(message, Up) and message.head is not None and (not within or message.modality == modality):
                sums.setdefault(message.round, []).append(message)
        for round, ups in sorted(sums.items()):
            seconds = [up.second for up in ups if up.second is not None]
            head = total([up.head for up in ups if up.head is not None])
            yield ClassSums(round, head, unpack(total(seconds)) if seconds else None)


@dataclass(frozen=True)
class ClassSums:
    """Totals of one secure sum: head [C, r], and second moments [r, r] where nodes sent them."""

    round: int
    head: Tensor
    second: Tensor | None


Replay = Callable[[FederatedData, Config], Recording]


def isogram(data: FederatedData, config: Config) -> Recording:
    """The run as it is set; and what its nodes would send if they shared prototypes instead.

    Prototypes: mean coordinates of each class at a node (FedProto, arXiv 2105.00243), by the map that it has in this
    run, or k-means centres of its rows where it has no labels; sent bare, as is usual there.
    """
    messages: list[Message] = []
    fed = federation.align(data, config, ledger=Ledger(messages.append))
    prototypes = {node.name: _prototypes(node, fed.n_classes) for node in fed.nodes}
    if config.train.rounds:
        federation.train(fed)
    return Recording(config, tuple(messages), prototypes=prototypes)


def full_weights(data: FederatedData, config: Config) -> Recording:
    """The same with every weight of the adapted layers in the place of adapters: federated averaging as it was."""
    model = config.model.model_copy(update={"adapter": "full", "start": ""})
    return isogram(data, config.model_copy(update={"model": model}))


def representations(data: FederatedData, config: Config) -> Recording:
    """CreamFL's messages (arXiv 2302.08888): each round every node's embeddings of the public anchors, and adapters."""
    messages: list[Message] = []
    config = PEERS["creamfl"].settings(config.model_copy(update={"egress": EgressConfig()}))
    fed = federation.start_apart(data, config, ledger=Ledger(messages.append))
    federation.train(fed)
    return Recording(config, tuple(messages), framed=False)


PROTOCOLS: dict[str, Replay] = {
    "isogram": isogram,
    "full weights": full_weights,
    "representations": representations,
}


def check(config: Config) -> None:
    """What the attacks cannot follow.

    Raises:
        ConfigError: names the setting.
    """
    if config.train.refresh:
        raise ConfigError("an audit does not follow train.refresh: audit a run with train.refresh = 0")
    if config.average.across == "alone":
        raise ConfigError('average.across = "alone": nothing of training is sent, there is nothing to audit')


def _prototypes(node: Node, n_classes: int) -> Tensor:
    z = node.embed(node.data.tokens)
    if node.data.labels is None or not node.data.classes:
        few = min(max(2, n_classes), len(z))
        return torch.from_numpy(KMeans(few, n_init=1, random_state=0).fit(z.numpy()).cluster_centers_)
    labels = torch.from_numpy(np.asarray(node.data.labels))
    return torch.stack([z[labels == c].mean(0) for c in range(n_classes)])  # NaN where there is no row
