"""What differs between the sites of a benchmark: their sensors, and what may be wrong with their data.

Every function takes a federation and returns another one; held-out rows stay sealed. `all_paired` is dropped: the upper
bound is that of the federation as it was.
"""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from isogram.data.base import AnchorItems, FederatedData, FloatArray, IntArray, NodeData
from isogram.errors import ConfigError

JITTER, OFFSET, NOISE = 0.1, 0.2, 0.05
"""Of a sensor: gain of one channel around its own, and middle of offset and noise in units of the modality's scale."""

DROWNED, FEW, NEIGHBOURS, SYNTHETIC_NOISE = 3.0, 10, 3, 0.5
"""Of `corrupt`: noise over signal, rows that are kept, anchors in a mixture, noise over signal of a mixture."""


@dataclass(frozen=True)
class Sensor:
    """A node's own instrument: value -> gain of its channel x value + offset + noise x a normal draw.

    gain [c]: one per value of a token, the same for all tokens; offset and noise: of all values alike, in the units of
    the raw tokens. name, seed: what the noise is drawn from.
    """

    name: str
    gain: NDArray[np.float64]
    offset: float
    noise: float
    seed: int

    def record(self, tokens: FloatArray, what: str) -> FloatArray:
        """[n, T, c] as this sensor records them; the same noise for each `what` whenever it is asked."""
        noise = generator(self.seed, self.name, what).normal(size=tokens.shape)
        return (self.gain * tokens + self.offset + self.noise * noise).astype(np.float32)


def draw_sensors(
    data: FederatedData,
    *,
    seed: int,
    strength: float = 5.0,
    noise: float = NOISE,
    modalities: Collection[str] | None = None,
) -> dict[str, Sensor]:
    """Node -> its sensor, drawn from seed and name alone.

    With u, v, w log-uniform in [1 / strength, strength] and scale the standard deviation of all values of the
    modality's public anchors: gain = u (1 + uniform in +-`JITTER` per channel), offset = +-`OFFSET` v scale with a
    random sign, noise = `noise` w scale.

    Args:
        data: whose nodes get one.
        seed: of the draws.
        strength: how far apart sensors are; at 1 they differ in channels and the sign of the offset alone.
        noise: 0 for none.
        modalities: whose nodes get one; all if None.

    Raises:
        ConfigError: strength below 1, negative noise, or a modality that no node holds.
    """
    chosen = data.modalities if modalities is None else tuple(modalities)
    if strength < 1 or noise < 0:
        raise ConfigError(
            f"strength={strength}, noise={noise}: choose a strength of 1 or more and a noise of 0 or more"
        )
    if unknown := set(chosen) - set(data.modalities):
        raise ConfigError(f"no node holds {sorted(unknown)}; choose from {', '.join(data.modalities)}")
    found = {}
    for node in data.nodes:
        if node.modality in chosen:
            draw = generator(seed, node.name, "sensor")
            u, v, w = np.exp(draw.uniform(-1, 1, size=3) * np.log(strength))
            scale = float(data.anchors.items[node.modality].tokens.std())
            gain = u * (1 + draw.uniform(-JITTER, JITTER, size=node.tokens.shape[2]))
            offset = draw.choice([-1, 1]) * OFFSET * v * scale
            found[node.name] = Sensor(node.name, gain, float(offset), float(noise * w * scale), seed)
    return found


def shift_sensors(
    data: FederatedData,
    *,
    seed: int,
    strength: float = 5.0,
    noise: float = NOISE,
    modalities: Collection[str] | None = None,
    anchors_too: bool = True,
) -> FederatedData:
    """Every node behind a sensor of its own (`draw_sensors`): its private rows and what it sees of held-out rows.

    Args:
        data: the federation; not changed.
        seed: of the sensors.
        strength: as of `draw_sensors`.
        noise: as of `draw_sensors`.
        modalities: as of `draw_sensors`.
        anchors_too: whether a node records the public anchors through its sensor, too, or uses the public items.

    Raises:
        ConfigError: as `draw_sensors` does.
    """
    sensors = draw_sensors(data, seed=seed, strength=strength, noise=noise, modalities=modalities)

    def shifted(node: NodeData) -> NodeData:
        sensor, own = sensors[node.name], data.anchors_of(node)
        recorded = replace(own, tokens=sensor.record(own.tokens, "anchors")) if anchors_too else node.anchors
        return replace(node, tokens=sensor.record(node.tokens, "private"), anchors=recorded)

    nodes = tuple(shifted(node) if node.name in sensors else node for node in data.nodes)
    looks = {name: _held_out_look(sensor) for name, sensor in sensors.items()}
    return replace(data, nodes=nodes, held_out=data.held_out.seen_through(looks), all_paired=None)


