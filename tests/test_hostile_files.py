"""Files that claim what they are not: one line each, and nothing is started or filled by them."""

import hashlib
import io
import tracemalloc
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import soundfile
from PIL import Image
from pyarrow import parquet

from isogram.config import ModalityConfig
from isogram.data import parquet as bounds
from isogram.data.base import UNPACKED
from isogram.data.modalities import base
from isogram.data.modalities.audio import AUDIO
from isogram.data.modalities.base import BadItem, Item
from isogram.data.modalities.content import content_hash
from isogram.data.modalities.image import IMAGE
from isogram.data.modalities.series import SERIES
from isogram.data.modalities.text import TEXT
from isogram.data.sheets import Problems
from isogram.data.silos.apart import Source, shared_rows
from isogram.data.silos.tables import read_table
from isogram.errors import DataError
from isogram.inference import bank_file


def file(path, content):
    path.write_bytes(content)
    return Item(path.name, path=path)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return Item(path.name, path=path)


@pytest.mark.parametrize("form", ["EPS", "PPM", "PCX"])
def test_a_picture_is_read_by_the_forms_that_are_documented_alone(form, tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a", form)
    (tmp_path / "a").rename(tmp_path / "a.png")
    with pytest.raises(BadItem, match=r"a\.png"):
        IMAGE.read(Item("a.png", path=tmp_path / "a.png"), ModalityConfig())


def test_a_rate_that_no_memory_holds_is_refused(tmp_path):
    config = ModalityConfig(rate=100)
    with pytest.raises(BadItem, match="up to 1,000,000"):
        SERIES.read(npz(tmp_path / "a.npz", x=np.zeros(40), rate=np.array(999999937)), config)
    with pytest.raises(BadItem, match="no whole number"):
        SERIES.read(npz(tmp_path / "a.npz", x=np.zeros(40), rate=np.array(np.inf)), config)
    soundfile.write(tmp_path / "a.wav", np.ones(4000) / 2, 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[24:28] = (1999999973).to_bytes(4, "little")
    with pytest.raises(BadItem, match="at most 1,000,000"):
        AUDIO.read(file(tmp_path / "b.wav", bytes(content)), ModalityConfig())


def test_what_would_unpack_to_more_than_is_read_is_refused_before_it_is(tmp_path, monkeypatch):
    """With a bound of a MiB in the place of a GiB; the FLAC's header says 590 s of eight channels."""
    soundfile.write(tmp_path / "a.flac", np.ones((2000, 8)) / 2, 192000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[22:26] = (590 * 192000).to_bytes(4, "big")
    with pytest.raises(BadItem, match=r"^b.flac: unpacks to 3.4 GiB, and at most 1 GiB are read; save it with fewer"):
        AUDIO.read(file(tmp_path / "b.flac", bytes(content)), ModalityConfig())
    monkeypatch.setattr(base, "UNPACKED", 1 << 20)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(1 << 18))
    assert (tmp_path / "a.npz").stat().st_size < 5000
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(BadItem, match=r"^a.npz: unpacks to 0.0 GiB, and at most 0.000977 GiB are read; cut it into"):
        SERIES.read(Item("a.npz", path=tmp_path / "a.npz"), ModalityConfig())
    monkeypatch.undo()
    monkeypatch.setattr(base, "UNPACKED", 1 << 20)
    few = npz(tmp_path / "c.npz", x=np.zeros(1 << 18, np.int8))
    with pytest.raises(BadItem, match=r"^c.npz: unpacks to"):
        SERIES.read(few, ModalityConfig())
    slow = npz(tmp_path / "d.npz", x=np.arange(1000.0) ** 2, rate=np.array(1))
    with pytest.raises(BadItem, match=r"^d.npz: unpacks to .*; cut it into pieces or lower `rate`"):
        SERIES.read(slow, ModalityConfig(rate=1_000_000))


def repeated(rows, **more):
    """A table of one cell of a MiB, which stands once in the file and in memory, however many rows have it."""
    cells = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), ["x" * 2**20])
    return pa.table({"id": pa.array(range(rows)).cast(pa.string()), "text": cells} | more)


