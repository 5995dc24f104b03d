"""Bounds and references: what nobody may have. They are compared with, and never called the best."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifierCV
from torch import Tensor

from isogram import federation
from isogram.alignment import Standardizer
from isogram.config import Config
from isogram.data import FederatedData, NodeData, evaluation
from isogram.data.base import UNLABELLED, FloatArray
from isogram.data.distort import restandardize
from isogram.evaluation import Embed
from isogram.federation import Federation, Progress, Tick

Level = Callable[[FloatArray], FloatArray]


def centralised(data: FederatedData, config: Config, progress: Progress | None) -> tuple[Federation, float]:
    """The default objective without federation: one model, updated after every step by all modalities' private rows.

    A modality's rows lie at one place, with their labels; rows of two modalities are still of different people. There
    are as many steps as in the federated run, each followed by an average: nothing drifts apart in between. The
    optimiser starts anew at each, so that its first step is its only one.

    Rows of nodes behind sensors of their own are levelled by the anchors first.

    Returns:
        A node per modality, of that name, for rows as `level` has them; and the bytes of rows and labels that a node
        sends, on average.
    """
    alike, _ = level(data)
    merged = replace(data, nodes=tuple(_merged(modality, alike) for modality in data.modalities))
    steps = config.train.steps
    train = config.train.model_copy(update={"rounds": config.train.rounds * steps, "steps": 1})
    config = config.model_copy(update={"train": train})

    def tell(tick: Tick) -> None:
        if progress and not tick.node and tick.round % steps == 0:
            progress(replace(tick, round=tick.round // steps, rounds=tick.rounds // steps))

    fed = federation.train(federation.align(merged, config), tell)
    sent = sum(node.tokens.nbytes + (0 if node.labels is None else node.labels.nbytes) for node in data.nodes)
    return fed, sent / len(data.nodes)


def level(data: FederatedData) -> tuple[FederatedData, dict[str, Level]]:
    """Rows of nodes that record the anchors themselves, each behind its sensor, as the public items are recorded.

    Per feature x -> (x - mean) / std x std' + mean', of the node's own recordings and of the public items of the same
    anchors: without it, rows of several sensors cannot lie in one table.

    Returns:
        The federation, without own recordings; and what to do to rows [n, T, c] that such a node sees, by its name.
    """
    looks: dict[str, Level] = {}
    nodes = []
    for node in data.nodes:
        if node.anchors is not None:
            items = data.anchors.items[node.modality]
            same = items.tokens[np.isin(items.index, node.anchors.index)]
            looks[node.name] = restandardize(node.anchors.tokens, same)
            node = replace(node, tokens=looks[node.name](node.tokens), anchors=None)
        nodes.append(node)
    return replace(data, nodes=tuple(nodes)), looks


def seen_level(embed: Mapping[str, Embed], looks: Mapping[str, Level]) -> dict[str, Embed]:
    """Each node's coordinates of rows as it sees them, from those of rows as `level` has them."""

    def after(look: Level | None, found: Embed) -> Embed:
        return found if look is None else lambda tokens: found(look(np.asarray(tokens)))

    return {name: after(looks.get(name), found) for name, found in embed.items()}


def _merged(modality: str, data: FederatedData) -> NodeData:
    nodes = [node for node in data.nodes if node.modality == modality]
    labels = None
    if any(node.labels is not None for node in nodes):
        unknown = [np.full(len(node.tokens), UNLABELLED) if node.labels is None else node.labels for node in nodes]
        labels = np.concatenate(unknown)
    return NodeData(modality, modality, np.concatenate([node.tokens for node in nodes]), labels)


def own_labels(data: FederatedData, config: Config) -> tuple[dict[str, Embed], Tensor]:
    """Reference for classes: class scores as coordinates per node, and their directions.

    The nodes of a modality pool their private rows, sensors levelled by the anchors, are told all true classes and
    train a ridge classifier on standardised features, penalty by leave-one-out.
    """
    data, looks = level(data)
    with evaluation():
        fitted = {modality: _classifier(modality, data, config.align.clip) for modality in data.modalities}
    embed = seen_level({node.name: fitted[node.modality] for node in data.nodes}, looks)
    return embed, torch.eye(len(data.classes), dtype=torch.float64)


def _classifier(modality: str, data: FederatedData, clip: float) -> Embed:
    nodes = [node for node in data.nodes if node.modality == modality]
    rows = torch.from_numpy(np.concatenate([node.tokens for node in nodes])).flatten(1)
    labels = np.concatenate([data.held_out.private_labels(node.name) for node in nodes])
    standardize = Standardizer.fit(rows, clip)
    model = RidgeClassifierCV(alphas=[10.0**e for e in range(1, 7)], class_weight="balanced")
    model.fit(standardize(rows).numpy(), labels)

    def scores(tokens: object) -> Tensor:
        rows = standardize(torch.as_tensor(tokens).flatten(1)).numpy()
        decision = torch.from_numpy(model.decision_function(rows))
        out = torch.full((len(rows), len(data.classes)), -1e3, dtype=torch.float64)
        out[:, torch.from_numpy(model.classes_)] = decision
        return out

    return scores
