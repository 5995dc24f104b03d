"""The program that a node of the engine starts for each message, in place of the engine's own.

The engine's own installs the app that the server sent and runs what that names: whoever controls the server would run
code of theirs at every site. This one runs `isogram.engine.client_app` as installed here, whatever the server sent, and
tasks of other kinds not at all. It also leaves out the engine's imports for nodes, a second per message.
"""

import argparse
import os
import sys
from pathlib import Path

from isogram.errors import RunError
from isogram.files import make_folder, write_atomic


def write_programs(folder: Path) -> None:
    """A program under each name that a node of the engine starts for a task; the folder goes first in its PATH."""
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND, TaskType

    make_folder(folder)
    run = f'exec "{sys.executable}" -P -m isogram.engine.client_process "$@"'
    for task, name in TASK_TYPE_TO_COMMAND.items():
        body = run if task == TaskType.CLIENT_APP else f'echo "{name}: tasks of this kind do not run here" >&2; exit 1'
        write_atomic(folder / name, f"#!/bin/sh\n{body}\n".encode(), mode=0o700)


def main() -> None:
    """Answer one message."""
    parser = argparse.ArgumentParser(prog="flwr-clientapp")
    parser.add_argument("--runtime-api-address", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--parent-pid", type=int)
    parser.add_argument("--insecure", action="store_true")
    options, _ = parser.parse_known_args()
    if not options.insecure:
        raise RunError("a node of ours speaks to its client processes on its own machine, without TLS")

    from flwr.supernode.runtime import run_clientapp as engine

    from isogram.engine.client_app import app

    ours = {"install_from_fab": lambda *_, **__: Path(os.devnull), "get_load_client_app_fn": lambda **_: lambda *_: app}
    for name, function in ours.items():
        if not hasattr(engine, name):  # else the server's code would run
            raise RunError(f"this version of flwr has no {name}: isogram cannot keep the server's code out")
        setattr(engine, name, function)
    engine.run_clientapp(
        runtime_api_address=options.runtime_api_address,
        token=options.token,
        insecure=True,
        parent_pid=options.parent_pid,
        runtime_dependency_install=False,
    )


if __name__ == "__main__":
    main()
