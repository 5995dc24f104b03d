import re
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from isogram.bench import read_rows
from isogram.cli import _numbers, app
from isogram.errors import ConfigError
from isogram.methods import METHODS

RUN = CliRunner(env={"COLUMNS": "200"})


def test_the_demo_runs_every_method_and_prints_each_step_and_the_table():
    done = RUN.invoke(app, ["demo", "--data", "machines", "--anchors", "20"])
    assert done.exit_code == 0, done.output
    for step in ("fetch data", "one-shot alignment", "federated rounds", "evaluation"):
        assert f"{step}: " in done.output
    assert "round 4 of 4" in done.output
    table = done.output[done.output.index("held-out rows") :]
    for method in METHODS:
        line = re.search(rf"^ +{re.escape(method)} .*", table, re.MULTILINE)
        assert line, method
        assert re.search(r"\.\d\d\d", line[0]), method


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--data", "tcga"], "choose one of tcga-brca"),
        (["demo", "--data", "machines", "--anchors", "1"], "anchors"),
        (["demo", "--data", "machines", "--anchors", "0"], "anchors: Input should be greater than or equal to 1"),
        (["bench", "--data", "machines", "--methods", ""], "no method ''"),
        (["bench", "--seeds", "5-2"], "runs backwards"),
        (["bench", "--data", "machines", "--methods", "none"], "choose from local"),
        (["bench", "--seeds", "a-b"], "0-4"),
    ],
)
def test_wrong_arguments_end_with_one_line_and_what_to_write_instead(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = RUN.invoke(app, arguments)
    assert done.exit_code == 2 and said in done.output and "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


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
