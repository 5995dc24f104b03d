"""The whole algorithm in one process: the reference that any engine has to reproduce.

Nodes and server exchange nothing but `messages.Up` and `messages.Down`, and every one goes through the ledger.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from isogram import aggregation, averaging, representations, sharing
from isogram.alignment import DEFAULT_RANK, Fit, as_kernel, canonical_frame, continue_frame, gram, pack
from isogram.config import Config
from isogram.data import FederatedData
from isogram.errors import ConfigError
from isogram.local import MIN_ANCHORS, Node, stream
from isogram.messages import Down, Ledger, Up
from isogram.model import SharedModel
from isogram.model.adapters import A, new_basis

HELD_OUT_SHARE = 0.2
"""Of the anchors, while choosing between the trained model and its start."""


@dataclass(frozen=True)
class Tick:
    """What training tells while it goes on: a node begins (no terms) or ends its steps, or a round is over (no node).

    round counts from 1; terms: mean of each loss term over the node's steps, or over the nodes; refused: why updates
    were left out of the round's averages, a line each.
    """

    round: int
    rounds: int
    node: str
    terms: dict[str, float]
    refused: tuple[str, ...] = ()


Progress = Callable[[Tick], None]


@dataclass(frozen=True)
class Federation:
    """Nodes and what the server knows: frame [K, r], consensus [K, K], head [C, r] with NaN rows for unseen classes.

    Also, once training has begun, the adapters that all nodes share and those that a group of them has apart (see
    `sharing`), the rounds that are complete, and each one's mean loss terms. heads: node -> class directions, where
    nodes do not have `head` in common.
    start_consensus: that of one-shot alignment, which `frame_update` moves away from. residuals: how far each node's
    anchors are from where the other modalities place them, for precision weights. refused: updates left out so far.
    """

    config: Config
    nodes: tuple[Node, ...]
    n_anchors: int
    anchor_hash: str
    n_classes: int
    ledger: Ledger
    consensus: Tensor | None = None
    frame: Tensor | None = None
    head: Tensor | None = None
    start_consensus: Tensor | None = None
    heads: dict[str, Tensor] = field(default_factory=dict)
    adapters: dict[str, Tensor] = field(default_factory=dict)
    apart: sharing.Groups = field(default_factory=dict)
    round: int = 0
    history: tuple[dict[str, float], ...] = ()
    residuals: dict[str, float] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    way: int = 0

    @property
    def width(self) -> int:
        """Coordinates of the frame, r."""
        return min(self.config.align.rank or DEFAULT_RANK, self.n_anchors - 1)

    def group(self, node: Node) -> str:
        """The nodes that a node has all adapters in common with."""
        return sharing.group_of(node.name, node.modality, self.config.average.across)

    def adapters_of(self, node: Node) -> dict[str, Tensor]:
        """All adapters of a node's model but those that stay at home."""
        return self.adapters | self.apart.get(self.group(node), {})

    def head_of(self, node: Node) -> Tensor | None:
        """Class directions for a node's coordinates."""
        return self.heads.get(node.name) if self.heads else self.head

    @property
    def ways(self) -> list[Fit]:
        """How nodes may fit; `way` is the number of the one that was chosen."""
        return self.nodes[0].ways

    @property
    def last_round(self) -> int:
        """Number of the round after training: 0 and 1 are alignment."""
        return self.config.train.rounds + 2


def gather(data: FederatedData, config: Config) -> Federation:
    """Nodes with their data and anchors; nothing is sent yet."""
    nodes = tuple(
        Node(node, data.anchors_of(node), len(data.anchors), data.anchors.hash, config)
        for node in sorted(data.nodes, key=lambda node: node.name)
    )
    return Federation(config, nodes, len(data.anchors), data.anchors.hash, len(data.classes), Ledger())


