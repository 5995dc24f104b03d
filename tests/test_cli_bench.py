"""`isogram bench`: many runs, their rows and their table."""

import io
import json
import re
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console
from tables import write_tables
from typer.testing import CliRunner

from isogram import bench
from isogram.bench import Row, read_rows
from isogram.cli import app
from isogram.cli.benchmarks import _numbers
from isogram.errors import ConfigError
from isogram.methods import METHODS
from isogram.report import terminal

RUN = CliRunner(env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def file(file):
    """As it is typed."""
    return str(file)


BENCH = ["bench", "--data", "machines", "--anchors", "10", "--seeds", "0", "--methods", "oneshot"]


def test_json_of_the_benchmark_is_its_rows_and_times(folder):
    done = RUN.invoke(app, [*BENCH, "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [Row(**row) for row in found["rows"]] == read_rows([folder / "results" / "machines.jsonl"])
    [cell] = found["cells"]
    assert cell["cell"] == "machines, K = 10, seed 0: oneshot" and 0 < cell["seconds"] < found["seconds"]


def test_a_benchmark_ends_with_the_time_it_took(folder):
    done = RUN.invoke(app, BENCH)
    assert re.fullmatch(
        r"\d+ s; 1 cell of \d+ s in all, the longest \d+\.\d s \(machines, K = 10, seed 0: oneshot\)\n", done.stdout
    )
    assert "machines, K = 10, seed 0: oneshot: " in done.stderr
    assert re.fullmatch(r"no cell left to run; \d+ s\n", RUN.invoke(app, BENCH).stdout)


def test_a_quick_benchmark_goes_on_and_ends_with_one_table_over_data_sets(folder, monkeypatch):
    monkeypatch.setattr(bench, "QUICK", {"machines": 10, "digits-sites": 1, "pictures": 50})
    monkeypatch.setattr(terminal, "QUICK", bench.QUICK)
    monkeypatch.setattr(bench, "is_here", lambda name: name != "pictures")
    monkeypatch.setattr(bench, "fitting", lambda config: ["no-message", "oneshot"])
    done = RUN.invoke(app, ["bench", "--quick"], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    assert "pictures left out; to have it: isogram data fetch pictures" in done.stderr
    rows = read_rows([folder / "runs" / "quick.jsonl"])
    assert {(row.dataset, row.anchors, row.seed) for row in rows} == {
        (name, k, seed) for name, k in (("machines", 10), ("digits-sites", 1)) for seed in bench.QUICK_SEEDS
    }
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    at = lines.index(["sites", "machines"])
    assert lines[at + 1] == ["method", "acc.", "acc."]
    lines = lines[at + 3 :]
    assert [line[0] for line in lines[:2]] == ["no-message", "oneshot"] and "8 cells of" in done.stdout
    value = sum(r.value for r in rows if (r.method, r.metric, r.direction) == ("oneshot", "accuracy", "vibration")) / 2
    assert float(lines[1][2]) == pytest.approx(value, abs=5e-4)
    again = RUN.invoke(app, ["bench", "--quick", "--json", "--quiet"])
    assert json.loads(again.stdout)["cells"] == [] and len(json.loads(again.stdout)["rows"]) == len(rows)


def test_the_table_over_data_sets_fits_eighty_columns():
    rows = [
        Row(name, method, bench.QUICK[name], 0, metric, way or "a", 0.5)
        for name, metric, way in terminal.OVERVIEW.values()
        for method in METHODS
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal.overview(rows))
    lines = [line for line in console.export_text().splitlines() if ".500" in line]
    assert [line.split()[0] for line in lines] == list(METHODS) and all(line.count(".500") == 7 for line in lines)


def test_rows_of_other_tables_are_not_mixed(file, folder):
    other = write_tables(folder / "other", anchors=40, seed=1)
    options = ["--anchors", "30", "--seeds", "0", "--methods", "oneshot"]
    done = RUN.invoke(app, ["bench", file, *options])
    assert done.exit_code == 2 and "--out" in done.output
    assert RUN.invoke(app, ["bench", file, *options, "--out", "rows.jsonl"]).exit_code == 0
    done = RUN.invoke(app, ["bench", str(other), *options, "--out", "rows.jsonl"])
    assert done.exit_code == 2 and "rows of other settings" in done.output


def test_rows_of_other_settings_get_a_file_of_their_own(folder):
    options = ["bench", "--data", "machines", "--anchors", "10", "--seeds", "0", "--methods", "oneshot"]
    done = RUN.invoke(app, [*options, "-s", "align.rho=0.2"])
    assert done.exit_code == 2 and "--out" in done.output and not (folder / "results").exists()
    done = RUN.invoke(app, [*options, "-s", "align.rho=0.2", "--out", "other.jsonl"])
    assert done.exit_code == 0 and "rho = 0.2" in (folder / "other.toml").read_text()
    done = RUN.invoke(app, [*options, "--out", "other.jsonl"])
    assert done.exit_code == 2 and "rows of other settings" in done.output


def test_numbers():
    assert _numbers("0-4,7") == [0, 1, 2, 3, 4, 7] and _numbers("25,50") == [25, 50]
    for text in ("", "4-", "x", "1,,2"):
        with pytest.raises(ConfigError):
            _numbers(text)


def test_an_interrupted_benchmark_stops_at_once_and_keeps_its_rows(tmp_path):
    """A real process group is interrupted as Ctrl-C does it, after its first rows."""
    path = tmp_path / "rows.jsonl"
    options = ["--data", "machines", "--anchors", "10", "--seeds", "0-30", "--methods", "oneshot", "--out", str(path)]
    code = "from isogram.cli import app; app()"
    run = subprocess.Popen(
        [sys.executable, "-c", code, "bench", *options], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    for _ in range(600):
        time.sleep(0.1)
        if path.exists() and path.read_text().count("\n") > 12:
            break
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 130 and "rows that are finished are kept" in said and "Traceback" not in said
    assert 0 < len({row.seed for row in read_rows([path])}) < 31
