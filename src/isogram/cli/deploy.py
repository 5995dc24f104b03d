"""Commands about a federation between machines: what each is handed, and whether it can be started from."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isogram.cli.options import Data, File, Json, Set, consoles, explained, print_json, read_settings, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isogram.deploy.init import Done


def init(
    consortium: Annotated[Path, typer.Argument(metavar="CONSORTIUM", help="The coordinator's file, consortium.toml.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="To write, or to add to; else its name.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Make all keys and certificates anew; the old are moved aside.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write what server and sites are handed: keys, certificates, units."""
    with explained("interrupted: the same command completes it"):
        from isogram.deploy.init import init as write

        done = write(consortium, out, force=force)
        if as_json:
            print_json(
                {"folder": str(done.folder.path), "aside": done.aside}
                | {key: getattr(done, key) for key in ("made", "kept", "updated", "replaced", "notes")}
            )
        else:
            for line in _told(done):
                say(line)


def _told(done: Done) -> Iterator[str]:
    """What was done, and what to hand to whom."""
    yield f"{done.consortium.name} in {done.folder.path}"
    aside = f"anew, the old ones are in {done.aside}"
    for what, names in (("made", done.made), ("kept", done.kept), ("updated", done.updated), (aside, done.replaced)):
        if names:
            yield f"  {what}: {', '.join(names)}"
    for note in done.notes:
        yield f"  note: {note}"
    yield "hand over"
    yield "  ca/: to nobody. Keep it offline: whoever has ca.key can pass for the server"
    yield f"  server/: to the server's machine, {done.consortium.server.address}"
    for site in done.consortium.sites:
        if done.folder.site(site.name).path.exists():
            contact = f" ({site.contact})" if site.contact else ""
            yield f"  sites/{site.name}/: to {site.name}{contact}, on a way that both trust: its private key is in it"
    yield f"next: isogram deploy check {shlex.quote(str(done.folder.path))}"


def check(
    path: Annotated[Path, typer.Argument(metavar="FOLDER|SITE", help="A server's or whole folder; or site.toml.")],
    as_json: Json = False,
) -> None:
    """Say what is wrong with keys, files and paths; start nothing."""
    with explained():
        from isogram.deploy.check import check as look
        from isogram.errors import ConfigError

        found = look(path)
        if as_json:
            print_json({"notes": found.notes, "problems": found.problems})
        else:
            for note in found.notes:
                say(note)
        if found.problems:
            raise ConfigError(*found.problems)
        if not as_json:
            say("nothing wrong")


Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The server's folder, that `init` made.")]
Name = Annotated[str, typer.Option("--run", metavar="NAME", help="Of the run; else the latest.")]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Do not watch it; `isogram deploy status` tells.")]


def server(path: Folder) -> None:
    """Keep the server running, for the sites of the consortium alone."""
    with explained("stopped; what is complete stays, and `isogram deploy resume` goes on"):
        from isogram.deploy.running import run_server

        run_server(path, say)


def node(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="The site's own file, site.toml.")],
) -> None:
    """Keep a site's node running: the whole job of its operator."""
    with explained("stopped; the node may come back at any time"):
        from isogram.deploy.running import run_node

        run_node(site, say)


def start(
    path: Folder,
    name: Annotated[str, typer.Option("--run", metavar="NAME", help="Of the run; else date and time.")] = "",
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Begin a run, and watch it."""
    with explained(_GOES_ON):
        from isogram.deploy.runs import start as begin

        _watched(path, begin(path, name), detach, as_json)


def resume(path: Folder, name: Name = "", detach: Detach = False, as_json: Json = False) -> None:
    """Go on with a run that was stopped, from its last complete round; tell nodes that were away at its end."""
    with explained(_GOES_ON):
        from isogram.deploy.runs import resume as go_on

        _watched(path, go_on(path, name), detach, as_json)


def status(
    path: Folder,
    name: Name = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run ends.")] = False,
    as_json: Json = False,
) -> None:
    """Say how far a run is, and where each node is."""
    with explained(_GOES_ON):
        from isogram.deploy.board import board
        from isogram.deploy.runs import find, read_state, standing
        from isogram.errors import FederationError

        folder = find(path, name)
        if follow:
            _watched(path, folder, False, as_json)
            return
        problems = standing(path, folder)
        state = read_state(folder)
        if as_json:
            print_json(state | {"going": not problems and not state["complete"]})
        else:
            consoles(False, False)[0].print(board(state, not problems))
        if problems:
            raise FederationError(*problems)


def simulate(
    file: File = None,
    data: Data = None,
    settings: Set = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="For all files.")] = Path("simulated"),
    as_json: Json = False,
) -> None:
    """Run a configuration of `isogram run` on Flower's simulation, all nodes on this machine."""
    with explained("interrupted: the same command goes on"):
        from isogram.deploy.simulated import simulate as run

        final = run(read_settings(file, data, settings), out, lambda line: say(line, err=True))
        if as_json:
            print_json({"server": str(final), "nodes": str(out / "nodes")})
        else:
            say(f"the server's part is {final}, the nodes' models are in {out / 'nodes'}")


def stop(path: Folder, name: Name = "") -> None:
    """Stop a run; `resume` goes on with it."""
    with explained():
        from isogram.deploy.runs import OUTCOME, find, read_state, standing
        from isogram.deploy.runs import stop as end
        from isogram.errors import RunError

        folder = find(path, name)
        if read_state(folder)["complete"] and (folder / OUTCOME).exists():  # else nodes are told of its end
            raise RunError(f"run {folder.name} is complete; there is nothing to stop")
        if problems := standing(path, folder):
            raise RunError(*problems)
        say(f"run {end(path, name).name} is stopped; go on: isogram deploy resume {shlex.quote(str(path))}")


_GOES_ON = "the run goes on at the server; watch it by `isogram deploy status -f`"


def _watched(path: Path, folder: Path, detach: bool, as_json: bool) -> None:
    """A live table until the run ends, or a line of JSON whenever something has changed."""
    from isogram.deploy.board import board, headline
    from isogram.deploy.runs import follow
    from isogram.errors import FederationError

    console = consoles(False, False)[0]
    if detach or not as_json:
        say(f"run {folder.name} in {folder}")
    if detach:
        return
    if as_json or not console.is_terminal:
        last: list[str] = []

        def tell(state: dict[str, object]) -> None:
            line = json.dumps(state) if as_json else headline(state)
            if last[-1:] != [line]:
                last[:] = [line]
                say(line)
                sys.stdout.flush()

        problems = follow(path, folder, tell)
    else:
        from rich.live import Live

        with Live(console=console, refresh_per_second=2) as live:
            problems = follow(path, folder, lambda state: live.update(board(state)))
    if problems:
        raise FederationError(*problems)
