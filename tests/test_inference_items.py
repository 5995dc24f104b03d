"""Pictures and texts of two silos, from files to hits: what was encoded in training is seen alike in use."""

import csv
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from anchor_sets import WORDS, write_anchor_set, write_picture, write_rows
from typer.testing import CliRunner

import isogram
from isogram import federation
from isogram.checkpoint import final_model
from isogram.cli import app
from isogram.config import Config, ModalityConfig, ModelConfig, SiloNode, SilosConfig, TrainConfig
from isogram.config_file import to_toml
from isogram.data import load, pictures
from isogram.data.modalities.base import BadItem, Item
from isogram.data.pictures.features import read_catalogue, read_part
from isogram.data.pictures.stamps import stamps_folder
from isogram.data.silos.load import load_silos
from isogram.errors import DataError
from isogram.inference import Bank, Model, read_source
from isogram.inference.source import as_items
from isogram.model.card import card, python

RUN = CliRunner(env={"COLUMNS": "200"})


def name_of(z):
    return "thing, " + " ".join(w for w, share in zip(WORDS, np.tile(z, 3), strict=False) if share > 0.5)


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """Photos by class in a folder, texts in a table, an anchor set, a model trained on them."""
    folder = tmp_path_factory.mktemp("silos")
    write_anchor_set(folder / "anchors", 60, columns=("photo", "name"))
    hidden = np.random.default_rng(1).uniform(size=(40, 3))
    for i, z in enumerate(hidden[:25]):
        write_picture(folder / "photos" / ("right" if z[0] > 0.5 else "left") / f"{i:02}.png", z)
    texts = [{"id": f"t{i}", "words": f"{i}: {name_of(z)}"} for i, z in enumerate(hidden[15:])]
    write_rows(folder / "texts.csv", texts)
    silos = SilosConfig(
        anchors=folder / "anchors",
        modalities={"photo": ModalityConfig(kind="image"), "name": ModalityConfig(kind="text")},
        nodes=(
            SiloNode(name="shop", modality="photo", data=folder / "photos", label="folder"),
            SiloNode(name="desk", modality="name", data=folder / "texts.csv", column="words", id="id"),
        ),
    )
    data = load_silos(silos, anchors=0, seed=0)
    config = Config(
        data="silos",
        silos=silos,
        model=ModelConfig(width=48, layers=1),
        train=TrainConfig(rounds=1, steps=2),
    )
    final_model(federation.train(federation.align(data, config)), data).save(folder / "model.safetensors")
    return folder, data


@pytest.fixture(scope="module")
def model(at):
    return isogram.Model.load(at[0])


@pytest.mark.parametrize(
    ("node", "place", "columns"),
    [("shop", "photos", {"label": "folder"}), ("desk", "texts.csv", {"column": "words", "id": "id"})],
)
def test_items_in_use_have_the_coordinates_that_they_had_in_training(at, model, node, place, columns):
    folder, data = at
    (own,) = [one for one in data.nodes if one.name == node]
    found = read_source(model, node, folder / place, **columns)
    assert len(found) == 25
    np.testing.assert_array_equal(model.tokens(node, found.items).tokens, own.tokens)
    np.testing.assert_array_equal(model.embed(node, list(found.items)), model.embed(node, own.tokens))


def test_three_lines_embed_a_picture(at):
    found: dict = {}
    path = next((at[0] / "photos" / "left").iterdir())
    exec(
        "from isogram import Model\n"
        f"model = Model.load({str(at[0])!r})\n"
        f"coordinates = model.embed('shop', [{str(path)!r}])\n",
        found,
    )
    assert found["coordinates"].shape == (1, found["model"].rank) and np.isfinite(found["coordinates"]).all()


def test_an_item_may_be_given_in_any_form(at, model):
    path = next((at[0] / "photos" / "left").iterdir())
    one = model.embed("shop", [path])
    for same in (str(path), Item("here", path=path)):
        np.testing.assert_array_equal(model.embed("photo", [same]), one)
    text = model.embed("desk", ["a dark round thing"])
    np.testing.assert_array_equal(model.embed("name", [Item("here", text="a dark round thing")]), text)


