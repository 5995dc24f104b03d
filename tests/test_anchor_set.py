import shutil

import numpy as np
import pandas as pd
import pytest
from anchor_sets import edit, put, read_rows, write_anchor_set, write_rows
from hypothesis import given
from hypothesis import strategies as st
from silos import as_nobody

from isogram.config import ModalityConfig
from isogram.data.anchor_set import guess_modalities, hash_anchor_set, read_anchor_set
from isogram.errors import DataError

KINDS = {
    "photo": ModalityConfig(kind="image"),
    "call": ModalityConfig(kind="audio"),
    "name": ModalityConfig(kind="text"),
    "lab": ModalityConfig(kind="table"),
}


@pytest.fixture
def folder(tmp_path):
    return write_anchor_set(tmp_path / "set")


def problems(folder, modalities=KINDS):
    with pytest.raises(DataError) as caught:
        read_anchor_set(folder, modalities)
    return caught.value.problems


def test_items_stand_at_the_positions_of_their_concepts(folder):
    edit(folder, put(1, photo="", quality="0.5", quality__name="0.25", provenance__name="synthetic: template"))
    edit(folder, lambda rows: rows[:0:-1], "lab.csv")
    anchors = read_anchor_set(folder, KINDS)
    assert anchors.concepts == ("c00", "c01", "c02", "c03", "c04", "c05")
    photo, name, lab = (anchors.items[modality] for modality in ("photo", "name", "lab"))
    assert photo.positions.tolist() == [0, 2, 3, 4, 5] and lab.positions.tolist() == [1, 2, 3, 4, 5]
    assert photo.items[1].path == folder / "photos" / "02.png"
    assert name.items[1].text == read_rows(folder / "anchors.csv")[1]["name"]
    first = read_rows(folder / "lab.csv")[-1]
    assert lab.items[0].values == tuple((key, float(first[key])) for key in ("x0", "x1", "x2"))
    assert anchors.items["call"].quality.tolist() == [1, 0.5, 1, 1, 1, 1] and name.quality[1] == 0.25
    assert lab.quality.tolist() == [0.5, 1, 1, 1, 1] and lab.quality.dtype == np.float32
    assert anchors.provenance["name"][:2] == ("made for tests", "synthetic: template")
    assert set(anchors.licence["photo"]) == {"CC0"}


def test_a_run_takes_the_modalities_it_asks_for_and_the_concepts_they_hold(folder):
    edit(folder, put(2, photo=""))
    anchors = read_anchor_set(folder, {"photo": KINDS["photo"]})
    assert list(anchors.items) == ["photo"]
    assert anchors.concepts == ("c00", "c01", "c03", "c04", "c05")
    assert anchors.items["photo"].positions.tolist() == [0, 1, 2, 3, 4]


def test_parquet_is_read_as_csv_is(folder):
    edit(folder, put(3, name="one, two", quality="0.5"))
    one = read_anchor_set(folder, KINDS), hash_anchor_set(folder)
    pd.DataFrame(read_rows(folder / "anchors.csv")).to_parquet(folder / "anchors.parquet")
    assert problems(folder) == (f"{folder} has anchors.csv and anchors.parquet; remove the one that is not up to date",)
    (folder / "anchors.csv").unlink()
    two = read_anchor_set(folder, KINDS)
    assert two.concepts == one[0].concepts and hash_anchor_set(folder) == one[1]
    assert two.items["name"].items[3].text == "one, two"
    assert two.items["name"].items[3].where == f"{folder / 'anchors.parquet'}, row 4, column 'name'"


def test_long_texts_may_stand_in_files(folder):
    (folder / "notes").mkdir()
    for row in range(6):
        (folder / "notes" / f"{row}.txt").write_text(f"note {row}")
        edit(folder, put(row, name=f"notes/{row}.txt"))
    items = read_anchor_set(folder, KINDS).items["name"].items
    assert [item.path.read_text() for item in items] == [f"note {row}" for row in range(6)]
    assert guess_modalities(folder)["name"].kind == "text"
    before = hash_anchor_set(folder)
    (folder / "notes" / "3.txt").write_text("another")
    assert hash_anchor_set(folder) != before


