import numpy as np
import pandas as pd
import pytest
from tables import write_tables

from isogram.config import Config
from isogram.config_file import read_config
from isogram.data import evaluation, open_data, read_tokens
from isogram.errors import DataError
from isogram.evaluation import evaluate
from isogram.federation import align


@pytest.fixture
def path(tmp_path):
    return write_tables(tmp_path)


def edit(path, name, change):
    """Change one table: the function gets its lines as lists of cells."""
    file = path.parent / name
    lines = [line.split(",") for line in file.read_text().splitlines()]
    file.write_text("\n".join(",".join(line) for line in change(lines)) + "\n")


def cell(row, column, text):
    def change(lines):
        lines[row - 1][lines[0].index(column)] = text
        return lines

    return change


def problems(path, *settings):
    with pytest.raises(DataError) as caught:
        open_data(read_config(path, settings))
    return caught.value.problems


def test_tables_become_a_federation_with_every_number_in_its_place(path):
    data = open_data(read_config(path))
    frame = pd.read_csv(path.parent / "north.csv")
    north = data.nodes[0]
    assert [(n.name, n.modality, n.tokens.shape) for n in data.nodes] == [
        ("north", "rna", (24, 8, 2)),
        ("south", "rna", (24, 8, 2)),
        ("lab", "meth", (24, 7, 1)),
    ]
    np.testing.assert_allclose(north.tokens.reshape(24, -1)[:, :9], frame[[f"rna{i}" for i in range(9)]], rtol=1e-6)
    assert [data.classes[c] if c >= 0 else "" for c in north.labels] == frame["diagnosis"].fillna("").tolist()
    assert data.nodes[2].labels is None and len(data.anchors) == 30 and data.held_out.paired


def test_the_order_of_lines_in_anchor_and_test_files_does_not_matter(path, tmp_path):
    other = write_tables(tmp_path / "other")
    for name in ("public/meth.csv", "test/meth.csv"):
        edit(other, name, lambda lines: lines[:1] + lines[:0:-1])
    one, two = open_data(read_config(path)), open_data(read_config(other))
    assert one.anchors.hash == two.anchors.hash
    with evaluation():
        np.testing.assert_array_equal(one.held_out.tokens("meth"), two.held_out.tokens("meth"))
        np.testing.assert_array_equal(one.held_out.labels("meth"), two.held_out.labels("rna"))


def test_tables_can_be_aligned_and_evaluated(path):
    config = read_config(path)
    data = open_data(config)
    fed = align(data, config)
    found = {(s.metric, s.direction): s.value for s in evaluate(data, {n.name: n.embed for n in fed.nodes}, fed.head)}
    assert found["r1", "rna->meth"] > 0.7 and found["accuracy", "meth"] > 0.7  # chance is .08 and .33


def test_without_held_out_tables_there_is_nothing_to_evaluate(path):
    path.write_text(path.read_text().replace('held_out = { rna = "test/rna.csv", meth = "test/meth.csv" }', ""))
    data = open_data(read_config(path))
    fed = align(data, Config(data="machines"))
    assert evaluate(data, {n.name: n.embed for n in fed.nodes}, fed.head) == []


def test_one_modality_held_out_is_evaluated_alone(path):
    path.write_text(path.read_text().replace(', meth = "test/meth.csv"', ""))
    config = read_config(path)
    data = open_data(config)
    fed = align(data, config)
    found = evaluate(data, {n.name: n.embed for n in fed.nodes}, fed.head)
    assert [(s.metric, s.direction) for s in found] == [("accuracy", "rna")] and not data.held_out.paired


def test_some_anchors_are_drawn_by_the_seed(path):
    def ids(seed):
        return open_data(read_config(path, ["anchors=10", f"seed={seed}"])).anchors.ids

    assert len(ids(0)) == 10 and ids(0) == ids(0) != ids(1)


def test_anchors_that_only_some_modalities_have_are_missing_in_the_others(path):
    edit(path, "public/meth.csv", lambda lines: lines[:1] + lines[11:])
    data = open_data(read_config(path))
    assert len(data.anchors) == 30 and len(data.anchors.items["meth"].index) == 20


def drop(name):
    return lambda path: (path.parent / name).unlink()


def changed(name, change):
    return lambda path: edit(path, name, change)


def settings(old, new):
    return lambda path: path.write_text(path.read_text().replace(old, new))


def second_anchor_file(change):
    def spoil(path):
        (path.parent / "public" / "other.csv").write_text((path.parent / "public" / "rna.csv").read_text())
        edit(path, "public/other.csv", change)
        text = path.read_text()
        at = text.index("public/rna.csv", text.index('"south"'))
        path.write_text(text[:at] + "public/other.csv" + text[at + len("public/rna.csv") :])

    return spoil


