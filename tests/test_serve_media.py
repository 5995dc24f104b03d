"""What the server of the page sends of items, and that no other file leaves."""

import io
import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient
from PIL import Image
from showroom import HERE, bank_of

from isogram.config import ModalityConfig
from isogram.data.modalities.base import Item
from isogram.data.modalities.image import IMAGE
from isogram.serve.app import create_app
from isogram.serve.media import curve


def test_pictures_are_sent_drawn_anew(client, site):
    bank = bank_of(site, "photos")
    answer = client.get(f"/media/{bank}/0")
    assert answer.headers["content-type"] in ("image/png", "image/jpeg")
    sent, there = Image.open(io.BytesIO(answer.content)), Image.open(site.banks[bank][0].path)
    assert sent.size == there.size and sent.info.get("Comment") is None
    difference = np.abs(np.asarray(sent.convert("RGB"), int) - np.asarray(there.convert("RGB"), int)).mean()
    assert difference < 3


def test_a_large_picture_becomes_small_and_says_nothing_of_its_place(site, tmp_path):
    path = tmp_path / "large.jpg"
    exif = Image.Exif()
    exif[0x010E] = "Ward 7"
    exif[0x0112] = 6  # to be turned by a quarter
    Image.effect_noise((2000, 1000), 90).convert("RGB").save(path, exif=exif)
    answer = serve_file(site, "photos", path).get("/media/0/0")
    image = Image.open(io.BytesIO(answer.content))
    assert image.size == (240, 480) and not dict(image.getexif()) and b"Ward" not in answer.content


def serve_file(site, node, path):
    """A client of a site whose first bank says that its items are at `path`."""
    bank = site.banks[bank_of(site, node)]
    column = bank.texts.schema.get_field_index("path")
    texts = bank.texts.set_column(column, "path", [[str(path)] * len(bank)])
    return TestClient(create_app(replace(site, banks=[replace(bank, texts=texts)])), base_url=HERE)


def test_a_picture_of_16_bits_is_seen_as_encoders_see_it(site, tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 200).astype(np.uint16), (200, 1))
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    answer = serve_file(site, "photos", tmp_path / "deep.png").get("/media/0/0")
    sent = np.asarray(Image.open(io.BytesIO(answer.content)).convert("L"), int)
    seen = IMAGE.read(Item("deep", path=tmp_path / "deep.png"), ModalityConfig()).image
    np.testing.assert_allclose(sent, np.asarray(seen.convert("L"), int), atol=6)
    assert sent[0, 0] < 20 and sent[0, -1] > 235


def test_a_picture_that_encoders_refuse_is_refused_here(site, tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (10_000, 9_000)).save(path)
    answer = serve_file(site, "photos", path).get("/media/0/0")
    assert answer.status_code == 422 and "million pixels" in answer.text and str(tmp_path) not in answer.text


@pytest.mark.parametrize("node", ["photos", "sounds"])
def test_what_is_no_file_is_not_waited_for(site, tmp_path, node):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ""):
        answer = serve_file(site, node, tmp_path / name).get("/media/0/0")
        assert answer.status_code == 422 and "is no file any more" in answer.json()["error"]


def test_a_sound_is_one_by_more_than_its_first_bytes(site, tmp_path):
    for sign in (b"OggS", b"fLaC", b"ID3", b"RIFF\0\0\0\0WAVE"):
        (tmp_path / "x").write_bytes(sign + b"<script>alert(1)</script>" * 9)
        answer = serve_file(site, "sounds", tmp_path / "x").get("/media/0/0")
        assert answer.status_code == 422 and "x: is no sound" in answer.json()["error"] and "alert" not in answer.text


def test_no_path_of_this_machine_is_told(site, tmp_path):
    bank = site.banks[bank_of(site, "photos")]
    where = bank.texts.schema.get_field_index("where")
    texts = bank.texts.set_column(where, "where", [[f"{tmp_path}/a.png"] * len(bank)])
    client = TestClient(create_app(replace(site, banks=[replace(bank, texts=texts)])), base_url=HERE)
    for address in ("/api/site", "/api/banks/0/items", "/api/banks/0/items/1", "/api/banks/0/items/1/near"):
        assert str(tmp_path) not in client.get(address).text
    assert client.get("/api/banks/0/items", params={"find": str(tmp_path)}).json()["of"] == 0


def test_sounds_are_sent_as_they_are_and_in_parts(client, site):
    bank = bank_of(site, "sounds")
    there = Path(site.banks[bank][1].path).read_bytes()
    answer = client.get(f"/media/{bank}/1")
    assert answer.headers["content-type"] == "audio/ogg" and answer.content == there
    part = client.get(f"/media/{bank}/1", headers={"range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == there[10:20]


@pytest.mark.parametrize(("suffix", "kind"), [("wav", "audio/wav"), ("flac", "audio/flac"), ("aiff", "audio/wav")])
def test_sounds_of_other_formats_are_told_by_their_content(site, tmp_path, suffix, kind):
    path, wave = tmp_path / f"x.{suffix}", np.sin(np.arange(4000) / 10).astype(np.float32) / 2
    soundfile.write(path, wave, 8000)
    path = path.rename(tmp_path / "x.txt")
    answer = serve_file(site, "sounds", path).get("/media/0/0")
    assert answer.headers["content-type"] == kind
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    assert rate == 8000
    np.testing.assert_allclose(samples, wave, atol=1e-3)


def test_a_series_is_sent_as_curves():
    time = np.linspace(0, 1, 1000)
    sent = curve(np.stack([np.full(1000, 7.0), time, -time, time**2, time**3], 1))
    root = ElementTree.fromstring(sent.data)
    lines = [line.get("points") for line in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert sent.type == "image/svg+xml" and len(lines) == 4  # more would hide each other
    points = np.array([[pair.split(",") for pair in line.split()] for line in lines], float)
    assert points.shape == (4, 240, 2) and points[:, :, 0].min() >= 0 and points[:, :, 0].max() <= 240
    assert (
        np.ptp(points[0, :, 1]) == 0 and (np.diff(points[1, :, 1]) <= 0).all() and (np.diff(points[2, :, 1]) >= 0).all()
    )
    one = ElementTree.fromstring(curve(np.ones(1)).data)
    assert len(list(one.iter("{http://www.w3.org/2000/svg}polyline"))) == 1


@pytest.mark.parametrize("node", ["photos", "sounds"])
def test_no_other_file_is_sent(site, tmp_path, node):
    path = tmp_path / "x.png"
    path.write_text("<script>alert(1)</script> secret")
    answer = serve_file(site, node, path).get("/media/0/0")
    assert answer.status_code == 422 and "secret" not in answer.text and str(tmp_path) not in answer.text
    answer = serve_file(site, node, tmp_path / "gone.png").get("/media/0/0")
    assert answer.status_code == 422 and "gone.png" in answer.json()["error"]


@pytest.mark.parametrize(
    "address",
    [
        "/media/0/..%2f..%2fmodel.safetensors",
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page/",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_path_leads_to_a_file(client, address):
    answer = client.get(address)
    assert answer.status_code in (404, 422) and b"def " not in answer.content
