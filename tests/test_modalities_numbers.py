"""Series, tables and sequences on real small files: what is read and told, what the tokenizers make, what is bad."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from items import at, cell, read, tokens, told

from isogram.config import ModalityConfig
from isogram.data.modalities import KINDS
from isogram.data.modalities.base import BadItem, Item

RNG = np.random.default_rng(0)


# Series.


def write_csv(path, header, values, separator=","):
    lines = [separator.join(header), *(separator.join(f"{value:.6g}" for value in row) for row in values)]
    path.write_text("\n".join(lines) + "\n")
    return at(path)


def test_the_same_series_as_text_and_as_archive(tmp_path):
    values = RNG.normal(size=(400, 2))
    plain = write_csv(tmp_path / "a.csv", ["x", "y"], values)
    tabs = write_csv(tmp_path / "a.tsv", ["x", "y"], values, "\t")
    np.savez(tmp_path / "a.npz", y=values[:, 1], x=values[:, 0])
    found = tokens("series", plain, tabs, at(tmp_path / "a.npz"), columns=("x", "y"))
    assert found.shape == (3, 16, 20) and np.isfinite(found).all()
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], atol=1e-4)
    assert told("series", plain) == "400 samples of 2 channels"
    assert told("series", plain, columns=("y",), rate=100) == "400 samples of 1 channel, 4.0 s at 100 Hz"


def test_order_of_channels_is_that_of_the_settings(tmp_path):
    item = write_csv(tmp_path / "a.csv", ["x", "y"], RNG.normal(size=(300, 2)))
    means = tokens("series", item, columns=("y",))[0, :, 0]
    np.testing.assert_array_equal(tokens("series", item, columns=("x", "y"))[0, :, 1], means)
    np.testing.assert_array_equal(tokens("series", item, columns=("y", "x"))[0, :, 0], means)


def test_a_tone_is_seen_in_its_band_and_at_its_time():
    time = np.arange(1600)
    late = np.where(time >= 800, np.sin(2 * np.pi * time / 4), 0.0) + 5.0
    from isogram.data.modalities.series import SERIES, Series

    (found,) = SERIES.builtin(None)([Series(late[:, None], (), None)])
    np.testing.assert_allclose(found[:, 0], 5.0, atol=0.02)  # means
    assert found[:7, 1].max() < -8 < found[9:, 1].min()  # log variance
    assert found[9:, 2:].argmax(1).tolist() == [found[12, 2:].argmax()] * 7  # one band
    assert found[12, 2:].argmax() >= 5


@pytest.mark.parametrize("samples", [1, 2, 17, 135, 136, 5000])
def test_series_of_any_length_have_tokens(samples, tmp_path):
    item = write_csv(tmp_path / "a.csv", ["x", "y"], RNG.normal(size=(samples, 2)))
    found = tokens("series", item)
    assert found.shape == (1, 16, 20) and np.isfinite(found).all()


def test_an_archive_at_another_rate_is_resampled(tmp_path):
    time = np.arange(0, 4, 1 / 300)
    np.savez(tmp_path / "a.npz", x=np.sin(2 * np.pi * 5 * time) + 20, rate=300)
    item = at(tmp_path / "a.npz")
    found = read("series", item, rate=100).values[:, 0]
    np.testing.assert_allclose(found[20:-20], np.sin(2 * np.pi * 5 * np.arange(400) / 100)[20:-20] + 20, atol=0.01)
    assert told("series", item, rate=100) == "400 samples of 1 channel, 4.0 s at 100 Hz"
    with pytest.raises(BadItem, match="has 300 samples a second; set `rate` of the modality, to which all"):
        read("series", item)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"x,y\n1,2\n3\n", "line 3 has 1 cells, the first 2"),
        (b"x,y\n1,2\n3,oops\n", "sample 2 of 'y' is no finite number"),
        (b"x,y\n1,2\n3,\n", "sample 2 of 'y' is no finite number"),
        (b"x,y\n1,2\n3,inf\n", "sample 2 of 'y' is no finite number"),
        (b"1,2\n3,4\n", "its first line holds numbers; add a line with the names of the channels"),
        (b"x,x\n3,4\n", "channels without a name or with the same one"),
        (b"x,y\n", "holds no samples"),
        (b"", "holds no samples"),
        (b"\xff\xfe\x00", "cannot be read as a CSV"),
        (b"t,x\n0,5\n0.1,7\n0.2,5\n0.3,1\n", "'t' rises evenly, as time does; name the channels to use"),
    ],
)
def test_a_wrong_csv_is_named(text, why, tmp_path):
    (tmp_path / "a.csv").write_bytes(text)
    with pytest.raises(BadItem, match=rf"^data/a.csv: {re.escape(why)}"):
        read("series", at(tmp_path / "a.csv"))


def test_channels_that_are_not_used_may_be_words(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"when,x\nmonday,5\ntuesday,7\n")
    found = read("series", at(tmp_path / "a.csv"), columns=("x",))
    np.testing.assert_array_equal(found.values, [[5], [7]])
    assert found.others == ("when",)
    with pytest.raises(BadItem, match=r"lacks the channels 'y', has 'when', 'x'; add them, or name others"):
        read("series", at(tmp_path / "a.csv"), columns=("x", "y"))


def test_a_wrong_archive_is_named(tmp_path):
    item, why = at(tmp_path / "a.npz"), r"^data/a.npz: "
    np.savez(item.path, x=np.arange(4.0), y=np.arange(5.0))
    with pytest.raises(BadItem, match=why + "its arrays are no channels; .* all of one length"):
        read("series", item)
    np.savez(item.path, x=np.zeros((4, 2)), y=np.arange(4.0))
    with pytest.raises(BadItem, match=why + "'x' are no channels"):
        read("series", item)
    np.savez(item.path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BadItem, match=why + "cannot be read as a NumPy archive .*allow_pickle=False"):
        read("series", item)
    np.savez(item.path, x=np.arange(4.0), rate=0.5)
    with pytest.raises(BadItem, match=why + "its 'rate' is no whole number of samples a second"):
        read("series", item)
    item.path.write_bytes(b"PK")
    with pytest.raises(BadItem, match=why + "cannot be read as a NumPy archive"):
        read("series", item)


# Tables.


def row(**values):
    return Item("cells.parquet, row 7", values=tuple(values.items()))


def test_a_row_is_cut_in_the_order_of_the_settings():
    found = tokens("table", row(a=1.0, b=2.0, c=3.0), row(c=6.0, a=4.0, b=5.0), columns=("a", "b", "c"))
    np.testing.assert_array_equal(found[:, :, 0], [[1, 2, 3], [4, 5, 6]])
    assert tokens("table", row(**{f"g{i}": float(i) for i in range(20)})).shape == (1, 8, 3)
    assert read("table", row(a=1.0, b=2.0), columns=("b",)).others == ("a",)
    assert told("table", row(a=1.0, b=2.0)) == "2 numbers"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"a": 1.0}, "lacks the columns 'b'; add them, or name others in `columns`"),
        ({"a": np.nan, "b": 1.0}, "no finite number in the columns 'a'; impute it or leave the row out"),
        ({"a": 1e39, "b": np.inf}, "no finite number in the columns 'a', 'b'; impute it or leave the row out"),
        ({}, "holds no numbers; give a table with columns of numbers"),
    ],
)
def test_a_wrong_row_is_named(values, why):
    with pytest.raises(BadItem, match=rf"^cells.parquet, row 7: {re.escape(why)}$"):
        read("table", row(**values), columns=("a", "b"))


# Sequences.


def test_rna_and_dna_in_any_case_are_the_same_bases(tmp_path):
    (tmp_path / "a.fa").write_text(">one of them\nACGU\nuacg\n")
    assert read("sequence", at(tmp_path / "a.fa")) == "ACGUUACG" == read("sequence", cell(" acgu uacg"))
    one, other = tokens("sequence", cell("ACGUUACG"), cell("acgttacg"))
    np.testing.assert_array_equal(one, other)
    assert told("sequence", cell("ACGTNNRT")) == "8 bases, 3 of them codes"


@given(st.text("ACGTN", min_size=1, max_size=60))
def test_tokens_are_the_shares_of_k_mers(letters):
    if letters.count("N") == len(letters):
        with pytest.raises(BadItem, match="no base is known"):
            read("sequence", cell(letters))
        return
    found = tokens("sequence", cell(letters))[0].astype(float)
    assert found.shape == (4, 148)
    edges = np.linspace(0, len(letters), 5).astype(int)
    for quarter in range(4):
        place = 0
        for k in (1, 2, 3):
            starts = range(edges[quarter], min(edges[quarter + 1], len(letters) - k + 1))
            mers = [letters[i : i + k] for i in starts if "N" not in letters[i : i + k]]
            for number in range(4**k):
                name = "".join("ACGT"[number // 4**power % 4] for power in range(k)[::-1])
                share = mers.count(name) / max(1, len(mers))
                np.testing.assert_allclose(found[quarter, place] ** 2, share, atol=1e-6)
                place += 1
    mers = [letters[i : i + 4] for i in range(len(letters) - 3) if "N" not in letters[i : i + 4]]
    np.testing.assert_allclose((found[:, 84:] ** 2).sum(), bool(mers), atol=1e-5)
    if "ACGT" in mers:  # in the token of A, C = 1, G = 2, T = 3 are the digits of its place
        np.testing.assert_allclose(found[0, 84 + 16 + 8 + 3] ** 2, mers.count("ACGT") / len(mers), atol=1e-6)


def test_a_wrong_sequence_is_named(tmp_path):
    with pytest.raises(BadItem, match=r"^notes.csv, line 7: 'X' at position 4 is no base of DNA or RNA"):
        read("sequence", cell("ACGXT"))
    with pytest.raises(BadItem, match=r"'-' at position 2"):
        read("sequence", cell("A-C"))
    with pytest.raises(BadItem, match="holds no sequence"):
        read("sequence", cell("  "))
    (tmp_path / "a.fa").write_text(">a\nAC\n>b\nGT\n")
    with pytest.raises(BadItem, match=r"^data/a.fa: holds 2 records, expected one; name the file as a silo's data"):
        read("sequence", at(tmp_path / "a.fa"))
    (tmp_path / "a.fa").write_bytes(b">a\nA\xc3\n")
    with pytest.raises(BadItem, match="is no FASTA"):
        read("sequence", at(tmp_path / "a.fa"))


def test_every_kind_is_one_line_of_the_table():
    assert list(KINDS) == ["image", "audio", "text", "series", "table", "sequence"]
    assert all(kind.name == name for name, kind in KINDS.items())


def test_a_row_of_many_columns_is_read_in_time_that_grows_with_them():
    """Counted in looks at names, for 20,000 genes took 17 s a row where each column was looked for in all others."""

    class Name(str):
        looks = 0

        def __eq__(self, other):
            Name.looks += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = tuple(Name(f"g{number}") for number in range(2000))
    item = Item("row", values=tuple((name, 1.0) for name in names))
    config = ModalityConfig.model_construct(kind="table", columns=tuple(names))
    assert len(KINDS["table"].read(item, config).values) == 2000
    assert Name.looks < 20 * 2000
