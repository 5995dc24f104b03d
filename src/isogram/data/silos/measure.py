"""What is held out to measure on, and which concepts are anchors."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from isogram.config import SilosConfig
from isogram.data.anchor_set import AnchorTable
from isogram.data.base import UNLABELLED, AnchorItems, AnchorSet, FloatArray, HeldOut, IntArray
from isogram.data.sheets import Problems, few
from isogram.data.silos.manifest import Manifest
from isogram.data.silos.rows import Public, Rows
from isogram.data.silos.sites import of_sites
from isogram.data.silos.split import groups_of, hold_out, hold_out_each, rank

KEPT = 5
"""Labelled rows of each class that stay at a node: of fewer no sum is sent, and nobody could learn the class."""


def hold_out_anchors(
    silos: SilosConfig, table: AnchorTable, public: Mapping[str, Public], seed: int, problems: Problems
) -> tuple[HeldOut, NDArray[np.bool_]]:
    """Concepts that stay out of the anchors, to be found across modalities; and which others [K] are free to be."""
    n = len(table.concepts)
    whole = np.full(n, len(public), np.int64)
    # One photograph under two names is not to be an anchor and held out at once.
    keys: list[list[tuple[str, str | int]]] = [[("", position)] for position in range(n)]
    for items in public.values():
        whole[items.positions[items.quality == 1]] -= 1
        for position, mark in zip(items.positions.tolist(), items.source.hashes, strict=True):
            keys[position].append((items.source.kind, mark))
    labels = np.where(whole == 0, 0, UNLABELLED)
    nodes, name = [""] * n, "anchors"
    held = hold_out(groups_of(keys), table.concepts, nodes, labels, silos.held_out, keep=1, seed=seed, name=name)
    free = ~held
    held &= whole == 0
    if silos.held_out and not held.any():
        real = int((whole == 0).sum())
        why = _too_small(silos.held_out, real) or "add such concepts"
        problems.append(
            f"silos.held_out = {silos.held_out:g}, and no concept can be held out: {real} of {n} have a real item "
            f'(quality 1) in each modality; {why}, or set measure = "rows" or held_out = 0'
        )
    places = sorted(np.flatnonzero(held).tolist(), key=lambda position: table.concepts[position])
    tokens = {}
    for modality, items in public.items() if places else ():
        row = {position: i for i, position in enumerate(items.positions.tolist())}
        tokens[modality] = items.tokens[[row[position] for position in places]]
    ids = [table.concepts[position] for position in places]
    return HeldOut(tokens, {}, paired=len(tokens) > 1, private={}, ids=ids), free


def anchor_set(
    table: AnchorTable,
    public: Mapping[str, Public],
    free: NDArray[np.bool_],
    anchors: int,
    seed: int,
    source: str,
    problems: Problems,
) -> AnchorSet:
    """K of the free concepts, in the order of their names; of a larger K the same ones and more.

    source: hash of the set's folder. Of modalities that are not encoded here, what the table holds counts.
    """
    held = [items.positions for items in public.values()]
    held += [items.positions for name, items in table.items.items() if name not in public]
    there = {position for positions in held for position in positions.tolist() if free[position]}
    if anchors > len(there):
        problems.append(
            f"anchors = {anchors}, but {len(there)} concepts are not held out; lower it, or set 0 to take all"
        )
    drawn = sorted(there, key=lambda position: rank(table.concepts[position], seed, "draw"))[: anchors or None]
    chosen = sorted(drawn, key=lambda position: table.concepts[position])
    items = {}
    for modality, found in public.items():
        row = {position: i for i, position in enumerate(found.positions.tolist())}
        index = [i for i, position in enumerate(chosen) if position in row]
        take = [row[chosen[i]] for i in index]
        items[modality] = AnchorItems(np.array(index, dtype=np.int64), found.tokens[take], found.quality[take])
        if not index:
            problems.append(f"no anchor of {modality!r} is left that is not held out; lower silos.held_out")
    return AnchorSet(tuple(table.concepts[position] for position in chosen), items, source)


def hold_out_rows(
    silos: SilosConfig, rows: Sequence[Rows], classes: Sequence[str], seed: int, problems: Problems, *, private: bool
) -> tuple[HeldOut, list[Rows], list[str]]:
    """A share of the labelled rows of each node, a site at a time: its modalities may be of the same patients.

    Returns:
        What is held out, the rows that are not, and notes of modalities and classes that are not measured.
    """
    held: dict[str, NDArray[np.bool_]] = {}
    for site in dict.fromkeys(one.node.name for one in rows):
        of_site = [one for one in rows if one.node.name == site]
        if private:
            found = _drawn_each(of_site, silos.held_out, seed, site, problems)
        else:
            found = _drawn(of_site, silos.held_out, seed, site)
        starts = np.cumsum([len(one.items) for one in of_site])[:-1]
        held |= zip((one.name for one in of_site), np.split(found, starts), strict=True)
    tokens: dict[str, list[FloatArray]] = {}
    truth: dict[str, list[IntArray]] = {}
    kept = []
    for one in rows:
        out = held[one.name]
        tested = out & (one.labels != UNLABELLED) if one.labels is not None else np.zeros_like(out)
        if one.labels is not None and tested.any():
            tokens.setdefault(one.node.modality, []).append(one.tokens[tested])
            truth.setdefault(one.node.modality, []).append(one.labels[tested])
        idle = [f"{item.where}: no class, in a group held out" for item in compress(one.items, out & ~tested)]
        kept.append(one.only(~out, *idle))
        if out.all():
            problems.append(f"node {one.name!r}: all rows are held out; lower silos.held_out")
    if not tokens:
        most = max(((one.labels != UNLABELLED).sum() for one in rows if one.labels is not None), default=0)
        kept_all = f"every class of a node has to keep {KEPT}, and groups stay together; label more rows"
        why = _too_small(silos.held_out, int(most)) or ("none was drawn; raise it" if private else kept_all)
        problems.append(
            f"silos.held_out = {silos.held_out:g}, and no labelled row can be held out: {why}, or set held_out = 0"
        )
    notes = []
    for modality in dict.fromkeys(one.node.modality for one in rows if one.node.modality not in tokens):
        if not any(one.node.label for one in rows if one.node.modality == modality):
            notes.append(f"{modality}: not measured, for no node of it names its classes by label")
        elif not private:
            notes.append(f"{modality}: not measured, for none of its rows with a class could be held out")
    if not private:
        notes += _unmeasured(rows, truth, classes)
    whole = {modality: np.concatenate(parts) for modality, parts in tokens.items()}
    labels = {modality: np.concatenate(parts) for modality, parts in truth.items()}
    return HeldOut(whole, labels, paired=False, private={}), kept, notes


def _unmeasured(rows: Sequence[Rows], truth: Mapping[str, Sequence[IntArray]], classes: Sequence[str]) -> Iterator[str]:
    """A note of each measured modality that has rows of classes of which none is held out."""
    for modality, parts in truth.items():
        told = [one.labels for one in rows if one.node.modality == modality and one.labels is not None]
        left = np.setdiff1d(np.concatenate(told), [UNLABELLED, *np.concatenate(parts)])
        if len(left):
            names = few([classes[c] for c in left])
            yield (
                f"{modality}: not measured on {names}, of which no row is held out; a node keeps {KEPT} of a class to "
                "learn it from"
            )


def _drawn(of_site: Sequence[Rows], share: float, seed: int, site: str) -> NDArray[np.bool_]:
    """[rows of all its nodes] by groups: a group's name, those of its thing, or equal content."""
    keys: list[list[tuple[str, str]]] = []
    marks, nodes, labels = [], [], []
    for one in of_site:
        for group, names, mark in zip(one.groups, one.names, one.hashes, strict=True):
            own = f"{one.kind}/{mark}"
            named = [("group", group)] * bool(group) + [("name", name) for name in names]
            keys.append([("content", own), *named])
            marks.append(own)
        nodes += [one.name] * len(one.items)
        labels.append(np.full(len(one.items), UNLABELLED) if one.labels is None else one.labels)
    return hold_out(groups_of(keys), marks, nodes, np.concatenate(labels), share, keep=KEPT, seed=seed, name=site)


def _drawn_each(of_site: Sequence[Rows], share: float, seed: int, site: str, problems: Problems) -> NDArray[np.bool_]:
    """The same under differential privacy: a row's own group, name or else content draws for it, whatever others are.

    Rows that `_drawn` would keep together and that draw apart are an error, for leaving one out would be decided by
    another row.
    """
    keys, copies, names = list[str](), list[str](), list[str]()
    first: dict[tuple[str, str], tuple[str, str]] = {}
    # Within one node a name is one row's: there copies are better kept together by what they are.
    several = len(of_site) > 1
    for one in of_site:
        for item, group, known, mark in zip(one.items, one.groups, one.names, one.hashes, strict=True):
            content, linked = f"{one.kind}/{mark}", known if several else ()
            name = linked[0] if linked else ""
            keys.append(f"group {group}" if group else f"name {name}" if name else f"content {content}")
            for link, apart in [(("content", content), copies), *((("name", other), names) for other in linked)]:
                key, where = first.setdefault(link, (keys[-1], item.where))
                if key != keys[-1]:
                    apart.append(f"{item.where} = {where}")
    remedy = "keep one of each, or give all of them one group"
    problems.some(f"site {site!r}: copies of one row that privacy.epsilon draws apart:", copies, remedy)
    remedy = "give them the same path or id in each modality, or all of them one group"
    problems.some(f"site {site!r}: rows of one name that privacy.epsilon draws apart:", names, remedy)
    return hold_out_each(keys, share, seed=seed, name=site)


def check_private_groups(silos: SilosConfig, manifests: Mapping[str, Manifest], problems: Problems) -> None:
    """Whether rows of one patient draw alike under differential privacy, where each row draws for itself."""
    for site, of_site in of_sites(silos.nodes).items():
        grouped = [name for name, node in of_site.items() if node.group]
        if len(of_site) == 1 or not grouped:
            continue
        if others := [name for name in of_site if name not in grouped]:
            problems.append(
                f"site {site!r}: {grouped[0]} has a group, and {others[0]} has none: under privacy.epsilon each row "
                "draws by its own group or else id, so rows of one patient might be drawn apart; give each of the "
                "site's nodes a group, or none"
            )
            continue
        alone = [
            item.where
            for name in of_site
            for item, group in zip(manifests[name].items, manifests[name].groups, strict=True)
            if not group
        ]
        problems.some(
            f"site {site!r}: rows without a group:",
            alone,
            "under privacy.epsilon each row of a site with several modalities draws by its group; fill it in",
        )


def _too_small(share: float, n: int) -> str:
    """What to do about a share of n that is less than half of one; "" if it is more."""
    return (
        f"raise it to {math.ceil(50 / n) / 100:g} or more, for it is less than half of one of {n}"
        if 0 < n * share < 0.5
        else ""
    )
