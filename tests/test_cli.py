import re

import pytest
from typer.testing import CliRunner

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