def test_kinds_are_guessed_by_suffix(folder):
    assert guess_modalities(folder) == KINDS
    shutil.copy(folder / "calls" / "00.wav", folder / "photos" / "00.wav")
    edit(folder, put(0, photo="photos/00.wav"))
    assert guess_modalities(folder)["photo"].kind == "file"


def test_all_that_is_wrong_is_said_at_once_with_its_line(folder):
    edit(folder, put(0, photo="photos/absent.png"))
    edit(folder, put(1, concept="c00", quality="2"))
    edit(folder, put(2, concept="", quality__name="high"))
    edit(folder, put(3, provenance="synthetic: espeak"))
    edit(folder, put(4, quality__phto="1"))
    edit(folder, put(0, x1="many"), "lab.csv")
    edit(folder, put(5, concept="c99"), "lab.csv")
    file = folder / "anchors.csv"
    assert problems(folder, KINDS | {"scan": ModalityConfig(kind="image")}) == (
        f"{file}: columns about modalities that it does not have: quality:phto; rename or drop them",
        f"{file}: column 'concept' is empty: line 4; name each concept",
        f"{file}: concepts that stand twice: 'c00' (line 2, line 3); keep one row of each",
        f"{file}, column 'photo': no such file in the folder: 'photos/absent.png' (line 2); add it, or leave the cell "
        "empty",
        f"{folder / 'lab.csv'}: concepts that anchors.csv does not have: 'c01' (line 3), 'c02' (line 4), 'c99' (line "
        "7); add or drop them",
        f"not a finite number: {folder / 'lab.csv'}, line 2, column 'x1': many; impute them, or drop the row; decimals "
        "are written with a point",
        f"{file}: no column 'scan'; there are 'concept', 'photo', 'call', 'name', 'provenance' and 4 more",
        f"quality that is not above 0 and at most 1: {file}, line 3, column 'quality': 2, {file}, line 4, column "
        "'quality:name': high; correct it, or leave the item out",
        f"{file}: synthetic items of quality 1: 'photo' (line 5), 'call' (line 5), 'name' (line 5), 'lab' (line 5); "
        "give them a lower one, such as 0.5",
    )


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        ("../secret.png", "leads out of the folder"),
        ("photos/../../secret.png", "leads out of the folder"),
        ("/etc/hostname", "leads out of the folder"),
        ("..\\secret.png", "leads out of the folder"),
        ("C:\\secret.png", "leads out of the folder"),
        ("C:secret.png", "leads out of the folder"),
        ("photos\\00.png", "a path with \\"),
        ("photos", "no such file in the folder"),
        ("x" * 5000 + ".png", "no name of a file"),
        ("link.png", "a link that leads out of the folder"),
        ("linked/secret.png", "a link that leads out of the folder"),
        ("circle.png", "no such file in the folder"),
    ],
)
def test_no_cell_leads_out_of_the_folder(folder, cell, what):
    (folder.parent / "secret.png").write_bytes((folder / "photos" / "00.png").read_bytes())
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "linked").symlink_to(folder.parent)
    (folder / "circle.png").symlink_to(folder / "circle.png")
    edit(folder, put(4, photo=cell))
    (problem,) = problems(folder)
    assert problem.startswith(f"{folder / 'anchors.csv'}, column 'photo': {what}: {cell[:100]!r} (line 6); ")
    with pytest.raises(DataError):
        hash_anchor_set(folder)


@pytest.mark.parametrize("name", ["anchors.csv", "lab.csv"])
def test_no_table_is_a_link_out_of_the_folder(folder, name):
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    assert len(problems(folder)) == 1


