"""What somebody types or drops: read once and bounded, and nothing of it is kept."""

import io
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from showroom import HERE, bank_of

from isogram.data.modalities import kind_of
from isogram.data.modalities.base import Item
from isogram.data.modalities.image import IMAGE
from isogram.data.modalities.reader import read_item
from isogram.serve import app as app_module
from isogram.serve.app import create_app


def test_wrong_files_are_told_in_a_sentence(client):
    for node, word in (("photos", "picture"), ("sounds", "sound")):
        answer = client.post(f"/api/near?node={node}", content=b"no such thing at all")
        assert answer.status_code == 422 and word in answer.json()["error"] and "your file" in answer.json()["error"]
        assert "\n" not in answer.json()["error"] and "isogram-" not in answer.json()["error"]
    assert "empty" in client.post("/api/near?node=photos", content=b"").json()["error"]
    text = {"content-type": "text/plain"}
    assert "type something" in client.post("/api/near?node=notes", content=b"  ", headers=text).json()["error"]
    assert "takes a file" in client.post("/api/near?node=photos", content=b"red", headers=text).json()["error"]
    assert "takes text" in client.post("/api/near?node=notes", content=b"red").json()["error"]
    assert "no node" in client.post("/api/near?node=ward", content=b"red").json()["error"]


def test_a_large_upload_is_refused_before_it_is_read(site):
    client, sent = TestClient(create_app(site, limit=1000), base_url=HERE), []

    def blocks():
        for _ in range(100):
            sent.append(500)
            yield b"x" * 500

    answer = client.post("/api/near?node=photos", content=blocks())
    assert answer.status_code == 413 and "MB" in answer.json()["error"]
    answer = client.post("/api/near?node=photos", content=b"x" * 1001)
    assert answer.status_code == 413
    assert client.post("/api/near?node=photos", content=b"x" * 1000).status_code == 422  # read, and no picture


@pytest.mark.anyio
async def test_no_more_than_the_limit_is_read():
    read = []

    class Endless:
        def __init__(self, headers):
            self.headers = headers

        async def stream(self):
            while True:
                read.append(1)
                yield b"x" * 100

    for headers in ({}, {"content-length": "1001"}):
        with pytest.raises(app_module.TooLargeError):
            await app_module.read(Endless(headers), 1000)
        assert len(read) == 11  # of what is announced nothing


@pytest.fixture
def anyio_backend():
    return "asyncio"


opened, listening = [], []


def _heard(event, arguments):
    if listening and event == "open":
        opened.append(str(arguments[0]))


sys.addaudithook(_heard)  # stays as long as the process


def readings(ask):
    """How often a file called "upload" is opened to be read while something is asked, its first writing aside."""
    opened.clear()
    listening.append(True)
    try:
        ask()
    finally:
        listening.clear()
    return sum(Path(path).name == "upload" for path in opened)


@pytest.mark.parametrize("node", ["photos", "sounds"])
def test_a_file_is_read_once_as_its_kind_reads_it(client, site, tmp_path, node):
    bank = site.banks[bank_of(site, node)]
    config, there = site.model.encoder(node), tmp_path / "upload"
    there.write_bytes(Path(bank[0].path).read_bytes())
    item = Item("a file", path=there)
    once = readings(lambda: read_item(kind_of(config), item, config))
    asked = readings(lambda: client.post(f"/api/near?node={node}", content=there.read_bytes()))
    assert once > 0 and asked == once + 2, "and here it is read to be sent, and there written"


def test_a_kind_that_fails_in_a_way_of_its_own_is_told_in_a_sentence(client, monkeypatch):
    def fail(self, item, config):
        raise ZeroDivisionError(f"in {item.path}")

    monkeypatch.setattr(type(IMAGE), "read", fail)
    answer = client.post("/api/near?node=photos", content=b"a picture")
    assert answer.status_code == 422 and "your file: cannot be read as image (ZeroDivisionError" in answer.text
    assert "isogram-" not in answer.text and "in it)" in answer.text


def test_nothing_of_an_upload_is_kept(client, site, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("ISOGRAM_CACHE", str(tmp_path / "cache"))
    image = io.BytesIO()
    Image.new("RGB", (50, 50), "#d22").save(image, "PNG")
    assert client.post("/api/near?node=photos", content=image.getvalue()).status_code == 200
    assert client.post("/api/near?node=photos", content=b"no picture").status_code == 422
    words = {"content-type": "text/plain"}
    assert client.post("/api/near?node=notes", content=b"a red disc", headers=words).status_code == 200
    assert list(tmp_path.rglob("*")) == []
