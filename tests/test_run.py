"""Runs in folders: what they leave, and the page while they go on."""

import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from table_runs import QUIET, RELOADS, Stopping, settings
from torch.testing import assert_close

from isogram import federation, recorder
from isogram.baselines import PAIRWISE
from isogram.bench import read_rows
from isogram.config_file import read_config
from isogram.data import open_data
from isogram.errors import MessageError
from isogram.evaluation import Scope
from isogram.model import SavedModel
from isogram.progress import Watch
from isogram.report.record import Record
from isogram.run import Outcome, run
from isogram.run_folder import run_id


def test_a_run_leaves_all_its_files_and_nothing_half_written(whole):
    assert isinstance(whole, Outcome) and whole.resumed_at is None
    assert {str(p.relative_to(whole.folder)) for p in whole.folder.rglob("*") if p.is_file()} == {
        "config.toml",
        "doctor.json",
        "egress.jsonl",
        "environment.json",
        "evaluation.json",
        "messages.jsonl",
        "metrics.jsonl",
        "model.safetensors",
        "report.html",
        "results.jsonl",
        "run.json",
        ".lock",
        *(f"checkpoints/round-{n:04d}.safetensors" for n in range(7)),
    }


def test_the_files_say_what_was_run(whole, file):
    state = json.loads((whole.folder / "run.json").read_text())
    assert (state["round"], state["rounds"], state["complete"], state["anchors"]) == (6, 6, True, 40)
    assert [(n["name"], n["modality"], n["rows"]) for n in state["nodes"]] == [
        ("north", "rna", 24),
        ("south", "rna", 24),
        ("lab", "meth", 24),
    ]
    resolved = read_config(whole.folder / "config.toml")
    assert resolved == settings(file, whole.folder.parent)
    versions = json.loads((whole.folder / "environment.json").read_text())
    assert versions["packages"]["torch"] == torch.__version__ and versions["threads"] == 1


def test_the_ledger_in_the_folder_is_that_of_the_federation(whole, file):
    config = settings(file, "elsewhere")
    fed = federation.train(federation.align(open_data(config), config, run_id(whole.folder)))
    lines = [json.loads(line) for line in (whole.folder / "messages.jsonl").read_text().splitlines()]
    assert [(e.direction, e.node, e.round, e.field, list(e.shape), e.bytes) for e in fed.ledger.entries] == [
        tuple(line.values()) for line in lines
    ]
    metrics = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    told = {(m["round"], m["metric"]): m["value"] for m in metrics if m["node"] == ""}
    assert [{n: told[i + 1, f"loss/{n}"] for n in terms} for i, terms in enumerate(fed.history)] == list(fed.history)


def test_every_run_has_a_name_of_its_own_that_its_messages_carry(whole, file):
    config = settings(file, "elsewhere")
    fed = federation.gather(open_data(config), config, run_id(whole.folder))
    up = fed.nodes[0].send_gram(0)
    assert up.run == run_id(whole.folder) and len(up.run) == 16
    other = replace(fed, run="0" * 16)
    with pytest.raises(MessageError, match=f"run '{up.run}' in run '0000000000000000'"):
        other.receive(fed.nodes[0], "gram", 0, up)


def test_the_table_holds_the_trained_model_beside_what_needs_no_training(whole):
    methods = {row.method for row in whole.rows}
    assert methods == {
        "local",
        "no-message",
        "relative",
        "oneshot",
        "oneshot-hsic",
        "closed-form",
        *PAIRWISE,
        "isogram",
    }
    assert list(whole.rows) == read_rows([whole.folder / "results.jsonl"])
    assert whole.scope == Record.read(whole.folder).scope == Scope({"rna": 12, "meth": 12}, paired=True, classes=3)


def test_the_final_model_is_the_trained_federation(whole, file):
    config = settings(file, "elsewhere")
    data = open_data(config)
    fed = federation.train(federation.align(data, config))
    model = SavedModel.load(whole.folder / "model.safetensors")
    for node in fed.nodes:
        assert_close(model.embed(node.name, node.data.tokens), node.embed(node.data.tokens), rtol=0, atol=0)


def test_the_page_can_be_watched_while_the_run_goes_on(file, tmp_path, monkeypatch):
    class Looking(Watch):
        seen = []  # noqa: RUF012

        def tick(self, tick):
            if not tick.node:
                self.seen.append((tmp_path / "own" / "report.html").read_text())

    monkeypatch.setattr(recorder, "PAGE_EVERY", 0.0)
    run(settings(file, tmp_path, "train.rounds=3"), Looking(Console(quiet=True)))
    assert [f"round {done} of 3" in text for done, text in enumerate(Looking.seen)] == [True] * 3
    final = (tmp_path / "own" / "report.html").read_text()
    assert RELOADS in Looking.seen[1] and RELOADS not in final and "it is <strong>complete" in final


def test_the_page_of_a_run_that_was_stopped_says_how_far_it_came(file, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(settings(file, tmp_path), Stopping(Console(quiet=True)))
    page = (tmp_path / "own" / "report.html").read_text()
    assert "unfinished: round 2 of 6" in page and RELOADS not in page


def test_alignment_alone_leaves_a_model_and_a_table(file, tmp_path):
    outcome = run(settings(file, tmp_path, "train.rounds=0"), QUIET)
    assert "isogram" not in {row.method for row in outcome.rows}
    assert SavedModel.load(outcome.folder / "model.safetensors").adapters is None


def test_without_held_out_rows_a_run_ends_all_the_same(file, tmp_path):
    text = file.read_text().replace('held_out = { rna = "test/rna.csv", meth = "test/meth.csv" }', "")
    bare = file.with_name("bare.toml")
    bare.write_text(text)
    outcome = run(settings(bare, tmp_path, "train.rounds=1"), QUIET)
    assert (outcome.folder / "report.html").exists()
    assert {row.metric for row in outcome.rows} == {"bytes_per_node", "seconds"}