def test_links_within_the_folder_are_followed(folder):
    (folder / "again.png").symlink_to(folder / "photos" / "00.png")
    edit(folder, put(0, photo="again.png"))
    assert read_anchor_set(folder, KINDS).items["photo"].items[0].path == folder / "again.png"


def test_what_is_no_anchor_set_is_said_in_a_line(folder, tmp_path):
    assert problems(tmp_path / "none") == (
        f"no anchors.csv or anchors.parquet in {tmp_path / 'none'}, which is no folder; name the folder of an anchor "
        "set",
    )
    assert "no anchors.csv" in problems(tmp_path)[0]
    table = folder / "anchors.csv"
    table.write_text(table.read_text().replace("concept,", "Concept,"))
    assert problems(folder) == (f"{table}: no column 'concept'; did you mean 'Concept'?",)
    table.write_text("concept,photo\n")
    assert problems(folder) == (f"{table} holds no rows; fill it in",)
    table.write_text("concept,photo\na,\nb,\n")
    assert problems(folder, {"photo": KINDS["photo"]}) == (
        f"{table}: column 'photo' is empty; fill in its items, or leave that modality out",
    )
    table.write_text("concept,photo,license\na,photos/00.png,CC0\n")
    assert problems(folder, {"photo": KINDS["photo"]}) == (
        f"{table}: column 'license'; it is called 'licence' here: rename it",
    )


def test_a_table_of_its_own_has_the_columns_that_are_asked_for(folder):
    wanted = {"lab": ModalityConfig(kind="table", columns=("x2", "x0"))}
    values = read_anchor_set(folder, wanted).items["lab"].items[0].values
    assert [name for name, _ in values] == ["x2", "x0"]
    assert problems(folder, {"lab": ModalityConfig(kind="table", columns=("x9",))})[0].startswith(
        f"{folder / 'lab.csv'}: no column 'x9'"
    )
    assert problems(folder, {"blood": ModalityConfig(kind="table")}) == (
        f"no file {folder / 'blood.csv'}; a modality of kind table has one, with a column 'concept'",
    )
    (folder / "photo.csv").write_text("concept,x\nc00,1\n")
    with pytest.raises(DataError, match="are both called 'photo'"):
        hash_anchor_set(folder)


def test_other_files_do_not_belong_to_the_set(folder):
    """Notes and captions lie beside many a set; a table of numbers that cannot be read as one is never passed over."""
    before = hash_anchor_set(folder), guess_modalities(folder)
    (folder / "notes.csv").write_text("concept,comment\nc00,to be replaced\n")
    (folder / "2024.csv").write_text("year,comment\n2024,c00\n")
    (folder / "new.csv").write_text("concept,x\n")
    (folder / "old").mkdir()
    shutil.copy(folder / "lab.csv", folder / "old" / "lab.csv")
    (folder / "lab.tsv").write_text("concept\tx\nc00\t1\n")
    assert (hash_anchor_set(folder), guess_modalities(folder)) == before
    (folder / "lab-2.csv").write_text("concept;x\nc00;1\n")
    with pytest.raises(DataError, match=r"lab-2\.csv: cells are separated by ';'"):
        hash_anchor_set(folder)
    (folder / "lab-2.csv").write_text('concept,x\nc00,1\nc01,"2\n')
    with pytest.raises(DataError, match=r"lab-2\.csv: cannot read the row that begins on line 3"):
        hash_anchor_set(folder)
    (folder / "lab-2.csv").unlink()
    (folder / "lab-2.csv").symlink_to(folder.parent / "elsewhere.csv")
    (folder.parent / "elsewhere.csv").write_text("concept,x\nc00,1\n")
    with pytest.raises(DataError, match=r"lab-2\.csv: a link that leads out of the folder"):
        hash_anchor_set(folder)


