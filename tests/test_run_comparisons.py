"""Methods beside a run in its table: one that cannot be run is told with why, and the run ends with its model."""

import io
import json

import pytest
from rich.console import Console
from tables import write_tables
from typer.testing import CliRunner

from isogram import recorder
from isogram.bench import read_rows
from isogram.cli import app
from isogram.config_file import read_config
from isogram.errors import DataError
from isogram.methods import RECIPES, Recipe
from isogram.model import SavedModel
from isogram.progress import Watch
from isogram.run import run

SETTINGS = ["threads=1", "model.width=48", "model.layers=1", "train.rounds=1", "train.steps=1"]


def settings(file, folder, *more):
    return read_config(file, [*SETTINGS, f"output.folder='{folder}'", *more])


@pytest.fixture
def file(tmp_path):
    return write_tables(tmp_path / "tables", anchors=40)


def like_an_anchor(folder):
    """The first row of north becomes an anchor's in all columns that vary over anchors; in another it is its own."""
    for path in folder.rglob("*.csv"):
        if path.name == "rna.csv" or (path.parent == folder and path.name != "lab.csv"):
            head, *lines = path.read_text().splitlines()
            path.write_text("\n".join(["batch," + head, *("1," + line for line in lines)]) + "\n")
    head, first, *lines = (folder / "north.csv").read_text().splitlines()
    anchor = (folder / "public" / "rna.csv").read_text().splitlines()[7].split(",")[2:]
    mine = ",".join(["2", "north-0", *anchor, first.rpartition(",")[2]])
    (folder / "north.csv").write_text("\n".join([head, mine, *lines]) + "\n")


def test_a_row_that_is_an_anchor_in_all_that_varies_keeps_no_method_out(file, tmp_path):
    like_an_anchor(file.parent)
    outcome = run(settings(file, tmp_path), Watch(Console(quiet=True)))
    assert {"pairwise-ridge", "cca", "procrustes", "isogram"} <= {row.method for row in outcome.rows}


def failing(error):
    """A method of the table that fails after it has said something."""

    def solve(data, config, progress):
        raise error
        yield

    return Recipe(("cca",), solve, False, "nothing")


@pytest.mark.parametrize("error", [DataError("two [problems]", "and <another>"), ZeroDivisionError("a fault of ours")])
def test_a_method_that_fails_is_told_with_why_and_the_run_ends_with_its_model(file, tmp_path, monkeypatch, error):
    kept = [recipe for recipe in RECIPES if recipe.names in (("local",), ("closed-form",))]
    monkeypatch.setattr(recorder, "COMPARED", (kept[0], failing(error), kept[1]))
    out = io.StringIO()
    outcome = run(settings(file, tmp_path), Watch(Console(file=out, width=200, force_terminal=False)))
    said = "two [problems]; and <another>" if isinstance(error, DataError) else "ZeroDivisionError: a fault of ours"
    assert outcome.not_run == {"cca": said}
    assert {row.method for row in outcome.rows} == {"local", "closed-form", "isogram"}
    assert f"cca: not run: {said}\n" in out.getvalue()
    state = json.loads((outcome.folder / "run.json").read_text())
    assert state["complete"] and state["not_run"] == {"cca": said}
    page = (outcome.folder / "report.html").read_text()
    assert f"cca: not run: {said}".replace("<", "&lt;").replace(">", "&gt;") in page
    assert SavedModel.load(outcome.folder / "model.safetensors").adapters is not None
    assert {row.method for row in read_rows([outcome.folder / "results.jsonl"])} == {"local", "closed-form", "isogram"}


def test_where_no_method_can_be_run_there_is_a_page_that_says_so(file, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "COMPARED", (failing(DataError("no")),))
    outcome = run(settings(file, tmp_path, "train.rounds=0"), Watch(Console(quiet=True)))
    assert not outcome.rows and "cca: not run: no" in (outcome.folder / "report.html").read_text()


def test_the_command_says_below_its_table_and_in_json_what_was_not_run(file, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "COMPARED", (failing(DataError("two [problems]")),))
    options = [f"--set={text}" for text in [*SETTINGS, f"output.folder='{tmp_path}'"]]
    found = CliRunner().invoke(app, ["run", str(file), *options, "--quiet"])
    assert found.exit_code == 0 and "cca: not run: two [problems]" in " ".join(found.stdout.split())
    found = CliRunner().invoke(app, ["run", str(file), *options, "--quiet", "--json", "--resume"])
    assert json.loads(found.stdout)["not_run"] == {"cca": "two [problems]"}


def test_the_model_is_there_before_methods_are_compared(file, tmp_path, monkeypatch):
    def stopped(data, config, progress):
        raise KeyboardInterrupt
        yield  # as methods do

    monkeypatch.setattr(recorder, "COMPARED", (Recipe(("cca",), stopped, False, "nothing"),))
    with pytest.raises(KeyboardInterrupt):
        run(settings(file, tmp_path), Watch(Console(quiet=True)))
    assert SavedModel.load(tmp_path / "own" / "model.safetensors").adapters is not None
    assert not json.loads((tmp_path / "own" / "run.json").read_text())["complete"]
