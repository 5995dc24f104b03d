"""Server side: lists of updates in, one broadcast out. Pure functions; nodes are taken in the order of their names."""

from collections.abc import Sequence

import torch
from torch import Tensor

from isogram.alignment import consensus, unpack
from isogram.errors import MessageError
from isogram.messages import Up
from isogram.secure_sum import total

MIN_EVIDENCE = 5
"""Samples of a class, over all nodes in the sum, below which the class has no direction."""


def in_order(updates: Sequence[Up]) -> list[Up]:
    """Updates sorted by node name, so that sums do not depend on who answered first.

    Raises:
        MessageError: two updates of one node, or of different anchor sets.
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
                raise MessageError(f"node {update.node!r} sent NaN or infinity in {key!r}; leave it out of this round")
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
    """Consensus [K, K] of the Grams in the updates; errors as in `alignment.consensus`."""
    senders = [update for update in in_order(updates) if update.gram is not None]
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


def merge_heads(updates: Sequence[Up]) -> Tensor | None:
    """Class directions [C, r] in the frame from the secure sum of class sums; NaN rows where evidence is missing."""
    sums = [update.head for update in in_order(updates) if update.head is not None]
    if not sums:
        return None
    summed = total(sums)
    means, count = summed[:, :-1], summed[:, -1:]
    directions = torch.nn.functional.normalize(means, dim=1)
    return torch.where(count >= MIN_EVIDENCE, directions, torch.nan)


def mean_embeddings(updates: Sequence[Up], n_anchors: int) -> Tensor:
    """[K, d] mean anchor embedding over the nodes that hold each anchor: the prototype-sharing baseline."""
    sums = torch.zeros(())
    count = torch.zeros(n_anchors, 1, dtype=torch.float64)
    for update in in_order(updates):
        if update.embeddings is None:
            continue
        index = torch.arange(n_anchors) if update.index is None else update.index.long()
        if sums.ndim == 0:
            sums = torch.zeros(n_anchors, update.embeddings.shape[1], dtype=torch.float64)
        sums[index] += update.embeddings.double()
        count[index] += 1
    return sums / count.clamp_min(1)
