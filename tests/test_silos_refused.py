"""What cannot be a federation: every problem named with its place, rows that stand twice, what is left out."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image
from silos import config, edit, load, problems, table

from isogram.config_file import read_config
from isogram.data.base import UNLABELLED
from isogram.data.silos.check import check_config


@pytest.fixture
def path(own_silos):
    return own_silos


def spoil_photo(path):
    (path.parent / "photos" / "red" / "00.png").write_bytes(b"\x89PNG no")


def test_what_cannot_be_read_is_an_error_or_left_out_and_counted(path):
    spoil_photo(path)
    edit(path, "texts.csv", lambda rows: [*rows[:3], [rows[3][0], "", *rows[3][2:]], *rows[4:]])
    assert ["texts.csv, line 4, column 'text': empty" in line for line in problems(path)] == [True]
    edit(path, "texts.csv", lambda rows: [*rows[:3], *rows[4:]])
    assert len(said := problems(path)) == 1 and "photos/red/00.png: is no picture" in said[0]
    assert said[0].endswith("leave it out; silos.skip_bad = true leaves such rows out")
    data = load(path, "silos.skip_bad=true")
    assert [len(node.tokens) for node in data.nodes] == [39, 39]
    assert len(data.notes) == 1 and data.notes[0].startswith("shop: 1 of 40 rows left out: ")
    (path.parent / "anchors" / "photo" / "3.png").write_bytes(b"no")
    data = load(path, "silos.skip_bad=true", "silos.held_out=0")
    assert len(data.anchors) == 24 and len(data.anchors.items["photo"].index) == 23
    assert data.notes[0].startswith("anchors: 1 of 24 photo left out: ")


def test_of_rows_with_one_id_the_later_are_an_error_or_left_out_and_counted(path):
    edit(path, "texts.csv", lambda rows: [*rows, [rows[3][0], "another text of this id", *rows[3][2:]]])
    (said,) = problems(path)
    assert "its id 't2' is that of an earlier row (line 4)" in said and said.endswith("leaves such rows out")
    data = load(path, "silos.skip_bad=true")
    assert len(data.nodes[1].tokens) == 40 and data.notes[0].startswith("desk: 1 of 41 rows left out: ")
    (said,) = problems(path, *PRIVATE, "silos.skip_bad=true")
    assert said.startswith("ids that stand twice: ") and "skip_bad" not in said
    configuration = read_config(path, [*PRIVATE, "silos.skip_bad=true"])
    found = check_config(configuration, None, lambda *_: None)
    assert any("ids that stand twice" in line for one in found for line in one.problems)


def test_long_lists_of_bad_rows_are_cut(path):
    edit(path, "texts.csv", lambda rows: [rows[0], *([row[0], "", *row[2:]] for row in rows[1:])])
    said = problems(path)
    assert len(said) == 21 and said[-1].endswith("and 19 more rows: as above; isogram node check names all")
    (said,) = problems(path, "silos.skip_bad=true")
    assert "node 'desk': no row can be used" in said and said.endswith("(and 39 more: isogram node check names all)")
    edit(path, "texts.csv", lambda rows: [*rows, ["t99", "a row that can be used", "red", ""]])
    said = problems(path)
    assert len(said) == 21 and said[-1].endswith(" names all; silos.skip_bad = true leaves such rows out")


def test_a_node_without_a_row_that_can_be_read_is_a_few_lines(path):
    for file in (path.parent / "photos").rglob("*.png"):
        file.write_bytes(b"no picture " + file.name.encode())
    for more in ([], ["silos.skip_bad=true"]):  # to leave all of them out helps nobody
        said = problems(path, *more)
        assert len(said) == 21 and said[-1].endswith("and 19 more rows: as above; isogram node check names all")


def copy_anchor(path):
    shutil.copy(path.parent / "anchors" / "photo" / "5.png", path.parent / "photos" / "red" / "99.png")


def copy_text(path):
    with (path.parent / "anchors" / "anchors.csv").open() as file:
        text = list(csv.reader(file))[7][2]
    edit(path, "texts.csv", lambda rows: [*rows, ["new", text, "red", "me"]])


def name_concept(path):
    edit(path, "texts.csv", lambda rows: [*rows, ["red tiny", "something new", "red", "me"]])


def second_shop(path):
    shutil.copytree(path.parent / "photos" / "red", path.parent / "more" / "red")
    for number, file in enumerate(sorted((path.parent / "more" / "red").iterdir())):
        if number:
            file.unlink()
    shutil.copy(path.parent / "photos" / "blue" / "02.png", path.parent / "more" / "blue.png")
    rest = '[[silos.nodes]]\nname = "other"\nmodality = "photo"\ndata = "more"\nlabel = "folder"\n'
    path.write_text(path.read_text() + rest)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(path.parent / "more" / "own.png")


@pytest.mark.parametrize(
    ("spoil", "words", "left"),
    [
        (copy_anchor, "photo' (anchor) = /photos/red/99.png (private); a row is private", [40, 40]),
        (copy_text, "line 8, column 'text' (anchor) = /texts.csv, line 42 (private)", [40, 40]),
        (name_concept, "anchor 'red tiny' = /texts.csv, line 42 (private, by its id)", [40, 40]),
        (second_shop, "/photos/blue/02.png (node 'shop') = /more/blue.png (node 'other')", [40, 40, 1]),
    ],
    ids=["file", "text", "id", "two nodes"],
)
def test_rows_that_stand_twice_are_told_or_left_out(path, spoil, words, left):
    spoil(path)
    said = [line.replace(str(path.parent), "") for line in problems(path)]
    assert len(said) == 1 and said[0].startswith("rows that stand twice: ") and words in said[0], said
    assert said[0].endswith("; silos.skip_bad = true leaves such rows out")
    data = load(path, "silos.skip_bad=true")
    assert [len(node.tokens) for node in data.nodes] == left
    assert len(data.notes) == 1 and "rows left out: " in data.notes[0]


def test_a_picture_that_a_node_repeats_may_not_be_at_two(path):
    """It is no phrase: nobody takes the same one by chance."""
    second_shop(path)
    shutil.copy(path.parent / "photos" / "blue" / "02.png", path.parent / "photos" / "blue" / "99.png")
    assert "/photos/blue/02.png (node 'shop') = /more/blue.png (node 'other')" in problems(path)[0]


def test_short_texts_that_a_node_repeats_may_be_at_two(path):
    """Notes such as "all well" are no sign of a shared row; a text that nobody repeats is."""
    edit(path, "texts.csv", lambda rows: [*rows, *([f"w{i}", "all well", "red", ""] for i in range(2))])
    table(path.parent / "b.csv", [["text"], ["all well"], ["another one"], ["a third"]])
    path.write_text(path.read_text() + '[[silos.nodes]]\nname = "b"\nmodality = "text"\ndata = "b.csv"\n')
    assert [len(node.tokens) for node in load(path).nodes] == [40, 42, 3]
    with (path.parent / "texts.csv").open() as file:
        first = list(csv.reader(file))[1][1]
    edit(path, "b.csv", lambda rows: [*rows, [first]])
    assert "texts.csv, line 2 (node 'desk') = " in problems(path)[0]


BAD = {
    "labels outside the classes": (
        lambda p: config(p, "[silos]", '[silos]\nclasses = ["red", "green"]'),
        ["node 'shop': labels outside silos.classes:", "they are 'red', 'green': declare it there, correct the rows"],
    ),
    "a label misspelt": (
        lambda p: [
            config(p, "[silos]", '[silos]\nclasses = ["red", "green", "blue", "yellow", "black", "pink"]'),
            edit(p, "texts.csv", lambda rows: [[*r[:2], r[2].replace("ye", "je"), r[3]] for r in rows]),
        ],
        ["'jellow' (6 rows, the first ", "; did you mean 'yellow'?)"],
    ),
    "folder, of a table": (
        lambda p: config(p, 'label = "colour"', 'label = "folder"'),
        [
            "node 'desk': label = \"folder\" is for folders, and ",
            "name its column (there are 'id', 'text', 'colour', 'author'), or leave label out",
        ],
    ),
    "one class": (
        lambda p: [
            *(shutil.rmtree(p.parent / "photos" / c) for c in ("green", "blue", "yellow", "black", "pink")),
            edit(p, "texts.csv", lambda rows: [rows[0], *([*r[:2], "red", r[3]] for r in rows[1:])]),
        ],
        ["all labels are 'red': one class tells no rows apart; name another column, or leave label out"],
    ),
    "no class at all": (
        lambda p: [
            config(p, 'label = "folder"\n', ""),
            edit(p, "texts.csv", lambda rows: [rows[0], *([*r[:2], "", r[3]] for r in rows[1:])]),
        ],
        ["no row has a class ('desk': colour); fill in those you know, or leave label out"],
    ),
    "an absent column": (
        lambda p: config(p, '"colour"', '"color"'),
        ["no column label = 'color'; did you mean 'colour'?"],
    ),
    "an absent folder": (
        lambda p: config(p, '"photos"', '"fotos"'),
        ["no file or folder", "fotos; did you mean ", "/photos?"],
    ),
    "no UTF-8": (lambda p: (p.parent / "texts.csv").write_bytes(b"id,text\n1,\xe9\n"), ["line 2: byte 0xe9"]),
    "ids twice": (lambda p: edit(p, "texts.csv", lambda r: [*r, ["t3", "new", "red", ""]]), ["id 't3' is that of an"]),
    "an entry twice": (
        lambda p: p.write_text(p.read_text() + '[[silos.nodes]]\nname = "shop"\nmodality = "photo"\ndata = "x"\n'),
        ["silos.nodes stand twice: 'shop' with 'photo'; give each site"],
    ),
    "settings of nobody": (
        lambda p: config(p, "silos.modalities.photo", "silos.modalities.foto"),
        ["silos.modalities.foto: no node holds 'foto'; did you mean 'photo'?"],
    ),
    "an unknown kind": (
        lambda p: config(p, '"image"', '"imag"'),
        ["modality 'photo': there is no kind of data 'imag'; set `kind` of ", "; did you mean 'image'?"],
    ),
    "an unknown encoder": (
        lambda p: config(p, 'kind = "image"', 'kind = "image"\nencoder = "lite"'),
        ["modality 'photo': there is no encoder 'lite'; did you mean 'lite0'?"],
    ),
    "no anchor set": (lambda p: config(p, '"anchors"', '"ankers"'), ["anchors.csv", "ankers"]),
    "a modality without anchors": (
        lambda p: edit(p, "anchors/anchors.csv", lambda rows: [[row[0], row[2]] for row in rows]),
        ["anchors.csv: no column 'photo'"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_told_with_its_place_and_remedy(path, case):
    spoil, words = BAD[case]
    spoil(path)
    said = problems(path)
    for word in words:
        assert word in said[0], said


def test_all_problems_are_told_at_once(path):
    for name in ("an absent column", "an absent folder", "a modality without anchors"):
        BAD[name][0](path)
    assert len(problems(path)) == 3


def test_one_fault_is_one_problem(path):
    """Nothing is said of labels that may be in what cannot be read; and no fault hides another."""
    rows = ("silos.measure=rows",)
    BAD["an absent folder"][0](path)
    config(path, '"texts.csv"', '"text.csv"')
    assert ["no file or folder" in line for line in problems(path, *rows)] == [True, True]
    config(path, '"text.csv"', '"texts.csv"')
    edit(path, "texts.csv", lambda found: [found[0], *([*r[:2], "", r[3]] for r in found[1:])])
    assert len(problems(path, *rows)) == 1
    config(path, 'kind = "image"', 'kind = "txt"')
    config(path, '"anchors"', '"ankers"')
    config(path, 'group = "author"', 'group = "autor"')
    said = problems(path)
    assert len(said) == 3, said
    for line, words in zip(said, ("no kind of data 'txt'", "ankers", "did you mean 'author'?"), strict=True):
        assert words in line


PRIVATE = ("privacy.epsilon=8", 'silos.classes=["black","blue","green","pink","red","yellow"]')


def test_under_privacy_what_is_left_out_is_not_counted_but_said(path):
    spoil_photo(path)
    data = load(path, *PRIVATE, "silos.skip_bad=true")
    assert len(data.nodes[0].tokens) == 39
    assert data.notes == ("rows that cannot be used are left out, and under privacy.epsilon not counted",)


def test_under_privacy_no_row_decides_what_becomes_of_another(path):
    assert "under differential privacy no row may say which classes there are" in problems(path, PRIVATE[0])[0]
    before = load(path, *PRIVATE, "silos.measure=rows")
    edit(path, "texts.csv", lambda rows: [*rows[:2], *rows[3:]])
    after = load(path, *PRIVATE, "silos.measure=rows")
    np.testing.assert_array_equal(before.nodes[0].tokens, after.nodes[0].tokens)
    gone = [row for row in before.nodes[1].tokens if not any(np.array_equal(row, one) for one in after.nodes[1].tokens)]
    assert len(gone) <= 1 and len(after.nodes[1].tokens) >= len(before.nodes[1].tokens) - 1
    edit(path, "texts.csv", lambda rows: [rows[0], *([*row[:2], "", row[3]] for row in rows[1:])])
    data = load(path, *PRIVATE)
    assert data.nodes[1].labels is not None and (data.nodes[1].labels == UNLABELLED).all() and data.notes == ()
    copy_text(path)
    said = problems(path, *PRIVATE, "silos.skip_bad=true")[0]
    assert "rows that stand twice" in said and "skip_bad" not in said
