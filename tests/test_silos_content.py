"""What is the same row: by what encoders see and by whose it is, never by bytes; it is on one side of a split."""

import json
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image
from silos import COLOURS, draw, held, load, problems, sentence, table, things

CLASSES = 'silos.classes=["black","blue","green","pink","red","yellow"]'
ROWS = ("silos.measure=rows", "silos.held_out=0.4")
PRIVATE = ("privacy.epsilon=8", CLASSES, *ROWS)


@pytest.fixture
def path(own_silos):
    return own_silos


def add(path, text):
    path.write_text(path.read_text() + text)


def node(name, modality, data, **more):
    keys = {"name": name, "modality": modality, "data": data} | more
    return "\n[[silos.nodes]]\n" + "".join(f'{key} = "{value}"\n' for key, value in keys.items())


def alike(one, other):
    """Rows that two sets of tokens have in common."""
    return {row.tobytes() for row in one} & {row.tobytes() for row in other}


# The same content in other bytes.


def test_a_picture_saved_in_another_format_is_still_the_anchor(path):
    with Image.open(path.parent / "anchors" / "photo" / "5.png") as image:
        image.convert("RGBA").save(path.parent / "photos" / "red" / "99.bmp")
    said = problems(path)
    assert len(said) == 1 and "photo' (anchor) = /photos/red/99.bmp (private)" in said[0]


def test_a_text_in_a_file_with_other_line_ends_and_letters_is_still_the_anchor(path):
    anchor = "caf\u00e9\nau lait"
    rows = [["concept", "photo", "text"]]
    rows += [[f"c{i}", f"photo/{i}.png", anchor if i == 5 else sentence("red", "tiny", 900 + i)] for i in range(24)]
    table(path.parent / "anchors" / "anchors.csv", rows)
    (path.parent / "notes").mkdir()
    same = unicodedata.normalize("NFD", anchor).replace("\n", "\r\n") + "\n"
    (path.parent / "notes" / "a.txt").write_bytes(same.encode())
    (path.parent / "notes" / "b.txt").write_text("something else")
    add(path, node("pad", "text", "notes"))
    said = problems(path)
    assert len(said) == 1 and "(anchor) = /notes/a.txt (private)" in said[0]


def test_a_sequence_in_lower_case_is_still_the_anchor(path):
    draw_ = np.random.default_rng(0)
    letters = ["".join(draw_.choice(list("ACGT"), 30)) for _ in range(24)]
    rows = [["concept", "photo", "text", "dna"]]
    rows += [[f"c{i}", f"photo/{i}.png", sentence("red", "tiny", 900 + i), letters[i]] for i in range(24)]
    table(path.parent / "anchors" / "anchors.csv", rows)
    (path.parent / "x.fa").write_text(f">a\nACGTACCA\n>b\n{letters[7].lower().replace('t', 'u')}\n")
    add(path, '\n[silos.modalities.dna]\nkind = "sequence"\n' + node("lab", "dna", "x.fa"))
    said = problems(path)
    assert len(said) == 1 and "'dna' (anchor) = /x.fa, line 3 (private)" in said[0]


def test_a_zero_below_zero_is_still_the_anchors(path):
    lab = [["concept", "a", "b"], *([f"{colour} tiny", f"{i / 7:.3f}", "0"] for i, colour in enumerate(COLOURS))]
    table(path.parent / "anchors" / "lab.csv", lab)
    table(path.parent / "rows.csv", [["a", "b"], ["0.143", "-0.0"], ["9.5", "0"], ["7.5", "-0.0"]])
    add(path, '\n[silos.modalities.lab]\nkind = "table"\n' + node("lab", "lab", "rows.csv"))
    said = problems(path)
    assert len(said) == 1 and "/anchors/lab.csv, line 3 (anchor) = /rows.csv, line 2 (private)" in said[0]


def test_copies_of_one_row_in_other_formats_are_never_on_both_sides(path):
    for file in sorted((path.parent / "photos").rglob("*.png")):
        with Image.open(file) as image:
            image.save(file.with_name(f"{file.stem}-again.tif"))
    for seed in range(3):
        data = load(path, *ROWS, f"seed={seed}")
        assert len(held(data, "photo")) > 10 and not alike(data.nodes[0].tokens, held(data, "photo"))


