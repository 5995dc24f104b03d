"""Commands that serve a page: search across modalities, and the showpiece."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isogram.cli.options import Quiet, consoles, explained, say
from isogram.errors import ConfigError

if TYPE_CHECKING:
    from isogram.serve.site import Site
    from isogram.serve.start import Door

Host = Annotated[str, typer.Option("--host", help="Address to listen at; any but this machine's own needs a token.")]
Port = Annotated[
    int | None, typer.Option("--port", min=0, max=65535, help="8470, or a free one, if none is named; 0: a free one.")
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="ISOGRAM_TOKEN",
        help="What who comes has to know; made where one is needed and none is given.",
    ),
]
Open = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]


def serve(
    source: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="Folder of a run on silos, or a model file.")],
    banks: Annotated[
        list[Path] | None, typer.Argument(metavar="[BANK]...", help="Files of `isogram embed`, with a model file.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = None,
    token: Token = None,
    browser: Open = False,
    quiet: Quiet = False,
) -> None:
    """Search across modalities in the browser."""
    with explained():
        door = _door(host, port, token)
        from isogram.serve import opening

        if banks:
            _serve(opening.of_banks(source, banks), door, browser)
        else:
            _serve(_of_run(source, quiet), door, browser)


def pictures(
    deb: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The package tuxpaint-stamps-default as a file.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Show rows that were trained on, too, marked.")] = False,
    host: Host = "127.0.0.1",
    port: Port = None,
    token: Token = None,
    browser: Open = False,
    quiet: Quiet = False,
) -> None:
    """Train and search the talking pictures: half an hour at first."""
    with explained("interrupted: what is complete is kept, and the same command goes on from there"):
        door = _door(host, port, token)
        from isogram.config import Config
        from isogram.data import fetch_all, is_here
        from isogram.progress import Parts, Watch
        from isogram.run import run
        from isogram.run_folder import STATE, read_json
        from isogram.serve.opening import PICTURES

        _, progress = consoles(quiet, False)
        if not is_here(PICTURES):
            with Parts(progress) as parts:
                fetch_all(PICTURES, deb=deb, told=parts.tell)
        config = Config(name=PICTURES, data=PICTURES, seed=7)  # the first seed that holds the elephant out
        folder = config.output.folder / config.name
        if not (folder / STATE).exists() or not read_json(folder / STATE)["complete"]:
            with Watch(progress) as watch:
                run(config, watch, resume=True)
        _serve(_of_run(folder, quiet, private=private), door, browser)


def _door(host: str, port: int | None, token: str | None) -> Door:
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"serving needs more: pip install -e '.[serve,silos]' in the clone ({error})") from error
    from isogram.serve.start import Door

    return Door.of(host, port, token)


def _of_run(folder: Path, quiet: bool, *, private: bool = False) -> Site:
    from isogram.progress import Parts
    from isogram.serve import opening

    said: list[str] = []  # after the bars, which a line in between would tear
    with Parts(consoles(quiet, False)[1]) as parts:
        site = opening.of_run(folder, parts.tell, said.append, private=private)
    for line in said:
        say(line, err=True)
    return site


def _serve(site: Site, door: Door, browser: bool) -> None:
    from isogram.serve.start import serve as start

    for bank in site.banks:
        if bank.bad:
            say(f"{bank.about['node']}: {len(bank.bad)} items are left out; the first: {bank.bad[0]}", err=True)
    start(site, door, say, browser=browser)
