"""Encoding many items: the same bits whatever stands beside and whatever was kept, and nothing bad passed over."""

import hashlib
import os

import numpy as np
import pytest
import soundfile
import torch
from items import at, cell
from PIL import Image
from tiny_models import tiny

from isogram.config import ModalityConfig, SiloNode
from isogram.data import room
from isogram.data.modalities import KINDS
from isogram.data.modalities import encode as module
from isogram.data.modalities.base import Builtin, Item
from isogram.data.modalities.content import content_hash
from isogram.data.modalities.encode import encode, with_columns
from isogram.data.silos.rows import Rows
from isogram.errors import DataError

RNG = np.random.default_rng(0)
IMAGE, TEXT = ModalityConfig(kind="image"), ModalityConfig(kind="text")
TABLE = ModalityConfig(kind="table")


@pytest.fixture
def files(tmp_path):
    (tmp_path / "files").mkdir()
    items = []
    for number in range(6):
        path = tmp_path / "files" / f"{number}.png"
        Image.fromarray(RNG.integers(0, 256, (30, 20, 3), dtype=np.uint8)).save(path)
        items.append(at(path))
    return items


@pytest.fixture
def encoder(monkeypatch):
    """Encodings counted; a text's token is its length."""

    class Counting:
        fingerprint, batch, seen = "counting 1", 4, 0

        def __call__(self, read):
            self.seen += len(read)
            return np.array([[[len(text)]] for text in read], np.float32)

    counting = Counting()
    monkeypatch.setattr(module, "encoder_of", lambda config: counting)
    return counting


def test_a_second_run_computes_nothing_and_gives_the_same_bits(files, tmp_path):
    first = encode(files, IMAGE, cache=tmp_path / "cache")
    second = encode(files[::-1], IMAGE, cache=tmp_path / "cache")
    assert (first.from_cache, second.from_cache) == (0, 6)
    np.testing.assert_array_equal(first.tokens, second.tokens[::-1])
    assert first.tokens.dtype == np.float32 and first.hashes == second.hashes[::-1]
    pixels = Image.open(files[2].path).tobytes()
    assert first.hashes[2] == hashlib.sha256(b"(20, 30)\n" + pixels).hexdigest() and len({*first.hashes}) == 6


def test_a_changed_file_is_encoded_again_and_a_renamed_one_is_not(files, encoder, tmp_path):
    texts = [cell(text) for text in ("a", "bb", "ccc", "a")]
    assert encode(texts, TEXT, cache=tmp_path).tokens[:, 0, 0].tolist() == [1, 2, 3, 1]
    assert encoder.seen == 3, "equal content is encoded once"
    moved = Item("elsewhere", text="bb")
    found = encode([moved, cell("dddd")], TEXT, cache=tmp_path)
    assert found.tokens[:, 0, 0].tolist() == [2, 4] and encoder.seen == 4 and found.from_cache == 1
    encoder.fingerprint = "counting 2"
    assert encode([moved], TEXT, cache=tmp_path).from_cache == 0