def test_anchors_of_another_modality_of_the_same_kind_are_not_private_either(path):
    rows = [["concept", "photo", "text", "scan"]]
    for i in range(24):
        draw(path.parent / "anchors" / "scan" / f"{i}.png", "blue", "tiny", 5000 + i)
        rows.append([f"c{i}", f"photo/{i}.png", sentence("red", "tiny", 900 + i), f"scan/{i}.png"])
    table(path.parent / "anchors" / "anchors.csv", rows)
    for i in range(4):
        draw(path.parent / "scans" / f"{i}.png", "red", "tiny", 6000 + i)
    add(path, '\n[silos.modalities.scan]\nkind = "image"\n' + node("ward", "scan", "scans"))
    assert len(load(path).nodes) == 3
    shutil.copy(path.parent / "anchors" / "scan" / "3.png", path.parent / "photos" / "red" / "99.png")
    shutil.copy(path.parent / "photos" / "blue" / "02.png", path.parent / "scans" / "9.png")
    said = problems(path)
    assert len(said) == 1 and "'scan' (anchor) = /photos/red/99.png (private)" in said[0]
    assert "/photos/blue/02.png (node 'shop') = /scans/9.png (node 'ward')" in said[0]


# Rows of one patient at one site.


def test_a_site_may_see_one_picture_in_two_modalities_but_on_one_side(path):
    rows = [["concept", "photo", "text", "scan"]]
    for i in range(24):
        draw(path.parent / "anchors" / "scan" / f"{i}.png", "blue", "tiny", 5000 + i)
        rows.append([f"c{i}", f"photo/{i}.png", sentence("red", "tiny", 900 + i), f"scan/{i}.png"])
    table(path.parent / "anchors" / "anchors.csv", rows)
    for number, file in enumerate(sorted((path.parent / "photos").rglob("*.png"))):
        other = path.parent / "scans" / file.parent.name / f"other {number}.png"
        other.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, other)
    add(path, '\n[silos.modalities.scan]\nkind = "image"\n' + node("shop", "scan", "scans", label="folder"))
    for seed in range(3):
        photos, n = kept(path, 0, *ROWS, f"seed={seed}")
        scans, _ = kept(path, 2, *ROWS, f"seed={seed}")
        assert 0 < len(photos) < n
        whole = load(path, "silos.held_out=0")
        assert {whole.nodes[0].tokens[i].tobytes() for i in photos} == {
            whole.nodes[2].tokens[i].tobytes() for i in scans
        }
    (said,) = problems(path, *PRIVATE)
    assert "site 'shop': copies of one row that privacy.epsilon draws apart: /scans/" in said


def two_folders(path, **more):
    """A clinic with pictures and texts of the same 48 patients; a text per picture, told apart by its number."""
    for i, (colour, size) in enumerate(things(48, 5)):
        draw(path.parent / "scans" / colour / f"P{i}.png", colour, size, 3000 + i)
        (path.parent / "letters" / colour).mkdir(parents=True, exist_ok=True)
        (path.parent / "letters" / colour / f"P{i}.txt").write_text(sentence(colour, size, 3000 + i))
    add(path, node("clinic", "photo", "scans", label="folder", **more) + node("clinic", "text", "letters", **more))


def kept(path, node, *settings):
    """Patients of which a node trains on a row, and all that it has."""
    whole = [one.tobytes() for one in load(path, "silos.held_out=0").nodes[node].tokens]
    some = {one.tobytes() for one in load(path, *settings).nodes[node].tokens}
    return {i for i, row in enumerate(whole) if row in some}, len(whole)


@pytest.mark.parametrize("settings", [ROWS, PRIVATE], ids=["", "private"])
def test_files_of_one_name_in_two_folders_of_a_site_are_of_one_patient(path, settings):
    two_folders(path)
    for seed in range(3):
        scans, n = kept(path, 2, *settings, f"seed={seed}")
        letters, _ = kept(path, 3, *settings, f"seed={seed}")
        assert scans == letters and 0 < len(scans) < n


def test_files_in_folders_of_classes_and_others_that_are_not_are_of_one_patient(path):
    """Which part of a path is a name, all rows decide together: where none may, the two ways are refused."""
    two_folders(path)
    for file in (path.parent / "letters").rglob("*.txt"):
        file.rename(path.parent / "letters" / file.name)
    names = [sorted((path.parent / folder).rglob("P*")) for folder in ("scans", "letters")]
    for seed in range(3):
        scans, letters = ({names[n][i].stem for i in kept(path, 2 + n, *ROWS, f"seed={seed}")[0]} for n in range(2))
        assert scans == letters and 0 < len(scans) < 48
    (said,) = problems(path, *PRIVATE)
    assert said.startswith("site 'clinic': rows of one name that privacy.epsilon draws apart: /letters/P0.txt = /scans")
    assert "give them the same path or id in each modality, or all of them one group" in said


