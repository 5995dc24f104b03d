"""The app that the engine hands from server to sites for one run: a table of settings and no code.

Both ends run what is installed there.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import tomlkit

from isogram.errors import ConfigError
from isogram.files import make_folder, write_atomic


def write_bundle(
    folder: Path,
    *,
    entry: str,
    nodes: Sequence[str],
    patience: float,
    outcome: Path,
    settings: dict[str, str | int | float | bool] | None = None,
) -> Path:
    """Write the app's folder; the folder.

    Args:
        folder: made if it is absent.
        entry: the coordinator, "module:function".
        nodes: names of the nodes to wait for.
        patience: seconds to wait for them.
        outcome: where the run leaves word of how it ended.
        settings: more of the run's configuration, for the coordinator.

    Raises:
        ConfigError: no node, or one twice; a setting with a name of ours.
    """
    if not nodes or len(set(nodes)) != len(nodes):
        raise ConfigError(f"a run needs nodes of different names, not {list(nodes)}")
    own: dict[str, str | int | float | bool] = {
        "entry": entry,
        "nodes": json.dumps(list(nodes)),
        "patience": float(patience),
        "outcome": str(outcome.absolute()),
    }
    if taken := own.keys() & (settings or {}).keys():
        raise ConfigError(f"the run's settings cannot be named {', '.join(sorted(taken))}")
    make_folder(folder)
    text = tomlkit.dumps(
        {
            "project": {"name": "isogram-run", "version": "1.0.0", "description": "A run", "license": "Apache-2.0"},
            "tool": {
                "flwr": {
                    "app": {
                        "publisher": "isogram",
                        "components": {
                            "serverapp": "isogram.engine.server_app:app",
                            "clientapp": "isogram.engine.client_app:app",
                        },
                        "config": own | (settings or {}),
                    }
                }
            },
        }
    )
    write_atomic(folder / "pyproject.toml", text.encode())
    return folder