def test_a_table_of_repeated_cells_is_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    """With a bound of 32 MiB in the place of a GiB."""
    monkeypatch.setattr(bounds, "UNPACKED", 2**25)
    path = tmp_path / "a.parquet"
    for rows, at_once, said in ((100_000, 100_000, True), (4000, 500, True), (20, 20, False)):
        parquet.write_table(repeated(rows), path, row_group_size=at_once, store_schema=False)
        assert path.stat().st_size < 2**20
        problems, before = Problems(), pa.default_memory_pool().max_memory()
        table = read_table(path, problems)
        if said:
            assert len(problems) == 1 and problems[0].startswith(f"{path}: unpacks to ") and not table
            assert ", and at most 0.0312 GiB are read of a file of 0." in problems[0]
            assert problems[0].endswith(" MiB; save it as several tables")
            assert pa.default_memory_pool().max_memory() - before < 2**28
        else:
            assert not problems and {len(cell) for cell in table.column("text")} == {2**20}


def test_a_table_of_nothing_in_many_rows_is_refused_by_what_it_says_of_itself(tmp_path, monkeypatch):
    parquet.write_table(
        pa.table({"a": pa.nulls(40_000_000, pa.string()), "b": pa.nulls(40_000_000, pa.string())}), tmp_path / "a.pq"
    )
    assert (tmp_path / "a.pq").stat().st_size < 2**20
    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", None)
    problems = Problems()
    assert not read_table(tmp_path / "a.pq", problems)
    assert "a.pq: unpacks to 1.5 GiB, and at most 1 GiB are read of a file of 0." in problems[0]


def test_numbers_count_as_they_are_and_columns_that_are_not_read_not_at_all(tmp_path, monkeypatch):
    """With a bound of a MiB: 20,000 x 10 of int32 and the rows' numbers have 0.92 MiB, lists that are not read 1.5."""
    monkeypatch.setattr(bounds, "UNPACKED", 2**20)
    zeros, lists = np.zeros(20_000, np.int32), pa.array([["xy"] * 5] * 20_000)
    path = tmp_path / "a.parquet"
    for columns, refused in ((10, False), (13, True)):
        parquet.write_table(pa.table({f"g{i}": zeros for i in range(columns)} | {"tags": lists}), path)
        assert bounds.MOST_TIMES * path.stat().st_size < 2**20
        problems = Problems()
        assert bool(read_table(path, problems)) != refused and len(problems) == refused
    assert "unpacks to 0.0 GiB, and at most 0.000977 GiB are read" in problems[0]


def not_utf8(*cells):
    """A column of text as Arrow would have it if it were UTF-8."""
    ends = np.cumsum([0, *map(len, cells)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(cells), pa.py_buffer(ends), pa.py_buffer(b"".join(cells)))


@pytest.mark.parametrize("repeats", [False, True])
def test_parquet_whose_text_is_not_utf8_is_told_by_row_and_column(repeats, tmp_path):
    column = not_utf8(*[b"well"] * 1500, b"caf\xe9", *[b"ill"] * 9)
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"id": range(1510), "text": column}), path, use_dictionary=repeats)
    problems = Problems()
    assert not read_table(path, problems)
    assert problems == [f"{path}: row 1501, column 'text': byte 0xe9 is not UTF-8; write it anew in UTF-8"]
    text = {name: pa.array(["x"]) for name in ("id", "where", "path", "label")} | {"text": not_utf8(b"\xff")}
    numbers = {"coordinates": pa.array([[0.0]], pa.list_(pa.float32(), 1)), "hubness": np.zeros(1, np.float32)}
    table = pa.table(text | numbers).replace_schema_metadata({b"isogram": "{}"})
    parquet.write_table(table, tmp_path / "bank", use_dictionary=repeats)
    with pytest.raises(DataError, match=r"bank, row 1, column 'text': byte 0xff is not UTF-8; write it anew in UTF-8$"):
        bank_file.read(tmp_path / "bank")


