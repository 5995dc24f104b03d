"""What is understood of a node's data, and all that is wrong with them, before anything else runs."""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from isogram.config import SILOS, Config, ModalityConfig, SiloNode, SilosConfig
from isogram.data.modalities import kind_of
from isogram.data.modalities.base import BadItem, Item
from isogram.data.modalities.content import cache_key, seen_hash
from isogram.data.modalities.encode import with_columns
from isogram.data.modalities.encoders import at_rate, encoder_of
from isogram.data.modalities.reader import Reading, counted
from isogram.data.sheets import Problems, excerpt, meant
from isogram.data.silos.apart import REMEDY, Source, shared_rows
from isogram.data.silos.classes import check_groups, check_labels, declared, find_classes
from isogram.data.silos.manifest import Manifest, one_group, read_manifest
from isogram.data.silos.rows import Told, encode_anchors
from isogram.data.silos.sites import check_settings, known_kinds, modality_configs, node_names
from isogram.errors import ConfigError, IsogramError

_EXAMPLES = 3
_EVERY = 100
"""Items between two signs of progress."""


@dataclass(frozen=True)
class Checked:
    """One node as isogram reads it.

    rows: all that there are; items: those that can be used. examples: where some stand, and what they are. tokens: how
    many an item becomes, and the values of each. labels: class -> rows, "" for those without. groups: how many, and the
    rows of the largest. anchors: of its modality, that it was compared with. columns: what is read -> its column;
    unused: the others. left_out: a line for each row that `silos.skip_bad` leaves out.
    """

    node: str
    modality: str
    kind: str
    encoder: str
    data: str
    rows: int = 0
    items: int = 0
    examples: tuple[tuple[str, str], ...] = ()
    tokens: tuple[int, int] | None = None
    labels: Mapping[str, int] | None = None
    groups: tuple[int, int] | None = None
    anchors: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self) | {"examples": [{"where": where, "what": what} for where, what in self.examples]}


def check_config(config: Config, node: str | None, told: Told) -> list[Checked]:
    """Every node of a configuration, or those of one name: a site's own, or SITE/MODALITY.

    Rows are compared with those of the anchor set and of the other nodes as a run does, if the set is there.

    Raises:
        ConfigError: it is not about silos, or there is no such node.
        DataError: the settings contradict each other.
    """
    if config.data != SILOS:
        raise ConfigError(f'data = "{config.data}" has no nodes to check; set data = "{SILOS}", or name a folder')
    problems, silos, private = Problems(each=True), config.silos, config.privacy.epsilon > 0
    check_settings(silos, problems)
    problems.stop()
    names = {name: one for name, one in node_names(silos.nodes).items() if node in (None, name, one.name)}
    if not names:
        raise ConfigError(f"no node {node!r}; {meant(str(node), node_names(silos.nodes))}")
    here = silos.model_copy(update={"nodes": tuple(names.values()), "modalities": {}})
    here = here.model_copy(update={"modalities": {m: silos.modality(m) for m in {one.modality for one in here.nodes}}})
    configs, public, notes = _public(here, told, problems)
    found, manifests, sources, good = [], dict[str, Manifest](), dict[str, Source](), dict[str, list[int]]()
    for name, one in names.items():
        chosen = here.modality(one.modality)
        own = configs.get(one.modality, chosen)
        borrowed = bool(own.columns) and not chosen.columns
        try:
            checked, manifests[name], sources[name], good[name] = _read(
                name, one, own, told, declared(silos), borrowed, private
            )
        except ConfigError as error:  # of its kind: other nodes may have another
            checked = Checked(name, one.modality, own.kind, own.encoder, str(one.data), problems=error.problems)
        items = public.get(one.modality)
        found.append(replace(checked, anchors=len(items.hashes) if items and checked.items else None))
    labels = {one.node: (one.columns["label"], one.labels) for one in found if one.labels is not None}
    find_classes(silos, labels, problems, private=private)
    if not private:
        check_groups(silos, manifests, problems)
    twice = shared_rows(sources, public, private=private)
    again = {name: [f"stands twice: {line}; {REMEDY}" for line in lines.values()] for name, lines in twice.items()}
    if private:  # no row decides what becomes of another
        found = [replace(one, problems=(*one.problems, *again.get(one.node, ()))) for one in found]
    else:
        for place, seen in enumerate(found):
            if lines := again.get(seen.node):
                left = _counted(seen, manifests[seen.node], good[seen.node], twice[seen.node])
                found[place] = replace(left, left_out=(*seen.left_out, *lines))
    found = [_judged(one, silos.skip_bad) for one in found]
    return [replace(found[0], problems=(*found[0].problems, *problems), notes=(*found[0].notes, *notes)), *found[1:]]


