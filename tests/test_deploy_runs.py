"""Runs at the server as people see them, without the engine's processes; tests/deploy has the same with them."""

import sys

import pytest
from typer.testing import CliRunner

from isogram.cli import app

RUN = CliRunner(env={"COLUMNS": "200"})


@pytest.mark.parametrize("missing", ["ray", "flwr"])
def test_a_simulation_without_its_packages_says_what_to_install(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    done = RUN.invoke(app, ["deploy", "simulate", "--data", "machines", "--out", str(tmp_path / "out")])
    assert done.exit_code == 2 and "pip install -e '.[simulation]' in the clone" in done.output, done.output
    assert f"needs {missing};" in done.output and not (tmp_path / "out").exists()