@pytest.mark.parametrize("repeats", [False, True])
def test_rows_of_parquet_that_are_not_utf8_are_left_out_each_by_itself(repeats, tmp_path):
    n = 3000  # several parts of a file, read apart
    cells = {"a": {5: b"\xff", 1030: b"\xfe"}, "b": {5: b"\xfd", 2999: b"caf\xe9"}}
    columns = {name: not_utf8(*[bad.get(i, b"well") for i in range(n)]) for name, bad in cells.items()}
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"id": range(n)} | columns), path, use_dictionary=repeats)
    problems = Problems()
    table = read_table(path, problems, skip=True)
    kept = [i for i in range(n) if i not in (5, 1030, 2999)]
    assert not problems and table.column("id") == [str(i) for i in kept] and set(table.column("b")) == {"well"}
    assert table.starts.tolist() == [i + 1 for i in kept] and table.where(5) == f"{path}, row 7"
    assert table.bad == tuple(
        f"{path}, row {row}, column {name!r}: byte 0x{byte:02x} is not UTF-8; write it anew in UTF-8, or drop the row"
        for row, name, byte in ((6, "a", 0xFF), (1031, "a", 0xFE), (3000, "b", 0xE9))
    )
    assert not read_table(path, problems) and len(problems) == 1
    parquet.write_table(pa.table({"a": not_utf8(b"\xff")}), path)
    assert not read_table(path, problems, skip=True) and "row 1, column 'a': byte 0xff" in problems[1]


def test_parquet_whose_names_are_not_utf8_is_told(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"abcdef": ["x"], "id": ["y"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"abcdef", b"abcd\xe9f"))
    problems = Problems()
    assert not read_table(path, problems)
    assert problems == [f"{path}: the name of a column is not UTF-8; rename it"]


def test_a_bank_of_repeated_cells_is_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "UNPACKED", 2**25)
    rows = 4000
    text = {name: pa.array([""] * rows) for name in ("where", "path", "label")}
    numbers = {
        "coordinates": pa.array([[0.0]] * rows, pa.list_(pa.float32(), 1)),
        "hubness": np.zeros(rows, np.float32),
    }
    table = repeated(rows, **text, **numbers).replace_schema_metadata({b"isogram": "{}"})
    parquet.write_table(table, tmp_path / "bank")
    with pytest.raises(DataError, match=r"bank: unpacks to 1.0 GiB, .* are read of a file of 0.*; give a file that"):
        bank_file.read(tmp_path / "bank")


def test_a_file_is_known_again_without_being_held_and_refused_before_it_is_read(tmp_path):
    """Neither has anything on the disk: only their sizes count."""
    large, larger = (Item(name, path=tmp_path / f"{name}.txt") for name in ("large", "larger"))
    for item, size in ((large, 2**26), (larger, UNPACKED + 1)):
        with item.path.open("wb") as file:
            file.truncate(size)
    tracemalloc.start()
    try:
        found = content_hash(large)
        with pytest.raises(BadItem, match=r"^larger: unpacks to 1.0 GiB, and at most 1 GiB are read; cut it into"):
            TEXT.read(larger, ModalityConfig())
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    assert found == hashlib.sha256(bytes(2**26)).hexdigest()


def test_an_empty_sound_is_said_to_be_empty(tmp_path):
    with pytest.raises(BadItem, match=r"^a.wav: is an empty file; copy it again or leave it out$"):
        AUDIO.read(file(tmp_path / "a.wav", b""), ModalityConfig())


def test_a_sound_that_does_not_say_its_length_is_told(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.ones(2000) / 2, 16000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21], content[22:26] = content[21] & 0xF0, bytes(4)
    with pytest.raises(BadItem, match=r"^b.flac: does not say how long it is, as if streamed; save it as a whole"):
        AUDIO.read(file(tmp_path / "b.flac", bytes(content)), ModalityConfig())


