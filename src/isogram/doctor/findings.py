"""From figures to sentences: what is wrong, where, and what to do about it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from scipy.stats import norm
from torch import Tensor

from isogram.alignment import DEFAULT_RANK, Standardizer
from isogram.alignment.evidence import null_sd
from isogram.config import Config
from isogram.data import FederatedData, NodeData
from isogram.data.base import UNLABELLED
from isogram.doctor.diagnosis import Finding, Group, PairTest, Suspect
from isogram.doctor.words import Words, one_per, words_of
from isogram.goal import GOVERNED, Goal, governed
from isogram.local import MIN_ANCHORS
from isogram.secure_sum import MIN_EVIDENCE

LEVEL = 0.01
"""Chance, at most, that an unrelated modality passes; shared between the pairs that it is tested in."""

IN_ORDER, FAR = 0.002, 0.1
"""What is warned of: p-value of an order in both modalities of a pair; share of values far from the anchors."""

SHOWN = 5
"""Anchors, columns or nodes that a sentence lists."""

FEW = 60
"""Anchors below which a refusal says what they could show at all."""


@dataclass(frozen=True)
class Modality:
    """Anchors of one modality: positions [k], raw features [k, F], quality [k]; kind "" where none is known."""

    name: str
    kind: str
    nodes: tuple[str, ...]
    index: Tensor
    features: Tensor
    quality: Tensor
    standardize: Standardizer

    @property
    def constant(self) -> Tensor:
        """[F] columns that are the same in all anchors."""
        return self.standardize.scale.isinf()

    @property
    def usable(self) -> bool:
        """Can a Gram be made of it?"""
        return len(self.index) >= MIN_ANCHORS and not bool(self.constant.all())

    def at(self, positions: Tensor) -> Tensor:
        """Features of the anchors at these positions of the set."""
        return self.features[torch.isin(self.index, positions)]


def cannot_run(
    found: Sequence[Modality], groups: Sequence[Group], nowhere: Sequence[str], ids: Sequence[str], config: Config
) -> Iterable[Finding]:
    """What stands in the way of alignment, or of what the configuration asks for."""
    n_anchors = len(ids)
    if len(found) == 1:
        what = f"all nodes hold {found[0].name}: there is nothing to align it with"
        yield Finding("error", _place(found), what, "add nodes of another modality")
    for m in found:
        if len(m.index) < MIN_ANCHORS:
            what = f"it holds {len(m.index)} anchors, and alignment needs {MIN_ANCHORS}"
            yield Finding("error", _place([m]), what, "give it more anchors, or leave its nodes out")
        elif m.constant.all():
            what = f"all {len(m.index)} anchors look the same in every column"
            yield Finding("error", _place([m]), what, "check how its anchor items were made")
    if nowhere:
        what = f"no node holds {_some(nowhere)} of {n_anchors} anchors"
        yield Finding("error", "anchors", what, "leave them out of the anchor set, or add a node that holds them")
    if len(groups) > 1:
        first = {m.name: ids[int(m.index[0])] for m in found if len(m.index)}
        parts = "; ".join(
            f"{', '.join(g.modalities)} ({g.anchors} anchors, such as {first.get(g.modalities[0], 'none')})"
            for g in groups
        )
        what = f"the modalities fall into {len(groups)} groups without a common anchor: {parts}"
        remedy = "give the same anchor the same id everywhere, add some that bridge the groups, or align each by itself"
        yield Finding("error", "anchors", what, remedy)
    rank = config.align.rank
    if rank is not None and rank > n_anchors - 1:
        what = f"align.rank = {rank}, but {n_anchors} anchors allow at most {n_anchors - 1}"
        yield Finding("error", "settings", what, "lower it, or add anchors")
    width = min(DEFAULT_RANK if rank is None else rank, n_anchors - 1)
    if config.train.rounds and config.model.trunk == "small" and width > config.model.width:
        what = f"the frame has {width} coordinates, which do not fit a trunk of width {config.model.width}"
        yield Finding("error", "model.width", what, f"raise it to {width} or more, or set align.rank lower")


def unrelated(usable: Sequence[Modality], pairs: Sequence[PairTest], groups: Sequence[Group]) -> Iterable[Finding]:
    """Within each group: modalities that no chain of related pairs holds together, and single pairs not shown."""
    for group in groups:
        members = [m for m in usable if m.name in group.modalities]
        if not members:
            continue
        inside = [p for p in pairs if {p.a, p.b} <= set(group.modalities)]
        parts = _parts([m.name for m in members], [p for p in inside if p.verdict == "aligned"])
        part_of = {name: number for number, part in enumerate(parts) for name in part}
        largest = max(map(len, parts))
        off = [part for part in parts if len(part) < largest]
        if len(parts) - len(off) > 1:  # two largest parts: nobody can say which of them is wrong
            off = [[name for part in parts for name in part]]
        for names in off:
            failed = [p for p in inside if part_of[p.a] != part_of[p.b] and {p.a, p.b} & set(names)]
            yield Finding("refusal", _place([m for m in members if m.name in names]), *_failure(failed))
        for pair in inside:
            if pair.verdict == "not shown" and part_of[pair.a] == part_of[pair.b]:
                remedy = "they are aligned through others; check that an anchor's id means the same to both"
                yield Finding("warning", f"{pair.a} - {pair.b}", _failure([pair])[0], remedy)


def _parts(names: Sequence[str], related: Sequence[PairTest]) -> list[list[str]]:
    edges = np.zeros((len(names), len(names)))
    for pair in related:
        edges[names.index(pair.a), names.index(pair.b)] = 1
    _, label = connected_components(edges, directed=False)
    return [[name for name, of in zip(names, label, strict=True) if of == part] for part in np.unique(label)]


def _failure(pairs: Sequence[PairTest]) -> tuple[str, str]:
    """What and remedy."""
    failed = [pair for pair in pairs if pair.verdict != "untested"]
    if not failed:
        return "no pair has enough anchors in common to be tested", f"give them {MIN_ANCHORS} or more in common"
    best = min(failed, key=lambda pair: (pair.p, -pair.z))
    n, closest = best.anchors, f" (the closest of {len(failed)} pairs)" if len(failed) > 1 else ""
    what = (
        f"{best.a} and {best.b}{closest} cannot be told from unrelated modalities: debiased CKA {best.cka:.2f} over "
        f"{n} common anchors (p = {best.p:.2g}); a held-out anchor's partner ranks before a random other one in "
        f"{best.auc:.0%} of cases (chance: 50%)"
    )
    remedy = "check that anchors with one id show the same thing in each modality (a sorted or shifted file?)"
    if n < FEW:
        least = float(norm.isf(best.level)) * null_sd(n)
        shown = f"only show a CKA above about {least:.2f}" if least < 1 and n > 5 else "not show any"
        return what, f"{remedy}; if they do, add anchors: {n} can {shown}"
    return what, f"{remedy}; if they do, these modalities have nothing in common: leave the nodes of one of them out"


def ordered(pairs: Sequence[PairTest], serial: Mapping[str, float], kinds: Mapping[str, str]) -> Iterable[Finding]:
    """Pairs that a common order of the anchors alone could make look related; kinds: of each modality."""
    for pair in pairs:
        worst = max(serial[pair.a], serial[pair.b])
        if pair.verdict == "aligned" and worst <= IN_ORDER:
            what = (
                f"anchors that follow each other are alike in both (p = {worst:.2g}), as in files sorted by class, "
                "site or time: such an order alone can look like a relation"
            )
            each = one_per((kinds[pair.a], kinds[pair.b]))
            remedy = f"take independent items, such as one per {each}; do not rely on p otherwise"
            yield Finding("warning", f"{pair.a} - {pair.b}", what, remedy)


def ranges(found: Sequence[Modality], data: FederatedData, clip: float) -> Iterable[Finding]:
    """Nodes whose rows do not lie where the anchors do."""
    for m in (m for m in found if m.usable):
        for node in sorted((node for node in data.nodes if node.modality == m.name), key=lambda node: node.name):
            rows = _rows(node)[:, ~m.constant]
            mean, scale = m.standardize.mean[~m.constant], m.standardize.scale[~m.constant]
            share = float((((rows.double() - mean) / scale).abs() >= clip).double().mean()) if len(rows) else 0.0
            if share > FAR:
                what = f"{share:.0%} of its values lie {clip:g} or more standard deviations from the anchors' mean"
                yield Finding("warning", f"node {node.name}", what, words_of(m.kind).far)


def labels(data: FederatedData, config: Config) -> Iterable[Finding]:
    """Nodes whose labels teach nothing, and classes that too few rows speak for."""
    of = {m: Counter[int]() for m in data.modalities}
    for node in data.nodes:
        of[node.modality].update(() if node.labels is None else node.labels[node.labels != UNLABELLED].tolist())
    rows = sum(of.values(), Counter[int]())
    few = [data.classes[c] for c in sorted(rows) if rows[c] < MIN_EVIDENCE]
    if few:
        what = f"fewer than {MIN_EVIDENCE} rows over all nodes: {', '.join(few)}; their sums would speak of single rows"
        yield Finding("warning", "classes", what, "they are left out; label more rows")
    trained = config.train.rounds > 0 and config.train.weights.task > 0
    yield from _goal(data, config, of, {c for c in rows if rows[c] >= MIN_EVIDENCE}, trained)
    for node in sorted(data.nodes, key=lambda node: node.name):
        if len(node.classes) == 1:
            what = f"it labels one class only, {data.classes[node.classes[0]]}: its task loss has nothing to tell apart"
            level: Literal["refusal", "warning"] = "refusal" if trained else "warning"
            yield Finding(level, f"node {node.name}", what, "drop its labels, or add rows of another class")


def _goal(
    data: FederatedData, config: Config, of: Mapping[str, Counter[int]], known: set[int], trained: bool
) -> Iterable[Finding]:
    """Whether every modality labels rows of every class, which `goal = "classes"` lives on.

    of: labelled rows per modality and class; known: classes that enough rows speak for.
    """
    other: Goal = "pairs" if config.goal == "classes" else "classes"
    if governed(config) == governed(Config(goal=other)):
        what = f"goal = {config.goal}, but all settings that follow from it are given, and are those of {other}"
        yield Finding(
            "warning", "goal", what, f"leave them out ({', '.join(sorted(GOVERNED)[:3])}, ...) or change goal"
        )
    lacks = {m: sorted(c for c in known if rows[c] < MIN_EVIDENCE) for m, rows in of.items()}
    if config.goal == "classes" and trained:
        remedy = "set goal = pairs, which takes classes by the anchors"
        if len(known) < 2:
            yield Finding("refusal", "classes", "goal = classes, but no two classes have labelled rows", remedy)
        for m in of:
            having = [node.name for node in data.nodes if node.modality == m and node.classes]
            if len(having) == 1 and config.average.head_within:
                what = f"node {having[0]} alone has labels: the server sees its class sums, in every round"
                yield Finding("warning", f"modality {m}", what, "set average.head_within = false: sums over all nodes")
        for m in (m for m in lacks if lacks[m]):
            names = ", ".join(data.classes[c] for c in lacks[m])
            what = (
                f"goal = classes, but its nodes label fewer than {MIN_EVIDENCE} rows of {names}: rounds unlearn these"
            )
            yield Finding("refusal", f"modality {m}", what, remedy)
    elif trained and len(known) > 1 and not any(lacks.values()):
        what = 'every modality labels every class; goal = "classes" trains to classify and not to find partners: it may'
        yield Finding("note", "classes", f"{what} gain or lose accuracy, so compare both", "")


def columns(found: Sequence[Modality], data: FederatedData) -> Iterable[Finding]:
    """Columns that never change in the anchors, or at a node."""
    for m in found:
        nodes = [node for node in data.nodes if node.modality == m.name and len(node.tokens)]
        if not len(m.index) or m.constant.all() or not nodes:
            continue
        rows = {node.name: _rows(node) for node in nodes}
        anchors, still = m.features.float(), m.constant
        everywhere = torch.cat(list(rows.values()))
        # A column that no node's rows move either is padding: nothing is lost with it.
        lost = still & (everywhere != anchors[0]).any(0)
        odd, words = lost & ~_by_chance(everywhere, anchors[0], len(anchors)), words_of(m.kind)
        if odd.any():
            what = f"{_numbers(odd, words)} constant over the anchors, though not at the nodes: alignment ignores them"
            yield Finding("warning", _place([m]), what, "use anchors over which they vary, if they matter")
        elif lost.any():
            seldom = "constant over the anchors and rarely vary at the nodes: alignment ignores them"
            what = f"{_numbers(lost, words)} {seldom}"
            yield Finding("note", _place([m]), what, "")
        for name, x in sorted((name, x) for name, x in rows.items() if len(x) > 1):
            dead = (x == x[0]).all(0) & ~still & ~_by_chance(anchors, x[0], len(x))
            if dead.any():
                what = f"{_numbers(dead, words)} constant at this node, though not over the anchors"
                yield Finding("warning", f"node {name}", what, words.still)


def padding(m: Modality, data: FederatedData) -> Tensor:
    """[F] columns that are zero everywhere: what fills the last tokens, or nothing at all."""
    nodes = [_rows(node) for node in data.nodes if node.modality == m.name]
    return (torch.cat([m.features.float(), *nodes]) == 0).all(0)


def _rows(node: NodeData) -> Tensor:
    return torch.from_numpy(node.tokens).flatten(1)


def _by_chance(varied: Tensor, value: Tensor, n: int) -> Tensor:
    """[F] columns of `varied` [_, F] so often at `value` [F] that n rows might well all be."""
    return (varied == value).double().mean(0) ** n * len(value) > 0.01


def items(
    suspects: Sequence[Suspect],
    duplicates: Sequence[tuple[str, str, str]],
    faint: Sequence[tuple[str, str]],
    kinds: Mapping[str, str],
) -> Iterable[Finding]:
    """Single anchors that look wrong; the diagnosis lists them all. kinds: of each modality."""
    for modality in sorted({suspect.modality for suspect in suspects}):
        names = [suspect.anchor for suspect in suspects if suspect.modality == modality]
        what = f"the items of {_some(names)} do not go with the same anchors elsewhere"
        yield Finding("warning", f"modality {modality}", what, "look at them, and leave them out if they are wrong")
    for modality in sorted({m for m, _, _ in duplicates}):
        same = [(a, b) for m, a, b in duplicates if m == modality]
        shown = ", ".join(f"{a} = {b}" for a, b in same[:SHOWN]) + (", ..." if len(same) > SHOWN else "")
        what = f"{len({name for pair in same for name in pair})} anchors have the item of another one ({shown})"
        yield Finding("warning", f"modality {modality}", what, "keep one of each, or give each its own item")
    for modality in sorted({m for m, _ in faint}):
        names = [anchor for m, anchor in faint if m == modality]
        what = f"the items of {_some(names)} are all but the mean of all items and say next to nothing"
        yield Finding("warning", f"modality {modality}", what, words_of(kinds[modality]).faint)


def _place(modalities: Sequence[Modality]) -> str:
    names = ", ".join(m.name for m in modalities)
    nodes = [node for m in modalities for node in m.nodes]
    return f"{'modality' if len(modalities) == 1 else 'modalities'} {names} ({_some(nodes, 'node')})"


def _some(names: Sequence[str], kind: str = "anchor") -> str:
    """Such as "3 anchors (a, b, c)", or for nodes "nodes a, b, c"."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    listed = ", ".join(names[:SHOWN]) + more
    plural = kind if len(names) == 1 else f"{kind}s"
    return f"{plural} {listed}" if kind == "node" else f"{len(names)} {plural} ({listed})"


def _numbers(which: Tensor, words: Words) -> str:
    """Such as "3 of 10 columns (0, 4, 7) are"."""
    numbers = torch.nonzero(which).flatten().tolist()
    listed = ", ".join(map(str, numbers[:SHOWN])) + (", ..." if len(numbers) > SHOWN else "")
    return f"{len(numbers)} of {len(which)} {words.column} ({listed}) {'is' if len(numbers) == 1 else 'are'}"
