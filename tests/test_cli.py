import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tables import shuffle_anchors
from typer.testing import CliRunner

from isogram.cli import app
from isogram.methods import METHODS

RUN = CliRunner(env={"COLUMNS": "200"})


SMALL = [
    "-s",
    "threads=1",
    "-s",
    "model.width=48",
    "-s",
    "model.layers=1",
    "-s",
    "train.rounds=1",
    "-s",
    "train.steps=1",
]


@pytest.fixture(scope="module")
def file(file):
    """As it is typed."""
    return str(file)


def test_help_fits_a_screen_and_states_the_exit_codes():
    done = RUN.invoke(app, ["--help"], env={"COLUMNS": "80"})
    lines = done.output.splitlines()
    assert done.exit_code == 0 and len(lines) <= 24 and max(map(len, lines)) <= 80
    for command in ("init", "doctor", "align", "run", "report", "audit", "export", "demo", "bench", "table", "data"):
        assert re.search(rf"^  {command} +\S", done.output, re.MULTILINE), command
    assert "130 interrupted" in done.output and "..." not in done.output.partition("Commands:")[2]


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from isogram.cli import app; app(['--help'], standalone_mode=False)\n"
        "print(sorted({'torch', 'numpy', 'pandas', 'pydantic', 'rich', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["doctor", "align", "run", "demo", "bench"])
def test_commands_that_measure_share_the_same_flags(command):
    text = RUN.invoke(app, [command, "--help"]).output
    for flag in ("CONFIG", "--data", "--set", "--json", "--quiet"):
        assert flag in text, flag


@pytest.mark.parametrize("command", ["deploy check", "anchors check", "embed", "search", "serve"])
def test_help_says_what_is_required_without_marks_of_markup(command):
    done = RUN.invoke(app, [*command.split(), "--help"])
    assert done.exit_code == 0 and "[required]" in done.output and "\\" not in done.output, done.output


