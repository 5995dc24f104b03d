"""A federation's state between two rounds as tensors, and back: an interrupted run goes on to the same bits.

Nothing random has to be kept: every draw comes from a stream seeded by what it is for (`local.stream`), the optimiser
starts anew in each round, and secure sums do not depend on their keys.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from isogram import federation
from isogram.alignment import LinearMap
from isogram.federation import Federation
from isogram.model import SavedModel

_ADAPTERS, _CHANGE, _METRIC = "adapters/", "change/", "metric/"


def alignment_state(fed: Federation) -> dict[str, Tensor]:
    """What one-shot alignment left: frame, consensus, head, and the feature metric of each modality."""
    metrics = {_METRIC + node.modality: node.metric for node in fed.nodes if node.metric is not None}
    return _server_state(fed) | metrics


def restore_alignment(fed: Federation, state: Mapping[str, Tensor]) -> Federation:
    """Nodes of `federation.gather`, fitted again: the maps follow from anchors, metric and frame."""
    for node in fed.nodes:
        node.metric = state.get(_METRIC + node.modality)
        node.fit(state["frame"][node.index])
    return replace(fed, frame=state["frame"], consensus=state["consensus"], head=state.get("head"))


def round_state(fed: Federation) -> dict[str, Tensor]:
    """What a complete round left: adapters, the nodes' own projectors, frame, consensus, head."""
    models = {node.name: node.model for node in fed.nodes if node.model is not None}
    changes = {_CHANGE + name: model.projector.change for name, model in models.items()}
    return _server_state(fed) | {_ADAPTERS + name: value for name, value in fed.adapters.items()} | changes


def restore_round(
    fed: Federation, state: Mapping[str, Tensor], round: int, history: tuple[dict[str, float], ...]
) -> Federation:
    """An aligned federation, as it was after `round` rounds of training."""
    fed = federation.start_training(fed)
    adapters = {n.removeprefix(_ADAPTERS): value for n, value in state.items() if n.startswith(_ADAPTERS)}
    for node in fed.nodes:
        assert node.model is not None
        node.load_adapters(adapters)
        with torch.no_grad():
            node.model.projector.change.copy_(state[_CHANGE + node.name])
    return replace(
        fed,
        frame=state["frame"],
        consensus=state["consensus"],
        head=state.get("head"),
        adapters=adapters,
        round=round,
        history=history,
    )


def _server_state(fed: Federation) -> dict[str, Tensor]:
    found = {"frame": fed.frame, "consensus": fed.consensus, "head": fed.head}
    return {name: value for name, value in found.items() if value is not None}


def final_model(fed: Federation, classes: tuple[str, ...]) -> SavedModel:
    """What embeds new rows from now on."""
    trained = all(node.model is not None for node in fed.nodes)
    maps = {node.modality: node.map for node in fed.nodes if isinstance(node.map, LinearMap)}
    assert fed.frame is not None, "align first"
    return SavedModel(
        config=fed.config.model,
        nodes={node.name: node.modality for node in fed.nodes},
        tokens={node.modality: node.data.tokens.shape[1] for node in fed.nodes},
        classes=classes,
        anchor_hash=fed.anchor_hash,
        maps=maps,
        frame=fed.frame,
        head=fed.head,
        changes={n.name: n.model.projector.change for n in fed.nodes if n.model is not None} if trained else None,
        adapters=fed.adapters if trained else None,
    )
