"""The engine's own processes on this machine: what crosses, and what happens when any of them is killed or hangs.

Some minutes; not among the tests that run by default: `make test-deploy`.
"""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import tomlkit
from loopback import Loopback, node_key, running, until

from isogram.engine import link
from isogram.engine.commands import free_port, site_environment, supernode
from isogram.errors import RunError

pytestmark = pytest.mark.deploy

SITES = ["site-1", "site-2", "site-3"]
ALL = dict.fromkeys(SITES, "echo")

NOTICED = 75
"""Seconds within which the engine notices that a process is gone: twice its heartbeat of 30 s, and its own polls."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    with running(Loopback(tmp_path_factory.mktemp("federation"), len(SITES))) as one:
        yield one


def client_process(federation, name):
    """The process that the node of this name has started for a message."""
    for child in psutil.Process(federation.supervisor.pid(name)).children(recursive=True):
        if "isogram.engine.client_process" in child.cmdline():
            return child.pid
    return None


def rounds_done(federation, name):
    path = federation.journal(name)
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("size", [100_000, 10_000_000])
def test_payloads_come_back(federation, size):
    answer = federation.ask(wait=60, size=size)
    assert answer["answers"] == ALL


def test_a_large_reply_to_a_small_request(federation):
    answer = federation.ask(wait=60, size=100, site_2={"size": 30_000_000})
    assert answer["answers"] == ALL | {"site-2": "30000000 bytes"}


def test_a_site_that_hangs_is_lost_and_comes_back(federation):
    answer = federation.ask(wait=12, site_2={"sleep": 20})
    assert answer["seconds"] < 13
    assert answer["answers"] == ALL | {"site-2": {"lost": link.LATE.format(12)}}
    assert federation.ask(wait=60)["answers"] == ALL


def test_a_killed_client_process_costs_no_work(federation):
    number = federation.begin(wait=2 * NOTICED, site_1={"sleep": 3})
    until(lambda: str(number) in rounds_done(federation, "site-1"), 30, "work at site 1")
    os.kill(client_process(federation, "site-1"), signal.SIGKILL)
    assert federation.answer(number, 2 * NOTICED + 5)["answers"] == ALL
    assert rounds_done(federation, "site-1").count(str(number)) == 1


def test_a_killed_worker_does_its_work_again(federation):
    number = federation.begin(wait=60, site_1={"sleep": 5})
    until(lambda: str(number) in rounds_done(federation, "site-1"), 30, "work at site 1")
    os.kill(federation.supervisor.pid("site-1-worker"), signal.SIGKILL)
    assert federation.answer(number, 65)["answers"] == ALL
    assert rounds_done(federation, "site-1").count(str(number)) == 2


def test_a_killed_node_is_lost_and_rejoins(federation):
    number = federation.begin(wait=2 * NOTICED, site_3={"sleep": 15})
    until(lambda: str(number) in rounds_done(federation, "site-3"), 30, "work at site 3")
    killed = federation.supervisor.pid("site-3")
    os.kill(killed, signal.SIGKILL)
    answer = federation.answer(number, 2 * NOTICED + 5)
    assert answer["answers"] == ALL | {"site-3": {"lost": link.NODE_LOST}}
    assert answer["seconds"] < NOTICED + 15
    until(lambda: federation.ask(wait=30)["answers"] == ALL, 180, "site 3 again")
    assert federation.supervisor.pid("site-3") != killed


def test_a_site_runs_no_code_that_the_server_sent(federation, tmp_path):
    mark = tmp_path / "mark"

    def add_code(bundle: Path) -> None:
        (bundle / "foreign.py").write_text(
            f"from pathlib import Path\nPath({str(mark)!r}).write_text('ran')\n"
            "from flwr.clientapp import ClientApp\napp = ClientApp()\n"
        )
        table = tomlkit.parse((bundle / "pyproject.toml").read_text())
        table["tool"]["flwr"]["app"]["components"]["clientapp"] = "foreign:app"
        (bundle / "pyproject.toml").write_text(tomlkit.dumps(table))

    assert federation.end() == []
    federation.submit(add_code)
    assert federation.ask(wait=60)["answers"] == ALL
    assert not mark.exists()


def test_strangers_are_kept_out(federation, tmp_path):
    private, _ = node_key(tmp_path, "stranger")
    home = site_environment(tmp_path / "home") | federation.variables
    server = f"127.0.0.1:{federation.port}"
    federation.supervisor.start("stranger", supernode(server, federation.pem.authority, private, free_port(), {}), home)
    until(lambda: federation.supervisor.ends("stranger"), 30, "the stranger is turned away")
    assert len(federation.control.nodes()) == len(SITES)
    with pytest.raises(RunError, match="the engine refused `supernode register`"):
        federation.control.register("site-4", federation.folder / "site-1.pub")


def test_a_killed_server_comes_back_with_its_nodes(federation):
    run = federation.run
    os.kill(federation.supervisor.pid("server"), signal.SIGKILL)
    until(lambda: len(federation.supervisor.ends("server")) == 1, 10, "the server's end")

    def failed():
        try:
            return federation.control.state(run) == "finished:failed"
        except RunError:
            return False

    until(failed, 120, "the server again, and the run's end")
    federation.submit()
    assert federation.ask(wait=120)["answers"] == ALL


def test_a_run_ends_and_no_process_is_left(federation):
    assert federation.end() == []
    until(lambda: federation.control.state(federation.run) == "finished:completed", 30, "the run's end")
    ours = str(federation.folder)

    def alive():
        found = []
        for process in psutil.process_iter():
            try:
                if ours in process.environ().get("FLWR_HOME", "") and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except (psutil.AccessDenied, psutil.NoSuchProcess):
                continue
        return found

    assert len(alive()) >= 3 * len(SITES)
    began = time.monotonic()
    federation.stop()
    assert time.monotonic() - began < 20
    until(lambda: not alive(), 10, "the end of all processes")
