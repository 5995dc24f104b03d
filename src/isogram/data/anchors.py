"""What may be amiss with a public anchor set: items missing, wrong or synthetic, kinds of rows that no anchor covers.

Every function takes a federation and returns another one in which the public items alone differ; private and held-out
rows are untouched, and so is `all_paired`, the upper bound. Nothing declares what was changed but where it is said.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from isogram.data.base import AnchorItems, AnchorSet, FederatedData, FloatArray, IntArray
from isogram.data.distort import generator
from isogram.errors import AnchorError, ConfigError

MIN_LEFT = 4
"""Anchors that a modality must keep: a node needs as many."""

FACTORS, NEIGHBOURS, RIDGE, SPREAD = 32, 5, 0.1, 0.3
"""Of `Generator`: joint coordinates, anchors in a mixture, ridge over mean eigenvalue, noise of a mixture in sds."""


def missing(data: FederatedData, share: float, seed: int) -> FederatedData:
    """Each modality lacks a share of the anchors, drawn for itself; no anchor is lacked by all.

    An anchor that all would lack is given back to one of them, which lacks another one instead: shares are kept.

    Raises:
        ConfigError: a share outside [0, 1), nodes with recordings of their own, or anchors missing already.
        AnchorError: a modality is left with fewer than 4 anchors, or groups of anchors with no modality in common.
    """
    _check(data, share)
    n, draw = len(data.anchors), generator(seed, "missing")
    held = {m: np.ones(n, dtype=bool) for m in data.anchors.items}
    for there in held.values():
        there[draw.permutation(n)[: round(share * n)]] = False
    for anchor in np.flatnonzero(~np.any(list(held.values()), axis=0)):
        modality = str(draw.choice(sorted(held)))
        spare = np.flatnonzero(held[modality] & (np.sum(list(held.values()), axis=0) > 1))
        if len(spare):
            held[modality][draw.choice(spare)] = False
        held[modality][anchor] = True
    _connected(held)
    items = {m: _only(data.anchors.items[m], there) for m, there in held.items()}
    return replace(data, anchors=AnchorSet(data.anchors.ids, items))


def wrong(
    data: FederatedData, share: float, seed: int, modalities: Collection[str] | None = None
) -> tuple[FederatedData, dict[str, IntArray]]:
    """A share of a modality's items exchanged among themselves in one cycle, so that none stays at its anchor.

    Args:
        data: the federation; not changed.
        share: of the items of a modality, rounded; one item alone has nobody to be exchanged with and stays.
        seed: of the choice, which is another one in each modality and grows with the share.
        modalities: those with wrong items; all if None.

    Returns:
        The federation and, per modality, the positions among its items of the wrong ones.

    Raises:
        ConfigError: a share outside [0, 1), a modality that does not exist, or nodes with recordings of their own.
    """
    _check(data, share)
    if unknown := set(modalities or ()) - set(data.anchors.items):
        raise ConfigError(f"no anchors of {sorted(unknown)}; choose from {', '.join(data.anchors.items)}")
    items, chosen = {}, {}
    for modality, item in data.anchors.items.items():
        order = generator(seed, "wrong", modality).permutation(len(item.index))
        some = order[: round(share * len(order))] if modalities is None or modality in modalities else order[:0]
        some = some if len(some) > 1 else order[:0]
        tokens = item.tokens.copy()
        tokens[some] = item.tokens[np.roll(some, 1)]
        items[modality], chosen[modality] = replace(item, tokens=tokens), np.sort(some).astype(np.int64)
    return replace(data, anchors=AnchorSet(data.anchors.ids, items)), chosen


def declare(data: FederatedData, positions: Mapping[str, IntArray], quality: float) -> FederatedData:
    """Items of low quality, said so: per modality, positions among its items that get this quality in (0, 1]."""
    items = dict(data.anchors.items)
    for modality, some in positions.items():
        weights = items[modality].quality.copy()
        weights[some] = quality
        items[modality] = replace(items[modality], quality=weights)
    return replace(data, anchors=AnchorSet(data.anchors.ids, items))


def synthetic(
    data: FederatedData,
    share: float,
    seed: int,
    quality: float = 1.0,
    *,
    instead: bool = False,
) -> FederatedData:
    """Synthetic anchors, as many as a share of the real ones: beside these, or instead of as many drawn at random.

    Args:
        data: the federation; not changed.
        share: of K; above 1 for more synthetic anchors than real ones, if they are added.
        seed: of the choice and of the `Generator`, which is fitted to the real anchors that are left.
        quality: of the synthetic items, as declared.
        instead: replace real anchors, which the generator then never sees.

    Raises:
        ConfigError: a negative share, or of 1 or more to be replaced; nodes with recordings of their own, or anchors
            missing from a modality.
        AnchorError: fewer than 6 real anchors are left.
    """
    if instead or share < 0:
        _check(data, share)
    _check(data, 0.0)
    n = round(share * len(data.anchors))
    if instead:
        kept = np.sort(generator(seed, "synthetic").permutation(len(data.anchors))[n:])
        data = data.subset_anchors(kept)
    made = Generator.fit(data.anchors, seed)(n)
    real, items = len(data.anchors), {}
    for modality, item in data.anchors.items.items():
        items[modality] = AnchorItems(
            np.arange(real + n),
            np.concatenate([item.tokens, made[modality]]),
            np.concatenate([item.quality, np.full(n, quality, np.float32)]),
        )
    ids = data.anchors.ids + tuple(f"synthetic-{number:04d}" for number in range(n))
    return replace(data, anchors=AnchorSet(ids, items))


def varied(
    data: FederatedData,
    variants: Mapping[str, AnchorItems],
    positions: IntArray,
    quality: float = 1.0,
    *,
    added: bool = False,
) -> FederatedData:
    """The federation where the anchors at some positions have other items, such as a picture redrawn.

    Args:
        data: the federation; not changed.
        variants: per modality, other items of the anchors; those of modalities that are not named stay.
        positions: in the anchor set, of the anchors whose items are exchanged.
        quality: of the new items, as declared.
        added: leave these anchors as they are, and append them once more with the other items.

    Raises:
        ConfigError: nodes with recordings of their own, or anchors missing from a modality.
        AnchorError: no variant of an anchor, or one that does not fit.
    """
    _check(data, 0.0)
    n, items = len(data.anchors), {}
    for modality, old in data.anchors.items.items():
        other = variants.get(modality, old)
        if not np.isin(positions, other.index).all() or other.tokens.shape[1:] != old.tokens.shape[1:]:
            raise AnchorError(f"variants of {modality!r} do not fit, or lack some of the anchors; make them anew")
        at = np.arange(n, n + len(positions)) if added else positions
        index = np.union1d(old.index, at)
        tokens, weights = (np.resize(x, (len(index), *x.shape[1:])) for x in (old.tokens, old.quality))
        tokens[at] = other.tokens[np.searchsorted(other.index, positions)]
        weights[at] = quality if modality in variants else old.quality[positions]
        items[modality] = AnchorItems(index, tokens, weights)
    again = tuple(f"{data.anchors.ids[i]} (again)" for i in positions) if added else ()
    return replace(data, anchors=AnchorSet(data.anchors.ids + again, items))


def uncovered(data: FederatedData, kinds: IntArray, gone: Collection[int]) -> FederatedData:
    """The federation without the anchors of some kinds: rows of these have no anchor of their own.

    Args:
        data: the federation; not changed.
        kinds: [K] of each anchor, such as its class: what a benchmark may know and nodes do not.
        gone: kinds whose anchors are left out.

    Raises:
        ConfigError: kinds that are not one an anchor.
        AnchorError: fewer than 4 anchors are left.
    """
    if kinds.shape != (len(data.anchors),):
        raise ConfigError(f"{len(data.anchors)} anchors, kinds {kinds.shape}; give one kind per anchor")
    kept = np.flatnonzero(~np.isin(kinds, list(gone)))
    if len(kept) < MIN_LEFT:
        raise AnchorError(f"without kinds {sorted(gone)} {len(kept)} anchors are left; keep {MIN_LEFT} or more")
    return data.subset_anchors(kept)


@dataclass(frozen=True)
class Generator:
    """Synthetic anchors from real ones alone: joint coordinates, a mixture of neighbours in them, and back by ridge.

    Joint coordinates [K, r] are principal components of all modalities' standardised features side by side, each
    modality scaled to the same variance (multiple factor analysis; Escofier & Pages 1994). A new anchor lies at a
    random mixture of a real one and its `NEIGHBOURS` nearest, with Gaussian noise of `SPREAD` standard deviations;
    each modality's features are its ridge regression on these coordinates, with residuals drawn per feature from a
    normal of the residuals' own spread. So the modalities of a synthetic anchor share what the coordinates say and
    nothing else.
    """

    coordinates: NDArray[np.float64]
    modalities: Mapping[str, "_Back"]
    seed: int

    @classmethod
    def fit(cls, anchors: AnchorSet, seed: int) -> "Generator":
        """To the real anchors, which all modalities must have.

        Raises:
            AnchorError: fewer than 6 anchors, or an anchor that is missing from a modality.
        """
        n = len(anchors)
        if n <= NEIGHBOURS:
            raise AnchorError(f"{n} real anchors; a generator needs {NEIGHBOURS + 1} or more")
        gram, flat = np.zeros((n, n)), {}
        for modality, item in anchors.items.items():
            if len(item.index) != n:
                raise AnchorError(f"{modality}: {n - len(item.index)} of {n} anchors are missing; fit to complete ones")
            flat[modality] = item.tokens.reshape(n, -1).astype(np.float64)
            x = _standard(flat[modality])
            gram += x @ x.T / max(np.square(x).sum(), 1e-300)
        values, vectors = np.linalg.eigh(gram)
        rank = min(FACTORS, n - 1)
        coordinates = vectors[:, ::-1][:, :rank] * np.sqrt(np.maximum(values[::-1][:rank], 0))
        shapes = {m: item.tokens.shape[1:] for m, item in anchors.items.items()}
        return cls(coordinates, {m: _Back.fit(coordinates, flat[m], shapes[m]) for m in flat}, seed)

    def __call__(self, n: int) -> dict[str, FloatArray]:
        """Per modality, n items [n, T, c]."""
        draw, known = generator(self.seed, "generator"), self.coordinates
        distance = np.square(known[:, None] - known[None]).sum(2)
        near = np.argsort(distance, axis=1)[:, : NEIGHBOURS + 1]  # the anchor itself first
        chosen = near[draw.integers(len(known), size=n)]
        mixture = draw.dirichlet(np.ones(NEIGHBOURS + 1), size=n)
        new = np.einsum("nm,nmr->nr", mixture, known[chosen])
        new += SPREAD * known.std(0) * draw.normal(size=new.shape)
        return {m: back(new, draw) for m, back in self.modalities.items()}


@dataclass(frozen=True)
class _Back:
    """From joint coordinates to one modality's items: mean [F] + u @ weight [r, F] + noise of sd [F]."""

    mean: NDArray[np.float64]
    weight: NDArray[np.float64]
    sd: NDArray[np.float64]
    shape: tuple[int, ...]

    @classmethod
    def fit(cls, u: NDArray[np.float64], x: NDArray[np.float64], shape: tuple[int, ...]) -> "_Back":
        mean = x.mean(0)
        square = u.T @ u  # u is centred, for the Gram is
        ridge = RIDGE * np.trace(square) / len(square) * np.eye(len(square))
        weight = np.linalg.solve(square + ridge, u.T @ (x - mean))
        return cls(mean, weight, (x - mean - u @ weight).std(0), shape)

    def __call__(self, u: NDArray[np.float64], draw: np.random.Generator) -> FloatArray:
        rows = self.mean + u @ self.weight + self.sd * draw.normal(size=(len(u), len(self.mean)))
        return rows.reshape(len(u), *self.shape).astype(np.float32)


