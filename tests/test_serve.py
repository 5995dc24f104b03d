"""The server of the page: what it finds, what it sends, who may come in. On a small real federation."""

import io
import os
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import showroom
import soundfile
from fastapi.testclient import TestClient
from PIL import Image

from isogram.config import ModalityConfig
from isogram.data.modalities.base import Item
from isogram.data.modalities.image import IMAGE
from isogram.inference import Bank
from isogram.inference.bank import NEIGHBOURS
from isogram.serve import app as app_module
from isogram.serve.app import create_app
from isogram.serve.gate import HEADERS
from isogram.serve.media import curve
from isogram.serve.plane import Plane, drawn
from isogram.serve.site import HITS, PAGE

HERE = "http://127.0.0.1:8470"
TOKEN = "a token of a good length"

PROXY = "search.example"
"""Name of a host that passes questions on."""


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return showroom.make(tmp_path_factory.mktemp("room"))


@pytest.fixture(scope="module")
def site(room):
    return showroom.open_site(room)


@pytest.fixture(scope="module")
def client(site):
    with TestClient(create_app(site), base_url=HERE) as client:
        yield client


@pytest.fixture(scope="module")
def guarded(site):
    return create_app(site, token=TOKEN)


def bank_of(site, node):
    return next(i for i, bank in enumerate(site.banks) if bank.about["node"] == node)


def reference(site, query, bank):
    """By a plain loop: twice the cosine, less the mean cosine with the nearest anchors."""
    frame = site.model.saved.frame.numpy()

    def cosine(a, b):
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    scores = []
    for row in site.banks[bank].coordinates.astype(float):
        hub = np.mean(sorted((cosine(row, place) for place in frame), reverse=True)[:NEIGHBOURS])
        scores.append(2 * cosine(row, query) - hub)
    return scores


# What is found.


def test_what_is_near_is_what_a_plain_loop_finds(client, site):
    photos = bank_of(site, "photos")
    answer = client.get(f"/api/banks/{photos}/items/3/near").json()
    assert answer["query"]["id"] == site.banks[photos][3].id and answer["query"]["node"] == "photos"
    assert [group["bank"] for group in answer["found"]] == [0, 1, 2]
    query = site.banks[photos].coordinates[3].astype(float)
    for group in answer["found"]:
        scores = np.array(reference(site, query, group["bank"]))
        if group["bank"] == photos:
            scores[3] = -np.inf  # an item is no answer to itself
        best = np.argsort(-scores)[:HITS]
        assert [hit["row"] for hit in group["hits"]] == best.tolist()
        np.testing.assert_allclose([hit["score"] for hit in group["hits"]], scores[best], atol=2e-4)
        names = [site.banks[group["bank"]][row].id for row in best]
        assert [hit["id"] for hit in group["hits"]] == names


def test_a_partner_is_marked_where_items_are_paired_and_nowhere_else(client, site, room):
    notes, photos = bank_of(site, "notes"), bank_of(site, "photos")
    for row in range(len(site.banks[notes])):
        answer = client.get(f"/api/banks/{notes}/items/{row}/near").json()
        group = answer["found"][photos]
        scores = reference(site, site.banks[notes].coordinates[row].astype(float), photos)
        rank = 1 + sum(score > scores[row] for score in scores)  # banks hold the same things in the same order
        assert group["rank"] == rank
        marked = [i for i, hit in enumerate(group["hits"], 1) if hit["right"]]
        assert marked == ([rank] if rank <= HITS else [])
        assert answer["found"][notes]["rank"] == 0
    apart = TestClient(create_app(showroom.open_site(room, paired=False)), base_url=HERE)
    answer = apart.get(f"/api/banks/{notes}/items/0/near").json()
    assert [group["rank"] for group in answer["found"]] == [0, 0, 0]


def test_a_file_that_is_dropped_is_seen_as_the_same_file_in_a_bank(client, site):
    for node in ("photos", "sounds"):
        bank = bank_of(site, node)
        data = Path(site.banks[bank][5].path).read_bytes()
        answer = client.post("/api/near", params={"node": node}, content=data)
        assert answer.status_code == 200, answer.text
        hit = max(answer.json()["found"][bank]["hits"], key=lambda hit: hit["cosine"])
        assert hit["row"] == 5 and hit["cosine"] == pytest.approx(1, abs=1e-4)
        assert answer.json()["query"]["described"]


