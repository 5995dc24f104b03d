"""Runs of a consortium, at the server: begun, gone on with, watched."""

import json
import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from isogram.deploy.check import check_is_server, open_server
from isogram.deploy.consortium import read_consortium
from isogram.deploy.coordinate import STATE, Plan, coordinate
from isogram.deploy.layout import ServerFolder
from isogram.deploy.running import control_of
from isogram.engine.bundle import write_bundle
from isogram.errors import IsogramError, RunError
from isogram.federation.link import Link
from isogram.federation.membership import Quorum
from isogram.files import make_folder
from isogram.run_folder import read_json, write_json

ENTRY = "isogram.deploy.runs:coordinated"
_GOING_ON = ("pending", "starting", "running")
"""Words of the engine."""

UNKNOWN = "unknown"
_ON = "; go on with it: isogram deploy resume"

SILENT = 120.0
"""Seconds that the server may be away while a run is watched: longer than it takes to be started again."""

OUTCOME, BUNDLE, ENGINE = "outcome.json", "bundle", "engine.json"

Say = Callable[[str], None]
Show = Callable[[dict[str, Any]], None]


def start(path: Path, name: str = "") -> Path:
    """Begin a run; the server's processes do it, and this returns its folder as soon as they have it.

    Args:
        path: the server's folder.
        name: of the run; if empty the date and time.

    Raises:
        ConfigError: the server's folder cannot be used.
        RunError: there is a run of this name, another one goes on, or the server does not answer.
    """
    server = open_server(path)
    runs = _runs(path)
    name = name or datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    if not name.replace("-", "").isalnum() or not name.isascii():
        raise RunError(f"{name!r} is no name of a run: take letters, digits and -")
    if (runs / name).exists():
        raise RunError(f"there is a run {name!r} in {runs}: go on with it by `isogram deploy resume`, or name another")
    return _submit(server.folder, runs / name)


def resume(path: Path, name: str = "") -> Path:
    """Go on with a run that was stopped, from its last complete round; the latest one if none is named.

    Of a complete run nodes that were away at its end are told of it, so that they write their models.

    Raises:
        ConfigError: the server's folder cannot be used.
        RunError: no such run, it is complete and all its nodes know, or one goes on.
    """
    folder = find(path, name)
    state = read_state(folder)
    if state["complete"] and not state["untold"]:
        raise RunError(f"run {folder.name!r} is complete; begin another with `isogram deploy start`")
    return _submit(open_server(path).folder, folder)


def find(path: Path, name: str = "") -> Path:
    """Folder of a run: of this name, or the latest; one that the engine never took comes before all others.

    Raises:
        RunError: there is none.
    """
    runs = (run for run in _runs(path).glob("*") if run.is_dir())
    there = sorted(runs, key=lambda run: ((run / ENGINE).exists(), run.stat().st_ctime))
    found = [run for run in there if run.name == name] if name else there[-1:]
    if not found:
        have = f"there are {', '.join(run.name for run in there)}" if there else "begin one: isogram deploy start"
        raise RunError(f"no run {name!r} in {_runs(path)}; {have}" if name else f"no run in {_runs(path)}; {have}")
    return found[0]


def read_state(folder: Path) -> dict[str, Any]:
    """How far a run is: what `coordinate` wrote, or what there is before it has."""
    if (folder / STATE).exists():
        return dict(read_json(folder / STATE))
    nothing: dict[str, Any] = {"round": None, "rounds": 0, "complete": False, "untold": [], "nodes": {}, "problems": []}
    return {"run": folder.name} | nothing


def standing(path: Path, folder: Path) -> list[str]:
    """Why a run does not go on, and what to do; nothing if it goes on, or is complete and nothing is done for it.

    Args:
        path: the server's folder.
        folder: of the run.

    Raises:
        ConfigError: the server's folder cannot be used.
    """
    if read_state(folder)["complete"]:
        return []
    on = f"go on with it: {_command('resume', path)}"
    if outcome := _outcome(folder):
        return [*outcome, f"run {folder.name} is stopped; {on}"]
    if not (folder / ENGINE).exists():
        return [f"run {folder.name} never began; {on}"]
    try:
        how = control_of(open_server(path)).state(read_json(folder / ENGINE)["run"])
    except RunError as error:
        return [*error.problems, f"run {folder.name} stands still meanwhile; once the server is there, {on}"]
    if how.startswith("finished") and not read_state(folder)["complete"]:
        return [f"run {folder.name} is stopped ({how}); {on}"]
    return []


