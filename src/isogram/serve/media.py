"""What people see and hear of an item: a small picture, a sound, a curve. No file leaves that is not one of these."""

import functools
import io
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isogram.config import ModalityConfig
from isogram.data.modalities import kind_of
from isogram.data.modalities.base import Item
from isogram.data.modalities.image import IMAGE
from isogram.errors import DataError
from isogram.report.figures import COLOURS

SIDE = 480
"""Pixels of a picture's longer side, at most."""

SECONDS = 60
"""Of a sound that browsers do not play as it is: so much of it is turned into WAV."""

_SOUNDS = {"OGG": "audio/ogg", "FLAC": "audio/flac", "WAV": "audio/wav", "WAVEX": "audio/wav", "MP3": "audio/mpeg"}
"""What browsers play as it is, by libsndfile's name of it."""


@dataclass(frozen=True)
class Media:
    """What is sent: `data`, or the file at `path` as it is."""

    type: str
    data: bytes = b""
    path: Path | None = None


def picture(path: Path) -> Media:
    """A picture as encoders see it, reduced: PNG, or JPEG where nothing of it is transparent.

    It is always drawn anew, so that nothing else in the file is sent: no script of a drawing, no place of a photo.

    Raises:
        DataError: no picture.
    """
    return _picture(path, _state(path))


@functools.lru_cache(maxsize=512)
def _picture(path: Path, state: tuple[int, int]) -> Media:
    image = IMAGE.read(Item(path.name, path=path), ModalityConfig()).image.copy()
    image.thumbnail((SIDE, SIDE))
    buffer, clear = io.BytesIO(), image.mode == "RGBA"
    image.save(buffer, "PNG" if clear else "JPEG", **({} if clear else {"quality": 88}))
    return Media("image/png" if clear else "image/jpeg", buffer.getvalue())


def sound(path: Path) -> Media:
    """A sound as it is where browsers play its format, which is told by its content; else as WAV.

    Raises:
        DataError: no sound.
    """
    import soundfile

    _state(path)
    try:
        with path.open("rb") as content, soundfile.SoundFile(content) as file:
            if file.format in _SOUNDS:
                return Media(_SOUNDS[file.format], path=path)
            samples, rate = file.read(SECONDS * file.samplerate, dtype="int16"), file.samplerate
    except (OSError, TypeError, soundfile.LibsndfileError) as error:
        raise DataError(f"{path.name}: is no sound any more; put it back, or embed the items anew") from error
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return Media("audio/wav", buffer.getvalue())


def series(path: Path, config: ModalityConfig) -> Media:
    """A file of a series as curves.

    Raises:
        DataError: no series.
    """
    _state(path)
    return curve(kind_of(config).read(Item(path.name, path=path), config).values)


def curve(values: NDArray[np.floating], points: int = 240) -> Media:
    """[length] or [length, channels] of a series drawn as lines, at most 4, each over its own range."""
    rows = np.asarray(values, np.float64).reshape(len(values), -1)[:, :4]
    at = np.linspace(0, len(rows) - 1, min(points, len(rows))).astype(int)
    lines = rows[at].T
    low, high = lines.min(1, keepdims=True), lines.max(1, keepdims=True)
    y = 110 - 100 * (lines - low) / np.maximum(high - low, 1e-12)
    x = np.linspace(4, 236, len(at))
    drawn = "".join(
        f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, line, strict=True))}" stroke="{colour}"/>'
        for line, colour in zip(y, COLOURS, strict=False)
    )
    box = 'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 120" width="240" height="120"'
    style = 'fill="none" stroke-width="1.5" stroke-linejoin="round"'
    return Media("image/svg+xml", f"<svg {box}><g {style}>{drawn}</g></svg>".encode())


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path.name}: {error.strerror}; it was there when the bank was made") from error
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for somebody to write into it
        raise DataError(f"{path.name}: is no file any more; put it back, or embed the items anew")
    return found.st_mtime_ns, found.st_size
