"""What commands have in common: options, settings read, errors told in a line each, results as JSON."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isogram.errors import ConfigError, IsogramError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from isogram.bench import Row
    from isogram.config import Config

File = Annotated[
    Path | None, typer.Argument(metavar="CONFIG", help="Settings (TOML); without it each has its default.")
]
Data = Annotated[str | None, typer.Option("--data", metavar="NAME", help="Short for --set data=NAME.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="One setting, such as train.rounds=8.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result and errors.")]
Force = Annotated[bool, typer.Option("--force", help="Go on where the doctor refuses.")]
AskFirst = Annotated[bool, typer.Option("--ask", help="Ask before a node sends a first message of a kind.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out items that cannot be read, and count them.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last complete round.")]

SHOWN = 20
"""Lines of one sort, such as problems of a node, that are printed; with --json all are."""


def few_lines(lines: Sequence[str], what: str) -> list[str]:
    """The first of some lines, and how many more there are of them."""
    more = [f"{len(lines) - SHOWN} more {what}: --json prints all"] if len(lines) > SHOWN else []
    return [*lines[:SHOWN], *more]


@contextmanager
def explained(interrupted: str = "interrupted") -> Iterator[None]:
    """Errors raised on purpose end the command with a line each on stderr instead of a traceback."""
    try:
        yield
    except IsogramError as error:
        for problem in error.problems:
            _stderr(f"error: {problem}", "red")
        if isinstance(error, RefusedError):
            _stderr("refused: --force goes on all the same", "yellow")
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt:
        _stderr(interrupted, "yellow")
        raise typer.Exit(130) from None


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text that may hold names, paths or items: no other way leads past `printable`."""
    from isogram.console import printable

    typer.echo(printable(text), err=err, nl=nl)


def _stderr(text: str, colour: str) -> None:
    from isogram.console import printable

    first, colon, rest = printable(text).partition(":")
    typer.echo(typer.style(first, fg=colour) + colon + rest, err=True)


def consoles(quiet: bool, as_json: bool) -> tuple[Console, Console]:
    """Where results go, and where progress goes."""
    from isogram.console import SafeConsole

    return SafeConsole(quiet=as_json), SafeConsole(stderr=True, quiet=quiet)


def read_settings(
    file: Path | None, data: str | None, settings: Sequence[str] | None, *, skip_bad: bool = False
) -> Config:
    """The settings of a file, with those given on the command line in the place of its own.

    Raises:
        ConfigError: a setting is unknown or wrong; the file cannot be read; or other data than silos skip nothing.
    """
    from isogram.config import SILOS
    from isogram.config_file import read_config

    short = [f'data="{data}"'] if data is not None else []
    skip = ["silos.skip_bad=true"] if skip_bad else []
    config = read_config(file, [*short, *(settings or []), *skip])
    if skip_bad and config.data != SILOS:
        raise ConfigError(f'--skip-bad is short for silos.skip_bad = true, and data = "{config.data}"; leave it out')
    return config


def print_json(value: Any) -> None:
    """A result on stdout, for programs."""
    json.dump(value, sys.stdout, indent=1, allow_nan=False)
    sys.stdout.write("\n")


def row_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of results as `print_json` takes them."""
    return [asdict(row) for row in rows]