@pytest.mark.parametrize("settings", [ROWS, PRIVATE], ids=["", "private"])
def test_groups_of_one_node_are_ids_of_another_that_has_none(path, settings):
    """Scans have the patient as id, letters as group and no id."""
    named = things(48, 5)
    scans, letters = [["id", "file", "colour"]], [["text", "colour", "patient"]]
    for i, (colour, size) in enumerate(named):
        draw(path.parent / "scans" / f"{i}.png", colour, size, 3000 + i)
        scans.append([f"P{i}", f"scans/{i}.png", colour])
        letters += [[sentence(colour, size, 3000 + 2 * i + j), colour, f"P{i}"] for j in range(2)]
    table(path.parent / "scans.csv", scans)
    table(path.parent / "letters.csv", letters)
    add(path, node("clinic", "photo", "scans.csv", id="id", label="colour"))
    add(path, node("clinic", "text", "letters.csv", column="text", label="colour", group="patient"))
    if settings == PRIVATE:
        (said,) = problems(path, *settings)
        assert "site 'clinic': clinic/text has a group, and clinic/photo has none" in said and "give each" in said
        path.write_text(path.read_text().replace('"scans.csv"\nid = "id"', '"scans.csv"\nid = "id"\ngroup = "id"'))
    for seed in range(3):
        mine, n = kept(path, 2, *settings, f"seed={seed}")
        theirs, _ = kept(path, 3, *settings, f"seed={seed}")
        assert {2 * i + j for i in mine for j in range(2)} == theirs and 0 < len(mine) < n


def test_under_privacy_a_row_without_a_group_stands_nowhere(path):
    two_folders(path, group="folder")
    path.write_text(path.read_text().replace('label = "folder"\ngroup = "folder"', 'group = "folder"'))
    shutil.copy(path.parent / "scans" / "red" / "P0.png", path.parent / "scans" / "own.png")
    (path.parent / "scans" / "red" / "P0.png").unlink()
    (said,) = problems(path, *PRIVATE)
    assert "rows without a group: /scans/own.png" in said and "privacy.epsilon" in said
    load(path, *PRIVATE[:2], "silos.measure=anchors")


def test_under_privacy_copies_are_on_one_side_or_an_error(path):
    for number, file in enumerate(sorted((path.parent / "photos").rglob("*.png"))):
        with Image.open(file) as image:
            image.save(file.with_name(f"{number}-again.bmp"))
    for seed in range(3):
        data = load(path, *PRIVATE, f"seed={seed}")
        assert len(held(data, "photo")) > 5 and not alike(data.nodes[0].tokens, held(data, "photo"))
    rows = [["id", "text", "colour", "author"]]
    rows += [[f"t{i}", sentence(*one, i % 39), one[0], f"writer {i}"] for i, one in enumerate(things(39, 2) * 2)][:40]
    rows[40][1] = rows[1][1]
    table(path.parent / "texts.csv", rows)
    (said,) = problems(path, *PRIVATE)
    assert "copies of one row" in said and "/texts.csv, line 41 = /texts.csv, line 2" in said and "one group" in said


# What `folder` means.


def test_classes_and_groups_of_folders_are_both_counted_from_the_top(path):
    for file in sorted((path.parent / "photos").rglob("*.png")):
        patient = (
            path.parent / "photos" / file.parent.name / f"P{int(file.stem) % 20}" / f"visit {int(file.stem) // 20}"
        )
        patient.mkdir(parents=True, exist_ok=True)
        file.rename(patient / file.name)
    path.write_text(path.read_text().replace('label = "folder"', 'label = "folder"\ngroup = "folder"'))
    names = [int(file.stem) % 20 for file in sorted((path.parent / "photos").rglob("*.png"))]
    for seed in range(3):
        mine, n = kept(path, 0, *ROWS, f"seed={seed}")
        assert 0 < len(mine) < n and not {names[i] for i in mine} & {names[i] for i in set(range(n)) - mine}


def test_labels_that_only_differ_in_how_a_letter_is_composed_are_one_class(path):
    plain = {colour: f"{colour}\u00e9" for colour in COLOURS}
    rows = [["id", "text", "colour", "author"]]
    for i, one in enumerate(things(40, 2)):
        label = plain[one[0]] if i % 2 else unicodedata.normalize("NFD", plain[one[0]])
        rows.append([f"t{i}", sentence(*one, i), label, f"writer {i % 16}"])
    table(path.parent / "texts.csv", rows)
    for colour in COLOURS:
        (path.parent / "photos" / colour).rename(path.parent / "photos" / unicodedata.normalize("NFD", plain[colour]))
    data = load(path)
    assert data.classes == tuple(sorted(plain.values()))
    assert set(data.nodes[0].labels.tolist()) == set(range(6))
    names = [unicodedata.normalize("NFD", name) for name in plain.values()]
    assert load(path, f"silos.classes={json.dumps(names, ensure_ascii=False)}").classes == tuple(plain.values())
