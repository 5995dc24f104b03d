"""A federation of real processes on this machine: server, nodes and warm workers, with TLS and node keys."""

import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isogram.deploy.keys import make_authority, make_node, make_server
from isogram.engine.bundle import write_bundle
from isogram.engine.commands import (
    Certificates,
    Control,
    check_ports,
    environment,
    free_port,
    site_environment,
    superlink,
    supernode,
)
from isogram.engine.processes import Supervisor

HERE = Path(__file__).parent


def until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := true():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def certificates(folder: Path) -> Certificates:
    now = datetime.now(UTC)
    signer, authority = make_authority("test", now)
    private, certificate = make_server(signer, authority, "test", "localhost", now)
    paths = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    paths.authority.write_bytes(authority)
    paths.certificate.write_bytes(certificate)
    paths.key.write_bytes(private)
    return paths


def node_key(folder: Path, name: str) -> tuple[Path, Path]:
    """Private and public key."""
    private, public = folder / name, folder / f"{name}.pub"
    for path, data in zip((private, public), make_node(name), strict=True):
        path.write_bytes(data)
    return private, public


@contextmanager
def running(it):
    """Started, and stopped whatever happens."""
    try:
        it.start()
        yield it
    finally:
        it.stop()


class Loopback:
    def __init__(self, folder: Path, count: int = 3) -> None:
        self.folder = folder
        self.names = [f"site-{number}" for number in range(1, count + 1)]
        self.lines: list[str] = []
        self._sockets = tempfile.TemporaryDirectory(prefix="iso-")  # a socket's path is short
        self.supervisor = Supervisor(folder / "logs", self.lines.append)
        self.port = free_port()
        self._watching = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self.pem = pem = certificates(self.folder)
        self.variables = variables = {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path[1:]])}
        check_ports([("127.0.0.1", self.port)])
        home = environment(self.folder / "home" / "server") | variables
        self.supervisor.start("server", superlink("127.0.0.1", self.port, pem, self.folder / "state.db"), home)
        self._watcher.start()
        self.control = Control(self.folder / "home" / "server", f"127.0.0.1:{self.port}", pem.authority)
        until(self._reachable, 30, "the server's port")
        for name in self.names:
            private, public = node_key(self.folder, name)
            self.control.register(name, public)
            home = site_environment(self.folder / "home" / name) | variables
            path = Path(self._sockets.name) / f"{name}.sock"
            worker = [sys.executable, str(HERE / "echo.py"), str(path), str(self.journal(name))]
            self.supervisor.start(f"{name}-worker", worker, home)
            command = supernode(f"127.0.0.1:{self.port}", pem.authority, private, free_port(), {"socket": str(path)})
            self.supervisor.start(name, command, home)
        self.submit()

    def submit(self, change: Callable[[Path], None] = lambda bundle: None) -> None:
        """Start a run, from now on the one that is asked; its app may be changed before."""
        self._count = 0
        self.orders = self.folder / f"orders{len(list(self.folder.glob('orders*')))}"
        self.orders.mkdir()
        bundle = write_bundle(
            self.orders / "bundle",
            entry="echo:coordinate",
            nodes=self.names,
            patience=90,
            outcome=self.orders / "outcome",
            settings={"orders": str(self.orders)},
        )
        change(bundle)
        self.run = self.control.submit(bundle)

    def journal(self, name: str) -> Path:
        return self.folder / f"{name}.journal"

    def begin(self, wait: float, size: int = 100, **words: dict[str, Any]) -> int:
        """Order an exchange; words for single nodes by name, with underscores."""
        nodes = {name: words.get(name.replace("-", "_"), {}) for name in self.names}
        number = self._count
        self._count += 1
        temporary = self.orders / f"{number}.new"
        temporary.write_text(json.dumps({"wait": wait, "size": size, "nodes": nodes}))
        temporary.rename(self.orders / f"{number}.json")
        return number

    def end(self) -> list[str]:
        """End the run; what went wrong."""
        (self.orders / "end.new").write_text(json.dumps({"end": True}))
        (self.orders / "end.new").rename(self.orders / f"{self._count}.json")
        until((self.orders / "outcome").exists, 20, "the run's outcome")
        return json.loads((self.orders / "outcome").read_text())["problems"]

    def answer(self, number: int, seconds: float) -> dict[str, Any]:
        path = self.orders / f"{number}.answer"
        until(path.exists, seconds, f"answer {number}")
        return json.loads(path.read_text())

    def ask(self, wait: float = 60, size: int = 100, **words: dict[str, Any]) -> dict[str, Any]:
        return self.answer(self.begin(wait, size, **words), wait + 5)

    def stop(self) -> None:
        self._watching.set()
        if self._watcher.is_alive():
            self._watcher.join()
        self.supervisor.stop()
        self._sockets.cleanup()

    def _watch(self) -> None:
        while not self._watching.wait(0.1):
            self.supervisor.watch()

    def _reachable(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True
