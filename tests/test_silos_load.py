"""Silos become a federation, whatever the order of rows; nothing is encoded twice."""

import csv

import numpy as np
import pytest
from silos import COLOURS, edit, held, load, problems, table

from isogram.config_file import read_config
from isogram.data import open_data
from isogram.data.base import UNLABELLED
from isogram.data.modalities.image import IMAGE
from isogram.data.silos.load import load_silos
from isogram.errors import DataError
from isogram.evaluation import evaluate
from isogram.federation import align


@pytest.fixture
def path(own_silos):
    return own_silos


def test_folders_and_tables_become_a_federation(path):
    told = []
    data = open_data(read_config(path), lambda *done: told.append(done))
    assert [(n.name, n.modality, n.tokens.shape) for n in data.nodes] == [
        ("shop", "photo", (40, 16, 588)),
        ("desk", "text", (40, 4, 256)),
    ]
    assert data.name == "silos" and data.classes == ("black", "blue", "green", "pink", "red", "yellow")
    with (path.parent / "texts.csv").open() as file:
        colours = [row["colour"] for row in csv.DictReader(file)]
    assert [data.classes[c] if c != UNLABELLED else "" for c in data.nodes[1].labels] == colours
    assert len(data.anchors) == 19 and len(data.held_out.ids) == 5 and data.held_out.paired
    assert not {*data.anchors.ids} & {*data.held_out.ids} and list(data.anchors.ids) == sorted(data.anchors.ids)
    assert {m: c.kind for m, c in data.encoders.items()} == {"photo": "image", "text": "text"}
    assert {(part, total) for part, _, total in told} == {
        *(("anchors, photo", 24), ("anchors, text", 24), ("shop", 40), ("desk", 40))
    }


def test_silos_can_be_aligned_and_measured_on_anchors_and_on_rows(path):
    found = {}
    for measure in ("anchors", "rows"):
        settings = read_config(path, [f"silos.measure={measure}"])
        data = open_data(settings)
        fed = align(data, settings)
        scores = evaluate(data, {n.name: n.embed for n in fed.nodes}, fed.head)
        found |= {(measure, s.metric, s.direction): s.value for s in scores}
    assert found["anchors", "r1", "photo->text"] >= 0.6 and found["anchors", "r1", "text->photo"] >= 0.6  # chance .2
    assert found["rows", "accuracy", "photo"] > 0.6 and found["rows", "accuracy", "text"] > 0.6  # chance .17
    assert not any(key[:2] in (("rows", "r1"), ("anchors", "accuracy")) for key in found)


def in_order(tokens):
    rows = tokens.reshape(len(tokens), -1)
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("measure", ["anchors", "rows"])
def test_the_order_of_lines_decides_nothing(path, measure):
    one = load(path, f"silos.measure={measure}")
    for name in ("texts.csv", "anchors/anchors.csv"):
        edit(path, name, lambda rows: [rows[0], *rows[:0:-1]])
    two = load(path, f"silos.measure={measure}")
    assert one.anchors.hash == two.anchors.hash and one.held_out.ids == two.held_out.ids
    for modality in ("photo", "text"):
        # Pairs come in the order of their concepts, rows as they stand.
        alike = in_order if measure == "rows" else np.asarray
        np.testing.assert_array_equal(alike(held(one, modality)), alike(held(two, modality)))
    for before, after in zip(one.nodes, two.nodes, strict=True):
        np.testing.assert_array_equal(in_order(before.tokens), in_order(after.tokens))


def test_rows_of_numbers_take_the_columns_of_the_anchors(path):
    rng = np.random.default_rng(0)
    concepts = [" ".join(pair) for pair in [("red", "tiny"), ("green", "huge"), ("pink", "large")]]
    lab = [["concept", "b", "a"], *([c, *map(str, rng.normal(size=2))] for c in concepts)]
    table(path.parent / "anchors" / "lab.csv", lab)
    table(
        path.parent / "rows.csv",
        [["pid", "a", "b", "age"], *([f"p{i}", str(i / 3), str(-i / 7), "50"] for i in range(9))],
    )
    settings = '[silos.modalities.lab]\nkind = "table"\n'
    node = '[[silos.nodes]]\nname = "lab"\nmodality = "lab"\ndata = "rows.csv"\nid = "pid"\n'
    path.write_text(path.read_text() + settings + node)
    data = load(path, "silos.held_out=0")
    assert data.encoders["lab"].columns == ("b", "a") and data.nodes[2].tokens.shape == (9, 2, 1)
    np.testing.assert_allclose(data.nodes[2].tokens[:, :, 0], [[-i / 7, i / 3] for i in range(9)], rtol=1e-6)
    edit(path, "rows.csv", lambda rows: [["pid", "a", "c", "age"], *rows[1:]])
    assert "no column columns = 'b'; there are 'pid', 'a', 'c', 'age'" in problems(path)[0]


def test_a_node_of_one_class_among_others_is_noted(path):
    edit(path, "texts.csv", lambda rows: [rows[0], *([*row[:2], "red", row[3]] for row in rows[1:])])
    assert load(path).notes == ("desk: all its labels are 'red'",)


def test_a_second_load_encodes_nothing_anew(path, monkeypatch):
    before = load(path)
    monkeypatch.setattr(IMAGE, "read", None, raising=False)
    after = load(path)
    np.testing.assert_array_equal(before.nodes[0].tokens, after.nodes[0].tokens)


def test_a_site_of_its_own_has_what_it_has_among_all(path):
    """Its rows, its anchors and their places, and the one hash that all agree on; classes have to be declared."""
    colours = f"silos.classes={sorted(COLOURS)}".replace("'", '"')
    whole = load(path, "silos.held_out=0", colours, "anchors=15")
    for name, other in (("shop", "text"), ("desk", "photo")):
        settings = read_config(path, ["silos.held_out=0.3", colours, "anchors=15"])
        nodes = tuple(node for node in settings.silos.nodes if node.name == name)
        own = settings.silos.model_copy(update={"nodes": nodes})
        part = load_silos(own, anchors=15, seed=settings.seed, elsewhere=[other])
        (node,), (same,) = part.nodes, [node for node in whole.nodes if node.name == name]
        np.testing.assert_array_equal(node.tokens, same.tokens)
        np.testing.assert_array_equal(node.labels, same.labels)
        assert part.anchors.ids == whole.anchors.ids and part.anchors.hash == whole.anchors.hash
        items, among = part.anchors_of(node), whole.anchors_of(same)
        np.testing.assert_array_equal(items.tokens, among.tokens)
        np.testing.assert_array_equal(items.index, among.index)
        bare = own.model_copy(update={"classes": ()})
        with pytest.raises(DataError, match="each site sees its own labels alone; declare all classes"):
            load_silos(bare, anchors=15, seed=settings.seed, elsewhere=[other])
