"""The talking pictures' things that can be seen and heard: drawings, photos, spoken and written names."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from isogram.config import Config
from isogram.data.modalities.base import Item
from isogram.data.pictures.emoji import Emoji, read_emoji
from isogram.data.pictures.features import MODALITIES, Catalogue, read_catalogue
from isogram.data.pictures.protocol import deal, divide, read
from isogram.data.pictures.render import draw_svg
from isogram.data.pictures.stamps import Stamp, fetch_stamps
from isogram.files import make_folder, write_atomic
from isogram.inference import Source

DRAWINGS = "drawings"
"""Folder below a run's: vector drawings as pixels, for browsers are sent no vector drawing of others."""

UNSEEN, OWN = "held out: no node has seen it", "a private row of this node"


def shelves(run: Path, config: Config, *, private: bool = False) -> dict[str, Source]:
    """Of each node, the held-out concepts in its modality, in the same order and under the same ids.

    Args:
        run: folder where vector drawings are drawn to.
        config: of the run: its seed and number of anchors say what is held out.
        private: also the rows that the node trained on, after these.

    Raises:
        DataError: the set has not been encoded yet, or is damaged.
        StorageError: its sources cannot be had.
    """
    catalogue = read_catalogue()
    division = divide(len(catalogue.complete), config.anchors, config.seed, tuning=False)
    maker = _Maker(fetch_stamps(), run / DRAWINGS)
    stamps = [catalogue.stamps[catalogue.complete[i]] for i in division.held_out]
    held = {m: [(stamp.name, maker.item(m, stamp)) for stamp in stamps] for m in MODALITIES}
    own = _own(catalogue, deal(read(), division, config.seed), maker) if private else {m: [] for m in MODALITIES}
    return {m: _shelf(held[m], own[m]) for m in MODALITIES}


def _shelf(held: Sequence[tuple[str, Item]], own: Sequence[tuple[str, Item]]) -> Source:
    seen: Counter[str] = Counter()
    ids = []
    for name, _ in (*held, *own):
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    labels = [UNSEEN] * len(held) + [OWN] * len(own) if own else [""] * len(held)
    return Source(tuple(item for _, item in (*held, *own)), tuple(ids), tuple(labels))


def _own(
    catalogue: Catalogue, dealt: dict[str, list[tuple[str, int]]], maker: "_Maker"
) -> dict[str, list[tuple[str, Item]]]:
    emoji = read_emoji()
    found: dict[str, list[tuple[str, Item]]] = {}
    for modality, given in dealt.items():
        holding = [catalogue.stamps[i] for i in catalogue.holding(modality)]
        found[modality] = [
            maker.of_emoji(modality, emoji, row) if part.startswith("emoji") else
            (holding[row].name, maker.item(modality, holding[row]))
            for part, row in given
        ]  # fmt: skip
    return found


class _Maker:
    """Items of stamps and emoji. Vector drawings become PNG files, once."""

    def __init__(self, stamps_at: Path, drawings: Path) -> None:
        self._at, self._drawings = stamps_at, drawings
        make_folder(drawings)

    def item(self, modality: str, stamp: Stamp) -> Item:
        """A stamp as a modality has it."""
        where = f"{stamp.path}, {modality}"
        if modality == "text":
            return Item(where, text=stamp.name)
        if modality != "picture":
            return Item(where, path=self._at / f"{stamp.path}_desc_{modality.removeprefix('speech-')}.ogg")
        path = self._at / f"{stamp.path}{stamp.picture}"
        if path.suffix == ".svg":
            path = self._drawn(stamp.path.replace("/", "_"), path.read_text(encoding="utf-8"))
        return Item(where, path=path)

    def of_emoji(self, modality: str, emoji: Sequence[Emoji], row: int) -> tuple[str, Item]:
        """A private row of emoji: a name, or one vendor's drawing."""
        if modality == "text":
            return emoji[row].name, Item(f"emoji {emoji[row].characters}", text=emoji[row].name)
        each = len(emoji[0].drawings)
        one, vendor = emoji[row // each], row % each
        path = self._drawn(f"emoji_{row // each}_{vendor}", one.drawings[vendor])
        return one.name, Item(f"emoji {one.characters}, drawing {vendor + 1}", path=path)

    def _drawn(self, name: str, svg: str) -> Path:
        path = self._drawings / f"{name}.png"
        if not path.exists():
            buffer = io.BytesIO()
            draw_svg(svg).save(buffer, "PNG")
            write_atomic(path, buffer.getvalue())
        return path