def align(data: FederatedData, config: Config) -> Federation:
    """One-shot alignment: each node sends one Gram (two, if it learns a feature metric), gets the frame, fits its map.

    Raises:
        AnchorError: the anchors cannot carry it; see `alignment.consensus`.
    """
    fed = gather(data, config)
    grams = [fed.ledger.carry(node.send_gram(0)) for node in fed.nodes]
    if config.align.robust:
        quality = aggregation.weigh_items(grams, fed.n_anchors, fed.width, config.align.power)
        for node in fed.nodes:
            node.weigh(_send(fed, node, 0, quality=quality[node.name]))
        grams = [replace(up, quality=quality[up.node]) for up in grams]
    plain = grams
    if config.align.metric:
        for node in fed.nodes:
            others = aggregation.merge_other_grams(grams, fed.n_anchors, node.modality)
            node.learn_metric(_send(fed, node, 0, others=pack(others)))
        grams = [fed.ledger.carry(node.send_gram(1)) for node in fed.nodes]
    residuals: dict[str, float] = {}
    precision = None
    if config.align.precision or config.average.rule == "node":
        # Of the first Grams: a metric is fitted to the very consensus that would judge it.
        residuals, precision = aggregation.node_residuals(plain, fed.n_anchors, fed.width, config.align.power)
    # By the first Grams, again: under a metric that has seen an anchor, the anchor is not left out.
    way = (
        aggregation.choose_fit(plain, fed.n_anchors, fed.ways[0], fed.width, config.align.power)
        if config.align.choose
        else 0
    )
    consensus = aggregation.merge_grams(
        grams,
        fed.n_anchors,
        precision=precision if config.align.precision else None,
        kernel=partial(as_kernel, share=fed.ways[way].share, rho=config.align.rho),
    )
    frame = canonical_frame(consensus, fed.width, config.align.power)
    for node in fed.nodes:
        down = _send(fed, node, 1, frame=frame, fit=way)
        assert down.frame is not None
        node.fit(down.frame.double()[node.index], node.ways[down.fit])
    fed = replace(fed, consensus=consensus, frame=frame.float().double(), residuals=residuals, way=way)
    return learn_classes(with_heads(fed, 1))


def learn_classes(fed: Federation) -> Federation:
    """Every node learns the classes that the head speaks of, where `align.propagate` asks for it; see `Node`."""
    if fed.head is not None and fed.config.align.propagate:
        for node in fed.nodes:
            node.learn_classes(_send(fed, node, 1, head=fed.head))
    return fed


def start_apart(data: FederatedData, config: Config) -> Federation:
    """Nodes in bases of their own (`Node.fit_apart`): the start of methods without a frame.

    Grams are sent only where the loss asks for their consensus.
    """
    fed = gather(data, config)
    for node in fed.nodes:
        node.fit_apart(fed.width)
    consensus = None
    if config.train.weights.cka:
        consensus = aggregation.merge_grams([fed.ledger.carry(node.send_gram(0)) for node in fed.nodes], fed.n_anchors)
    return with_heads(replace(fed, consensus=consensus), 1)


def read_through_frame(fed: Federation) -> Federation:
    """Trained embeddings read in a common basis; the nodes given stay as they are.

    Grams of the anchors' embeddings go up, their consensus' frame comes down, and each node fits a ridge onto it.
    """
    last = fed.last_round
    consensus = aggregation.merge_grams(
        [fed.ledger.carry(node.send_trained_gram(last)) for node in fed.nodes], fed.n_anchors
    )
    frame = canonical_frame(consensus, fed.width, fed.config.align.power)
    fed = replace(fed, nodes=tuple(copy(node) for node in fed.nodes), consensus=consensus, frame=frame)
    for node in fed.nodes:
        down = _send(fed, node, last, frame=frame)
        assert down.frame is not None
        node.fit_readout(down.frame.double()[node.index])
    return with_heads(fed, last)


def keep_better(fed: Federation, data: FederatedData, progress: Progress | None = None) -> tuple[Federation, list[str]]:
    """Per node the trained model or, where held-out anchors do not speak for it, the one-shot start that it has.

    A second run decides: `HELD_OUT_SHARE` of the anchors, picked by the anchor-set hash, are in none of its Grams and
    none of its steps; the server compares how nodes of different modalities find them.

    Returns:
        The federation, and the names of the nodes that fell back.
    """
    order = torch.randperm(fed.n_anchors, generator=stream(fed.anchor_hash, "held-out"))
    held_out = order[: max(4, round(HELD_OUT_SHARE * fed.n_anchors))].sort().values.numpy()
    rest = np.setdiff1d(np.arange(fed.n_anchors), held_out)
    fed = replace(fed, nodes=tuple(copy(node) for node in fed.nodes), ledger=copy(fed.ledger))
    if min(np.isin(node.index, rest).sum() for node in fed.nodes) < MIN_ANCHORS:
        return _fall_back(fed, [node.name for node in fed.nodes])  # too few anchors to spare any
    trial = train(align(data.subset_anchors(rest), fed.config), progress)
    apart = data.subset_anchors(held_out)
    items = {node.name: apart.anchors_of(node) for node in apart.nodes}
    assert trial.frame is not None
    blocks = [trial.ledger.carry(n.send_blocks(items[n.name], trial.frame, trial.last_round)) for n in trial.nodes]
    better = aggregation.trained_is_better(blocks, trial.frame, fed.config.train.temperature)
    fed.ledger.entries = fed.ledger.entries + trial.ledger.entries
    return _fall_back(fed, [node.name for node in fed.nodes if not better[node.name]])


def _fall_back(fed: Federation, names: list[str]) -> tuple[Federation, list[str]]:
    for node in fed.nodes:
        if node.name in names:
            node.fall_back()
    return with_heads(fed, fed.last_round), names


