"""What the server makes of the nodes' Grams: consensus, anchor weights, the way to fit, who stands out, residuals."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from isogram import alignment
from isogram.aggregation.order import in_order
from isogram.alignment import Fit, anchor_residuals, canonical_frame, consensus, item_quality, sub_smoother, unpack
from isogram.errors import MessageError
from isogram.messages import Up

RESIDUAL_FLOOR = 1e-3
"""Below it nodes and anchors count as equally well placed."""

PRECISION_FLOOR = 1e-3
"""Of an anchor's precision, relative to the largest."""

MIN_JUDGED = 3
"""Anchors shared with other modalities below which a node is not judged."""


def merge_grams(
    updates: Sequence[Up],
    n_anchors: int,
    *,
    connected: bool = True,
    precision: Mapping[str, Tensor] | None = None,
    kernel: Callable[[Tensor], Tensor] = lambda m: m,
) -> Tensor:
    """Consensus [K, K] of the Grams in the updates.

    Args:
        updates: those without a Gram are passed over.
        n_anchors: K.
        connected: as in `alignment.consensus`.
        precision: of `node_residuals`, per node a factor of its anchors' quality.
        kernel: turns a shrunk Gram into that of another kernel first, see `alignment.as_kernel`.

    Raises:
        AnchorError: as in `alignment.consensus`.
        MessageError: a Gram that is not finite or does not fit its anchors; names the node.
    """
    senders = [update for update in in_order(updates) if update.gram is not None]
    for update in senders:
        _check_gram(update, n_anchors)
    held = [_held(update, n_anchors) for update in senders]
    quality = [_quality(update, n_anchors) for update in senders]
    if precision is not None:
        quality = [q.double() * precision[update.node] for update, q in zip(senders, quality, strict=True)]
    grams = [kernel(unpack(update.gram.double())) for update in senders if update.gram is not None]
    return consensus(grams, held, n_anchors, quality, connected=connected)


def _held(update: Up, n_anchors: int) -> Tensor:
    return torch.arange(n_anchors) if update.index is None else update.index.long()


def _quality(update: Up, n_anchors: int) -> Tensor:
    return torch.ones(len(_held(update, n_anchors))) if update.quality is None else update.quality


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


def outliers(updates: Sequence[Up], n_anchors: int) -> dict[str, str]:
    """Nodes whose Gram has nothing to do with the others' (`alignment.outliers`), each with a line that says so.

    Raises:
        MessageError: as `merge_grams`.
    """
    senders = [update for update in in_order(updates) if update.gram is not None]
    for update in senders:
        _check_gram(update, n_anchors)
    grams = [unpack(update.gram.double()) for update in senders if update.gram is not None]
    held = [_held(update, n_anchors) for update in senders]
    found = alignment.outliers(grams, held, n_anchors, [update.modality for update in senders])
    return {
        update.node: f"node {update.node!r} sent a Gram that has nothing to do with the others': it is left out from "
        "here on; look at the order of its anchors"
        for update, out in zip(senders, found, strict=True)
        if out
    }


def weigh_items(updates: Sequence[Up], n_anchors: int, rank: int, power: float) -> dict[str, Tensor]:
    """Weights [k] of each node's anchors, those it declares times what all Grams say (`alignment.item_quality`).

    Nodes of one modality that sent the same Gram, as they do where they use the public items, count as one.

    Args:
        updates: with Grams.
        n_anchors: K.
        rank: of the frame.
        power: of the frame.

    Raises:
        MessageError: as `merge_grams`.
    """
    sent = _distinct(updates, n_anchors)
    found = item_quality(
        sent.grams, sent.indices, n_anchors, sent.modalities, rank=rank, power=power, declared=sent.quality
    )
    return {node: found[number].float() for node, number in sent.number.items()}


