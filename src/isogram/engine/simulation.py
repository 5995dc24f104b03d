"""The same run on the engine's simulation: server app, link and client app as deployed, nodes as tasks of Ray.

Needs `pip install 'flwr[simulation]'` (Ray, 230 MB); its start takes about 20 s and 1.4 GB.
"""

import json
import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from isogram.engine.client_app import client_app
from isogram.engine.commands import QUIET
from isogram.engine.link import FlowerLink
from isogram.engine.server_app import found
from isogram.errors import ConfigError, RunError

START = 300.0
"""Seconds for Ray and the nodes to start."""

_WHO = b"isogram: which node are you?"


def simulate(config: Mapping[str, Any], site: str, home: Path, cpus: int = 1) -> None:
    """Run the coordinator of a run's configuration (see `isogram.engine.bundle`) on simulated nodes.

    Args:
        config: with "entry" and "nodes".
        site: "module:function", called with a node's name, returns what answers there. Each of Ray's processes keeps
            what it was given; nodes move between them, so what a node must remember is on its disk.
        home: where the engine's files go.
        cpus: cores of a node; as many nodes work at the same time as the machine has of these.

    Raises:
        ConfigError: Ray is not installed, or `site` cannot be loaded.
    """
    os.environ.update(QUIET, FLWR_HOME=str(home.absolute()))
    if find_spec("ray") is None:
        raise ConfigError("simulation needs Ray; install it with: pip install 'flwr[simulation]'")
    from flwr.simulation import run_simulation

    found(site)
    names = json.loads(str(config["nodes"]))
    server = ServerApp()

    @server.main()
    def main(grid: Grid, _: Context) -> None:
        found(str(config["entry"]))(FlowerLink(grid, _named(grid, len(names))), config)

    run_simulation(
        server,
        _client(names, site),
        num_supernodes=len(names),
        backend_config={"client_resources": {"num_cpus": cpus, "num_gpus": 0.0}},
    )


def _client(names: list[str], site: str) -> ClientApp:
    answering: dict[str, Any] = {}

    def ask(context: Context, request: bytes, wait: float) -> bytes:
        name = names[int(context.node_config["partition-id"])]
        if request == _WHO:
            return name.encode()
        if name not in answering:
            answering[name] = found(site)(name)
        reply: bytes = answering[name](request)
        return reply

    return client_app(ask)


def _named(grid: Grid, count: int) -> dict[str, int]:
    # Simulated nodes have numbers of their own choosing and no names; they appear while the coordinator starts.
    until = time.monotonic() + START
    while len(ids := {str(number): number for number in grid.get_node_ids()}) < count:
        if time.monotonic() > until:
            raise RunError(f"{len(ids)} of {count} simulated nodes are there after {START:.0f} s")
        time.sleep(0.2)
    said = FlowerLink(grid, ids).ask(dict.fromkeys(ids, _WHO), START)
    if lost := [answer for answer in said.values() if not isinstance(answer, bytes)]:
        raise RunError(f"a simulated node did not start: {lost[0].why}")
    return {answer.decode(): ids[number] for number, answer in said.items() if isinstance(answer, bytes)}
