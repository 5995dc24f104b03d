"""What reading and keeping cost beside an encoder: its own throughput, `encode` from files, and a second run.

    python benchmarks/encoding.py [--threads 1] [--pictures 300] [--texts 1000]

Emoji drawn to PNG files (448 pixels wide) through lite0 in six parts, and sentences through minilm three times. Of each
part the encoder alone, from memory and in batches as large as pay, `encode` into an empty cache, and `encode` again are
timed next to each other; what is reported are medians of ratios within a part. Rows of the data set "encoding" go to
results/encoding.jsonl and replace older ones. Two minutes on one core. With several threads run it on an idle
machine: the encoder alone, whose threads wait for each other, suffers most from whatever else runs.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
import typer

from isogram.bench import Row, replace_rows
from isogram.config import ModalityConfig
from isogram.data.modalities.base import Item
from isogram.data.modalities.encode import encode
from isogram.data.pictures.emoji import read_emoji
from isogram.data.pictures.encoders import PictureEncoder, TextEncoder
from isogram.data.pictures.render import draw_svg, on_white, open_image

PATH = Path("results/encoding.jsonl")
PARTS, REPETITIONS, BATCH = 6, 3, 8

Own = Callable[[Sequence[Item]], Callable[[], object]]
"""Items -> the encoder alone on them, ready to be called: whatever it takes is in memory."""


def drawn(folder: Path, count: int) -> list[Item]:
    """Emoji as PNG files, what a silo has: larger than the encoder's input, transparent around."""
    items = []
    for number, emoji in enumerate(read_emoji()[:count]):
        path = folder / f"{number}.png"
        draw_svg(emoji.drawings[0]).save(path)
        items.append(Item(path.name, path=path))
    return items


def cut(items: Sequence[Item]) -> list[Sequence[Item]]:
    """In parts alike."""
    return [items[start::PARTS] for start in range(PARTS)]


def written(count: int) -> list[Item]:
    """Sentences of 3 to 40 words."""
    names = [emoji.name for emoji in read_emoji()]
    rng = np.random.default_rng(0)
    texts = {" and ".join(rng.choice(names, rng.integers(1, 9))) for _ in range(2 * count)}
    return [Item(f"line {row}", text=text) for row, text in enumerate(sorted(texts)[:count])]


def picture_encoder() -> Own:
    """Eight pictures at a time, as `PictureEncoder` is used for the built-in pictures."""
    encoder = PictureEncoder()

    def own(items: Sequence[Item]) -> Callable[[], object]:
        seen = np.stack([on_white(open_image(item.path)) for item in items if item.path is not None])
        return lambda: [encoder(seen[start : start + BATCH]) for start in range(0, len(seen), BATCH)]

    return own


def text_encoder() -> Own:
    """32 texts of like length at a time, filled up to the longest: the usual way; last bits depend on the batch."""
    encoder = TextEncoder()

    @torch.inference_mode()
    def padded(pieces: Sequence[Sequence[int]]) -> None:
        longest = max(map(len, pieces))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in pieces])
        mask = (ids != 0).long()
        layers = encoder._model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        weight = (mask / mask.sum(1, keepdim=True))[..., None]
        torch.stack([(layers[number] * weight).sum(1) for number in encoder._LAYERS], 1)

    def own(items: Sequence[Item]) -> Callable[[], object]:
        def run() -> None:
            found = encoder._tokenizer.encode_batch([item.text or "" for item in items])
            pieces = sorted((one.ids for one in found), key=len)
            for start in range(0, len(pieces), 32):
                padded(pieces[start : start + 32])

        return run

    return own


def seconds(step: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(parts: Sequence[Sequence[Item]], config: ModalityConfig, own: Own, folder: Path, threads: int) -> list[Row]:
    """Medians over the parts; some items are encoded once before, for what is only set up once."""
    encode(parts[0][:BATCH], config, cache=folder / "before")
    own(parts[0][:BATCH])()
    alone, first, second = [], [], []
    for number, part in enumerate(parts):
        cache, ready = folder / str(number), own(part)
        steps = [
            lambda ready=ready: alone.append(seconds(ready)),
            lambda part=part, cache=cache: first.append(seconds(lambda: encode(part, config, cache=cache))),
        ]
        for step in steps if number % 2 else steps[::-1]:
            step()
        second.append(seconds(lambda part=part, cache=cache: encode(part, config, cache=cache)))
    found = {
        "own_per_second": median(len(part) / s for part, s in zip(parts, alone, strict=True)),
        "share_of_own": median(a / b for a, b in zip(alone, first, strict=True)),
        "cache_speedup": median(a / b for a, b in zip(first, second, strict=True)),
        "cached_per_second": median(len(part) / s for part, s in zip(parts, second, strict=True)),
    }
    direction = f"{threads}-thread{'' if threads == 1 else 's'}"
    return [Row("encoding", config.encoder, 0, 0, name, direction, round(value, 4)) for name, value in found.items()]


def main(threads: int = 1, pictures: int = 300, texts: int = 1000) -> None:
    """Measure, print, and put the rows in the place of older ones."""
    torch.set_num_threads(threads)
    jobs = (
        ("image", "lite0", picture_encoder, lambda folder: cut(drawn(folder, pictures))),
        ("text", "minilm", text_encoder, lambda folder: [written(texts)] * REPETITIONS),
    )
    for kind, name, make, parts in jobs:
        with tempfile.TemporaryDirectory() as temporary:
            config = ModalityConfig(kind=kind, encoder=name)
            rows = measure(parts(Path(temporary)), config, make(), Path(temporary), threads)
        replace_rows(PATH, rows)
        for row in rows:
            print(f"{row.method:8} {row.metric:18} {row.direction:10} {row.value:.3f}", flush=True)


if __name__ == "__main__":
    typer.run(main)
