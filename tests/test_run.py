"""Runs in folders: what they leave, and that an interrupted one goes on to the same bits."""

import io
import json
import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from disk import on_disk
from planted import planted
from rich.console import Console
from tables import shuffle_anchors, write_tables
from torch.testing import assert_close

from isogram import federation
from isogram.baselines import PAIRWISE
from isogram.bench import read_rows
from isogram.checkpoint import alignment_state, restore_alignment, restore_round, round_state
from isogram.config import Config, ModelConfig, TrainConfig
from isogram.config_file import read_config
from isogram.data import open_data
from isogram.errors import ConfigError, DataError, EgressError, MessageError, RefusedError, RunError, StorageError
from isogram.messages import Ledger, Up
from isogram.model import SavedModel
from isogram.progress import Watch
from isogram.run import Outcome, diagnose, run
from isogram.run_folder import left, run_id
from isogram.tensor_file import read_tensors, write_tensors

run_module = sys.modules["isogram.run"]
QUIET = Watch(Console(quiet=True))
RELOADS = 'http-equiv="refresh"'
"""In the page of a run that goes on."""
SETTINGS = ["threads=1", "model.width=48", "model.layers=1", "train.rounds=6", "train.steps=2", "train.lr=0.01"]
SETTINGS += ["train.projector_lr=0.01", "train.frame_update=0.3"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"), anchors=40)


def settings(file, folder, *more):
    return read_config(file, [*SETTINGS, f"output.folder='{folder}'", *more])


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
    """An uninterrupted run."""
    return run(settings(file, tmp_path_factory.mktemp("runs")), QUIET)


def logs(folder):
    """The three logs, but for how long things took and hashes of what fresh keys mask; of what left twice, once."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    sent = [line | ({"sha256": ""} if line["masked"] else {}) for line in left(folder)]
    return (folder / "messages.jsonl").read_text(), [m for m in metrics if m["metric"] != "seconds"], sent


def egress(folder):
    """All lines of the log of what left."""
    return [json.loads(line) for line in (folder / "egress.jsonl").read_text().splitlines()]


def assert_same(folder, whole):
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert logs(folder) == logs(whole)
    last = "checkpoints/round-0006.safetensors"
    assert (folder / last).read_bytes() == (whole / last).read_bytes()
    scores = [[r for r in read_rows([f / "results.jsonl"]) if r.metric != "seconds"] for f in (folder, whole)]
    assert scores[0] == scores[1]


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


def test_what_left_the_nodes_is_in_the_folder_by_hash(whole):
    """The log of nodes is that of the server, but for headers, which have a line of rows alone."""
    messages = [json.loads(line) for line in (whole.folder / "messages.jsonl").read_text().splitlines()]
    sent = egress(whole.folder)
    keys = ("node", "round", "field", "shape", "bytes")
    crossed = [[m[key] for key in keys] for m in messages if m["direction"] == "up" and m["field"] != "header"]
    assert crossed == [[line[key] for key in keys] for line in sent if line["field"] != "samples"]
    assert all(len(line["sha256"]) == 64 for line in sent)


class Stopping(Watch):
    """Stops a run in its third round, after some of the nodes."""

    def tick(self, tick):
        if tick.round == 3 and tick.node == "north" and tick.terms:
            raise KeyboardInterrupt


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

    written, carried = run_module.append_lines, []
    monkeypatch.setattr(
        run_module, "append_lines", lambda path, lines: full(path, all := [*lines]) or written(path, all)
    )
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


def test_the_final_model_is_the_trained_federation(whole, file):
    config = settings(file, "elsewhere")
    data = open_data(config)
    fed = federation.train(federation.align(data, config))
    model = SavedModel.load(whole.folder / "model.safetensors")
    for node in fed.nodes:
        assert_close(model.embed(node.name, node.data.tokens), node.embed(node.data.tokens), rtol=0, atol=0)


def attempt(file, folder):
    torch.set_num_threads(1)
    run(settings(file, folder), QUIET, resume=True)


def test_a_run_killed_at_any_moment_goes_on_to_the_same_bits(whole, file, tmp_path):
    """At least 20 real SIGKILLs, at random moments of runs that each go on until they are complete."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["isogram.run", "isogram.report.page", "peft", "transformers"])
    moments, draw = [], random.Random(0)
    first = time.monotonic()
    whole_again = context.Process(target=attempt, args=(file, tmp_path / "first"))
    whole_again.start()
    whole_again.join(120)
    length = time.monotonic() - first
    assert whole_again.exitcode == 0
    assert_same(tmp_path / "first" / "own", whole.folder)
    complete = 0
    while len(moments) < 24 or not complete:
        folder = tmp_path / f"run-{complete}"
        process = context.Process(target=attempt, args=(file, folder))
        process.start()
        # Rounds are a small part of a run's time, and should get most of the kills.
        process.join(draw.uniform(0.02, draw.choice([0.4, 1.0]) * length))
        if process.is_alive():
            process.kill()
            process.join()
            moments.append(len(list(folder.glob("own/checkpoints/round-*.safetensors"))))
        else:
            assert process.exitcode == 0
            assert_same(folder / "own", whole.folder)
            shutil.rmtree(folder)
            complete += 1
    assert len(set(moments)) >= 3, f"kills at too few places: {moments}"


def test_ctrl_c_ends_a_run_with_a_hint_and_resume_finishes_it(whole, file, tmp_path):
    """A real process group gets SIGINT as from a keyboard, after its first rounds."""
    settings = [f"--set={s}" for s in [*SETTINGS, f"output.folder='{tmp_path}'"]]
    command = [sys.executable, "-c", "from isogram.cli import app; app()", "run", str(file), *settings]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    mark = tmp_path / "own" / "checkpoints" / "round-0001.safetensors"
    for _ in range(3000):
        if mark.exists():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in said and "Traceback" not in said, said
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "going on after round" in again.stderr and "own: held-out rows" in again.stdout
    assert_same(tmp_path / "own", whole.folder)


def test_a_disk_that_is_full_or_read_only_ends_a_run_which_goes_on_when_it_is_mended(whole, file, tmp_path):
    """On a real file system: too small at first, then without permission to write, then large enough."""
    disk, keep = tmp_path / "disk", tmp_path / "kept"
    settings = " ".join(f"--set={s}" for s in [*SETTINGS, f"output.folder={disk}"])
    command = (
        f"'{sys.executable}' -c 'from isogram.cli import app; app()' run '{file}' {settings} --quiet --resume 2>&1"
    )
    lines = on_disk(
        disk,
        f"{command} | tail -1",
        f"ls '{disk}/own/checkpoints' | wc -l",
        f"mount -o remount,ro,size=20m '{disk}'",
        f"{command}; echo code $?",
        f"mount -o remount,rw,size=20m '{disk}'",
        f"{command} > /dev/null && cp -r '{disk}/own' '{keep}'",
        size="340k",
    )
    assert "No space left on device; free some space" in lines[0] and lines[0].startswith("error: ")
    assert 1 < int(lines[1]) < 7, "the disk was not full in the middle of the run: the test means nothing"
    assert "Read-only file system" in lines[2] and lines[3] == "code 4" and len(lines) == 4
    assert_same(keep, whole.folder)


def test_a_complete_run_can_be_resumed_without_harm(whole, file, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "own")
    assert run(settings(file, tmp_path), QUIET, resume=True).resumed_at == 6
    assert_same(tmp_path / "own", whole.folder)


@pytest.mark.parametrize("across", ["pooled", "attention", "none", "alone"])
def test_a_run_whose_nodes_do_not_share_everything_goes_on_to_the_same_bits(file, tmp_path, across, whole):
    """As after a stop in the third round: its checkpoint is not there, but what it logged is."""
    more = [f"average.across={across}", "train.refresh=2"]
    done = run(settings(file, tmp_path / "whole", *more), QUIET).folder
    assert (done / "model.safetensors").read_bytes() != (whole.folder / "model.safetensors").read_bytes()
    shutil.copytree(done, tmp_path / "again" / "own")
    for n in range(3, 7):
        (tmp_path / "again" / "own" / "checkpoints" / f"round-{n:04d}.safetensors").unlink()
    assert run(settings(file, tmp_path / "again", *more), QUIET, resume=True).resumed_at == 2
    assert_same(tmp_path / "again" / "own", done)


def test_resume_begins_a_run_that_is_not_there(file, tmp_path):
    assert run(settings(file, tmp_path, "train.rounds=0"), QUIET, resume=True).resumed_at is None


def test_the_page_can_be_watched_while_the_run_goes_on(file, tmp_path, monkeypatch):
    class Looking(Watch):
        seen = []  # noqa: RUF012

        def tick(self, tick):
            if not tick.node:
                self.seen.append((tmp_path / "own" / "report.html").read_text())

    monkeypatch.setattr(run_module, "PAGE_EVERY", 0.0)
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


@pytest.mark.parametrize("done", range(4))
def test_a_state_put_back_is_the_state(tmp_path, done):
    """Through real files, for they also say how numbers lie in memory, which decides the last bits."""
    config = Config(
        data="machines",
        anchors=40,
        model=ModelConfig(width=48, layers=1),
        train=TrainConfig(rounds=3, steps=2, lr=1e-2, projector_lr=1e-2, frame_update=0.5),
    )
    data = planted(holds={"a": range(30), "b": range(10, 40)})
    aligned = federation.align(data, config)
    straight = federation.train(aligned)
    stopped = federation.start_training(aligned)
    while stopped.round < done:
        stopped = federation.train_round(stopped)
    write_tensors(tmp_path / "0", alignment_state(aligned), {})
    write_tensors(tmp_path / "n", round_state(stopped), {})
    position = {"round": done, "history": stopped.history, "refused": ()}
    again = restore_alignment(federation.gather(data, config), read_tensors(tmp_path / "0")[0])
    again = restore_round(again, read_tensors(tmp_path / "n")[0], position)
    while again.round < 3:
        again = federation.train_round(again)
    for name, value in round_state(straight).items():
        assert_close(round_state(again)[name], value, rtol=0, atol=0, equal_nan=True)
    for node, other in zip(again.nodes, straight.nodes, strict=True):
        assert_close(node.embed(node.data.tokens), other.embed(node.data.tokens), rtol=0, atol=0)
    assert again.history == straight.history


# What stands in the way of a run.


def refused(config, error, *words, **options):
    with pytest.raises(error) as caught:
        run(config, QUIET, **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def unchanged(folder):
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_with_a_run_is_not_written_over(whole, file):
    before = unchanged(whole.folder)
    refused(settings(file, whole.folder.parent), RunError, "holds a run already", "--resume")
    assert unchanged(whole.folder) == before


def test_a_folder_of_another_configuration_is_refused_with_what_differs(whole, file):
    before = unchanged(whole.folder)
    config = settings(file, whole.folder.parent, "train.lr=0.02", "seed=3")
    words = ("another configuration", "seed = 0 there and 3 now", "train.lr = 0.01 there and 0.02 now")
    refused(config, RunError, *words, resume=True)
    assert unchanged(whole.folder) == before


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("lab.csv", lambda lines: lines[:-1]),
        ("north.csv", lambda lines: [lines[0], lines[1].rpartition(",")[0] + ",odd", *lines[2:]]),
        (
            "test/meth.csv",
            lambda lines: [lines[0], *(f"test-{i}," + x.partition(",")[2] for i, x in enumerate(lines[:0:-1]))],
        ),
        ("public/rna.csv", lambda lines: [lines[0], lines[1] + "1", *lines[2:]]),
    ],
)
def test_a_run_does_not_go_on_with_other_data(file, tmp_path, table, change):
    """Private rows, a label, the pairing of held-out rows, an anchor: whatever is not as it was."""
    tables = tmp_path / "tables"
    shutil.copytree(file.parent, tables)
    config = settings(tables / "own.toml", tmp_path, "train.rounds=0")
    run(config, QUIET)
    before = unchanged(tmp_path / "own")
    (tables / table).write_text("\n".join(change((tables / table).read_text().splitlines())) + "\n")
    refused(config, RunError, "was made with other data", "another name", resume=True)
    assert unchanged(tmp_path / "own") == before


