"""All checks of the doctor in one call."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from isogram.alignment import Standardizer
from isogram.alignment.evidence import Block, cross_fit, faint, partner_ranks, relation, serial, suspicion, twins
from isogram.config import Config
from isogram.data import FederatedData
from isogram.data.base import FloatArray
from isogram.doctor import findings
from isogram.doctor.diagnosis import LEVELS, Coverage, Diagnosis, Group, PairTest, Suspect
from isogram.doctor.findings import LEVEL, Modality
from isogram.local import MIN_ANCHORS, stream

FOLDS, PERMUTATIONS = 5, 999

MOST = 300
"""Anchors that a pair is tested on, picked by the anchor set's hash: more would only take longer."""

SURE, RIVAL = 0.95, 0.2
"""Probability of being off above which an anchor is named, and the share of it above which a modality is."""

SAME, FAINT = 1e-4, 0.01
"""Squared distances: of two items, to the mean one; of an item from the mean item, to the median one."""


def examine(data: FederatedData, config: Config) -> Diagnosis:
    """All checks at once; the order of nodes does not matter.

    Under differential privacy of the anchors alone: whether a run begins would tell of rows, and so would every count.
    """
    if config.privacy.epsilon:
        empty = (replace(node, tokens=node.tokens[:0], labels=None) for node in data.nodes)
        data = replace(data, nodes=tuple(empty))
    found = [_gather(data, name, config) for name in sorted(data.modalities)]
    usable, ids, n_anchors = [m for m in found if m.usable], data.anchors.ids, len(data.anchors)
    groups, nowhere = _groups(found, n_anchors)
    kinds = {m.name: m.kind for m in found}
    pairs, suspects = _test(usable, data, config)
    duplicates, faint_items = [], []
    for m in usable:
        standard = m.standardize(m.features)
        duplicates += [(m.name, ids[m.index[i]], ids[m.index[j]]) for i, j in twins(standard, closer=SAME)]
        faint_items += [(m.name, ids[m.index[i]]) for i in faint(standard, weaker=FAINT)]
    said = [
        *findings.cannot_run(found, groups, [ids[i] for i in nowhere], ids, config),
        *findings.unrelated(usable, pairs, groups),
        *findings.ordered(pairs, _serial(usable, data, config), kinds),
        *(() if config.privacy.epsilon else findings.labels(data, config)),
        *findings.columns(found, data),
        *findings.ranges(found, data, config.align.clip),
        *findings.items(suspects, duplicates, faint_items, kinds),
    ]
    return Diagnosis(
        pairs,
        tuple(
            Coverage(
                modality=m.name,
                nodes=m.nodes,
                anchors=len(m.index),
                of=n_anchors,
                synthetic=int((m.quality < 1).sum()),
                features=int((~findings.padding(m, data)).sum()),
                constant=int((m.constant & ~findings.padding(m, data)).sum()),
            )
            for m in found
        ),
        groups,
        suspects,
        tuple(duplicates),
        tuple(faint_items),
        tuple(sorted(said, key=lambda finding: list(LEVELS).index(finding.level))),
    )


def _gather(data: FederatedData, name: str, config: Config) -> Modality:
    items = data.anchors.items[name]
    features = _flat(items.tokens)
    return Modality(
        name,
        data.encoders[name].kind if name in data.encoders else "",
        tuple(sorted(node.name for node in data.nodes if node.modality == name)),
        torch.from_numpy(items.index),
        features,
        torch.from_numpy(items.quality),
        Standardizer.fit(features, config.align.clip) if len(features) else Standardizer.none(features.shape[1]),
    )


def _flat(tokens: FloatArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(tokens)).double().flatten(1)


def _groups(found: Sequence[Modality], n_anchors: int) -> tuple[tuple[Group, ...], list[int]]:
    """Modalities that chains of common anchors connect, largest group first; positions that no modality holds."""
    holds = torch.zeros(len(found), n_anchors, dtype=torch.bool)
    for row, m in zip(holds, found, strict=True):
        row[m.index] = True
    _, label = connected_components((holds.double() @ holds.double().T).numpy() > 0, directed=False)
    groups = []
    for number in np.unique(label):
        rows = np.flatnonzero(label == number).tolist()
        groups.append(Group(tuple(found[i].name for i in rows), int(holds[rows].any(0).sum())))
    return tuple(sorted(groups, key=lambda g: -g.anchors)), torch.nonzero(~holds.any(0)).flatten().tolist()


