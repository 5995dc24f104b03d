"""A federation's state between two rounds as tensors, and back: an interrupted run goes on to the same bits.

Nothing random has to be kept: every draw comes from a stream seeded by what it is for (`local.stream`), the optimiser
starts anew in each round, and secure sums do not depend on their keys. Noise of differential privacy needs its secret,
which stands in a file of its own (`run_folder`) and never in here.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from isogram import federation
from isogram.accountant import card
from isogram.alignment import LinearMap
from isogram.config import FILES, SILOS
from isogram.data import FederatedData
from isogram.errors import RunError
from isogram.federation import Federation
from isogram.model import SavedModel
from isogram.model.saved import OWN_MAP, flat_homes, nested_homes

_ADAPTERS, _APART, _HEADS, _METRIC, _RESIDUAL = "adapters/", "apart/", "heads/", "metric/", "residual/"
_QUALITY, _WAY, _LEFT_OUT = "quality/", "way", "left-out/"
_CHANGE, _HOME, _SEEN = "change/", "home/", "seen/"
"""What is a node's own: its projector's change, what its adapters keep at home, its anchors as last seen."""


def alignment_state(fed: Federation) -> dict[str, Tensor]:
    """What one-shot alignment left: what the server knows, the way to fit, nodes' metrics, weights, residuals."""
    metrics = {_METRIC + node.name: node.metric for node in fed.nodes if node.metric is not None}
    metrics |= {_QUALITY + node.name: node.quality for node in fed.nodes if node.quality is not None}
    residuals = {_RESIDUAL + name: torch.tensor(value, dtype=torch.float64) for name, value in fed.residuals.items()}
    return _server_state(fed) | metrics | residuals | {_WAY: torch.tensor(fed.way)}


def restore_alignment(fed: Federation, state: Mapping[str, Tensor]) -> Federation:
    """Nodes of `federation.gather`, fitted again: the maps follow from anchors, weights, metric, frame, head.

    Raises:
        RunError: the state is of a version that knows other ways to fit.
    """
    way = int(state[_WAY])
    if not 0 <= way < len(fed.ways):
        raise RunError(f"the checkpoint fits by way {way} of {len(fed.ways)}: another version wrote it, use that one")
    for node in fed.nodes:
        node.metric, node.quality = state.get(_METRIC + node.name), state.get(_QUALITY + node.name, node.quality)
        node.fit(state["frame"].float().double()[node.index], fed.ways[way])
    residuals = {name: float(value) for name, value in _under(_RESIDUAL, state).items()}
    fed = replace(
        fed,
        frame=state["frame"],
        consensus=state["consensus"],
        head=state.get("head"),
        heads=_under(_HEADS, state),
        votes=state.get("votes"),
        residuals=residuals,
        left_out=frozenset(_under(_LEFT_OUT, state)),
        way=way,
    )
    # Nodes elsewhere keep what they have learnt; those of this process are new.
    return federation.learn_classes(fed) if fed.nodes else fed


def round_state(fed: Federation) -> dict[str, Tensor]:
    """What a complete round left: adapters, what is the nodes' own, frame, consensus, head."""
    found = _server_state(fed) | {_ADAPTERS + name: value for name, value in fed.adapters.items()}
    found |= {_APART + name: value for name, value in flat_homes(fed.apart).items()}
    for node in fed.nodes:
        assert node.model is not None
        found |= {_CHANGE + node.name: node.model.projector.change, _SEEN + node.name: node.last_seen}
    homes = {node.name: node.model.home for node in fed.nodes if node.model is not None}
    return found | {_HOME + name: value for name, value in flat_homes(homes).items()}


