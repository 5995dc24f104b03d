"""Pictures, sound and text in real small files: what is read and told, what the tokenizers make, what is bad."""

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from items import at, cell, read, tokens, told
from PIL import Image

from isogram.data.modalities.base import BadItem
from isogram.errors import ConfigError

RNG = np.random.default_rng(0)


# Pictures.


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".bmp", ".tif"])
def test_a_picture_of_every_format_is_the_same_picture(suffix, tmp_path):
    image = Image.new("RGB", (60, 30), (200, 30, 30))
    image.paste((30, 30, 200), (0, 0, 30, 30))
    image.save(tmp_path / f"a{suffix}")
    found = tokens("image", at(tmp_path / f"a{suffix}"))
    assert found.shape == (1, 16, 588) and found.dtype == np.float32
    left, right = found[0].reshape(4, 4, 3, 14, 14)[1, [0, 3]][:, :, 5, 5]  # first row of patches that is not border
    np.testing.assert_allclose([left, right], np.array([[30, 30, 200], [200, 30, 30]]) / 255, atol=0.06)
    assert told("image", at(tmp_path / f"a{suffix}")) == "60 x 30 pixels"


def test_a_picture_stands_upright_and_on_white(tmp_path):
    image = Image.new("RGB", (60, 20), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: to be seen turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read("image", at(tmp_path / "turned.jpg")).image.size == (20, 60)
    assert told("image", at(tmp_path / "turned.jpg")) == "20 x 60 pixels"
    clear = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (10, 10, 50, 30))
    clear.putpixel((20, 20), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    seen = read("image", at(tmp_path / "clear.png")).on_white()
    assert seen.size == (40, 20) and seen.getpixel((0, 0)) == (255, 0, 0) and seen.getpixel((10, 10)) == (255, 255, 255)
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "empty.png")
    with pytest.raises(BadItem, match=r"^data/empty.png: is transparent all over; "):
        read("image", at(tmp_path / "empty.png"))