def test_most_cells_say_whether_a_column_is_of_files(folder):
    (folder / "LICENSE").write_text("to all")
    edit(folder, put(0, name="LICENSE"))
    assert guess_modalities(folder) == KINDS and read_anchor_set(folder, KINDS).items["name"].items[0].text == "LICENSE"
    for row in range(6):
        (folder / "calls" / f"{row:02}.wav").rename(folder / "calls" / f"{row:02}")
        edit(folder, put(row, call=f"calls/{row:02}"))
    assert guess_modalities(folder)["call"].kind == "file"
    (folder / "calls" / "03").unlink()
    with pytest.raises(DataError, match=r"column 'call': no such file in the folder: 'calls/03' \(line 5\)"):
        hash_anchor_set(folder)


def test_a_missing_file_does_not_turn_a_column_of_files_into_texts(folder):
    for row in range(6):
        (folder / f"{row}.txt").write_text(f"note {row}")
        edit(folder, put(row, name=f"{row}.txt"))
    (folder / "2.txt").unlink()
    for modalities in (KINDS, guess_modalities(folder)):
        (problem,) = problems(folder, modalities)
        assert "column 'name': no such file in the folder: '2.txt' (line 4); add it" in problem


def test_texts_that_end_as_files_do_are_texts(folder):
    names = ["node.js", "J.K", "photo.png", "Vue.js", "U.S.A", "St.Gallen"]
    for row, name in enumerate(names):
        edit(folder, put(row, name=name))
    for modalities in (KINDS, guess_modalities(folder)):
        assert [item.text for item in read_anchor_set(folder, modalities).items["name"].items] == names
    for row in range(6):  # in a column that nobody knows, all of one ending are texts, but for paths
        edit(folder, put(row, name=f"visit shop{row}.com"))
    assert guess_modalities(folder)["name"].kind == "text" and hash_anchor_set(folder)
    for row in range(6):
        edit(folder, put(row, name=f"parts/{row}.js"))
    assert read_anchor_set(folder, KINDS).items["name"].items[3].text == "parts/3.js"
    assert guess_modalities(folder)["name"].kind == "file"
    edit(folder, lambda rows: [{"text" if key == "name" else key: cell for key, cell in row.items()} for row in rows])
    assert guess_modalities(folder)["text"].kind == "text" and hash_anchor_set(folder)


def test_without_a_configuration_all_is_said_at_once_too(folder):
    edit(folder, put(1, concept="c00"))
    edit(folder, put(2, photo="../secret.png"))
    edit(folder, put(3, call="calls/none.wav"))
    edit(folder, put(4, quality="7"))
    edit(folder, lambda rows: [row | {"x0": "high"} if row["concept"] == "c05" else row for row in rows], "lab.csv")
    with pytest.raises(DataError) as caught:
        hash_anchor_set(folder)
    told = [
        "'c00' (line 2, line 3)", "'../secret.png' (line 4)", "'calls/none.wav' (line 5)", "'c01' (line 3)",
        "lab.csv, line 7, column 'x0': high", "line 6, column 'quality': 7",
    ]  # fmt: skip
    assert all(part in line for part, line in zip(told, caught.value.problems, strict=True))


def test_all_files_that_may_not_be_read_are_named(closed):
    folder = write_anchor_set(closed / "set")
    for path in folder.rglob("*.*"):
        if path.parent != folder:
            path.chmod(0)
    with as_nobody(), pytest.raises(DataError) as caught:
        hash_anchor_set(folder)
    assert len(caught.value.problems) == 12
    assert all("(Permission denied); get permission to read it" in line for line in caught.value.problems)


def test_a_table_beside_the_set_that_may_not_be_read_is_told(closed):
    """Nobody can say whether it belongs to the set; folders and links to nowhere do not."""
    folder = write_anchor_set(closed / "set")
    before = hash_anchor_set(folder)
    (folder / "odd.csv").mkdir()
    (folder / "lost.csv").symlink_to(folder / "nowhere.csv")
    assert hash_anchor_set(folder) == before
    (folder / "shut.csv").write_text("concept,x\nc00,1\n")
    (folder / "shut.csv").chmod(0)
    with as_nobody():
        with pytest.raises(DataError) as caught:
            hash_anchor_set(folder)
        assert caught.value.problems == (f"cannot read {folder / 'shut.csv'}: Permission denied; name a table",)
        assert read_anchor_set(folder, KINDS).concepts, "a run asks for what it needs"


