"""Commands about the built-in data sets: which there are, and fetching them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isogram.cli.options import Json, Quiet, consoles, explained, print_json, say
from isogram.errors import ConfigError


def list_data(as_json: Json = False) -> None:
    """Name the built-in data sets, and which are here already."""
    with explained():
        from isogram.config import DATASETS
        from isogram.data import is_here

        found = [{"name": name, "about": about, "here": is_here(name)} for name, about in DATASETS.items()]
        if as_json:
            print_json(found)
            return
        for entry in found:
            say(f"{entry['name']:<18} {'here ' if entry['here'] else 'fetch'}  {entry['about']}")


def fetch_data(
    names: Annotated[list[str] | None, typer.Argument(help="Data sets; all but pictures if none is named.")] = None,
    deb: Annotated[
        Path | None, typer.Option(metavar="PATH", help="For pictures: the package tuxpaint-stamps-default as a file.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download data sets; later runs need no network. Pictures take 300 MB and a quarter of an hour."""
    with explained("interrupted: what is complete is kept, and the same command goes on from there"):
        from isogram.config import DATASETS
        from isogram.data import ENCODED, fetch_all
        from isogram.data.fetch import cache_dir
        from isogram.progress import Parts

        unknown = [name for name in names or () if name not in DATASETS]
        if unknown:
            raise ConfigError(*(f"no data set {name!r}; choose from {', '.join(DATASETS)}" for name in unknown))
        _, progress = consoles(quiet or as_json, as_json)
        wanted = names or [name for name in DATASETS if name not in ENCODED]
        for name in wanted:
            with Parts(progress) as parts:
                fetch_all(name, deb=deb, told=parts.tell)
            if not quiet and not as_json:
                say(f"{name} is in {cache_dir()}")
        if as_json:
            print_json({"cache": str(cache_dir()), "names": list(wanted)})


def example_data(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="To write; new or empty.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write two silos to try: 1,000 pictures, 1,000 texts, anchors."""
    with explained():
        from isogram.data.example import write_example
        from isogram.progress import Parts

        _, progress = consoles(quiet or as_json, as_json)
        with Parts(progress) as parts:
            config = write_example(folder, parts.tell)
        if as_json:
            print_json({"config": str(config)})
        elif not quiet:
            say(f"wrote {config}; next: isogram node check {config}, then isogram run {config}")
