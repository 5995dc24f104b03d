"""What steers a terminal is shown, and not obeyed, wherever text of others is printed."""

import csv
import io
import json
from pathlib import Path

from rich.table import Table
from typer.testing import CliRunner

import isogram.cli
from isogram.cli import app
from isogram.console import SafeConsole, printable
from isogram.doctor import Finding
from isogram.progress import Parts
from isogram.report.terminal import print_finding

RUN = CliRunner(env={"COLUMNS": "200"})
TITLE = "\x1b]0;owned\x07"
"""Would be the window's title."""


def test_what_steers_is_escaped_and_all_else_stays():
    assert printable("a\x1b[2Jb\rc\x7f\x9b\u202e\u2028\udc80") == r"a\x1b[2Jb\rc\x7f\x9b\u202e\u2028\udc80"
    for text in (
        "na\u00efve caf\u00e9, 日本語, \u05e9\u05dc\u05d5\u05dd",
        "\U0001f469\u200d\U0001f680",
        "a\tb\nc",
        "[red]:smile:",
    ):
        assert printable(text) == text


def test_a_console_shows_it_in_lines_tables_titles_and_captions():
    out = io.StringIO()
    console = SafeConsole(file=out, width=200, force_terminal=True, color_system=None)
    table = Table(TITLE, title=TITLE, caption=TITLE)
    table.add_row(f"[b]{TITLE}")
    console.print(TITLE, table)
    print_finding(Finding("note", f"node {TITLE}", TITLE, remedy=TITLE), console)
    assert TITLE not in out.getvalue() and out.getvalue().count(r"\x1b]0;owned\x07") == 8
    assert r"[b]\x1b]0;owned\x07" in out.getvalue()


def test_a_bar_shows_it():
    out = io.StringIO()
    with Parts(SafeConsole(file=out, width=200, force_terminal=True)) as parts:
        parts.tell(f"[/x]{TITLE}", 1, 2)
    assert TITLE not in out.getvalue() and r"[/x]\x1b]0;owned\x07" in out.getvalue()


def test_no_command_prints_past_it():
    folder = Path(isogram.cli.__file__).parent
    ways = {p.name for p in folder.glob("*.py") for way in ("echo(", "print as", "Console(") if way in p.read_text()}
    assert ways == {"options.py", "__init__.py"}, "these have `say` and `consoles`, and the version"


def test_items_that_are_found_and_files_that_are_wrong_are_shown_so(room, tmp_path):
    model, bank = str(room / "model.safetensors"), str(tmp_path / "bank.parquet")
    notes = tmp_path / f"notes{TITLE}.csv"
    with notes.open("w", newline="") as file:
        csv.writer(file).writerows([["note", "id", "mood"], [f"a red{TITLE} disc", f"1{TITLE}", f"calm{TITLE}"]])
    more = ["--node", "notes", "--column", "note", "--id", "id", "--label", "mood"]
    done = RUN.invoke(app, ["embed", model, str(notes), *more, "-o", bank])
    assert done.exit_code == 0, done.output
    found = RUN.invoke(app, ["search", model, bank, "--text", "a red disc"])
    shown = r"\x1b]0;owned\x07"
    assert found.exit_code == 0 and "\x1b" not in found.output, found.output
    for part in (f"notes{shown}.csv, line 2", f"a red{shown} disc", f"calm{shown}"):
        assert part in found.output
    as_json = json.loads(RUN.invoke(app, ["search", model, bank, "--text", "a red disc", "--json"]).stdout)
    assert as_json["hits"][0]["id"] == f"1{TITLE}", "programs get what it is"
    checked = RUN.invoke(app, ["node", "check", str(notes), "--kind", "text", "--column", "note"])
    assert checked.exit_code == 0 and "\x1b" not in checked.output and f"notes{shown}.csv" in checked.output
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / f"a{TITLE}.png").write_text("no picture")
    wrong = RUN.invoke(app, ["node", "check", str(tmp_path / "photos"), "--kind", "image"])
    assert wrong.exit_code == 2 and "\x1b" not in wrong.output and f"a{shown}.png: is no picture" in wrong.stderr
