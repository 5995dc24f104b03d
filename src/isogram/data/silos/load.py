"""From folders, tables and an anchor set to a federation: everything read, encoded, kept apart, and split."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from isogram.config import ModalityConfig, SiloNode, SilosConfig
from isogram.data.anchor_set import AnchorTable, hash_anchor_set
from isogram.data.base import UNLABELLED, FederatedData, IntArray, NodeData
from isogram.data.modalities.encoders import encoder_of
from isogram.data.sheets import Problems
from isogram.data.silos.apart import REMEDY, Source, shared_rows
from isogram.data.silos.classes import check_groups, check_labels, declared, find_classes
from isogram.data.silos.manifest import Manifest, read_manifest
from isogram.data.silos.measure import anchor_set, check_private_groups, hold_out_anchors, hold_out_rows
from isogram.data.silos.rows import CHECK, SKIP, Public, Rows, Told, encode_anchors, encode_rows, first, say
from isogram.data.silos.sites import check_settings, modality_configs, node_names
from isogram.errors import DataError


class Looked(NamedTuple):
    """silos: as they count here. configs: modality -> how it is read; nodes: name -> its entry; alone: notes."""

    silos: SilosConfig
    configs: dict[str, ModalityConfig]
    table: AnchorTable
    nodes: dict[str, SiloNode]
    manifests: dict[str, Manifest]
    classes: tuple[str, ...]
    alone: list[str]


def look_at(silos: SilosConfig, *, private: bool = False, elsewhere: Sequence[str] | None = None) -> Looked:
    """What settings, folders, tables and the anchor set say, before any item is read; arguments as of `load_silos`.

    Raises:
        DataError: every problem found in them.
        ConfigError: a library is missing.
    """
    problems = Problems(all_by=CHECK)
    check_settings(silos, problems, elsewhere or ())
    configs, table = modality_configs(silos, problems, elsewhere or ())
    nodes = node_names(silos.nodes)
    manifests = {
        name: read_manifest(node, configs[node.modality], problems, private=private)
        for name, node in nodes.items()
        if node.modality in configs
    }
    for name, manifest in manifests.items():
        check_labels(name, manifest, declared(silos), problems)
    labels = {
        name: (one.columns["label"], one.labels)
        for name, one in manifests.items()
        if one.labels is not None and one.items
    }
    if elsewhere is not None:
        silos = silos.model_copy(update={"held_out": 0.0})
        configs = {
            name: configs[name] for name in dict.fromkeys(node.modality for node in silos.nodes) if name in configs
        }
        if not silos.classes and any(node.label for node in silos.nodes):
            problems.append("silos.classes is empty, and each site sees its own labels alone; declare all classes")
    classes = find_classes(silos, labels, problems, private=private or (elsewhere is not None and bool(silos.classes)))
    by_rows = silos.measure == "rows" and silos.held_out > 0
    if not silos.skip_bad:
        for manifest in manifests.values():
            say(manifest.bad, len(manifest), problems)
    problems.stop()
    assert table is not None
    if private and by_rows:
        check_private_groups(silos, manifests, problems)
    alone = [] if private else check_groups(silos, manifests, problems)
    problems.stop()
    return Looked(silos, configs, table, nodes, manifests, classes, alone)


def load_silos(
    silos: SilosConfig,
    *,
    anchors: int,
    seed: int,
    private: bool = False,
    told: Told | None = None,
    elsewhere: Sequence[str] | None = None,
) -> FederatedData:
    """The federation that folders and tables describe.

    Args:
        silos: which node holds what, and the anchor set.
        anchors: K, drawn by `seed` from the concepts that are not held out; 0 takes all.
        seed: of that draw, and of what is held out.
        private: whether no row may decide what becomes of another (differential privacy): classes are declared, a node
            with a column of classes has labels, rows are held out each by itself, and those that stand twice are an
            error.
        told: is called as items are encoded.
        elsewhere: of one site's part of a federation between machines, the modalities that others hold: classes are
            declared then, nothing is held out, and the anchors are the same at every site.

    Raises:
        DataError: every problem found: of the anchor set, of folders and tables, rows that cannot be read or stand
            twice (unless `silos.skip_bad`), labels outside the classes, nothing to hold out.
        ConfigError: no such kind or encoder, or a library is missing.
    """
    problems, tell = Problems(all_by=CHECK), told or (lambda part, done, total: None)
    silos, configs, table, nodes, manifests, classes, alone = look_at(silos, private=private, elsewhere=elsewhere)
    by_rows = silos.measure == "rows" and silos.held_out > 0

    public, notes = encode_anchors(table, configs, silos.skip_bad, tell, problems)
    rows = encode_rows(silos, nodes, configs, manifests, classes, tell, problems)
    problems.stop()
    rows = _keep_apart(rows, public, problems, skip=silos.skip_bad and not private, private=private)
    problems.stop()

    if by_rows:
        held_out, rows, unmeasured = hold_out_rows(silos, rows, classes, seed, problems, private=private)
        notes += unmeasured
        free = np.ones(len(table.concepts), bool)
    else:
        held_out, free = hold_out_anchors(silos, table, public, seed, problems)
    sources = _sources(table.folder, configs)
    chosen = anchor_set(table, public, free, anchors, seed, sources.get("anchor_folder", ""), problems)
    if private and silos.skip_bad:
        notes.append("rows that cannot be used are left out, and under privacy.epsilon not counted")
    if not private:
        notes += alone
        notes += [note for manifest in manifests.values() for note in manifest.notes]
        notes += [note for one in rows for note in _notes(one, len(manifests[one.name]), classes, by_rows)]
    problems.stop()
    data = [NodeData(one.name, one.node.modality, one.tokens, _known(one.labels, private)) for one in rows]
    return FederatedData(
        "silos",
        tuple(data),
        chosen,
        held_out,
        classes,
        notes=tuple(notes),
        encoders=configs,
        sources=sources,
    )


def _sources(folder: Path, configs: Mapping[str, ModalityConfig]) -> dict[str, Any]:
    """Which anchors and which encoders these were; an anchor set that is damaged where nobody looks has no hash."""
    files = {name: getattr(encoder_of(config), "files", "") for name, config in configs.items()}
    sources: dict[str, Any] = {"encoder_files": {name: found for name, found in files.items() if found}}
    with suppress(DataError):
        sources["anchor_folder"] = hash_anchor_set(folder)
    return sources


def _known(labels: IntArray | None, private: bool) -> IntArray | None:
    """Labels of a node; None where no row has one, if rows may decide that."""
    return labels if private or labels is None or (labels != UNLABELLED).any() else None


def _keep_apart(
    rows: Sequence[Rows], public: Mapping[str, Public], problems: Problems, *, skip: bool, private: bool
) -> list[Rows]:
    """The rows without those that stand twice, or these are problems."""
    sources = {one.name: Source(one.kind, one.items, one.hashes, one.ids, one.node.name) for one in rows}
    anchors = {modality: items.source for modality, items in public.items()}
    shared = shared_rows(sources, anchors, private=private)
    if not skip:
        remedy = REMEDY if private else f"{REMEDY}; {SKIP}"
        problems.some("rows that stand twice:", [line for some in shared.values() for line in some.values()], remedy)
        return list(rows)
    kept = []
    for one in rows:
        twice = shared[one.name]
        kept.append(one.only(np.array([row not in twice for row in range(len(one.items))], bool), *twice.values()))
        if not kept[-1].items:
            problems.append(f"node {one.name!r}: no row is left: {next(iter(twice.values()))}; {REMEDY}")
    return kept


def _notes(rows: Rows, n: int, classes: Sequence[str], by_rows: bool) -> list[str]:
    """What a reader of the figures has to know of a node's n rows; by_rows: what they were split by is not checked."""
    notes = [f"{rows.name}: {note}" for note in rows.notes]
    if rows.left:
        more = f" (and {len(rows.left) - 1} more; {CHECK} names those that cannot be read)" if rows.left[1:] else ""
        left = f"{rows.left[0]}{more}" if by_rows else first(rows.left, CHECK)
        notes.append(f"{rows.name}: {len(rows.left)} of {n} rows left out: {left}")
    told = set() if rows.labels is None else set(rows.labels[rows.labels != UNLABELLED].tolist())
    if len(told) == 1 and len(classes) > 1:
        notes.append(f"{rows.name}: all its labels are {classes[told.pop()]!r}")
    return notes
