"""The five commands at the top of docs/your-data.md, as they stand there, with fewer rows than the example has."""

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx
from scipy.stats import binom
from typer.testing import CliRunner

from isogram.cli import app
from isogram.data import example

TEXT = (Path(__file__).parents[1] / "docs" / "your-data.md").read_text(encoding="utf-8")
COMMANDS = re.search(r"## In five commands.*?```\n(.*?)```", TEXT, re.DOTALL)[1].splitlines()


def test_there_are_five_and_the_first_two_make_the_environment():
    assert len(COMMANDS) == 5 and COMMANDS[:2] == ["make env", ". .venv/bin/activate"]
    assert all(command.startswith("isogram ") for command in COMMANDS[2:])


def test_they_lead_to_a_page_that_finds_pictures_by_words(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(example, "ROWS", 40)
    for command in COMMANDS[2:4]:
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, f"{command}: {done.output}"
    rows = [json.loads(line) for line in Path("runs/example/results.jsonl").read_text().splitlines()]
    found = {(row["method"], row["direction"]): row["value"] for row in rows if row["metric"] == "r1"}
    held_out = example.ANCHORS // 5
    by_chance = int(binom.isf(1e-4, held_out, 1 / held_out))
    assert found["closed-form", "text->picture"] * held_out > by_chance, "first of 25: by chance once in 10,000 runs"
    server = [sys.executable, "-c", "from isogram.cli import app; app()", *shlex.split(COMMANDS[4])[1:], "--port", "0"]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as page:
        try:
            assert page.stdout is not None
            address = re.search(r"http://\S+", page.stdout.readline())[0]
            assert "text/html" in httpx.get(address).headers["content-type"]
            about = httpx.get(f"{address}api/site").json()
            gallery = [bank["name"] for bank in about["banks"]].index("gallery")
            asked = httpx.post(
                f"{address}api/near?node=library", content="a fruit", headers={"content-type": "text/plain"}
            ).json()
            near = next(bank for bank in asked["found"] if bank["bank"] == gallery)
            picture = httpx.get(f"{address}media/{gallery}/{near['hits'][0]['row']}")
            assert picture.headers["content-type"].startswith("image/")
        finally:
            page.send_signal(signal.SIGINT)
            page.wait(20)
    assert page.returncode == 0