def test_leftovers_of_killed_writers_are_swept_and_do_not_stand_in_the_way(file, tmp_path):
    checkpoints = tmp_path / "own" / "checkpoints"
    checkpoints.mkdir(parents=True)
    left = [tmp_path / "own" / ".config.toml.123.tmp", checkpoints / ".round-0000.safetensors.7.tmp"]
    for path in left:
        path.write_text("half")
    run(settings(file, tmp_path, "train.rounds=0"), QUIET)
    assert not any(path.exists() for path in left)


def test_checkpoints_of_something_else_are_left_alone(whole, file, tmp_path):
    shutil.copytree(whole.folder / "checkpoints", tmp_path / "own" / "checkpoints")
    refused(settings(file, tmp_path), RunError, "no run folder but holds round-0000.safetensors", resume=True)


def test_seconds_of_a_resumed_run_count_all_rounds(file, tmp_path):
    config = settings(file, tmp_path, "train.rounds=3")
    run(config, QUIET)
    (tmp_path / "own" / "checkpoints" / "round-0003.safetensors").unlink()
    run(config, QUIET, resume=True)
    metrics = [json.loads(line) for line in (tmp_path / "own" / "metrics.jsonl").read_text().splitlines()]
    told = [m["value"] for m in metrics if m["metric"] == "seconds"]
    assert len(told) == 4
    assert json.loads((tmp_path / "own" / "run.json").read_text())["seconds"] == pytest.approx(sum(told), abs=2e-3)


