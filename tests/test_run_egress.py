"""What a run writes down of all that left its nodes, stopped and resumed, too."""

import json
import shutil

import pytest
from rich.console import Console
from table_runs import QUIET, Stopping, assert_same, egress, logs, settings

from isogram import recorder
from isogram.errors import EgressError, RunError, StorageError
from isogram.messages import Ledger, Up
from isogram.run import run
from isogram.run_folder import left


def test_what_left_the_nodes_is_in_the_folder_by_hash(whole):
    """The log of nodes is that of the server, but for headers, which have a line of rows alone."""
    messages = [json.loads(line) for line in (whole.folder / "messages.jsonl").read_text().splitlines()]
    sent = egress(whole.folder)
    keys = ("node", "round", "field", "shape", "bytes")
    crossed = [[m[key] for key in keys] for m in messages if m["direction"] == "up" and m["field"] != "header"]
    assert crossed == [[line[key] for key in keys] for line in sent if line["field"] != "samples"]
    assert all(len(line["sha256"]) == 64 for line in sent)


def test_what_left_in_a_round_that_was_stopped_stays_in_the_log(whole, file, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(settings(file, tmp_path), Stopping(Console(quiet=True)))
    before = egress(tmp_path / "own")
    again = [line for line in before if line["round"] == 4]
    assert {line["node"] for line in again} == {"lab", "north"}, "nothing had left, and nothing is shown"
    with (tmp_path / "own" / "egress.jsonl").open("a") as log:
        log.write('{"node": "sou')  # killed while it wrote: this has not left
    run(settings(file, tmp_path), QUIET, resume=True)
    after = egress(tmp_path / "own")
    assert after[: len(before) + 1] == [*before, {"resumed": 2}]
    assert after[len(before) + 1 :][: len(again)] == again, "it left once more, the same"
    assert_same(tmp_path / "own", whole.folder)


def test_what_left_before_an_alignment_that_was_stopped_stays_in_the_log(whole, file, tmp_path):
    def ask(question):
        return "no" if question.kind == "sums" else "yes"

    with pytest.raises(EgressError):
        run(settings(file, tmp_path), QUIET, ask=ask)
    before = egress(tmp_path / "own")
    assert {line["kind"] for line in before} == {"gram", "key", "counts"}
    run(settings(file, tmp_path), QUIET, resume=True)
    assert egress(tmp_path / "own")[: len(before) + 1] == [*before, {"resumed": None}]
    assert_same(tmp_path / "own", whole.folder)


def test_a_message_that_cannot_be_written_down_does_not_leave(file, tmp_path, monkeypatch):
    def full(path, lines):
        if path.name == "egress.jsonl" and any('"update"' in line for line in lines):
            raise StorageError("cannot write: no space")

    written, carried = recorder.append_lines, []
    monkeypatch.setattr(recorder, "append_lines", lambda path, lines: full(path, all := [*lines]) or written(path, all))
    carry = Ledger.carry
    monkeypatch.setattr(
        Ledger, "carry", lambda self, message, *more: carried.append(message) or carry(self, message, *more)
    )
    with pytest.raises(StorageError, match="no space"):
        run(settings(file, tmp_path), QUIET)
    up = [message for message in carried if isinstance(message, Up)]
    assert up and not any(message.adapters for message in up)


def test_of_what_left_twice_the_last_line_counts_and_a_damaged_one_is_told(tmp_path):
    line = {"node": "a", "round": 2, "kind": "sums", "field": "head", "sha256": "1"}
    log = tmp_path / "egress.jsonl"
    lines = [line, {"resumed": None}, line | {"sha256": "2"}, line | {"round": 3}]
    log.write_text("".join(json.dumps(x) + "\n" for x in lines) + '{"node')
    assert left(tmp_path) == lines[2:]
    log.write_text('{"node\n')
    with pytest.raises(RunError, match="egress.jsonl: .*damaged"):
        left(tmp_path)
    assert left(tmp_path / "older") == []


def test_a_run_that_needs_what_may_not_be_sent_writes_nothing(file, tmp_path):
    with pytest.raises(EgressError, match="node 'lab' has to send 'adapters' in 'update' messages"):
        run(settings(file, tmp_path, 'egress.allow=["gram", "key", "counts", "sums"]'), QUIET)
    assert not list(tmp_path.iterdir())


def test_methods_that_are_simulated_for_the_table_do_not_need_to_be_allowed(whole, file, tmp_path):
    only = 'egress.allow=["gram", "trained_gram", "key", "counts", "sums", "update"]'
    outcome = run(settings(file, tmp_path, only), QUIET)
    assert {row.method for row in outcome.rows} == {row.method for row in whole.rows}
    assert logs(outcome.folder) == logs(whole.folder)


@pytest.mark.parametrize("kind", ["gram", "sums", "update"])
def test_after_a_no_the_log_has_what_had_left_and_resume_asks_for_the_rest(whole, file, tmp_path, kind):
    asked = []

    def ask(question):
        asked.append((question.node, question.kind))
        return "no" if question.kind == kind and len(answers) else "all"

    answers = ["no"]
    with pytest.raises(EgressError, match=f"'{kind}' message"):
        run(settings(file, tmp_path), QUIET, ask=ask)
    folder = tmp_path / "own"
    kinds = {line["kind"] for line in egress(folder)}
    assert kind not in kinds and kinds == {k for _, k in asked} - {kind}
    answers.clear()
    before = len(asked)
    run(settings(file, tmp_path), QUIET, resume=True, ask=ask)
    assert_same(folder, whole.folder)
    assert kind in {k for _, k in asked[before:]}
    if kind == "update":  # alignment is complete, and what it sent is not asked for again by the nodes that sent it
        assert not {k for _, k in asked[before:]} & {"gram", "key", "counts", "sums"}


def test_a_run_of_a_version_without_the_log_goes_on(whole, file, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "own")
    (tmp_path / "own" / "egress.jsonl").unlink()
    (tmp_path / "own" / "checkpoints" / "round-0006.safetensors").unlink()
    assert run(settings(file, tmp_path), QUIET, resume=True).resumed_at == 5
    first, *lines = egress(tmp_path / "own")
    assert first == {"resumed": 5} and {line["round"] for line in lines} == {7}
