"""docs/deploy.md, followed as it stands there, with fewer items than the example has."""

import inspect
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from isogram.cli import app
from isogram.data import example
from isogram.deploy.check import open_server, open_site

TEXT = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text(encoding="utf-8")
BEFORE = TEXT.partition("## Start")[0]


def run(command):
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, f"{command}: {done.output}"
    return done.output


def test_two_hospitals_on_one_machine(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(example, "ANCHORS", 10)
    monkeypatch.setattr(example, "ROWS", 12)
    blocks = re.findall(r"```(toml)?\n(.*?)```", BEFORE, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["", "toml", "", "toml", "toml", ""]
    for kind, text in blocks:
        if not kind:
            outputs = [run(command) for command in text.splitlines()]
        elif "[[sites]]" in text:
            Path("consortium.toml").write_text(text.replace("HASH", outputs[-1].strip()))
        else:
            name = re.search(r'name = "(\w+)"', text)[1]
            assert Path(f"two-hospitals/sites/{name}/site.toml").exists()
            Path(f"two-hospitals/sites/{name}/site.toml").write_text(text)
    assert all(output.endswith("nothing wrong\n") for output in outputs)
    assert set(open_server(Path("two-hospitals/server")).public_keys) == {"north", "south"}
    assert open_site(Path("two-hospitals/sites/south/site.toml")).nodes["south"].id == "id"


def test_what_the_proxies_pass_on_is_what_nodes_use():
    snippets = re.findall(r"```\n((?:server|fl\.).*?)```", TEXT, re.DOTALL)
    assert len(snippets) == 2
    assert all(set(re.findall(r"/v1/\w+", snippet)) == {"/v1/fleet"} for snippet in snippets)


def test_the_engine_has_the_paths_that_the_page_says():
    """All that a node calls begins with what the proxy passes on, and control does not."""
    pytest.importorskip("flwr")
    from flwr.superlink.routers.control import router as control
    from flwr.superlink.routers.fleet.router import router as fleet
    from flwr.supernode.fleet_http_client import FleetHttpClient

    called = re.findall(r'path="(.*?)"', inspect.getsource(FleetHttpClient))
    assert set(called) <= {route.path for route in fleet.routes}
    assert len(called) > 5 and all(path.startswith("/v1/fleet/") for path in called)
    assert all(route.path.startswith("/v1/control/") for route in control.routes)
