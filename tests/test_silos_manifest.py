"""What a node holds, by folder, table or FASTA: its items with ids, classes, groups; and what is wrong, by line."""

import os

import pytest
from silos import as_nobody, table

from isogram.config import ModalityConfig, SiloNode
from isogram.data.modalities import KINDS
from isogram.data.modalities.base import BadItem, Item, path_of
from isogram.data.sheets import Problems
from isogram.data.silos.manifest import read_manifest
from isogram.data.silos.tables import read_table


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def read(data, kind, *, columns=(), **settings):
    """The manifest and its problems."""
    problems = Problems()
    node = SiloNode(**{"name": "shop", "modality": kind, "data": data} | settings)
    return read_manifest(node, ModalityConfig(kind=kind, columns=columns), problems), problems


def good(*args, **settings):
    found, problems = read(*args, **settings)
    assert problems == []
    assert len(found.items) == len(found.ids) == len(found.groups) and len(found.labels or found.ids) == len(found.ids)
    return found


def test_a_folder_gives_every_file_of_the_kind_in_the_order_of_names(tmp_path):
    files(
        tmp_path, "b/2.PNG", "b/deep/1.jpg", "a/1.png", "3.webp", ".hidden/1.png", "a/.1.png", "a/notes.txt", "Thumbs"
    )
    found = good(tmp_path, "image", label="folder", group="folder")
    assert found.ids == ["3.webp", "a/1.png", "b/2.PNG", "b/deep/1.jpg"]
    assert found.labels == ["", "a", "b", "b"] and found.groups == ["", "", "", "deep"]
    assert [item.path for item in found.items] == [tmp_path / name for name in found.ids]
    assert found.notes == [f"{tmp_path}: 2 other files passed over (1 .txt, 1 no suffix)"]
    assert good(tmp_path, "image").labels is None and set(good(tmp_path, "image").groups) == {""}
    assert good(tmp_path, "image", group="folder").groups == ["", "a", "b", "b"], "both are counted from the top"
    assert found.names == [("3",), ("a/1", "1"), ("b/2", "2"), ("b/deep/1", "deep/1", "deep")]


def test_paths_of_a_table_count_from_its_folder_or_are_absolute(tmp_path):
    there = files(tmp_path / "else", "9.png") / "9.png"
    files(tmp_path / "t", "p/1.png", "p/2.png")
    table(
        tmp_path / "t" / "t.csv",
        [
            ["n", "file", "what", "who"],
            ["7", "p/2.png", "cat", "P1"],
            ["8", str(there), "", "P1"],
            ["9", "p/1.png", "dog", ""],
        ],
    )
    found = good(tmp_path / "t" / "t.csv", "image", id="n", label="what", group="who")
    assert [item.path for item in found.items] == [tmp_path / "t/p/2.png", there, tmp_path / "t/p/1.png"]
    assert found.ids == ["7", "8", "9"] and found.labels == ["cat", "", "dog"] and found.groups == ["P1", "P1", ""]
    assert found.named and found.columns == {"items": "file", "id": "n", "label": "what", "group": "who"}
    assert found.items[0].where.endswith("t.csv, line 2)")
    without = good(tmp_path / "t" / "t.csv", "image")
    assert (
        without.ids == ["line 2", "line 3", "line 4"] and not without.named and without.unused == ["n", "what", "who"]
    )


def test_texts_stand_in_cells_or_in_files(tmp_path):
    table(tmp_path / "t.csv", [["id", "age", "note"], ["1", "30", "one\r\nline"], ["2", "", "see 2.txt"]])
    found = good(tmp_path / "t.csv", "text", id="id")
    assert [item.text for item in found.items] == ["one\nline", "see 2.txt"] and found.columns["items"] == "note"
    files(tmp_path, "a/1.txt", "a/2.txt")
    table(tmp_path / "u.csv", [["note"], ["a/1.txt"], ["a/2.txt"]])
    assert [item.path for item in good(tmp_path / "u.csv", "text").items] == [
        tmp_path / "a/1.txt",
        tmp_path / "a/2.txt",
    ]
    assert good(tmp_path / "a", "text").ids == ["1.txt", "2.txt"]


