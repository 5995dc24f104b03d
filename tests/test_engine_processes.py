"""What is kept running, why it ended, and that nothing outlives it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engines import python, until

from isogram.engine import endings, processes
from isogram.engine.client_process import write_programs
from isogram.engine.commands import check_ports, free_port
from isogram.engine.endings import NodeEnd, server_ended
from isogram.engine.processes import Supervisor
from isogram.errors import RunError


def test_what_ends_is_started_again_after_growing_pauses(tmp_path):
    lines = []
    with Supervisor(tmp_path, lines.append) as keeper:
        code = "print('hello', flush=True); open('made', 'w').close(); raise SystemExit(3)"
        keeper.start("one", python(f"import os; os.chdir({str(tmp_path)!r}); {code}"), os.environ)
        with pytest.raises(RunError, match="running already"):
            keeper.start("one", [], {})
        end = time.monotonic() + 20
        while len(keeper.ends("one")) < 2 and time.monotonic() < end:
            keeper.watch()
            time.sleep(0.05)
    assert keeper.ends("one") == [3, 3]
    assert (tmp_path / "one.log").read_text().startswith("hello\nhello\n")
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("one.log", "made")] == [0o600] * 2
    # The second time is for the same reason, which was told.
    log = tmp_path / "one.log"
    assert lines == ["one started", f"one ended (status 3: hello); starts again in 1 s; log: {log}"]


def test_what_is_up_says_so_each_time_it_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "FIRST_PAUSE", 0.1)
    lines = []
    with Supervisor(tmp_path, lines.append) as keeper:
        code = "import time; print('ID: 7', flush=True); time.sleep(1); raise SystemExit(3)"
        keeper.start("one", python(code), os.environ, up=("ID:", "one is connected"))
        keeper._kept["one"].pause = 0.1
        keeper.start("two", python("import time; time.sleep(60)"), os.environ, up=("ID:", "two is connected"))
        end = time.monotonic() + 20
        while len(keeper.ends("one")) < 2 and time.monotonic() < end:
            keeper.watch()
            time.sleep(0.05)
    assert lines.count("one is connected") == 2 and "two is connected" not in lines


def test_what_ends_without_a_word_is_told_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "FIRST_PAUSE", 0.1)
    lines = []
    with Supervisor(tmp_path, lines.append) as keeper:
        keeper.start("one", python("raise SystemExit(3)"), os.environ)
        keeper._kept["one"].pause = 0.1
        end = time.monotonic() + 20
        while len(keeper.ends("one")) < 2 and time.monotonic() < end:
            keeper.watch()
            time.sleep(0.05)
    assert [line.split("; ")[0] for line in lines[:4]] == ["one started", "one ended (status 3)"] * 2


REFUSED = """\x1b[92mINFO \x1b[0m:      Starting
\x1b[91mERROR\x1b[0m:     Exit Code: 305
Failed to initialize the connection to the SuperLink.
{}
The SuperNode could not establish a connection to the SuperLink.

INFO:     Finished server process [15026]
"""


@pytest.fixture
def node_end():
    return NodeEnd("south", "fl:443", Path("ca.crt"), Path("b.key"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("unable to get local issuer certificate (_ssl.c:1006)", "was not signed by ca.crt: put the consortium's"),
        ("Hostname mismatch, certificate is not valid for 'fl'", "is for another host"),
        ("certificate has expired (_ssl.c:1006)", "has expired, or this machine's clock is wrong"),
        ("certificate is not yet valid (_ssl.c:1006)", "is not valid yet"),
    ],
)
def test_a_certificate_that_is_not_trusted_ends_the_node(node_end, words, told):
    written = REFUSED.format(f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {words}")
    with pytest.raises(RunError, match=f"node south: the certificate of the server at fl:443 {told}"):
        node_end(written)


def test_a_node_that_is_refused_tries_on_until_it_cannot_be_one_that_was_killed(node_end, monkeypatch):
    written, now = REFUSED.format("[code: 2004] Failed to activate SuperNode."), 1000.0
    monkeypatch.setattr(endings.time, "monotonic", lambda: now)
    said = node_end(written)
    assert said.startswith("the server at fl:443 refuses node south: its key b.key is not registered")
    assert "; wait: a server that has just been started" in said
    now += endings.LEASE
    first = node_end(written)
    assert node_end("SuperNode ID: 7\n") == ""
    now += endings.LEASE
    assert node_end(written) == first
    now += endings.LEASE + 1
    with pytest.raises(RunError, match="refuses node south since 151 s: its key b.key is not registered there, or a"):
        node_end(written)


def test_what_the_engine_says_of_its_end(node_end):
    assert node_end(REFUSED.format("other")) == (
        "the engine's exit code 305: Failed to initialize the connection to the SuperLink."
    )
    assert "more than 5 s ahead of the server's" in node_end("SuperNode terminated gracefully.\n")
    assert server_ended("[Errno 98] error while attempting to bind: address already in use").startswith("another")
    assert "engine.db is of another version" in server_ended(REFUSED.format("").replace("305", "105"))
    assert endings.last_line("a\n\x1b[91mb\x1b[0m c\n\n") == "b c" and endings.last_line("") == ""


def test_nothing_outlives_the_supervisor(tmp_path):
    child = "import time; time.sleep(60)"
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True); time.sleep(60)"
    )
    code = f"""
import os, sys
import isogram.engine.processes as processes
from pathlib import Path
processes.GRACE = 0.5
keeper = processes.Supervisor(Path({str(tmp_path)!r}))
keeper.start("quiet", [sys.executable, "-c", {child!r}], os.environ)
keeper.start("stubborn", [sys.executable, "-c", {stubborn!r}], os.environ)
print(keeper.pid("quiet"), keeper.pid("stubborn"), flush=True)
keeper.run()
"""
    for number in (signal.SIGTERM, signal.SIGINT):
        (tmp_path / "stubborn.log").unlink(missing_ok=True)
        process = subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True)
        pids = [int(word) for word in process.stdout.readline().split()]
        until(lambda: (tmp_path / "stubborn.log").exists() and (tmp_path / "stubborn.log").read_text().endswith("\n"))
        pids.append(int((tmp_path / "stubborn.log").read_text()))
        assert all(map(runs, pids))
        process.send_signal(number)
        assert process.wait(20) == 0
        process.stdout.close()
        until(lambda pids=pids: not any(map(runs, pids)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends processes with the one that started them")
def test_a_killed_supervisor_leaves_no_process(tmp_path):
    child = [sys.executable, "-c", "import time; time.sleep(60)"]
    code = f"""
import os
from pathlib import Path
from isogram.engine.processes import Supervisor
keeper = Supervisor(Path({str(tmp_path)!r}))
keeper.start("one", {child!r}, os.environ)
print(keeper.pid("one"), flush=True)
keeper.run()
"""
    process = subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    assert runs(pid)
    process.kill()
    process.wait(10)
    process.stdout.close()
    until(lambda: not runs(pid))


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ports_in_use_are_named_before_anything_starts():
    with socket.socket() as one, socket.socket() as two:
        for taken in (one, two):
            taken.bind(("127.0.0.1", 0))
            taken.listen()
        ports = [("127.0.0.1", taken.getsockname()[1]) for taken in (one, two)]
        with pytest.raises(RunError) as error:
            check_ports([*ports, ("127.0.0.1", free_port())])
    assert [str(port) in problem for (_, port), problem in zip(ports, error.value.problems, strict=True)] == [True] * 2
    check_ports(ports)


def test_a_site_starts_our_client_process_and_no_other_task(tmp_path):
    write_programs(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"flwr-clientapp", "flwr-serverapp", "flwr-agentapp"}
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o700
        done = subprocess.run([path, "--help"], capture_output=True, text=True, check=False)
        ours = path.name == "flwr-clientapp"
        assert done.returncode == (0 if ours else 1)
        assert ("--token" if ours else "do not run here") in done.stdout + done.stderr