def _test(
    usable: Sequence[Modality], data: FederatedData, config: Config
) -> tuple[tuple[PairTest, ...], tuple[Suspect, ...]]:
    """Every pair of modalities, and the anchors that do not go with the rest."""
    seed, n_anchors, align = data.anchors.hash, len(data.anchors), config.align
    folds = torch.randperm(n_anchors, generator=stream(seed, "doctor", "folds")).chunk(
        min(FOLDS, max(2, n_anchors // 2))
    )
    blocks = cross_fit(
        {m.name: m.features for m in usable},
        {m.name: m.index for m in usable},
        folds,
        rank=align.rank,
        rho=align.rho,
        power=align.power,
        clip=align.clip,
        metric=align.metric,
        quality={m.name: m.quality for m in usable},
        nodes={m.name: len(m.nodes) for m in usable},
    )
    common = {(a.name, b.name): _distinct(a, b, seed) for a, b in combinations(usable, 2)}
    tested = [pair for pair, index in common.items() if len(index) >= MIN_ANCHORS]
    pairs = []
    for a, b in combinations(usable, 2):
        pair, index = (a.name, b.name), common[a.name, b.name]
        auc, first, chance = partner_ranks(blocks[pair])
        cka, z, p, share = 0.0, 0.0, 1.0, 0.0
        verdict: Literal["aligned", "not shown", "untested"] = "untested"
        left, right = a.at(index), b.at(index)
        if pair in tested and _varies(left) and _varies(right):
            share = LEVEL / max(sum(m.name in other for other in tested) for m in (a, b))
            draw = stream(seed, "doctor", *pair)
            # So many that the smallest p there can be is well below what is asked for.
            cka, z, p = relation(left, right, align.clip, max(PERMUTATIONS, round(10 / share)), draw)
            verdict = "aligned" if p <= share else "not shown"
        n = int(torch.isin(a.index, b.index).sum())
        pairs.append(PairTest(*pair, n, cka, z, p, share, auc, first, chance, verdict))
    related = {(p.a, p.b): blocks[p.a, p.b] for p in pairs if p.verdict == "aligned"}
    return tuple(pairs), _suspects(related, data.anchors.ids)


def _distinct(a: Modality, b: Modality, seed: str) -> Tensor:
    """Positions of common anchors to test on: of those with the same item in both modalities only the first."""
    index = a.index[torch.isin(a.index, b.index)]
    if len(index) < 2:
        return index
    same = [set(twins(m.standardize(m.at(index)), closer=SAME)) for m in (a, b)]
    again = {later for _, later in same[0] & same[1]}
    index = index[[i for i in range(len(index)) if i not in again]]
    picked = torch.randperm(len(index), generator=stream(seed, "doctor", "tested", a.name, b.name))[:MOST]
    return index[picked.sort().values]


def _varies(features: Tensor) -> bool:
    """Is there anything left once they are standardised?"""
    return not bool(Standardizer.fit(features, torch.inf).scale.isinf().all())


def _serial(usable: Sequence[Modality], data: FederatedData, config: Config) -> dict[str, float]:
    """p-value of each modality's anchors being in some order."""
    seed, found = data.anchors.hash, {}
    for m in usable:
        found[m.name] = serial(m.features, config.align.clip, PERMUTATIONS, stream(seed, "doctor", "serial", m.name))
    return found


def _suspects(related: dict[tuple[str, str], list[Block]], ids: Sequence[str]) -> tuple[Suspect, ...]:
    names = sorted({name for pair in related for name in pair})
    posterior = suspicion(related, names, len(ids))
    suspects = []
    for i in torch.nonzero(1 - posterior[:, 0] > SURE).flatten().tolist():
        off = posterior[i, 1:] / (1 - posterior[i, 0])
        at_fault = [name for name, share in zip(names, off.tolist(), strict=True) if share > RIVAL]
        suspects.append(Suspect(" or ".join(at_fault), ids[i], round(float(1 - posterior[i, 0]), 6)))
    return tuple(sorted(suspects, key=lambda s: (-s.probability, s.anchor)))