def _standard(x: NDArray[np.float64]) -> NDArray[np.float64]:
    sd = x.std(0)
    return (x - x.mean(0)) / np.where(sd > 1e-6 * np.abs(x).max(0, initial=1e-30), sd, np.inf)


def _only(item: AnchorItems, there: NDArray[np.bool_]) -> AnchorItems:
    keep = there[item.index]
    return AnchorItems(item.index[keep], item.tokens[keep], item.quality[keep])


def _connected(held: Mapping[str, NDArray[np.bool_]]) -> None:
    """Whether chains of modalities and anchors that they hold reach every anchor, and none holds too few."""
    few = [f"{m}: {there.sum()}" for m, there in held.items() if there.sum() < MIN_LEFT]
    if few:
        raise AnchorError(f"too few anchors are left ({', '.join(few)}; {MIN_LEFT} needed); lack a smaller share")
    holds = np.array(list(held.values()))
    count, _ = connected_components(csr_array(holds.T.astype(int) @ holds.astype(int)), directed=False)
    if count > 1:
        raise AnchorError(f"the anchors fall into {count} groups with no modality in common; lack a smaller share")


def _check(data: FederatedData, share: float) -> None:
    if not 0 <= share < 1:
        raise ConfigError(f"share={share} of the anchors; choose one in [0, 1)")
    if own := [node.name for node in data.nodes if node.anchors is not None]:
        raise ConfigError(f"node {own[0]!r} has recordings of its own; change the public anchors before its sensors")
    lacks = [m for m, item in data.anchors.items.items() if len(item.index) < len(data.anchors)]
    if lacks:
        raise ConfigError(f"{lacks[0]} lacks anchors already; begin with a complete set")
