"""Anchor sets on disk: pictures, tones, names and a table of numbers that come of the same few hidden numbers."""

import csv
import wave
from pathlib import Path

import numpy as np
from PIL import Image

WORDS = ("small", "tall", "round", "dark", "bright", "old", "soft", "loud")


def write_anchor_set(folder, n=6, *, seed=0, columns=("photo", "call", "name", "lab")):
    """A folder with n concepts, `c00` on, in the modalities asked for; `lab` is a table of its own."""
    hidden = np.random.default_rng(seed).uniform(size=(n, 3))
    rows = []
    for i, z in enumerate(hidden):
        row = {"concept": f"c{i:02}"}
        if "photo" in columns:
            row["photo"] = write_picture(folder / "photos" / f"{i:02}.png", z)
        if "call" in columns:
            row["call"] = write_tone(folder / "calls" / f"{i:02}.wav", z)
        if "name" in columns:
            row["name"] = f"number {i}, " + " ".join(
                w for w, share in zip(WORDS, np.tile(z, 3), strict=False) if share > 0.5
            )
        rows.append(row | {"provenance": "made for tests", "quality": "", "licence": "CC0"})
    write_rows(folder / "anchors.csv", rows)
    if "lab" in columns:
        lab = [
            {"concept": f"c{i:02}", **{f"x{j}": repr(float(v)) for j, v in enumerate(z)}} for i, z in enumerate(hidden)
        ]
        write_rows(folder / "lab.csv", lab)
    return folder


def write_picture(path, z):
    """A disc whose place, size and colours are z [3]; returns its path in the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:48, :48] / 48
    disc = (x - z[0]) ** 2 + (y - z[1]) ** 2 < (0.1 + 0.3 * z[2]) ** 2
    colours = 255 * np.array([[z[0], z[1], z[2]], [1 - z[2], z[0], 1 - z[1]]])
    Image.fromarray(colours[disc.astype(int)].astype(np.uint8)).save(path)
    return f"{path.parent.name}/{path.name}"


def write_tone(path, z, rate=16000):
    """Half a second of two tones, 300 to 3,000 Hz, that fade as z [3] says; returns its path in the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(rate // 2) / rate
    tone = np.sin(2 * np.pi * (300 + 1200 * z[0]) * t) + np.sin(2 * np.pi * (1500 + 1500 * z[1]) * t)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((8000 * tone * np.exp(-6 * z[2] * t)).astype("<i2").tobytes())
    return f"{path.parent.name}/{path.name}"


def write_rows(path, rows, end="\n"):
    """A CSV of records, all with the same keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator=end)
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path):
    """Its records."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def edit(folder, change, name="anchors.csv"):
    """Replace the records of a table of the folder by what the function makes of them."""
    write_rows(folder / name, change(read_rows(folder / name)))


def put(row, **cells):
    """For `edit`: these cells in a row, by its number; columns that are new are empty elsewhere."""

    def change(rows):
        named = {name.replace("__", ":"): text for name, text in cells.items()}
        rows = [record | {name: "" for name in named if name not in record} for record in rows]
        rows[row] |= named
        return rows

    return change
