"""The command `isogram`. What only some commands need is imported where they run: `isogram --help` answers at once."""

from __future__ import annotations

import json
import shlex
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isogram.errors import ConfigError, IsogramError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from isogram.bench import Row
    from isogram.config import Config

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train one multimodal transformer across silos that share no sample.",
    epilog="Exit: 0 done, 1 bug, 2 input, 3 refused, 4 disk or network, 130 interrupted.",
)
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List the built-in data sets, or fetch one.")
app.add_typer(data_app, name="data")

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
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last complete round.")]


@contextmanager
def _explained(interrupted: str = "interrupted") -> Iterator[None]:
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


def _stderr(text: str, colour: str) -> None:
    first, colon, rest = text.partition(":")
    typer.echo(typer.style(first, fg=colour) + colon + rest, err=True)


def _consoles(quiet: bool, as_json: bool) -> tuple[Console, Console]:
    """Where results go, and where progress goes."""
    from rich.console import Console

    plain: dict[str, Any] = {"markup": False, "emoji": False}  # names and paths may hold brackets
    return Console(quiet=as_json, **plain), Console(stderr=True, quiet=quiet, **plain)


def _config(file: Path | None, data: str | None, settings: Sequence[str] | None) -> Config:
    from isogram.config_file import read_config

    return read_config(file, [*([f'data="{data}"'] if data is not None else []), *(settings or [])])


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=1, allow_nan=False)
    sys.stdout.write("\n")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"isogram {installed('isogram')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="CONFIG", help="File to write.")] = Path("isogram.toml"),
    data: Data = None,
    settings: Set = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a commented configuration file."""
    with _explained():
        from isogram.config import FILES
        from isogram.config_file import commented
        from isogram.files import make_folder, write_atomic

        asked = [s for s in settings or [] if s.replace(" ", "") in ("data=files", 'data="files"')]
        files = data == FILES or bool(asked)
        config = _config(None, None if files else data, [s for s in settings or [] if s not in asked])
        if file.exists() and not force:
            raise ConfigError(f"{file} exists already; name another file, or replace it by --force")
        make_folder(file.parent)
        write_atomic(file, commented(config.model_copy(update={"name": ""}), files=files).encode())
        name = shlex.quote(str(file))
        typer.echo(f"wrote {file}; next: isogram doctor {name}, then isogram run {name}")


@app.command()
def doctor(
    file: File = None, data: Data = None, settings: Set = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Say from public anchors alone whether the silos can be aligned."""
    with _explained():
        from isogram.data import open_data
        from isogram.doctor import examine
        from isogram.report.terminal import print_diagnosis

        console, progress = _consoles(quiet, as_json)
        config = _config(file, data, settings)
        progress.print("reading data", highlight=False)
        diagnosis = examine(open_data(config), config)
        print_diagnosis(diagnosis, console)
        if as_json:
            _print_json(diagnosis.to_json())
        if not diagnosis.ok:
            raise typer.Exit(2 if diagnosis.errors else 3)


