"""Five silos around one world of things: pictures, their names spoken in French, Spanish, Russian, and in English text.

A concept is a name; nobody holds two views of one, and no two silos hold the same. Sources: `stamps`, `emoji`; frozen
encoders: `encoders`. 658 stamps that are no symbols have all five views; under 589 names that differ in more than
articles and number.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isogram.config import ModalityConfig
from isogram.data.base import AnchorItems, AnchorSet, FederatedData, FloatArray, HeldOut, IntArray, NodeData
from isogram.data.pictures.concepts import head_word, token_set
from isogram.data.pictures.features import MODALITIES, SPEEDS, Arrays, Catalogue, read_catalogue, read_part
from isogram.data.pictures.stamps import LANGUAGES
from isogram.errors import AnchorError

ENCODERS = {
    "picture": ModalityConfig(kind="image", encoder="lite0"),
    **{f"speech-{language}": ModalityConfig(kind="audio", encoder="whisper-tiny") for language in LANGUAGES},
    "text": ModalityConfig(kind="text", encoder="minilm"),
}
"""Modality -> how a file or a text of somebody else's becomes the same tokens."""

HELD_OUT, POOL = 118, 200
"""Concepts held out, and set aside for anchors, whether used or not."""


@dataclass(frozen=True)
class Corpus:
    """What was encoded, as `features` keeps it: `parts` by modality, and "emoji-picture", "emoji-text"."""

    catalogue: Catalogue
    parts: Mapping[str, Arrays]


def read() -> Corpus:
    """All but the variants.

    Raises:
        DataError: it has not been encoded yet, or is damaged.
    """
    return Corpus(read_catalogue(), {name: read_part(name) for name in (*MODALITIES, "emoji-picture", "emoji-text")})


def load_pictures(*, anchors: int, seed: int, tuning: bool = False) -> FederatedData:
    """One node per modality, K = `anchors` public anchor concepts, 118 held-out concepts.

    Args:
        anchors: K, 4 to 200.
        seed: of the split.
        tuning: take the second half of the anchor pool as the held-out concepts, and anchors from the first half
            alone: every choice of a setting is made there, and the 118 are not touched.

    Raises:
        AnchorError: fewer than 4 anchors, or more than the pool holds: 200, or 100 when tuning.
        DataError: the set has not been encoded yet, or is damaged.
    """
    return split(read(), anchors=anchors, seed=seed, tuning=tuning)


def variant_items(seed: int, anchors: int, *, tuning: bool = False) -> dict[str, AnchorItems]:
    """Other items of the anchors of `load_pictures`, in the same order, for studies of synthetic anchors.

    The picture is the emoji of that name, or else the same picture mirrored, turned and in other colours; speech is
    the same recording at 85 or 115 % of its speed and pitch; the text names the concept in a sentence, or by an emoji's
    keywords. Quality is left at 1.

    Raises:
        AnchorError, DataError: as of `load_pictures`.
    """
    chosen = divide(len(read_catalogue().complete), anchors, seed, tuning).anchors
    speed = np.random.default_rng([seed, 2]).integers(len(SPEEDS), size=POOL)[: len(chosen)]
    items = {}
    for modality in MODALITIES:
        part = read_part(f"variant-{modality}")
        at = (chosen, speed) if modality.startswith("speech") else (chosen,)
        items[modality] = _items(part["tokens"][at], part["seconds"][at] if "seconds" in part else None)
    return items


@dataclass(frozen=True)
class Division:
    """Positions among the complete concepts. test: those that are held out unless tuning."""

    test: IntArray
    held_out: IntArray
    anchors: IntArray
    private: IntArray


def divide(n: int, anchors: int, seed: int, tuning: bool) -> Division:
    """Of n complete concepts. Raises AnchorError as `load_pictures` does."""
    pool = POOL // 2 if tuning else POOL
    if not 4 <= anchors <= pool:
        raise AnchorError(f"there is a pool of {pool} anchor concepts; asked for {anchors}, choose 4 to {pool}")
    order = np.random.default_rng(seed).permutation(n)
    test = order[:HELD_OUT]
    held_out = order[HELD_OUT + pool : HELD_OUT + POOL] if tuning else test
    return Division(test, held_out, order[HELD_OUT : HELD_OUT + anchors], order[HELD_OUT + POOL :])


