import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from damage import spoil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted import planted
from pyarrow import parquet

from isogram import federation
from isogram.checkpoint import final_model
from isogram.config import Config
from isogram.errors import DataError, StorageError
from isogram.inference import Bank, Model
from isogram.inference.bank import NEIGHBOURS, hubness


@pytest.fixture(scope="module")
def data():
    return planted(private=30)


@pytest.fixture(scope="module")
def model(data):
    return Model(final_model(federation.align(data, Config(data="machines", anchors=40)), data))


@pytest.fixture(scope="module")
def bank(model, data):
    rows = data.nodes[2].tokens
    return Bank.build(model, "b", rows, ids=[f"b-{i}" for i in range(len(rows))], labels=["x", "y", "z"] * 10)


def cosine(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


def test_hits_are_those_of_a_loop_over_all_items(bank, model, data):
    for query in model.embed("c", data.nodes[3].tokens[:4]):
        cosines = [cosine(query, one) for one in bank.coordinates]
        hubs = [
            np.mean(sorted((cosine(one, place) for place in model.saved.frame), reverse=True)[:NEIGHBOURS])
            for one in bank.coordinates
        ]
        for corrected in (False, True):
            scores = [2 * c - h for c, h in zip(cosines, hubs, strict=True)] if corrected else cosines
            order = sorted(range(len(bank)), key=lambda i: -scores[i])[:7]
            hits = bank.search(query, 7, corrected=corrected)
            assert [hit.position for hit in hits] == order
            np.testing.assert_allclose([hit.score for hit in hits], [scores[i] for i in order], atol=1e-5)
            np.testing.assert_allclose([hit.cosine for hit in hits], [cosines[i] for i in order], atol=1e-5)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=12), st.integers(0, 14))
def test_of_equal_scores_the_first_come_first(values, k):
    coordinates = np.array([[v, 1 - abs(v)] for v in values], np.float32)
    bank = Bank(coordinates, np.zeros(len(values), np.float32), None, {})
    hits = bank.search([1.0, 0.0], k, corrected=False)
    assert [hit.position for hit in hits] == sorted(range(len(values)), key=lambda i: -values[i])[:k]


def test_a_hub_that_is_near_to_all_is_found_by_cosine_and_not_by_score():
    """Items e_i; queries between e_i and the mean of all. The mean itself, as an item, is nearer to each than e_i."""
    own, middle = np.eye(8), np.full(8, 8**-0.5)
    items, queries = np.vstack([own, middle]), own + 1.1 * middle
    anchors = np.vstack([own, np.tile(middle, (10, 1)) + 0.1 * np.tile(own, (2, 1))[:10]])
    bank = Bank(items.astype(np.float32), hubness(items, anchors), None, {})
    plain, corrected = (bank.nearest(queries, 1, corrected=way)[0][:, 0].tolist() for way in (False, True))
    assert plain == [8] * 8 and corrected == list(range(8))


def test_many_queries_at_once_are_the_same_to_the_bit(bank, model, data):
    queries = model.embed("c", data.nodes[3].tokens[:5])
    together = bank.nearest(queries, 3)
    for row, query in enumerate(queries):
        alone = bank.nearest(query[None], 3)
        for one, all_of_them in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], all_of_them[row])


def test_an_items_score_depends_on_no_other_item(bank, model, data):
    query = model.embed("c", data.nodes[3].tokens[:1])[0]
    few = Bank.build(model, "b", data.nodes[2].tokens[:10])
    scores = {hit.position: hit.score for hit in bank.search(query, len(bank))}
    for hit in few.search(query, 10):
        assert hit.score == pytest.approx(scores[hit.position], abs=1e-6)


def test_a_bank_comes_back_from_its_file_to_the_bit(bank, model, tmp_path):
    path = tmp_path / "bank.parquet"
    bank.save(path)
    again = Bank.load(path, model)
    np.testing.assert_array_equal(again.coordinates, bank.coordinates)
    np.testing.assert_array_equal(again.hubness, bank.hubness)
    assert again.about == bank.about and [again[i] for i in range(30)] == [bank[i] for i in range(30)]
    assert again.about == {"model": model.fingerprint, "anchors": model.saved.anchor_hash} | {
        "node": "b",
        "modality": "b",
        "encoder": "",
    }
    assert vars(again[1]) == {"id": "b-1", "where": "row 2", "path": "", "text": "", "label": "y"}
    with pytest.raises(IndexError):
        again[30]
    frame = pd.read_parquet(path)
    assert list(frame) == ["id", "where", "path", "text", "label", "coordinates", "hubness"]
    np.testing.assert_array_equal(np.stack(frame["coordinates"]), bank.coordinates)