def _command(word: str, path: Path) -> str:
    return f"isogram deploy {word} {shlex.quote(str(path))}"


def follow(path: Path, folder: Path, show: Show, every: float = 1.0) -> list[str]:
    """Watch a run until it ends; what went wrong, nothing if it is complete.

    Args:
        path: the server's folder.
        folder: of the run.
        show: is given the run's state, again and again.
        every: seconds between two looks.
    """
    control, looked, heard = control_of(open_server(path)), 0.0, time.monotonic()
    while True:
        # In this order: a run that ends leaves its state before its outcome, and that before the engine knows.
        how = ""
        if time.monotonic() - looked > 15:
            how, looked = _engine_state(control.state, folder), time.monotonic()
            heard = heard if how == UNKNOWN else looked
        outcome, state = _outcome(folder), read_state(folder)
        show(state)
        if state["complete"] and (outcome is not None or not state["untold"]):
            return outcome or []
        if outcome:
            return outcome
        if how.startswith("finished"):
            return [
                f"run {folder.name} ended before it was complete ({how}): its process at the server was stopped{_ON}"
            ]
        if time.monotonic() - heard > SILENT:
            return [f"the server has not answered for {SILENT:.0f} s; start it: isogram deploy server {path}{_ON}"]
        time.sleep(every)


def _outcome(folder: Path) -> list[str] | None:
    path = folder / OUTCOME
    return list(json.loads(path.read_text())["problems"]) if path.exists() else None


def _engine_state(state: Callable[[str], str], folder: Path) -> str:
    try:
        return state(read_json(folder / ENGINE)["run"])
    except RunError:
        return UNKNOWN


def coordinated(link: Link, config: Mapping[str, Any]) -> None:
    """What the engine's server calls for a run, see `engine.server_app`."""
    path, folder = Path(str(config["server"])), Path(str(config["folder"]))
    consortium = read_consortium(ServerFolder(path).consortium)
    torch.set_num_threads(consortium.run.threads)
    plan = Plan(
        consortium.run,
        {name: modality for name, (_, modality) in consortium.nodes.items()},
        consortium.anchors,
        Quorum(consortium.min_nodes, consortium.min_per_modality),
        consortium.waits.answer,
    )
    coordinate(link, plan, folder, folder.name)


def _runs(path: Path) -> Path:
    check_is_server(path)
    return ServerFolder(path).state / "runs"


def _submit(server: ServerFolder, folder: Path) -> Path:
    """Hand the run to the engine.

    Raises:
        RunError: one goes on already, or the engine does not take it.
    """
    opened = open_server(server.path)
    control = control_of(opened)
    for other in folder.parent.glob("*"):
        ended = (other / OUTCOME).exists() or not (other / ENGINE).exists()
        if not ended and _engine_state(control.state, other) in _GOING_ON:
            raise RunError(f"run {other.name!r} goes on; wait for it, or stop it: isogram deploy stop {server.path}")
    begun = folder.exists()
    make_folder(folder)
    (folder / OUTCOME).unlink(missing_ok=True)
    bundle = write_bundle(
        folder / BUNDLE,
        entry=ENTRY,
        nodes=list(opened.public_keys),
        patience=opened.consortium.waits.join,
        outcome=folder / OUTCOME,
        settings={"server": str(server.path.resolve()), "folder": str(folder.resolve())},
    )
    try:
        write_json(folder / ENGINE, {"run": control.submit(bundle)})
    except IsogramError:
        if not begun:
            shutil.rmtree(folder)
        raise
    return folder


def stop(path: Path, name: str = "") -> Path:
    """Stop a run; what is complete stays, and it can go on.

    Raises:
        RunError: no such run, the engine never took it, or the server does not answer.
    """
    folder = find(path, name)
    if not (folder / ENGINE).exists():
        raise RunError(f"run {folder.name!r} never began, there is nothing to stop{_ON}")
    control_of(open_server(path)).stop(read_json(folder / ENGINE)["run"])
    return folder