def test_a_run_that_another_process_began_meanwhile_is_not_written_over(whole, file, tmp_path, monkeypatch):
    """The folder is looked at again once this process alone may write to it."""
    looks = []
    real = run_module.check_folder

    def look(folder, *rest):
        looks.append(folder)
        if len(looks) == 2:
            for path in whole.folder.iterdir():
                if path.is_file() and path.name != ".lock":
                    shutil.copy(path, folder)
        real(folder, *rest)

    monkeypatch.setattr(run_module, "check_folder", look)
    refused(settings(file, tmp_path), RunError, "holds a run already")
    assert (tmp_path / "own" / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("device", ["cuda", "gpu0", "mps"])
def test_a_device_that_is_not_there_is_told_before_a_folder_is_made(file, tmp_path, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    refused(settings(file, tmp_path, f"train.device={device}"), ConfigError, f"'{device}' cannot be used here", "cpu")
    assert not (tmp_path / "own").exists()


def test_a_trunk_too_narrow_for_the_frame_is_told_before_a_folder_is_made(file, tmp_path):
    refused(settings(file, tmp_path, "model.width=16"), DataError, "model.width", "39 coordinates")
    assert not (tmp_path / "own").exists()


def cut_tables(file, folder, **keep):
    """A copy of the tables with only the first rows of some."""
    shutil.copytree(file.parent, folder)
    for name, rows in keep.items():
        for path in folder.rglob(f"{name}.csv"):
            path.write_text("".join(path.read_text().splitlines(True)[: rows + 1]))
    return folder / "own.toml"


def test_three_held_out_pairs_are_enough_for_a_run_though_not_for_cka(file, tmp_path):
    own = cut_tables(file, tmp_path / "tables")
    for path in (tmp_path / "tables" / "test").iterdir():
        path.write_text("".join(path.read_text().splitlines(True)[:4]))
    outcome = run(settings(own, tmp_path, "train.rounds=1"), QUIET)
    assert {row.metric for row in outcome.rows} >= {"r1", "accuracy"} and "cka" not in {r.metric for r in outcome.rows}


def test_a_node_of_one_row_and_one_without_any_known_label_take_part(file, tmp_path):
    own = cut_tables(file, tmp_path / "tables", lab=1)
    text = (tmp_path / "tables" / "south.csv").read_text()
    for name in ("healthy", "ill", "odd"):
        text = text.replace(f",{name}\n", ",\n")
    (tmp_path / "tables" / "south.csv").write_text(text)
    outcome = run(settings(own, tmp_path, "train.rounds=1"), QUIET)
    assert (outcome.folder / "report.html").exists()
    assert not [f for f in outcome.diagnosis.findings if f.where == "node lab"]


def test_another_version_on_resume_is_told(whole, file, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "own")
    path = tmp_path / "own" / "environment.json"
    path.write_text(path.read_text().replace(torch.__version__, "1.0"))
    out = io.StringIO()
    run(settings(file, tmp_path), Watch(Console(file=out, width=200)), resume=True)
    assert f"torch {torch.__version__}, before 1.0: the last bits may differ" in out.getvalue()


def test_a_folder_of_something_else_is_left_alone(file, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.tex").write_text("precious")
    refused(settings(file, tmp_path), RunError, "no run folder but holds thesis.tex")
    assert [p.name for p in (tmp_path / "own").iterdir()] == ["thesis.tex"]


def hold(folder, ready, done):
    from isogram.run_folder import locked

    with locked(folder):
        ready.set()
        done.wait(60)


def test_two_processes_do_not_write_one_folder(whole, file):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(whole.folder, ready, done))
    other.start()
    assert ready.wait(60)
    refused(settings(file, whole.folder.parent), RunError, "another process works in", resume=True)
    done.set()
    other.join()


def test_a_damaged_checkpoint_is_named(whole, file, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "own")
    path = tmp_path / "own" / "checkpoints" / "round-0006.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    refused(settings(file, tmp_path), DataError, "round-0006.safetensors", "damaged", resume=True)


def test_a_log_with_lines_missing_is_named(whole, file, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "own")
    path = tmp_path / "own" / "messages.jsonl"
    path.write_text("".join(path.read_text().splitlines(True)[:-3]))
    refused(settings(file, tmp_path), DataError, "messages.jsonl holds", resume=True)


def test_wrong_data_leave_no_folder(file, tmp_path):
    tables = tmp_path / "tables"
    shutil.copytree(file.parent, tables)
    (tables / "public" / "rna.csv").unlink()
    refused(settings(tables / "own.toml", tmp_path / "runs"), DataError, "no file")
    assert not (tmp_path / "runs").exists()


def test_unrelated_silos_are_refused_and_force_goes_on(file, tmp_path):
    tables = tmp_path / "tables"
    shutil.copytree(file.parent, tables)
    shuffle_anchors(tables, "meth")
    config = settings(tables / "own.toml", tmp_path / "runs", "train.rounds=0")
    refused(config, RefusedError, "meth")
    assert not (tmp_path / "runs").exists()
    assert run(config, QUIET, force=True).diagnosis.refusals


def test_a_rank_that_the_anchors_cannot_carry_is_refused(file, tmp_path):
    refused(settings(file, tmp_path, "align.rank=40"), DataError, "align.rank", "39")


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        (["model.rank=50"], ["model.rank = 50", "48 x 48", "48 or less"]),
        (["model.target=nothing"], ["model.target = 'nothing' matches no linear layer", "dense, key, query, value"]),
        (["model.target=*proj"], ["'*proj' is no regular expression", "give a list"]),
        (["model.trunk=./nowhere"], ["nowhere' cannot be loaded", "save_pretrained"]),
        (["model.start=./nowhere"], ["nowhere"]),
    ],
)
def test_adapters_that_do_not_fit_the_trunk_are_told_before_a_folder_is_made(file, tmp_path, settings_, words):
    refused(settings(file, tmp_path, *settings_), ConfigError, *words)
    assert not (tmp_path / "own").exists()


