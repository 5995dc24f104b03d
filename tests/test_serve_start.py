"""From a run's folder to a site, and from a site to a server: banks built once, doors, what the showpiece shows."""

import io
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest
import showroom
import soundfile
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from isogram.cli import app
from isogram.config import Config, ModalityConfig
from isogram.data.pictures import concepts, features, stamps
from isogram.data.pictures.features import MODALITIES, Catalogue
from isogram.data.pictures.protocol import HELD_OUT, Corpus, divide
from isogram.data.pictures.render import draw_svg, on_white
from isogram.data.pictures.stamps import LANGUAGES, Stamp
from isogram.errors import ConfigError, RunError
from isogram.inference import Bank
from isogram.progress import Watch
from isogram.run import run
from isogram.run_folder import STATE, read_json, write_json
from isogram.serve import pictures
from isogram.serve.opening import of_run
from isogram.serve.standing import standing
from isogram.serve.start import Door


def silent(part, done, total):
    pass


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A complete run on silos, with the cache of tokens where no other test looks."""
    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOGRAM_CACHE", str(folder / "cache"))
        with Watch(Console(file=io.StringIO())) as watch:
            run(showroom.on_disk(folder), watch, force=True)
    return folder


@pytest.fixture
def shop(complete, monkeypatch):
    monkeypatch.setenv("ISOGRAM_CACHE", str(complete / "cache"))
    return complete


# From a run to a site.


def test_a_run_on_silos_becomes_a_site(shop):
    told = []
    site = of_run(shop / "runs" / "shop", lambda *entry: told.append(entry), print)
    assert [bank.about["node"] for bank in site.banks] == ["photos", "sounds", "notes"] and not site.paired
    assert {entry[0] for entry in told} == {"photos", "sounds", "notes"} and told[-1] == ("notes", 6, 6)
    photos, notes = site.banks[0], site.banks[2]
    assert sorted(photos[i].id for i in range(6)) == sorted(p.name for p in (shop / "photos").iterdir())
    assert [notes[i].id for i in range(6)] == [f"note {i}" for i in range(6)] and notes[0].label == "calm"
    expected = site.model.embed("photos", [shop / "photos" / photos[i].id for i in range(6)])
    np.testing.assert_allclose(photos.coordinates, expected, atol=1e-6)
    about = site.about
    asks = {node["name"]: node["asks"] for node in about["nodes"]}
    assert asks == {"photos": "file", "sounds": "file", "notes": "text"}
    standing = about["standing"]
    assert standing["metric"] == "R@10" and standing["concepts"] == 38  # of 48, a fifth is held out
    assert [one["anchors"] for one in standing["modalities"]] == [38, 38, 38]
    assert standing["directions"]["photo"].keys() == {"sound", "note"}


def test_banks_are_read_until_something_changes(shop):
    folder, told, said = shop / "runs" / "shop", [], []

    def tell(part, done, total):
        told.append(part)

    of_run(folder, tell, said.append)
    told.clear()
    before = of_run(folder, tell, said.append)
    assert told == []
    path = shop / "photos" / "extra.png"
    showroom.draw(("red", "square", "left"), path)
    after = of_run(folder, tell, said.append)
    assert set(told) == {"photos"} and len(after.banks[0]) == len(before.banks[0]) + 1
    (shop / "photos" / "broken.png").write_text("no picture")
    with_bad = of_run(folder, tell, said.append)
    assert len(with_bad.banks[0]) == len(after.banks[0]) and "broken.png" in with_bad.banks[0].bad[0]
    assert with_bad.about["banks"][0]["left_out"] == 1
    again = of_run(folder, tell, said.append)
    assert again.banks[0].bad == with_bad.banks[0].bad and again.about["banks"][0]["left_out"] == 1
    path.unlink()
    (shop / "photos" / "broken.png").unlink()
    assert said == []


def test_files_of_other_kinds_are_told_at_each_start(shop):
    other, said = shop / "photos" / "one.heic", []
    other.write_bytes(b"another kind")
    try:
        for _ in range(2):
            of_run(shop / "runs" / "shop", silent, said.append)
    finally:
        other.unlink()
    assert said == [f"photos: {shop / 'photos'}: 1 other files passed over (1 .heic)"] * 2


def test_rows_that_are_no_items_are_counted_among_those_left_out(shop):
    folder, table = shop / "runs" / "shop", shop / "notes.csv"
    before = table.read_text()
    assert of_run(folder, silent, print).about["banks"][2]["left_out"] == 0
    try:
        table.write_text(before + "a red disc,,calm\n,note 9,wild\n")
        for _ in range(2):  # as it is built, and as it is read again
            site = of_run(folder, silent, print)
            assert len(site.banks[2]) == 6 and site.about["banks"][2]["left_out"] == 2
            assert "notes.csv, line 8, column 'id': no id" in "".join(site.banks[2].bad)
    finally:
        table.write_text(before)
    assert of_run(folder, silent, print).about["banks"][2]["left_out"] == 0


@pytest.mark.parametrize("column", ["mood", "id"])
def test_a_label_or_an_id_that_changes_changes_the_bank(shop, column):
    folder, table = shop / "runs" / "shop", shop / "notes.csv"
    before = table.read_text()
    of_run(folder, silent, print)
    try:
        table.write_text(before.replace("note 3,wild", "note 3,calm" if column == "mood" else "note 33,wild"))
        notes = of_run(folder, silent, print).banks[2]
        assert (notes[3].id, notes[3].label) == (("note 3", "calm") if column == "mood" else ("note 33", "wild"))
    finally:
        table.write_text(before)


def test_banks_of_another_node_or_model_are_refused_and_built_anew(shop):
    folder, told, said = shop / "runs" / "shop", [], []

    def tell(part, done, total):
        told.append(part)

    right = of_run(folder, tell, said.append)
    photos, notes = (folder / "banks" / f"{node}.parquet" for node in ("photos", "notes"))
    other = replace(right.banks[2], about=dict(right.banks[2].about) | {"model": "0123456789abcdef"})
    for write, words in (
        (lambda: notes.write_bytes(photos.read_bytes()), "holds items of node 'photos', not of 'notes'"),
        (lambda: other.save(notes), "was embedded by another model"),
    ):
        write()
        told.clear()
        said.clear()
        again = of_run(folder, tell, said.append)
        assert set(told) == {"notes"} and [bank.about for bank in again.banks] == [bank.about for bank in right.banks]
        assert len(said) == 1 and words in said[0] and "embed its items again" in said[0]


def test_what_is_damaged_of_the_banks_is_built_anew(shop):
    folder, told, said = shop / "runs" / "shop", [], []

    def tell(part, done, total):
        told.append(part)

    of_run(folder, tell, said.append)
    told.clear()
    for content in (b"damaged", (folder / "banks" / "notes.parquet").read_bytes()[:-50]):
        (folder / "banks" / "notes.parquet").write_bytes(content)
        assert len(of_run(folder, tell, said.append).banks[2]) == 6 and set(told) == {"notes"}
        assert len(said) == 1 and "notes.parquet" in said[0] and said[0].endswith("that is done now")
        told.clear()
        said.clear()
    for content in ("{", "[1]", '"x"'):
        (folder / "banks" / "banks.json").write_text(content)
        assert len(of_run(folder, tell, said.append).banks) == 3 and set(told) == {"photos", "sounds", "notes"}
        assert said == [f"{folder / 'banks' / 'banks.json'} is damaged: all banks of this run are built anew"]
        told.clear()
        said.clear()
    of_run(folder, tell, said.append)
    assert told == said == []


def test_a_folder_that_is_not_there_is_told(tmp_path):
    done = CliRunner().invoke(app, ["serve", str(tmp_path / "none")])
    assert done.exit_code == 2 and "there is no folder" in done.stderr and "damaged" not in done.stderr


def test_an_encoder_out_of_a_folder_is_told_without_it(shop):
    encoders = {
        "photo": ModalityConfig(kind="image", encoder="hf:/srv/models/seer"),
        "note": ModalityConfig(kind="text"),
    }
    told = {one["name"]: one["encoder"] for one in standing(shop / "runs" / "shop", encoders)["modalities"]}
    assert told == {"photo": "hf:seer (a local folder)", "sound": "", "note": "builtin"}


def test_what_is_no_complete_run_on_silos_is_refused(shop, tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        of_run(tmp_path, silent, print)
    folder = shop / "runs" / "shop"
    state = read_json(folder / STATE)
    write_json(folder / STATE, state | {"complete": False})
    try:
        with pytest.raises(RunError, match="--resume"):
            of_run(folder, silent, print)
    finally:
        write_json(folder / STATE, state)
    done = CliRunner().invoke(app, ["serve", str(tmp_path)])
    assert done.exit_code == 2 and "holds no run" in done.stderr


# Where it listens.


def test_this_machine_alone_needs_no_token_and_any_other_does():
    assert Door.of("127.0.0.1", None, None).token == Door.of("localhost", 0, None).token == ""
    tokens = {Door.of("0.0.0.0", None, None).token for _ in range(3)}
    assert len(tokens) == 3 and min(map(len, tokens)) >= 32
    assert Door.of("127.0.0.1", None, "x" * 16).token == "x" * 16
    with pytest.raises(ConfigError, match="at least 16"):
        Door.of("0.0.0.0", None, "secret")


def test_a_port_that_is_taken_is_told_or_another_one_is_found(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}.*--port"):
            Door.of("127.0.0.1", port, None).open()
        monkeypatch.setattr("isogram.serve.start.PORT", port)
        door = Door.of("127.0.0.1", None, None)
        with door.open() as listening:
            found = listening.getsockname()[1]
            assert found not in (0, port) and door.address(listening) == f"http://127.0.0.1:{found}/"
    for host in ("192.0.2.1", "a..b", "x" * 70, ""):
        with pytest.raises(ConfigError, match=f"cannot listen at '{host}'.*name another --host"):
            Door.of(host, None, None).open()


def test_the_address_holds_the_token_once():
    door = Door.of("0.0.0.0", 0, "t" * 20)
    with door.open() as listening:
        port = listening.getsockname()[1]
        assert door.address(listening) == f"http://{socket.gethostname()}:{port}/?token={'t' * 20}"


SLOW = """
import sys, time
from pathlib import Path
from isogram.serve import opening, start
from isogram.serve.site import Site

