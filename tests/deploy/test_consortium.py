"""Three sites and a server as their people run them: to the bits of the run in process, through kills and mistakes.

Some minutes; not among the tests that run by default: `make test-deploy`.
"""

import os
import shutil
import signal
import subprocess

import pytest
from consortium import NAME, SITES, Consortium, differences
from loopback import running, until

pytestmark = pytest.mark.deploy

RUN = 300
"""Seconds for a run, on a machine that does other things too."""


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    with running(Consortium(tmp_path_factory.mktemp("consortium"), min_nodes=2, rounds=2)) as one:
        yield one


@pytest.fixture(scope="module")
def expected(three):
    return three.expected()


def test_a_run_ends_with_the_bits_of_the_run_in_process(three, expected):
    said = three.command("start", three.paths.server.path, "--run", "one", "--json", bound=RUN)
    assert '"complete": true' in said.splitlines()[-1]
    assert three.absent("one") == []
    assert differences(three.model("one"), expected) == []
    for site in SITES:
        assert f"node {site} is connected; it waits to be asked" in three.said(site)
        assert (three.paths.site(site).path / "state" / site / "one" / "model.safetensors").exists()


def test_node_and_server_killed_in_a_round_and_resumed(three, expected):
    watching = three.begin("start", "start", three.paths.server.path, "--run", "two", "--json")
    until(lambda: three.asked("two", "round", 1, "south"), RUN, "the second round")
    three.kill_site("south")
    three.kill_server()
    assert watching.wait(180) != 0
    last = three.said("start").splitlines()[-1]
    assert last.startswith("error: run two ended before it was complete") and last.endswith("isogram deploy resume")
    assert three.state("two")["round"] == 1
    said = three.command("resume", three.paths.server.path, "--json", bound=RUN)
    assert '"complete": true' in said.splitlines()[-1]
    events = three.events("two")
    assert [event["round"] for event in events if event["what"] == "round"] == [0, 1, 2]
    assert [event["line"] for event in events if event["what"] == "resumed"] == ["after round 1"]
    assert three.absent("two") == []
    assert differences(three.model("two"), expected) == []
    assert "Traceback" not in three.said("south") + three.said("server") + three.said("start")


def error_of(done):
    """The one line that a command says of what is wrong."""
    text = done.stdout + done.stderr if isinstance(done, subprocess.CompletedProcess) else done
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in text, text
    return lines[0]


def test_a_second_server_and_a_wrong_path_are_told_at_once(three):
    second = three.ask("server", three.paths.server.path)
    assert f"a server runs from {three.paths.server.path} already" in error_of(second) and second.returncode == 2
    copy = three.folder / NAME / "sites" / "wrong"
    shutil.copytree(three.paths.site("south").path, copy, ignore=shutil.ignore_patterns("state"))
    text = (copy / "site.toml").read_text().replace("south.csv", "nowhere.csv")
    (copy / "site.toml").write_text(text)
    wrong = three.ask("node", copy / "site.toml")
    assert "nowhere.csv (there is" in error_of(wrong) and wrong.returncode == 2
    again = three.ask("start", three.paths.server.path, "--run", "one")
    assert "there is a run 'one'" in error_of(again)


def test_keys_of_others_are_told_at_the_node(three):
    other = Consortium(three.folder / "other")
    for what, name in (("key", "b.key"), ("authority", "ca.crt")):
        copy = three.folder / NAME / "sites" / what
        shutil.copytree(three.paths.site("south").path, copy, ignore=shutil.ignore_patterns("state"))
        shutil.copy(other.paths.site("south").path / name, copy / name)
        three.begin(what, "node", copy / "site.toml")
    assert three.running["authority"].wait(90) == 2
    assert "was not signed by" in error_of(three.said("authority"))
    until(lambda: "refuses node south: its key" in three.said("key"), 60, "the refusal")
    three.running["key"].terminate()
    assert three.running["key"].wait(30) == 0
    assert "Traceback" not in three.said("key")


def test_other_settings_are_told_at_both_ends(three):
    three.running["south"].terminate()
    assert three.running["south"].wait(30) == 0
    path = three.paths.site("south").consortium
    before = path.read_text()
    path.write_text(before.replace("steps = 2", "steps = 3"))
    try:
        three.start_site("south")
        three.command("start", three.paths.server.path, "--run", "four", "--detach")
        until(lambda: "same consortium file" in three.said("south"), 150, "what the operator reads")
        why = "refused: node 'south' has settings"
        until(lambda: why in three.state("four")["nodes"]["south"]["why"], 30, "what the coordinator reads")
        assert why in three.ask("status", three.paths.server.path).stdout
        assert "Traceback" not in three.said("south")
    finally:
        path.write_text(before)
        three.ask("stop", three.paths.server.path)


def test_a_run_is_stopped_and_said_to_be(three):
    """A node that does not answer keeps it from its end meanwhile."""
    (worker,) = three.under("north", "isogram.deploy.worker")
    os.kill(worker, signal.SIGSTOP)
    try:
        three.command("start", three.paths.server.path, "--run", "five", "--detach")
        assert "is stopped; go on" in three.command("stop", three.paths.server.path)
        for word in ("status", "stop"):
            told = three.ask(word, three.paths.server.path)
            assert "run five is stopped (finished" in error_of(told) and told.returncode, told
    finally:
        os.kill(worker, signal.SIGCONT)


def test_without_a_server_commands_say_so(three):
    three.running["server"].terminate()
    assert three.running["server"].wait(30) == 0
    alone = three.ask("resume", three.paths.server.path, "--run", "five")
    assert "no server at localhost" in error_of(alone)