def test_the_column_of_items_is_named_or_has_the_modalitys_name_or_is_the_only_one(tmp_path):
    table(tmp_path / "t.csv", [["de", "fr", "class"], ["Hund", "chien", "a"], ["Katze", "chat", "b"]])
    for settings in ({"modality": "fr"}, {"column": "fr"}, {"column": "fr", "modality": "de"}):
        assert [item.text for item in good(tmp_path / "t.csv", "text", **settings).items] == ["chien", "chat"]
    assert [i.text for i in good(tmp_path / "t.csv", "text", label="class", id="de").items] == ["chien", "chat"]
    found, problems = read(tmp_path / "t.csv", "text", label="class")
    assert problems == [
        f"node 'shop': {tmp_path / 't.csv'}: columns 'de', 'fr' all may be its text; say it by column = NAME "
        "(--column NAME)"
    ]
    assert found.items == []
    _, problems = read(tmp_path / "t.csv", "image")
    assert "none of the columns 'de', 'fr', 'class' has its paths of files (.bmp, .gif" in problems[0]
    _, problems = read(tmp_path / "t.csv", "text", column="fra", label="clas")
    assert "no column label = 'clas'; did you mean 'class'?" in problems[0]
    assert "no column column = 'fra'; did you mean 'fr'?" in problems[1]


def test_rows_of_numbers_are_all_columns_of_numbers_or_those_named(tmp_path):
    table(
        tmp_path / "t.csv",
        [["id", "a", "b", "site", "ill"], ["p", "1", "-2.5e-3", "x", "1"], ["q", "0.1", "7", "y", "0"]],
    )
    found = good(tmp_path / "t.csv", "table", id="id", label="ill")
    assert [item.values for item in found.items] == [(("a", 1.0), ("b", -0.0025)), (("a", 0.1), ("b", 7.0))]
    assert found.labels == ["1", "0"] and found.unused == ["site"] and found.columns["numbers"] == "a, b"
    found = good(tmp_path / "t.csv", "table", columns=("b", "ill"))
    assert found.items[0].values == (("b", -0.0025), ("ill", 1.0)) and found.unused == ["id", "a", "site"]
    _, problems = read(tmp_path / "t.csv", "table", columns=("bb",))
    assert "no column columns = 'bb'; did you mean 'b'?" in problems[0]


def test_parquet_is_read_as_csv_is(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"note": ["a", "b"], "n": [1, 2], "ill": [True, None]}), tmp_path / "t.parquet")
    found = good(tmp_path / "t.parquet", "text", label="ill", id="n")
    assert [i.text for i in found.items] == ["a", "b"] and found.labels == ["true", ""] and found.ids == ["1", "2"]
    assert found.items[1].where.endswith("t.parquet, row 2")


def test_each_record_of_a_fasta_file_is_an_item(tmp_path):
    path = tmp_path / "x.fa"
    path.write_text("\n>s1 Homo sapiens\nACGT\nAC\n\n; a comment\n>s2\nggg\n")
    found = good(path, "sequence")
    assert [item.text for item in found.items] == ["ACGTAC", "ggg"] and found.ids == ["s1", "s2"] and found.named
    assert found.items[1].where == f"{path}, line 7"
    table(tmp_path / "t.csv", [["id", "dna"], ["s1", "ACGT"]])
    assert good(tmp_path / "t.csv", "sequence", id="id").items[0].text == "ACGT"