def slow(self, *question):
    print("asked", flush=True)
    time.sleep(2)
    return real(self, *question)

real, Site.ask, start.PATIENCE = Site.ask, slow, int(sys.argv[2])
site = opening.of_run(Path(sys.argv[1]), lambda *entry: None, print)
start.serve(site, start.Door.of("127.0.0.1", 0, None), lambda text: print(text, flush=True))
"""


@pytest.mark.parametrize(("patience", "answer"), [(60, 200), (0, 503)])
def test_ctrl_c_during_a_question_ends_it_in_order(shop, patience, answer):
    """It is answered, or told that the server ends; no traceback either way."""
    of_run(shop / "runs" / "shop", silent, print)  # the server finds its banks
    command, words = [sys.executable, "-c", SLOW, shop / "runs" / "shop", str(patience)], {"content-type": "text/plain"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as server, ThreadPoolExecutor() as pool:
        address = server.stdout.readline().split(" is at ")[1].split()[0]
        question = f"{address}api/near?node=notes"
        answered = pool.submit(httpx.post, question, content="red", headers=words, timeout=60)
        assert server.stdout.readline() == "asked\n"
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=60)
        assert answered.result().status_code == answer
    assert server.returncode == 0 and out == "ended\n" and "Traceback" not in err


# The showpiece.

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 10"><rect width="12" height="9" fill="#c22"/></svg>'


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """450 stamps with real files, of which every second one is a vector drawing; tokens are their numbers."""
    there, found = tmp_path / "stamps", []
    (there / "things").mkdir(parents=True)
    png, ogg = io.BytesIO(), io.BytesIO()
    Image.new("RGBA", (20, 10), "#2a2").save(png, "PNG")
    soundfile.write(ogg, np.sin(np.arange(4000) / 9), 16000, format="OGG")
    for i in range(450):
        suffix = (".svg", ".png")[i % 2]
        found.append(Stamp(f"things/{i:03d}", f"A thing{i}.", suffix, LANGUAGES))
        (there / f"things/{i:03d}{suffix}").write_bytes(png.getvalue() if i % 2 else SVG.encode())
        for language in LANGUAGES:
            (there / f"things/{i:03d}_desc_{language}.ogg").write_bytes(ogg.getvalue())
    catalogue = Catalogue(tuple(found), ("grin", "wink"), tuple(concepts.complete(found)))
    tokens = {m: {"tokens": np.zeros((450, 1, 1), np.float16)} for m in MODALITIES}
    tokens["picture"]["pixels"] = np.arange(450, dtype=np.uint64)
    tokens |= {"emoji-picture": {"tokens": np.zeros((4, 1, 1))}, "emoji-text": {"tokens": np.zeros((2, 1, 1))}}
    corpus = Corpus(catalogue, tokens)
    monkeypatch.setattr(pictures, "read_catalogue", lambda: catalogue)
    monkeypatch.setattr(pictures, "read", lambda: corpus)
    monkeypatch.setattr(pictures, "fetch_stamps", lambda: there)
    smileys = [pictures.Emoji(c, name, (), (SVG, SVG)) for c, name in (("\U0001f600", "grin"), ("\U0001f609", "wink"))]
    monkeypatch.setattr(pictures, "read_emoji", lambda: smileys)
    return catalogue


def test_the_showpiece_holds_what_no_node_has_seen(made_up, tmp_path):
    config = Config(name="pictures", data="pictures", seed=7)
    shelves = pictures.shelves(tmp_path / "run", config)
    held = divide(450, 200, 7, False).held_out
    names = [made_up.stamps[made_up.complete[i]].name for i in held]
    assert list(shelves) == list(MODALITIES) and len(names) == HELD_OUT
    for modality, shelf in shelves.items():
        assert list(shelf.ids) == names and set(shelf.labels) == {""}
        for name, item in zip(names, shelf.items, strict=True):
            if modality == "text":
                assert item.text == name
            else:
                assert item.path.is_file() and item.path.stem.startswith(("things_", "0", "1", "2", "3", "4"))
                assert item.path.suffix == (".png" if modality == "picture" else ".ogg")
                assert name.removeprefix("A thing").removesuffix(".").zfill(3) in item.path.name


def test_private_rows_are_added_on_demand_and_marked(made_up, tmp_path):
    config = Config(name="pictures", data="pictures", seed=7)
    unseen = pictures.shelves(tmp_path / "run", config)
    shelves = pictures.shelves(tmp_path / "run", config, private=True)
    for modality, shelf in shelves.items():
        assert list(shelf.ids[:HELD_OUT]) == list(unseen[modality].ids) and len(set(shelf.ids)) == len(shelf.ids)
        assert set(shelf.labels[:HELD_OUT]) == {pictures.UNSEEN} and set(shelf.labels[HELD_OUT:]) == {pictures.OWN}
        assert not set(unseen[modality].ids) & set(shelf.ids[HELD_OUT:])
    own = {m: {name.partition(" (")[0] for name in shelf.ids[HELD_OUT:]} for m, shelf in shelves.items()}
    assert sum(map(len, own.values())) == len(set.union(*own.values())) > 100, "no thing is at two nodes"
    assert {"grin", "wink"} <= own["picture"] | own["text"]


def test_a_vector_drawing_is_kept_as_the_pixels_that_the_encoder_sees(made_up, tmp_path):
    shelf = pictures.shelves(tmp_path / "run", Config(name="pictures", data="pictures", seed=7))["picture"]
    drawn = next(item.path for item in shelf.items if item.path.parent.name == pictures.DRAWINGS)
    with Image.open(drawn) as image:
        np.testing.assert_array_equal(on_white(image), on_white(draw_svg(SVG)))


@pytest.mark.skipif(
    not (features.encoded() and stamps.stamps_folder().is_dir()), reason="the talking pictures are not in the cache"
)
def test_a_recording_that_is_dropped_has_the_tokens_of_the_set(tmp_path):
    """Of the real set: what the run saw is what an upload of the same file becomes, up to half precision."""
    from isogram.data.modalities.encode import encode
    from isogram.data.pictures.protocol import ENCODERS

    shelves = pictures.shelves(tmp_path, Config(name="pictures", data="pictures", seed=7))
    catalogue = features.read_catalogue()
    held = divide(len(catalogue.complete), 200, 7, False).held_out[:3]
    for modality in ("picture", "speech-fr", "text"):
        holding = catalogue.holding(modality)
        rows = [holding.index(catalogue.complete[i]) for i in held]
        stored = features.read_part(modality)["tokens"][rows].astype(np.float64)
        made = encode(shelves[modality].items[:3], ENCODERS[modality], cache=tmp_path / "tokens").tokens
        for one, other in zip(made.reshape(3, -1), stored.reshape(3, -1), strict=True):
            cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
            assert cosine > (0.98 if modality == "picture" else 0.999)


def test_media_of_the_showpiece_are_banked(made_up, tmp_path, shop):
    """Their paths are absolute, so that the page finds them wherever it is started."""
    site = of_run(shop / "runs" / "shop", silent, print)
    items = list(pictures.shelves(tmp_path / "run", Config(name="p", data="pictures", seed=7))["picture"].items[:4])
    bank = Bank.build(site.model, "photos", items, ids=list("abcd"), cache=tmp_path / "tokens")
    shown = replace(site, banks=[bank])
    assert all(shown.media(0, row).type == "image/png" for row in range(4))