def test_sixteen_bits_and_grey_and_large_pictures_are_read(tmp_path):
    ramp = np.linspace(0, 65535, 50 * 40).reshape(50, 40).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    deep = np.asarray(read("image", at(tmp_path / "deep.png")).image)
    np.testing.assert_allclose(deep[..., 0], ramp / 257, atol=1.5)
    Image.new("L", (3000, 1500), 90).save(tmp_path / "large.jpg")
    large = read("image", at(tmp_path / "large.jpg"))
    assert large.image.size == (1024, 512) and told("image", at(tmp_path / "large.jpg")) == "3,000 x 1,500 pixels"
    Image.fromarray(RNG.normal(size=(9, 9)).astype(np.float32)).save(tmp_path / "floats.tif")
    with pytest.raises(BadItem, match="pixels of 32 bits; save it with 8 or 16"):
        read("image", at(tmp_path / "floats.tif"))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, before it finds that pixels are missing, too
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif"])
def test_a_damaged_picture_is_named(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:20], b"", b"<html>not found</html>"):
        path.write_bytes(part)
        with pytest.raises(BadItem, match=rf"^data/a.{suffix}: .*; replace it or leave it out$"):
            read("image", at(path))


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path):
    Image.new("1", (10_000, 9_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 20_000
    with pytest.raises(BadItem, match=r"^data/bomb.png: .*89 million pixels: reduce it"):
        read("image", at(tmp_path / "bomb.png"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    for kind in ("image", "audio", "text", "series", "sequence"):
        with pytest.raises(BadItem, match=r"^data/none.x: there is no file .*none.x; correct the path"):
            read(kind, at(tmp_path / "none.x"))
    with pytest.raises(BadItem, match="is to be read from a file"):
        read("image", cell("a cat"))


# Sound.


def speech_like(seconds, rate):
    time = np.arange(int(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * (200 + 300 * time) * time)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_sound_of_any_rate_and_channels_is_the_same_sound(suffix, tmp_path):
    for rate, channels in ((16000, 1), (44100, 2)):
        wave = speech_like(1.2, rate)
        soundfile.write(tmp_path / f"{rate}.{suffix}", np.stack([wave] * channels, 1), rate)
    one, other = tokens("audio", *(at(tmp_path / f"{rate}.{suffix}") for rate in (16000, 44100)))
    assert one.shape == (16, 20) and np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99
    assert (
        told("audio", at(tmp_path / f"44100.{suffix}")) == "1.2 s, 2 channels averaged, 44,100 Hz, resampled to 16,000"
    )
    assert told("audio", at(tmp_path / f"44100.{suffix}"), rate=44100) == "1.2 s, 2 channels averaged, 44,100 Hz"


def test_a_slower_and_louder_recording_after_a_pause_has_nearly_the_same_tokens(tmp_path):
    wave = speech_like(1.0, 16000)
    slow = np.interp(np.arange(0, len(wave), 0.9), np.arange(len(wave)), wave)
    soundfile.write(tmp_path / "a.wav", wave, 16000)
    soundfile.write(tmp_path / "b.wav", np.concatenate([np.zeros(8000), 2 * slow, np.zeros(4000)]), 16000)
    soundfile.write(tmp_path / "c.wav", wave[::-1], 16000)
    same, again, other = tokens("audio", *(at(tmp_path / f"{name}.wav") for name in "abc")).reshape(3, -1)
    assert np.linalg.norm(same - again) < 0.5 * np.linalg.norm(same - other)


@pytest.mark.parametrize("samples", [1, 50, 500])
def test_a_click_has_tokens(samples, tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.5 * np.ones(samples), 16000)
    assert np.isfinite(tokens("audio", at(tmp_path / "a.wav"))).all()


def test_sound_at_the_rate_of_the_settings_is_tokenized(tmp_path):
    soundfile.write(tmp_path / "a.wav", speech_like(0.5, 8000), 8000)
    assert tokens("audio", at(tmp_path / "a.wav"), rate=4000).shape == (1, 16, 20)
    with pytest.raises(ConfigError, match=r"rate = 900: .* 1,000 samples a second at least; .* kind = \"series\""):
        tokens("audio", at(tmp_path / "a.wav"), rate=900)


def test_sound_that_says_nothing_is_named(tmp_path):
    wave = speech_like(0.5, 16000)
    cases = {
        "none": (np.zeros(0), "holds no sound"),
        "nan": (np.where(np.arange(len(wave)) == 9, np.nan, wave), "holds samples that are no finite numbers"),
        "still": (np.zeros(900), r"is silent \(all its samples are 0\)"),
        "against": (np.stack([wave, -wave], 1), r"is silent \(its channels cancel each other\)"),
    }
    for name, (sound, why) in cases.items():
        soundfile.write(tmp_path / f"{name}.wav", sound, 16000, subtype="FLOAT")
        with pytest.raises(BadItem, match=rf"^data/{name}.wav: {why}.*; replace it or leave it out"):
            read("audio", at(tmp_path / f"{name}.wav"))


def test_damaged_and_overlong_sound_is_named(tmp_path):
    for suffix in ("wav", "flac", "ogg"):
        path = tmp_path / f"a.{suffix}"
        soundfile.write(path, speech_like(1.0, 16000), 16000)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(BadItem, match=rf"^data/a.{suffix}: (is cut short after 0.\d s|cannot be read as sound)"):
            read("audio", at(path))
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    with pytest.raises(BadItem, match=r"^data/b.wav: cannot be read as sound .*; save it as WAV, FLAC or Ogg"):
        read("audio", at(tmp_path / "b.wav"))
    soundfile.write(tmp_path / "long.flac", np.zeros(601 * 1000), 1000)
    with pytest.raises(BadItem, match="lasts 601 s; cut it into pieces of at most 600 s"):
        read("audio", at(tmp_path / "long.flac"))


# Text.


def test_text_of_a_cell_and_of_a_file_is_the_same(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffLärm am Lager\r\n".encode())
    assert read("text", at(tmp_path / "a.txt")) == read("text", cell("  Lärm am Lager")) == "Lärm am Lager"
    assert told("text", cell("Lärm am Lager")) == "3 words" and told("text", cell("Lärm")) == "1 word"


def test_like_texts_have_like_tokens():
    found = tokens("text", *map(cell, ["bearing noise at pump 3", "noise of the bearing, pump 4", "patient has fever"]))
    assert found.shape == (3, 4, 256) and (np.linalg.norm(found, axis=2) < 1 + 1e-6).all()
    one, like, other = found.reshape(3, -1)
    assert one @ like > one @ other + 0.3


@given(st.text(min_size=1))
def test_any_text_has_tokens_or_is_called_empty(text):
    if text.strip().strip("\x00\ufeff").strip():
        found = tokens("text", cell(text))
        assert found.shape == (1, 4, 256) and found.any()
    else:
        with pytest.raises(BadItem, match="holds no text"):
            tokens("text", cell(text))


def test_text_in_another_encoding_is_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes("ok\nLärm".encode("latin-1"))
    with pytest.raises(BadItem, match=r"^data/latin.txt: is not UTF-8 \(line 2, byte 4\); save it as UTF-8"):
        read("text", at(tmp_path / "latin.txt"))
    (tmp_path / "wide.txt").write_bytes("Lärm".encode("utf-16"))
    with pytest.raises(BadItem, match="is UTF-16; save it as UTF-8"):
        read("text", at(tmp_path / "wide.txt"))
    (tmp_path / "none.txt").write_bytes(b"\xef\xbb\xbf \n")
    with pytest.raises(BadItem, match=r"^data/none.txt: holds no text; fill it in or leave it out"):
        read("text", at(tmp_path / "none.txt"))