def test_rows_that_cannot_be_items_are_named_by_line_and_column(tmp_path):
    files(tmp_path, "1.png")
    table(
        tmp_path / "t.csv",
        [
            ["id", "p"],
            ["a", "1.png"],
            ["b", ""],
            ["c", "2.png"],
            ["", "1.png"],
            ["e", "x\\1.png"],
            ["f", "x" * 5000 + ".png"],
        ],
    )
    found, problems = read(tmp_path / "t.csv", "image", id="id")
    assert problems == [] and found.ids == ["a"] and len(found) == 6
    text = "\n".join(found.bad)
    for words in (
        "line 3, column 'p': empty; fill it in, or drop the row",
        "line 4, column 'p': no file '2.png'; paths count from the table's folder",
        "line 5, column 'id': no id; give each row its own",
        "line 6, column 'p': no file 'x\\\\1.png'; write / between folders",
        "line 7, column 'p': no file 'xxx",
    ):
        assert words in text
    table(tmp_path / "n.csv", [["a", "b"], ["1", "2"], ["", "n/a"], ["3", "4"], ["inf", "5"]])
    found, problems = read(tmp_path / "n.csv", "table")
    assert problems == [] and len(found.items) == 2
    assert "line 3, no finite number in column 'a': empty, 'b': n/a; impute it or drop the row" in found.bad[0]
    assert "line 5, no finite number in column 'a': inf" in found.bad[1]
    (tmp_path / "x.fa").write_text(">a\nAC\n>b\n>c\n\n")
    found, problems = read(tmp_path / "x.fa", "sequence")
    assert (
        problems == [] and found.ids == ["a"] and "line 3: record 'b' is empty" in found.bad[0] and len(found.bad) == 2
    )


def test_fasta_files_of_every_suffix_are_read_in_folders_and_by_one_reader(tmp_path):
    for number, suffix in enumerate((".fasta", ".fa", ".fna", ".faa", ".ffn")):
        (tmp_path / f"{number}{suffix}").write_text(f"; a comment\n>s{number} of it\nAC\n\n; another\ngt\n")
    found = good(tmp_path, "sequence")
    assert found.ids == ["0.fasta", "1.fa", "2.fna", "3.faa", "4.ffn"]
    for item in found.items:
        one = good(item.path, "sequence")
        assert KINDS["sequence"].read(item, ModalityConfig(kind="sequence")) == "ACGT" and one.items[0].text == "ACgt"
    (tmp_path / "0.fasta").write_text("AC\n>b\nGT\n")
    with pytest.raises(BadItem, match="holds 2 records, expected one"):
        KINDS["sequence"].read(found.items[0], ModalityConfig(kind="sequence"))


def test_a_kind_of_files_on_a_column_of_texts_is_one_problem_that_shows_none_of_them(tmp_path):
    table(tmp_path / "t.csv", [["id", "note"], *([str(i), f"private words of patient {i}"] for i in range(30))])
    for settings in ({"column": "note"}, {"modality": "note"}):
        found, problems = read(tmp_path / "t.csv", "image", **settings)
        (said,) = problems
        assert "t.csv, column 'note': no cell is the path of a file of kind image (.bmp, .gif" in said
        assert not found.bad and "private" not in said


def test_of_rows_with_one_id_the_first_stays_and_the_others_are_told(tmp_path):
    rows = [(f"i{n % 8}", f"note\n{n}", f"C{n}", f"g{n}") for n in range(10)]
    table(tmp_path / "t.csv", [["id", "note", "label", "group"], *rows])
    settings = {"id": "id", "column": "note", "label": "label", "group": "group"}
    found = good(tmp_path / "t.csv", "text", **settings)
    assert found.ids == [f"i{n}" for n in range(8)] and [item.text for item in found.items] == [r[1] for r in rows[:8]]
    assert found.labels == [f"C{n}" for n in range(8)] and found.groups == [f"g{n}" for n in range(8)]
    assert found.names == [(f"i{n}",) for n in range(8)] and len(found) == 10
    remedy = "an id names one row; rows of one patient share a `group`"
    where = f"{tmp_path / 't.csv'}, line"
    assert found.bad == [
        f"{where} 18: its id 'i0' is that of an earlier row (line 2); {remedy}",
        f"{where} 20: its id 'i1' is that of an earlier row (line 4); {remedy}",
    ]
    files(tmp_path, "1.png", "2.png")
    table(tmp_path / "p.csv", [["id", "p"], ["a", "1.png"], ["b", "1.png"], ["a", "2.png"]])
    found = good(tmp_path / "p.csv", "image", id="id")
    assert [item.path.name for item in found.items] == ["1.png", "1.png"]
    assert [f"its id 'a' is that of an earlier row (line 2); {remedy}" in line for line in found.bad] == [True]


