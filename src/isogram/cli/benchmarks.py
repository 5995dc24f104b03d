"""Commands about many runs: methods over seeds, and the tables written from their rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from isogram.cli.options import (
    Data,
    File,
    Json,
    Quiet,
    Set,
    consoles,
    explained,
    print_json,
    read_settings,
    row_records,
    say,
)
from isogram.errors import ConfigError


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
    with explained("interrupted: rows that are finished are kept, and the same command goes on from there"):
        from isogram import bench as benchmarks
        from isogram.data import open_data
        from isogram.progress import Steps
        from isogram.report.terminal import described, overview, took

        began = time.perf_counter()
        console, progress = consoles(quiet, as_json)
        chosen = {"CONFIG": file, "--data": data, "--set": settings, "--anchors": anchors, "--seeds": seeds}
        given = [name for name, value in (chosen | {"--methods": methods}).items() if value not in (None, [])]
        if quick and given:
            raise ConfigError(f"--quick has data, settings, seeds and methods of its own; leave out {', '.join(given)}")
        base = read_settings(file, data, settings)
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
            print_json({"rows": row_records(rows), "seconds": seconds, "cells": cells_of})


def table(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Texts with table blocks.")],
    results: Annotated[Path, typer.Option(help="Folder of rows.")] = Path("results"),
    picture: Annotated[Path | None, typer.Option(help="Draw the picture too, .svg or .png.")] = None,
) -> None:
    """Write the documentation's tables from committed rows."""
    with explained():
        from isogram.bench import read_rows
        from isogram.files import write_atomic
        from isogram.report import documentation
        from isogram.report.tables import Results

        found = Results(read_rows(sorted(results.glob("*.jsonl"))))
        made = documentation.blocks(found)
        for file in files:
            write_atomic(file, documentation.fill(file.read_text(), made).encode())
            say(f"wrote {file}")
        if picture is not None:
            documentation.picture(found, picture)
            say(f"drew {picture}")