def choose_fit(updates: Sequence[Up], n_anchors: int, start: Fit, rank: int, power: float) -> int:
    """How the nodes should fit, a number of `alignment.ways`, by `alignment.choose_fit`.

    Nodes of one modality that sent the same Gram count as one.

    Args:
        updates: with Grams, of the linear kernel, shrunk by the ridge of `start`.
        n_anchors: K.
        start: what is set.
        rank: of the frame.
        power: of the frame.

    Raises:
        MessageError: as `merge_grams`.
    """
    sent = _distinct(updates, n_anchors)
    return alignment.choose_fit(
        sent.grams, sent.indices, n_anchors, sent.modalities, start=start, rank=rank, power=power, quality=sent.quality
    )


class _Distinct(NamedTuple):
    """What updates with Grams hold, once where nodes of one modality sent the same; number: node -> its place in it."""

    grams: list[Tensor]
    indices: list[Tensor]
    modalities: list[str]
    quality: list[Tensor]
    number: dict[str, int]


def _distinct(updates: Sequence[Up], n_anchors: int) -> _Distinct:
    first: list[Up] = []
    number: dict[str, int] = {}
    for update in [update for update in in_order(updates) if update.gram is not None]:
        _check_gram(update, n_anchors)
        twins = (place for place, other in enumerate(first) if _same_gram(update, other))
        number[update.node] = next(twins, len(first))
        if number[update.node] == len(first):
            first.append(update)
    return _Distinct(
        [unpack(update.gram.double()) for update in first if update.gram is not None],
        [_held(update, n_anchors) for update in first],
        [update.modality for update in first],
        [_quality(update, n_anchors) for update in first],
        number,
    )


def _same_gram(left: Up, right: Up) -> bool:
    def equal(a: Tensor | None, b: Tensor | None) -> bool:
        return (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))

    arrays = ((left.gram, right.gram), (left.index, right.index), (left.quality, right.quality))
    return left.modality == right.modality and all(equal(a, b) for a, b in arrays)


def node_residuals(
    updates: Sequence[Up], n_anchors: int, rank: int, power: float
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """How far each node's anchors are from where the nodes of other modalities place them; the precisions this gives.

    The server computes both from the Grams, no node declares them. The target is the canonical frame of the other
    modalities alone, for the nodes of one modality may have the same anchors, and with them the same errors. Anchors
    that no other modality holds are not judged; a node with fewer than 3 others counts as one that predicts nothing.

    Args:
        updates: with Grams.
        n_anchors: K.
        rank: of the frame.
        power: of the frame.

    Returns:
        Per node, the mean of `alignment.anchor_residuals`; and per node the precision of the k anchors that it holds,
        for `merge_grams`, over the largest of all: 1 / residual, where to an anchor's own residual, a noisy estimate of
        its variance, the node's mean counts as a second observation, or as the only one if it is not judged.

    Raises:
        MessageError: there is no other modality, or as `merge_grams`.
    """
    senders = [update for update in in_order(updates) if update.gram is not None]
    frames: dict[str, tuple[Tensor, Tensor]] = {}
    for modality in sorted({update.modality for update in senders}):
        others = [update for update in senders if update.modality != modality]
        if not others:
            raise MessageError(
                f"all nodes hold {modality!r}: no other modality to judge their anchors by; "
                'set align.precision = false and average.rule = "samples"'
            )
        target = canonical_frame(merge_grams(others, n_anchors, connected=False), rank, power)
        frames[modality] = target, torch.cat([_held(update, n_anchors) for update in others]).unique()
    means: dict[str, float] = {}
    precision: dict[str, Tensor] = {}
    for update in senders:
        assert update.gram is not None
        _check_gram(update, n_anchors)
        target, known = frames[update.modality]
        index = _held(update, n_anchors)
        judged = torch.isin(index, known).nonzero().flatten()
        residuals, mean = torch.ones(len(index), dtype=torch.float64), 1.0
        if len(judged) >= MIN_JUDGED:
            judgement = anchor_residuals(sub_smoother(unpack(update.gram.double()), judged), target[index[judged]])
            mean = float(judgement.mean())
            residuals.fill_(mean)[judged] = judgement
        means[update.node] = mean
        precision[update.node] = 2 / (mean + residuals).clamp_min(RESIDUAL_FLOOR)
    largest = max(float(value.max()) for value in precision.values())
    return means, {node: (value / largest).clamp_min(PRECISION_FLOOR) for node, value in precision.items()}