def copied(source, line, target):
    """A line of one table, its id and label left out, at the end of another of the same columns."""

    def spoil(path):
        table = [row.split(",") for row in (path.parent / source).read_text().splitlines()]
        values = {key: v for key, v in zip(table[0], table[line - 1], strict=True) if key not in ("id", "diagnosis")}

        def add(lines):
            own = values | {"id": "copy", "diagnosis": "ill"}
            return [*lines, [own[key] for key in lines[0]]]

        edit(path, target, add)

    return spoil


BAD = {
    "missing anchor file": (drop("public/rna.csv"), ["no file", "public/rna.csv", "correct its path"]),
    "missing rows": (drop("lab.csv"), ["no file", "lab.csv"]),
    "anchor ids differ between nodes": (
        second_anchor_file(cell(5, "id", "anchor-x")),
        ["nodes 'north' and 'south' hold 'rna' but different anchors", "anchor-3, anchor-x", "give both the same file"],
    ),
    "anchor content differs between nodes": (
        second_anchor_file(cell(5, "rna2", "7.5")),
        ["nodes 'north' and 'south'", "other.csv differ at the ids anchor-3"],
    ),
    "no anchor ids": (changed("public/meth.csv", lambda t: [r[1:] for r in t]), ["without a column `id`", "meth.csv"]),
    "an anchor id twice": (changed("public/rna.csv", cell(4, "id", "anchor-0")), ["ids that stand twice: anchor-0"]),
    "NaN": (changed("north.csv", cell(7, "rna3", "NaN")), ["north.csv", "line 7, column 'rna3': NaN", "impute"]),
    "infinite": (changed("lab.csv", cell(3, "meth0", "-inf")), ["lab.csv", "line 3, column 'meth0': -inf"]),
    "too large for float32": (changed("lab.csv", cell(3, "meth0", "1e99")), ["line 3, column 'meth0': 1e99"]),
    "no number": (changed("public/rna.csv", cell(2, "rna0", "n/a")), ["rna.csv", "line 2, column 'rna0': n/a"]),
    "empty cell": (changed("test/rna.csv", cell(2, "rna0", "")), ["line 2, column 'rna0': empty"]),
    "a column is missing": (
        changed("south.csv", lambda t: [r[:3] + r[4:] for r in t]),
        ["south.csv", "rna.csv has the columns rna2", "same columns"],
    ),
    "columns in another order": (
        changed("lab.csv", lambda t: [[r[0], r[2], r[1], *r[3:]] for r in t]),
        ["lab.csv", "different orders"],
    ),
    "a column twice": (
        changed("lab.csv", lambda t: [[*t[0][:-1], "meth0"], *t[1:]]),
        ["columns named twice: meth0; rename"],
    ),
    "a column without a name, as pandas writes its index": (
        changed("lab.csv", lambda t: [["", *t[0]], *([str(i), *row] for i, row in enumerate(t[1:]))]),
        ["lab.csv: column 1 has no name"],
    ),
    "semicolons": (
        lambda path: (path.parent / "lab.csv").write_text((path.parent / "lab.csv").read_text().replace(",", ";")),
        ["lab.csv: cells are separated by ';'; separate them by commas"],
    ),
    "rows longer than the header": (
        changed("lab.csv", lambda t: [t[0], *([*row, "1"] for row in t[1:])]),
        ["lab.csv: lines of another length than the header's 8 cells: line 2 has 9", "and 19 more; separate"],
    ),
    "a shorter row": (changed("lab.csv", lambda t: [*t[:4], t[4][:-1], *t[5:]]), ["line 5 has 7; separate cells"]),
    "an empty id": (changed("public/rna.csv", cell(4, "id", "")), ["rna.csv: rows without an id: line 4"]),
    "held-out ids that are not pairs": (
        changed("test/meth.csv", cell(4, "id", "test-x")),
        ["test/rna.csv and", "test/meth.csv has the held-out ids test-2, test-x; pairs need the same"],
    ),
    "held-out classes that contradict each other": (
        lambda path: edit(path, "test/meth.csv", lambda t: [[*t[0], "diagnosis"], *([*r, "odd"] for r in t[1:])]),
        ["give different classes (diagnosis) to test-0, test-1"],
    ),
    "label outside the classes": (
        changed("north.csv", cell(9, "diagnosis", "il")),
        ["north.csv, column 'diagnosis'", "line 9: 'il'", "files.classes declares 'healthy', 'ill', 'odd'"],
    ),
    "labels without classes": (
        settings('classes = ["healthy", "ill", "odd"]', ""),
        ["labels outside the declared classes", "declare all in files.classes"],
    ),
    "a label column that nobody named": (
        settings('"diagnosis"', '"diagnose"'),
        ["north.csv: columns without a single number: diagnosis; encode", "named by files.labels"],
    ),
    "no table has the labels": (
        lambda path: [edit(path, n, lambda t: [r[:-1] for r in t]) for n in ("north.csv", "south.csv", "test/rna.csv")],
        ["no table of private rows has the column files.labels = 'diagnosis'; name the column"],
    ),
    "no class anywhere": (
        lambda path: [
            edit(path, n, lambda t: [t[0], *([*r[:-1], ""] for r in t[1:])]) for n in ("north.csv", "south.csv")
        ],
        ["no private row has a class in the column files.labels = 'diagnosis'; fill in"],
    ),
    "ids in a column of another name": (
        changed("lab.csv", lambda t: [["ID", *t[0][1:]], *t[1:]]),
        ["lab.csv: column 'ID'; names of rows stand in a column `id`: rename it"],
    ),
    "an index that pandas read back": (
        changed("lab.csv", lambda t: [["Unnamed: 0", *t[0]], *(["7", *row] for row in t[1:])]),
        ["lab.csv: column 'Unnamed: 0'; leave row numbers out (in pandas index=False)"],
    ),
    "a blank line in the middle": (changed("lab.csv", lambda t: [*t[:4], [""], *t[4:]]), ["line 5 is blank"]),
    "an error after a cell of two lines": (
        lambda path: edit(path, "lab.csv", lambda t: [t[0], ['"a\nb"', *t[1][1:]], *cell(3, "meth0", "x")(t)[2:]]),
        ["line 4, column 'meth0': x"],
    ),
    "a column that counts the lines": (
        changed("lab.csv", lambda t: [[*t[0], "n"], *([*row, str(i)] for i, row in enumerate(t[1:]))]),
        ["lab.csv: columns that only count the lines: n; leave them out"],
    ),
    "no UTF-8": (
        lambda path: (path.parent / "lab.csv").write_bytes(b"id,\xf6\n"),
        ["lab.csv, line 1: byte 0xf6 is not UTF-8", "save it"],
    ),
    "one row at two nodes": (copied("north.csv", 4, "south.csv"), ["north.csv, line 4 (private) =", "private to one"]),
    "a test row without a class": (
        changed("test/rna.csv", cell(4, "diagnosis", "")),
        ["held-out rows without a class", "test/rna.csv, line 4"],
    ),
    "a private row is an anchor": (
        copied("public/rna.csv", 6, "north.csv"),
        ["rows that stand twice", "north.csv, line 26 (private) =", "rna.csv, line 6 (anchor)"],
    ),
    "a test row is an anchor": (
        copied("test/meth.csv", 2, "public/meth.csv"),
        ["public/meth.csv, line 32 (anchor)", "test/meth.csv, line 2 (held-out)"],
    ),
    "a private row is a test row": (copied("test/rna.csv", 3, "south.csv"), ["south.csv, line 26 (private)", "line 3"]),
    "one id as private and public": (
        changed("lab.csv", cell(5, "id", "anchor-3")),
        ["lab.csv, line 5 (private)", "line 5 (anchor)"],
    ),
    "no rows": (changed("lab.csv", lambda t: t[:1]), ["lab.csv holds no rows"]),
    "an empty file": (lambda path: (path.parent / "lab.csv").write_text(""), ["lab.csv is empty"]),
    "a longer line": (
        changed("lab.csv", lambda t: [*t[:4], [*t[4], "1"], *t[5:]]),
        ["lab.csv", "line 5 has 9"],
    ),
    "a folder": (lambda path: settings('"lab.csv"', '"public"')(path), ["cannot read", "public"]),
    "more anchors than there are": (settings('data = "files"', 'data = "files"\nanchors = 99'), ["hold 30; lower it"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_named_by_file_line_and_column_with_the_remedy(path, case):
    spoil, words = BAD[case]
    spoil(path)
    said = problems(path)
    for word in words:
        assert word in said[0], said[0]
    assert len({line.partition(":")[0] for line in said}) == len(said), "no table is told of twice"


def test_all_problems_are_told_at_once_and_long_lists_are_cut(path):
    for row in range(2, 12):
        edit(path, "north.csv", cell(row, "rna1", "x"))
    edit(path, "lab.csv", cell(3, "meth2", "inf"))
    (path.parent / "test" / "meth.csv").unlink()
    said = problems(path)
    assert len(said) == 3
    assert said[0].endswith(
        "line 6, column 'rna1': x and 5 more; impute or drop them; decimals are written with a point"
    )


def test_what_is_wrong_in_readable_tables_is_told_beside_what_cannot_be_read(path):
    (path.parent / "lab.csv").unlink()
    edit(path, "north.csv", cell(9, "diagnosis", "il"))
    copied("public/rna.csv", 6, "south.csv")(path)
    said = problems(path)
    assert [next(word for word in ("no file", "outside", "twice") if word in line) for line in said] == [
        "no file",
        "outside",
        "twice",
    ]


def test_a_misspelt_column_of_labels_is_guessed(path):
    path.write_text(path.read_text().replace('"diagnosis"', '"diagnose"'))
    assert any("has the column files.labels = 'diagnose'; did you mean 'diagnosis'?" in line for line in problems(path))


def repeat(*lines, times=2):
    """For `edit`: some lines stand as often."""
    return lambda t: [*t, *([f"again {line} {n}", *t[line - 1][1:]] for line in lines for n in range(1, times))]


def test_between_nodes_a_row_that_one_repeats_may_be_chance_and_others_are_not(path):
    edit(path, "north.csv", repeat(3))
    copied("north.csv", 3, "south.csv")(path)
    assert len(open_data(read_config(path)).nodes[1].tokens) == 25
    edit(path, "south.csv", lambda t: [*t[:-1], ["other", *t[-1][1:]]])
    copied("north.csv", 4, "south.csv")(path)
    (said,) = problems(path)
    assert "north.csv, line 4 (private) = " in said and "south.csv, line 27" in said and "line 3 " not in said


@pytest.mark.parametrize(("times", "chance"), [(3, False), (4, True)])
def test_where_a_node_repeats_a_tenth_of_its_rows_any_equal_ones_may_be_chance(path, times, chance):
    """Two of 26 rows, or three of 27, stand again; and another one at two nodes."""
    edit(path, "north.csv", repeat(3, times=times))
    copied("north.csv", 4, "south.csv")(path)
    if chance:
        assert len(open_data(read_config(path)).nodes[1].tokens) == 25
    else:
        assert "north.csv, line 4 (private) = " in problems(path)[0]


@pytest.mark.parametrize("lines", [[3], [26], [3, 4, 5, 6]])
def test_however_often_a_node_repeats_rows_none_is_an_anchor(path, lines):
    """Be it the anchor that it repeats, or others, and so many that equal rows of two nodes may be chance."""
    copied("public/rna.csv", 6, "north.csv")(path)
    edit(path, "north.csv", repeat(*lines))
    (said,) = problems(path)
    assert "north.csv, line 26 (private) = " in said and "rna.csv, line 6 (anchor)" in said


def test_blanks_around_cells_mean_nothing(path):
    before = open_data(read_config(path))
    for name in ("public/meth.csv", "north.csv"):
        edit(path, name, lambda t: [[f" {text} " for text in row] for row in t])
    after = open_data(read_config(path))
    assert after.anchors.hash == before.anchors.hash
    np.testing.assert_array_equal(after.nodes[0].labels, before.nodes[0].labels)


def test_rows_of_few_whole_numbers_may_be_equal(path):
    """With two binary columns, rows coincide by chance: that is no sign of a shared patient."""
    rng = np.random.default_rng(0)
    for name in ("lab.csv", "public/meth.csv", "test/meth.csv"):
        edit(path, name, lambda t: [[t[0][0], "m0", "m1"], *([r[0], *rng.choice(["0", "1"], 2)] for r in t[1:])])
    assert open_data(read_config(path)).nodes[2].tokens.shape == (24, 2, 1)


def test_labels_that_are_unknown_throughout_are_none(path):
    edit(path, "north.csv", lambda t: [t[0], *([*row[:-1], ""] for row in t[1:])])
    data = open_data(read_config(path))
    assert data.nodes[0].labels is None and data.nodes[1].labels is not None


def test_a_byte_order_mark_and_windows_line_ends_are_read(path):
    file = path.parent / "lab.csv"
    before = open_data(read_config(path)).nodes[2].tokens
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    np.testing.assert_array_equal(open_data(read_config(path)).nodes[2].tokens, before)


def test_two_silos_may_number_their_rows_alike(path):
    for name in ("north.csv", "south.csv", "lab.csv"):
        edit(path, name, lambda t: [t[0], *([str(i), *row[1:]] for i, row in enumerate(t[1:]))])
    assert len(open_data(read_config(path)).nodes) == 3


def test_blank_lines_at_the_end_are_no_rows(path):
    file = path.parent / "lab.csv"
    file.write_text(file.read_text() + "\n\n")
    assert len(open_data(read_config(path)).nodes[2].tokens) == 24


def test_new_rows_are_read_as_a_run_reads_them(path):
    tokens = read_tokens(path.parent / "north.csv", label="diagnosis")
    np.testing.assert_array_equal(tokens, open_data(read_config(path)).nodes[0].tokens)
    with pytest.raises(DataError, match="columns without a single number: diagnosis"):
        read_tokens(path.parent / "north.csv")
