"""Two small silos with known truth, for runs on data = "silos": pictures of squares, and sentences about squares."""

import csv
import os
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from isogram.config_file import read_config
from isogram.data import evaluation, open_data
from isogram.errors import IsogramError

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 40),
    "blue": (40, 60, 220),
    "yellow": (230, 210, 40),
    "black": (10, 10, 10),
    "pink": (240, 150, 180),
}
SIZES = {"tiny": 20, "small": 36, "large": 56, "huge": 78}

CONFIG = """
data = "silos"

[silos]
anchors = "anchors"

[silos.modalities.photo]
kind = "image"

[[silos.nodes]]
name = "shop"
modality = "photo"
data = "photos"
label = "folder"

[[silos.nodes]]
name = "desk"
modality = "text"
data = "texts.csv"
id = "id"
label = "colour"
group = "author"
"""


def draw(path, colour, size, seed):
    """A square with a little noise, so that no two pictures are the same."""
    rng = np.random.default_rng(seed)
    pixels = np.full((80, 80, 3), 255.0)
    inside = slice(40 - SIZES[size] // 2, 40 + SIZES[size] // 2)
    pixels[inside, inside] = COLOURS[colour]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels + rng.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8)).save(path)


def sentence(colour, size, seed):
    start = ["a", "one", "there is a", "we saw a", "look, a"][seed % 5]
    return f"{start} {size} {colour} square, note {seed}"


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def things(n, seed):
    """Squares, every colour as often as it can be."""
    sizes = np.random.default_rng(seed).choice(list(SIZES), n)
    return [(list(COLOURS)[i % len(COLOURS)], str(size)) for i, size in enumerate(sizes)]


def write_silos(folder, *, rows=40):
    """Folders, tables, 24 anchors and a configuration; gives back the configuration's path."""
    public = [(colour, size) for size in SIZES for colour in COLOURS]
    for number, thing in enumerate(public):
        draw(folder / "anchors" / "photo" / f"{number}.png", *thing, 1000 + number)
    items = [[" ".join(one), f"photo/{i}.png", sentence(*one, 1000 + i)] for i, one in enumerate(public)]
    table(folder / "anchors" / "anchors.csv", [["concept", "photo", "text"], *items])
    for number, thing in enumerate(things(rows, 1)):
        draw(folder / "photos" / thing[0] / f"{number:02d}.png", *thing, number)
    texts = [
        [f"t{i}", sentence(*one, i), one[0] if i % 5 else "", f"writer {i % 16}"]
        for i, one in enumerate(things(rows, 2))
    ]
    table(folder / "texts.csv", [["id", "text", "colour", "author"], *texts])
    path = folder / "own.toml"
    path.write_text(CONFIG)
    return path


def load(path, *settings):
    return open_data(read_config(path, settings))


def problems(path, *settings):
    """What is said of silos that cannot be loaded, with paths from their folder."""
    with pytest.raises(IsogramError) as caught:
        load(path, *settings)
    return [line.replace(str(path.parent), "") for line in caught.value.problems]


def edit(path, name, change):
    """Replace the rows of a table beside the configuration by what the function makes of them."""
    file = path.parent / name
    with file.open(newline="") as opened:
        rows = list(csv.reader(opened))
    table(file, change(rows))


def config(path, old, new):
    """Replace a text of the configuration, which is there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def held(data, modality):
    with evaluation():
        return data.held_out.tokens(modality)


@contextmanager
def as_nobody():
    """Root may read everything, so it stops to be that."""
    before = os.geteuid()
    if before:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)
