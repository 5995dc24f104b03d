import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from isogram import bench as benchmarks
from isogram.bench import QUICK, QUICK_SEEDS, Cell, bench, plan, plan_quick, read_rows, run_cell
from isogram.config import DATASETS, Config, ModelConfig
from isogram.errors import ConfigError, DataError
from isogram.methods import METHODS, RECIPES
from isogram.report.terminal import OVERVIEW

CONFIGS = [Config(data="machines", anchors=k, seed=s) for k in (10, 12) for s in (0, 1)]
CHEAP = ("no-message", "oneshot")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "rows.jsonl"
    told = []
    done = bench(plan(CONFIGS, CHEAP, []), path, jobs=2, finished=lambda cell, seconds: told.append((cell, seconds)))
    assert told == done
    return path, done


def test_rows_are_tidy_and_whole(written):
    path, done = written
    assert len(done) == 8 and all(isinstance(cell, Cell) for cell, _ in done)
    spent = {(row.method, row.anchors, row.seed): row.value for row in read_rows([path]) if row.metric == "seconds"}
    for cell, seconds in done:  # data and scores are in the cell's time, not in the method's
        assert seconds > spent[cell.names[0], cell.config.anchors, cell.config.seed] > 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {tuple(line) for line in lines} == {("dataset", "method", "anchors", "seed", "metric", "direction", "value")}
    per_cell = Counter((line["method"], line["anchors"], line["seed"]) for line in lines)
    assert len(per_cell) == 8 and len(set(per_cell.values())) == 1
    assert {line["metric"] for line in lines} == {"r1", "r10", "cka", "accuracy", "bytes_per_node", "seconds"}
    assert {line["direction"] for line in lines if line["metric"] == "r1"} == {"vibration->log", "log->vibration"}


def test_rows_do_not_depend_on_the_process_that_makes_them(written):
    rows = [row for cell in plan(CONFIGS[:1], CHEAP, []) for row in run_cell(cell)]
    kept = {key(row): row.value for row in read_rows([written[0]])}
    assert all(kept[key(row)] == row.value for row in rows if row.metric != "seconds")


def key(row):
    return tuple(asdict(row).values())[:-1]


def test_what_is_written_is_not_run_again_and_half_a_line_is(written, tmp_path):
    whole = written[0].read_text()
    assert plan(CONFIGS, CHEAP, read_rows([written[0]])) == []
    cut = tmp_path / "cut.jsonl"
    cell = [line for line in whole.splitlines(True) if not ('"oneshot"' in line and '"anchors": 12, "seed": 1' in line)]
    cut.write_text("".join(cell) + '{"dataset": "machines", "method": "onesh')
    left = plan(CONFIGS, CHEAP, read_rows([cut]))
    assert [(c.names, c.config.anchors, c.config.seed) for c in left] == [(("oneshot",), 12, 1)]
    bench(left, cut, jobs=1, finished=lambda cell, seconds: None)
    values = {key(row): row.value for row in read_rows([cut]) if row.metric != "seconds"}
    assert values == {key(row): row.value for row in read_rows([written[0]]) if row.metric != "seconds"}
    assert cut.read_text().count("\n") == whole.count("\n")


def test_one_run_serves_the_methods_that_share_it():
    cells = plan(CONFIGS[:1], ["cka", "cka-frame", "isogram"], [])
    assert [(RECIPES[cell.recipe].names, cell.names) for cell in cells] == [
        (("cka", "cka-frame"), ("cka", "cka-frame")),
        (("isogram", "isogram+oneshot"), ("isogram",)),
    ]


def test_another_trunk_is_another_method(tmp_path):
    config = Config(data="machines", anchors=10, model=ModelConfig(trunk="none"))
    cells = plan([config], ["oneshot"], [])
    rows = run_cell(cells[0])
    assert {row.method for row in rows} == {"oneshot@none"}
    assert plan([config], ["oneshot"], rows) == [] and plan([CONFIGS[0]], ["oneshot"], rows) != []


def test_a_quick_benchmark_is_every_method_that_each_data_set_allows(monkeypatch):
    monkeypatch.setattr(benchmarks, "is_here", lambda name: False)
    monkeypatch.setattr(benchmarks, "QUICK", {"machines": 10, "pictures": 50})
    cells, left_out = plan_quick([])
    assert left_out == ["pictures"]  # it would have to be encoded first
    configs = [Config(data="machines", anchors=10, seed=seed) for seed in QUICK_SEEDS]
    assert all(cell.config in configs for cell in cells)
    names = Counter(name for cell in cells for name in cell.names)
    assert set(names) == set(METHODS) - {"duration"} and set(names.values()) == {len(QUICK_SEEDS)}
    trained = [RECIPES[cell.recipe].trained for cell in cells]
    assert trained == sorted(trained)
    left, _ = plan_quick(run_cell(cells[0]))
    assert left == cells[1:]


def test_the_quick_benchmark_fits_its_data():
    assert QUICK.keys() <= DATASETS.keys() and not any(name.endswith("tuning") for name in QUICK)
    assert {name for name, _, _ in OVERVIEW.values()} == QUICK.keys()


def test_unknown_methods_are_named():
    with pytest.raises(ConfigError, match="one-shot"):
        plan(CONFIGS, ["one-shot"], [])


@pytest.mark.parametrize("line", ['{"dataset": 1}', "[]", "oops"])
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        read_rows([path])


def test_committed_rows_are_whole_and_each_stands_once():
    paths = sorted((Path(__file__).parents[1] / "results").glob("*.jsonl"))
    assert paths
    count = Counter(key(row) for row in read_rows(paths))
    assert max(count.values()) == 1
