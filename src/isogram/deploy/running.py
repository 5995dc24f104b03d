"""What runs all the time: the server's process at the coordinator, node and warm worker at a site, kept running."""

import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from isogram.deploy.check import Server, open_server, open_site
from isogram.deploy.keys import registered_form
from isogram.deploy.names import parse_address
from isogram.deploy.site import Site
from isogram.deploy.worker import load
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
from isogram.engine.endings import LET_IN, NodeEnd, server_ended
from isogram.engine.frames import MAX_SOCKET_PATH
from isogram.engine.processes import Supervisor
from isogram.errors import RunError
from isogram.files import alone, make_folder

Say = Callable[[str], None]

WORKER = [sys.executable, "-m", "isogram.deploy.worker"]

DATABASE = "engine.db"
"""The engine's own: nodes with their keys, and messages on their way."""

UP = 60.0
"""Seconds for the engine's server to answer once it is started."""


def control_of(server: Server) -> Control:
    """The server's control, from its own machine."""
    folder, listen = server.folder, parse_address(server.consortium.server.listen)
    start = f"isogram deploy server {shlex.quote(str(folder.path))}"
    return Control(folder.state / "engine" / "control", f"localhost:{listen[1]}", folder.authority, start)


def run_server(path: Path, say: Say) -> None:
    """Keep the server running until SIGTERM or SIGINT, and let in the nodes of the consortium's file and no others.

    Args:
        path: the server's folder.
        say: is told what happens.

    Raises:
        ConfigError: keys, certificates or files that cannot be used: all of them.
        RunError: a server runs from the folder already, the port is in use, or the server does not come up.
    """
    server = open_server(path)
    host, port = parse_address(server.consortium.server.listen)
    folder, home = server.folder, server.folder.state / "engine"
    certificates = Certificates(folder.authority, folder.certificate, folder.key)
    make_folder(folder.state)
    # The port of a server that is just starting is free for seconds.
    running = alone(folder.state, f"a server runs from {folder.path} already; stop that one first")
    with running, Supervisor(folder.state / "logs", say) as supervisor:
        check_ports([(host, port)])
        command = superlink(host, port, certificates, folder.state / DATABASE)
        supervisor.start("server", command, environment(home), server_ended)
        _wait_for(supervisor, "server", host, port)
        _let_in(server, control_of(server), say)
        say(f"listening on {host}:{port} for {', '.join(server.public_keys)}; begin a run with `isogram deploy start`")
        supervisor.run()


def _wait_for(supervisor: Supervisor, name: str, host: str, port: int) -> None:
    until = time.monotonic() + UP
    while time.monotonic() < until:
        supervisor.watch()
        if supervisor.ends(name):
            why = supervisor.why(name) or "its log says why"
            raise RunError(f"the server ended while it started: {why}; log: {supervisor.log(name)}")
        try:
            socket.create_connection((host, port), 1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RunError(f"the server does not listen on {host}:{port} after {UP:.0f} s; log: {supervisor.log(name)}")


def _let_in(server: Server, control: Control, say: Say) -> None:
    """Register the keys of the consortium's nodes; put out all others, also those that were a node's before.

    Raises:
        RunError: a key that was put out, or was another node's; nothing has changed.
    """
    wanted = {(name, registered_form(path.read_bytes())): path for name, path in server.public_keys.items()}
    nodes = {(node.name, node.public_key): node for node in control.nodes()}
    inside = {who: node for who, node in nodes.items() if node.status != "unregistered"}
    names = {key: name for name, key in nodes}
    anew = f"or take all keys anew: move {server.folder.state / DATABASE} away"
    if problems := [
        f"{path} was the key of node {names[key]} and was put out, and the engine takes a key once; make node {name} "
        f"another (remove this one and its private one, run `isogram deploy init` again), {anew}"
        for (name, key), path in wanted.items()
        if key in names and (name, key) not in inside
    ]:
        raise RunError(*problems)
    for who, node in inside.items():
        if who not in wanted:
            control.unregister(node.node_id)
            whose = "the old key of node" if node.name in server.public_keys else "node"
            say(f"{whose} {node.name} may not come in any more")
    for who, path in wanted.items():
        if who not in inside:
            control.register(who[0], path)
            say(f"node {who[0]} may come in")


def run_node(path: Path, say: Say) -> None:
    """Keep a site's nodes running until SIGTERM or SIGINT: for each a warm worker, and the engine's process beside it.

    Data are read and encoded first, so that what is wrong with them is told here and not in a log.

    Args:
        path: the site's file.
        say: is told what happens.

    Raises:
        ConfigError, DataError: keys, paths, data or anchors that cannot be used: all of them.
        RunError: the server's certificate cannot be trusted, or the server goes on to refuse a node.
    """
    site = open_site(path)
    for name in site.nodes:
        _, data = load(site, name)
        say(f"node {name}: {len(data.nodes[0].tokens)} rows, {len(data.anchors)} anchors")
    with tempfile.TemporaryDirectory(prefix="isogram-") as short, Supervisor(site.state / "logs", say) as supervisor:
        for number, name in enumerate(site.nodes):
            _start(supervisor, site, name, Path(short) / str(number) / "s")
        say(f"connecting to {site.consortium.server.address}; stop with Ctrl-C")
        if why := _unreachable(site.consortium.server.address):
            say(f"nobody answers there now ({why}): is the server started? The node tries on until it is")
        supervisor.run()


def _unreachable(address: str) -> str:
    """Why nobody can be reached there; "" if somebody can."""
    try:
        socket.create_connection(parse_address(address), 5).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _start(supervisor: Supervisor, site: Site, name: str, place: Path) -> None:
    assert len(str(place)) < MAX_SOCKET_PATH
    label = name.replace("/", "-")
    variables = site_environment(site.state / "engine" / label)
    supervisor.start(f"{label}-worker", [*WORKER, str(site.path.resolve()), name, str(place)], variables, speaks=True)
    server = site.consortium.server.address
    node = supernode(server, site.folder.authority, site.key(name), free_port(), {"socket": str(place)})
    end = NodeEnd(name, server, site.folder.authority, site.key(name))
    supervisor.start(label, node, variables, end, up=(LET_IN, f"node {name} is connected; it waits to be asked"))
