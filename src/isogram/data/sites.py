"""Federations with several nodes ("sites") per modality, for benchmarks: by label alike or skewed.

The split is that of the data set itself: held-out rows first, then the anchors, and what is left is dealt to the nodes.
What may be wrong with a site - its sensor, its labels, its anchors - is in `distort`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from isogram.data import digits, machines, tcga
from isogram.data.base import FederatedData, IntArray, NodeData
from isogram.data.distort import shift_sensors
from isogram.errors import ConfigError

SKEW = 0.5
"""Of the Dirichlet that draws the subtypes a site of `tcga-brca` prefers: below 1 most sites have one or two."""

SITES, STRENGTH = 12, 3.3
"""Of `load_digits_sites`: nodes in all, and how far apart their sensors are (gains from 1 / 3.3 to 3.3)."""

Names = Mapping[str, Sequence[str]]
"""Modality -> its sites."""


def load_sites(source: str, *, sites: int, iid: bool, anchors: int, seed: int, rows: int = 150) -> FederatedData:
    """A data set dealt to `sites` nodes, modality in turn, named "image-00", "speech-00", ...; all know their labels.

    Args:
        source: "digits", "machines" or "tcga-brca"; the federation's name is that with "-sites".
        sites: nodes in all, at least one per modality.
        iid: whether every node draws from all classes alike. If not, a node of `digits` holds 5 classes, one of
            `machines` 3 states (two nodes of a modality after each other complement each other, so from two nodes on
            every class is labelled), and one of `tcga-brca` prefers the subtypes of its own Dirichlet draw.
        anchors: as of the data set's own loader: tuples per digit, machine moments, patients.
        seed: of everything; held-out rows and anchors do not depend on the other arguments.
        rows: private rows of a node at most. On `digits` classes are of equal size, and all nodes have fewer where the
            corpora give fewer; `tcga-brca` has 138 or 139 patients a modality for all its nodes.

    Raises:
        ConfigError: no such source, fewer sites than modalities, fewer rows than classes, or no such number of anchors.
        AnchorError: more anchor patients than the pool holds.
        DataError, StorageError: the files are not what they should be, or cannot be had.
    """
    if source not in _SOURCES:
        raise ConfigError(f"no data set {source!r} of several sites; choose one of {', '.join(_SOURCES)}")
    modalities, build = _SOURCES[source]
    if sites < len(modalities):
        raise ConfigError(f"sites={sites}, but {source} has {len(modalities)} modalities; choose that many or more")
    if rows < 10:
        raise ConfigError(f"rows={rows}: a node needs one of each class; choose 10 or more")
    turns = {m: -(-(sites - turn) // len(modalities)) for turn, m in enumerate(modalities)}
    names = {m: [f"{m}-{number:02d}" for number in range(n)] for m, n in turns.items()}
    return build(names, iid=iid, anchors=anchors, seed=seed, rows=rows)


def load_digits_sites(*, anchors: int, seed: int) -> FederatedData:
    """The built-in "digits-sites": 12 nodes of 150 labelled rows of 5 classes, each behind a sensor of its own.

    Every node records the public anchors, `anchors` tuples per digit, through its sensor, too.

    Raises:
        ConfigError: more tuples per digit than there are.
        DataError, StorageError: the files are not what they should be, or cannot be had.
    """
    data = load_sites("digits", sites=SITES, iid=False, anchors=anchors, seed=seed)
    return shift_sensors(data, seed=seed, strength=STRENGTH)


def digit_sites(
    corpora: dict[str, digits.Corpus], names: Names, *, iid: bool, anchors: int, seed: int, rows: int
) -> FederatedData:
    """What `load_sites` returns for "digits", of the corpora given."""
    parts = digits.divide(corpora, seed)
    draw = np.random.default_rng([seed, 1])
    private: dict[str, IntArray] = {}
    for modality, corpus in corpora.items():
        holds = held_classes(len(names[modality]), 10, iid, draw)
        dealt = deal_by_class(parts.rest[modality], corpus.labels, holds, rows)
        private |= dict(zip(names[modality], dealt, strict=True))
    nodes = [
        NodeData(name, m, corpora[m].tokens[private[name]], corpora[m].labels[private[name]])
        for name, m in _in_turn(names)
    ]
    return digits.federate("digits-sites", corpora, parts, tuple(nodes), private, anchors=anchors)


def held_classes(nodes: int, classes: int, iid: bool, draw: np.random.Generator) -> list[IntArray]:
    """The classes of each node: all of them, or the two halves of a random order for every two nodes."""
    if iid:
        return [np.arange(classes)] * nodes
    halves = [half for _ in range(0, nodes, 2) for half in np.split(draw.permutation(classes), 2)]
    return [np.sort(half) for half in halves[:nodes]]


def deal_by_class(rows: IntArray, labels: IntArray, holds: Sequence[IntArray], n: int) -> list[IntArray]:
    """Up to n of `rows` to each node, as many of each class that it holds; where a class runs out, less of it to all.

    No row goes to two nodes; fewer than n where n is not a multiple of the number of classes.
    """
    dealt: list[list[IntArray]] = [[] for _ in holds]
    for c in np.unique(labels):
        holders = [i for i, held in enumerate(holds) if c in held]
        left = rows[labels[rows] == c]
        for turn, i in enumerate(holders):
            share = min(n // len(holds[i]), len(left) // len(holders))
            dealt[i].append(left[turn * share : (turn + 1) * share])
    return [np.concatenate(parts) for parts in dealt]


def _digit_sites(names: Names, *, iid: bool, anchors: int, seed: int, rows: int) -> FederatedData:
    return digit_sites(digits.read(), names, iid=iid, anchors=anchors, seed=seed, rows=rows)


def _machine_sites(names: Names, *, iid: bool, anchors: int, seed: int, rows: int) -> FederatedData:
    """Each node simulates its own moments: the skewed ones have half of the states in the fleet's proportions."""
    machines.check_anchors(anchors)
    # Drawn first, as in `load_machines`; the anchors' generator is their own, so that they are the same for any sites.
    held_out = machines.simulate(machines.HELD_OUT_ROWS, np.random.default_rng(seed))
    shared = machines.simulate(anchors, np.random.default_rng([seed, 2]))
    draw = np.random.default_rng([seed, 1])
    holds = {m: held_classes(len(of), len(machines.STATES), iid, draw) for m, of in names.items()}
    moments, nodes = {}, []
    for number, (name, modality) in enumerate(_in_turn(names)):
        states = holds[modality][number // len(names)].tolist()
        moments[name] = machines.simulate(rows, np.random.default_rng([seed, 3, number]), states)
        nodes.append(NodeData(name, modality, machines.TOKENIZERS[modality](moments[name]), moments[name].state))
    return machines.federate("machines-sites", tuple(nodes), moments, shared=shared, held_out=held_out)


def _patient_sites(names: Names, *, iid: bool, anchors: int, seed: int, rows: int) -> FederatedData:
    """Not by hospital, as `load_tcga` deals, but at random, or in turn by preferred subtypes."""
    _, _, subtype = tcga.tables()
    draw = np.random.default_rng([seed, 1])

    def deal(modality: str, dealt: IntArray) -> dict[str, IntArray]:
        own = names[modality]
        if iid:
            return {name: dealt[i :: len(own)][:rows] for i, name in enumerate(own)}
        wanted = draw.dirichlet([SKEW] * len(tcga.SUBTYPES), size=len(own))
        hands = deal_by_taste(dealt, subtype, wanted, rows, draw)
        return dict(zip(own, hands, strict=True))

    return tcga.federate("tcga-brca-sites", deal, anchors=anchors, seed=seed)


def deal_by_taste(
    rows: IntArray, labels: IntArray, wanted: np.ndarray, n: int, draw: np.random.Generator
) -> list[IntArray]:
    """Nodes in turn take one of `rows` each, of a class drawn from their own `wanted` [nodes, C] among those left.

    All hands are alike in size, at most n; what nobody prefers is taken last, which takes the edge off the skew.
    """
    piles = [rows[labels[rows] == c].tolist() for c in range(wanted.shape[1])]
    hands: list[list[int]] = [[] for _ in wanted]
    for turn in range(min(len(rows), n * len(wanted))):
        node = turn % len(wanted)
        # The floor is for a node whose wishes are all gone: it takes any class that is left.
        weight = np.array([want + 1e-9 if pile else 0 for want, pile in zip(wanted[node], piles, strict=True)])
        hands[node].append(piles[draw.choice(len(piles), p=weight / weight.sum())].pop())
    return [np.array(hand, np.int64) for hand in hands]


def _in_turn(names: Names) -> list[tuple[str, str]]:
    """(site, modality), the first of each modality before the second of any."""
    longest = max(map(len, names.values()))
    return [(of[i], m) for i in range(longest) for m, of in names.items() if i < len(of)]


_SOURCES: dict[str, tuple[tuple[str, ...], Callable[..., FederatedData]]] = {
    "digits": (("image", "speech", "pen"), _digit_sites),
    "machines": (tuple(machines.TOKENIZERS), _machine_sites),
    "tcga-brca": (tcga.MODALITIES, _patient_sites),
}