def _public(
    silos: SilosConfig, told: Told, problems: Problems
) -> tuple[dict[str, ModalityConfig], dict[str, Source], list[str]]:
    """How each modality is read, its anchors, and notes; each for itself, for a node may be checked before all are."""
    configs = known_kinds(silos, Problems())
    if silos.anchors is None or not silos.anchors.exists():
        where = "silos.anchors is not set" if silos.anchors is None else f"there is no folder {silos.anchors}"
        return configs, {}, [f"not compared with anchors: {where}"]
    public, notes, wrong = dict[str, Source](), list[str](), dict[str, None]()
    for modality in list(configs):
        asked, mine = Problems(), tuple(node for node in silos.nodes if node.modality == modality)
        exact, table = modality_configs(silos.model_copy(update={"nodes": mine}), asked)
        configs |= exact
        if table is not None:
            with suppress(ConfigError):  # of its encoder, which is told of the node
                held, left = encode_anchors(table, exact, silos.skip_bad, told, asked)
                public |= {name: one.source for name, one in held.items()}
                notes += left
        wrong |= dict.fromkeys(asked)
    problems += wrong
    return configs, public, notes


def check_node(name: str, node: SiloNode, config: ModalityConfig, told: Told, *, skip_bad: bool = False) -> Checked:
    """One node by itself: all of its items are read, and some encoded; skip_bad: as `SilosConfig` has it.

    Raises:
        ConfigError: there is no such kind.
    """
    return _judged(_read(name, node, config, told)[0], skip_bad)


def _read(
    name: str,
    node: SiloNode,
    config: ModalityConfig,
    told: Told,
    classes: tuple[str, ...] = (),
    borrowed: bool = False,
    private: bool = False,
) -> tuple[Checked, Manifest, Source, list[int]]:
    """One node, its labels among the classes, if there are any; what it holds, its rows that can be read, and which.

    Of others a line is in `left_out`, whatever the settings say: see `_judged`.
    """
    kind, problems = kind_of(config), Problems(each=True)
    found = Checked(name, node.modality, kind.name, config.encoder, str(node.data))
    try:
        manifest = read_manifest(node, config, problems, private=private)
    except IsogramError as error:
        return replace(found, problems=error.problems), Manifest(), Source(kind.name, [], [], [], node.name), []
    alike, config = not config.columns, with_columns(config, manifest.items)
    read: list[tuple[Item, Any]] = []
    good: list[int] = []
    hashes = []
    said: list[tuple[str, tuple[str, ...]]] = []
    encoder = None
    try:
        encoder = encoder_of(config)
        config = at_rate(config, encoder)
    except IsogramError as error:
        problems += [f"modality {node.modality!r}: {line}" for line in error.problems]
    check_labels(name, manifest, classes, problems)
    reading = Reading(kind, config, alike, borrowed)
    bad = list(manifest.bad)
    for row, item in enumerate(manifest.items):
        try:
            content = reading.read(item)
            hashes.append(seen_hash(kind, content, cache_key(item)))
            good.append(row)
            if changed := reading.said(getattr(content, "others", ()), reading.changes(content)):
                said.append((item.where, changed))
        except BadItem as error:
            bad += error.problems
        except ConfigError as error:  # a library is missing, for every item alike
            problems += error.problems
            break
        else:
            if len(read) < _EXAMPLES:
                read.append((item, content))
        if (row + 1) % _EVERY == 0 or row + 1 == len(manifest.items):
            told(f"{name}, items read", row + 1, len(manifest.items))
    tokens = None
    if encoder is not None and read:
        try:
            tokens = encoder([content for _, content in read]).shape[1:]
        except IsogramError as error:
            problems += error.problems
    copies = len(hashes) - len(set(hashes))
    notes = [f"copies of other rows: {copies}; they are never on both sides of a split"] if copies else []
    occur = {label for label in manifest.labels or () if label}
    if len(occur) == 1:
        label = excerpt(occur.pop())
        notes.append(f"all its labels are {label!r}; unless other nodes have others, they tell no rows apart")
    if alone := one_group(manifest):
        notes.append(alone)
    checked = replace(
        found,
        rows=len(manifest),
        examples=tuple((item.where, kind.describe(content)) for item, content in read),
        tokens=tokens,
        columns=manifest.columns,
        unused=tuple(manifest.unused),
        notes=(*manifest.notes, *counted(said, len(good)), *notes),
        problems=tuple(problems),
        left_out=tuple(bad),
    )
    ids = [manifest.ids[row] if manifest.named else "" for row in good]
    source = Source(kind.name, [manifest.items[row] for row in good], hashes, ids, node.name)
    return _counted(checked, manifest, good), manifest, source, good


def _judged(found: Checked, skip: bool) -> Checked:
    """Rows that cannot be used are problems; or counted with `skip`, if there are others."""
    if skip and 0 < len(found.left_out) < found.rows:
        return replace(found, notes=(*found.notes, f"{len(found.left_out):,} left out (silos.skip_bad)"))
    return replace(found, problems=(*found.problems, *found.left_out), left_out=())


def _counted(found: Checked, manifest: Manifest, good: Sequence[int], twice: Container[int] = ()) -> Checked:
    """With numbers of the rows that can be used: `good` ones of the manifest, but `twice`, places among these."""
    rows = [row for place, row in enumerate(good) if place not in twice]
    sizes = Counter(manifest.groups[row] for row in rows if manifest.groups[row])
    labels = None
    if manifest.labels is not None:
        counts = Counter(manifest.labels[row] for row in rows)
        labels = dict(sorted(counts.items(), key=lambda pair: (not pair[0], -pair[1], pair[0])))
    groups = (len(sizes), max(sizes.values())) if sizes else None
    return replace(found, items=len(rows), labels=labels, groups=groups)
