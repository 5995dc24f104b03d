"""Commands about one run: its settings, the doctor, the run itself, and what is made of its folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isogram.cli.options import (
    AskFirst,
    Data,
    File,
    Force,
    Json,
    Quiet,
    Resume,
    Set,
    SkipBad,
    consoles,
    explained,
    print_json,
    read_settings,
    row_records,
    say,
)
from isogram.errors import ConfigError

if TYPE_CHECKING:
    from isogram.config import Config


def init(
    file: Annotated[Path, typer.Argument(metavar="CONFIG", help="File to write.")] = Path("isogram.toml"),
    data: Data = None,
    settings: Set = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a commented configuration file."""
    with explained():
        from isogram.config import FILES, SILOS
        from isogram.config_file import commented
        from isogram.files import make_folder, write_atomic

        # Data of one's own are no configuration before their nodes are filled in: only the rest is read.
        asked = {text: text.replace(" ", "").replace('"', "").removeprefix("data=") for text in settings or []}
        given = {text: name for text, name in asked.items() if name in (FILES, SILOS) and "=" in text}
        own = data if data in (FILES, SILOS) else next(reversed(given.values()), "")
        config = read_settings(None, None if own else data, [text for text in settings or [] if text not in given])
        if file.exists() and not force:
            raise ConfigError(f"{file} exists already; name another file, or replace it by --force")
        make_folder(file.parent)
        write_atomic(file, commented(config.model_copy(update={"name": ""}), own=own).encode())
        name = shlex.quote(str(file))
        check = f"isogram node check {name}, " if own == SILOS else ""
        then = f"fill in [{own}], then: {check}" if own else "next: "
        say(f"wrote {file}; {then}isogram doctor {name}, then isogram run {name}")


def doctor(
    file: File = None,
    data: Data = None,
    settings: Set = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say from public anchors alone whether the silos can be aligned."""
    with explained():
        from isogram.data import open_data
        from isogram.doctor import examine
        from isogram.progress import Parts
        from isogram.report.terminal import print_diagnosis

        console, progress = consoles(quiet, as_json)
        config = read_settings(file, data, settings, skip_bad=skip_bad)
        progress.print("reading data", highlight=False)
        with Parts(progress) as parts:
            found = open_data(config, parts.tell)
        diagnosis = examine(found, config)
        print_diagnosis(diagnosis, console)
        for note in found.notes:
            say(f"note: {note}", err=True)
        if as_json:
            print_json(diagnosis.to_json() | {"notes": list(found.notes)})
        if not diagnosis.ok:
            raise typer.Exit(2 if diagnosis.errors else 3)


def align(
    file: File = None,
    data: Data = None,
    settings: Set = None,
    skip_bad: SkipBad = False,
    resume: Resume = False,
    force: Force = False,
    ask: AskFirst = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """One-shot alignment without training, into a folder NAME-align."""
    with explained():
        config = read_settings(file, data, [*(settings or []), "train.rounds=0"], skip_bad=skip_bad)
        _run(config.model_copy(update={"name": f"{config.name}-align"}), resume, force, ask, as_json, quiet)


def run(
    file: File = None,
    data: Data = None,
    settings: Set = None,
    skip_bad: SkipBad = False,
    resume: Resume = False,
    force: Force = False,
    ask: AskFirst = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Align, train and report, into a folder of its own."""
    with explained("interrupted: with --resume the same command goes on from the last complete round"):
        _run(read_settings(file, data, settings, skip_bad=skip_bad), resume, force, ask, as_json, quiet)


def _run(config: Config, resume: bool, force: bool, ask: bool, as_json: bool, quiet: bool) -> None:
    from isogram.cli.asking import asker
    from isogram.progress import Watch
    from isogram.report.terminal import print_findings, summary
    from isogram.run import run as run_config
    from isogram.run_folder import REPORT

    console, progress = consoles(quiet, as_json)
    with Watch(progress) as watch:
        outcome = run_config(config, watch, resume=resume, force=force, ask=asker(watch) if ask else None)
    print_findings(outcome.diagnosis, progress)
    if outcome.rows:
        forced = ["the doctor refused this run, and was overridden: see above"] if outcome.diagnosis.refusals else []
        missing = [f"{method}: not run: {reason}" for method, reason in outcome.not_run.items()]
        console.print(summary(outcome.rows, outcome.scope, config.name, [*forced, *missing, *outcome.notes]))
    console.print(f"page: {outcome.folder / REPORT}", highlight=False, soft_wrap=True)
    if as_json:
        found = {"folder": str(outcome.folder), "rounds": outcome.rounds, "resumed_at": outcome.resumed_at}
        found |= {"not_run": outcome.not_run}
        print_json(found | {"rows": row_records(outcome.rows), "doctor": outcome.diagnosis.to_json()})


def write_report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")], as_json: Json = False, quiet: Quiet = False
) -> None:
    """Write the page of a run again, complete or not."""
    with explained():
        from isogram.report.page import write_page

        path = write_page(folder)
        if as_json:
            print_json({"page": str(path), "bytes": path.stat().st_size})
        elif not quiet:
            say(f"wrote {path}")


def audit(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    replays: Annotated[int, typer.Option(min=3, help="Runs with half of the rows each.")] = 16,
    canaries: Annotated[int, typer.Option(min=0, help="Rows of noise added to each node's.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of who is in, and of the attacks.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes side by side, one thread each.")] = 2,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Attack the messages of a run (resumes)."""
    with explained("interrupted: replays that are finished are kept, and the same command goes on from there"):
        from isogram.audit import audit_run
        from isogram.progress import Steps
        from isogram.report.page import write_page
        from isogram.report.terminal import print_audit

        console, progress = consoles(quiet, as_json)
        with Steps(progress, ("replays",)) as steps:
            steps.begin(
                "replays", replays, f"{replays} of them, each as long as the run, and as long again for attacks"
            )
            rows = audit_run(folder, replays, canaries, seed, jobs, steps.advance)
            steps.end("attacked")
        print_audit(rows, console)
        console.print(f"page: {write_page(folder)}", highlight=False, soft_wrap=True)
        if as_json:
            print_json({"rows": row_records(rows)})


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or a model file.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="To write; new or empty.")],
    node: Annotated[str | None, typer.Option(metavar="NAME", help="One node's part alone.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model to hand on: file, card, adapters for PEFT."""
    with explained():
        from isogram.inference import Model
        from isogram.model.peft_export import export_model

        done = export_model(Model.load(run).saved, folder, node)
        if as_json:
            folders = {name: str(path) for name, path in done.folders.items()}
            print_json({"folder": str(folder), "folders": folders, "python": done.python, "peft": done.peft})
        elif not quiet:
            adapter = ", an adapter for PEFT" if folder in done.folders.values() else ""
            say(f"wrote {folder}: the model, its card{adapter}")
            for name, path in done.folders.items():
                if path != folder:
                    say(f"wrote {path}{name and f': node {name}'}")
            say("\n".join(part for part in (done.python, done.peft) if part))


def demo(
    file: File = None, data: Data = None, settings: Set = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Run every method on one split and print the table."""
    with explained():
        from isogram.demo import run_demo

        console, progress = consoles(quiet, as_json)
        rows = run_demo(read_settings(file, data, settings), console, progress)
        if as_json:
            print_json(row_records(rows))
