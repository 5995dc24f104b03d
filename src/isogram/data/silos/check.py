"""What is understood of a node's data, and all that is wrong with them, before anything else runs."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from isogram.config import SILOS, Config, ModalityConfig, SiloNode
from isogram.data.modalities import kind_of
from isogram.data.modalities.base import BadItem, Item
from isogram.data.modalities.content import cache_key, seen_hash
from isogram.data.modalities.encode import with_columns
from isogram.data.modalities.encoders import at_rate, encoder_of
from isogram.data.modalities.reader import read_item
from isogram.data.sheets import Problems
from isogram.data.silos.classes import check_labels, declared, find_classes
from isogram.data.silos.manifest import Manifest, read_manifest
from isogram.data.silos.rows import Told
from isogram.data.silos.sites import check_settings, modality_configs, node_names
from isogram.errors import ConfigError, IsogramError

_EXAMPLES = 3
_EVERY = 100
"""Items between two signs of progress."""


@dataclass(frozen=True)
class Checked:
    """One node as isogram reads it.

    rows: all that there are; items: those that can be read. examples: where some stand, and what they are. tokens: how
    many an item becomes, and the values of each. labels: class -> rows, "" for those without. groups: how many, and the
    rows of the largest. columns: what is read -> its column; unused: the others.
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
    columns: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self) | {"examples": [{"where": where, "what": what} for where, what in self.examples]}


def check_config(config: Config, node: str | None, told: Told) -> list[Checked]:
    """Every node of a configuration, or those of one name: a site's own, or SITE/MODALITY.

    Raises:
        ConfigError: it is not about silos, or there is no such node.
        DataError: the settings contradict each other.
    """
    if config.data != SILOS:
        raise ConfigError(f'data = "{config.data}" has no nodes to check; set data = "{SILOS}", or name a folder')
    problems, silos, private = Problems(), config.silos, config.privacy.epsilon > 0
    check_settings(silos, problems)
    problems.stop()
    names = {name: one for name, one in node_names(silos.nodes).items() if node in (None, name, one.name)}
    if not names:
        raise ConfigError(f"no node {node!r}; there are {', '.join(node_names(silos.nodes))}")
    here = silos.model_copy(update={"nodes": tuple(names.values()), "modalities": {}})
    here = here.model_copy(update={"modalities": {m: silos.modality(m) for m in {one.modality for one in here.nodes}}})
    # Only the columns of the anchors' tables are needed, and a silo may be checked before the anchor set is complete.
    configs, _ = modality_configs(here, Problems())
    found = []
    for name, one in names.items():
        own = configs.get(one.modality, here.modality(one.modality))
        try:
            found.append(check_node(name, one, own, told, declared(silos)))
        except ConfigError as error:  # of its kind: other nodes may have another
            found.append(Checked(name, one.modality, own.kind, own.encoder, str(one.data), problems=error.problems))
    labels = {one.node: (one.columns["label"], one.labels) for one in found if one.labels is not None}
    find_classes(silos, labels, problems, private=private)
    return [replace(found[0], problems=(*found[0].problems, *problems)), *found[1:]]


def check_node(name: str, node: SiloNode, config: ModalityConfig, told: Told, classes: tuple[str, ...] = ()) -> Checked:
    """One node: all of its items are read, and some encoded; its labels are among the classes, if there are any.

    Raises:
        ConfigError: there is no such kind.
    """
    kind, problems = kind_of(config), Problems()
    found = Checked(name, node.modality, kind.name, config.encoder, str(node.data))
    try:
        manifest = read_manifest(node, config, problems)
    except IsogramError as error:
        return replace(found, problems=error.problems)
    config = with_columns(config, manifest.items)
    read: list[tuple[Item, Any]] = []
    hashes = []
    encoder = None
    try:
        encoder = encoder_of(config)
        config = at_rate(config, encoder)
    except IsogramError as error:
        problems += error.problems
    check_labels(name, manifest, classes, problems)
    bad = list(manifest.bad)
    for number, item in enumerate(manifest.items, 1):
        try:
            content = read_item(kind, item, config)
            hashes.append(seen_hash(kind, content, cache_key(item)))
        except BadItem as error:
            bad += error.problems
        except ConfigError as error:  # a library is missing, for every item alike
            problems += error.problems
            break
        else:
            if len(read) < _EXAMPLES:
                read.append((item, content))
        if number % _EVERY == 0 or number == len(manifest.items):
            told(f"{name}, items read", number, len(manifest.items))
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
        notes.append(f"all its labels are {occur.pop()!r}; unless other nodes have others, they tell no rows apart")
    return replace(
        found,
        rows=len(manifest),
        items=len(hashes),
        examples=tuple((item.where, kind.describe(content)) for item, content in read),
        tokens=tokens,
        labels=None if manifest.labels is None else _counted(manifest.labels),
        groups=_groups(manifest),
        columns=manifest.columns,
        unused=tuple(manifest.unused),
        notes=(*manifest.notes, *notes),
        problems=(*problems, *bad),
    )


def _counted(labels: list[str]) -> dict[str, int]:
    return dict(sorted(Counter(labels).items(), key=lambda pair: (not pair[0], -pair[1], pair[0])))


def _groups(manifest: Manifest) -> tuple[int, int] | None:
    sizes = Counter(group for group in manifest.groups if group)
    return (len(sizes), max(sizes.values())) if sizes else None
