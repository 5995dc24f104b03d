"""The five commands at the top of docs/your-data.md, as they stand there, with fewer rows than the example has.

And what docs/use.md and docs/serve.md say to do with that run.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from scipy.stats import binom
from typer.testing import CliRunner

from isogram.cli import app
from isogram.data import example

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "your-data.md").read_text(encoding="utf-8")
COMMANDS = re.search(r"## In five commands.*?```\n(.*?)```", TEXT, re.DOTALL)[1].splitlines()


def blocks(page):
    """What stands between its fences, in order: (language, text)."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    return [(language, re.sub(f"^{indent}", "", inside, flags=re.MULTILINE)) for indent, language, inside in found]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder where the example is and has been run."""
    folder = tmp_path_factory.mktemp("walk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(example, "ROWS", 40)
        for command in COMMANDS[2:4]:
            invoked(command)
    return folder


@pytest.fixture
def here(done, monkeypatch):
    monkeypatch.chdir(done)


def invoked(command):
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, f"{command}: {done.output}"
    return done.stdout


@contextmanager
def served(command, **variables):
    """The address that a command prints; it listens where there is a place, and ends in order."""
    server = [sys.executable, "-c", "from isogram.cli import app; app()", *shlex.split(command)[1:], "--port", "0"]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True, env=os.environ | variables) as page:
        try:
            assert page.stdout is not None
            yield re.search(r"http://\S+", page.stdout.readline())[0]
        finally:
            page.send_signal(signal.SIGINT)
            page.wait(20)
    assert page.returncode == 0


def test_there_are_five_and_the_first_two_make_the_environment():
    assert len(COMMANDS) == 5 and COMMANDS[:2] == ["make env", ". .venv/bin/activate"]
    assert all(command.startswith("isogram ") for command in COMMANDS[2:])


def test_they_lead_to_a_page_that_finds_pictures_by_words(here):
    rows = [json.loads(line) for line in Path("runs/example/results.jsonl").read_text().splitlines()]
    found = {(row["method"], row["direction"]): row["value"] for row in rows if row["metric"] == "r1"}
    held_out = example.ANCHORS // 5
    by_chance = int(binom.isf(1e-4, held_out, 1 / held_out))
    assert found["closed-form", "text->picture"] * held_out > by_chance, "first of 25: by chance once in 10,000 runs"
    with served(COMMANDS[4]) as address:
        assert "text/html" in httpx.get(address).headers["content-type"]
        about = httpx.get(f"{address}api/site").json()
        gallery = [bank["name"] for bank in about["banks"]].index("gallery")
        asked = httpx.post(
            f"{address}api/near?node=library", content="a fruit", headers={"content-type": "text/plain"}
        ).json()
        near = next(bank for bank in asked["found"] if bank["bank"] == gallery)
        picture = httpx.get(f"{address}media/{gallery}/{near['hits'][0]['row']}")
        assert picture.headers["content-type"].startswith("image/")


def test_every_block_of_the_page_on_use_runs(here):
    (_, commands), *python = blocks("use.md")
    said = [invoked(command) for command in commands.splitlines()]
    assert len(said) == 5 and "40 items of node gallery" in said[0] and "40 items of node library" in said[1]
    assert said[2].count(".png") == 10 and said[3].count(".png") == said[3].count("texts.csv, line") == 5
    assert Path("my-model/README.md").is_file()
    assert [language for language, _ in python] == ["python", "python"]
    for _, text in python:
        exec(compile(text, "docs/use.md", "exec"), {})


@pytest.mark.skipif(not any(Path(folder, "curl").exists() for folder in os.get_exec_path()), reason="there is no curl")
def test_a_program_asks_the_page_as_the_documentation_says(here):
    (_, start), (_, asks) = blocks("serve.md")
    command = next(line for line in start.splitlines() if line.startswith("isogram serve"))
    token, port = "plus+and&hash#or letters", " --port 8470 &"
    assert start.startswith("export ISOGRAM_TOKEN=") and command.endswith(port)
    with served(command.removesuffix(port), ISOGRAM_TOKEN=token) as address:
        root = address.partition("?")[0]
        assert httpx.get(f"{root}api/site").status_code == 401 and httpx.get(address).status_code == 200
        curl = asks.replace("http://127.0.0.1:8470/", root)
        shell = subprocess.run(
            ["sh", "-ec", curl], env=os.environ | {"ISOGRAM_TOKEN": token}, capture_output=True, text=True, check=True
        )
    decoder, answers, text = json.JSONDecoder(), [], shell.stdout
    while text:
        one, end = decoder.raw_decode(text)
        answers.append(one)
        text = text[end:].lstrip()
    assert [answer["query"]["node"] for answer in answers] == ["library", "gallery"]
    assert all(len(bank["hits"]) == 10 for answer in answers for bank in answer["found"])
