"""What the page of a run shows of held-out rows: which nodes agree, a map, examples of what finds what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from isogram.alignment import cka_debiased, gram
from isogram.data import FederatedData, evaluation
from isogram.data.base import UNLABELLED, FloatArray, IntArray
from isogram.evaluation import MIN_ROWS
from isogram.local import Node


@dataclass(frozen=True)
class View:
    """What people look at rather than read, of one federation: plain numbers for the page of a run.

    on: which rows; cka: debiased, node by node, under "features", "aligned" and, after training, "trained"; map: the
    two leading principal directions of all modalities' unit coordinates, with each row's class; examples: the first
    rows of one modality, and what is nearest to them in another.
    """

    on: str
    rows: int
    paired: bool
    classes: tuple[str, ...]
    cka: dict[str, Any]
    map: dict[str, dict[str, list[Any]]]
    examples: list[dict[str, Any]]


EXAMPLES, FOUND = 2, 5
"""Queries per direction that are shown, and answers to each."""


def view(data: FederatedData, nodes: Sequence[Node]) -> View:
    """The view of a federation's current maps and models on held-out rows, or on its anchors where there are none.

    Anchors are those that the maps were fitted to, so they look better than new rows would.
    """
    names = {modality: next(n for n in nodes if n.modality == modality) for modality in data.modalities}
    held = [m for m in data.modalities if m in data.held_out.modalities]
    with evaluation():
        if held:
            tokens = {m: data.held_out.tokens(m) for m in held}
            labels = {m: data.held_out.labels(m).tolist() for m in held if m in data.held_out.labelled}
            ids = {m: np.arange(len(rows)) for m, rows in tokens.items()} if data.held_out.paired else {}
        else:
            tokens = {m: data.anchors.items[m].tokens for m in data.modalities}
            labels, ids = {}, {m: data.anchors.items[m].index for m in data.modalities}
    listed = data.held_out.ids if held else data.anchors.ids
    rows = {m: normalize(names[m].embed(tokens[m]), dim=1) for m in tokens}
    known = {m: labels.get(m, [UNLABELLED] * len(rows[m])) for m in rows}
    return View(
        on="held-out rows" if held else "public anchors",
        rows=len(next(iter(rows.values()))),
        paired=bool(ids),
        classes=data.classes,
        cka=_cka_matrices(nodes, *_comparable(data, tokens, ids)),
        map=_plane(rows, known),
        examples=[e for a, b in permutations(rows, 2) for e in _examples(a, b, rows, known, ids, listed, data.classes)],
    )


def _comparable(
    data: FederatedData, tokens: Mapping[str, FloatArray], ids: Mapping[str, IntArray]
) -> tuple[str, Mapping[str, FloatArray], Mapping[str, IntArray]]:
    """Rows that are the same in all modalities, which CKA compares: held-out pairs, or else the anchors."""
    if data.held_out.paired and ids:
        return "held-out rows", tokens, ids
    items = data.anchors.items
    return "public anchors", {m: i.tokens for m, i in items.items()}, {m: i.index for m, i in items.items()}


def _cka_matrices(
    nodes: Sequence[Node], on: str, tokens: Mapping[str, FloatArray], ids: Mapping[str, IntArray]
) -> dict[str, Any]:
    stages: dict[str, dict[str, Tensor]] = {"features": {}, "aligned": {}, "trained": {}}
    nodes = [node for node in nodes if node.modality in tokens]
    place = {node.name: ids[node.modality] for node in nodes}
    for node in nodes:
        flat = torch.from_numpy(tokens[node.modality]).double().flatten(1)
        stages["features"][node.name] = node.standardize(flat)
        if node.map is not None:
            stages["aligned"][node.name] = node.map(flat)
        if node.model is not None:
            stages["trained"][node.name] = node.embed(tokens[node.modality])

    def between(a: str, b: str, rows: Mapping[str, Tensor]) -> float | None:
        common, left, right = np.intersect1d(place[a], place[b], return_indices=True)
        return (
            None if len(common) < MIN_ROWS else round(float(cka_debiased(gram(rows[a][left]), gram(rows[b][right]))), 4)
        )

    names = [node.name for node in nodes]
    found = {stage: [[between(a, b, rows) for b in names] for a in names] for stage, rows in stages.items() if rows}
    return {"nodes": names, "on": on, **found}


def _plane(rows: Mapping[str, Tensor], labels: Mapping[str, list[int]]) -> dict[str, dict[str, list[Any]]]:
    pooled = torch.cat(list(rows.values()))
    centre = pooled.mean(0)
    directions = torch.linalg.svd(pooled - centre, full_matrices=False).Vh[:2]
    # The sign of a singular vector is arbitrary: its largest entry is made positive.
    directions = directions * directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    flat = {modality: ((x - centre) @ directions.T) for modality, x in rows.items()}
    return {
        m: {
            "x": _rounded(at[:, 0]),
            "y": _rounded(at[:, 1]) if at.shape[1] > 1 else [0.0] * len(at),
            "label": labels[m],
        }
        for m, at in flat.items()
    }


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def _examples(
    a: str,
    b: str,
    rows: Mapping[str, Tensor],
    labels: Mapping[str, list[int]],
    ids: Mapping[str, IntArray],
    listed: Sequence[str],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    def name(modality: str, row: int) -> str:
        return listed[ids[modality][row]] if ids and listed else ""

    def named(label: int) -> str:
        return "" if label == UNLABELLED else classes[label]

    out = []
    for query in range(min(EXAMPLES, len(rows[a]))):
        cosines = rows[b] @ rows[a][query]
        best = cosines.argsort(descending=True, stable=True)[:FOUND].tolist()
        mine = labels[a][query]
        found = [
            {
                "row": row,
                "name": name(b, row),
                "label": named(labels[b][row]),
                "cosine": round(float(cosines[row]), 4),
                "right": bool(ids[b][row] == ids[a][query]) if ids else mine != UNLABELLED and labels[b][row] == mine,
            }
            for row in best
        ]
        out.append({"from": a, "to": b, "query": query, "name": name(a, query), "label": named(mine), "found": found})
    return out
