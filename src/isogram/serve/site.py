"""What the page shows of a site: a model, banks of items, how well their modalities are aligned."""

import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from isogram.data.base import FloatArray
from isogram.data.modalities import kind_of
from isogram.data.modalities.base import Item
from isogram.errors import DataError
from isogram.inference import Bank, Model
from isogram.serve import media
from isogram.serve.plane import Plane, drawn

HITS = 10
"""Items of each bank that an answer holds."""

PAGE = 24
"""Items that are listed at once."""

LETTERS = 20_000
"""Of a typed question, as the page's own field has it: longer ones would keep others waiting."""

_TYPED, _SHOWN = ("text", "sequence"), {"image": "image", "audio": "audio", "series": "image"}

Json = dict[str, Any]


class MissingError(DataError):
    """There is no such bank or item."""


@dataclass(frozen=True)
class Site:
    """A model and banks that it embedded.

    name: of the page; note: a sentence on what the banks hold; paired: whether the same id in two banks is the same
    thing, so that right answers are known; standing: see `standing.standing`, empty without a run's folder.
    """

    model: Model
    banks: Sequence[Bank]
    name: str = ""
    note: str = ""
    paired: bool = False
    standing: Mapping[str, Any] = field(default_factory=dict)
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def kind(self, modality: str) -> str:
        """The kind of data that a modality is; "" where the model was trained on numbers and nobody knows."""
        config = self.model.saved.encoders.get(modality)
        return config.kind if config else ""

    @cached_property
    def plane(self) -> Plane:
        """Of all banks."""
        return Plane.of([bank.coordinates for bank in self.banks])

    @cached_property
    def about(self) -> Json:
        """All that the page has to know before a question is asked."""
        banks = [
            {
                "name": name,
                "modality": bank.about["modality"],
                "kind": self.kind(bank.about["modality"]),
                "items": len(bank),
                "left_out": len(bank.bad),
            }
            for name, bank in zip(self._names, self.banks, strict=True)
        ]
        nodes = []
        modalities = list(dict.fromkeys([*(bank["modality"] for bank in banks), *self.model.modalities]))
        for node, modality in sorted(self.model.nodes.items(), key=lambda entry: modalities.index(entry[1])):
            kind, asks = self.kind(modality), ""
            if kind in _TYPED:
                asks = "text"
            elif kind and kind_of(self.model.saved.encoders[modality]).suffixes:
                asks = "file"
            held = [i for i, bank in enumerate(self.banks) if bank.about["node"] == node]
            if asks or held:
                nodes.append({"name": node, "modality": modality, "kind": kind, "asks": asks, "banks": held})
        rows = drawn([len(bank) for bank in self.banks])
        points = [self.plane.place(bank.coordinates[at]) for bank, at in zip(self.banks, rows, strict=True)]
        return {
            "name": self.name,
            "note": self.note,
            "paired": self.paired,
            "nodes": nodes,
            "banks": banks,
            "modalities": modalities,
            "standing": dict(self.standing),
            "map": {
                "explained": [round(share, 3) for share in self.plane.explained],
                "points": [
                    {"rows": at.tolist(), "x": _rounded(xy[:, 0]), "y": _rounded(xy[:, 1])}
                    for at, xy in zip(rows, points, strict=True)
                ],
            },
        }

    @cached_property
    def _names(self) -> list[str]:
        """Of the banks: their node's, with a number where a node has several."""
        nodes = [bank.about["node"] for bank in self.banks]
        return [
            node if nodes.count(node) == 1 else f"{node} ({nodes[: i + 1].count(node)})" for i, node in enumerate(nodes)
        ]

    def items(self, bank: int, find: str, start: int) -> Json:
        """A bank's items that have `find` in their id, text or label, `PAGE` of them from the `start`-th on."""
        self._bank(bank)
        wanted = find.strip().lower()
        rows = [row for row, words in enumerate(self._words[bank]) if wanted in words] if wanted else None
        of = len(self.banks[bank]) if rows is None else len(rows)
        page = range(start, min(start + PAGE, of))
        return {"of": of, "items": [self.item(bank, i if rows is None else rows[i]) for i in page]}

    @cached_property
    def _words(self) -> list[list[str]]:
        """Of each bank's items, what they are found by."""
        shown = ("id", "text", "label")
        return [
            ["\n".join(row[name] for name in shown).lower() for row in bank.texts.select(shown).to_pylist()]
            for bank in self.banks
        ]

    def near(self, bank: int, row: int) -> Json:
        """What is nearest to an item of a bank, which itself is not among it.

        Raises:
            MissingError: there is no such item.
        """
        item, query = self.item(bank, row), self.banks[bank].coordinates[row]
        found = self._found(query, but=(bank, row), partner=item["id"] if self.paired else "")
        return {"query": item | {"node": self.banks[bank].about["node"]} | self._place(query), "found": found}

    def ask(self, node: str, body: bytes, typed: bool) -> Json:
        """What is nearest to what somebody typed (UTF-8), or to the content of a file; nothing of it is kept.

        Raises:
            DataError: no such node; or it cannot be read as what the node holds.
        """
        if node not in self.model.nodes:
            raise DataError(f"this model has no node {node!r}; reload the page")
        modality = self.model.nodes[node]
        kind = self.kind(modality)
        if not kind or typed != (kind in _TYPED):
            takes = "text" if kind in _TYPED else "a file" if kind else "items of its own only"
            raise DataError(f"{node} takes {takes}; choose another node, or ask differently")
        try:
            text = body.decode().strip() if typed else ""
        except UnicodeDecodeError as error:
            raise DataError(f"that is no text in UTF-8 (byte {error.start}); send it so") from error
        if len(text) > LETTERS:
            raise DataError(f"that is {len(text):,} letters; ask with {LETTERS:,} at most")
        if typed and not text:
            raise DataError("type something first")
        if not typed and not body:
            raise DataError("the file is empty; choose another one")
        with self._one_at_a_time, tempfile.TemporaryDirectory(prefix="isogram-") as name:
            # Readers, and the libraries under them, take paths: the file is gone before the answer is sent.
            # Content says what a file is; readers that look at the name can only mean an archive.
            path = Path(name) / ("upload.npz" if body.startswith(b"PK") else "upload")
            if not typed:
                path.write_bytes(body)
            item = Item("what you typed", text=text) if typed else Item("your file", path=path)
            with _told_without(path, "it"):
                described, query = self.model.look(node, item)
        asked = {"node": node, "kind": kind, "described": described, "text": text}
        return {"query": asked | self._place(query), "found": self._found(query)}

    def media(self, bank: int, row: int) -> media.Media:
        """What people see or hear of an item.

        Raises:
            MissingError: there is no such item, or nothing to see or hear of it.
            DataError: its file is gone, or is none of what it was.
        """
        self._row(bank, row)
        modality, path = self.banks[bank].about["modality"], self.banks[bank][row].path
        kind = self.kind(modality)
        if kind not in _SHOWN or not path:
            raise MissingError("there is nothing to see or hear of this item")
        file = Path(path)
        with _told_without(file, file.name):
            if kind == "image":
                return media.picture(file)
            if kind == "audio":
                return media.sound(file)
            return media.series(file, self.model.saved.encoders[modality])

    def _found(self, query: FloatArray, but: tuple[int, int] | None = None, partner: str = "") -> list[Json]:
        """Of each bank, the best hits, and where among all of it the partner stands if it is known."""
        found = []
        for number, bank in enumerate(self.banks):
            own = but is not None and but[0] == number
            hits = bank.search(query, len(bank) if partner and not own else HITS + own)
            hits = [hit for hit in hits if (number, hit.position) != but]
            rank = 0
            if partner and not own:
                rank = next((i for i, hit in enumerate(hits, 1) if bank[hit.position].id == partner), 0)
            told = [
                self.item(number, hit.position)
                | {"score": round(hit.score, 4), "cosine": round(hit.cosine, 4)}
                | {"right": bool(rank) and i == rank}
                | self._place(bank.coordinates[hit.position])
                for i, hit in enumerate(hits[:HITS], 1)
            ]
            found.append({"bank": number, "hits": told, "rank": rank})
        return found

    def item(self, bank: int, row: int) -> Json:
        """What is known of an item, but for where its file is on this machine.

        Raises:
            MissingError: there is no such item.
        """
        self._row(bank, row)
        entry = self.banks[bank][row]
        kind = self.kind(self.banks[bank].about["modality"])
        return {
            "bank": bank,
            "row": row,
            "id": entry.id,
            "text": entry.text,
            "label": entry.label,
            "kind": kind,
            "media": _SHOWN.get(kind, "") if entry.path else "",
        }

    def _place(self, coordinates: FloatArray) -> Json:
        [[x, y]] = self.plane.place(coordinates[None]).tolist()
        return {"x": round(x, 4), "y": round(y, 4)}

    def _bank(self, bank: int) -> None:
        if not 0 <= bank < len(self.banks):
            raise MissingError("there is no such bank; reload the page")

    def _row(self, bank: int, row: int) -> None:
        self._bank(bank)
        if not 0 <= row < len(self.banks[bank]):
            raise MissingError("there is no such item; reload the page")


@contextmanager
def _told_without(path: Path, called: str) -> Iterator[None]:
    """Errors in the words of a library may hold the path, which nobody is told who looks at the page."""
    try:
        yield
    except DataError as error:
        raise DataError(*(problem.replace(str(path), called) for problem in error.problems)) from error


def _rounded(values: FloatArray) -> list[float]:
    return np.round(values.astype(np.float64), 4).tolist()
