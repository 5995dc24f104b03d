"""Baselines without any exchange: coordinates that a node has by itself."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from isogram.alignment import Standardizer
from isogram.config import Config
from isogram.data import FederatedData
from isogram.errors import ConfigError
from isogram.evaluation import Embed
from isogram.federation import Federation, class_directions, gather


def local(data: FederatedData, config: Config) -> Federation:
    """Each modality in a basis of its own: nothing aligns them, so retrieval is at chance."""
    fed = gather(data, config)
    for node in fed.nodes:
        node.fit_apart(data.anchors.items[node.modality], fed.width)
    return replace(fed, head=class_directions(fed, 1))


def no_message(data: FederatedData, config: Config) -> Federation:
    """Coordinates are the anchors themselves: each node's ridge onto the columns of its own shrunk Gram.

    What anchors give without any exchange. A node that lacks an anchor is 0 in its coordinate.
    """
    fed = gather(data, config)
    for node in fed.nodes:
        target = torch.zeros(len(node.index), fed.n_anchors, dtype=torch.float64)
        target[:, node.index] = node.features_gram()
        node.fit(target)
    return replace(fed, head=class_directions(fed, 1))


@dataclass(frozen=True)
class RelativeMap:
    """Cosines to the anchors (Moschella et al. 2023, arXiv 2209.15430), each standardised over the anchors themselves.

    The plain cosines do worse (docs/log.md). anchors [k, F] standardised; index [k] of n_anchors.
    """

    standardize: Standardizer
    anchors: Tensor
    index: Tensor
    n_anchors: int

    def __call__(self, features: Tensor) -> Tensor:
        """[n, n_anchors] from raw features [n, F]; 0 for an anchor that the node lacks."""
        anchors = normalize(self.anchors, dim=1)
        among = anchors @ anchors.T
        cosines = normalize(self.standardize(features), dim=1) @ anchors.T
        out = torch.zeros(len(features), self.n_anchors, dtype=torch.float64)
        out[:, self.index] = (cosines - among.mean(0)) / among.std(0)
        return out


def relative(data: FederatedData, config: Config) -> Federation:
    """Relative representations: coordinates are cosines to the anchors. Nothing is fitted, nothing is sent."""
    fed = gather(data, config)
    for node in fed.nodes:
        node.map = RelativeMap(node.standardize, node.standardize(node.anchors), node.index, fed.n_anchors)
    return replace(fed, head=class_directions(fed, 1))


CONTROL_RANGE = 10
"""Standard deviations of a control that a quarter of the circle stands for; what is further out stays there."""


def by_control(data: FederatedData, seed: int) -> dict[str, Embed]:
    """Closeness of a number that means nothing: utterance durations and name lengths find how many?

    Per node, held-out rows as points [n, 2] of a circle: the control, standardised over the anchors, is the angle, so
    that cosine ranks by absolute difference. Rows without a control are at random angles, hence found by chance. It
    reads the controls of the held-out rows whatever tokens it is given, so it embeds no others.

    Raises:
        ConfigError: the data have no controls.
    """
    if not data.held_out.controlled:
        raise ConfigError(f"{data.name} has no controls, such as durations; leave out the method `duration`")

    def of(modality: str, turn: int) -> Embed:
        anchors = data.anchors.items[modality].control

        def embed(tokens: object) -> Tensor:
            n = len(torch.as_tensor(tokens))
            if anchors is None:
                angle = np.random.default_rng([seed, turn]).uniform(-np.pi / 2, np.pi / 2, n)
            else:
                standard = (data.held_out.control(modality) - anchors.mean()) / anchors.std()
                angle = np.clip(standard / CONTROL_RANGE, -1, 1) * np.pi / 2
            return torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float64))

        return embed

    embeds = {modality: of(modality, turn) for turn, modality in enumerate(data.modalities)}
    return {node.name: embeds[node.modality] for node in data.nodes}
