"""The page of a run that has just begun, was stopped, lacks files, or is damaged."""

import pytest
from page_files import SECTIONS, check, make, run_files, sections, visible

from isogram.errors import RunError
from isogram.report.page import write_page


@pytest.mark.parametrize(
    ("done", "state"), [(0, "unfinished: round 0 of 4"), (2, "unfinished: round 2 of 4")], ids=["aligned", "training"]
)
def test_an_unfinished_run_shows_what_is_there(tmp_path, done, state):
    files = run_files()
    files["run.json"] |= {"round": done, "rounds": 4, "complete": False}
    files["metrics.jsonl"] = [m for m in files["metrics.jsonl"] if m["round"] <= done]
    del files["results.jsonl"], files["evaluation.json"]
    text = make(tmp_path, files)
    check(text)
    assert state in visible(text) and "--resume" in text and "sent by a node so far" in visible(text)
    expected = [s for s in SECTIONS if s not in ("results", "cka", "map", "examples") and (done or s != "training")]
    assert sections(text) == tuple(expected)


def test_a_run_that_was_stopped_while_it_wrote_has_a_page(tmp_path):
    files = run_files()
    make(tmp_path, files)
    for name in ("messages.jsonl", "metrics.jsonl", "results.jsonl"):
        path = tmp_path / name
        path.write_text(path.read_text()[:-20])
    write_page(tmp_path)
    check((tmp_path / "report.html").read_text())


@pytest.mark.parametrize("missing", [name for name in run_files() if name not in ("config.toml", "run.json")])
def test_each_file_may_be_missing(tmp_path, missing):
    files = run_files()
    del files[missing]
    check(make(tmp_path, files))


@pytest.mark.parametrize("name", ["config.toml", "run.json"])
def test_a_run_that_has_just_begun_has_a_page(tmp_path, name):
    text = make(tmp_path, {name: run_files()[name] if name == "config.toml" else {}})
    check(text)
    assert "unfinished: nothing is aligned yet" in visible(text) and sections(text) == ("settings",)


def test_a_single_node_has_a_page(tmp_path):
    text = make(tmp_path, run_files(nodes={"rna-1": "rna"}))
    check(text)
    assert "1 node of tcga-brca with rna through" in visible(text) and "Means over pairs" not in text


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        write_page(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [("run.json", "{"), ("run.json", "[]"), ("metrics.jsonl", "{\n{}\n"), ("config.toml", "= 3")],
    ids=["cut", "list", "line", "toml"],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    make(tmp_path, run_files())
    before = (tmp_path / "report.html").read_bytes()
    (tmp_path / name).write_text(content)
    with pytest.raises(RunError, match=name):
        write_page(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
