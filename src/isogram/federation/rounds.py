"""Rounds of training from the nodes' maps: local steps, averages, a frame that moves; and whether they are kept."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isogram import aggregation, representations, sharing
from isogram.alignment import canonical_frame, continue_frame, gram, pack
from isogram.data import FederatedData
from isogram.errors import ConfigError, MessageError
from isogram.federation import secure
from isogram.federation.alignment import align
from isogram.federation.exchange import Member
from isogram.federation.heads import with_heads
from isogram.federation.state import Federation, Progress, Tick
from isogram.local import MIN_ANCHORS, stream
from isogram.local.training import refresh_number, sketched
from isogram.messages import Down, Up
from isogram.model import SharedModel
from isogram.model.adapters import A, new_basis
from isogram.validation import Shapes

HELD_OUT_SHARE = 0.2
"""Of the anchors, while choosing between the trained model and its start."""


def train(fed: Federation, progress: Progress | None = None) -> Federation:
    """Federated rounds from the nodes' current maps; the nodes given stay as they are.

    Raises:
        ConfigError: a term is asked for whose target does not exist.
        MessageError: an update that does not fit.
    """
    fed = start_training(fed)
    while fed.round < fed.config.train.rounds:
        fed = train_round(fed, progress)
    return fed


def start_training(fed: Federation) -> Federation:
    """Copies of the nodes with models that compute their current maps exactly; no message is sent.

    Raises:
        ConfigError: a term is asked for whose target does not exist, or nodes start in different coordinates.
    """
    config, weights = fed.config, fed.config.train.weights
    if weights.frame and fed.frame is None:
        raise ConfigError("the loss term `frame` needs a frame: align first, or set its weight to 0")
    coordinates = {node.target.shape[1] for node in fed.nodes if node.target is not None} if fed.nodes else {fed.width}
    if len(coordinates) != 1:
        raise ConfigError(
            f"nodes start in {sorted(coordinates)} coordinates; align them first, or lower align.rank to the smallest"
        )
    if weights.cka and fed.consensus is None:
        raise ConfigError("the loss term `cka` needs a consensus: align first, or set its weight to 0")
    if config.average.rule == "node" and not fed.residuals:
        raise ConfigError('average.rule = "node" needs the Grams of an alignment: align first, or choose another rule')
    width = coordinates.pop()
    models = {group: SharedModel(config.model, width) for group in dict.fromkeys(map(fed.group, fed.members))}
    nodes = tuple(copy(node) for node in fed.nodes)
    for node in nodes:
        node.start_training(models[fed.group(node)])
    fed = replace(fed, nodes=nodes, shared=models, start_consensus=fed.consensus, round=0, history=())
    adapters, apart = _split(fed)
    if config.average.across == "attention" and apart and not adapters:
        raise ConfigError(
            f'average.across = "attention": no adapted layer of {_model(fed).about} has attention in its name; '
            "choose another model.target, or none"
        )
    return replace(fed, adapters=adapters, apart=apart)


def _split(fed: Federation) -> tuple[dict[str, Tensor], sharing.Groups]:
    """What the nodes' models are now: what all have alike, and what each group has apart."""
    return sharing.split({group: model.state() for group, model in fed.shared.items()}, fed.config.average.across)


