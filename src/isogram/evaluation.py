"""What the coordinates are worth on held-out rows: retrieval, classes, CKA. The only place that opens held-out rows.

Where a modality has several nodes, each embeds the held-out rows itself, as its own
instruments see them, and figures are averaged over pairs of nodes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from isogram.alignment import cka_debiased, gram
from isogram.alignment.classes import classify
from isogram.data import FederatedData, evaluation
from isogram.data.base import FloatArray, IntArray

MIN_ROWS = 4
"""For debiased CKA, which does not exist with fewer."""

Embed = Callable[[FloatArray], Tensor]

Pairs = Mapping[tuple[str, str], tuple[Mapping[str, Embed], Tensor | None]]
"""Two modalities -> coordinates that hold between them alone: per node of either, and class directions in these."""


@dataclass(frozen=True)
class Score:
    """One figure: metric, direction such as "rna->meth", value."""

    metric: str
    direction: str
    value: float


@dataclass(frozen=True)
class Scope:
    """What figures are measured on.

    rows: held out of each modality, where their counterparts or classes are known. paired: row i of each is the same
    thing. classes: how many some node labels.
    """

    rows: Mapping[str, int]
    paired: bool
    classes: int

    def chance(self, metric: str, direction: str | None = None) -> float | None:
        """What guessing gives of a figure; None where that is not known."""
        if metric in ("r1", "r10") and self.paired and self.rows:
            return min(1.0, int(metric[1:]) / max(self.rows.values()))
        if metric in ("accuracy", "pam50") and self.classes and not (direction or "").endswith(":elsewhere"):
            return 1 / self.classes  # only what some node labels is ever named
        return 0.0 if metric == "cka" else None


def scope(data: FederatedData) -> Scope:
    """What the figures of `evaluate` are measured on."""
    held = data.held_out
    known = held.modalities if held.paired else held.labelled
    with evaluation():
        rows = {modality: len(held.tokens(modality)) for modality in data.modalities if modality in known}
    return Scope(rows, held.paired, len({label for node in data.nodes for label in node.classes}))


def retrieval(queries: Tensor, gallery: Tensor, at: Sequence[int]) -> list[float]:
    """Recall at each of `at` by cosine; row i of the gallery [n, r] answers query i [n, r]. Ties count against."""
    rank = ranks(queries, gallery)
    return [float((rank < k).double().mean()) for k in at]


def ranks(queries: Tensor, gallery: Tensor) -> Tensor:
    """[n] how many rows of the gallery [n, r] are at least as close by cosine to query i [n, r] as its own row i."""
    similarity = normalize(queries, dim=1) @ normalize(gallery, dim=1).T
    own = similarity.diagonal()[:, None]
    return (~(similarity < own)).sum(1) - 1  # so that NaN counts against, too


Head = Tensor | Mapping[str, Tensor] | None
"""Class directions for all nodes, or per node; None without labels."""


def evaluate(data: FederatedData, embed: Mapping[str, Embed], head: Head) -> list[Score]:
    """All figures of one solution: `embed` per node name, and class directions in the same coordinates, or per node.

    Nothing without held-out rows. r1, r10 for every ordered pair of modalities, cka for every unordered one (both only
    where rows are paired);
    balanced accuracy per modality, called pam50 on the TCGA sets and accuracy elsewhere. Where a modality has labels of
    some classes only, a direction such as "vibration:elsewhere" is the accuracy on the classes labelled elsewhere.
    """
    scores: list[Score] = []
    modalities = [m for m in data.modalities if m in data.held_out.modalities]
    with evaluation():
        of = {
            m: [embed[node.name](data.held_out.tokens(m, node.name)) for node in data.nodes if node.modality == m]
            for m in modalities
        }
        if data.held_out.paired and len(of[modalities[0]][0]) > 1:  # one row is found by whoever looks
            for a, b in permutations(modalities, 2):
                both = [retrieval(x, y, (1, 10)) for x, y in _pairs(of[a], of[b])]
                scores += [Score(f"r{k}", f"{a}->{b}", _mean(pair[i] for pair in both)) for i, k in enumerate((1, 10))]
            for a, b in combinations(modalities if len(of[modalities[0]][0]) >= MIN_ROWS else (), 2):
                value = _mean(float(cka_debiased(gram(x), gram(y))) for x, y in _pairs(of[a], of[b]))
                scores.append(Score("cka", f"{a}->{b}", value))
        metric = "pam50" if data.name.startswith("tcga") else "accuracy"
        for modality in [m for m in modalities if m in data.held_out.labelled]:
            heads = [_head(head, node.name) for node in data.nodes if node.modality == modality]
            if any(found is None for found in heads):
                continue
            truth, told = data.held_out.labels(modality), _labelled(data, {modality})
            named = [classify(x, h).numpy() for x, h in zip(of[modality], heads, strict=True) if h is not None]
            scores.append(Score(metric, modality, _mean(_accuracy(truth, guess) for guess in named)))
            elsewhere = np.isin(truth, sorted(_labelled(data, set(data.modalities)) - told))
            if told and elsewhere.any():
                value = _mean(_accuracy(truth[elsewhere], guess[elsewhere]) for guess in named)
                scores.append(Score(metric, f"{modality}:elsewhere", value))
    return scores


def evaluate_pairs(data: FederatedData, pairs: Pairs) -> list[Score]:
    """All figures of a solution that has coordinates of its own for every two modalities, for methods without a frame.

    A modality's accuracy is the mean over the pairs that it is in and that have labels at either.
    """
    values: dict[tuple[str, str], list[float]] = {}
    for pair, (embed, head) in pairs.items():
        narrow = replace(data, nodes=tuple(node for node in data.nodes if node.modality in pair))
        for score in evaluate(narrow, embed, head):
            values.setdefault((score.metric, score.direction), []).append(score.value)
    return [Score(metric, direction, _mean(found)) for (metric, direction), found in values.items()]


def _head(head: Head, node: str) -> Tensor | None:
    """A node's class directions, if there are any."""
    found = head.get(node) if isinstance(head, Mapping) else head
    return None if found is None or found.isnan().all() else found


def _labelled(data: FederatedData, modalities: set[str]) -> set[int]:
    return {c for node in data.nodes if node.modality in modalities for c in node.classes}


def _accuracy(truth: IntArray, guess: IntArray) -> float:
    """Balanced: mean over the true classes of the share that is named right."""
    return _mean(float((guess[truth == c] == c).mean()) for c in np.unique(truth))


def _pairs(left: list[Tensor], right: list[Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
    return ((x, y) for x in left for y in right)


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
