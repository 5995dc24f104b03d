"""A site's warm worker, and the engine's process that asks it; tests/deploy has the same with all processes."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from engines import echo, python, until
from flwr.app import Context, Message, MessageType, RecordDict

from isogram.engine import client_app as client
from isogram.engine import frames, records
from isogram.engine.frames import WorkerError, call
from isogram.engine.grid import InProcessGrid
from isogram.engine.worker import serve
from isogram.errors import ConfigError, DataError, RunError


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
    assert call(str(path), b"there", 5) == b"there"  # the file comes first, and is closed before anybody is heard
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


# The engine's process for one message.


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
