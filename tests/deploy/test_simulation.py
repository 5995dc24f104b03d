"""The same apps on the engine's simulation; half a minute, where Ray is installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.deploy

HERE = Path(__file__).parent

CODE = """
import json, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from isogram.engine.simulation import simulate
config = {{"entry": "test_simulation:coordinate", "nodes": json.dumps(["a", "b", "c"]), "result": {result!r}}}
simulate(config, "test_simulation:site", Path({home!r}))
"""


def site(name):
    return lambda request: name.encode() + request[::-1]


def coordinate(link, config):
    answers = link.ask(dict.fromkeys(json.loads(config["nodes"]), bytes(9_000_000) + b"12"), 60)
    told = {
        name: answer == name.encode() + b"21" + bytes(9_000_000) if isinstance(answer, bytes) else answer.why
        for name, answer in answers.items()
    }
    Path(config["result"]).write_text(json.dumps(told))


def test_simulation(tmp_path):
    pytest.importorskip("ray")
    code = CODE.format(here=str(HERE), result=str(tmp_path / "result"), home=str(tmp_path / "home"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "result").read_text()) == {"a": True, "b": True, "c": True}
