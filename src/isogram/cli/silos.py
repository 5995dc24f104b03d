"""Commands about silos of your own: what is understood of a node's data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isogram.cli.options import (
    SHOWN,
    Json,
    Quiet,
    SkipBad,
    consoles,
    explained,
    few_lines,
    print_json,
    read_settings,
    say,
)
from isogram.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isogram.data.silos.check import Checked


def check(
    data: Annotated[Path, typer.Argument(metavar="CONFIG|DATA", help="Settings (TOML); or a folder or table.")],
    node: Annotated[str | None, typer.Option(metavar="NAME", help="Of a configuration, this node alone.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="Of a folder or table: image, audio, text, series, table, sequence.")
    ] = None,
    column: Annotated[str, typer.Option(metavar="NAME", help="Of a table, the column of its items.")] = "",
    skip_bad: SkipBad = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read a node's data and say what was understood, and all that is wrong."""
    with explained():
        from isogram.config import ModalityConfig, SiloNode
        from isogram.console import printable
        from isogram.data.modalities import kind_of
        from isogram.data.silos.check import check_config, check_node
        from isogram.progress import Parts

        console, progress = consoles(quiet, as_json)
        settings = data.suffix.lower() == ".toml"
        if settings and kind is not None:
            raise ConfigError(f"--kind goes with a folder or table; in {data} it is silos.modalities.NAME.kind")
        if settings and column:
            raise ConfigError(f"--column goes with a table; in {data} it is silos.nodes.column")
        if not settings and node is not None:
            raise ConfigError(f"--node goes with a configuration (.toml), and {data} is none; leave it out")
        if not settings and kind is None:
            raise ConfigError(f"{data} is no configuration (.toml): say what its items are, such as --kind image")
        with Parts(progress) as parts:
            if settings:
                found = check_config(read_settings(data, None, None, skip_bad=skip_bad), node, parts.tell)
            else:
                name, known = printable(data.resolve().stem) or "data", kind_of(ModalityConfig(kind=str(kind))).name
                one = SiloNode(name=name, modality=known, data=data, column=column)
                found = [check_node(name, one, ModalityConfig(kind=known), parts.tell, skip_bad=skip_bad)]
        for checked in found:
            for line in _told(checked):
                console.print(line, highlight=False, soft_wrap=True)
            for line in few_lines(checked.left_out, "left out"):
                say(f"left out: {line}", err=True)
        if as_json:
            print_json([checked.to_json() for checked in found])
        problems = [line for checked in found for line in few_lines(checked.problems, "problems")]
        if problems:
            raise DataError(*problems)


def _told(checked: Checked) -> Iterator[str]:
    """What was understood, in lines."""
    from isogram.data.sheets import excerpt

    yield f"{checked.node}: {checked.data}"
    shape = f", {checked.tokens[0]} tokens of {checked.tokens[1]} values" if checked.tokens else ""
    yield f"  kind      {checked.kind}, encoder {checked.encoder}{shape}"
    lost = f" of {checked.rows:,} rows" if checked.rows != checked.items else ""
    yield f"  items     {checked.items:,}{lost}"
    for where, what in checked.examples:
        yield f"  example   {where}: {what}"
    if checked.labels is not None:
        told = [f"{excerpt(label) or 'none'} {count:,}" for label, count in checked.labels.items()]
        more = f" and {len(told) - SHOWN:,} more" if len(told) > SHOWN else ""
        yield "  labels    " + ", ".join(told[:SHOWN]) + more
    if checked.groups is not None:
        yield f"  groups    {checked.groups[0]:,}, the largest of {checked.groups[1]:,} rows"
    if checked.anchors is not None:
        yield f"  anchors   {checked.anchors:,} compared"
    if checked.columns:
        yield "  columns   " + "; ".join(f"{role}: {column}" for role, column in checked.columns.items() if column)
    if checked.unused:
        yield f"  not used  {', '.join(checked.unused)}"
    for note in checked.notes:
        yield f"  note      {note}"
    yield f"  problems  {len(checked.problems) or 'none'}"