def test_tensorboard_logs_every_term_of_every_node_once_also_after_an_interruption(file, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = settings(file, tmp_path, "output.tensorboard=true", "train.rounds=3")
    run(config, QUIET)
    for path in (tmp_path / "own" / "checkpoints").glob("round-000[23].safetensors"):
        path.unlink()
    run(config, QUIET, resume=True)
    found = EventAccumulator(str(tmp_path / "own" / "tensorboard")).Reload()
    assert {"loss/frame", "loss/frame/lab", "loss/task/north", "seconds"} <= set(found.Tags()["scalars"])
    assert [event.step for event in found.Scalars("loss/frame/lab")] == [1, 2, 3]
    metrics = [json.loads(line) for line in (tmp_path / "own" / "metrics.jsonl").read_text().splitlines()]
    told = [m["value"] for m in metrics if (m["metric"], m["node"]) == ("loss/frame", "lab")]
    assert [event.value for event in found.Scalars("loss/frame/lab")] == pytest.approx(told)


def test_tensorboard_that_is_not_installed_is_told_before_anything_is_done(file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    refused(settings(file, tmp_path, "output.tensorboard=true"), ConfigError, "pip install isogram[tensorboard]")
    assert not (tmp_path / "own").exists()


def test_one_class_at_a_node_is_refused(file, tmp_path):
    tables = tmp_path / "tables"
    shutil.copytree(file.parent, tables)
    text = (tables / "north.csv").read_text()
    (tables / "north.csv").write_text(text.replace(",ill\n", ",\n").replace(",odd\n", ",\n"))
    refused(settings(tables / "own.toml", tmp_path / "runs"), RefusedError, "north", "healthy")


def test_silos_that_nothing_connects_are_refused_with_their_groups(file, tmp_path):
    tables = tmp_path / "tables"
    shutil.copytree(file.parent, tables)
    text = (tables / "public" / "meth.csv").read_text()
    (tables / "public" / "meth.csv").write_text(text.replace("anchor-", "other-"))
    refused(settings(tables / "own.toml", tmp_path / "runs"), DataError, "meth", "rna")


def test_features_that_never_vary_are_refused(file, tmp_path):
    data = open_data(settings(file, tmp_path))
    items = dict(data.anchors.items)
    items["meth"] = replace(items["meth"], tokens=items["meth"].tokens * 0)
    with pytest.raises(DataError, match="meth"):
        diagnose(replace(data, anchors=replace(data.anchors, items=items)), settings(file, tmp_path))
