"""An anchor set by itself, before any node is asked: who holds what, what is unreadable, doubtful or unlicensed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components

from isogram.alignment import Standardizer
from isogram.alignment.choice import LEAST
from isogram.alignment.evidence import near
from isogram.config import Config, ModalityConfig
from isogram.data import AnchorItems, AnchorSet, FederatedData, HeldOut, NodeData
from isogram.data.anchor_set import AnchorTable, guess_modalities, hash_anchor_set, read_anchor_set
from isogram.data.anchor_set.layout import FILE, SYNTHETIC
from isogram.data.modalities.encode import Encoded, encode, with_columns
from isogram.data.sheets import Problems
from isogram.data.silos.rows import Told
from isogram.doctor.diagnosis import Diagnosis, Finding
from isogram.doctor.examine import examine
from isogram.errors import ConfigError, DataError
from isogram.local import MIN_ANCHORS

CLOSER, JUDGED = 0.25, 10
"""Of `near`: half the distance to any third item; and the fewest items of which it is said. docs/anchor-sets.md."""

MIN_FOUND = 2
"""Concepts held out, of which fewer make no figure: a partner alone is always found."""


@dataclass(frozen=True)
class Held:
    """What the set holds of one modality. unlicensed: items without licence; unexplained: synthetic ones, no source."""

    modality: str
    kind: str
    encoder: str
    items: int
    synthetic: int
    unlicensed: int
    unexplained: int
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class AnchorReport:
    """What was found.

    common: pairs of modalities and the concepts of which both can be read; alone: those of one modality alone.
    near: modality, two concepts. spare: what too few concepts allow neither to measure nor to choose.
    diagnosis: the doctor's, of the items that can be read; None where nothing could be tested.
    """

    hash: str
    concepts: int
    held: tuple[Held, ...]
    common: tuple[tuple[str, str, int], ...]
    alone: tuple[str, ...]
    near: tuple[tuple[str, str, str], ...]
    spare: tuple[Finding, ...]
    diagnosis: Diagnosis | None
    errors: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        found = asdict(self)
        return found | {"diagnosis": None if self.diagnosis is None else self.diagnosis.to_json()}


def check_anchor_set(
    folder: Path,
    config: Config | None = None,
    told: Told = lambda part, done, total: None,
    *,
    skip_bad: bool = False,
) -> AnchorReport:
    """All checks of an anchor set's folder.

    Args:
        folder: of the set.
        config: with `silos`, which say how each modality is read; without, kinds are guessed and encoders built in.
        told: is called as items are encoded.
        skip_bad: items that cannot be read are no errors, if others of their modality can, as in a run with
            `silos.skip_bad`; they are in `AnchorReport.held`.

    Raises:
        DataError: the folder cannot be read as an anchor set.
        ConfigError: no such kind or encoder; or settings without silos.
    """
    modalities = guess_modalities(folder)
    if config is not None:
        named = {node.modality for node in config.silos.nodes} | config.silos.modalities.keys()
        if not named:
            raise ConfigError(f"these settings are of data = {config.data!r}, without silos; leave them out")
        modalities = {name: config.silos.modality(name) for name in sorted(named)}
    settings = config or Config(data="tcga-brca")  # of the doctor and of silos it has the defaults
    problems = Problems(
        f"{folder}: nothing says of which kind the files of {name!r} are; give a configuration"
        for name, one in modalities.items()
        if one.kind == FILE
    )
    try:
        table = read_anchor_set(folder, modalities)
    except DataError as error:
        problems += error.problems
    problems.stop()
    encoded: dict[str, Encoded] = {}
    held, errors = [], list[str]()
    for name, items in table.items.items():
        one = with_columns(modalities[name], items.items)
        bad: tuple[str, ...] = ()
        try:
            encoded[name] = encode(
                items.items,
                one,
                skip_bad=True,
                told=lambda done, of, name=name: told(f"anchors, {name}", done, of),  # type: ignore[misc]
            )
            bad = encoded[name].bad
            errors += () if skip_bad else _or_skipped(bad)
        except DataError as error:
            bad = error.problems
            errors += bad
        held.append(_held(table, name, one, bad))
    data = _public(table, encoded, modalities, folder)
    diagnosis = None if data is None else examine(data, settings)
    if diagnosis is not None:
        errors += [f"{f.where}: {f.what}; {f.remedy}" for f in diagnosis.errors]
    elif not errors:
        errors.append(f"{folder}: fewer than two modalities can be read; nothing can be aligned by this set")
    readable = {name: set(table.items[name].positions[one.kept].tolist()) for name, one in encoded.items()}
    errors += _unbridged(readable, folder) if diagnosis is not None and not diagnosis.errors else []
    return AnchorReport(
        hash_anchor_set(folder),
        len(table.concepts),
        tuple(held),
        tuple((a, b, len(readable[a] & readable[b])) for a, b in combinations(readable, 2)),
        tuple(c for i, c in enumerate(table.concepts) if sum(i in held for held in readable.values()) == 1),
        () if data is None else _near(data, diagnosis),
        () if data is None else _spare(table, readable, settings, 0 if config is None else config.anchors),
        diagnosis,
        tuple(errors),
    )


def warnings(report: AnchorReport) -> list[Finding]:
    """What does not stand in the way, and should be looked at."""
    found = [] if report.diagnosis is None else [f for f in report.diagnosis.findings if f.level != "error"]
    found += report.spare
    if report.alone:
        more = f" and {len(report.alone) - 5} more" if len(report.alone) > 5 else ""
        what = f"in one modality alone, where they connect nothing: {', '.join(report.alone[:5])}{more}"
        found.append(Finding("warning", "concepts", what, "give them an item in another one: isogram anchors fill"))
    for one in report.held:
        if one.unlicensed:
            what = f"{one.unlicensed} of {one.items} items have no licence"
            found.append(Finding("warning", one.modality, what, "fill in the column `licence`: others are to use them"))
        if one.unexplained:
            what = f"of {one.unexplained} synthetic items (quality below 1) nothing says how they were made"
            remedy = "fill in the column `provenance`, such as `synthetic: espeak`"
            found.append(Finding("warning", one.modality, what, remedy))
    for modality in dict.fromkeys(name for name, _, _ in report.near):
        pairs = [f"{a} = {b}" for name, a, b in report.near if name == modality]
        more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
        what = f"far closer to each other than to any third item are {', '.join(pairs[:5])}{more}"
        found.append(Finding("note", modality, what, "if they are variants of one item, keep one of each"))
    return found


def _or_skipped(bad: Sequence[str]) -> list[str]:
    """Items that cannot be read while others can, and how they are left out."""
    return [*bad[:-1], *(f"{line}; --skip-bad leaves such items out" for line in bad[-1:])]


def _unbridged(places: Mapping[str, set[int]], folder: Path) -> list[str]:
    """Pairs of modalities with too few concepts in common, which no chain of others connects either."""
    names = list(places)
    common = np.array([[len(places[a] & places[b]) for b in names] for a in names])
    _, part = connected_components(common >= MIN_ANCHORS, directed=False)
    return [
        f"{folder}: {names[i]} and {names[j]} have {common[i, j]} concepts in common, and no other modality bridges "
        f"them; give them {MIN_ANCHORS} or more, or a third modality that has such with both"
        for i, j in combinations(range(len(names)), 2)
        if part[i] != part[j]
    ]


def _spare(table: AnchorTable, readable: Mapping[str, set[int]], config: Config, most: int) -> tuple[Finding, ...]:
    """Whether concepts can be held out to measure on, and enough are left to choose the fit by.

    most: anchors that are drawn; 0 for all.
    """
    found = []
    everywhere = set.intersection(*readable.values())
    for name in readable:
        items = table.items[name]
        everywhere &= set(items.positions[items.quality == 1].tolist())
    share = config.silos.held_out if config.silos.measure == "anchors" else 0.0
    out = max(0, min(int(share * len(everywhere) + 0.5), len(everywhere) - 1))  # as `hold_out` draws, keeping one
    if share and out < MIN_FOUND:
        what = (
            f"{len(everywhere)} of {len(table.concepts)} have a real item (quality 1) in every modality; held_out = "
            f"{share:g} of these is {out}, and partners are looked for among {MIN_FOUND} or more: nothing is measured"
        )
        needed = max(MIN_FOUND + 1, math.ceil((MIN_FOUND - 0.5) / share))
        remedy = f'give {needed} a real item in every modality, or set measure = "rows" or held_out = 0'
        found.append(Finding("warning", "concepts", what, remedy))
    connecting = sum(sum(i in there for there in readable.values()) > 1 for i in range(len(table.concepts)))
    left = min(connecting - out, most or connecting)
    if config.align.choose and left < LEAST:
        what = f"{left} of two modalities or more are left as anchors: too few to choose the fit by, which stays as set"
        found.append(Finding("note", "concepts", what, f"give {LEAST - left} more an item in two modalities"))
    return tuple(found)


def _held(table: AnchorTable, name: str, config: ModalityConfig, bad: tuple[str, ...]) -> Held:
    quality, provenance = table.items[name].quality, table.provenance[name]
    made = [q < 1 or p.lower().startswith(SYNTHETIC) for q, p in zip(quality, provenance, strict=True)]
    return Held(
        name,
        config.kind,
        config.encoder,
        len(quality),
        sum(made),
        sum(not licence for licence in table.licence[name]),
        sum(is_made and not source for is_made, source in zip(made, provenance, strict=True)),
        bad,
    )


def _public(
    table: AnchorTable, encoded: Mapping[str, Encoded], modalities: Mapping[str, ModalityConfig], folder: Path
) -> FederatedData | None:
    """A federation of the anchors alone: a node of each modality, without a row."""
    if len(encoded) < 2:
        return None
    items = {
        name: AnchorItems(table.items[name].positions[one.kept], one.tokens, table.items[name].quality[one.kept])
        for name, one in encoded.items()
    }
    # Concepts of which no item can be read are told as unreadable items, not as anchors that nobody holds.
    there = np.unique(np.concatenate([item.index for item in items.values()]))
    anchors = AnchorSet(table.concepts, items).subset(there)
    nodes = tuple(NodeData(f"any {name}", name, item.tokens[:0]) for name, item in anchors.items.items())
    sealed = HeldOut({}, {}, paired=False, private={})
    return FederatedData(str(folder), nodes, anchors, sealed, (), encoders=modalities)


def _near(data: FederatedData, diagnosis: Diagnosis | None) -> tuple[tuple[str, str, str], ...]:
    """Pairs of concepts whose items are variants of one, but not so near that the doctor takes them for the same."""
    copies = {(modality, later) for modality, _, later in (() if diagnosis is None else diagnosis.duplicates)}
    found = []
    for name, items in data.anchors.items.items():
        # One of several copies speaks for all: beside another it would have no third item near enough.
        names = [data.anchors.ids[position] for position in items.index]
        rows = [row for row, concept in enumerate(names) if (name, concept) not in copies]
        features = torch.from_numpy(items.tokens[rows]).double().flatten(1)
        if len(rows) < JUDGED or (features == features[0]).all():
            continue
        pairs = near(Standardizer.fit(features, torch.inf)(features), CLOSER)
        found += [(name, names[rows[i]], names[rows[j]]) for i, j in pairs]
    return tuple(found)
