"""The loss as named terms. A new one is a function here and a weight in `config.TermWeights`.

Shape letters: k anchors at the node, a of them live in the step, b private rows, d coordinates, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from isogram.alignment import cka_embedded
from isogram.config import TrainConfig


@dataclass(frozen=True)
class Step:
    """What the terms see of one optimiser step.

    anchors [k, d]: embeddings of all anchors at the node, those at `live` [a] computed in this step, the others as last
    seen; rows [b, d]: embeddings; frame [k, d]: the anchors' places in it; geometry [k, k]: its centred Gram;
    prototypes [k, d]: mean of the nodes' anchor embeddings; teacher [b, d]: the rows under the starting map;
    labels [b, C]: probability of each class of `head`, 0 of all if unknown; head [C, d]: directions of the classes that
    this node labels or has learnt of.
    """

    anchors: Tensor
    live: Tensor
    rows: Tensor
    teacher: Tensor
    frame: Tensor | None = None
    geometry: Tensor | None = None
    prototypes: Tensor | None = None
    labels: Tensor | None = None
    head: Tensor | None = None

    def to(self, device: torch.device) -> "Step":
        """The same step on another device."""
        found = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in found.items() if value is not None})


def task(step: Step, temperature: float) -> Tensor | None:
    """Cross-entropy of a cosine head, softmax over the classes that this node has labels of and the head knows."""
    if step.labels is None or step.head is None:
        return None
    known = ~step.head.isnan().any(1)
    labels = step.labels[:, known]
    keep = labels.sum(1) > 0
    if not keep.any() or known.sum() < 2:
        return None
    logits = normalize(step.rows[keep], dim=1) @ step.head[known].T / temperature
    return cross_entropy(logits, normalize(labels[keep], p=1, dim=1))


def cka_term(step: Step, temperature: float) -> Tensor | None:
    """1 - CKA between the Gram of the anchors and that of the frame."""
    return None if step.geometry is None else 1 - cka_embedded(step.anchors, step.geometry)


def frame(step: Step, temperature: float) -> Tensor | None:
    """Anchors onto the frame: each anchor must find its own place among all (InfoNCE on cosines, both ways)."""
    if step.frame is None:
        return None
    anchors, places = normalize(step.anchors, dim=1), normalize(step.frame, dim=1)
    found = anchors[step.live] @ places.T / temperature
    finds = places[step.live] @ anchors.T / temperature
    return (cross_entropy(found, step.live) + cross_entropy(finds, step.live)) / 2


def teacher(step: Step, temperature: float) -> Tensor | None:
    """Structure of private data kept: rows stay, in direction, where the starting map puts them."""
    return 1 - cosine_similarity(step.rows, step.teacher, dim=1).mean()


def prototype(step: Step, temperature: float) -> Tensor | None:
    """Anchors onto their mean embedding over the nodes: the prototype-sharing baseline."""
    if step.prototypes is None:
        return None
    return 1 - cosine_similarity(step.anchors[step.live], step.prototypes[step.live], dim=1).mean()


TERMS: dict[str, Callable[[Step, float], Tensor | None]] = {
    "task": task,
    "cka": cka_term,
    "frame": frame,
    "teacher": teacher,
    "prototype": prototype,
}


def loss(step: Step, config: TrainConfig) -> tuple[Tensor, dict[str, float]]:
    """Weighted sum of the terms, and each term's own value; a term that does not apply at this node is left out."""
    total = torch.zeros((), device=step.rows.device)
    values: dict[str, float] = {}
    for name, weight in config.weights:
        value = TERMS[name](step, config.temperature) if weight else None
        if value is not None:
            total = total + weight * value
            values[name] = float(value.detach())
    return total, values