def test_completion_is_there():
    shown = RUN.invoke(app, ["--show-completion"], env={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"})
    assert shown.exit_code in (0, 1)  # the shell may be unknown here; what it completes is asked below
    code = "from isogram.cli import app; app(prog_name='isogram')"
    asked = {"_ISOGRAM_COMPLETE": "complete_bash", "COMP_WORDS": "isogram d", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert {"doctor", "demo", "data"} <= set(done.stdout.split())


def test_version():
    assert re.fullmatch(r"isogram \d+\.\d+\.\d+\n", RUN.invoke(app, ["--version"]).output)


def test_init_writes_a_file_that_runs_and_replaces_none(folder):
    assert RUN.invoke(app, ["init", "--data", "machines"]).exit_code == 0
    written = (folder / "isogram.toml").read_text()
    assert 'data = "machines"' in written
    again = RUN.invoke(app, ["init"])
    assert again.exit_code == 2 and "--force" in again.output and (folder / "isogram.toml").read_text() == written
    assert RUN.invoke(app, ["init", "--force", "--set", "seed=3"]).exit_code == 0
    done = RUN.invoke(app, ["align", "isogram.toml", "--data", "machines", "-s", "anchors=50", "-s", "threads=1"])
    assert done.exit_code == 0, done.output
    assert (folder / "runs" / "isogram-align" / "report.html").exists()


def test_run_prints_the_table_on_stdout_and_progress_on_stderr(file, folder):
    done = RUN.invoke(app, ["run", file, *SMALL])
    assert done.exit_code == 0, done.output
    assert "own: 12 held-out rows" in done.stdout and "page: runs/own/report.html" in done.stdout
    lines = {words[0]: words[1:] for words in map(str.split, done.stdout.splitlines()) if words}
    assert lines["chance"] == [".083", ".833", ".000", ".333", ".333", "–", "–"] and "isogram" in lines
    assert "round 1 of 1" in done.stderr and "round 1 of 1" not in done.stdout


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (["doctor"], {"pairs", "findings", "coverage"}),
        (["run", *SMALL], {"folder", "rounds", "resumed_at", "rows", "doctor"}),
        (["align", *SMALL[:6]], {"folder", "rounds", "resumed_at", "rows", "doctor"}),
    ],
)
def test_json_is_all_that_stdout_holds(file, folder, command, keys):
    done = RUN.invoke(app, [command[0], file, *command[1:], "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    assert keys <= set(json.loads(done.stdout)) and done.stderr == ""


def test_quiet_leaves_the_result_and_nothing_else(file, folder):
    done = RUN.invoke(app, ["run", file, *SMALL, "--quiet"])
    assert done.exit_code == 0 and done.stderr == "" and "held-out rows" in done.stdout


def test_the_page_is_written_again_from_the_folder_alone(file, folder):
    RUN.invoke(app, ["run", file, *SMALL])
    page = folder / "runs" / "own" / "report.html"
    before = page.read_bytes()
    page.unlink()
    done = RUN.invoke(app, ["report", "runs/own", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["bytes"] == len(before) and page.read_bytes() == before


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_a_run_is_exported_and_the_lines_printed_load_it(file, folder):
    RUN.invoke(app, ["run", file, *SMALL, "-s", "model.adapter=geodora"])
    done = RUN.invoke(app, ["export", "runs/own", "all"])
    assert done.exit_code == 0 and done.stderr == "", done.output
    *written, _, _, _, first, second = done.stdout.splitlines()
    wrote = [f"wrote all/{node}: node {node}" for node in ("lab", "north", "south")]
    assert written == ["wrote all: the model, its card", *wrote]
    found: dict = {}
    exec(f"{first}\n{second}", found)
    assert "model" not in found, "that is what the lines before call another thing"
    assert found["transformer"].peft_config["default"].use_dora
    as_json = RUN.invoke(app, ["export", "runs/own/model.safetensors", "one", "--node", "north", "--json"])
    assert json.loads(as_json.stdout)["folders"] == {"north": "one"}
    again = RUN.invoke(app, ["export", "runs/own", "two", "--node", "north"])
    assert [line for line in again.stdout.splitlines() if line.startswith("wrote")] == [
        "wrote two: the model, its card, an adapter for PEFT"
    ]
    assert RUN.invoke(app, ["export", "runs/own", "quiet", "--quiet"]).output == ""
    for arguments, said in (
        (["runs/own", "all"], "all is there already and not empty"),
        (["runs/own", "new", "--node", "west"], "no node 'west' in this model"),
        (["runs/none", "new"], "cannot read runs/none"),
        ([".", "new"], "holds no model.safetensors"),
    ):
        done = RUN.invoke(app, ["export", *arguments])
        assert done.exit_code == 2 and said in done.stderr and not (folder / "new").exists()


def test_exit_codes_tell_what_is_in_the_way(file, folder):
    tables = folder / "tables"
    shutil.copytree(Path(file).parent, tables)
    own = str(tables / "own.toml")
    assert RUN.invoke(app, ["doctor", own]).exit_code == 0
    (folder / "file").write_text("in the way")
    done = RUN.invoke(app, ["run", own, *SMALL, "-s", "output.folder=file"])
    assert done.exit_code == 4 and "a file is where a folder should be" in done.stderr
    shuffle_anchors(tables, "meth")
    for command in (["doctor", own], ["run", own, *SMALL], ["align", own, *SMALL]):
        done = RUN.invoke(app, command)
        assert done.exit_code == 3 and "meth" in done.output, done.output
    assert not (folder / "runs").exists()
    assert RUN.invoke(app, ["align", own, *SMALL, "--force"]).exit_code == 0
    text = (tables / "public" / "meth.csv").read_text()
    (tables / "public" / "meth.csv").write_text(text.replace("anchor-", "other-"))
    for command in (["doctor", own], ["run", own, *SMALL, "--force"]):
        assert RUN.invoke(app, command).exit_code == 2


def test_all_problems_of_a_run_are_told_a_line_each(file, folder):
    tables = folder / "tables"
    shutil.copytree(Path(file).parent, tables)
    for name in ("north.csv", "public/meth.csv"):
        (tables / name).unlink()
    done = RUN.invoke(app, ["run", str(tables / "own.toml")])
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.exit_code == 2 and len(lines) == 2 and "north.csv" in lines[0] and "meth.csv" in lines[1]


def test_data_are_listed_and_fetched_by_name(folder):
    listed = json.loads(RUN.invoke(app, ["data", "list", "--json"]).stdout)
    assert {entry["name"]: entry["here"] for entry in listed}["machines"] is True
    assert RUN.invoke(app, ["data", "fetch", "machines"]).exit_code == 0
    done = RUN.invoke(app, ["data", "fetch", "mashines"])
    assert done.exit_code == 2 and "no data set 'mashines'" in done.stderr


def test_a_warm_cache_needs_no_network(folder):
    """No address answers and pip is told of no index: the data are read from the cache all the same."""
    code = "from isogram.cli import app; app()"
    cut = {"PIP_NO_INDEX": "1", "https_proxy": "http" + "://127.0.0.1:9", "PATH": ""}
    fetched = RUN.invoke(app, ["data", "fetch", "digits"])
    assert fetched.exit_code == 0, fetched.output
    command = [sys.executable, "-c", code, "doctor", "--data", "digits", "--quiet", "--json"]
    done = subprocess.run(command, env=os.environ | cut, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cold = subprocess.run(
        command, env=os.environ | cut | {"ISOGRAM_CACHE": str(folder)}, capture_output=True, text=True, check=False
    )
    assert cold.returncode == 4 and "check the network" in cold.stderr, cold.stderr


def test_names_with_brackets_are_printed_as_they_are(file, folder):
    tables = folder / "tables"
    shutil.copytree(Path(file).parent, tables)
    own = tables / "own.toml"
    own.write_text(own.read_text().replace('"meth"', '"me[/th]"').replace("meth =", '"me[/th]" ='))
    done = RUN.invoke(app, ["align", str(own), *SMALL, "-s", "output.folder='[/a]'"])
    assert done.exit_code == 0, done.output
    assert "page: [/a]/own-align/report.html" in done.stdout
    assert "me[/th] – rna" in RUN.invoke(app, ["doctor", str(own)]).stdout


def asked(command, *answers):
    """The command with a terminal for its input, and what is typed there; its exit code and what it says."""
    person, terminal = pty.openpty()
    os.write(person, "".join(f"{answer}\n" for answer in answers).encode())
    code = "from isogram.cli import app; app()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *command], stdin=terminal, capture_output=True, text=True, check=False
        )
    finally:
        os.close(person)
        os.close(terminal)
    return done.returncode, done.stderr


def test_a_person_is_asked_before_anything_leaves_and_can_say_no(file, folder):
    command = ["align", file, *SMALL, "-s", "output.folder=runs", "--ask"]
    code, said = asked(command, "what?", "n")
    assert code == 5 and said.count("send it? y: yes, n: no, a: all of this kind at all nodes") == 2
    assert "node 'lab' is about to send a first message 'gram': similarities between the public anchors, made" in said
    assert "  gram: 820 float32, 3280 bytes" in said and "go on by --resume" in said and "Traceback" not in said
    run = Path("runs/own-align")
    assert (run / "egress.jsonl").read_text() == "" and not (run / "messages.jsonl").exists()
    code, said = asked([*command, "--resume"], "y", "a", "a", "a", "a")
    assert code == 0, said
    assert re.findall(r"node '(\w+)' is about to send a first message '(\w+)'", said) == [
        *(("lab", "gram"), ("north", "gram"), ("north", "key"), ("north", "counts"), ("north", "sums"))
    ]
    assert "masked: only the total over nodes shows" in said


def test_without_a_terminal_there_is_nobody_to_ask(file, folder):
    done = RUN.invoke(app, ["align", file, *SMALL, "-s", "output.folder=runs", "--ask"])
    assert done.exit_code == 5 and "--ask needs a terminal" in done.stderr and "egress.allow" in done.stderr
    assert not Path("runs").exists()


def test_a_refusal_says_how_to_go_on_and_a_forced_table_that_it_was_refused(file, folder):
    tables = folder / "tables"
    shutil.copytree(Path(file).parent, tables)
    shuffle_anchors(tables, "meth")
    command = ["align", str(tables / "own.toml"), *SMALL]
    assert "--force goes on all the same" in RUN.invoke(app, command).stderr
    assert "the doctor refused this run" in RUN.invoke(app, [*command, "--force"]).stdout


def test_init_for_tables_of_ones_own_writes_an_example_to_fill_in(folder):
    assert RUN.invoke(app, ["init", "own.toml", "--data", "files"]).exit_code == 0
    text = (folder / "own.toml").read_text()
    assert 'data = "files"' in text and "\n[[files.nodes]]\n" in text
    done = RUN.invoke(app, ["doctor", "own.toml"])
    assert done.exit_code == 2 and "no file" in done.stderr


def test_the_demo_runs_every_method_and_prints_each_step_and_the_table():
    done = RUN.invoke(app, ["demo", "--data", "machines", "--set", "anchors=20"])
    assert done.exit_code == 0, done.output
    for step in ("fetch data", "one-shot alignment", "federated rounds", "evaluation"):
        assert f"{step}: " in done.output
    assert "round 4 of 4" in done.output
    table = done.output[done.output.index("held-out rows") :]
    assert "duration" not in table
    for method in [name for name in METHODS if name != "duration"]:
        line = re.search(rf"^ +{re.escape(method)} .*", table, re.MULTILINE)
        assert line, method
        assert re.search(r"\.\d\d\d", line[0]), method


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--data", "tcga"], "choose one of tcga-brca"),
        (["demo", "--data", "machines", "-s", "anchors=1"], "anchors"),
        (["demo", "--data", "machines", "-s", "anchors=0"], "anchors = 0: machines needs at least 1"),
        (["demo", "-s", "train.lrr=1"], "did you mean 'train.lr'?"),
        (["bench", "--data", "machines", "--methods", ""], "no method ''"),
        (["bench", "--seeds", "5-2"], "runs backwards"),
        (["bench", "--data", "machines", "--methods", "none"], "choose from local"),
        (["bench", "--seeds", "a-b"], "0-4"),
        (["bench", "--quick", "--data", "digits", "--seeds", "0"], "of its own; leave out --data, --seeds"),
        (["bench", "own.toml", "--quick", "-s", "anchors=3"], "leave out CONFIG, --set"),
    ],
)
def test_wrong_arguments_end_with_one_line_and_what_to_write_instead(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = RUN.invoke(app, arguments)
    assert done.exit_code == 2 and said in done.output and "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []
