"""Which classes there are, and what is wrong with the labels of nodes that name them."""

from collections.abc import Collection, Mapping, Sequence

from isogram.config import SilosConfig
from isogram.data.sheets import Problems, excerpt, few, nearest
from isogram.data.silos.cells import composed
from isogram.data.silos.manifest import Manifest, one_group
from isogram.data.silos.sites import node_names


def declared(silos: SilosConfig) -> tuple[str, ...]:
    """The classes that the settings name."""
    return tuple(dict.fromkeys(map(composed, silos.classes)))


def check_labels(name: str, manifest: Manifest, classes: Sequence[str], problems: Problems) -> None:
    """Whether every label of a node is one of the declared classes, if there are any."""
    allowed = set(classes)
    places: dict[str, list[str]] = {}
    for item, label in zip(manifest.items, manifest.labels or (), strict=False):
        if label and label not in allowed:
            places.setdefault(label, []).append(item.where)
    wrong = [f"{excerpt(label)!r} ({_told(label, where, classes)})" for label, where in places.items()]
    if classes:
        remedy = f"they are {few(classes)}: declare it there, correct the rows, or name another column by label"
        problems.some(f"node {name!r}: labels outside silos.classes:", wrong, remedy)


def _told(label: str, places: Sequence[str], classes: Sequence[str]) -> str:
    rows = f"{len(places)} rows, the first {places[0]}" if len(places) > 1 else places[0]
    near = nearest(label, classes)
    return f"{rows}; did you mean {near!r}?" if near else rows


def check_groups(silos: SilosConfig, manifests: Mapping[str, Manifest], problems: Problems) -> list[str]:
    """A note of each labelled node whose rows are all of one group: problems, if no other node can be measured."""
    if silos.measure != "rows" or not silos.held_out:
        return []
    told = {name: one_group(one) for name, one in manifests.items() if any(one.labels or ())}
    if all(told.values()):
        problems += [f"node {name!r}: {text}" for name, text in told.items()]
    return [f"{name}: {text}" for name, text in told.items() if text]


def find_classes(
    silos: SilosConfig, told: Mapping[str, tuple[str, Collection[str]]], problems: Problems, *, private: bool
) -> tuple[str, ...]:
    """Every class: those declared, or all that occur in order of their names.

    Args:
        silos: the settings.
        told: node -> the column that its labels are from, and all of them; of nodes that have items.
        problems: what is wrong with labels as a whole is added, unless nodes that may have others cannot be read.
        private: whether no row may say which classes there are.
    """
    occur = sorted({label for _, labels in told.values() for label in labels if label})
    classes = declared(silos) or tuple(occur)
    labelled = {name for name, node in node_names(silos.nodes).items() if node.label}
    if not labelled and silos.measure == "rows" and silos.held_out:
        problems.append(
            'silos.measure = "rows" measures classes, and no node has labels; name a column by label, or set '
            'measure = "anchors"'
        )
    elif labelled and private and not silos.classes:
        problems.append(
            "silos.classes is empty, and under differential privacy no row may say which classes there are; declare all"
        )
    elif labelled and labelled <= told.keys():
        if not private and not occur:
            columns = ", ".join(f"{name!r}: {column}" for name, (column, _) in told.items())
            problems.append(f"no row has a class ({columns}); fill in those you know, or leave label out")
        elif len(there := classes if private else occur) == 1:
            problems.append(
                f"all labels are {excerpt(there[0])!r}: one class tells no rows apart; name another column, or leave "
                "label out"
            )
    return classes
