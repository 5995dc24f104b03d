"""The engine's own commands: how each is called, quietly and offline, and what it answered."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomlkit

from isogram.engine.client_process import write_programs
from isogram.errors import ConfigError, RunError, StorageError
from isogram.files import make_folder, write_atomic

if TYPE_CHECKING:
    from flwr.proto.node_pb2 import NodeInfo

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Without these the engine reports its use, looks for updates and installs packages for each run."""

_CONNECTION = "isogram"

_POLL = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1"}
"""Seconds between looks for a process to start; the engine's own value of 1 is a second of waiting per message."""


LOCK = 120
"""Seconds that one request to the server's database waits for others."""


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files: the authority that both ends trust, and the server's certificate with its key."""

    authority: Path
    certificate: Path
    key: Path


def environment(home: Path) -> dict[str, str]:
    """Variables of every process of the engine; its own files go under `home`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, **QUIET, **_POLL, "FLWR_HOME": str(home.absolute()), "PATH": path}


def site_environment(home: Path) -> dict[str, str]:
    """The same for a site's node, which runs our client process and no code that a server sent."""
    programs = home.absolute() / "bin"
    write_programs(programs)
    variables = environment(home)
    return {**variables, "PATH": os.pathsep.join([str(programs), variables["PATH"]])}


def superlink(host: str, port: int, certificates: Certificates, database: Path) -> list[str]:
    """The server's process; nodes and keys survive it in `database`.

    Everything goes over this one port, the control of the engine too, which asks for no password: outside of a test,
    `host` is this machine, and a proxy passes only what begins with /v1/fleet/ on to it.
    """
    return [
        _command("flower-superlink"),
        *("--host", host, "--port", str(port)),
        *("--ssl-ca-certfile", str(certificates.authority)),
        *("--ssl-certfile", str(certificates.certificate)),
        *("--ssl-keyfile", str(certificates.key)),
        # The engine waits 5 s for its own locks, and large messages hold them longer: its helpers die of the error.
        *("--database", f"sqlite:///{database.absolute()}?timeout={LOCK}"),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]


def supernode(server: str, authority: Path, key: Path, port: int, config: Mapping[str, str | int | float]) -> list[str]:
    """A site's process.

    Args:
        server: host:port of the server.
        authority: PEM of the authority that signed the server's certificate.
        key: the node's private key, OpenSSH format.
        port: for its own client processes, on this machine only.
        config: what those processes are told.
    """
    return [
        _command("flower-supernode"),
        *("--superlink", server, "--root-certificates", str(authority)),
        *("--auth-supernode-private-key", str(key)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--node-config", " ".join(f"{name}={_value(value)}" for name, value in config.items())),
    ]


class Control:
    """The server's control, on the server's machine."""

    def __init__(self, home: Path, address: str, authority: Path, start: str = "") -> None:
        """Where the engine's files go, the host:port of the server's process, and the authority it is known by.

        start: the command that starts the server, for people.
        """
        self._environment, self._address, self._authority = environment(home), address, authority
        self._start = f"; start it: {start}" if start else ""
        make_folder(home)
        connection = {"address": address, "root-certificates": str(authority.absolute())}
        table = {"superlink": {"default": _CONNECTION, _CONNECTION: connection}}
        write_atomic(home / "config.toml", tomlkit.dumps(table).encode())

    def register(self, name: str, public_key: Path) -> None:
        """Let the owner of this key in, under this name.

        Raises:
            RunError: the engine refuses, for example a key it has already.
        """
        self._call("supernode", "register", str(public_key), _CONNECTION, "--name", name)

    def unregister(self, node: int) -> None:
        """Let the node of this number in no more."""
        self._call("supernode", "unregister", str(node), _CONNECTION)

    def nodes(self) -> "list[NodeInfo]":
        """What the engine knows of each node, also of those that were unregistered: it never takes their keys again."""
        # What the engine's own command calls: that prints neither names nor keys.
        import httpx
        from flwr.proto.control_pb2 import ListNodesRequest
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors.http import RuntimeVersionHttpInterceptor

        self._reach()
        pem, version = self._authority.read_bytes(), RuntimeVersionHttpInterceptor(component_name="isogram")
        client = ControlHttpClient.from_server_address(self._address, False, pem, [version])
        try:
            return list(client.ListNodes(ListNodesRequest()).nodes_info)
        except httpx.HTTPError as error:
            raise RunError(f"the engine's server does not tell its nodes: {error}") from error
        finally:
            client.close()

    def submit(self, bundle: Path) -> str:
        """Start a run; its number."""
        return str(self._call("run", str(bundle), _CONNECTION)["run-id"])

    def state(self, run: str) -> str:
        """How far a run is: the engine's word, as "running" or "finished:failed"."""
        return str(self._call("list", _CONNECTION, "--run-id", run)["runs"][0]["status"])

    def stop(self, run: str) -> None:
        """End a run.

        Raises:
            RunError: it has ended already.
        """
        try:
            self._call("stop", run, _CONNECTION)
        except RunError as error:
            if "[code: 18]" not in str(error):
                raise
            raise RunError("the run has ended already; there is nothing to stop") from None

    def _reach(self) -> None:
        host, _, port = self._address.rpartition(":")
        try:  # the engine's own command tries for ever, and says nothing
            socket.create_connection((host, int(port)), 5).close()
        except OSError as error:
            why = error.strerror or error
            raise RunError(f"no server at {self._address} ({why}){self._start}") from None

    def _call(self, *words: str) -> dict[str, Any]:
        self._reach()
        try:
            done = subprocess.run(
                [_command("flwr"), *words, "--format", "json"],
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RunError("the engine's server did not answer within 60 s; is it running?") from None
        start = done.stdout.find("{")
        try:
            answer = json.loads(done.stdout[start:])
        except ValueError:
            answer = {"success": False, "error-message": (done.stderr or done.stdout).strip()}
        if not answer.get("success"):
            raise RunError(f"the engine refused `{' '.join(words[:2])}`: {answer.get('error-message', done.stdout)}")
        return dict(answer)


def check_ports(ports: Iterable[tuple[str, int]]) -> None:
    """Before anything starts.

    Raises:
        RunError: some are taken; all of them are named.
        ConfigError: a host that is not this machine.
    """
    problems = []
    for host, port in ports:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except socket.gaierror:
                raise ConfigError(f"{host} is not an address of this machine") from None
            except OSError as error:
                problems.append(
                    f"port {port} of {host} cannot be used ({error.strerror}); stop what uses it, or choose another"
                )
    if problems:
        raise RunError(*problems)


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _command(name: str) -> str:
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise StorageError(
            f"the engine's command {name} is not installed; install it with: pip install -e '.[deploy]' in the clone"
        )
    return str(path)


def _value(value: str | int | float) -> str:
    return json.dumps(value, ensure_ascii=False)