def with_heads(fed: Federation, round: int) -> Federation:
    """The federation with class directions of its nodes as they are now, shared by all whose coordinates mean the same.

    Those are all nodes, but without a frame the nodes of one modality, unless adapters are averaged over all; a node
    alone has those of its own rows, and sends nothing. Directions by the anchors depend on the frame alone, not on what
    nodes have learnt: once made, they stay.
    """
    if fed.config.average.head == "anchors" and fed.frame is not None and (fed.head is not None or fed.heads):
        return fed
    across = fed.config.average.across
    if across != "alone" and (fed.frame is not None or across == "all"):
        return replace(fed, head=class_directions(fed, round), heads={})
    heads: dict[str, Tensor] = {}
    ledger = Ledger() if across == "alone" else fed.ledger
    for group in dict.fromkeys(map(fed.group, fed.nodes)):
        members = tuple(node for node in fed.nodes if fed.group(node) == group)
        head = class_directions(replace(fed, nodes=members, ledger=ledger), round)
        heads |= {node.name: head for node in members if head is not None}
    return replace(fed, head=None, heads=heads)


def class_directions(fed: Federation, round: int) -> Tensor | None:
    """[C, r] class directions from secure sums over the nodes that have labels; None if none has.

    First counts, then sums of the classes that enough rows speak for: no sum of a few rows is ever seen. With
    `average.head = "anchors"` what is summed are directions that each node fits to its own view of the anchors, in the
    frame; where there is no frame, class sums. With "laplace" also the rows' second moment, if there are enough in all.
    """
    labelled = [node for node in fed.nodes if node.data.classes]
    if not labelled:
        return None
    keys = aggregation.in_order([fed.ledger.carry(node.send_key(round)) for node in labelled])
    listed = torch.stack([up.key for up in keys if up.key is not None])
    counts: list[Up] = []
    for node in labelled:
        down = _send(fed, node, round, keys=listed)
        counts.append(fed.ledger.carry(node.send_counts(down, fed.n_classes)))
    rows = aggregation.merge_counts(counts)
    evidence = (rows > 0).to(torch.uint8)
    # With fewer rows than coordinates a second moment would show the plane that these few lie in.
    second = int(fed.config.average.head == "laplace" and float(rows.sum()) >= labelled[0].coordinates)
    by_anchors = fed.config.average.head == "anchors" and fed.frame is not None
    sums: list[Up] = []
    for node in labelled:
        down = _send(fed, node, round, keys=listed, evidence=evidence, second=second)
        sums.append(fed.ledger.carry(node.send_scores(down) if by_anchors else node.send_head(down)))
    return aggregation.merge_heads(sums, evidence)


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
    coordinates = {node.target.shape[1] for node in fed.nodes if node.target is not None}
    if len(coordinates) != 1:
        raise ConfigError(
            f"nodes start in {sorted(coordinates)} coordinates; align them first, or lower align.rank to the smallest"
        )
    if weights.cka and fed.consensus is None:
        raise ConfigError("the loss term `cka` needs a consensus: align first, or set its weight to 0")
    if config.average.rule == "node" and not fed.residuals:
        raise ConfigError('average.rule = "node" needs the Grams of an alignment: align first, or choose another rule')
    width, models = coordinates.pop(), dict[str, SharedModel]()
    nodes = tuple(copy(node) for node in fed.nodes)
    for node in nodes:
        group = fed.group(node)
        if group not in models:
            models[group] = SharedModel(config.model, width)
        node.start_training(models[group])
    adapters, apart = _split(replace(fed, nodes=nodes))
    if config.average.across == "attention" and apart and not adapters:
        raise ConfigError(
            f'average.across = "attention": no adapted layer of {nodes[0].shared.about} has attention in its name; '
            "choose another model.target, or none"
        )
    return replace(fed, nodes=nodes, start_consensus=fed.consensus, adapters=adapters, apart=apart, round=0, history=())


def _split(fed: Federation) -> tuple[dict[str, Tensor], sharing.Groups]:
    """What the nodes' models are now: what all have alike, and what each group has apart."""
    return sharing.split({fed.group(n): n.shared.state() for n in fed.nodes}, fed.config.average.across)