def _held_out_look(sensor: Sensor) -> Callable[[FloatArray], FloatArray]:
    return lambda rows: sensor.record(rows, "held-out")


def standardize_sites(data: FederatedData) -> FederatedData:
    """Every node's features by its own private rows: x -> (x - mean) / std x std of the anchors + mean of the anchors.

    Mean and std are per feature, the anchors' are those of the public items. A feature that is constant at a node is
    only shifted. The same map goes over what the node sees of held-out rows and over its own recordings of the anchors,
    not over public items that it uses as they are.
    """
    nodes, looks = [], {}
    for node in data.nodes:
        looks[node.name] = look = restandardize(node.tokens, data.anchors.items[node.modality].tokens)
        own = None if node.anchors is None else replace(node.anchors, tokens=look(node.anchors.tokens))
        nodes.append(replace(node, tokens=look(node.tokens), anchors=own))
    return replace(data, nodes=tuple(nodes), held_out=data.held_out.seen_through(looks), all_paired=None)


def restandardize(own: FloatArray, public: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """From mean and std of `own` to those of `public`, per feature."""
    mean, std = own.mean(0, dtype=np.float64), own.std(0, dtype=np.float64)
    centre, spread = public.mean(0, dtype=np.float64), public.std(0, dtype=np.float64)
    varies = std > 1e-6 * np.abs(own).max(0, initial=1e-30)  # above what rounding makes of a constant
    ratio = np.where(varies, spread / np.where(varies, std, 1), 1)
    return lambda rows: ((rows - mean) * ratio + centre).astype(np.float32)


def corrupt(
    data: FederatedData, kind: str, *, share: float = 1 / 3, seed: int
) -> tuple[FederatedData, tuple[str, ...]]:
    """Make a share of the nodes doubtful, undeclared: nothing else of the federation tells which.

    Held-out rows are seen as before: what is wrong is wrong with what a node learns from.

    Args:
        data: the federation; not changed.
        kind: one of `KINDS`.
            "noise": private rows and the node's recordings of the anchors drowned in noise of 3 std per feature.
            "labels": labels dealt anew among the labelled rows: each class as often as before, at random rows.
            "few": 10 private rows are left, one of each class first.
            "anchors": half of the node's recordings of the anchors are each other's: none of them at its place.
            "synthetic": each recording of an anchor replaced by the mean of its 3 nearest neighbours among the node's
            others (distance over features of unit std) and noise of half a std per feature; quality as before.
        share: of the nodes, rounded. Fewer where one of each modality could not stay clean.
        seed: of the choice, which is the same for all kinds and grows with the share, and of the corruption.

    Returns:
        The federation, and the names of the nodes that were chosen, in order.

    Raises:
        ConfigError: no such kind, a share outside (0, 1], no node to choose, or one that cannot be spoilt in this way.
    """
    if kind not in KINDS:
        raise ConfigError(f"no corruption {kind!r}; choose one of {', '.join(KINDS)}")
    names = _doubtful(data, share, seed)
    nodes, kept = [], {}
    for node in data.nodes:
        draw = generator(seed, node.name, kind)
        if node.name not in names:
            nodes.append(node)
        elif kind == "few":
            kept[node.name] = rows = _few(node, draw)
            labels = None if node.labels is None else node.labels[rows]
            nodes.append(replace(node, tokens=node.tokens[rows], labels=labels))
        else:
            nodes.append(_SPOIL[kind](node, data.anchors_of(node), draw))
    spoilt = replace(data, nodes=tuple(nodes), held_out=data.held_out.keeping(kept), all_paired=None)
    return spoilt, names


def _doubtful(data: FederatedData, share: float, seed: int) -> tuple[str, ...]:
    """Names of a share of the nodes, never all of one modality."""
    if not 0 < share <= 1:
        raise ConfigError(f"share={share} of the nodes; choose one in (0, 1]")
    clean = [node.modality for node in data.nodes]
    names: list[str] = []
    for i in generator(seed, "doubtful").permutation(len(data.nodes)):
        node = data.nodes[i]
        if len(names) < round(share * len(data.nodes)) and clean.count(node.modality) > 1:
            names.append(node.name)
            clean.remove(node.modality)
    if not names:
        raise ConfigError(f"share={share} of {len(clean)} nodes, one of each modality clean, is none; take more sites")
    return tuple(sorted(names))


def _noise(node: NodeData, anchors: AnchorItems, draw: np.random.Generator) -> NodeData:
    return replace(
        node,
        tokens=_drowned(node.tokens, node.tokens, DROWNED, draw),
        anchors=replace(anchors, tokens=_drowned(anchors.tokens, anchors.tokens, DROWNED, draw)),
    )


def _drowned(tokens: FloatArray, like: FloatArray, level: float, draw: np.random.Generator) -> FloatArray:
    """Tokens with noise of `level` times the std of each feature of `like`."""
    return (tokens + level * like.std(0) * draw.normal(size=tokens.shape)).astype(np.float32)


def _labels(node: NodeData, anchors: AnchorItems, draw: np.random.Generator) -> NodeData:
    if node.labels is None or len(node.classes) < 2:
        raise ConfigError(f"node {node.name!r} labels {len(node.classes)} classes; permuting labels needs 2 or more")
    labels, known = node.labels.copy(), node.labels >= 0
    labels[known] = draw.permutation(labels[known])
    return replace(node, labels=labels)


def _few(node: NodeData, draw: np.random.Generator) -> IntArray:
    """Positions of the rows that are left."""
    order = draw.permutation(len(node.tokens))
    if node.labels is not None:
        first = [next(i for i, row in enumerate(order) if node.labels[row] == c) for c in node.classes]
        order = np.concatenate([order[first], np.delete(order, first)])
    return np.sort(order[:FEW])


def _swapped(node: NodeData, anchors: AnchorItems, draw: np.random.Generator) -> NodeData:
    chosen = draw.permutation(len(anchors.index))[: len(anchors.index) // 2]
    if len(chosen) < 2:
        raise ConfigError(f"node {node.name!r} holds {len(anchors.index)} anchors; exchanging half needs 4 or more")
    tokens = anchors.tokens.copy()
    tokens[chosen] = anchors.tokens[np.roll(chosen, 1)]  # one cycle: none stays at its place
    return replace(node, anchors=replace(anchors, tokens=tokens))


def _synthetic(node: NodeData, anchors: AnchorItems, draw: np.random.Generator) -> NodeData:
    if len(anchors.index) <= NEIGHBOURS:
        raise ConfigError(
            f"node {node.name!r} holds {len(anchors.index)} anchors; mixing needs {NEIGHBOURS + 1} or more"
        )
    std = anchors.tokens.std(0)
    flat = (anchors.tokens / np.where(std > 0, std, 1)).reshape(len(anchors.index), -1)
    distance = cdist(flat, flat)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1)[:, :NEIGHBOURS]
    mixed = anchors.tokens[nearest].mean(1)
    return replace(node, anchors=replace(anchors, tokens=_drowned(mixed, anchors.tokens, SYNTHETIC_NOISE, draw)))


_SPOIL: dict[str, Callable[[NodeData, AnchorItems, np.random.Generator], NodeData]] = {
    "noise": _noise,
    "labels": _labels,
    "anchors": _swapped,
    "synthetic": _synthetic,
}
KINDS = ("few", *_SPOIL)


def generator(seed: int, *what: str) -> np.random.Generator:
    """A generator of its own for each purpose, so that no node's draws depend on another's."""
    digest = hashlib.sha256("/".join(what).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
