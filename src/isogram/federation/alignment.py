"""One-shot alignment: Grams up, the frame down, classes learnt; and the same without a frame."""

from copy import copy
from dataclasses import replace
from functools import partial

from isogram import aggregation
from isogram.alignment import as_kernel, canonical_frame, pack
from isogram.config import Config
from isogram.data import FederatedData
from isogram.egress import Oversight
from isogram.errors import ConfigError
from isogram.federation import secure
from isogram.federation.exchange import Member
from isogram.federation.heads import with_heads
from isogram.federation.state import Federation, gather
from isogram.messages import Down, Ledger, Up


def align(
    data: FederatedData,
    config: Config,
    run: str = "",
    secret: bytes | None = None,
    *,
    ledger: Ledger | None = None,
    oversight: Oversight | None = None,
) -> Federation:
    """One-shot alignment: each node sends one Gram (two, if it learns a feature metric), gets the frame, fits its map.

    Args:
        data: nodes and anchors.
        config: settings.
        run: its name in all messages, see `messages.Message`.
        secret: of the noise, see `noise`; one of its own if not given.
        ledger: that all messages go through.
        oversight: of what leaves the nodes.

    Raises:
        ConfigError: settings that differential privacy refuses.
        AnchorError: the anchors cannot carry it; see `alignment.consensus`.
        EgressError: a node may not send what it has to.
        MessageError: a node that was set otherwise has no such way to fit.
    """
    return one_shot(gather(data, config, run, secret, ledger=ledger, oversight=oversight))


def one_shot(fed: Federation) -> Federation:
    """The same of nodes that are gathered, wherever they live.

    Raises:
        AnchorError, EgressError, MessageError: as `align` does.
        FederationError: too few nodes elsewhere answer.
    """
    config = fed.config
    if config.align.secure:
        consensus, lines = secure.consensus(fed)
        fed = replace(fed, consensus=consensus, refused=(*fed.refused, *lines))
    else:
        fed = _with_consensus(fed)
    assert fed.consensus is not None
    frame = canonical_frame(fed.consensus, fed.width, config.align.power)
    fed.tell("frame", fed.members, lambda node: fed.send(node, "frame", 1, frame=frame, fit=fed.way))
    return learn_classes(with_heads(replace(fed, frame=frame.float().double()), 1))


def _with_consensus(fed: Federation) -> Federation:
    """With the consensus of Grams that the server sees, the nodes' residuals, and the way in which all fit."""
    config = fed.config
    fed, grams = _grams(fed, 0)
    if config.align.robust:
        quality = aggregation.weigh_items(grams, fed.n_anchors, fed.width, config.align.power)
        fed.tell("weights", fed.heard, lambda node: fed.send(node, "weights", 0, quality=quality[node.name]))
        grams = [replace(up, quality=quality[up.node]) for up in grams]
    plain = grams
    if config.align.metric:
        first = grams

        def others(node: Member) -> Down:
            return fed.send(
                node, "others", 0, others=pack(aggregation.merge_other_grams(first, fed.n_anchors, node.modality))
            )

        fed.tell("others", fed.members, others)
        fed, grams = _grams(fed, 1)
        plain = [up for up in plain if up.node not in fed.left_out]
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
    return replace(fed, consensus=consensus, residuals=residuals, way=way)


def _grams(fed: Federation, round: int) -> tuple[Federation, list[Up]]:
    """The nodes' Grams, without those of outliers where `align.outliers` asks for it: these are not heard any more."""
    grams = fed.ask("gram", round, fed.heard)
    if not fed.config.align.outliers:
        return fed, grams
    told = aggregation.outliers(grams, fed.n_anchors)
    return fed.without(told), [up for up in grams if up.node not in told]


def learn_classes(fed: Federation) -> Federation:
    """Every node learns the classes that the head speaks of, where `align.propagate` asks for it; see `Node`."""
    if fed.head is not None and fed.config.align.propagate:
        fed.tell("classes", fed.members, lambda node: fed.send(node, "head", 1, head=fed.head))
    return fed


def start_apart(data: FederatedData, config: Config, ledger: Ledger | None = None) -> Federation:
    """Nodes in bases of their own (`Node.fit_apart`): the start of methods without a frame.

    Grams are sent only where the loss asks for their consensus; then nodes may be read through a frame afterwards.

    Raises:
        ConfigError: under differential privacy or `average.robust`, whose class directions are of a frame.
    """
    if config.privacy.epsilon:
        raise ConfigError("privacy.epsilon needs a frame, and this method has none; set it to 0, or align first")
    oversight = Oversight(more=("trained_gram",) if config.train.weights.cka else ())
    fed = gather(data, config, ledger=ledger, oversight=oversight)
    for node in fed.nodes:
        node.fit_apart(data.anchors.items[node.modality], fed.width)
    consensus = None
    if config.train.weights.cka:
        consensus = aggregation.merge_grams(fed.ask("gram", 0, fed.nodes), fed.n_anchors)
    return with_heads(replace(fed, consensus=consensus), 1)


def read_through_frame(fed: Federation) -> Federation:
    """Trained embeddings read in a common basis; the nodes given stay as they are.

    Grams of the anchors' embeddings go up, their consensus' frame comes down, and each node fits a ridge onto it.
    """
    last = fed.last_round
    consensus = aggregation.merge_grams(fed.ask("trained gram", last, fed.nodes), fed.n_anchors)
    frame = canonical_frame(consensus, fed.width, fed.config.align.power)
    fed = replace(fed, nodes=tuple(copy(node) for node in fed.nodes), consensus=consensus, frame=frame)
    for node in fed.nodes:
        down = fed.send(node, "frame", last, frame=frame)
        assert down.frame is not None
        node.fit_readout(down.frame.double()[node.index])
    return with_heads(fed, last)
