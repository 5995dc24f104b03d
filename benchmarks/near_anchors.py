"""Which variants of one item does `isogram anchors check` find, and which pairs does it name that are none?

    python benchmarks/near_anchors.py     # to results/near.jsonl; three minutes of a core

Pictures and texts are the example's (`isogram data example`), recordings the French names of the `pictures` data.
Twelve variants, all made in one way, stand beside 125 items drawn from 300: what share is found by the rule of
docs/anchor-sets.md, and what by distance alone, below a tenth of the mean? And of 125 items, or of all 300, without
variants: how many pairs are named?
"""

import csv
import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from isogram.alignment import Standardizer
from isogram.alignment.evidence import near, twins
from isogram.bench import Row, replace_rows
from isogram.config import ModalityConfig
from isogram.data.example import write_example
from isogram.data.modalities.base import Item
from isogram.data.modalities.encode import encode
from isogram.data.pictures.sound import resampled
from isogram.data.pictures.stamps import fetch_stamps, read_stamps
from isogram.doctor.anchor_check import CLOSER

PATH = Path("results/near.jsonl")
ITEMS, SET, VARIANTS, SEEDS, RATE = 300, 125, 12, 5, 22050

Picture = Image.Image
Sound = NDArray[np.float32]
RULES: Mapping[str, Callable[[torch.Tensor], list[tuple[int, int]]]] = {
    "third": lambda rows: near(rows, CLOSER),
    "distance": lambda rows: twins(rows, closer=0.1),
}
PICTURES: Mapping[str, Callable[[Picture], Picture]] = {
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "JPEG at quality 75": lambda image: _jpeg(image, 75),
    "turned by 3 degrees": lambda image: image.rotate(3, Image.Resampling.BICUBIC, fillcolor="white"),
    "mirrored": ImageOps.mirror,
    "cropped by 4% on each side": lambda image: ImageOps.crop(image, image.width // 25),
    "darker by a tenth": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
}
SOUNDS: Mapping[str, Callable[[Sound], tuple[Sound, int]]] = {
    "at 16 kHz": lambda wave: (resampled(wave, RATE, 16000), 16000),
    "at 40% of the volume": lambda wave: (wave * np.float32(0.4), RATE),
    "a tenth of a second of silence around": lambda wave: (np.pad(wave, RATE // 10), RATE),
    "5% faster": lambda wave: (resampled(wave, 105, 100), RATE),
    "with noise": lambda wave: (wave + np.random.default_rng(0).normal(0, 0.005, len(wave)).astype(np.float32), RATE),
}
TEXTS: Mapping[str, Callable[[str], str]] = {
    "a full stop behind": lambda text: text + ".",
    "“the” before": lambda text: "the " + text,
    "an s behind": lambda text: text + "s",
    "the fourth letter left out": lambda text: text[:3] + text[4:],
}


def _jpeg(image: Picture, quality: int) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def pictures(folder: Path) -> dict[str, list[Item]]:
    """Files of what is made of each picture; "" as it is."""
    found: dict[str, list[Item]] = {}
    for path in sorted((folder / "photos").glob("*.png"))[:ITEMS]:
        with Image.open(path) as image:
            white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
        for name, change in {"": lambda same: same, **PICTURES}.items():
            target = folder / f"{path.stem} {name}.png"
            change(white).save(target)
            found.setdefault(name, []).append(Item(target.name, path=target))
    return found


def sounds(folder: Path) -> dict[str, list[Item]]:
    """The same of recordings, each name once."""
    stamps, found = fetch_stamps(), dict[str, list[Item]]()
    spoken = list({stamp.name: stamp for stamp in read_stamps(stamps) if "fr" in stamp.spoken}.values())
    for number, stamp in enumerate(spoken[:ITEMS]):
        wave, rate = soundfile.read(stamps / f"{stamp.path}_desc_fr.ogg", dtype="float32", always_2d=True)
        wave = resampled(wave.mean(1), rate, RATE)
        for name, change in {"": lambda same: (same, RATE), **SOUNDS}.items():
            target = folder / f"{number} {name}.wav"
            soundfile.write(target, *change(wave))
            found.setdefault(name, []).append(Item(target.name, path=target))
    return found


def texts(folder: Path) -> dict[str, list[Item]]:
    """The same of texts."""
    with (folder / "texts.csv").open(encoding="utf-8") as file:
        written = [row["text"] for row in csv.DictReader(file)][:ITEMS]
    return {name: [Item(text, text=change(text)) for text in written] for name, change in {"": str, **TEXTS}.items()}


def rows(data: str, features: Mapping[str, torch.Tensor]) -> list[Row]:
    """Shares of variants found, and pairs named where there are none."""
    plain, made = features[""], []
    for rule, pairs in RULES.items():

        def named(some: torch.Tensor, pairs: Callable[..., list[tuple[int, int]]] = pairs) -> set[tuple[int, int]]:
            return set(pairs(Standardizer.fit(some, torch.inf)(some)))

        made.append(Row(data, rule, len(plain), 0, "named", "", len(named(plain))))
        for seed in range(SEEDS):
            drawn = np.random.default_rng(seed).permutation(len(plain))[:SET]
            made.append(Row(data, rule, SET, seed, "named", "", len(named(plain[drawn]))))
            for variant in set(features) - {""}:
                both = named(torch.cat([plain[drawn], features[variant][drawn[:VARIANTS]]]))
                share = sum((i, SET + i) in both for i in range(VARIANTS)) / VARIANTS
                made.append(Row(data, rule, SET, seed, "found", variant, round(share, 6)))
    return made


def main() -> None:
    """All encoders, one after the other."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="isogram-") as temporary:
        folder = Path(temporary) / "example"
        write_example(folder)
        made: Sequence[tuple[str, tuple[str, ...], dict[str, list[Item]]]] = (
            ("image", ("builtin", "lite0"), pictures(folder)),
            ("audio", ("builtin",), sounds(folder)),
            ("text", ("minilm",), texts(folder)),
        )
        for kind, encoders, variants in made:
            for encoder in encoders:
                config = ModalityConfig(kind=kind, encoder=encoder)
                features = {
                    name: torch.from_numpy(encode(items, config, cache=folder / "cache").tokens).double().flatten(1)
                    for name, items in variants.items()
                }
                found = rows(f"near:{kind} {encoder}", features)
                replace_rows(PATH, found)
                print(kind, encoder, len(features[""]), "items", flush=True)


if __name__ == "__main__":
    main()
