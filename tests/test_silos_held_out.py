"""What is held out to measure on: of anchors and of rows, a share, whole groups, and no class that nobody learns."""

import csv
import shutil
from collections import Counter

import numpy as np
import pytest
from silos import COLOURS, config, draw, edit, held, load, problems, sentence, table, write_silos

from isogram.data import evaluation
from isogram.data.base import UNLABELLED
from isogram.data.silos.measure import KEPT
from isogram.secure_sum import MIN_EVIDENCE


@pytest.fixture
def path(own_silos):
    return own_silos


@pytest.fixture
def wide(written_silos, tmp_path):
    """As many rows that each class has some to spare, beside those that stay."""
    return write_silos(tmp_path / "wide", rows=80)


def test_anchors_are_drawn_by_the_seed_and_more_of_them_hold_the_fewer(path):
    few, more, other = load(path, "anchors=8"), load(path, "anchors=12"), load(path, "anchors=8", "seed=1")
    assert len(few.anchors) == 8 and {*few.anchors.ids} < {*more.anchors.ids} != {*other.anchors.ids}
    assert few.held_out.ids == more.held_out.ids != other.held_out.ids
    assert "anchors = 99, but 19 concepts are not held out; lower it" in problems(path, "anchors=99")[0]


def test_only_concepts_with_a_real_item_everywhere_are_held_out(path):
    """Concepts that lack a modality, or are synthetic in one, are anchors all the same."""

    def change(rows):
        rows = [[*row, "1"] for row in rows]
        rows[0][-1] = "quality"
        for row in rows[1:13]:
            row[-1] = "0.5"
        for row in rows[13:19]:
            row[1] = ""
        return rows

    edit(path, "anchors/anchors.csv", change)
    data = load(path, "silos.held_out=0.9")
    with (path.parent / "anchors" / "anchors.csv").open() as file:
        real = {row["concept"] for row in csv.DictReader(file) if row["quality"] == "1" and row["photo"]}
    assert {*data.held_out.ids} < real and len(data.held_out.ids) == 5 and len(data.anchors) == 19
    assert (
        data.anchors.items["photo"].quality.tolist().count(0.5) == 12 and len(data.anchors.items["photo"].index) == 13
    )
    edit(path, "anchors/anchors.csv", lambda rows: [rows[0], *([*row[:-1], "0.5"] for row in rows[1:])])
    assert "no concept can be held out: 0 of 24 have a real item (quality 1) in each" in problems(path)[0]
    data = load(path, "silos.held_out=0")
    assert len(data.anchors) == 24 and data.held_out.modalities == ()


def test_one_item_under_two_concepts_is_not_on_both_sides(path):
    edit(
        path,
        "anchors/anchors.csv",
        lambda rows: [*rows[:1], *([row[0], rows[1][1], row[2]] for row in rows[1:13]), *rows[13:]],
    )
    shared = {"red tiny", "green tiny", "blue tiny", "yellow tiny", "black tiny", "pink tiny", "red small"}
    for seed in range(4):
        data = load(path, f"seed={seed}", "silos.held_out=0.5")
        assert not shared & {*data.held_out.ids} or shared <= {*data.held_out.ids}


SITE = """
[[silos.nodes]]
name = "clinic"
modality = "photo"
data = "scans.csv"
id = "id"
label = "colour"

[[silos.nodes]]
name = "clinic"
modality = "text"
data = "letters.csv"
id = "id"
group = "patient"
"""


def add_site(path):
    """A site with two modalities: letter i is of the patient of scan i, who may have several of both."""
    rows = [f"{c}/{f.name}" for c in ("red", "blue") for f in sorted((path.parent / "photos" / c).iterdir())]
    for row in rows:
        shutil.move(path.parent / "photos" / row, path.parent / f"{row.replace('/', '-')}")
    names = [row.replace("/", "-") for row in rows]
    table(
        path.parent / "scans.csv",
        [["id", "file", "colour"], *([f"P{i}", n, n.split("-")[0]] for i, n in enumerate(names))],
    )
    letters = [[f"P{i}", sentence("red", "tiny", 2000 + i), f"F{i // 2}"] for i in range(len(names))]
    table(path.parent / "letters.csv", [["id", "text", "patient"], *letters])
    path.write_text(path.read_text() + SITE)