def split(corpus: Corpus, *, anchors: int, seed: int, tuning: bool = False) -> FederatedData:
    """The federation of a corpus: arguments and errors as of `load_pictures`."""
    catalogue, parts = corpus.catalogue, corpus.parts
    division = divide(len(catalogue.complete), anchors, seed, tuning)
    names = [catalogue.stamps[i].name for i in catalogue.complete]
    rows = {m: np.array([_rows(catalogue, m)[i] for i in catalogue.complete]) for m in MODALITIES}

    def control(modality: str, concepts: IntArray) -> FloatArray | None:
        if modality == "text":
            return np.array([len(names[i]) for i in concepts], np.float32)
        seconds = parts[modality].get("seconds")
        return None if seconds is None else seconds[rows[modality][concepts]]

    def anchor_set(concepts: IntArray) -> AnchorSet:
        items = {m: _items(parts[m]["tokens"][rows[m][concepts]], control(m, concepts)) for m in MODALITIES}
        return AnchorSet(tuple(names[i] for i in concepts), items)

    unseen = division.held_out
    controls = {m: control(m, unseen) for m in MODALITIES}
    return FederatedData(
        name="pictures",
        nodes=tuple(
            NodeData(m, m, np.stack([parts[part]["tokens"][row] for part, row in given]).astype(np.float32))
            for m, given in deal(corpus, division, seed).items()
        ),
        anchors=anchor_set(division.anchors),
        held_out=HeldOut(
            {m: parts[m]["tokens"][rows[m][unseen]].astype(np.float32) for m in MODALITIES},
            {},
            paired=True,
            private={},
            ids=[names[i] for i in unseen],
            controls={m: values for m, values in controls.items() if values is not None},
        ),
        classes=(),
        encoders=ENCODERS,
        all_paired=lambda: anchor_set(np.setdiff1d(np.arange(len(names)), np.union1d(division.test, unseen))),
    )


def _items(tokens: NDArray[np.float16], control: FloatArray | None) -> AnchorItems:
    n = len(tokens)
    return AnchorItems(np.arange(n), tokens.astype(np.float32), np.ones(n, np.float32), control)


def _rows(catalogue: Catalogue, modality: str) -> dict[int, int]:
    """Stamp -> its row in the part of a modality."""
    return {stamp: row for row, stamp in enumerate(catalogue.holding(modality))}


def deal(corpus: Corpus, division: Division, seed: int) -> dict[str, list[tuple[str, int]]]:
    """Modality -> part and row of each private row: every concept goes to one modality alone.

    The complete concepts that are left go round all five; then, in random order, concepts of other stamps round the
    modalities that they have, and other emoji to pictures and text in turn. Left out is what has the head word of a
    held-out concept's name, or its picture to the pixel, and what else is drawn or recorded of a complete concept.
    """
    catalogue, pixels = corpus.catalogue, corpus.parts["picture"]["pixels"]
    rows = {m: _rows(catalogue, m) for m in MODALITIES}
    hidden = [catalogue.complete[i] for i in np.union1d(division.test, division.held_out)]
    heads = {head_word(catalogue.stamps[i].name) for i in hidden}
    left = [catalogue.complete[i] for i in division.private]
    dealt: dict[str, list[tuple[str, int]]] = {m: [] for m in MODALITIES}

    def give(modality: str, stamps: Iterable[int], drawn: Container[int]) -> None:
        for stamp in stamps:
            row = rows[modality].get(stamp)
            if row is not None and not (modality == "picture" and int(pixels[row]) in drawn):
                dealt[modality].append((modality, row))

    drawn = {int(pixels[rows["picture"][i]]) for i in hidden}
    for turn, stamp in enumerate(i for i in left if head_word(catalogue.stamps[i].name) not in heads):
        give(MODALITIES[turn % len(MODALITIES)], [stamp], drawn)

    drawn = {int(pixels[rows["picture"][i]]) for i in catalogue.complete}
    known = {token_set(catalogue.stamps[i].name) for i in catalogue.complete}
    stamps = _by_concept([stamp.name for stamp in catalogue.stamps], known, heads)
    emoji = _by_concept(catalogue.emoji, known, heads)
    drawings = len(corpus.parts["emoji-picture"]["tokens"]) // len(catalogue.emoji)
    concepts = sorted(stamps.keys() | emoji.keys(), key=sorted)
    turns = {True: 0, False: 0}
    for number in np.random.default_rng([seed, 1]).permutation(len(concepts)):
        stamped, smileys = stamps.get(concepts[number], ()), emoji.get(concepts[number], ())
        holders = [m for m in MODALITIES if any(i in rows[m] for i in stamped)] or ["picture", "text"]
        modality = holders[turns[bool(stamped)] % len(holders)]
        turns[bool(stamped)] += 1
        give(modality, stamped, drawn)
        if modality in ("picture", "text"):
            each = drawings if modality == "picture" else 1
            dealt[modality] += [(f"emoji-{modality}", i * each + j) for i in smileys for j in range(each)]
    return dealt


def _by_concept(
    names: Iterable[str], known: Container[frozenset[str]], heads: Container[str]
) -> dict[frozenset[str], list[int]]:
    """Positions of names, those left out whose concept is known or whose head word is one of `heads`."""
    found: dict[frozenset[str], list[int]] = {}
    for position, name in enumerate(names):
        if token_set(name) not in known and head_word(name) not in heads:
            found.setdefault(token_set(name), []).append(position)
    return found
