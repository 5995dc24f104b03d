"""A small real site: pictures, sounds and words of things, aligned through public ones, and banks of others."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageDraw

from isogram.checkpoint import final_model
from isogram.config import Config, ModalityConfig
from isogram.data.base import AnchorItems, AnchorSet, FederatedData, HeldOut, NodeData
from isogram.data.modalities.base import Item
from isogram.data.modalities.encode import encode
from isogram.federation import align
from isogram.inference import Bank, Model
from isogram.serve.site import Site

COLOURS = {"red": "#d22", "green": "#2a2", "blue": "#22d", "yellow": "#dd2", "black": "#111", "pink": "#f8b"}
SHAPES = ("square", "disc", "ring", "cross")
PLACES = ("left", "middle", "right")
THINGS = [(colour, shape, place) for colour in COLOURS for shape in SHAPES for place in PLACES]
NAMES = [" ".join(thing) for thing in THINGS]
KINDS = {"photo": "image", "sound": "audio", "note": "text"}
ENCODERS = {modality: ModalityConfig(kind=kind) for modality, kind in KINDS.items()}
RATE = 16000

HERE = "http://127.0.0.1:8470"
"""Where a page that is not served thinks it is."""


def draw(thing, path):
    colour, shape, place = thing
    image = Image.new("RGBA", (300, 100), "white")
    x = 10 + 100 * PLACES.index(place)
    pen, box = ImageDraw.Draw(image), (x, 10, x + 80, 90)
    if shape == "square":
        pen.rectangle(box, COLOURS[colour])
    elif shape == "cross":
        pen.line((x, 10, x + 80, 90), COLOURS[colour], 22)
        pen.line((x, 90, x + 80, 10), COLOURS[colour], 22)
    else:
        pen.ellipse(box, COLOURS[colour] if shape == "disc" else None, COLOURS[colour], 16)
    image.save(path)


def play(thing, path):
    """The colour is the pitch, the shape the overtone, the place when it sounds."""
    colour, shape, place = thing
    pitch = 300 * 1.4 ** [*COLOURS].index(colour)
    time = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * pitch * time) + 0.6 * np.sin(2 * np.pi * pitch * (2 + SHAPES.index(shape)) * time)
    loud = np.exp(-(((time - 0.1 - 0.2 * PLACES.index(place)) / 0.12) ** 2)) + 0.05
    soundfile.write(path, 0.4 * tone * loud, RATE, format="OGG")


def items(folder: Path, things):
    """Modality -> an item of each thing; files below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {modality: [] for modality in ENCODERS}
    for thing in things:
        name = "-".join(thing)
        draw(thing, folder / f"{name}.png")
        play(thing, folder / f"{name}.ogg")
        found["photo"].append(Item(f"{name}.png", path=folder / f"{name}.png"))
        found["sound"].append(Item(f"{name}.ogg", path=folder / f"{name}.ogg"))
        found["note"].append(Item(f"notes, line {len(found['note']) + 2}", text=f"a {thing[0]} {thing[1]}, {thing[2]}"))
    return found


def federation(folder: Path) -> FederatedData:
    """Three silos: 48 anchors, 12 things of its own each; all else is left for banks."""
    order = [THINGS[i] for i in np.random.default_rng(0).permutation(len(THINGS))]
    public, private = order[:48], [order[48 + i : 54 : 3] for i in range(3)]
    tokens = {m: encode(some, ENCODERS[m], cache=folder / "tokens").tokens for m, some in items(folder, public).items()}
    anchors = AnchorSet(
        tuple(" ".join(thing) for thing in public),
        {m: AnchorItems(np.arange(48), rows, np.ones(48, np.float32)) for m, rows in tokens.items()},
    )
    nodes = tuple(
        NodeData(f"{m}s", m, encode(items(folder, own)[m], ENCODERS[m], cache=folder / "tokens").tokens)
        for m, own in zip(ENCODERS, private, strict=True)
    )
    empty = HeldOut({}, {}, paired=False, private={})
    return FederatedData("silos", nodes, anchors, empty, (), encoders=ENCODERS)


def on_disk(folder: Path, name="shop", **settings) -> Config:
    """The same as folders and tables of people's own: an anchor set, two folders and a CSV. Settings of a run on it."""
    order = [THINGS[i] for i in np.random.default_rng(0).permutation(len(THINGS))]
    public = items(folder / "anchors", order[:48])
    with (folder / "anchors" / "anchors.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["concept", *KINDS])
        for i, thing in enumerate(order[:48]):
            photo, sound, note = (public[m][i] for m in KINDS)
            writer.writerow([" ".join(thing), photo.path.name, sound.path.name, note.text])
    for modality, draw_one, suffix, own in (("photo", draw, "png", order[48:54]), ("sound", play, "ogg", order[54:60])):
        (folder / f"{modality}s").mkdir()
        for thing in own:
            draw_one(thing, folder / f"{modality}s" / f"{'-'.join(thing)}.{suffix}")
    with (folder / "notes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["note", "id", "mood"])
        writer.writerows(
            [f"a {c} {s}, {p}", f"note {i}", ("calm", "wild")[i % 2]] for i, (c, s, p) in enumerate(order[60:66])
        )
    nodes = [{"name": f"{m}s", "modality": m, "data": folder / f"{m}s"} for m in ("photo", "sound")]
    nodes.append({"name": "notes", "modality": "note", "data": folder / "notes.csv", "id": "id", "label": "mood"})
    nodes[-1] |= {"column": "note"}
    silos = {"anchors": folder / "anchors", "classes": ["calm", "wild"], "nodes": nodes}
    silos |= {"modalities": {m: {"kind": kind} for m, kind in KINDS.items()}}
    more = {"train": {"rounds": 0}, "output": {"folder": folder / "runs"}} | settings
    return Config.model_validate({"name": name, "data": "silos", "silos": silos} | more)


def rest():
    """Things that no silo has, 18."""
    order = [THINGS[i] for i in np.random.default_rng(0).permutation(len(THINGS))]
    return order[54:]


def make(folder: Path) -> Path:
    """A model file and three banks below `folder`, and their media."""
    folder.mkdir(parents=True, exist_ok=True)
    data = federation(folder / "media")
    config = Config(data="machines", anchors=48, name="show")
    final_model(align(data, config), data).save(folder / "model.safetensors")
    model = Model.load(folder / "model.safetensors")
    for modality, held in items(folder / "media", rest()).items():
        names = [" ".join(thing) for thing in rest()]
        bank = Bank.build(model, f"{modality}s", held, ids=names, cache=folder / "tokens")
        bank.save(folder / f"{modality}s.parquet")
    return folder


def bank_of(site, node) -> int:
    return next(i for i, bank in enumerate(site.banks) if bank.about["node"] == node)


def open_site(folder: Path, **more) -> Site:
    model = Model.load(folder / "model.safetensors")
    banks = [Bank.load(folder / f"{modality}s.parquet", model) for modality in ENCODERS]
    return dataclasses.replace(Site(model, banks, "Shapes", "Things that no silo has.", paired=True), **more)