def test_a_site_with_two_modalities_is_two_nodes_and_never_splits_a_patient(path):
    add_site(path)
    for seed in range(3):
        data = load(path, "silos.measure=rows", "silos.held_out=0.4", f"seed={seed}")
        assert [node.name for node in data.nodes] == ["shop", "desk", "clinic/photo", "clinic/text"]
        scans, letters = data.nodes[2].tokens, data.nodes[3].tokens
        whole = load(path, "silos.held_out=0", f"seed={seed}")
        kept = [
            {i for i, row in enumerate(whole.nodes[n].tokens) if any(np.array_equal(row, one) for one in some)}
            for n, some in ((2, scans), (3, letters))
        ]
        assert kept[0] == kept[1] and 0 < len(kept[0]) < len(whole.nodes[2].tokens)
        assert all((i in kept[0]) == ((i ^ 1) in kept[0]) for i in range(len(whole.nodes[2].tokens) // 2 * 2))
        assert any("clinic/text" in note and "no class, in a group held out" in note for note in data.notes)


def test_rows_held_out_are_a_share_of_each_node_and_of_no_other_group(wide):
    data = load(wide, "silos.measure=rows")
    assert not data.held_out.paired and len(data.nodes[0].tokens) == 64 and len(held(data, "photo")) == 16
    with (wide.parent / "texts.csv").open() as file:
        rows = list(csv.DictReader(file))
    whole = load(wide).nodes[1].tokens
    kept = {i for i, row in enumerate(whole) if any(np.array_equal(row, one) for one in data.nodes[1].tokens)}
    authors = [{rows[i]["author"] for i in some} for some in (kept, set(range(80)) - kept)]
    assert len(kept) == len(data.nodes[1].tokens) and not authors[0] & authors[1]
    assert 8 <= len(held(data, "text")) <= 16
    assert {data.classes[c] for c in data.nodes[1].labels if c != UNLABELLED} == {*data.classes}


def test_a_share_that_is_too_small_is_said_to_be(path):
    said = problems(path, "silos.measure=rows", "silos.held_out=0.01")[0]
    assert "raise it to 0.02 or more, for it is less than half of one of 40, or set held_out = 0" in said
    assert load(path, "silos.measure=rows", "silos.held_out=0.02").held_out.modalities
    said = problems(path, "silos.held_out=0.01")[0]
    assert "24 of 24 have a real item" in said and "raise it to 0.03 or more" in said
    assert load(path, "silos.held_out=0.03").held_out.modalities


def test_a_modality_that_is_not_measured_is_noted(wide):

    def told():
        data = load(wide, "silos.measure=rows", "silos.held_out=0.4", "seed=1")
        return data.held_out.modalities, [note for note in data.notes if "measured" in note]

    assert told() == (("photo", "text"), [])
    config(wide, 'label = "folder"\n', "")
    assert told() == (("text",), ["photo: not measured, for no node of it names its classes by label"])
    config(wide, 'modality = "photo"', 'modality = "photo"\nlabel = "folder"')
    config(wide, 'group = "author"', 'group = "colour"')
    assert told() == (("photo",), ["text: not measured, for none of its rows with a class could be held out"])


def test_of_each_class_stay_as_many_rows_as_a_sum_needs_or_it_is_not_measured(wide):
    """A class that fewer rows speak for gets no direction, and whoever is of it is never recognised."""
    assert KEPT >= MIN_EVIDENCE
    for file in sorted((wide.parent / "photos" / "red").iterdir())[KEPT:]:
        file.unlink()
    for seed in range(3):
        data = load(wide, "silos.measure=rows", "silos.held_out=0.9", f"seed={seed}")
        for node in data.nodes:
            assert min(Counter(node.labels[node.labels != UNLABELLED].tolist()).values()) >= KEPT
        with evaluation():
            assert {data.classes[c] for c in data.held_out.labels("photo")} == {*COLOURS} - {"red"}
        assert "photo: not measured on 'red', of which no row is held out; a node keeps 5 of a class" in data.notes[0]


def test_one_item_of_two_modalities_of_a_kind_is_not_on_both_sides(path):
    """A photograph of one concept that is the scan of another."""
    with (path.parent / "anchors" / "anchors.csv").open() as file:
        names = [row["concept"] for row in csv.DictReader(file)]
    edit(
        path,
        "anchors/anchors.csv",
        lambda rows: [
            [*rows[0], "scan"],
            *([*row, rows[1 + (i + 1) % 12 if i < 12 else i + 1][1]] for i, row in enumerate(rows[1:])),
        ],
    )
    node = '[[silos.nodes]]\nname = "ward"\nmodality = "scan"\ndata = "scans"\n'
    path.write_text(path.read_text() + '[silos.modalities.scan]\nkind = "image"\n' + node)
    draw(path.parent / "scans" / "0.png", "red", "tiny", 5000)
    shared, sides = {*names[:12]}, set()
    for seed in range(8):
        out = {*load(path, f"seed={seed}", "silos.held_out=0.5").held_out.ids}
        assert not shared & out or shared <= out
        sides.add(bool(shared & out))
    assert sides == {True, False}


def test_rows_need_classes_to_be_measured_and_groups_that_can_be_split(path):
    config(path, 'label = "folder"\n', "")
    config(path, 'label = "colour"\n', "")
    assert 'silos.measure = "rows" measures classes, and no node has labels' in problems(path, "silos.measure=rows")[0]
    assert load(path).nodes[0].labels is None
    config(path, 'group = "author"', 'group = "colour"\nlabel = "colour"')
    said = problems(path, "silos.measure=rows")[0]
    assert "no labelled row can be held out: every class of a node has to keep 5, and groups stay" in said


def test_one_group_for_all_rows_is_noted_or_where_no_other_node_is_measured_refused(wide):
    edit(wide, "texts.csv", lambda rows: [rows[0], *([*row[:3], "Ann"] for row in rows[1:])])
    assert not load(wide).notes, "by concepts nothing is held out of it"
    notes = load(wide, "silos.measure=rows").notes
    assert "desk: all rows are of one group, 'Ann' (group = 'author'); groups stay together" in " ".join(notes)
    config(wide, 'label = "folder"\n', "")
    (said,) = problems(wide, "silos.measure=rows")
    assert said.startswith("node 'desk': all rows are of one group") and "or leave group out" in said
