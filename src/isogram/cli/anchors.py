"""Commands about anchor sets as folders: checked, told apart, filled up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isogram.cli.options import Json, Quiet, SkipBad, consoles, explained, few_lines, print_json, read_settings, say
from isogram.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.console import Console

    from isogram.doctor.anchor_check import AnchorReport

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Of an anchor set: anchors.csv and its files.")]


def check(
    folder: Folder,
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="Settings that say how modalities are read and encoded.")
    ] = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read every item; say what is missing, doubtful or without a licence."""
    with explained():
        from isogram.doctor.anchor_check import check_anchor_set
        from isogram.progress import Parts

        console, progress = consoles(quiet, as_json)
        settings = None if config is None else read_settings(config, None, None)
        with Parts(progress) as parts:
            skip_bad = skip_bad or (settings is not None and settings.silos.skip_bad)
            report = check_anchor_set(folder, settings, parts.tell, skip_bad=skip_bad)
        _print(report, console)
        for one in report.held if skip_bad else ():
            for line in few_lines([line for line in one.unreadable if line not in report.errors], "left out"):
                say(f"left out: {line}", err=True)
        if as_json:
            print_json(report.to_json())
        if report.errors:
            raise DataError(*report.errors)
        if report.diagnosis is not None and report.diagnosis.refusals:
            raise typer.Exit(3)


def _print(report: AnchorReport, console: Console) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from isogram.doctor.anchor_check import warnings
    from isogram.report.terminal import print_finding

    title = f"{report.concepts:,} concepts, hash {report.hash[:16]}"
    table = Table("modality", "kind", "encoder", box=SIMPLE_HEAD, title=title, title_justify="left")
    for name in ("items", "synthetic", "no licence", "unreadable"):
        table.add_column(name, justify="right")
    for one in report.held:
        counts = (one.items, one.synthetic, one.unlicensed, len(one.unreadable))
        table.add_row(one.modality, one.kind, one.encoder, *(f"{count:,}" for count in counts))
    console.print(table)
    for a, b, count in report.common:
        found = next((p for p in report.diagnosis.pairs if {p.a, p.b} == {a, b}), None) if report.diagnosis else None
        tested = f"; {found.verdict}: partners are found with AUC {found.auc:.2f} (chance .50)" if found else ""
        console.print(f"{a} – {b}: {count:,} concepts in common{tested}", highlight=False, soft_wrap=True)
    for finding in warnings(report):
        print_finding(finding, console)
    console.print("this set cannot be used: see below" if report.errors else "this set can be used", style="bold")


def hash_set(folder: Folder, as_json: Json = False) -> None:
    """Print the hash that all nodes have to agree on."""
    with explained():
        from isogram.data.anchor_set import hash_anchor_set

        found = hash_anchor_set(folder)
        if as_json:
            print_json({"hash": found})
        else:
            say(found)


def fill(
    folder: Folder,
    modality: Annotated[str, typer.Option(metavar="NAME", help="Column whose empty cells are filled; or a new one.")],
    by: Annotated[str, typer.Option(metavar="NAME", help="template, espeak, augment, table, or a package's.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="To write; new.")] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Add to the folder itself; nothing is replaced.")
    ] = False,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of the generator, such as voice=en-gb.")
    ] = None,
    quality: Annotated[float, typer.Option(help="Of synthetic items, above 0 and below 1.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Of the generator's draws.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make items that a modality lacks, marked as synthetic."""
    with explained():
        from isogram.data.anchor_set import fill_anchor_set, make_generator
        from isogram.data.sheets import few
        from isogram.progress import Parts

        if (out is None) != in_place:
            raise ConfigError("give --out FOLDER, a new one, or --in-place to add to the folder itself")
        options = [text.partition("=") for text in option or ()]
        wrong = [key for key, equals, _ in options if not equals]
        if wrong:
            raise ConfigError(f"cannot read --option {wrong[0]!r}; write KEY=VALUE, such as voice=en-gb")
        generator = make_generator(by, {key: value for key, _, value in options})
        with Parts(consoles(quiet or as_json, as_json)[1]) as parts:
            done = fill_anchor_set(
                folder,
                modality,
                by,
                generator,
                out=out,
                quality=quality,
                seed=seed,
                told=lambda made, of: parts.tell(modality, made, of),
            )
        if as_json:
            found = {"filled": list(done.filled), "left": list(done.left), "unknown": list(done.unknown)}
            print_json({"folder": str(done.folder), **found, "real": done.real})
            return
        if not quiet:
            left = f"; {len(done.left):,} could not be made: {few(done.left)}" if done.left else ""
            say(f"{done.folder}: {len(done.filled):,} items of {modality} made by {by}{left}")
        if done.unknown:
            say(f"note: {by} has items of concepts that the set does not know: {few(done.unknown)}", err=True)
        if not done.real:
            say(
                "note: no concept has a real item (quality 1) in every modality now, so a run of all of them has "
                'nothing to hold out by measure = "anchors": set measure = "rows" or held_out = 0, or give some '
                f"concepts a real item of {modality}",
                err=True,
            )
