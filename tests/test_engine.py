"""The engine without its processes: worker, link, apps and grid; tests/deploy has the same with them."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path

import pytest
from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.cli.build import build_fab_from_disk

from isogram.engine import client_app as client
from isogram.engine import endings, frames, link, processes, records
from isogram.engine.bundle import write_bundle
from isogram.engine.client_process import write_programs
from isogram.engine.commands import check_ports, free_port
from isogram.engine.endings import NodeEnd, server_ended
from isogram.engine.frames import WorkerError, call
from isogram.engine.grid import InProcessGrid, run_in_process
from isogram.engine.link import FlowerLink
from isogram.engine.processes import Supervisor
from isogram.engine.server_app import wait_for
from isogram.engine.worker import serve
from isogram.errors import ConfigError, DataError, MessageError, RunError
from isogram.federation.link import Lost


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(prefix="iso-") as folder:  # pytest's own folder is too long for a socket
        yield Path(folder) / "w.sock"


@pytest.fixture
def worker(path):
    """Starts workers in threads; each is stopped and has ended without an error at the end of the test."""
    stop = threading.Event()
    threads = []

    def start(respond):
        thread = threading.Thread(target=serve, args=(respond, path, stop))
        threads.append(thread)
        thread.start()
        until(path.exists)
        return str(path)

    yield start
    stop.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


# The worker.


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_worker_answers(worker, size):
    data = os.urandom(size)
    assert call(worker(lambda request: request[::-1]), data, 10) == data[::-1]


def test_worker_survives_clients_that_die_in_a_request(worker):
    where = worker(lambda request: request + b"!")
    for begun in (b"", b"\0\0", (100).to_bytes(8, "big") + b"half"):
        with socket.socket(socket.AF_UNIX) as dying:
            dying.connect(where)
            dying.sendall(begun)
    assert call(where, b"next", 10) == b"next!"


def test_a_request_whose_client_died_is_not_worked_on_twice(worker):
    done, finish = [], threading.Event()

    def respond(request):
        done.append(request)
        finish.wait(10)
        return request + b"!" * 5_000_000  # more than a socket holds: the write meets a closed end

    where = worker(respond)
    with socket.socket(socket.AF_UNIX) as dying:
        dying.connect(where)
        frames.send(dying, b"train", time.monotonic() + 5)
        until(lambda: done)
    finish.set()
    assert call(where, b"train", 10)[:6] == b"train!"
    assert done == [b"train"]
    assert call(where, b"other", 10)[:6] == b"other!"
    assert done == [b"train", b"other"], "another request is worked on"


def test_errors_at_a_site_cross_without_their_text(worker, caplog):
    def respond(request):
        raise {b"d": DataError("/home/ward/patients.csv: row 7"), b"v": ValueError("patient 7")}[request]

    where = worker(respond)
    with pytest.raises(WorkerError) as known:
        call(where, b"d", 10)
    with pytest.raises(WorkerError) as unknown:
        call(where, b"v", 10)
    assert str(known.value) == "its worker refused the request (DataError): the log there says why"
    assert str(unknown.value) == "its worker failed (ValueError): the log there says why"
    assert "row 7" in caplog.text and "patient 7" in caplog.text


def test_a_failed_request_is_worked_on_again(worker):
    tries = []

    def respond(request):
        tries.append(request)
        if len(tries) == 1:
            raise DataError("not yet")
        return b"done"

    where = worker(respond)
    with pytest.raises(WorkerError):
        call(where, b"r", 10)
    assert call(where, b"r", 10) == b"done"


def test_worker_is_absent_or_slow(worker, path):
    with pytest.raises(WorkerError, match="is not running"):
        call(str(path), b"", 5)
    finish = threading.Event()
    where = worker(lambda request: (finish.wait(10) and b"") or b"")
    began = time.monotonic()
    with pytest.raises(WorkerError, match="did not answer within 1 s"):
        call(where, b"", 1)
    assert time.monotonic() - began < 5
    finish.set()


def test_worker_ends_at_work(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def die():
            connection, _ = listener.accept()
            with connection:
                frames.receive(connection, time.monotonic() + 5)

        thread = threading.Thread(target=die)
        thread.start()
        with pytest.raises(WorkerError, match="ended while it was at work"):
            call(str(path), b"request", 5)
        thread.join()


def test_worker_refuses_what_is_too_large(worker, monkeypatch):
    where = worker(lambda request: bytes(2000))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(where)
        connection.sendall((1 << 31).to_bytes(8, "big"))
        connection.settimeout(5)
        assert connection.recv(1) == frames.REASON
        assert b"refused a request of more than" in frames.receive(connection, time.monotonic() + 5)
    monkeypatch.setattr("isogram.engine.worker.MAX_MESSAGE", 1000)
    with pytest.raises(WorkerError, match="reply has 2,000 bytes, the engine carries at most 1,000"):
        call(where, b"", 5)


def test_socket_is_private(worker, path):
    worker(lambda request: request)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(RunError, match="another worker"):
        serve(lambda request: request, path)
    assert call(str(path), b"still there", 5) == b"still there"


def test_folders_that_others_may_enter_and_long_paths_are_refused(path):
    path.parent.chmod(0o755)
    with pytest.raises(ConfigError, match="others may enter"):
        serve(lambda request: request, path)
    with pytest.raises(ConfigError, match="more than 103 bytes"):
        serve(lambda request: request, path.parent / ("x" * 100))
    folder = path.parent / "new" / "one"
    stop = threading.Event()
    stop.set()
    serve(lambda request: request, folder / "w", stop)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_killed_workers_socket_is_taken_over(worker, path):
    code = f"from pathlib import Path; from isogram.engine.worker import serve; serve(bytes, Path({str(path)!r}))"
    process = subprocess.Popen([sys.executable, "-c", code])
    until(path.exists, 30)
    process.kill()
    process.wait()
    assert path.exists()
    with pytest.raises(WorkerError, match="is not running"):
        call(str(path), b"r", 10)
    killed = path.stat().st_ctime_ns
    worker(lambda request: request)
    until(lambda: path.exists() and path.stat().st_ctime_ns != killed)
    assert call(str(path), b"r", 10) == b"r"


# Records.


@pytest.mark.parametrize("size", [0, 1, records.PIECE, 2 * records.PIECE + 1])
def test_bytes_survive_records(size):
    data = os.urandom(size)
    content = records.packed(data)
    assert len(content) == max(1, -(-size // records.PIECE))
    assert records.unpacked(content) == data
    assert records.unpacked(records.reason("because")) == "because"


def test_foreign_and_large_records_are_refused(monkeypatch):
    data = bytes(3 * records.PIECE)
    gap = records.packed(data)
    del gap["1"]
    number = records.packed(b"x")
    number["0"]["bytes"] = 3
    for content in (RecordDict(), gap, number):
        with pytest.raises(MessageError, match="not ours"):
            records.unpacked(content)
    content = records.packed(data)
    monkeypatch.setattr(records, "MAX_MESSAGE", 1000)
    for act in (lambda: records.packed(data), lambda: records.unpacked(content)):
        with pytest.raises(MessageError, match="12,582,912 bytes, the engine carries at most 1,000"):
            act()


# The link.


def echo(request):
    return request[::-1]


def over(grid):
    return FlowerLink(grid, lambda: {node.name: node.node_id for node in grid.get_nodes()})


def test_every_node_gets_its_own_request():
    names = [f"site-{number}" for number in range(12)]
    grid = InProcessGrid({name: lambda request, name=name: name.encode() + request for name in names}, at_once=3)
    answers = over(grid).ask({name: name.encode() for name in reversed(names)}, 10)
    assert list(answers) == sorted(names)
    assert answers == {name: name.encode() * 2 for name in names}


def test_who_is_not_there_is_lost_and_the_others_answer():
    def refuse(request):
        raise DataError("/home/ward/patients.csv")

    grid = InProcessGrid({"a": echo, "b": echo, "c": refuse})
    node = {node.name: node.node_id for node in grid.get_nodes()}
    grid.down.add("b")
    asked = dict.fromkeys("abcd", b"12")
    assert FlowerLink(grid, node).ask(asked, 10) == {
        "a": b"21",
        "b": Lost(link.NODE_LOST),
        "c": Lost("the client process at its node failed (DataError): the log there says why"),
        "d": Lost(link.UNKNOWN),
    }
    assert over(grid).ask(asked, 10)["b"] == Lost(link.UNKNOWN)
    grid.down.clear()
    assert over(grid).ask({"b": b"12"}, 10) == {"b": b"21"}


def test_the_wait_is_bounded_and_late_answers_are_not_taken_for_others():
    release = threading.Event()

    def slow(request):
        if request == b"slow":
            release.wait(20)
        return request

    asks = over(InProcessGrid({"a": slow, "b": slow}, at_once=2))
    began = time.monotonic()
    answers = asks.ask({"a": b"slow", "b": b"quick"}, 0.5)
    assert time.monotonic() - began < 5
    assert answers == {"a": Lost("no answer within 0.5 s"), "b": b"quick"}
    release.set()
    assert asks.ask({"a": b"next", "b": b"next"}, 10) == {"a": b"next", "b": b"next"}
    assert asks.ask({"a": b"x"}, 0) == {"a": Lost("no answer within 0 s")}


def test_a_node_that_stalls_in_its_reply_holds_up_nobody():
    class Stalling(InProcessGrid):
        def pull_messages(self, message_ids):
            if message_ids[0] == f"{1:064x}":
                time.sleep(3)
            return super().pull_messages(message_ids)

    began = time.monotonic()
    answers = over(Stalling({"a": echo, "b": echo})).ask({"a": b"12", "b": b"12"}, 1)
    assert time.monotonic() - began < 2.5
    assert answers == {"a": Lost("no answer within 1 s"), "b": b"21"}


def test_a_server_that_fails_once_is_asked_again():
    class Failing(InProcessGrid):
        failures = 2

        def pull_messages(self, message_ids):
            self.failures -= 1
            if self.failures >= 0:
                raise OSError("database is locked")
            return super().pull_messages(message_ids)

    grid = Failing({"a": echo})
    assert over(grid).ask({"a": b"12"}, 10) == {"a": b"21"}
    grid.failures = 1000
    assert over(grid).ask({"a": b"12"}, 0.5) == {"a": Lost("no answer within 0.5 s")}


@pytest.mark.parametrize(("deaths", "answer"), [(1, b"21"), (2, Lost(link.PROCESS_DIED))])
def test_a_client_process_that_dies_is_asked_once_more(deaths, answer):
    class Dying(InProcessGrid):
        died = 0

        def _reply(self, message):
            if self.died < deaths:
                self.died += 1
                return Message(Error(8), reply_to=message)
            return super()._reply(message)

    grid = Dying({"a": echo})
    assert over(grid).ask({"a": b"12"}, 10) == {"a": answer}
    assert grid.died == deaths


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ([None, "x"], "did not take the request for this node"),
        ([], "did not take the request for this node"),
        (OSError, "did not take the request (OSError)"),
    ],
)
def test_a_server_that_takes_no_request(sent, why):
    class Refusing(InProcessGrid):
        def push_messages(self, messages):
            if sent is OSError:
                raise OSError("/var/secret")
            return sent[:1]

    answer = over(Refusing({"a": echo})).ask({"a": b""}, 5)["a"]
    assert isinstance(answer, Lost)
    assert why in answer.why and "secret" not in answer.why


def test_messages_of_another_run_are_refused_at_both_ends():
    grid = InProcessGrid({"a": echo})

    class Elsewhere(InProcessGrid):
        def _reply(self, message):
            reply = super()._reply(message)
            reply.metadata.__dict__["_run_id"] = 77
            return reply

    assert over(Elsewhere({"a": echo})).ask({"a": b""}, 10) == {"a": Lost("it answered for another run")}
    message = Message(records.packed(b"x"), 2, MessageType.QUERY, ttl=10)
    app = client.client_app(lambda context, request, wait: pytest.fail("asked"))
    reply = app(message, Context(grid.run.run_id + 1, 2, {}, RecordDict(), {}))
    assert records.unpacked(reply.content) == "its node refused a request of another run"


def test_large_requests_are_refused_before_anything_is_sent(monkeypatch):
    asked = []
    grid = InProcessGrid({"a": asked.append, "b": lambda request: bytes(2000)})
    monkeypatch.setattr(records, "MAX_MESSAGE", 1000)
    with pytest.raises(MessageError, match="1,001 bytes"):
        over(grid).ask({"a": b"x", "b": bytes(1001)}, 5)
    assert over(grid).ask({"b": b""}, 5) == {"b": Lost("a message has 2,000 bytes, the engine carries at most 1,000")}
    assert asked == []


def test_the_client_app_asks_the_worker_of_its_site(worker):
    app = client.app
    grid = InProcessGrid({"a": echo})
    message = Message(records.packed(b"12"), 2, MessageType.QUERY, ttl=2)
    for config, answer in (
        ({client.SOCKET: worker(echo)}, b"21"),
        ({}, "its node was started without the address of the site's worker"),
        ({client.SOCKET: "/nowhere"}, "the site's worker is not running"),
    ):
        reply = app(message, Context(grid.run.run_id, 2, config, RecordDict(), {}))
        assert records.unpacked(reply.content) == answer


def test_a_worker_that_starts_or_was_killed_is_waited_for(path):
    """The first dies at work, as often as it is asked; the one after it answers."""
    message = Message(records.packed(b"12"), 2, MessageType.QUERY, ttl=20)
    code = "import os, sys; from pathlib import Path; from isogram.engine.worker import serve"
    answers: list[Message] = []
    context = Context(1, 2, {client.SOCKET: str(path)}, RecordDict(), {})
    message.metadata.__dict__["_run_id"] = 1
    asking = threading.Thread(target=lambda: answers.append(client.app(message, context)))
    asking.start()
    with subprocess.Popen(python(f"{code}; serve(lambda request: os._exit(9), Path({str(path)!r}))")) as dies:
        assert dies.wait(20) == 9
    assert not answers
    with subprocess.Popen(python(f"{code}; serve(lambda request: request[::-1], Path({str(path)!r}))")) as answers_it:
        asking.join(20)
        answers_it.terminate()
    assert records.unpacked(answers[0].content) == b"21"


def test_the_client_process_reads_no_torch():
    code = "import sys, isogram.engine.client_process, isogram.engine.client_app; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# A run.


def coordinate(asks, config):
    if config.get("fails"):
        raise DataError("anchors.csv: row 3 is empty", "anchors.csv: row 4 is empty")
    answers = asks.ask(dict.fromkeys(json.loads(config["nodes"]), b"12"), 10)
    Path(config["result"]).write_text(repr(answers))


def bundle(folder, **changed):
    arguments = {
        "entry": f"{__name__}:coordinate",
        "nodes": ["a", "b"],
        "patience": 0.5,
        "outcome": folder / "outcome.json",
        "settings": {"result": str(folder / "result")},
    }
    return write_bundle(folder / "bundle", **(arguments | changed))


def config_of(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]


def test_a_run_in_process(tmp_path):
    run_in_process(InProcessGrid({"a": echo, "b": echo}), config_of(bundle(tmp_path)))
    assert (tmp_path / "result").read_text() == repr({"a": b"21", "b": b"21"})
    assert json.loads((tmp_path / "outcome.json").read_text()) == {"problems": []}


@pytest.mark.parametrize(
    ("changed", "error", "problems"),
    [
        ({"entry": "nowhere:f"}, ConfigError, "cannot be loaded: No module named 'nowhere'"),
        ({"entry": "json:f"}, ConfigError, "cannot be loaded"),
        ({"entry": "json"}, ConfigError, "cannot be loaded"),
        ({"entry": "json:__name__"}, ConfigError, "not a function"),
        ({"settings": {"fails": True}}, DataError, "anchors.csv: row 4"),
        ({"settings": {}}, KeyError, "KeyError: 'result'"),
    ],
)
def test_a_run_leaves_word_of_what_went_wrong(tmp_path, changed, error, problems):
    config = config_of(bundle(tmp_path, **changed))
    with pytest.raises(error):
        run_in_process(InProcessGrid({"a": echo, "b": echo}), config)
    assert problems in "\n".join(json.loads((tmp_path / "outcome.json").read_text())["problems"])


def test_a_name_that_two_nodes_have_is_nobodys():
    class Twins(InProcessGrid):
        def get_nodes(self):
            nodes = list(super().get_nodes())
            nodes[1].name = "a"
            return nodes

    with pytest.raises(RunError, match="two nodes run under the name a"):
        wait_for(Twins({"a": echo, "b": echo}), ["a"], 1)


def test_nodes_that_do_not_come_are_not_waited_for_without_end():
    began = time.monotonic()
    wait_for(InProcessGrid({"a": echo, "b": echo}), ["a", "x"], 0.6)
    assert 0.6 < time.monotonic() - began < 5


def test_nodes_that_come_late_are_waited_for():
    grid = InProcessGrid({"a": echo, "b": echo})
    grid.down.add("b")
    timer = threading.Timer(0.7, grid.down.clear)
    timer.start()
    wait_for(grid, ["a", "b"], 10)
    timer.join()
    assert {node.name for node in grid.get_nodes()} == {"a", "b"}


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # the engine's own
def test_the_engine_takes_the_bundle_which_holds_no_code(tmp_path):
    folder = bundle(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["pyproject.toml"]
    assert len(build_fab_from_disk(folder)) < 10_000
    for changed in ({"nodes": []}, {"nodes": ["a", "a"]}, {"settings": {"entry": "x"}}):
        with pytest.raises(ConfigError):
            bundle(tmp_path, **changed)


# Processes.


def python(code):
    return [sys.executable, "-c", code]


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
    assert node_end(written).startswith("the server at fl:443 refuses node south: its key b.key is not registered")
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
