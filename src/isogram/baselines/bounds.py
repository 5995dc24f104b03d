"""Bounds and references: what nobody may have. They are compared with, and never called the best."""

from dataclasses import replace

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifierCV
from torch import Tensor

from isogram import federation
from isogram.alignment import Standardizer
from isogram.config import Config
from isogram.data import FederatedData, NodeData, evaluation
from isogram.data.base import UNLABELLED
from isogram.evaluation import Embed
from isogram.federation import Federation, Progress, Tick


def centralised(data: FederatedData, config: Config, progress: Progress | None) -> tuple[Federation, float]:
    """The default objective without federation: one model, updated after every step by all modalities' private rows.

    A modality's rows lie at one place, with their labels; rows of two modalities are still of different people. There
    are as many steps as in the federated run, each followed by an average: nothing drifts apart in between. The
    optimiser starts anew at each, so that its first step is its only one.

    Returns:
        A node per modality, of that name; and the bytes of rows and labels that a node sends, on average.
    """
    merged = replace(data, nodes=tuple(_merged(modality, data) for modality in data.modalities))
    steps = config.train.steps
    train = config.train.model_copy(update={"rounds": config.train.rounds * steps, "steps": 1})
    config = config.model_copy(update={"train": train})

    def tell(tick: Tick) -> None:
        if progress and not tick.node and tick.round % steps == 0:
            progress(replace(tick, round=tick.round // steps, rounds=tick.rounds // steps))

    fed = federation.train(federation.align(merged, config), tell)
    sent = sum(node.tokens.nbytes + (0 if node.labels is None else node.labels.nbytes) for node in data.nodes)
    return fed, sent / len(data.nodes)


def _merged(modality: str, data: FederatedData) -> NodeData:
    nodes = [node for node in data.nodes if node.modality == modality]
    labels = None
    if any(node.labels is not None for node in nodes):
        unknown = [np.full(len(node.tokens), UNLABELLED) if node.labels is None else node.labels for node in nodes]
        labels = np.concatenate(unknown)
    return NodeData(modality, modality, np.concatenate([node.tokens for node in nodes]), labels)


def own_labels(data: FederatedData, config: Config) -> tuple[dict[str, Embed], Tensor]:
    """Reference for classes: class scores as coordinates per node, and their directions.

    The nodes of a modality pool their private rows, are told all true classes and train a ridge classifier on
    standardised features, penalty by leave-one-out.
    """
    with evaluation():
        fitted = {modality: _classifier(modality, data, config.align.clip) for modality in data.modalities}
    embed = {node.name: fitted[node.modality] for node in data.nodes}
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
