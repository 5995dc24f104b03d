"""The federation through the engine's own apps, in this process: the same bits, and nodes that do not run."""

import json
from pathlib import Path

import pytest
from loops import plan, responders
from planted import planted
from test_remote import CONFIG, same, with_

from isogram import federation
from isogram.checkpoint import round_state
from isogram.deploy.coordinate import STATE, coordinate
from isogram.engine.grid import InProcessGrid, run_in_process
from isogram.errors import FederationError
from isogram.federation.membership import Quorum
from isogram.tensor_file import read_tensors

DATA = planted()
SHORT = with_(CONFIG, train={"rounds": 2})


def coordinated(link, config):
    """What the server app calls."""
    quorum = Quorum(int(config["min_nodes"]))
    coordinate(link, plan(DATA, SHORT, quorum=quorum), Path(config["folder"]), "one")


def settings(tmp_path, min_nodes):
    names = sorted(node.name for node in DATA.nodes)
    own = {"folder": str(tmp_path / "run"), "min_nodes": min_nodes, "outcome": str(tmp_path / "outcome.json")}
    return own | {"entry": f"{__name__}:coordinated", "nodes": json.dumps(names), "patience": 0.1}


def test_the_engines_apps_give_the_bits_of_the_federation_in_process(tmp_path):
    grid = InProcessGrid(responders(DATA, SHORT, tmp_path / "sites"), at_once=2)
    run_in_process(grid, settings(tmp_path, 4))
    expected = round_state(federation.train(federation.align(DATA, SHORT)))
    same(read_tensors(tmp_path / "run" / "server.safetensors")[0], expected)


def test_a_node_that_does_not_run_is_told_and_the_others_go_on(tmp_path):
    grid = InProcessGrid(responders(DATA, SHORT, tmp_path / "sites"))
    grid.down.add("a-2")
    with pytest.raises(FederationError, match="3 of 4 nodes answered"):
        run_in_process(grid, settings(tmp_path, 4))
    problems = json.loads((tmp_path / "outcome.json").read_text())["problems"]
    assert "node 'a-2' did not answer: it is not online" in problems[1]
    run_in_process(grid, settings(tmp_path, 3))
    state = json.loads((tmp_path / "run" / STATE).read_text())
    assert state["complete"] and state["nodes"]["a-2"]["is"] == "lost" and state["attempt"] == 1