def restore_round(fed: Federation, state: Mapping[str, Tensor], position: Mapping[str, Any]) -> Federation:
    """An aligned federation as it was when `round_state` was taken.

    Args:
        fed: aligned.
        state: of the nodes and the server.
        position: the rest: `round`, `history`, `refused` of the federation; `model` that the adapters belong to.

    Raises:
        RunError: the trunk is not what it was.
    """
    fed = federation.start_training(fed)
    about = next(iter(fed.shared.values())).about
    if position.get("model", about) != about:
        raise RunError(f"the run trains {position['model']}, and the trunk is now {about}; give it the weights of then")
    apart = nested_homes(_under(_APART, state), fed.apart)
    fed = replace(fed, adapters=_under(_ADAPTERS, state), apart=apart)
    homes = nested_homes(_under(_HOME, state), [node.name for node in fed.nodes])
    for member in fed.members:
        fed.shared[fed.group(member)].load(fed.adapters_of(member))
    for node in fed.nodes:
        assert node.model is not None
        node.model.set_own(homes[node.name], state[_CHANGE + node.name])
        node.last_seen = state[_SEEN + node.name].to(node.device)
    return replace(
        fed,
        frame=state["frame"],
        consensus=state["consensus"],
        head=state.get("head"),
        heads=_under(_HEADS, state),
        votes=state.get("votes"),
        left_out=frozenset(_under(_LEFT_OUT, state)),
        round=position["round"],
        history=tuple(position["history"]),
        refused=tuple(position["refused"]),
    )


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _server_state(fed: Federation) -> dict[str, Tensor]:
    found = {"frame": fed.frame, "consensus": fed.consensus, "head": fed.head, "votes": fed.votes}
    heads = {_HEADS + node: head for node, head in fed.heads.items()}
    left_out = {_LEFT_OUT + node: torch.tensor(True) for node in sorted(fed.left_out)}
    return {name: value for name, value in found.items() if value is not None} | heads | left_out


def _homes(fed: Federation) -> dict[str, dict[str, Tensor]]:
    """What of a node's model not all share: what its group has apart, and what stays at home."""
    return {n.name: fed.apart.get(fed.group(n), {}) | n.model.home for n in fed.nodes if n.model is not None}


def final_model(fed: Federation, data: FederatedData) -> SavedModel:
    """What embeds new rows from now on."""
    trained = all(node.model is not None for node in fed.nodes)
    trunk = fed.nodes[0].shared.trunk if trained else None
    maps = {}
    for node in fed.nodes:
        assert isinstance(node.map, LinearMap), "align first"
        maps[OWN_MAP + node.name if node.own_map else node.modality] = node.map
    assert fed.frame is not None, "align first"
    return SavedModel(
        config=fed.config.model.model_copy(update={"start": ""}),  # its adapters say what it started from
        nodes={node.name: node.modality for node in fed.nodes},
        tokens={node.modality: node.data.tokens.shape[1] for node in fed.nodes},
        classes=data.classes,
        anchor_hash=fed.anchor_hash,
        maps=maps,
        frame=fed.frame,
        head=fed.head,
        heads=fed.heads,
        changes={n.name: n.model.projector.change for n in fed.nodes if n.model is not None} if trained else None,
        homes=_homes(fed) if trained else None,
        kept={n.name: n.model.kept for n in fed.nodes if n.model is not None and n.model.kept is not None},
        adapters=fed.adapters if trained else None,
        fingerprint=trunk.fingerprint if trunk is not None else "",
        privacy=card(fed.config, fed.round),
        encoders=data.encoders,
        about=_about(fed, data),
    )


def _about(fed: Federation, data: FederatedData) -> dict[str, Any]:
    """What was trained where, and on which anchors; no number of rows, which are private, too."""
    labelling = sorted(node.name for node in data.nodes if node.labels is not None)
    return {
        "data": data.name,
        "goal": fed.config.goal,
        "seed": fed.config.seed,
        "rounds": fed.round,
        "anchors": {modality: len(items.index) for modality, items in data.anchors.items.items()},
        "concepts": len(data.anchors),
        "labelling_nodes": labelling,
        # Of data of your own they name rows and paths of every node, and a model is handed on.
        "notes": [] if data.name in (FILES, SILOS) else list(data.notes),
        **data.sources,
    }
