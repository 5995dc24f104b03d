"""Server side: lists of updates in, one broadcast out. Pure functions; nodes are taken in the order of their names."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from isogram import alignment, robust
from isogram.alignment import (
    Fit,
    anchor_residuals,
    canonical_frame,
    classes,
    consensus,
    item_quality,
    sub_smoother,
    unpack,
)
from isogram.errors import MessageError
from isogram.messages import Up
from isogram.secure_sum import MIN_EVIDENCE, total

HEAD_PRIOR = 20.0
"""Precision of a class direction before any row is seen, as if so many unit rows had been seen in each direction."""

RESIDUAL_FLOOR = 1e-3
"""Below it nodes and anchors count as equally well placed."""

PRECISION_FLOOR = 1e-3
"""Of an anchor's precision, relative to the largest."""

MIN_JUDGED = 3
"""Anchors shared with other modalities below which a node is not judged."""


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
        update.node: f"node {update.node!r} sent a Gram that has nothing to do with the others': it is left out; "
        "look at the order of its anchors"
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


def merge_counts(updates: Sequence[Up]) -> Tensor:
    """[C] rows of each class over all nodes, 0 for fewer than `MIN_EVIDENCE`: asked before any sum is sent.

    Raises:
        MessageError: counts of different lengths, or that do not add up to counts; names the nodes.
    """
    counts = _total(updates, "counts")
    if not ((counts >= 0) & (counts == counts.round())).all():
        nodes = ", ".join(repr(update.node) for update in in_order(updates))
        raise MessageError(
            f"class counts of nodes {nodes} do not add up to whole numbers: one of them is of another round or spoilt, "
            "and masked it does not show which; ask all of them again"
        )
    return torch.where(counts >= MIN_EVIDENCE, counts, 0)


def merge_heads(updates: Sequence[Up], evidence: Tensor) -> Tensor:
    """Class directions [C, r] in the frame from secure sums; NaN rows where evidence [C] is 0.

    From class sums alone they are unit class means. With second moments S = sum u u^T, too, they are the rows of
    (sum u by class) (S + `HEAD_PRIOR` I)^-1: the mean of a linear head's posterior, for which Laplace's approximation
    of the last layer is exact (Daxberger et al. 2021, "Laplace Redux"), and the precision-weighted mean of the heads
    that the nodes would have fitted each by itself.

    Raises:
        MessageError: sums of different shapes; names the nodes.
    """
    sums = _total(updates, "head")
    if any(update.second is not None for update in updates):
        precision = unpack(_total(updates, "second"))
        sums = torch.linalg.solve(precision + HEAD_PRIOR * torch.eye(len(precision), dtype=torch.float64), sums.T).T
    directions = torch.nn.functional.normalize(sums, dim=1)
    return torch.where(evidence[:, None] > 0, directions, torch.nan)


def merge_noisy_heads(updates: Sequence[Up], frame: Tensor, noise: float, width: int) -> Tensor:
    """Class directions [C, r] from sums with Gaussian noise; NaN where noise alone would have as large a sum.

    All of it is made of what was released and of the frame, which is public, so it costs nothing more. From unit sums
    in the leading coordinates each anchor gets class scores, and from these come directions in all coordinates, which
    noise moves less (`alignment.classes.evidence_head`).

    Args:
        updates: one per labelled node.
        frame: [K, r].
        noise: standard deviation of what each node added to each number.
        width: coordinates that are not 0.

    Raises:
        MessageError: sums of different shapes; names the nodes.
    """
    sums = _total(updates, "head")
    known = sums.square().sum(1) > len(updates) * noise**2 * width
    directions = torch.full_like(sums, torch.nan)
    if known.any():
        scores = classes.anchor_classes(frame.double(), sums[known])
        directions[known] = torch.nn.functional.normalize(classes.evidence_head(scores, frame.double()), dim=1)
    return directions


def merge_directions(updates: Sequence[Up], rule: robust.Rule) -> tuple[Tensor, dict[str, str]]:
    """Class directions [C, r] by `robust.vote`; and the nodes whose votes do not count, each with a line that says so.

    Raises:
        MessageError: directions of different shapes; names the nodes.
    """
    senders = [update.node for update in in_order(updates) if update.directions is not None]
    head, counts = robust.vote(_sent(updates, "directions"), rule)
    told = {
        node: f"node {node!r} tells other classes than the other nodes do: it is left out; look at its labels"
        for node, count in zip(senders, counts, strict=True)
        if not count
    }
    return head, told


def _total(updates: Sequence[Up], field: str) -> Tensor:
    return total(_sent(updates, field))


def _sent(updates: Sequence[Up], field: str) -> list[Tensor]:
    """A field of all updates that have it, in node order and of one shape."""
    senders = [update for update in in_order(updates) if getattr(update, field) is not None]
    values = [getattr(update, field) for update in senders]
    for sender, value in zip(senders, values, strict=True):
        if value.shape != values[0].shape:
            raise MessageError(
                f"nodes {senders[0].node!r} and {sender.node!r} sent {field} of shapes {tuple(values[0].shape)} and "
                f"{tuple(value.shape)}; all nodes need the same classes and rank"
            )
    return values


def sum_sketches(updates: Sequence[Up]) -> dict[str, Tensor]:
    """Sum of each layer's gradient sketch over the nodes that sent it, float64.

    Raises:
        MessageError: sketches of different shapes, or one that is not finite; names node and layer.
    """
    sums: dict[str, Tensor] = {}
    for update in in_order(updates):
        for layer, sketch in sorted(update.sketches.items()):
            if not torch.isfinite(sketch).all():
                raise MessageError(
                    f"node {update.node!r} sent NaN or infinity in the sketch of {layer!r}; leave it out"
                )
            if layer in sums and sums[layer].shape != sketch.shape:
                raise MessageError(
                    f"node {update.node!r} sent the sketch of {layer!r} as {tuple(sketch.shape)}, others as "
                    f"{tuple(sums[layer].shape)}; all nodes need the same trunk and rank"
                )
            sums[layer] = sketch.double() + sums.get(layer, 0.0)
    return sums


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
