"""Silos become a federation: whatever the order of rows, nothing on both sides of a split, every problem named."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image
from silos import COLOURS, sentence, table, write_silos

from isogram.config_file import read_config
from isogram.data import evaluation, open_data
from isogram.data.base import UNLABELLED
from isogram.data.modalities.image import IMAGE
from isogram.data.silos.load import load_silos
from isogram.errors import DataError, IsogramError
from isogram.evaluation import evaluate
from isogram.federation import align


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOGRAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_silos(tmp_path_factory.mktemp("silos")).parent


@pytest.fixture
def path(written, tmp_path):
    shutil.copytree(written, tmp_path / "s")
    return tmp_path / "s" / "own.toml"


def load(path, *settings):
    return open_data(read_config(path, settings))


def problems(path, *settings):
    with pytest.raises(IsogramError) as caught:
        load(path, *settings)
    return caught.value.problems


def edit(path, name, change):
    file = path.parent / name
    with file.open(newline="") as opened:
        rows = list(csv.reader(opened))
    table(file, change(rows))


def config(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def held(data, modality):
    with evaluation():
        return data.held_out.tokens(modality)


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


def test_rows_held_out_are_a_share_of_each_node_and_of_no_other_group(path):
    data = load(path, "silos.measure=rows")
    assert not data.held_out.paired and len(data.nodes[0].tokens) == 32 and len(held(data, "photo")) == 8
    with (path.parent / "texts.csv").open() as file:
        rows = list(csv.DictReader(file))
    whole = load(path).nodes[1].tokens
    kept = {i for i, row in enumerate(whole) if any(np.array_equal(row, one) for one in data.nodes[1].tokens)}
    authors = [{rows[i]["author"] for i in some} for some in (kept, set(range(40)) - kept)]
    assert len(kept) == len(data.nodes[1].tokens) and not authors[0] & authors[1]
    assert 4 <= len(held(data, "text")) <= 8
    assert {data.classes[c] for c in data.nodes[1].labels if c != UNLABELLED} == {*data.classes}


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


def test_long_lists_of_bad_rows_are_cut(path):
    edit(path, "texts.csv", lambda rows: [rows[0], *([row[0], "", *row[2:]] for row in rows[1:])])
    said = problems(path)
    assert len(said) == 21 and said[-1].endswith("and 19 more rows: as above; isogram node check names all")
    (said,) = problems(path, "silos.skip_bad=true")
    assert "node 'desk': no row can be used" in said and said.endswith("(and 39 more: isogram node check names all)")
    edit(path, "texts.csv", lambda rows: [*rows, ["t99", "a row that can be used", "red", ""]])
    said = problems(path)
    assert len(said) == 21 and said[-1].endswith(" names all; silos.skip_bad = true leaves such rows out")


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
    "ids twice": (lambda p: edit(p, "texts.csv", lambda r: [*r, ["t3", "new", "red", ""]]), ["stand twice: 't3'"]),
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


def test_a_share_that_is_too_small_is_said_to_be(path):
    said = problems(path, "silos.measure=rows", "silos.held_out=0.01")[0]
    assert "raise it to 0.02 or more, for it is less than half of one of 40, or set held_out = 0" in said
    assert load(path, "silos.measure=rows", "silos.held_out=0.02").held_out.modalities
    said = problems(path, "silos.held_out=0.01")[0]
    assert "24 of 24 have a real item" in said and "raise it to 0.03 or more" in said
    assert load(path, "silos.held_out=0.03").held_out.modalities


def test_a_modality_that_is_not_measured_is_noted(path):

    def told():
        data = load(path, "silos.measure=rows")
        return data.held_out.modalities, [note for note in data.notes if "measured" in note]

    assert told() == (("photo", "text"), [])
    config(path, 'label = "folder"\n', "")
    assert told() == (("text",), ["photo: not measured, for no node of it names its classes by label"])
    config(path, 'modality = "photo"', 'modality = "photo"\nlabel = "folder"')
    config(path, 'group = "author"', 'group = "colour"')
    assert told() == (("photo",), ["text: not measured, for none of its rows with a class could be held out"])


def test_under_privacy_what_is_left_out_is_not_counted_but_said(path):
    spoil_photo(path)
    data = load(path, *PRIVATE, "silos.skip_bad=true")
    assert len(data.nodes[0].tokens) == 39
    assert data.notes == ("rows that cannot be used are left out, and under privacy.epsilon not counted",)


def test_a_node_without_a_row_that_can_be_read_is_a_few_lines(path):
    for file in (path.parent / "photos").rglob("*.png"):
        file.write_bytes(b"no picture " + file.name.encode())
    for more in ([], ["silos.skip_bad=true"]):  # to leave all of them out helps nobody
        said = problems(path, *more)
        assert len(said) == 21 and said[-1].endswith("and 19 more rows: as above; isogram node check names all")


def test_rows_need_classes_to_be_measured_and_groups_that_can_be_split(path):
    config(path, 'label = "folder"\n', "")
    config(path, 'label = "colour"\n', "")
    assert 'silos.measure = "rows" measures classes, and no node has labels' in problems(path, "silos.measure=rows")[0]
    assert load(path).nodes[0].labels is None
    config(path, 'group = "author"', 'group = "colour"\nlabel = "colour"')
    said = problems(path, "silos.measure=rows")[0]
    assert "no labelled row can be held out: every class of a node has to keep one" in said


def test_one_group_for_all_rows_is_noted_or_where_no_other_node_is_measured_refused(path):
    edit(path, "texts.csv", lambda rows: [rows[0], *([*row[:3], "Ann"] for row in rows[1:])])
    assert not load(path).notes, "by concepts nothing is held out of it"
    notes = load(path, "silos.measure=rows").notes
    assert "desk: all rows are of one group, 'Ann' (group = 'author'); groups stay together" in " ".join(notes)
    config(path, 'label = "folder"\n', "")
    (said,) = problems(path, "silos.measure=rows")
    assert said.startswith("node 'desk': all rows are of one group") and "or leave group out" in said


def test_a_node_of_one_class_among_others_is_noted(path):
    edit(path, "texts.csv", lambda rows: [rows[0], *([*row[:2], "red", row[3]] for row in rows[1:])])
    assert load(path).notes == ("desk: all its labels are 'red'",)


PRIVATE = ("privacy.epsilon=8", 'silos.classes=["black","blue","green","pink","red","yellow"]')


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
