"""A run on the engine's simulation: as deployed, with all nodes on this machine and their data from one file.

server.safetensors, run.json, events.jsonl  what a server has, see `deploy.coordinate`
nodes/NODE/RUN/                             what a site has, see `deploy.worker`
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import torch

from isogram.config import Config
from isogram.data import FederatedData, open_data
from isogram.deploy.board import headline
from isogram.deploy.coordinate import FINAL, Plan, coordinate
from isogram.deploy.runs import read_state
from isogram.deploy.worker import responder
from isogram.errors import ConfigError, FederationError, RunError
from isogram.federation.link import Link
from isogram.federation.membership import Quorum
from isogram.files import make_folder, write_atomic
from isogram.local.respond import Responder
from isogram.run_folder import fingerprint, read_json, write_json

SETTINGS, DATA, HOME, NODES, RUN = "config.json", "data.json", "engine", "nodes", "simulated"
WAIT = 3600.0
"""Seconds of one step: nodes take turns."""


def simulate(config: Config, folder: Path, say: Callable[[str], None]) -> Path:
    """Run a federation on the engine's simulation; returns the file of what its server has.

    Args:
        config: of the run.
        folder: that gets all files; a run that stands in it goes on.
        say: is given a line for each round.

    Raises:
        ConfigError: the engine or Ray is not installed, or as `data.open_data`.
        DataError, StorageError: as `data.open_data`.
        FederationError: the run has ended before it was complete.
        RunError: the folder is of another run, or of other data.
    """
    if missing := [name for name in ("flwr", "ray") if find_spec(name) is None]:
        raise ConfigError(
            f"a simulation needs {' and '.join(missing)}; install it with: pip install -e '.[simulation]' in the clone"
        )
    from isogram.engine.simulation import simulate as run

    torch.set_num_threads(config.threads)
    data = open_data(config)
    make_folder(folder)
    _check_data(folder, fingerprint(data))
    write_atomic(folder / SETTINGS, config.model_dump_json().encode())
    sites = {node.name: node.modality for node in sorted(data.nodes, key=lambda node: node.name)}
    plan = Plan(config, sites, data.anchors.source, Quorum(len(sites)), WAIT)
    said: list[str] = []

    def watch(there: Path) -> None:
        if (line := headline(read_state(there))) not in said:
            said.append(line)
            say(line)

    def coordinated(link: Link) -> None:
        coordinate(link, plan, folder, RUN, watch)

    run(list(sites), coordinated, partial(site, folder.absolute()), folder / HOME)
    state = read_state(folder)
    if not state["complete"]:
        early = ["the simulation ended early; the engine said why, above"]
        raise FederationError(*list[str](state["problems"] or early))
    return folder / FINAL


def site(folder: Path, name: str) -> Responder:
    """A node's part, called in the engine's process."""
    config, data = _opened(folder)
    (own,) = (node for node in data.nodes if node.name == name)
    return responder(config, replace(data, nodes=(own,)), place(folder, name))


def place(folder: Path, name: str) -> Path:
    """Of a node: its name, or what stands for it where that is no name of a folder."""
    return folder / NODES / name.replace("%", "%25").replace("/", "%2F")


def _check_data(folder: Path, now: str) -> None:
    """The settings say where data lie; whether these are the ones that the run began with, only their content does."""
    if not (folder / DATA).exists():
        write_json(folder / DATA, {"fingerprint": now})
    elif read_json(folder / DATA)["fingerprint"] != now:
        raise RunError(f"{folder} was made with other data than these; name another folder by --out")


@cache
def _opened(folder: Path) -> tuple[Config, FederatedData]:
    config = Config.model_validate_json((folder / SETTINGS).read_bytes())
    torch.set_num_threads(config.threads)
    return config, open_data(config)
