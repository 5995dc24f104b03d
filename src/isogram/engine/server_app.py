"""What the engine runs at the server for one run: waits for the named nodes, then calls the coordinator.

The run's configuration (`isogram.engine.bundle` writes it) names the coordinator as "module:function"; it is called
with a `Link` and the run's configuration. Errors of a user go to the file `outcome` in words.
"""

import importlib
import json
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from isogram.engine.link import FlowerLink, bounded
from isogram.errors import ConfigError, IsogramError, RunError
from isogram.files import write_atomic

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Find the nodes and coordinate, and leave word of how it ended."""
    config = context.run_config
    try:
        coordinate = found(str(config["entry"]))
        names = json.loads(str(config["nodes"]))
        wait_for(grid, names, float(config["patience"]))
        coordinate(FlowerLink(grid, lambda: online(grid, names)), config)
    except IsogramError as error:
        _leave_word(config, list(error.problems))
        raise
    except Exception as error:
        _leave_word(config, [f"{type(error).__name__}: {error}"])
        raise
    _leave_word(config, [])


def found(entry: str) -> Callable[..., Any]:
    """The function that "module:function" names.

    Raises:
        ConfigError: there is none.
    """
    module, _, name = entry.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{entry!r} of the run cannot be loaded: {error}") from error
    if not callable(function):
        raise ConfigError(f"{entry!r} of the run is not a function")
    return function


def online(grid: Grid, names: Collection[str]) -> dict[str, int]:
    """The engine's id of each of these nodes that runs now, by the name its key was registered with.

    Raises:
        RunError: two keys are registered under one name: whose answer it would be is not known.
    """
    ids: dict[str, int] = {}
    for node in grid.get_nodes():
        if node.name in names and node.status == "online":
            if node.name in ids:
                raise RunError(f"two nodes run under the name {node.name}; unregister the key that is not theirs")
            ids[node.name] = node.node_id
    return ids


def wait_for(grid: Grid, names: Collection[str], patience: float) -> None:
    """Wait until all of these nodes run, or `patience` seconds: whether those that do are enough, the coordinator says.

    Raises:
        RunError: two nodes have one name.
    """
    until = time.monotonic() + patience
    while (left := until - time.monotonic()) > 0:
        with suppress(TimeoutError):
            if set(names) <= bounded(lambda: online(grid, names), left).keys():
                return
        time.sleep(min(0.5, left))


def _leave_word(config: Mapping[str, Any], problems: list[str]) -> None:
    if path := config.get("outcome"):
        write_atomic(Path(str(path)), json.dumps({"problems": problems}).encode())
