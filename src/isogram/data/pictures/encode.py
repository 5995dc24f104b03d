"""Stamps and emoji encoded once, in chunks that survive an interruption."""

import functools
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isogram.data.base import FloatArray
from isogram.data.pictures.concepts import complete, token_set
from isogram.data.pictures.emoji import Emoji, read_emoji
from isogram.data.pictures.encoders import PictureEncoder, SpeechEncoder, TextEncoder
from isogram.data.pictures.features import CATALOGUE, PARTS, SPEEDS, Arrays, Catalogue, encoded, folder, load
from isogram.data.pictures.render import draw_svg, on_white, open_image, redrawn
from isogram.data.pictures.sound import RATE, at_speed, decode, voiced
from isogram.data.pictures.stamps import LANGUAGES, Stamp, fetch_stamps, read_stamps
from isogram.errors import ConfigError
from isogram.files import make_folder, write_atomic

_CHUNK, _BATCH = 64, 8

Encode = Callable[[Sequence[Any]], Arrays]
Told = Callable[[str, int, int], None]
"""Part, items encoded, items in all."""


def encode_all(deb: Path | None = None, told: Told = lambda part, done, total: None) -> None:
    """Fetch and encode what is not there yet: on one core about a quarter of an hour. Interrupted, it can go on.

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
    write_atomic(folder() / CATALOGUE, json.dumps(asdict(catalogue), ensure_ascii=False, indent=0).encode())
    jobs = Workshop(stamps_at).jobs(catalogue, emoji)
    for part in PARTS:
        encode_part(folder(), part, *jobs[part], told)


def encode_part(at: Path, part: str, items: Sequence[Any], encode: Encode, told: Told) -> None:
    """Write `part`.npz below `at`: every 64 items are kept in a file of their own until all are there."""
    if (at / f"{part}.npz").is_file():
        return
    chunks = []
    for start in range(0, len(items), _CHUNK):
        told(part, start, len(items))
        chunks.append(at / f"{part}.{start:05d}.npz")
        if not chunks[-1].is_file():
            write_atomic(chunks[-1], _bytes(encode(items[start : start + _CHUNK])))
    loaded = [load(chunk) for chunk in chunks]
    write_atomic(at / f"{part}.npz", _bytes({key: np.concatenate([c[key] for c in loaded]) for key in loaded[0]}))
    for chunk in chunks:
        chunk.unlink()
    told(part, len(items), len(items))


def _bytes(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _check_libraries() -> None:
    # They are loaded where they are used; what is missing is better told before the downloads than after.
    try:
        import resvg_py  # noqa: F401
        import soundfile  # noqa: F401
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"encoding pictures and speech needs more: pip install -e '.[pictures]' in the clone ({error})"
        ) from error


class Workshop:
    """What makes arrays of stamps below `stamps_at` and of emoji. Encoders are read when the first item comes."""

    def __init__(self, stamps_at: Path) -> None:
        self._at = stamps_at
        self._picture = functools.cache(PictureEncoder)
        self._speech = functools.cache(SpeechEncoder)
        self._text = functools.cache(TextEncoder)

    def jobs(self, catalogue: Catalogue, emoji: Sequence[Emoji]) -> dict[str, tuple[Sequence[Any], Encode]]:
        """Part -> its items, and what encodes some of them."""
        stamps = catalogue.stamps
        concepts = [stamps[i] for i in catalogue.complete]
        of_concept = {token_set(one.name): one for one in reversed(emoji)}
        same = [of_concept.get(token_set(stamp.name)) for stamp in concepts]
        svgs = [svg for one in emoji for svg in one.drawings]
        jobs: dict[str, tuple[Sequence[Any], Encode]] = {
            "picture": ([stamps[i] for i in catalogue.holding("picture")], self._drawn),
            "text": ([stamp.name for stamp in stamps], self._written),
            "emoji-picture": (svgs, lambda some: self._pictures([draw_svg(svg) for svg in some])),
            "emoji-text": (catalogue.emoji, self._written),
            "variant-picture": (list(zip(concepts, same, strict=True)), self._drawn_again),
            "variant-text": ([paraphrased(c.name, e) for c, e in zip(concepts, same, strict=True)], self._written),
        }
        for language in LANGUAGES:
            held = [stamps[i] for i in catalogue.holding(f"speech-{language}")]
            jobs[f"speech-{language}"] = (held, functools.partial(self._spoken, language))
            jobs[f"variant-speech-{language}"] = (concepts, functools.partial(self._spoken_again, language))
        return jobs

    def _drawn(self, stamps: Sequence[Stamp]) -> Arrays:
        return self._pictures([self._image(stamp) for stamp in stamps])

    def _drawn_again(self, pairs: Sequence[tuple[Stamp, Emoji | None]]) -> Arrays:
        return self._pictures(
            [
                draw_svg(emoji.drawings[0])
                if emoji
                else redrawn(self._image(stamp), np.random.default_rng(list(stamp.path.encode())))
                for stamp, emoji in pairs
            ]
        )

    def _image(self, stamp: Stamp) -> Image.Image:
        path = self._at / f"{stamp.path}{stamp.picture}"
        return draw_svg(path.read_text(encoding="utf-8")) if path.suffix == ".svg" else open_image(path)

    def _pictures(self, images: Sequence[Image.Image]) -> Arrays:
        seen = np.stack([on_white(image) for image in images])
        tokens = np.concatenate([self._picture()(seen[i : i + _BATCH]) for i in range(0, len(seen), _BATCH)])
        digest = [int.from_bytes(hashlib.sha256(one.tobytes()).digest()[:8], "little") for one in seen]
        return {"tokens": _half(tokens), "pixels": np.array(digest, np.uint64)}

    def _written(self, names: Sequence[str]) -> Arrays:
        # One by one: with several threads the last bits depend on how many there are.
        return {"tokens": _half(np.concatenate([self._text()([name]) for name in names]))}

    def _spoken(self, language: str, stamps: Sequence[Stamp]) -> Arrays:
        return self._heard([self._voice(language, stamp) for stamp in stamps])

    def _spoken_again(self, language: str, stamps: Sequence[Stamp]) -> Arrays:
        """Arrays [n, 2, ...]: at each of `SPEEDS`."""
        voices = [self._voice(language, stamp) for stamp in stamps]
        at_each = [self._heard([at_speed(voice, speed) for voice in voices]) for speed in SPEEDS]
        return {key: np.stack([one[key] for one in at_each], 1) for key in at_each[0]}

    def _voice(self, language: str, stamp: Stamp) -> FloatArray:
        return voiced(decode(self._at / f"{stamp.path}_desc_{language}.ogg"))

    def _heard(self, voices: Sequence[FloatArray]) -> Arrays:
        tokens = _half(np.stack([self._speech()(voice) for voice in voices]))
        return {"tokens": tokens, "seconds": np.array([len(voice) / RATE for voice in voices], np.float32)}


def paraphrased(name: str, emoji: Emoji | None) -> str:
    """A name in other words: with the keywords that people look its emoji up by, where there is one."""
    plain = name.rstrip(" .!")
    if emoji is None:
        return f"This is a picture of {plain[0].lower()}{plain[1:]}"
    return f"{emoji.name}: {', '.join(word for word in emoji.keywords if word != emoji.name)}"


def _half(tokens: FloatArray) -> NDArray[np.float16]:
    return tokens.astype(np.float16)