def test_an_item_alone_is_as_among_others(at, model):
    paths = sorted((at[0] / "photos").rglob("*.png"))
    together = model.embed("shop", paths)
    for i in (0, 7, 24):
        alone = model.embed("shop", [paths[i]])[0]
        assert np.linalg.norm(alone - together[i]) < 2e-6 * np.linalg.norm(alone)


def test_what_is_no_item_is_told_with_all_that_is_wrong(at, model, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    good = next((at[0] / "photos" / "left").iterdir())
    items = [tmp_path / "bad.png", good, tmp_path / "none.png"]
    with pytest.raises(DataError) as error:
        model.embed("shop", items)
    assert [("bad.png" in line, "none.png" in line) for line in error.value.problems] == [(True, False), (False, True)]
    encoded = model.tokens("shop", items, skip_bad=True)
    assert encoded.kept.tolist() == [1] and len(encoded.bad) == 2
    np.testing.assert_array_equal(model.embed("shop", items, skip_bad=True), model.embed("shop", [good]))
    for given, said in (
        ("cat.png", "items are one str; give a list"),
        (None, "items are one NoneType; give a list"),
        ([3], "item 1 is int; give a path, text"),
        ([{"a": 1.0}, {"a": "x"}], "item 2, column 'a': 'x' is no number"),
        ([{"a": None}], "item 1, column 'a': None is no number"),
    ):
        with pytest.raises(DataError, match=said):
            model.embed("shop", given)


def test_a_bank_of_pictures_keeps_what_they_are(at, model, tmp_path):
    source = read_source(model, "shop", at[0] / "photos", label="folder")
    bank = Bank.of(model, "shop", source)
    bank.save(tmp_path / "bank.parquet")
    again = Bank.load(tmp_path / "bank.parquet", model)
    entry = again[0]
    assert entry.path.endswith(".png") and entry.label in ("left", "right") and entry.text == ""
    assert again.about["encoder"] == "builtin" and again.about["modality"] == "photo"
    texts = Bank.build(model, "desk", ["one", "two"], ids=["1", "2"])
    assert [texts[i].text for i in (0, 1)] == ["one", "two"]
    ranks = []
    for row in range(10):  # the last ten pictures' names are the first ten texts
        query = model.embed("desk", [f"{row}: {name_of(np.random.default_rng(1).uniform(size=(40, 3))[15 + row])}"])[0]
        found = [again[hit.position].id for hit in again.search(query, 25)]
        ranks.append(next(i for i, one in enumerate(found) if one.endswith(f"/{15 + row:02}.png")))
    assert np.mean(ranks) < 9  # 12 by chance


def test_the_card_names_encoders(model):
    text = card(model.saved)
    assert "| photo | image | builtin |" in text and "| name | text | builtin |" in text
    assert "model.embed('shop', [\"file\"])" in text or "model.embed('desk', [\"a sentence\"])" in text


@pytest.mark.parametrize(
    ("kind", "item"), [("sequence", ["ACGTACGT"]), ("text", ["a sentence"]), ("table", [{"a": 1.0, "b": 2.0}])]
)
def test_the_cards_lines_give_items_as_their_kind_takes_them(model, kind, item):
    """A path for letters would be taken for letters."""
    config = ModalityConfig(kind=kind, columns=("a", "b") if kind == "table" else ())
    line, _, told = (
        python(replace(model.saved, encoders={"photo": config, "name": config})).splitlines()[-1].partition("  # ")
    )
    given = eval(line.partition(", ")[2].removesuffix(")"), {"rows": item})
    assert given == item and as_items(given, kind)[0].path is None
    assert told == (
        'rows: mappings from each column of the node\'s table to a number, such as [{"a": 1.0, ...}]'
        * (kind == "table")
    )


def test_the_commands_take_folders_files_and_texts(at, tmp_path):
    folder, _ = at
    bank, bad = str(tmp_path / "bank.parquet"), tmp_path / "photos"
    (bad / "left").mkdir(parents=True)
    for path in sorted((folder / "photos").rglob("*.png")):
        (bad / "left" / path.name).write_bytes(path.read_bytes())
    (bad / "left" / "broken.png").write_bytes(b"no picture")
    arguments = ["embed", str(folder), str(bad), "--node", "shop", "-o", bank, "--label", "folder"]
    done = RUN.invoke(app, arguments)
    assert done.exit_code == 2 and "broken.png" in done.stderr and not (tmp_path / "bank.parquet").exists()
    assert "leave it out; --skip-bad leaves such items out" in done.stderr
    done = RUN.invoke(app, [*arguments, "--skip-bad"])
    assert done.exit_code == 0 and "25 items of node shop, 1 left out" in done.stdout, done.output
    assert "left out: " in done.stderr and "broken.png" in done.stderr

    done = RUN.invoke(app, ["search", str(folder), bank, "--text", "a dark round thing", "-k", "3"])
    lines = done.stdout.splitlines()
    assert done.exit_code == 0 and len([line for line in lines if ".png" in line and "left" in line]) == 3, done.output
    picture = str(bad / "left" / "03.png")
    hits = json.loads(RUN.invoke(app, ["search", str(folder), bank, "--file", picture, "--json"]).stdout)
    assert hits["node"] == "shop" and len(hits["hits"]) == 10
    assert hits["hits"][0]["path"] == picture and hits["hits"][0]["cosine"] == pytest.approx(1, abs=1e-5)
    wrong = RUN.invoke(app, ["search", str(folder), bank, "--text", "thing", "--from", "shop"])
    assert wrong.exit_code == 2 and "no text" in wrong.stderr

    one = RUN.invoke(app, ["classify", str(folder), picture, "--node", "shop"])
    (row,) = csv.DictReader(io.StringIO(one.stdout))
    assert row["class"] in ("left", "right") and row["where"] == picture and abs(float(row["score"])) <= 1
    out = tmp_path / "classes.csv"
    done = RUN.invoke(app, ["classify", str(folder), str(bad), "--node", "shop", "--skip-bad", "-o", str(out)])
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert done.exit_code == 0 and len(rows) == 25 and "broken.png" in done.stderr
    model = Model.load(folder)
    assert [r["class"] for r in rows] == model.classify("shop", sorted((bad / "left").glob("[0-9]*.png")))


def test_all_that_cannot_be_read_is_told_at_once_and_stands_in_no_queries_way(at, tmp_path):
    folder, _ = at
    for name in ("03", "04", "05"):
        shutil.copy(next((folder / "photos").rglob(f"{name}.png")), tmp_path)
    (tmp_path / "04.png").write_bytes(b"no picture")
    rows = "id,file\na,03.png\nb,04.png\nc,absent.png\nd,05.png\n"
    (tmp_path / "t.csv").write_text(rows)
    arguments = ["embed", str(folder), str(tmp_path / "t.csv"), "--node", "shop", "--id", "id", "--column", "file"]
    arguments += ["-o", str(tmp_path / "bank")]
    done = RUN.invoke(app, arguments)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.exit_code == 2 and len(errors) == 2 and "absent.png" in errors[0] and "04.png" in errors[1], errors
    assert RUN.invoke(app, [*arguments, "--skip-bad"]).exit_code == 0
    query = [
        "search",
        str(folder),
        str(tmp_path / "bank"),
        "--from",
        "shop",
        "--json",
        "--file",
        str(tmp_path / "t.csv"),
    ]
    (tmp_path / "run.csv").write_text(rows)
    done = RUN.invoke(app, [*query, "--row", "line 2"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["hits"][0]["cosine"] == pytest.approx(1, abs=1e-5)
    done = RUN.invoke(app, [*query, "--row", "line 4"])
    assert done.exit_code == 2 and "no item has the id 'line 4'" in done.stderr and "absent.png" in done.stderr
    (tmp_path / "t.csv").write_text("id,file\na,03.png\nc,absent.png\n")
    done = RUN.invoke(app, query)
    assert done.exit_code == 2 and "2 items where one is meant" in done.stderr, "the other might be it"


def test_records_of_a_fasta_are_items_as_in_training(model, tmp_path):
    config = ModalityConfig(kind="sequence")
    dna = Model(replace(model.saved, encoders={"photo": config, "name": config}))
    (tmp_path / "x.fa").write_bytes(b">a\nACGTACGTAA\n>b\nAC\xff\n>c\nGGTTAACC\n")
    found = read_source(dna, "shop", tmp_path / "x.fa")
    assert found.ids == ("a", "c") and len(found.bad) == 1 and found.only("c").items[0].text == "GGTTAACC"
    (tmp_path / "one.fa").write_text(">q\nACGT\n")
    assert read_source(dna, "shop", tmp_path / "one.fa", one=True).only("").items[0].text == "ACGT"


def test_files_of_other_kinds_are_told_and_not_passed_over_in_silence(at, tmp_path):
    folder, _ = at
    photos = tmp_path / "photos"
    shutil.copytree(folder / "photos", photos)
    for number in range(3):
        (photos / f"{number}.heic").write_bytes(b"another kind")
    note = f"{photos}: 3 other files passed over (3 .heic)"
    assert read_source(Model.load(folder), "shop", photos).kept([0]).notes == (note,)
    arguments = [str(folder), str(photos), "--node", "shop", "-o", str(tmp_path / "out"), "--force"]
    for command in ("embed", "classify"):
        done = RUN.invoke(app, [command, *arguments])
        assert done.exit_code == 0 and f"note: {note}" in done.stderr, done.output
        assert json.loads(RUN.invoke(app, [command, *arguments, "--json"]).stdout)["notes"] == [note]


def test_a_runs_settings_say_which_column_is_which(at, model, tmp_path):
    """In a run's folder, of a table that has their columns; others are named, or found, as ever."""
    folder, _ = at
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    rows = [{"id": f"n{i}", "words": f"a {w}", "other": f"{w} or so"} for i, w in enumerate(WORDS[:4])]
    write_rows(tmp_path / "new.csv", rows)
    write_rows(tmp_path / "renamed.csv", [{"said": row["words"]} for row in rows])
    arguments = ["classify", str(run), str(tmp_path / "new.csv"), "--node", "desk"]
    done = RUN.invoke(app, arguments)
    assert done.exit_code == 2 and "say it by column = NAME (--column NAME)" in done.stderr, done.output
    silos = {
        "anchors": str(folder / "anchors"),
        "modalities": {"photo": {"kind": "image"}, "name": {"kind": "text"}},
        "nodes": [
            {"name": "shop", "modality": "photo", "data": str(folder / "photos")},
            {"name": "desk", "modality": "name", "data": str(folder / "texts.csv"), "column": "words", "id": "id"},
        ],
    }
    (run / "config.toml").write_text(to_toml(Config.model_validate({"data": "silos", "silos": silos})))
    found = list(csv.DictReader(io.StringIO(RUN.invoke(app, arguments).stdout)))
    assert [row["id"] for row in found] == ["n0", "n1", "n2", "n3"]
    assert [row["class"] for row in found] == model.classify("desk", [row["words"] for row in rows])
    other = RUN.invoke(app, [*arguments, "--column", "other"])
    named = [row["class"] for row in csv.DictReader(io.StringIO(other.stdout))]
    assert named == model.classify("desk", [row["other"] for row in rows])
    renamed = RUN.invoke(app, ["classify", str(run), str(tmp_path / "renamed.csv"), "--node", "desk", "--json"])
    assert [row["id"] for row in json.loads(renamed.stdout)["items"]] == [f"line {i}" for i in range(2, 6)]

    bank = str(tmp_path / "texts.parquet")
    long = {"id": "n9", "words": "word " * 60, "other": "x"}
    write_rows(tmp_path / "new.csv", [*rows, long])
    assert RUN.invoke(app, ["embed", str(run), str(tmp_path / "new.csv"), "--node", "desk", "-o", bank]).exit_code == 0
    asked = ["search", str(run), bank, "--file", str(tmp_path / "new.csv"), "--from", "desk", "--row", "n9"]
    shown = CliRunner(env={"COLUMNS": "300"}).invoke(app, asked)
    assert shown.exit_code == 0 and "text" in shown.stdout.splitlines()[1], shown.output
    assert f" {rows[0]['words']} " in shown.stdout and "word word…" in " ".join(shown.stdout.split())
    assert "word " * 30 not in shown.stdout


def test_a_table_is_read_once_whether_or_not_a_run_names_its_columns(model, tmp_path, monkeypatch):
    read, reader = [], csv.reader
    monkeypatch.setattr(csv, "reader", lambda *args, **how: read.append(args) or reader(*args, **how))
    path = tmp_path / "new.csv"
    path.write_bytes(b"id,words,other\nn0,a dark thing,x y\nn1,caf\xe9,x\n")
    like = {"desk": SiloNode(name="desk", modality="name", data=path, column="words", id="id")}
    for times, how in enumerate(({"like": like}, {"column": "words", "id": "id"}), 1):
        found = read_source(model, "desk", path, **how)
        assert found.ids == ("n0",) and found.items[0].text == "a dark thing" and len(read) == times
        assert found.bad == (f"{path}, line 3: byte 0xe9 is not UTF-8; save it as CSV in UTF-8, or drop the row",)
    with pytest.raises(BadItem, match=r"line 3: byte 0xe9 is not UTF-8"):
        model.encoded("desk", found)
    kept, tokens = model.encoded("desk", found, skip_bad=True)
    assert len(tokens) == 1 and kept.bad == found.bad
    path.write_bytes(b"id,words\nn1,caf\xe9\n")
    with pytest.raises(DataError, match=r"line 2: byte 0xe9 is not UTF-8"):
        read_source(model, "desk", path, like=like)
    path.write_bytes(b"")
    with pytest.raises(DataError) as raised:
        read_source(model, "desk", path, like=like)
    assert raised.value.problems == (f"{path} is empty; give it a header and rows",)


def test_rows_of_numbers_are_given_by_their_columns(tmp_path):
    """The kind table: a mapping has a row's numbers, in any order; a CSV is read by its header."""
    write_anchor_set(tmp_path / "anchors", 40, columns=("lab", "name"))
    hidden = np.random.default_rng(1).uniform(size=(24, 3))
    rows = [{"x2": repr(float(z[2])), "x0": repr(float(z[0])), "x1": repr(float(z[1]))} for z in hidden]
    write_rows(tmp_path / "rows.csv", rows)
    write_rows(tmp_path / "texts.csv", [{"words": f"{i}: {name_of(z)}"} for i, z in enumerate(hidden)])
    silos = SilosConfig(
        anchors=tmp_path / "anchors",
        modalities={"lab": ModalityConfig(kind="table"), "name": ModalityConfig(kind="text")},
        nodes=(
            SiloNode(name="clinic", modality="lab", data=tmp_path / "rows.csv"),
            SiloNode(name="desk", modality="name", data=tmp_path / "texts.csv", column="words"),
        ),
    )
    data = load_silos(silos, anchors=0, seed=0)
    fed = federation.align(data, Config(data="silos", silos=silos))
    model = Model(final_model(fed, data))
    own = model.embed("clinic", data.nodes[0].tokens)
    given = [{f"x{j}": float(v) for j, v in enumerate(z)} for z in hidden]
    np.testing.assert_array_equal(model.embed("lab", given), own)
    found = read_source(model, "clinic", tmp_path / "rows.csv")
    np.testing.assert_array_equal(model.embed("clinic", list(found.items)), own)
    assert found.items[0].where.endswith("rows.csv, line 2")
    with pytest.raises(DataError, match="lacks the columns 'x1'"):
        model.embed("clinic", [{"x0": 1.0, "x2": 1.0}])


@pytest.mark.skipif(
    not (pictures.encoded() and stamps_folder().is_dir()), reason="the talking pictures are not in the cache"
)
def test_pictures_land_where_training_had_them():
    """Their tokens were rounded to half precision, and pictures put on white at another size."""
    stamps = stamps_folder()
    data = load("pictures", anchors=200, seed=0)
    model = Model(final_model(federation.align(data, Config(data="pictures")), data))
    catalogue = read_catalogue()
    for modality in ("picture", "text"):
        tokens = read_part(modality)["tokens"].astype(np.float32)
        bank, holding = Bank.build(model, modality, tokens), [catalogue.stamps[i] for i in catalogue.holding(modality)]
        rows = [row for row, stamp in enumerate(holding) if modality == "text" or stamp.picture == ".png"][:60:6]
        items = [
            holding[row].name if modality == "text" else stamps / f"{holding[row].path}{holding[row].picture}"
            for row in rows
        ]
        positions, _, cosines = bank.nearest(model.embed(modality, items), 3, corrected=False)
        for row, near, cosine in zip(rows, positions, cosines, strict=True):
            at = near.tolist().index(row)
            assert cosine[at] > 0.95 and cosine[0] - cosine[at] < 1e-4, holding[row].name
