"""What the page finds, lists and maps. On a small real federation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import showroom
from fastapi.testclient import TestClient
from showroom import HERE, bank_of

from isogram.inference import Bank
from isogram.inference.bank import NEIGHBOURS
from isogram.serve.app import create_app
from isogram.serve.plane import Plane, drawn
from isogram.serve.site import HITS, PAGE


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


def test_what_is_typed_in_another_encoding_is_refused(client):
    for content in (b"caf\xe9", "hi".encode("utf-16")):
        answer = client.post("/api/near?node=notes", content=content, headers={"content-type": "text/plain"})
        assert answer.status_code == 422 and "no text in UTF-8 (byte " in answer.json()["error"]


def test_a_request_that_lacks_something_is_told_as_others_are(client):
    answer = client.post("/api/near", content=b"x")
    assert answer.status_code == 422 and answer.json() == {"error": "query.node: Field required"}
    assert client.get("/api/banks/first/items").json()["error"].startswith("path.bank: ")


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


@pytest.mark.parametrize(
    "address",
    ["/media/0/99", "/media/9/0", "/media/-1/0", "/media/2/0", "/api/banks/5/items", "/api/banks/0/items/-1/near"],
)
def test_what_is_not_there_is_not_there(client, site, address):
    assert site.banks[2].about["node"] == "notes"
    assert client.get(address).status_code == 404


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
