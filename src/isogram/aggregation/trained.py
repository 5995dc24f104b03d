"""What comes of rounds, adapters aside: gradient sketches summed, and whether held-out anchors speak for training."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from isogram.aggregation.order import in_order
from isogram.errors import MessageError
from isogram.messages import Up


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