@pytest.mark.parametrize("encoder", ["builtin", "hf"])
def test_tokens_do_not_depend_on_threads_nor_on_other_items(encoder, tmp_path):
    config = TEXT if encoder == "builtin" else ModalityConfig(kind="text", encoder=f"hf:{tiny('bert')}")
    items = [cell(f"the pump {number} hums " * (number % 5 + 1)) for number in range(120)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(encode(items, config, cache=tmp_path / f"many-{threads}").tokens[7:9])
            assert torch.get_num_threads() == threads
            found.append(encode(items[7:9], config, cache=tmp_path / f"few-{threads}").tokens)
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_all_bad_items_are_named_at_once(files, tmp_path):
    files[1].path.write_bytes(b"no picture")
    files[3].path.unlink()
    twin = at(files[0].path.with_name("twin.png"))
    twin.path.write_bytes(b"no picture")
    items = [*files, twin]
    with pytest.raises(DataError) as found:
        encode(items, IMAGE, cache=tmp_path / "cache")
    assert [problem.partition(":")[0] for problem in found.value.problems] == [
        "data/1.png",
        "data/3.png",
        "data/twin.png",
    ]
    assert "has the content of data/1.png, which is wrong" in found.value.problems[2]
    told = []
    some = encode(items, IMAGE, skip_bad=True, cache=tmp_path / "cache", told=lambda *done: told.append(done))
    assert some.kept.tolist() == [0, 2, 4, 5] and len(some.tokens) == len(some.hashes) == 4
    assert some.bad == found.value.problems and told[-1] == (7, 7)
    with pytest.raises(DataError, match="1.png: is no picture"):
        encode([items[1]], IMAGE, skip_bad=True, cache=tmp_path / "cache")
    with pytest.raises(DataError, match="there are no items to encode"):
        encode([], IMAGE, cache=tmp_path / "cache")


def test_what_an_encoder_cannot_do_is_named(encoder, tmp_path, monkeypatch):
    def fail(read):
        if any(text == "bad" for text in read):
            raise RuntimeError("no kernel")
        return np.zeros((len(read), 1, 1), np.float32)

    items = [cell("good"), Item("notes.csv, line 9", text="bad")]
    monkeypatch.setattr(module, "encoder_of", lambda config: Builtin("text", "x", fail))
    with pytest.raises(DataError, match=r"^notes.csv, line 9: encoder 'builtin' of text fails \(RuntimeError: no"):
        encode(items, TEXT, cache=tmp_path)

    def infinite(read):
        return np.array([[[np.inf if text == "bad" else 1.0]] for text in read])

    monkeypatch.setattr(module, "encoder_of", lambda config: Builtin("text", "y", infinite))
    with pytest.raises(DataError, match=r"^notes.csv, line 9: the encoder gives numbers that are not finite"):
        encode(items, TEXT, cache=tmp_path)
    assert encode(items, TEXT, skip_bad=True, cache=tmp_path).kept.tolist() == [0]
    monkeypatch.setattr(module, "encoder_of", lambda config: Builtin("text", "z", lambda read: np.zeros(3)))
    with pytest.raises(DataError, match=r"gives \(3,\) for 2 items; it must give \[items, tokens, values\]"):
        encode(items, TEXT, cache=tmp_path)


def test_an_interruption_keeps_what_is_done(encoder, tmp_path):
    items = [cell("x" * length) for length in range(1, 41)]

    def interrupt(done, total):
        if done >= 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(items, TEXT, cache=tmp_path, told=interrupt)
    again = encode(items, TEXT, cache=tmp_path)
    assert 12 <= again.from_cache < 40 and again.tokens[:, 0, 0].tolist() == list(range(1, 41))


def rows(*columns):
    return [
        Item(f"t.csv, line {line}", values=tuple((c, float(line)) for c in own)) for line, own in enumerate(columns, 2)
    ]


def test_columns_are_those_of_the_first_item(tmp_path):
    items = rows("ab", "ba", "ab")
    assert with_columns(TABLE, items).columns == ("a", "b") and with_columns(TEXT, items) == TEXT
    assert encode(items, TABLE, cache=tmp_path).tokens.shape == (3, 2, 1)
    assert not list(tmp_path.iterdir()), "cutting a row is faster than a look-up"
    with pytest.raises(DataError, match=r"line 3: has columns 'c' beside 'a', 'b', which the first item has; "):
        encode(rows("ab", "abc"), TABLE, cache=tmp_path)
    named = TABLE.model_copy(update={"columns": ("b",)})
    assert encode(rows("ab", "abc"), named, cache=tmp_path).tokens.shape == (2, 1, 1)


def test_what_is_wrong_does_not_depend_on_what_was_kept(tmp_path):
    """Surplus channels, a FASTA record in a cell, an archive called a CSV: an error cold and warm."""
    for number, names in enumerate(("x,y", "x,y", "x,y,z")):
        values = RNG.normal(size=(200, 3))[:, : len(names.split(","))]
        (tmp_path / f"{number}.csv").write_text("\n".join([names, *(",".join(map(str, row)) for row in values)]))
    series = [at(tmp_path / f"{number}.csv") for number in range(3)]
    free, named = ModalityConfig(kind="series"), ModalityConfig(kind="series", columns=("x", "y"))
    said = []
    for cache in ("cold", "warm"):
        if cache == "warm":
            assert encode(series, named, cache=tmp_path / cache).tokens.shape == (3, 16, 20)
        with pytest.raises(DataError) as caught:
            encode(series, free, cache=tmp_path / cache)
        said.append(caught.value.problems)
        found = encode(series, free, skip_bad=True, cache=tmp_path / cache)
        assert found.kept.tolist() == [0, 1] and found.bad == said[-1] and len(found.hashes) == 2
    assert said[0] == said[1] and "2.csv: has columns 'z' beside 'x', 'y'" in said[0][0]

    (tmp_path / "a.fa").write_text(">a\nACGT")
    np.savez(tmp_path / "a.npz", x=RNG.normal(size=40))
    (tmp_path / "b.csv").write_bytes((tmp_path / "a.npz").read_bytes())
    for kind, good, bad in (
        ("sequence", at(tmp_path / "a.fa"), cell(">a\nACGT")),
        ("series", at(tmp_path / "a.npz"), at(tmp_path / "b.csv")),
    ):
        encode([good], ModalityConfig(kind=kind), cache=tmp_path / "warm")
        for cache in ("cold", "warm"):
            with pytest.raises(DataError):
                encode([bad], ModalityConfig(kind=kind), cache=tmp_path / cache)


def test_what_reading_does_to_items_is_counted_cold_and_warm(tmp_path):
    wave = RNG.normal(size=(4000, 6)).clip(-3, 3) / 4
    files = ((16000, 1), (8000, 1), (44100, 2), (16000, 6), (8000, 1), (24000, 1), (32000, 1), (48000, 1))
    for number, (rate, channels) in enumerate(files):
        soundfile.write(tmp_path / f"{number}.wav", wave[:, :channels] if number != 4 else wave[:, 1:2], rate)
    sounds = [at(tmp_path / f"{number}.wav") for number in range(8)]
    told = (
        "2 of 8 at 8,000 Hz, resampled to 16,000: data/1.wav",
        "1 of 8 at 44,100 Hz, resampled to 16,000: data/2.wav",
        "1 of 8 with 2 channels, averaged to one: data/2.wav",
        "1 of 8 with 6 channels, averaged to one: data/3.wav",
        "1 of 8 at 24,000 Hz, resampled to 16,000: data/5.wav",
        "2 more such notes",
    )
    for _ in range(2):
        assert encode(sounds, ModalityConfig(kind="audio"), cache=tmp_path / "cache").notes == told
    for number, rate in enumerate((50, 100, 50)):
        np.savez(tmp_path / f"{number}.npz", x=RNG.normal(size=400), z=RNG.normal(size=400), rate=rate)
    series = [at(tmp_path / f"{number}.npz") for number in range(3)]
    for columns, borrowed, more in (
        (("x", "z"), True, ()),
        (("x",), False, ()),
        (("x",), True, ("3 of 3 with other columns than the anchors, which are not read: data/0.npz",)),
    ):
        config = ModalityConfig(kind="series", rate=50, columns=columns)
        for _ in range(2):
            found = encode(series, config, borrowed=borrowed, cache=tmp_path / "cache")
            assert found.notes == (*more, "1 of 3 at 100 Hz, resampled to 50: data/1.npz")


def test_tokens_that_do_not_fit_the_memory_are_refused_before_they_are_made(tmp_path, monkeypatch):
    def wide(read):
        return np.zeros((len(read), 1000, 5000), np.float32)

    monkeypatch.setattr(module, "encoder_of", lambda config: Builtin("text", "", wide, batch=1))
    said = (
        r"^100,000 items of 1,000 tokens of 5,000 values take 2,000.0 GB of memory, and [\d,.]+ GB are free; give fewer"
    )
    with pytest.raises(DataError, match=said):
        encode([cell("a")] * 100_000, TEXT, cache=tmp_path)
    tokens = np.broadcast_to(np.float32(0), (100_001, 1000, 5000))
    nothing = [""] * len(tokens)
    node = SiloNode(name="a", modality="text", data=tmp_path)
    rows = Rows("a", node, "text", tokens, nothing, nothing, nothing, nothing, nothing, None)
    assert rows.only(np.ones(len(tokens), bool)).tokens is tokens
    with pytest.raises(DataError, match=said):
        rows.only(np.arange(len(tokens)) > 0)
    assert 0 < room.free() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_an_item_that_only_the_encoder_cannot_do_is_left_out_unless_it_can_do_none(tmp_path, monkeypatch):
    items = [Item(f"notes.csv, line {row}", text=text) for row, text in enumerate(["a", "bad", "cc", "bad one"], 2)]
    tried = []

    def fail(read):
        tried.append(len(read))
        if any("bad" in text for text in read):
            raise RuntimeError("no kernel")
        return np.ones((len(read), 1, 1), np.float32)

    monkeypatch.setattr(module, "encoder_of", lambda config: Builtin("text", "v", fail, batch=3))
    found = encode(items, TEXT, skip_bad=True, cache=tmp_path)
    assert found.kept.tolist() == [0, 2] and len(found.bad) == 2
    assert found.bad[0].startswith("notes.csv, line 3: encoder 'builtin' of text fails (RuntimeError: no kernel)")
    monkeypatch.setattr(module, "encoder_of", lambda config: Builtin("text", "w", fail, batch=2))
    many = [Item(f"notes.csv, line {row}", text=f"bad {row}") for row in range(2, 402)]
    tried.clear()
    with pytest.raises(DataError) as caught:
        encode(many, TEXT, skip_bad=True, cache=tmp_path)
    assert len(caught.value.problems) == 1 and len(tried) < 60, "a broken encoder is not tried on every item"


def test_what_a_kind_of_a_package_raises_is_a_bad_item(tmp_path, monkeypatch):
    def read(self, item, config):
        return {"a": "fine"}[item.text]

    monkeypatch.setattr(type(KINDS["text"]), "read", read)
    found = encode([cell("a"), Item("notes.csv, line 8", text="b")], TEXT, skip_bad=True, cache=tmp_path)
    assert found.kept.tolist() == [0] and "notes.csv, line 8: cannot be read as text (KeyError: 'b')" in found.bad[0]


def test_the_hash_is_of_content_alone(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    assert content_hash(at(tmp_path / "a.txt")) == content_hash(cell("hello")) == hashlib.sha256(b"hello").hexdigest()
    one, other = rows("ab", "ba")
    assert content_hash(one) != content_hash(other)