def test_what_is_typed_is_seen_as_the_same_text_in_a_bank(client, site):
    bank = bank_of(site, "notes")
    text = site.banks[bank][2].text
    answer = client.post("/api/near?node=notes", content=f"  {text}\n", headers={"content-type": "text/plain"}).json()
    best = max(answer["found"][bank]["hits"], key=lambda hit: hit["cosine"])
    assert answer["query"]["text"] == text and best["row"] == 2 and best["cosine"] == pytest.approx(1, abs=1e-4)


def test_items_are_listed_and_found_by_their_words(client, site):
    bank = bank_of(site, "photos")
    names = [site.banks[bank][row].id for row in range(len(site.banks[bank]))]
    listed = client.get(f"/api/banks/{bank}/items").json()
    assert listed["of"] == len(names) <= PAGE and [item["id"] for item in listed["items"]] == names
    found = client.get(f"/api/banks/{bank}/items", params={"find": " DISC "}).json()
    assert [item["id"] for item in found["items"]] == [name for name in names if "disc" in name] != []
    assert client.get(f"/api/banks/{bank}/items", params={"start": len(names)}).json()["items"] == []
    assert client.get(f"/api/banks/{bank}/items", params={"find": "unicorn"}).json() == {"of": 0, "items": []}


def test_the_map_is_the_principal_plane(client, site):
    told = client.get("/api/site").json()
    rows = [bank.coordinates / np.linalg.norm(bank.coordinates, axis=1, keepdims=True) for bank in site.banks]
    pooled = np.concatenate(rows).astype(float)  # banks of one size count alike
    values = np.linalg.svd(pooled - pooled.mean(0), full_matrices=False)[1] ** 2
    np.testing.assert_allclose(told["map"]["explained"], values[:2] / values.sum(), atol=1e-3)
    places = np.concatenate([np.stack([bank["x"], bank["y"]], 1) for bank in told["map"]["points"]])
    np.testing.assert_allclose((places**2).sum(0), values[:2], rtol=1e-2)
    answer = client.get("/api/banks/0/items/4/near").json()["query"]
    assert [answer["x"], answer["y"]] == [told["map"]["points"][0]["x"][4], told["map"]["points"][0]["y"][4]]


def test_a_map_of_many_banks_has_no_more_dots_than_it_may():
    for sizes in ([1] * 5000, [3, 0, 5] * 1000, [2000, 1999, 1], [10_000] * 3):
        rows = drawn(sizes, most=1000)
        assert sum(map(len, rows)) <= 1000 and all(len(some) <= n for some, n in zip(rows, sizes, strict=True))
    assert [len(some) for some in drawn([600, 400], most=1000)] == [600, 400]


def test_a_map_of_many_items_is_thinned_alike_and_of_none_is_empty():
    rows = drawn([100_000, 10, 0], most=1000)
    assert len(rows[0]) == pytest.approx(1000, abs=2) and len(rows[1]) == 1 and len(rows[2]) == 0
    assert rows[0][0] == 0 and rows[0][-1] == 99_999
    empty = Plane.of([np.zeros((0, 4), np.float32)])
    assert empty.explained == (0.0, 0.0)
    alone = Plane.of([np.ones((1, 4), np.float32)])
    np.testing.assert_allclose(alone.place(np.ones((1, 4), np.float32)), 0, atol=1e-6)


# What is sent.


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
    ["/media/0/99", "/media/9/0", "/media/-1/0", "/media/2/0", "/api/banks/5/items", "/api/banks/0/items/-1/near"],
)
def test_what_is_not_there_is_not_there(client, site, address):
    assert site.banks[2].about["node"] == "notes"
    assert client.get(address).status_code == 404


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


# What is uploaded.


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


# Who may come in.


@pytest.mark.parametrize("address", ["/", "/page/app.js", "/api/site", "/media/0/0", "/nowhere"])
def test_without_the_token_nothing_is_sent(guarded, address):
    client = TestClient(guarded, base_url=HERE)
    for answer in (
        client.get(address),
        client.get(address, params={"token": "a token of another length"}),
        client.get(address, headers={"authorization": "Bearer wrong"}),
        client.get(address, headers={"cookie": "isogram=x"}),
        client.post(address),
        client.post(address, params={"token": TOKEN}),
    ):
        assert answer.status_code == 401 and "token is needed" in answer.text and TOKEN not in answer.text
        assert answer.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]


