"""The same run on the engine's simulation: server app, link and client app as deployed, nodes as tasks of Ray.

Nodes take turns in one process: what a node has drawn for a sum dies with its process, see `local.summing`.

Needs the extra `simulation` (Ray, 230 MB); its start takes about 20 s and 1.4 GB.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from isogram.engine.client_app import client_app
from isogram.engine.commands import QUIET
from isogram.engine.link import FlowerLink
from isogram.errors import RunError
from isogram.federation.link import Link

START = 300.0
"""Seconds for Ray and the nodes to start."""

Site = Callable[[str], Callable[[bytes], bytes]]

_WHO = b"isogram: which node are you?"


def simulate(names: Sequence[str], coordinate: Callable[[Link], None], site: Site, home: Path) -> None:
    """Run a coordinator on simulated nodes.

    Args:
        names: of the nodes.
        coordinate: is given a link to them, in a thread of this process.
        site: gives what answers at a node of this name; is pickled, and called in Ray's process.
        home: where the engine's files go.
    """
    os.environ.update(QUIET, FLWR_HOME=str(home.absolute()))
    from flwr.simulation import run_simulation

    server = ServerApp()

    @server.main()
    def main(grid: Grid, _: Context) -> None:
        coordinate(FlowerLink(grid, _named(grid, len(names))))

    run_simulation(
        server,
        _client(list(names), site),
        num_supernodes=len(names),
        backend_config={"client_resources": {"num_cpus": os.cpu_count() or 1, "num_gpus": 0.0}},
    )


def _client(names: list[str], site: Site) -> ClientApp:
    def ask(context: Context, request: bytes, wait: float) -> bytes:
        name = names[int(context.node_config["partition-id"])]
        return name.encode() if request == _WHO else _answer(name, site, request)

    return client_app(ask)


_ANSWERING: dict[str, Callable[[bytes], bytes]] = {}
"""Of Ray's process, by node. Here, because the app and all that it closes over come anew with each message."""


def _answer(name: str, site: Site, request: bytes) -> bytes:
    if name not in _ANSWERING:
        _ANSWERING[name] = site(name)
    return _ANSWERING[name](request)


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
