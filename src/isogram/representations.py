"""Server side of the peers that share anchor embeddings: what each node gets to see of the others'.

Nothing of this is used by the product's own method, which sends Grams. Shape letters: K anchors, k of them at a node, d
coordinates, p other nodes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from isogram.aggregation import in_order
from isogram.config import TermWeights
from isogram.errors import MessageError
from isogram.messages import Up


def shared(
    updates: Sequence[Up], n_anchors: int, weights: TermWeights, temperature: float
) -> dict[str, dict[str, Tensor]]:
    """Per node the fields of its next `messages.Down` that the terms of the loss need.

    Raises:
        MessageError: no update carries embeddings.
    """
    fields: dict[str, dict[str, Tensor]] = {update.node: {} for update in in_order(updates)}
    if weights.prototype:
        prototypes = mean_embeddings(updates, n_anchors)
        for of in fields.values():
            of["prototypes"] = prototypes
    if weights.inter or weights.intra:
        merged = contrastive_means(updates, n_anchors, temperature)
        for update in updates:
            others = [value for modality, value in merged.items() if modality != update.modality]
            fields[update.node] |= {
                "counterparts": torch.stack(others or [merged[update.modality] * torch.nan]).nanmean(0),
                "siblings": merged[update.modality],
            }
    if weights.muscle:
        for update in updates:
            others = [whole(other, n_anchors) for other in in_order(updates) if other.node != update.node]
            fields[update.node]["peers"] = torch.stack(others)
    return fields


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


def contrastive_means(updates: Sequence[Up], n_anchors: int, temperature: float) -> dict[str, Tensor]:
    """Per modality [K, d] unit anchor embeddings merged over its nodes; NaN where none of them holds an anchor.

    Global-local contrastive aggregation (CreamFL, arXiv 2302.08888): per anchor a node weighs as the
    softmax, over the nodes, of how well its embedding finds the same anchor among the other modalities' mean ones.

    Args:
        updates: with embeddings.
        n_anchors: K.
        temperature: of cosines.
    """
    merged: dict[str, Tensor] = {}
    for modality in sorted({update.modality for update in updates}):
        own = torch.stack([whole(update, n_anchors) for update in in_order(updates) if update.modality == modality])
        others = [whole(update, n_anchors) for update in in_order(updates) if update.modality != modality]
        held = ~own.isnan().any(2)
        unit = normalize(own.nan_to_num(), dim=2)
        scores = torch.zeros(held.shape, dtype=torch.float64)
        if others:
            places = torch.stack(others).nanmean(0)
            known = ~places.isnan().any(1)  # of one anchor alone there is none to tell it from
            cosines = unit @ normalize(places.nan_to_num(), dim=1).T / temperature
            apart = cosines.masked_fill(~known | torch.eye(n_anchors, dtype=torch.bool), -torch.inf)
            match = cosines.diagonal(dim1=1, dim2=2) - apart.logsumexp(2)
            scores = torch.where(known & (known.sum() > 1), match, 0.0)
        weights = scores.masked_fill(~held, -torch.inf).softmax(0)
        mean = (weights[..., None] * unit).sum(0)
        merged[modality] = torch.where(held.any(0)[:, None], mean, torch.nan)
    return merged


def whole(update: Up, n_anchors: int) -> Tensor:
    """[K, d] a node's anchor embeddings, NaN for an anchor that it lacks.

    Raises:
        MessageError: the update carries none.
    """
    if update.embeddings is None:
        raise MessageError(f"node {update.node!r} sent no anchor embeddings; this loss needs them from every node")
    out = torch.full((n_anchors, update.embeddings.shape[1]), torch.nan, dtype=torch.float64)
    out[torch.arange(n_anchors) if update.index is None else update.index.long()] = update.embeddings.double()
    return out
