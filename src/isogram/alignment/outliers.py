"""Nodes whose Gram has nothing to do with the others': anchors in a wrong order, or numbers made up.

From the Grams alone, so that a node's own word is not asked. Figures: docs/privacy.md, "Hostile nodes".
"""

from collections.abc import Sequence
from statistics import median

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isogram.alignment.cka import cka_debiased
from isogram.alignment.consensus import consensus
from isogram.alignment.evidence import TEST_RHO, null_sd
from isogram.alignment.gram import shrink, unshrink

CORE = 0.5
"""Of the median: relation to the others with which a node is among those that judge."""

LEAST, SHARE = 3.0, 0.2
"""Standard deviations of chance, and share of the median: a node below both stands out. Chosen at seeds 100-107."""

MIN_COMMON = 4
"""Anchors in common without which there is no debiased CKA."""


def relations(
    matrices: Sequence[Float[Tensor, "_ _"]], indices: Sequence[Int[Tensor, " _"]], n_anchors: int
) -> list[float | None]:
    """How far each node's Gram is related to those of nodes that are related: CKA over its sd under chance.

    Debiased CKA of Grams under the ridge of the doctor's test. First pairwise, where a node's score is the median over
    the others: while more than half of them are honest, it is that of an honest pair or lies between two, also if all
    hostile nodes tell the same lie. Nodes with half of the median score or more are the core. Then, twice, each node
    against the consensus of the core without itself, which is surer than any pair, and the core anew.

    Args:
        matrices: per node, the shrunk Gram over its anchors.
        indices: per node, the positions of those anchors, ascending.
        n_anchors: K.

    Returns:
        Per node; None where it has too few anchors in common with any other to be judged.
    """
    grams = [shrink(unshrink(matrix.double()), TEST_RHO) for matrix in matrices]
    nodes = range(len(grams))
    scores: list[float | None] = []
    for node in nodes:
        pairs = [_relation(grams[node], indices[node], grams[o], indices[o]) for o in nodes if o != node]
        known = [value for value in pairs if value is not None]
        scores.append(median(known) if known else None)
    for _ in range(2):
        usual = _median(scores)
        core = [node for node in nodes if (score := scores[node]) is not None and score >= CORE * usual]
        scores = [_against([o for o in core if o != node], node, grams, indices, n_anchors) for node in nodes]
    return scores


def outliers(
    matrices: Sequence[Float[Tensor, "_ _"]],
    indices: Sequence[Int[Tensor, " _"]],
    n_anchors: int,
    modalities: Sequence[str],
) -> list[bool]:
    """Which nodes stand out by `relations`.

    Nobody does where all are hardly related, and not all nodes of a modality: of features that are not related to the
    others' a Gram looks the same as one of anchors in a wrong order.

    Args:
        matrices, indices, n_anchors: as in `relations`.
        modalities: per node, its modality.
    """
    scores = relations(matrices, indices, n_anchors)
    usual = _median(scores)
    found = [score is not None and score < min(LEAST, SHARE * usual) for score in scores]
    whole = {m for m in modalities if all(out for out, own in zip(found, modalities, strict=True) if own == m)}
    return [out and own not in whole for out, own in zip(found, modalities, strict=True)]


def _median(scores: Sequence[float | None]) -> float:
    known = [score for score in scores if score is not None]
    return median(known) if known else 0.0


def _relation(left: Tensor, of_left: Tensor, right: Tensor, of_right: Tensor) -> float | None:
    a, b = torch.isin(of_left, of_right).nonzero().flatten(), torch.isin(of_right, of_left).nonzero().flatten()
    if len(a) < MIN_COMMON:
        return None
    return float(cka_debiased(left[a][:, a], right[b][:, b])) / null_sd(len(a))


def _against(
    others: Sequence[int], node: int, grams: Sequence[Tensor], indices: Sequence[Tensor], n_anchors: int
) -> float | None:
    if not others:
        return None
    held = [indices[other] for other in others]
    mean, known = consensus([grams[o] for o in others], held, n_anchors, connected=False), torch.cat(held).unique()
    return _relation(grams[node], indices[node], mean[known][:, known], known)