def renamed(folder):
    """The same items under other names of files, in another folder."""
    rows = read_rows(folder / "anchors.csv")
    (folder / "all").mkdir()
    for row in rows:
        for name in ("photo", "call"):
            new = f"all/{row['concept']} of {row[name].replace('/', '-')}"
            (folder / row[name]).rename(folder / new)
            row[name] = new
    write_rows(folder / "anchors.csv", rows)


@given(
    rows=st.permutations(range(6)),
    columns=st.permutations(["concept", "photo", "call", "name", "provenance", "quality", "licence"]),
    lab=st.permutations(["concept", "x0", "x1", "x2"]),
    end=st.sampled_from(["\n", "\r\n"]),
    rename=st.booleans(),
    mark=st.booleans(),
)
def test_the_hash_is_of_what_matters_not_of_how_it_is_written(tmp_path_factory, rows, columns, lab, end, rename, mark):
    folder = write_anchor_set(tmp_path_factory.mktemp("set"))
    edit(folder, put(2, name="two\nlines", quality="0.5"))
    before = hash_anchor_set(folder)
    if rename:
        renamed(folder)
    for name, order in (("anchors.csv", columns), ("lab.csv", lab)):
        found = read_rows(folder / name)
        write_rows(folder / name, [{column: found[row][column] for column in order} for row in rows], end)
    edited = (folder / "anchors.csv").read_bytes().replace(b"0.5", b".50").replace(b"CC0", b"CC0-1.0")
    (folder / "anchors.csv").write_bytes((b"\xef\xbb\xbf" if mark else b"") + edited.replace(b"\n", end.encode()))
    if end == "\r\n":
        (folder / "anchors.csv").write_bytes(edited.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert hash_anchor_set(folder) == before


@given(
    row=st.integers(0, 5),
    change=st.sampled_from(
        [
            {"concept": "other"},
            {"name": "another text"},
            {"name": ""},
            {"quality": "0.99"},
            {"quality:call": "0.5"},
            {"photo": ""},
        ]
    ),
)
def test_the_hash_changes_with_any_item(tmp_path_factory, row, change):
    folder = write_anchor_set(tmp_path_factory.mktemp("set"), columns=("photo", "call", "name"))
    before = hash_anchor_set(folder)
    edit(folder, put(row, **{name.replace(":", "__"): text for name, text in change.items()}))
    assert hash_anchor_set(folder) != before


def test_the_hash_changes_with_any_byte_of_a_file_and_any_number_of_a_table(folder):
    seen = {hash_anchor_set(folder)}
    for path in ("photos/03.png", "calls/05.wav"):
        content = (folder / path).read_bytes()
        (folder / path).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        seen.add(hash_anchor_set(folder))
    edit(folder, put(4, x2="0.123"), "lab.csv")
    seen.add(hash_anchor_set(folder))
    edit(folder, lambda rows: [{**row, "x3": row.pop("x2")} for row in rows], "lab.csv")
    seen.add(hash_anchor_set(folder))
    edit(folder, lambda rows: [{**row, "calls": row.pop("call")} for row in rows])
    seen.add(hash_anchor_set(folder))
    assert len(seen) == 6


def test_items_that_change_places_change_the_hash(folder):
    before = hash_anchor_set(folder)
    rows = read_rows(folder / "anchors.csv")
    rows[0]["photo"], rows[1]["photo"] = rows[1]["photo"], rows[0]["photo"]
    write_rows(folder / "anchors.csv", rows)
    assert hash_anchor_set(folder) != before