def test_the_token_opens_once_and_a_cookie_from_then_on(guarded):
    client = TestClient(guarded, base_url=HERE)
    first = client.get("/", params={"token": TOKEN})
    cookie = first.headers["set-cookie"]
    assert first.status_code == 200 and 'content="0;url=/"' in first.text
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie + first.text
    assert client.get("/api/site").status_code == 200 and "Isogram" in client.get("/").text
    client.cookies.clear()
    assert client.get("/api/site").status_code == 401
    assert client.get("/api/site", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_another_start_has_another_cookie(site, guarded):
    client = TestClient(guarded, base_url=HERE)
    cookie = client.get("/", params={"token": TOKEN}).headers["set-cookie"].split(";")[0]
    other = TestClient(create_app(site, token=TOKEN), base_url=HERE)
    assert client.get("/api/site", headers={"cookie": cookie}).status_code == 200
    assert other.get("/api/site", headers={"cookie": cookie}).status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8470", 200), ("localhost:8470", 200), ("evil.example", 400), ("127.0.0.1.evil.example", 400)],
)
def test_names_that_are_pointed_here_are_turned_away(client, host, status):
    assert client.get("/api/site", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": HERE},
    ],
)
def test_other_pages_cannot_post(client, headers):
    words = {"content-type": "text/plain"}
    answer = client.post("/api/near?node=notes", content=b"red", headers=words | headers)
    assert answer.status_code == 403 and "another page" in answer.json()["error"]
    own = {"origin": HERE, "sec-fetch-site": "same-origin"}
    assert client.post("/api/near?node=notes", content=b"red", headers=words | own).status_code == 200


@pytest.mark.parametrize("address", ["/api/site", "/api/banks/0/items/0/near", "/media/0/0", "/page/app.js"])
def test_other_pages_cannot_ask(client, address):
    for headers in (
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"},
    ):
        assert client.get(address, headers=headers).status_code == 403
    for headers in ({}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}):
        assert client.get(address, headers=headers).status_code == 200
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link leads to the page


def test_with_a_token_it_answers_under_a_proxys_name(guarded):
    """The cookie is of one name alone: a page that points another name here has none, and does not know the token."""
    client = TestClient(guarded, base_url=f"https://{PROXY}")
    assert client.get("/api/site").status_code == 401
    assert client.get("/", params={"token": TOKEN}).status_code == 200
    own = {"origin": f"https://{PROXY}", "sec-fetch-site": "same-origin", "content-type": "text/plain"}
    assert client.get("/api/site").status_code == 200
    assert client.post("/api/near?node=notes", content=b"red", headers=own).status_code == 200
    assert TestClient(guarded, base_url="https://evil.example", cookies={}).get("/api/site").status_code == 401


def test_no_answer_allows_other_origins(client):
    for answer in (client.get("/api/site", headers={"origin": "http://evil.example"}), client.options("/api/near")):
        assert not [name for name in answer.headers if name.startswith("access-control")]


# What the page may load.


def test_every_answer_has_the_headers(client):
    for address in ("/", "/page/page.css", "/api/site", "/media/0/0", "/media/1/0", "/nowhere", "/media/0/99"):
        answer = client.get(address)
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, (address, name)
        assert "server" not in answer.headers


def test_the_policy_lets_nothing_in_from_elsewhere():
    rules = dict(rule.strip().split(" ", 1) for rule in HEADERS["Content-Security-Policy"].split(";"))
    assert rules["default-src"] == "'none'"
    sources = {source for rule in rules.values() for source in rule.split()}
    assert sources == {"'none'", "'self'", "blob:"} and rules["script-src"] == "'self'"
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"


def test_no_served_file_names_another_server(client):
    folder = Path(app_module.__file__).parent / "page"
    files = sorted(path.name for path in folder.iterdir())
    assert {"app.js", "index.html", "page.css"} <= set(files)
    for name in files:
        answer = client.get("/" if name == "index.html" else f"/page/{name}")
        assert answer.status_code == 200, name
        foreign = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", answer.text)
        assert [address for address in foreign if address != "http://www.w3.org/2000/svg"] == [], name
        assert not re.search(r"style=|\son\w+=|<script>|@import|innerHTML|eval\(", answer.text), name


def test_a_bank_of_another_model_is_refused(room, tmp_path):
    from isogram.errors import DataError
    from isogram.serve.opening import of_banks

    site = of_banks(room / "model.safetensors", sorted(room.glob("*.parquet")))
    assert [bank.about["node"] for bank in site.banks] == ["notes", "photos", "sounds"]
    bank = Bank.load(room / "photos.parquet")
    other = replace(bank, about=dict(bank.about) | {"model": "0123456789abcdef"})
    other.save(tmp_path / "other.parquet")
    with pytest.raises(DataError, match="another model"):
        of_banks(room / "model.safetensors", [tmp_path / "other.parquet"])