def test_no_row_decides_whether_another_one_is_used_under_differential_privacy(tmp_path):
    table(tmp_path / "t.csv", [["id", "note"], ["a", "x"], ["b", "y"], ["a", "z"]])
    node = SiloNode(name="shop", modality="text", data=tmp_path / "t.csv", id="id")
    problems = Problems()
    read_manifest(node, ModalityConfig(kind="text"), problems, private=True)
    assert len(problems) == 1 and problems[0].startswith(f"ids that stand twice: {tmp_path / 't.csv'}, line 4")


def test_records_of_a_fasta_that_are_not_utf_8_are_told_and_the_others_stay(tmp_path):
    path = tmp_path / "x.fa"
    path.write_bytes(b">a caf\xe9 of no matter\nAC\n>b\nA\nC\xffG\n>\xe9c\nGT\n>d\nTT\n>a\nCC\n")
    found = good(path, "sequence")
    assert found.ids == ["a", "d"] and [item.text for item in found.items] == ["AC", "TT"]
    assert [line.partition(";")[0] for line in found.bad] == [
        f"{path}, line 3: in this record byte 0xff is not UTF-8",
        f"{path}, line 6: in this record byte 0xe9 is not UTF-8",
        f"{path}, line 10: its id 'a' is that of an earlier row (line 1)",
    ]


def test_of_private_values_a_message_shows_the_beginning_alone(tmp_path):
    long = "a very long and private history of what ails somebody whom you know"
    table(tmp_path / "t.csv", [["id", "a"], [long, long], [long, "1"], ["q", "2\n3"]])
    found, _ = read(tmp_path / "t.csv", "table")
    assert f"'a': {long[:39]}…;" in found.bad[0] and "'a': 2\\n3;" in found.bad[1], "and no line breaks"
    found, _ = read(tmp_path / "t.csv", "text", id="id", column="a")
    assert f"its id '{long[:39]}…' is that of an earlier row (line 2); an id" in found.bad[0]
    table(tmp_path / "p.csv", [["p"], ["1.png"], [f"{long}.png"]])
    found, _ = read(tmp_path / "p.csv", "image")
    assert f"no file '{long[:39]}…'; paths count" in found.bad[1]


def test_a_path_that_is_not_there_is_told_with_the_nearest_that_is(tmp_path):
    files(tmp_path, "Photos/left/1.png", "texts.csv")
    for wrong, near in (
        ("fotos", "Photos"),
        ("photo/left", "Photos/left"),
        ("Photos/rite", ""),
        ("text.csv", "texts.csv"),
    ):
        (said,) = read(tmp_path / wrong, "image")[1]
        told = f"did you mean {tmp_path / near}?" if near else f"correct its path below {tmp_path / 'Photos'}"
        assert said == f"node 'shop': no file or folder {tmp_path / wrong}; {told}"


def test_a_misspelt_column_is_one_problem(tmp_path):
    table(tmp_path / "t.csv", [["note", "colour"], ["a b", "red"], ["c d", "blue"]])
    _, problems = read(tmp_path / "t.csv", "text", label="color")
    assert len(problems) == 1 and "no column label = 'color'; did you mean 'colour'?" in problems[0]
    table(tmp_path / "n.csv", [["nr", "x"], *([str(i), str(i / 7)] for i in range(1, 9))])
    _, problems = read(tmp_path / "n.csv", "table", id="no")
    assert len(problems) == 1 and "no column id = 'no'" in problems[0]


def test_a_row_that_is_not_utf8_is_one_that_cannot_be_an_item(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"n,note,who\n7,a b,P1\n8,caf\xe9,P2\n9,,P3\n10,c d,P4\n")
    found, problems = read(tmp_path / "t.csv", "text", id="n", label="who", column="note")
    assert problems == [] and found.ids == ["7", "10"] and found.labels == ["P1", "P4"] and len(found) == 4
    assert [line.partition(";")[0] for line in found.bad] == [
        f"{tmp_path / 't.csv'}, line 3: byte 0xe9 is not UTF-8",
        f"{tmp_path / 't.csv'}, line 4, column 'note': empty",
    ]


