"""Server side: lists of updates in, one broadcast out. Pure functions; nodes are taken in the order of their names."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from isogram.alignment import consensus, unpack
from isogram.errors import MessageError
from isogram.messages import Up
from isogram.secure_sum import MIN_EVIDENCE, total


def in_order(updates: Sequence[Up]) -> list[Up]:
    """Updates sorted by node name, so that sums do not depend on who answered first.

    Raises:
        MessageError: two updates of one node, or of different anchor sets or rounds.
    """
    names = [update.node for update in updates]
    if len(set(names)) != len(names):
        raise MessageError(f"two updates of one node in a round: {sorted(names)}")
    for update in updates:
        if update.anchor_hash != updates[0].anchor_hash:
            raise MessageError(
                f"nodes {updates[0].node!r} and {update.node!r} use different anchor sets "
                f"({updates[0].anchor_hash[:8]}, {update.anchor_hash[:8]}); give all nodes the same files"
            )
        if update.round != updates[0].round:
            raise MessageError(
                f"node {update.node!r} answers round {update.round}, {updates[0].node!r} round {updates[0].round}; "
                "leave late answers out"
            )
    return sorted(updates, key=lambda update: update.node)


def average_adapters(updates: Sequence[Up]) -> dict[str, Tensor]:
    """Mean of each adapter tensor over the nodes that sent it, weighted by their private rows.

    The weights are normalised per key: a tensor that only some nodes have keeps its scale.

    Raises:
        MessageError: one key with two shapes, a value that is not finite, or no rows behind it; names node and key.
    """
    sums: dict[str, Tensor] = {}
    weights: dict[str, float] = {}
    for update in in_order(updates):
        if update.adapters and update.samples < 1:
            raise MessageError(f"node {update.node!r} sent adapters trained on {update.samples} rows; leave it out")
        for key, value in sorted(update.adapters.items()):
            if not torch.isfinite(value).all():
                raise MessageError(
                    f"node {update.node!r} sent NaN or infinity in {key!r}; lower train.lr, or leave it out"
                )
            if key in sums and sums[key].shape != value.shape:
                raise MessageError(
                    f"node {update.node!r} sent {key!r} as {tuple(value.shape)}, others as {tuple(sums[key].shape)}; "
                    "all nodes need the same trunk and rank"
                )
            weighted = value.double() * update.samples
            sums[key] = sums[key] + weighted if key in sums else weighted
            weights[key] = weights.get(key, 0.0) + update.samples
    return {key: (value / weights[key]).float() for key, value in sums.items()}


def merge_grams(updates: Sequence[Up], n_anchors: int, *, connected: bool = True) -> Tensor:
    """Consensus [K, K] of the Grams in the updates.

    Raises:
        AnchorError: as in `alignment.consensus`.
        MessageError: a Gram that is not finite or does not fit its anchors; names the node.
    """
    senders = [update for update in in_order(updates) if update.gram is not None]
    for update in senders:
        _check_gram(update, n_anchors)
    everything = torch.arange(n_anchors)
    return consensus(
        [unpack(update.gram.double()) for update in senders if update.gram is not None],
        [everything if update.index is None else update.index.long() for update in senders],
        n_anchors,
        [
            torch.ones(n_anchors if update.index is None else len(update.index))
            if update.quality is None
            else update.quality
            for update in senders
        ],
        connected=connected,
    )


def _check_gram(update: Up, n_anchors: int) -> None:
    assert update.gram is not None
    index = torch.arange(n_anchors) if update.index is None else update.index
    k = len(index)
    problem = None
    if index.ndim != 1 or len(index.unique()) != k or not ((index >= 0) & (index < n_anchors)).all():
        problem = f"names anchors that are not distinct positions in 0..{n_anchors - 1}"
    elif update.gram.shape != (k * (k + 1) // 2,):
        problem = f"sent a Gram of {update.gram.numel()} numbers for {k} anchors, which takes {k * (k + 1) // 2}"
    elif not torch.isfinite(update.gram).all():
        problem = "sent a Gram with NaN or infinity"
    elif update.quality is not None and (
        len(update.quality) != k or not ((update.quality > 0) & (update.quality <= 1)).all()
    ):
        problem = "sent anchor qualities that are not one number in (0, 1] per anchor"
    if problem:
        raise MessageError(f"node {update.node!r} {problem}; leave it out of this round")


def merge_other_grams(updates: Sequence[Up], n_anchors: int, modality: str) -> Tensor:
    """Consensus [K, K] of the nodes of all other modalities; 0 for a pair of anchors that none of them holds.

    Raises:
        MessageError: there is no other modality.
    """
    others = [update for update in updates if update.modality != modality]
    if not others:
        raise MessageError(
            f"all nodes hold {modality!r}: no other modality to learn a feature metric from; set metric=false"
        )
    return merge_grams(others, n_anchors, connected=False)


def merge_counts(updates: Sequence[Up]) -> Tensor:
    """[C] uint8, 1 for classes with `MIN_EVIDENCE` rows or more over all nodes: asked before any sum is sent.

    Raises:
        MessageError: counts of different lengths; names the nodes.
    """
    return (_total(updates, "counts") >= MIN_EVIDENCE).to(torch.uint8)


def merge_heads(updates: Sequence[Up], evidence: Tensor) -> Tensor:
    """Class directions [C, r] in the frame from the secure sum of class sums; NaN rows where evidence [C] is 0.

    Raises:
        MessageError: sums of different shapes; names the nodes.
    """
    directions = torch.nn.functional.normalize(_total(updates, "head"), dim=1)
    return torch.where(evidence[:, None] > 0, directions, torch.nan)


def _total(updates: Sequence[Up], field: str) -> Tensor:
    senders = [update for update in in_order(updates) if getattr(update, field) is not None]
    values = [getattr(update, field) for update in senders]
    for sender, value in zip(senders, values, strict=True):
        if value.shape != values[0].shape:
            raise MessageError(
                f"nodes {senders[0].node!r} and {sender.node!r} sent {field} of shapes {tuple(values[0].shape)} and "
                f"{tuple(value.shape)}; all nodes need the same classes and rank"
            )
    return total(values)


def mean_embeddings(updates: Sequence[Up], n_anchors: int) -> Tensor:
    """[K, d] mean anchor embedding over the nodes that hold each anchor: the prototype-sharing baseline.

    Raises:
        MessageError: no update carries embeddings.
    """
    sent = [(update.index, update.embeddings.double()) for update in in_order(updates) if update.embeddings is not None]
    if not sent:
        raise MessageError("no node sent anchor embeddings; prototype sharing needs them from at least one")
    sums = torch.zeros(n_anchors, sent[0][1].shape[1], dtype=torch.float64)
    count = torch.zeros(n_anchors, 1, dtype=torch.float64)
    for held, embeddings in sent:
        index = torch.arange(n_anchors) if held is None else held.long()
        sums[index] += embeddings
        count[index] += 1
    return sums / count.clamp_min(1)


def trained_is_better(updates: Sequence[Up], frame: Tensor, temperature: float) -> dict[str, bool]:
    """Per node: does training find held-out anchors better than the start, by more than one standard error?

    An anchor's score at a node is the mean log-probability of its true partner among the held-out anchors at the nodes
    of other modalities (softmax of cosines, both ways), these taken at their start. A node whose held-out anchors are
    held by no other modality stays with its start.

    Args:
        updates: with `block_start` and `block_trained`, similarities to the frame's anchors, and `index`.
        frame: [K, r], of full rank.
        temperature: of the softmax.
    """
    senders = in_order(updates)
    inverse = torch.linalg.pinv(frame.double(), rtol=1e-6).T
    start = [_coordinates(update.block_start, inverse) for update in senders]
    trained = [_coordinates(update.block_trained, inverse) for update in senders]
    better: dict[str, bool] = {}
    for position, update in enumerate(senders):
        gains: dict[int, list[float]] = {}
        for other, partner in zip(senders, start, strict=True):
            if other.modality == update.modality or update.index is None or other.index is None:
                continue
            common, mine, theirs = np.intersect1d(update.index.numpy(), other.index.numpy(), return_indices=True)
            before = _match(start[position][mine], partner[theirs], temperature)
            after = _match(trained[position][mine], partner[theirs], temperature)
            for anchor, gain in zip(common, (after - before).tolist(), strict=True):
                gains.setdefault(int(anchor), []).append(gain)
        means = np.array([np.mean(values) for values in gains.values()])
        better[update.node] = len(means) > 1 and bool(means.mean() > means.std(ddof=1) / len(means) ** 0.5)
    return better


def _coordinates(block: Tensor | None, inverse: Tensor) -> Tensor:
    assert block is not None, "an update without its blocks"
    return torch.nn.functional.normalize(block.double() @ inverse, dim=1)


def _match(left: Tensor, right: Tensor, temperature: float) -> Tensor:
    """[h] log-probability of row i's true partner, mean of both directions."""
    logits = left @ right.T / temperature
    return (logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()) / 2