def train_round(fed: Federation, progress: Progress | None = None) -> Federation:
    """One round: local steps at every node, then averages of adapters, frame and head. The nodes move on in place.

    An update that cannot be averaged is left out of the round, which goes on with the others. A node whose update
    points against the others' (`sharing.opposed`) is left out from then on. Who is left out, also by alignment, is not
    asked for an update: it takes the others' average.

    Raises:
        MessageError: no update that fits is left, or another message is not what was asked for.
    """
    config, weights = fed.config, fed.config.train.weights
    number, rounds = fed.round + 1, config.train.rounds
    round = number + 1  # on the wire 0 and 1 are alignment
    tell = progress or (lambda tick: None)
    refresh = refresh_number(config.train, number)
    anchors: dict[str, dict[str, Tensor]] = {}
    if weights.of_peers:
        sent = fed.ask("embeddings", round, fed.members)
        anchors = representations.shared(sent, fed.n_anchors, weights, config.train.temperature)
    alone = config.average.across == "alone"
    shared = _model(fed)
    trained = list(shared.update(number))
    shapes = _shapes(fed, trained, shared.sketch_shapes() if sketched(config.train, number) else {})
    terms: dict[str, list[float]] = {}

    def prepare(node: Member) -> Down:
        down = replace(targets(fed, node, round), **anchors.get(node.name, {}))  # type: ignore[arg-type]
        down = fed.deliver(node, "targets", down)
        head = fed.head_of(node) if alone else None
        return down if head is None else replace(down, head=head.float())

    def heard(node: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            terms.setdefault(name, []).append(value)
        tell(Tick(number, rounds, node, dict(values)))

    before = {fed.group(n): {name: fed.adapters_of(n)[name] for name in trained} for n in fed.members}
    updates: list[Up] = []
    if config.average.secure:
        averages, refused = _summed(fed, round, before, prepare)
    else:
        known: dict[str, Any] = {
            "model": shared.about if trained else "",
            "groups": shapes,
            "counted": config.average.counts_rows,
        }
        failed: dict[str, str] = {}
        updates = fed.ask("round", round, fed.heard, prepare, refused=failed, heard=heard, carried=not alone, **known)
        refused = [f"{line}; it is left out of this round" for line in failed.values()]
        if not updates:
            raise MessageError(*refused)
        if fed.adapters or fed.apart:
            against = sharing.opposed(updates, before, config.average)
            fed = replace(fed, left_out=fed.left_out | against.keys())
            updates = [update for update in updates if update.node not in against]
            averages, unknown = sharing.average(updates, before, config.average, fed.residuals or None)
            refused += [*against.values(), *unknown]
    adapters, apart = fed.adapters, fed.apart
    if adapters or apart:

        def average(node: Member) -> Down:
            down = fed.down(node, round, adapters=averages[fed.group(node)])
            return down if alone else fed.deliver(node, "average", down, groups={"adapters": shapes["adapters"]})

        fed.tell("average", fed.members, average)
        for group, own in averages.items():
            fed.shared[group].load({name: value.float() for name, value in own.items()})
        if refresh:
            _refresh(fed, updates, round, refresh)
        adapters, apart = _split(fed)
    frame, consensus = fed.frame, fed.consensus
    share = config.train.frame_update
    if share and frame is not None and fed.start_consensus is not None:
        now = aggregation.merge_grams(fed.ask("trained gram", round, fed.heard), fed.n_anchors)
        consensus = (1 - share) * fed.start_consensus + share * now
        frame = continue_frame(canonical_frame(consensus, frame.shape[1], config.align.power), frame)
    means = {name: sum(values) / len(values) for name, values in terms.items()}
    before_round, fed = len(fed.refused), replace(fed, refused=(*fed.refused, *refused))
    fed = with_heads(fed if frame is fed.frame else replace(fed, frame=frame, head=None, heads={}, votes=None), round)
    tell(Tick(number, rounds, "", means, fed.refused[before_round:]))
    return replace(
        fed,
        frame=frame,
        consensus=consensus,
        adapters=adapters,
        apart=apart,
        round=number,
        history=(*fed.history, means),
    )


def _summed(
    fed: Federation, round: int, before: sharing.Groups, prepare: Callable[[Member], Down]
) -> tuple[sharing.Groups, list[str]]:
    """Averages for each group by secure sums of which the server sees no part; and a line for what is not in them."""
    averages, refused, attendance = sharing.Groups(), list[str](), secure.Attendance(fed, round)
    for group, previous in before.items():
        members = [member for member in fed.heard if fed.group(member) == group]
        averages[group], lines = secure.average(fed, round, previous, members, prepare, attendance)
        refused += lines
    return averages, refused


def _model(fed: Federation) -> SharedModel:
    """One of the models that nodes train; in names and shapes they are alike."""
    return next(iter(fed.shared.values()))


def _shapes(fed: Federation, trained: list[str], sketches: dict[str, tuple[int, ...]]) -> dict[str, Shapes]:
    """Of all that an update of this round has to hold."""
    adapters = {name: tuple(fed.adapters_of(fed.members[0])[name].shape) for name in trained}
    precision = adapters if fed.config.average.rule == "parameter" else {}
    return {"adapters": adapters, "precision": precision, "sketches": sketches}


def targets(fed: Federation, node: Member, round: int) -> Down:
    """What the terms of the loss aim at: a head shared with others, and where weights ask for it frame and geometry."""
    weights = fed.config.train.weights
    down = fed.down(node, round, head=None if fed.config.average.across == "alone" else fed.head_of(node))
    if weights.frame:
        down = replace(down, frame=fed.frame)
    if weights.cka and fed.consensus is not None:
        down = replace(down, geometry=pack(_geometry(fed.consensus, fed)))
    return down


def _refresh(fed: Federation, updates: list[Up], round: int, number: int) -> None:
    """Every node merges its adapters and goes on to a new basis, the same at all."""
    bases: dict[str, Tensor] = {}
    by_gradient = fed.config.train.refresh_basis == "gradient"
    sketches = _model(fed).sketch_shapes()
    if by_gradient:
        for layer, sketch in aggregation.sum_sketches(updates).items():
            old = fed.adapters_of(fed.members[0])[f"{layer}.{A}"]
            bases[f"{layer}.{A}"] = new_basis(old, layer, number, sketch).float()
    shapes = {f"{layer}.{A}": (rank // 2, width) for layer, (rank, width) in sketches.items()}

    def prepare(node: Member) -> Down:
        down = fed.down(node, round, adapters=bases)
        return fed.deliver(node, "bases", down, groups={"adapters": shapes}) if by_gradient else down

    fed.tell("bases", fed.members, prepare)
    for model in fed.shared.values():
        model.refresh(number, bases)


def _geometry(consensus: Tensor, fed: Federation) -> Tensor:
    """The Gram that anchors in the frame have: the consensus with its directions weighted by how far nodes agree.

    The bare consensus weighs them nearly alike; as a target of CKA it lowers CKA on held-out rows (docs/log.md).
    """
    return gram(canonical_frame(consensus, fed.width, fed.config.align.power))


def keep_better(fed: Federation, data: FederatedData, progress: Progress | None = None) -> tuple[Federation, list[str]]:
    """Per node the trained model or, where held-out anchors do not speak for it, the one-shot start that it has.

    A second run decides: `HELD_OUT_SHARE` of the anchors, picked by the anchor-set hash, are in none of its Grams and
    none of its steps; the server compares how nodes of different modalities find them.

    Returns:
        The federation, and the names of the nodes that fell back.

    Raises:
        ConfigError: under differential privacy, for a second run would release everything a second time.
    """
    if fed.budget is not None:
        raise ConfigError("with privacy.epsilon no second run decides what is kept; use the trained model as it is")
    order = torch.randperm(fed.n_anchors, generator=stream(fed.anchor_hash, "held-out"))
    held_out = order[: max(4, round(HELD_OUT_SHARE * fed.n_anchors))].sort().values.numpy()
    rest = np.setdiff1d(np.arange(fed.n_anchors), held_out)
    fed = replace(fed, nodes=tuple(copy(node) for node in fed.nodes), ledger=copy(fed.ledger))
    if min(np.isin(node.index, rest).sum() for node in fed.nodes) < MIN_ANCHORS:
        return _fall_back(fed, [node.name for node in fed.nodes])  # too few anchors to spare any
    oversight = fed.nodes[0].gate.oversight
    oversight = replace(oversight, more=(*oversight.more, "blocks"))
    trial = train(align(data.subset_anchors(rest), fed.config, fed.run, oversight=oversight), progress)
    apart = data.subset_anchors(held_out)
    items = {node.name: apart.anchors_of(node) for node in apart.nodes}
    private = {node.name: node.gate.private for node in fed.nodes}
    assert trial.frame is not None
    blocks = []
    for node in trial.nodes:
        node.gate.private = private[node.name]  # held-out anchors are public, too
        up = node.send_blocks(items[node.name], trial.frame, trial.last_round)
        blocks.append(trial.receive(node, "blocks", trial.last_round, up, places=len(held_out)))
    better = aggregation.trained_is_better(blocks, trial.frame, fed.config.train.temperature)
    fed.ledger.entries = fed.ledger.entries + trial.ledger.entries
    return _fall_back(fed, [node.name for node in fed.nodes if not better[node.name]])


def _fall_back(fed: Federation, names: list[str]) -> tuple[Federation, list[str]]:
    for node in fed.nodes:
        if node.name in names:
            node.fall_back()
    return with_heads(fed, fed.last_round), names
