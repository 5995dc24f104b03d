"""Two silos to try one's hand on: a folder of 1,000 pictures, a table of 1,000 texts, an anchor set, and settings.

Pictures are emoji that Noto draws, texts their English names and keywords (`pictures.emoji`). Files and lines
are numbered: nothing says which text belongs to which picture. Many things are in both, as they would be.
"""

import csv
import io
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from isogram.data.pictures.emoji import Emoji, read_emoji
from isogram.errors import ConfigError, DataError
from isogram.files import make_folder, write_atomic

ANCHORS, ROWS = 125, 1000
"""Concepts of the anchor set, of which a fifth is held out, and rows of each silo."""

SIDE = 160
"""Pixels of a picture's side."""

CONFIG = "example.toml"

_SETTINGS = """# Two silos with nothing in common but the anchors.
data = "silos"

[silos]
anchors = "anchors"          # anchors.csv: concept, picture, text
held_out = 0.2               # of the anchors, to measure on: are partners found?

[silos.modalities.picture]
kind = "image"
encoder = "lite0"            # EfficientNet-Lite0; "builtin" needs no download and finds much less

[silos.modalities.text]
encoder = "minilm"           # MiniLM, for English; any model of the Hugging Face hub: "hf:ORGANISATION/NAME"

[[silos.nodes]]
name = "gallery"
modality = "picture"
data = "photos"

[[silos.nodes]]
name = "library"
modality = "text"
data = "texts.csv"
id = "id"
"""


def write_example(folder: Path, told: Callable[[str, int, int], None] = lambda part, done, total: None) -> Path:
    """Write it all; a minute, of which the first download is most.

    Args:
        folder: new or empty.
        told: is called as pictures are drawn, with what, how many are done, and how many there are.

    Returns:
        The settings' path.

    Raises:
        ConfigError: the folder holds something; or a library of the extra `pictures` is missing.
        DataError, StorageError: the drawings cannot be had, or files cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not empty; name a new folder")
    found = read_emoji()
    if len(found) < ANCHORS + ROWS:
        raise DataError(f"{len(found)} emoji have a drawing and a name, {ANCHORS + ROWS} are needed; fetch them anew")
    # Whole or not at all: what an interruption left is not taken for an example.
    folder = folder.resolve()
    make_folder(folder.parent)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(part, found, told)
        part.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder / CONFIG


def _write(part: Path, found: Sequence[Emoji], told: Callable[[str, int, int], None]) -> None:
    order = np.random.default_rng(0).permutation(len(found))
    anchors, rest = [found[i] for i in order[:ANCHORS]], order[ANCHORS:]
    draw = np.random.default_rng(1)
    seen, read = ([found[i] for i in draw.permutation(rest)[:ROWS]] for _ in range(2))
    make_folder(part / "photos")
    make_folder(part / "anchors" / "picture")
    names = [f"picture/{number:03d}.png" for number in range(ANCHORS)]
    places = [part / "photos" / f"{number:04d}.png" for number in range(ROWS)]
    places += [part / "anchors" / name for name in names]
    for done, (emoji, place) in enumerate(zip([*seen, *anchors], places, strict=True)):
        if done % 50 == 0:
            told("pictures drawn", done, len(places))
        write_atomic(place, _png(emoji))
    told("pictures drawn", len(places), len(places))
    rows = [[str(number), _text(emoji)] for number, emoji in enumerate(read)]
    write_atomic(part / "texts.csv", _csv(["id", "text"], rows))
    columns = ["concept", "picture", "text", "provenance", "licence"]
    public = [
        [emoji.name, name, _text(emoji), "Noto Emoji, Unicode CLDR", "Apache-2.0, Unicode-3.0"]
        for emoji, name in zip(anchors, names, strict=True)
    ]
    write_atomic(part / "anchors" / "anchors.csv", _csv(columns, public))
    write_atomic(part / CONFIG, _SETTINGS.encode())


def _png(emoji: Emoji) -> bytes:
    try:
        from isogram.data.pictures.render import draw_svg
    except ImportError as error:
        raise ConfigError(
            f"drawing pictures needs more: pip install -e '.[pictures]' in the clone ({error})"
        ) from error
    buffer = io.BytesIO()
    draw_svg(emoji.drawings[0]).resize((SIDE, SIDE)).save(buffer, "PNG")
    return buffer.getvalue()


def _text(emoji: Emoji) -> str:
    more = [word for word in emoji.keywords if word != emoji.name]
    return f"{emoji.name}: {', '.join(more)}" if more else emoji.name


def _csv(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([columns, *rows])
    return buffer.getvalue().encode()