def test_a_bank_of_another_model_is_refused(bank, model, tmp_path):
    bank.save(tmp_path / "bank")
    other = Model(replace(model.saved, frame=2 * model.saved.frame))
    with pytest.raises(DataError, match="another model .*embed its items again with this one"):
        Bank.load(tmp_path / "bank", other)
    with pytest.raises(DataError, match="another model on other anchors"):
        Bank.load(tmp_path / "bank", Model(replace(model.saved, anchor_hash="other")))
    assert len(Bank.load(tmp_path / "bank", Model(model.saved.only("c")))) == 30


def test_files_that_are_no_banks_are_told(bank, tmp_path):
    (tmp_path / "text").write_text("hello")
    pd.DataFrame({"id": ["1"]}).to_parquet(tmp_path / "other")
    bank.save(tmp_path / "bank")
    (tmp_path / "cut").write_bytes((tmp_path / "bank").read_bytes()[:-100])
    frame = bank.coordinates.copy()
    frame[3, 0] = np.nan
    replace(bank, coordinates=frame).save(tmp_path / "nan")
    for name, said in (
        ("none", "cannot read"),
        ("text", "cannot read"),
        ("cut", "cannot read"),
        ("other", "holds no embedded items"),
        ("nan", "damaged"),
    ):
        with pytest.raises(DataError, match=f"{name}.*{said}|{said}.*{name}"):
            Bank.load(tmp_path / name)
    with pytest.raises(StorageError, match="a file is where a folder should be"):
        bank.save(tmp_path / "text" / "bank")


def rewritten(bank, path, header=None, **columns):
    """The bank's file with another header, or other columns."""
    bank.save(path)
    table = parquet.read_table(path)
    header = json.loads(table.schema.metadata[b"isogram"]) if header is None else header
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, values)
    parquet.write_table(table.replace_schema_metadata({b"isogram": json.dumps(header)}), path)
    return path


@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_bank_with_a_damaged_header_is_told_or_can_be_used(bank, model, tmp_path, data):
    bank.save(tmp_path / "bank")
    header = json.loads(parquet.read_schema(tmp_path / "bank").metadata[b"isogram"])
    spoil(data, header)
    try:
        again = Bank.load(rewritten(bank, tmp_path / "bank", header), model)
    except DataError as error:
        said = str(error)
    else:
        said = f"{tmp_path / 'bank'} is fine: nobody need embed"
        assert again.about.keys() == bank.about.keys() and all(isinstance(x, str) for x in again.about.values())
        assert len(again.search(again.coordinates[0], 3)) == 3 and again[0].id == "b-0"
    assert str(tmp_path / "bank") in said and "embed" in said


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("hubness", pa.array([np.nan] * 30, pa.float32()), "no finite numbers"),
        ("hubness", pa.array([None] * 30, pa.float32()), "'hubness' has empty cells"),
        ("hubness", pa.array(["a"] * 30), "could not convert"),
        ("id", pa.array([None] * 30, pa.string()), "'id' has empty cells"),
        ("text", pa.array([1] * 30), "'text' is no text"),
        ("coordinates", pa.array([1.0] * 30), "flatten|list_size"),
        ("coordinates", pa.array([[1.0, 2.0]] * 30, pa.list_(pa.float32(), 2)), "2 coordinates, the model"),
    ],
)
def test_a_bank_with_a_damaged_column_is_told(bank, model, tmp_path, column, value, said):
    with pytest.raises(DataError, match=rf"bank is damaged \(.*({said}).*\); embed its items again"):
        Bank.load(rewritten(bank, tmp_path / "bank", **{column: value}), model)


def test_what_was_left_out_stands_in_the_file(bank, model, tmp_path):
    replace(bank, bad=("a.png: is no picture",)).save(tmp_path / "bank")
    assert Bank.load(tmp_path / "bank", model).bad == ("a.png: is no picture",)
    header = {"format": "isogram-bank-1", **bank.about}  # as it was written before
    assert Bank.load(rewritten(bank, tmp_path / "bank", header), model).bad == ()


def test_queries_of_another_model_are_told(bank):
    r = bank.coordinates.shape[1]
    with pytest.raises(DataError, match=rf"queries \[1, {r + 1}\], but items of this bank have {r} coordinates"):
        bank.search(np.ones(r + 1))
    with pytest.raises(DataError, match="no numbers"):
        bank.search(np.full(r, np.nan))
    for query in ("red", ["red"], [[1.0, 2.0], [3.0]], None):
        with pytest.raises(DataError, match=r"no list of numbers|queries \[|no numbers"):
            bank.search(query)


def test_what_does_not_make_a_bank_is_told(model, data):
    rows = data.nodes[2].tokens[:3]
    for wrong, said in (
        ({"ids": ["a", "b", "a"]}, "ids that stand twice: 'a'"),
        ({"ids": ["a"]}, "3 items, 1 ids, 3 labels"),
        ({"labels": ["a"] * 4}, "3 items, 3 ids, 4 labels"),
    ):
        with pytest.raises(DataError, match=said):
            Bank.build(model, "b", rows, **wrong)
    with pytest.raises(DataError, match="no item to embed"):
        Bank.build(model, "b", rows[:0])