def test_archives_that_are_none_or_damaged_are_one_line_each(tmp_path):
    np.save(tmp_path / "array.npy", np.zeros(40))
    items = [file(tmp_path / "array.npz", (tmp_path / "array.npy").read_bytes())]
    with zipfile.ZipFile(tmp_path / "readme.npz", "w") as archive:
        archive.writestr("README", "hello")
    items.append(Item("readme.npz", path=tmp_path / "readme.npz"))
    whole = io.BytesIO()
    np.savez_compressed(whole, x=np.random.default_rng(0).normal(size=400))
    draw = np.random.default_rng(1)
    for number in range(60):
        content = bytearray(whole.getvalue())
        for at in draw.integers(len(content), size=4):
            content[at] = draw.integers(256)
        items.append(file(tmp_path / f"{number}.npz", bytes(content)))
    told = [said for item in items if (said := refused(item))]
    assert len(told) > 30 and all(name in line for name, line in zip(("array.npz", "readme.npz"), told, strict=False))


def refused(item):
    """What is said of an item; nothing if it can be read all the same."""
    try:
        SERIES.read(item, ModalityConfig())
    except BadItem as error:
        return str(error)
    return ""


def test_a_blank_line_in_the_middle_is_told_and_one_at_the_end_is_not(tmp_path):
    rows = "".join(f"{x},1\n" for x in (3, 1, 4, 1, 5) * 8)
    with pytest.raises(BadItem, match="line 42 has 0 cells"):
        SERIES.read(file(tmp_path / "a.csv", f"x,y\n{rows}\n{rows}".encode()), ModalityConfig())
    assert len(SERIES.read(file(tmp_path / "a.csv", f"x,y\n{rows}\n\n".encode()), ModalityConfig()).values) == 40


@pytest.mark.parametrize(("rate", "to"), [(1000, 100), (100, 1000), (48000, 16000)])
def test_a_ramp_is_still_one_at_both_ends_of_another_rate(rate, to, tmp_path):
    ramp = np.linspace(5, 20, 4 * rate // 10)
    found = SERIES.read(npz(tmp_path / "a.npz", x=ramp, rate=np.array(rate)), ModalityConfig(rate=to, columns=("x",)))
    found = found.values[:, 0]
    expected = 5 + np.arange(len(found)) * (ramp[1] - ramp[0]) * rate / to
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_underscores_make_no_number(tmp_path):
    rows = "x,y\n" + "1,2024_01\n" * 40
    with pytest.raises(BadItem, match="sample 1 of 'y'"):
        SERIES.read(file(tmp_path / "a.csv", rows.encode()), ModalityConfig(columns=("y",)))


def test_parquet_numbers_with_a_gap_are_spelled_as_without_one(tmp_path):
    frame = pd.DataFrame({"id": [123456789012, None, 7], "share": [0.25, 1.5, None], "label": [1.0, float("nan"), 2.0]})
    frame.to_parquet(tmp_path / "a.parquet")
    problems = Problems()
    table = read_table(tmp_path / "a.parquet", problems)
    assert not problems
    assert list(table.column("id")) == ["123456789012", "", "7"]
    assert list(table.column("share")) == ["0.25", "1.5", ""] and list(table.column("label")) == ["1", "", "2"]


def source(*texts, names=None):
    items = [Item(f"{text}, row {row}", text=text) for row, text in enumerate(texts)]
    return Source("text", items, list(texts), names or [""] * len(texts))


def test_notes_that_one_node_repeats_hide_no_anchor_of_another(tmp_path):
    repeating = source(*["all well"] * 4, *"abcdefgh")
    anchors = {"text": source("a red boat", "all well", names=["boat", "well"])}
    found = shared_rows(
        {"desk": source("a red boat", "x"), "shop": repeating, "ward": source("all well", "x")}, anchors
    )
    assert set(found["desk"]) == {0} and "anchor" in found["desk"][0]
    assert set(found["shop"]) == {0, 1, 2, 3}, "an anchor is one, however often a node repeats it"
    assert set(found["ward"]) == {0, 1}, "that one, and the row of desk that none of them repeats"
    anchors = {"text": source("a red boat", "all well", "all well", names=["boat", "well", "fine"])}
    nodes = {"shop": repeating, "ward": source("all well", "y")}
    assert not any(shared_rows(nodes, anchors).values()), "what anchors repeat themselves may be chance"
    assert set(shared_rows({"a": repeating, "b": repeating}, {}, private=True)["b"]) == set(range(12))