@pytest.mark.parametrize("name", ["x.fa", "x.csv", "x"])
def test_a_pipe_is_told_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    (problem,) = read(tmp_path / name, "sequence")[1]
    assert problem == f"node 'shop': {tmp_path / name} is a device or pipe; save it as a file, and name that"
    problems = Problems()
    assert not read_table(tmp_path / name, problems) or name != "x.csv"


def test_what_may_not_be_read_is_told(closed):
    (closed / "x.fa").write_text(">a\nACGT\n")
    files(closed, "d/1.png", "d/below/2.png", "e/f/1.csv", "p/t/1.png")
    (closed / "p" / "t.csv").write_text("file\nt/1.png\n")
    for name in ("x.fa", "d/below", "e", "p/t"):
        (closed / name).chmod(0)
    with as_nobody():
        for data, kind, at in (("x.fa", "sequence", "x.fa"), ("d", "image", "d/below"), ("e/f", "series", "e/f")):
            found, problems = read(closed / data, kind)
            assert not found.items and len(problems) == 1, problems
            assert f"node 'shop': cannot read {closed / at} (Permission denied); get permission" in problems[0]
        found, problems = read(closed / "p" / "t.csv", "image")
        assert not problems and "line 2, column 'file': no file 't/1.png'" in found.bad[0]
        with pytest.raises(BadItem, match=r"^it: cannot be read \(Permission denied\); get permission to read it$"):
            path_of(Item("it", path=closed / "p" / "t" / "1.png"))


def wrong(name, content, kind, words, **settings):
    return pytest.param(name, content, kind, words, settings, id=words)


@pytest.mark.parametrize(
    ("name", "content", "kind", "words", "settings"),
    [
        wrong(
            "none",
            None,
            "image",
            "no file or folder",
        ),
        wrong("d", [], "image", "has no file of kind image among 0; it reads .bmp"),
        wrong("d", ["t.csv", "notes.md"], "image", "among 2; did you mean the table"),
        wrong("d", ["1.png"], "image", "label = 'cat', and", label="cat"),
        wrong("d", ["1.png"], "image", "is a folder without columns; leave id out", id="n"),
        wrong("d", ["1.png"], "image", 'label = "folder", and', label="folder"),
        wrong("d", ["1.csv"], "table", "items of kind table are no files; name a table of numbers"),
        wrong("1.png", "x", "image", "is no folder or table; name the folder that holds it, or a table of paths"),
        wrong("1.xlsx", "x", "table", "is no folder or table; name a CSV, TSV or Parquet"),
        wrong("t.csv", "n,m\n1,x\n2,y\n3,z\n4,w\n", "table", "columns that only count the lines: n; name them as id"),
        wrong("t.csv", "n,m\na,x\n", "table", "no column of numbers; encode them"),
        wrong("t.csv", "note\n\n", "text", "holds no rows"),
        wrong("t.csv", b"note\nna\xefve\n", "text", "line 2: byte 0xef is not UTF-8"),
        wrong("x.fa", "ACGT\n", "sequence", "line 1: 'ACGT' before the first record"),
        wrong("x.fa", ">a\nAC\n", "text", "is FASTA, which holds sequences, not kind text"),
        wrong("x.fa", ">a\nAC\n", "sequence", "has no columns; leave label out", label="organism"),
        wrong("x.fa", "\n", "sequence", "holds no items"),
    ],
)
def test_what_is_wrong_with_the_whole_is_told_with_its_remedy(tmp_path, name, content, kind, words, settings):
    path = tmp_path / name
    if isinstance(content, list):
        files(path, *content).mkdir(exist_ok=True)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    _, problems = read(path, kind, **settings)
    assert len(problems) == 1 and words in problems[0] and str(path) in problems[0], problems
