"""Runs at the server as people see them, without the engine's processes; tests/deploy has the same with them."""

import json
import sys

import pytest
from deployments import write_consortium
from filelock import FileLock
from typer.testing import CliRunner

from isogram.cli import app
from isogram.deploy.coordinate import STATE
from isogram.deploy.init import init
from isogram.deploy.runs import ENGINE, OUTCOME
from isogram.engine.commands import free_port

RUN = CliRunner(env={"COLUMNS": "200"})


@pytest.mark.parametrize("missing", ["ray", "flwr"])
def test_a_simulation_without_its_packages_says_what_to_install(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    done = RUN.invoke(app, ["deploy", "simulate", "--data", "machines", "--out", str(tmp_path / "out")])
    assert done.exit_code == 2 and "pip install -e '.[simulation]' in the clone" in done.output, done.output
    assert missing in done.output.partition(";")[0] and not (tmp_path / "out").exists()


@pytest.fixture
def server(tmp_path):
    """A server's folder with a run that has done a round; no server answers."""
    path = write_consortium(tmp_path)
    path.write_text(path.read_text().replace("[server]", f'[server]\nlisten = "127.0.0.1:{free_port()}"'))
    folder = init(path).folder.server.path
    nodes = {"north": {"modality": "numbers", "is": "training", "why": "", "sent": 5, "got": 7}}
    left(folder, STATE, {"round": 1, "rounds": 4, "complete": False, "untold": [], "nodes": nodes, "attempt": 0})
    left(folder, ENGINE, {"run": "17"})
    return folder


def left(folder, name, value):
    run = folder / "state" / "runs" / "one"
    run.mkdir(parents=True, exist_ok=True)
    before = json.loads((run / name).read_text()) if (run / name).exists() else {"run": "one", "problems": []}
    (run / name).write_text(json.dumps(before | value))


def ask(*words):
    done = RUN.invoke(app, ["deploy", *map(str, words)])
    assert "Traceback" not in done.output
    return done.exit_code, done.output


def test_status_says_that_a_run_is_stopped_and_how_to_go_on(server):
    left(server, OUTCOME, {"problems": ["node 'south' did not answer"]})
    code, said = ask("status", server)
    assert code == 4 and "round 1 of 4 done, stopped" in said and "training" not in said
    assert f"run one is stopped; go on with it: isogram deploy resume {server}" in said
    assert "error: node 'south' did not answer" in said
    code, said = ask("status", server, "--json")
    assert code == 4 and '"going": false' in said


def test_status_says_that_the_server_does_not_answer(server):
    code, said = ask("status", server)
    assert code == 4 and "training" not in said
    assert f"start it: isogram deploy server {server}" in said and f"isogram deploy resume {server}" in said


def test_what_has_ended_is_not_stopped_again_and_said_in_our_words(server):
    left(server, OUTCOME, {"problems": ["too few"]})
    code, said = ask("stop", server)
    assert code == 2 and "run one is stopped; go on with it" in said and "code:" not in said
    left(server, STATE, {"complete": True})
    code, said = ask("stop", server)
    assert code == 2 and said == "error: run one is complete; there is nothing to stop\n"


def test_a_second_server_is_told_of_the_first_while_its_port_is_still_free(server):
    (server / "state").mkdir(exist_ok=True)
    with FileLock(server / "state" / ".lock"):
        assert ask("server", server) == (2, f"error: a server runs from {server} already; stop that one first\n")
    assert not (server / "state" / "logs").exists()


@pytest.mark.parametrize(("attempt", "told"), [(1, "resumed once"), (3, "resumed 3 times")])
def test_how_often_a_run_was_resumed_and_since_when_bytes_count(server, attempt, told):
    left(server, STATE, {"complete": True, "attempt": 0})
    assert "resumed" not in ask("status", server)[1]
    left(server, STATE, {"complete": True, "attempt": attempt})
    code, said = ask("status", server)
    assert code == 0 and f"complete, {told}\n" in said and "sent and received: since it was resumed" in said


def test_a_run_watched_without_a_terminal_is_named_at_once_and_told_a_line_a_round(server):
    left(server, STATE, {"complete": True, "attempt": 0})
    left(server, OUTCOME, {"problems": []})
    assert ask("status", server, "--follow") == (0, f"run one in {server}/state/runs/one\nrun one: complete\n")
