"""Items of one node, embedded, to be searched from any modality.

Shape letters: n items, q queries, r coordinates, K anchors, k hits.

Some items are near to everything and would be found by whoever asks: hubs. A hit's score is that of CSLS (Conneau et
al. 2018, arXiv 1710.04087), twice its cosine with the query less its hubness, which is its mean cosine with the
`NEIGHBOURS` anchors next to it. Anchors are public and in the model, so an item's score depends on no other item.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isogram.config import handed_on
from isogram.data.base import FloatArray, IntArray
from isogram.data.modalities.base import Item
from isogram.data.sheets import Problems, few
from isogram.errors import DataError
from isogram.inference.bank_file import read, texts_of, write
from isogram.inference.source import Source, as_items

if TYPE_CHECKING:
    from isogram.inference.model import Items, Model

NEIGHBOURS = 10
"""Anchors next to an item that its hubness is a mean over, as published (benchmarks/search.py)."""

_CHUNK = 8192
"""Items that are compared at once."""


@dataclass(frozen=True)
class Hit:
    """An item that was found, and what it is found by. score: hits are ranked by it; cosine: with the query."""

    position: int
    score: float
    cosine: float


@dataclass(frozen=True)
class Entry:
    """An item of a bank; "" for what it does not have."""

    id: str
    where: str
    path: str
    text: str
    label: str


@dataclass(frozen=True, eq=False)
class Bank:
    """Items of one node, embedded by one model; `bank[position]` is an `Entry`.

    coordinates [n, r], hubness [n]; texts: a Parquet table with the fields of entries as columns.
    about: "model" and "anchors" (fingerprints), "node", "modality", "encoder".
    bad: a line about each item that was left out when it was built.
    """

    coordinates: FloatArray
    hubness: FloatArray
    texts: Any
    about: Mapping[str, str]
    bad: tuple[str, ...] = ()

    @classmethod
    def build(
        cls,
        model: "Model",
        node: str,
        items: "Items",
        *,
        ids: Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
        skip_bad: bool = False,
        told: Callable[[int, int], None] = lambda done, total: None,
        cache: Path | None = None,
    ) -> "Bank":
        """Embed items of a node.

        Args:
            model: that embeds them.
            node: that they are of, or the modality that it alone holds.
            items: as `Model.embed` takes them.
            ids: distinct names; their numbers from 1 if not given.
            labels: what is known of their classes.
            skip_bad: leave out items that cannot be read; see `bad`.
            told: is called as encoding goes on, with items done and in all.
            cache: folder of tokens that were made before, see `data.modalities.encode`.

        Raises:
            DataError: as `Model.embed`; or ids or labels are not one per item, or ids stand twice.
        """
        tokens = items if isinstance(items, np.ndarray) else None
        if isinstance(items, np.ndarray):
            found = [Item(f"row {i + 1}") for i in range(len(items))]
        else:
            found = as_items(items, model.encoder(node).kind)
        n = len(found)
        ids = [str(i + 1) for i in range(n)] if ids is None else [str(one) for one in ids]
        labels = [""] * n if labels is None else [str(one) for one in labels]
        if not len(ids) == len(labels) == n:
            raise DataError(f"{n} items, {len(ids)} ids, {len(labels)} labels; give one of each per item")
        if twice := [one for one, count in Counter(ids).items() if count > 1]:
            raise DataError(f"ids that stand twice: {few(twice)}; give each item its own")
        source = Source(tuple(found), tuple(ids), tuple(labels), tokens)
        return cls.of(model, node, source, skip_bad=skip_bad, told=told, cache=cache)

    @classmethod
    def of(
        cls,
        model: "Model",
        node: str,
        source: Source,
        *,
        skip_bad: bool = False,
        told: Callable[[int, int], None] = lambda done, total: None,
        cache: Path | None = None,
    ) -> "Bank":
        """The same of what `read_source` found.

        Raises:
            DataError: as `Model.embed`; or no item is left.
        """
        node = model.node(node)
        source, tokens = model.encoded(node, source, skip_bad=skip_bad, told=told, cache=cache)
        if not len(source):
            raise DataError("there is no item to embed", *source.bad)
        coordinates = model.embed(node, tokens)
        columns = {
            "id": source.ids,
            "where": [one.where for one in source.items],
            "path": ["" if one.path is None else str(one.path) for one in source.items],
            "text": [one.text or "" for one in source.items],
            "label": source.labels,
        }
        encoder = model.saved.encoders.get(model.nodes[node])
        about = {
            "model": model.fingerprint,
            "anchors": model.saved.anchor_hash,
            "node": node,
            "modality": model.nodes[node],
            "encoder": "" if encoder is None else handed_on(encoder.encoder),
        }
        anchors = np.asarray(model.saved.frame, np.float32)
        return cls(coordinates, hubness(coordinates, anchors), texts_of(columns), about, source.bad)

    def save(self, path: Path | str) -> None:
        """Write a Parquet file, whole or not at all; any reader of Parquet shows its columns.

        Raises:
            StorageError: it cannot be written.
        """
        write(Path(path), (self.coordinates, self.hubness, self.texts, dict(self.about), self.bad))

    @classmethod
    def load(cls, path: Path | str, model: "Model | None" = None) -> "Bank":
        """Read a file that `save` wrote.

        Raises:
            DataError: it is none, is damaged, or was embedded by another model than `model`.
        """
        bank = cls(*read(Path(path)))
        if model is not None and bank.about["model"] != model.fingerprint:
            others = " on other anchors" if bank.about["anchors"] != model.saved.anchor_hash else ""
            raise DataError(
                f"{path} was embedded by another model{others} (#{bank.about['model']}, this is "
                f"#{model.fingerprint}): their coordinates mean different things; embed its items again with this one"
            )
        if model is not None and bank.coordinates.shape[1] != model.rank:
            sizes = f"items have {bank.coordinates.shape[1]} coordinates, the model {model.rank}"
            raise DataError(f"{path} is damaged ({sizes}); embed its items again")
        return bank

    @classmethod
    def load_all(cls, paths: Iterable[Path | str], model: "Model") -> "list[Bank]":
        """Files that one model embedded, in their order.

        Raises:
            DataError: those that are none of it, all of them.
        """
        found, problems = [], Problems()
        for path in paths:
            try:
                found.append(cls.load(path, model))
            except DataError as error:
                problems += error.problems
        problems.stop()
        return found

    def __len__(self) -> int:
        return len(self.coordinates)

    def __getitem__(self, position: int) -> Entry:
        return Entry(**self.texts.slice(range(len(self))[position], 1).to_pylist()[0])

    def search(self, query: ArrayLike, k: int = 10, *, corrected: bool = True) -> list[Hit]:
        """The k items that fit a query [r] best, best first; all there are if they are fewer.

        Args:
            query: coordinates by the same model, of any node; see `Model.embed`.
            k: hits wanted.
            corrected: for hubs; else by cosine alone.

        Raises:
            DataError: the query has another number of coordinates, or one that is no number.
        """
        found = self.nearest(_numbers(query)[None], k, corrected=corrected)
        return [Hit(int(p), float(s), float(c)) for p, s, c in zip(*(part[0] for part in found), strict=True)]

    def nearest(
        self, queries: ArrayLike, k: int = 10, *, corrected: bool = True
    ) -> tuple[IntArray, FloatArray, FloatArray]:
        """The same for queries [q, r]: positions, scores and cosines, each [q, k]. Of equal scores the first wins.

        Raises:
            DataError: as `search`.
        """
        queries = _numbers(queries)
        if queries.ndim != 2 or queries.shape[1] != self.coordinates.shape[1]:
            raise DataError(
                f"queries {list(queries.shape)}, but items of this bank have {self.coordinates.shape[1]} coordinates; "
                "embed the query by the model that embedded the bank"
            )
        if not np.isfinite(queries).all():
            raise DataError("a query holds coordinates that are no numbers; embed it again")
        sought, n, k = unit(queries), len(self), max(0, min(k, len(self)))
        positions, scores = np.zeros((len(sought), k), np.int64), np.zeros((len(sought), k), np.float32)
        cosines = np.zeros_like(scores)
        for row, one in enumerate(sought):
            cosine = self._unit @ one
            score = 2 * cosine - self.hubness if corrected else cosine
            if k == 0:
                continue
            least = np.partition(score, n - k)[n - k]
            near = np.flatnonzero(score >= least)
            best = near[np.lexsort((near, -score[near]))[:k]]
            positions[row], scores[row], cosines[row] = best, score[best], cosine[best]
        return positions, scores, cosines

    @cached_property
    def _unit(self) -> FloatArray:
        return unit(self.coordinates)


def hubness(coordinates: FloatArray, anchors: FloatArray, neighbours: int = NEIGHBOURS) -> FloatArray:
    """[n] mean cosine of each item [n, r] with its nearest among the anchors' places [K, r]."""
    k = min(neighbours, len(anchors))
    items, places, found = unit(coordinates), unit(anchors), np.zeros(len(coordinates), np.float32)
    for start in range(0, len(items) if k else 0, _CHUNK):
        cosine = items[start : start + _CHUNK] @ places.T
        found[start : start + _CHUNK] = np.partition(cosine, -k, axis=1)[:, -k:].mean(1)
    return found


def unit(rows: NDArray[np.floating[Any]]) -> FloatArray:
    """Rows of length 1, float32; rows of zeros stay so."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(length > 0, length, 1)).astype(np.float32)


def _numbers(query: ArrayLike) -> FloatArray:
    try:
        return np.asarray(query, np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"a query is no list of numbers ({error}); give coordinates, see `Model.embed`") from error
