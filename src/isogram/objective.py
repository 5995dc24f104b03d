"""The loss as named terms. A new one is a function here and a weight in `config.TermWeights`.

Shape letters: k anchors at the node, a of them live in the step, b private rows, d coordinates, C classes, p peers.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize, softplus

from isogram.alignment import cka_embedded
from isogram.config import TrainConfig


@dataclass(frozen=True)
class Step:
    """What the terms see of one optimiser step.

    anchors [k, d]: embeddings of all anchors at the node, those at `live` [a] computed in this step, the others as last
    seen; rows [b, d]: embeddings; frame [k, d]: the anchors' places in it; geometry [k, k]: its centred Gram;
    prototypes [k, d]: mean of the nodes' anchor embeddings; teacher [b, d]: the rows under the starting map;
    labels [b, C]: probability of each class of `head`, 0 of all if unknown; head [C, d]: directions of the classes that
    this node labels;
    counterparts, siblings [k, d]: anchor embeddings merged over the other modalities and over the nodes of this one;
    peers [p, k, d]: those of every other node (all three NaN where nobody holds an anchor); previous [k, d]: the
    anchors as the node left them in its last round.
    """

    anchors: Tensor
    live: Tensor
    rows: Tensor
    teacher: Tensor
    frame: Tensor | None = None
    geometry: Tensor | None = None
    prototypes: Tensor | None = None
    counterparts: Tensor | None = None
    siblings: Tensor | None = None
    peers: Tensor | None = None
    previous: Tensor | None = None
    labels: Tensor | None = None
    head: Tensor | None = None

    def to(self, device: torch.device) -> "Step":
        """The same step on another device."""
        found = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in found.items() if value is not None})


def task(step: Step, temperature: float, reduction: Literal["mean", "sum"] = "mean") -> Tensor | None:
    """Cross-entropy of a cosine head, softmax over the classes that this node has labels of and the head knows.

    A row's own depends on no other row: with "sum" the gradient is the sum of theirs.
    """
    if step.labels is None or step.head is None:
        return None
    known = ~step.head.isnan().any(1)
    labels = step.labels[:, known]
    keep = labels.sum(1) > 0
    if not keep.any() or known.sum() < 2:
        return None
    logits = normalize(step.rows[keep], dim=1) @ step.head[known].T / temperature
    return cross_entropy(logits, normalize(labels[keep], p=1, dim=1), reduction=reduction)


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


def inter(step: Step, temperature: float) -> Tensor | None:
    """Each anchor finds itself among the other modalities' anchors (CreamFL, 2302.08888: inter-modal contrast)."""
    return None if step.counterparts is None else _multi_positive(step, step.counterparts[None], temperature)


def intra(step: Step, temperature: float) -> Tensor | None:
    """Anchors nearer to their modality's merged ones than to their own past (CreamFL: intra-modal contrast)."""
    if step.siblings is None or step.previous is None:
        return None
    anchors = step.anchors[step.live]
    near = cosine_similarity(anchors, step.siblings[step.live], dim=1)
    past = cosine_similarity(anchors, step.previous[step.live], dim=1)
    return softplus((past - near) / temperature).mean()


def muscle(step: Step, temperature: float) -> Tensor | None:
    """Each anchor finds itself at every other node among the anchors of all of them (after FedMuscle, 2602.01626)."""
    return None if step.peers is None else _multi_positive(step, step.peers, temperature)


def _multi_positive(step: Step, places: Tensor, temperature: float) -> Tensor | None:
    """InfoNCE of the live anchors against `places` [p, k, d]: p positives each, one softmax over all p k of them.

    The mean is over positives of the logarithm, not its inverse: no peer, however near, makes up for another.
    """
    known = ~places.isnan().any(2)
    positive = known[:, step.live].T
    if not positive.any():
        return None
    places = normalize(places.nan_to_num(), dim=2)
    logits = torch.einsum("ad,pkd->apk", normalize(step.anchors[step.live], dim=1), places) / temperature
    logits = logits.masked_fill(~known, -torch.inf)
    own = logits.gather(2, step.live[:, None, None].expand(-1, len(places), 1)).squeeze(2)
    surprise = torch.logsumexp(logits, (1, 2))[:, None] - torch.where(positive, own, 0)
    count = positive.sum(1)
    return ((surprise * positive).sum(1) / count.clamp_min(1))[count > 0].mean()


TERMS: dict[str, Callable[[Step, float], Tensor | None]] = {
    "task": task,
    "cka": cka_term,
    "frame": frame,
    "teacher": teacher,
    "prototype": prototype,
    "inter": inter,
    "intra": intra,
    "muscle": muscle,
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