def train_round(fed: Federation, progress: Progress | None = None) -> Federation:
    """One round: local steps at every node, then averages of adapters, frame and head. The nodes move on in place.

    An update that cannot be averaged is left out, and the round goes on with the others.

    Raises:
        MessageError: no update that fits is left.
    """
    config, weights = fed.config, fed.config.train.weights
    number, rounds = fed.round + 1, config.train.rounds
    round = number + 1  # on the wire 0 and 1 are alignment
    tell = progress or (lambda tick: None)
    refresh = number // config.train.refresh if config.train.refresh and number % config.train.refresh == 0 else 0
    anchors: dict[str, dict[str, Tensor]] = {}
    if representations.needed(weights):
        sent = [fed.ledger.carry(node.send_embeddings(round)) for node in fed.nodes]
        anchors = representations.shared(sent, fed.n_anchors, weights, config.train.temperature)
    alone = config.average.across == "alone"
    updates: list[Up] = []
    terms: dict[str, list[float]] = {}
    for node in fed.nodes:
        tell(Tick(number, rounds, node.name, {}))
        down = replace(targets(fed, node, round), **anchors.get(node.name, {}))  # type: ignore[arg-type]
        node.reset(fed.adapters_of(node))
        sketch = refresh if config.train.refresh_basis == "gradient" else 0
        down = node.accept(fed.ledger.carry(down))
        if alone and (head := fed.head_of(node)) is not None:
            down = replace(down, head=head.float())
        up, values = node.train_round(down, sketch)
        updates.append(up if alone else fed.ledger.carry(up))
        for name, value in values.items():
            terms.setdefault(name, []).append(value)
        tell(Tick(number, rounds, node.name, values))
    refused: list[str] = []
    adapters, apart = fed.adapters, fed.apart
    if adapters or apart:
        shared = fed.nodes[0].shared
        trained = list(shared.update(number))
        before = {fed.group(n): {name: fed.adapters_of(n)[name] for name in trained} for n in fed.nodes}
        due = refresh and config.train.refresh_basis == "gradient"
        expected = before[fed.group(fed.nodes[0])]
        updates, refused = averaging.refuse(updates, expected, shared.about, shared.sketch_shapes() if due else None)
        averages, unknown = sharing.average(updates, before, config.average, fed.residuals or None)
        refused += unknown
        for node in fed.nodes:
            own = averages[fed.group(node)]
            node.load(_down(fed, node, round, adapters=own) if alone else _send(fed, node, round, adapters=own))
        if refresh:
            _refresh(fed, updates, round, refresh)
        adapters, apart = _split(fed)
    frame, consensus = fed.frame, fed.consensus
    share = config.train.frame_update
    if share and frame is not None and fed.start_consensus is not None:
        now = aggregation.merge_grams([fed.ledger.carry(n.send_trained_gram(round)) for n in fed.nodes], fed.n_anchors)
        consensus = (1 - share) * fed.start_consensus + share * now
        frame = continue_frame(canonical_frame(consensus, frame.shape[1], config.align.power), frame)
    means = {name: sum(values) / len(values) for name, values in terms.items()}
    fed = with_heads(fed if frame is fed.frame else replace(fed, frame=frame, head=None, heads={}), round)
    tell(Tick(number, rounds, "", means, tuple(refused)))
    return replace(
        fed,
        frame=frame,
        consensus=consensus,
        adapters=adapters,
        apart=apart,
        round=number,
        history=(*fed.history, means),
        refused=(*fed.refused, *refused),
    )


def targets(fed: Federation, node: Node, round: int) -> Down:
    """What the terms of the loss aim at: a head shared with others, and where weights ask for it frame and geometry."""
    weights = fed.config.train.weights
    down = _down(fed, node, round, head=None if fed.config.average.across == "alone" else fed.head_of(node))
    if weights.frame:
        down = replace(down, frame=fed.frame)
    if weights.cka and fed.consensus is not None:
        down = replace(down, geometry=pack(_geometry(fed.consensus, fed)))
    return down


def _refresh(fed: Federation, updates: list[Up], round: int, number: int) -> None:
    """Every node merges its adapters and goes on to a new basis, the same at all."""
    bases: dict[str, Tensor] = {}
    if fed.config.train.refresh_basis == "gradient":
        for layer, sketch in aggregation.sum_sketches(updates).items():
            old = fed.adapters_of(fed.nodes[0])[f"{layer}.{A}"]
            bases[f"{layer}.{A}"] = new_basis(old, layer, number, sketch)
    for node in fed.nodes:
        node.refresh(_send(fed, node, round, adapters=bases) if bases else _down(fed, node, round), number)


def _geometry(consensus: Tensor, fed: Federation) -> Tensor:
    """The Gram that anchors in the frame have: the consensus with its directions weighted by how far nodes agree.

    The bare consensus weighs them nearly alike; as a target of CKA it lowers CKA on held-out rows (docs/log.md).
    """
    return gram(canonical_frame(consensus, fed.width, fed.config.align.power))


def _send(fed: Federation, node: Node, round: int, **fields: object) -> Down:
    return node.accept(fed.ledger.carry(_down(fed, node, round, **fields)))


def _down(fed: Federation, node: Node, round: int, **fields: object) -> Down:
    return Down(node=node.name, round=round, anchor_hash=fed.anchor_hash, **fields)  # type: ignore[arg-type]
