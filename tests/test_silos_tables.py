"""Tables as text: every cell and line in its place, and what is wrong with a file told by line."""

import csv
import io
import resource

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogram.data.sheets import Problems
from isogram.data.silos.tables import read_table


def written(tmp_path, content, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path):
    problems = Problems()
    table = read_table(path, problems)
    assert problems == [] and table
    return table


def said(path):
    problems = Problems()
    assert not read_table(path, problems)
    return problems


CELL = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)


@given(st.lists(st.lists(CELL, min_size=2, max_size=2), min_size=1, max_size=6))
def test_cells_and_lines_are_those_that_were_written(tmp_path_factory, rows):
    """Cells of several lines move the rows below them; lines end as in an editor."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(["a", "b"])
    lines = []
    for row in rows:
        lines.append(len(io.StringIO(out.getvalue(), newline=None).readlines()) + 1)
        writer.writerow(row)
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_bytes(out.getvalue().encode())
    table = read(path)
    assert [table.column("a"), table.column("b")] == [[row[i].strip() for row in rows] for i in range(2)]
    assert table.starts.tolist() == lines


def test_marks_line_ends_tabs_and_blanks_mean_nothing(tmp_path):
    plain = read(written(tmp_path, "id,text\n1,a b\n2,c\n"))
    for name, content in (
        ("bom.csv", "\ufeffid,text\r\n1 , a b\r\n2,c"),
        ("t.tsv", "id\ttext\n1\ta b\n2\tc\n\n\n"),
        ("T.CSV", 'id,text\n"1","a b"\n2,c\n\n'),
    ):
        table = read(written(tmp_path, content, name))
        assert table.columns == plain.columns and table.starts.tolist() == [2, 3]
        assert [table.column(c) for c in table.columns] == [["1", "2"], ["a b", "c"]]
    assert plain.where(1) == f"{tmp_path / 't.csv'}, line 3"


def test_numbers_stay_as_they_are_written(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    cells = ["1.10", "1e3", "007", "9007199254740993", "NA"]
    assert read(written(tmp_path, "x,y\n" + "".join(f"{c},0\n" for c in cells))).column("x") == cells
    frame = {"x": pa.array([0.1, None, 1e300]), "y": pa.array([2**53 + 1, -1, 0]), "z": pa.array([True, False, None])}
    frame |= {"f": pa.array([0.1, 2.0, -0.25], pa.float32()), "d": pa.array(["u", "v", "u"]).dictionary_encode()}
    pq.write_table(pa.table(frame | {"pixels": [[1], [2], [3]]}), tmp_path / "t.parquet")
    table = read(tmp_path / "t.parquet")
    assert [float(c) if c else None for c in table.column("x")] == [0.1, None, 1e300]
    assert table.column("y") == ["9007199254740993", "-1", "0"] and table.column("z") == ["true", "false", ""]
    assert [float(c) for c in table.column("f")] == [0.1, 2, -0.25] and table.column("d") == ["u", "v", "u"]
    assert table.where(2).endswith("t.parquet, row 3")
    problems = Problems()
    assert not table.has("pixels", problems) and "holds list<" in problems[0] and "no text" in problems[0]


def test_long_cells_are_read_and_the_bound_of_csv_is_put_back(tmp_path):
    before = csv.field_size_limit()
    table = read(written(tmp_path, f"id,dna\n1,{'ACGT' * 100_000}\n"))
    assert len(table.column("dna")[0]) == 400_000 and csv.field_size_limit() == before


BAD = {
    "no UTF-8": (b"id,text\n1,caf\xe9\n", ["line 2: byte 0xe9 is not UTF-8", "save it as CSV in UTF-8"]),
    "no UTF-8 far down": (b"id,text\n" + b"1,a\n" * 50_000 + b"1,\xff\n", ["line 50002: byte 0xff"]),
    "UTF-16": ("id,text\n1,a\n".encode("utf-16"), ["is UTF-16 text; save it"]),
    "a NUL byte": (b"id,text\n1,a\n2,b\0c\n", ["line 3: a NUL byte"]),
    "an empty file": (b"", ["is empty; give it a header and rows"]),
    "blanks alone": (b"\n\n", ["is empty"]),
    "a header alone": (b"id,text\n", ["holds no rows; fill it in"]),
    "a longer and a shorter row": (
        b"id,text\n1,a\n2,b,c\n3\n4,d\n",
        ["rows of another length than the header's 2 cells: line 3 has 3, line 4 has 1; quote"],
    ),
    "a longer row after a cell of two lines": (b'id,text\n1,"a\nb"\n2,b,c\n', ["line 4 has 3"]),
    "a blank line in the middle": (b"id,text\n1,a\n\n2,b\n\n\n", ["cells: line 3 is blank; quote"]),
    "an open quote": (b'id,text\n1,a\n2,"b\n3,c\n', ["begins on line 3: unexpected end of data; check its quotes"]),
    "a stray quote": (b'id,text\n1,"a"b\n', ["begins on line 2", "check its quotes"]),
    "semicolons": (b"id;text\n1;a\n", ["cells are separated by ';'; separate them by ','"]),
    "a column twice": (b"id,id\n1,2\n", ["columns named twice: id; rename"]),
    "a column without a name": (b",id\n1,2\n", ["column 1 has no name; leave row numbers out (in pandas index=False)"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_told_of_with_line_and_remedy(tmp_path, case):
    content, words = BAD[case]
    problems = said(written(tmp_path, content))
    assert len(problems) == 1 and str(tmp_path / "t.csv") in problems[0]
    for word in words:
        assert word in problems[0]


def test_rows_that_are_not_utf8_are_told_or_left_out_each_by_itself(tmp_path):
    """A cell of three lines, two of them bad, is one row; the good cell of two lines moves those below it."""
    several = b'id,text\n1,"a\nb"\n2,caf\xe9\n3,"x\n\xff\n\xfe"\n\xe9,z\n5,"\xc3\xa9"\n'
    path = written(tmp_path, several + b"6,\xc3\n7,\xed\xa0\x80\n8,\xfc\n9,\xfc\n")
    (problem,) = said(path)
    told = [(4, 0xE9), (6, 0xFF), (8, 0xE9), (10, 0xC3), (11, 0xED), (12, 0xFC), (13, 0xFC)]
    lines = [f"line {line}: byte 0x{byte:02x} is not UTF-8" for line, byte in told]
    assert problem == f"{path}: {', '.join(lines[:5])} and 2 more; save it as CSV in UTF-8"
    each = Problems(each=True)
    assert not read_table(path, each) and each == [f"{path}: {line}; save it as CSV in UTF-8" for line in lines]
    problems = Problems()
    table = read_table(path, problems, skip=True)
    assert not problems and table.column("id") == ["1", "5"] and table.column("text") == ["a\nb", "é"]
    assert table.starts.tolist() == [2, 9]
    assert table.bad == tuple(f"{path}, {line}; save it as CSV in UTF-8, or drop the row" for line in lines)


def test_a_header_or_a_whole_table_that_is_not_utf8_cannot_be_left_out(tmp_path):
    for content, line in ((b"id,\xe9\n1,a\n2,b\n", 1), (b"id,text\n1,\xe9\n", 2)):
        problems = Problems()
        assert not read_table(written(tmp_path, content), problems, skip=True)
        assert len(problems) == 1 and f"line {line}: byte 0xe9 is not UTF-8; save it as CSV" in problems[0]
    assert "line 3 has 3" in said(written(tmp_path, b"id,text\n1,a\n2,\xe9,c\n"))[0]


def test_parquet_of_lists_alone_says_what_its_columns_are(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": [["a"], ["b"]], "more": [[1], [2]]}), tmp_path / "t.parquet")
    (problem,) = said(tmp_path / "t.parquet")
    assert problem.startswith(f"{tmp_path / 't.parquet'}: no column of text or numbers: 'text' holds list<")
    assert ": string>, 'more' holds list<" in problem and problem.endswith(": int64>; save text, numbers or paths")


def test_what_is_no_table_is_told(tmp_path):
    assert "no file" in said(tmp_path / "t.csv")[0]
    assert "no table that can be read; save it as .csv" in said(written(tmp_path, "x", "t.xlsx"))[0]
    assert "as Parquet: " in said(written(tmp_path, "x", "t.parquet"))[0]
    (tmp_path / "d.csv").mkdir()
    assert "cannot read" in said(tmp_path / "d.csv")[0]


def test_a_missing_column_is_told_with_the_nearest(tmp_path):
    table, problems = read(written(tmp_path, "id,diagnosis\n1,a\n")), Problems()
    assert table.has("id", problems)
    assert not table.has("diagnose", problems, "silos.nodes.0.label") and not table.has("x", problems)
    assert "no column silos.nodes.0.label = 'diagnose'; did you mean 'diagnosis'?" in problems[0]
    assert problems[1].endswith("no column 'x'; there are 'id', 'diagnosis'")


def test_a_million_rows_take_little_memory(tmp_path):
    """Its 32 MB of text become four columns of at most 16 bytes a cell, and no list of rows ever stands beside them."""
    path = tmp_path / "m.csv"
    body = "".join(f"row-{i},a few words,{'abc'[i % 3]},.25\n" for i in range(1_000_000))
    path.write_text(f"id,text,label,value\n{body}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    table = read(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert len(table) == 1_000_000 and table.starts[-1] == 1_000_001
    assert table.cells["label"][999_998] == "c" and table.cells["id"][-1] == "row-999999"
    assert np.array_equal(table.starts, np.arange(2, 1_000_002))
    assert grown < 400_000, grown  # kB; lists of rows would take 600 MB