@app.command()
def align(
    file: File = None,
    data: Data = None,
    settings: Set = None,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """One-shot alignment without training, into a folder NAME-align."""
    with _explained():
        config = _config(file, data, [*(settings or []), "train.rounds=0"])
        _run(config.model_copy(update={"name": f"{config.name}-align"}), resume, force, as_json, quiet)


@app.command()
def run(
    file: File = None,
    data: Data = None,
    settings: Set = None,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Align, train and report, into a folder of its own."""
    with _explained("interrupted: with --resume the same command goes on from the last complete round"):
        _run(_config(file, data, settings), resume, force, as_json, quiet)


def _run(config: Config, resume: bool, force: bool, as_json: bool, quiet: bool) -> None:
    from isogram.progress import Watch
    from isogram.report.terminal import print_findings, summary
    from isogram.run import run as run_config
    from isogram.run_folder import REPORT

    console, progress = _consoles(quiet, as_json)
    with Watch(progress) as watch:
        outcome = run_config(config, watch, resume=resume, force=force)
    print_findings(outcome.diagnosis, progress)
    if outcome.rows:
        measured = any(row.metric not in ("bytes_per_node", "seconds") for row in outcome.rows)
        title = f"{config.name}: {'held-out rows' if measured else 'no held-out rows to measure on'}"
        forced = ["the doctor refused this run, and was overridden: see above"] if outcome.diagnosis.refusals else []
        console.print(summary(outcome.rows, title, [*forced, *outcome.notes]))
    console.print(f"page: {outcome.folder / REPORT}", highlight=False, soft_wrap=True)
    if as_json:
        found = {"folder": str(outcome.folder), "rounds": outcome.rounds, "resumed_at": outcome.resumed_at}
        _print_json(found | {"rows": _rows(outcome.rows), "doctor": outcome.diagnosis.to_json()})


def _rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


@app.command("report")
def write_report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")], as_json: Json = False, quiet: Quiet = False
) -> None:
    """Write the page of a run again, complete or not."""
    with _explained():
        from isogram.report.page import write_page

        path = write_page(folder)
        if as_json:
            _print_json({"page": str(path), "bytes": path.stat().st_size})
        elif not quiet:
            typer.echo(f"wrote {path}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or a model file.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="To write; new or empty.")],
    node: Annotated[str | None, typer.Option(metavar="NAME", help="One node's adapter; without it all.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a trained model's adapters in PEFT's format."""
    with _explained():
        from isogram.model import SavedModel
        from isogram.model.peft_export import export_model
        from isogram.run_folder import MODEL

        done = export_model(SavedModel.load(run / MODEL if run.is_dir() else run), folder, node)
        if as_json:
            _print_json({"folders": {name: str(path) for name, path in done.folders.items()}, "python": done.python})
        elif not quiet:
            for name, path in done.folders.items():
                typer.echo(f"wrote {path}{name and f': node {name}'}")
            typer.echo(done.python)


@app.command()
def demo(
    file: File = None, data: Data = None, settings: Set = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Run every method on one split, side by side, and print the table."""
    with _explained():
        from isogram.demo import run_demo

        console, progress = _consoles(quiet, as_json)
        rows = run_demo(_config(file, data, settings), console, progress)
        if as_json:
            _print_json(_rows(rows))


def _numbers(text: str) -> list[int]:
    """Numbers that "0-4,7" stands for: 0, 1, 2, 3, 4, 7."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ConfigError(f"cannot read {text!r} as numbers; write for example 0-4 or 25,50,100")
        if dash and int(last) < int(first):
            raise ConfigError(f"{part!r} runs backwards; write {last}-{first}")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


@app.command()
def bench(
    file: File = None,
    data: Data = None,
    settings: Set = None,
    anchors: Annotated[str | None, typer.Option(help="Numbers of anchors, such as 25,50,100.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, such as 0-19; 0-4 if not given.")] = None,
    methods: Annotated[
        str | None, typer.Option(help="Names, comma between; all that fit the data if not given.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Every method on every data set, small: under a quarter of an hour by --jobs 2."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="File of rows; results/DATA.jsonl, or runs/quick.jsonl, if not given."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes side by side, one thread each.")] = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run methods over seeds and append tidy rows (resumes)."""
    with _explained("interrupted: rows that are finished are kept, and the same command goes on from there"):
        from isogram import bench as benchmarks
        from isogram.data import open_data
        from isogram.progress import Steps
        from isogram.report.terminal import described, overview, took

        began = time.perf_counter()
        console, progress = _consoles(quiet, as_json)
        chosen = {"CONFIG": file, "--data": data, "--set": settings, "--anchors": anchors, "--seeds": seeds}
        given = [name for name, value in (chosen | {"--methods": methods}).items() if value not in (None, [])]
        if quick and given:
            raise ConfigError(f"--quick has data, settings, seeds and methods of its own; leave out {', '.join(given)}")
        base = _config(file, data, settings)
        path = out or (Path("runs") / "quick.jsonl" if quick else Path("results") / f"{base.data}.jsonl")
        benchmarks.check_settings(base, path, default=out is None)
        done = benchmarks.read_rows([path]) if path.exists() else []
        if quick:
            cells, left_out = benchmarks.plan_quick(done)
            for name in left_out:
                progress.print(f"{name} left out; to have it: isogram data fetch {name}", highlight=False)
        else:
            configs = [
                base.model_copy(update={"anchors": k, "seed": s})
                for k in (_numbers(anchors) if anchors is not None else [base.anchors])
                for s in _numbers("0-4" if seeds is None else seeds)
            ]
            names = benchmarks.fitting(configs[0]) if methods is None else methods.split(",")
            cells = benchmarks.plan(configs, names, done)
            if cells:
                open_data(configs[0])  # one download, before the processes start
        with Steps(progress, ("benchmark",)) as steps:
            steps.begin("benchmark", len(cells))
            ended = benchmarks.bench(
                cells, path, jobs, lambda cell, seconds: steps.advance(f"{described(cell)}: {seconds:.1f} s")
            )
            steps.end(str(path))
        rows, seconds = benchmarks.read_rows([path]), time.perf_counter() - began
        if quick:
            console.print(overview(rows))
        console.print(took(ended, seconds), highlight=False, soft_wrap=True)
        if as_json:
            cells_of = [{"cell": described(cell), "seconds": each} for cell, each in ended]
            _print_json({"rows": _rows(rows), "seconds": seconds, "cells": cells_of})


@app.command()
def table(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Texts with table blocks.")],
    results: Annotated[Path, typer.Option(help="Folder of rows.")] = Path("results"),
    picture: Annotated[Path | None, typer.Option(help="Draw the picture too, .svg or .png.")] = None,
) -> None:
    """Write the documentation's tables from committed rows."""
    with _explained():
        from isogram.bench import read_rows
        from isogram.files import write_atomic
        from isogram.report import documentation
        from isogram.report.tables import Results

        found = Results(read_rows(sorted(results.glob("*.jsonl"))))
        made = documentation.blocks(found)
        for file in files:
            write_atomic(file, documentation.fill(file.read_text(), made).encode())
            typer.echo(f"wrote {file}")
        if picture is not None:
            documentation.picture(found, picture)
            typer.echo(f"drew {picture}")


@data_app.command("list")
def list_data(as_json: Json = False) -> None:
    """Name the built-in data sets, and which are here already."""
    with _explained():
        from isogram.config import DATASETS
        from isogram.data import is_here

        found = [{"name": name, "about": about, "here": is_here(name)} for name, about in DATASETS.items()]
        if as_json:
            _print_json(found)
            return
        for entry in found:
            typer.echo(f"{entry['name']:<18} {'here ' if entry['here'] else 'fetch'}  {entry['about']}")


@data_app.command("fetch")
def fetch_data(
    names: Annotated[list[str] | None, typer.Argument(help="Data sets; all but pictures if none is named.")] = None,
    deb: Annotated[
        Path | None, typer.Option(metavar="PATH", help="For pictures: the package tuxpaint-stamps-default as a file.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download data sets; later runs need no network. Pictures take 300 MB and a quarter of an hour."""
    with _explained("interrupted: what is complete is kept, and the same command goes on from there"):
        from isogram.config import DATASETS
        from isogram.data import ENCODED, fetch_all
        from isogram.data.fetch import cache_dir
        from isogram.progress import Parts

        unknown = [name for name in names or () if name not in DATASETS]
        if unknown:
            raise ConfigError(*(f"no data set {name!r}; choose from {', '.join(DATASETS)}" for name in unknown))
        _, progress = _consoles(quiet or as_json, as_json)
        wanted = names or [name for name in DATASETS if name not in ENCODED]
        for name in wanted:
            with Parts(progress) as parts:
                fetch_all(name, deb=deb, told=parts.tell)
            if not quiet and not as_json:
                typer.echo(f"{name} is in {cache_dir()}")
        if as_json:
            _print_json({"cache": str(cache_dir()), "names": list(wanted)})
