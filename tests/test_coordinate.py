"""The server's side of a run: to the same bits as in process; stopped anywhere, it goes on."""

import json
from dataclasses import replace

import pytest
from loops import Loop, plan, responders
from planted import planted
from test_remote import CONFIG, same

from isogram import federation
from isogram.checkpoint import round_state
from isogram.deploy.coordinate import EVENTS, STATE, coordinate
from isogram.errors import FederationError, RunError
from isogram.federation.remote import Quorum
from isogram.local.memory import node_state
from isogram.tensor_file import read_tensors

DATA = planted()


class Stopped(BaseException):
    """The server was killed."""


@pytest.fixture(scope="module")
def expected():
    """What the federation in process ends with."""
    return round_state(federation.train(federation.align(DATA, CONFIG)))


def test_a_run_writes_what_the_federation_in_process_ends_with(tmp_path, expected):
    link = Loop(responders(DATA, CONFIG, tmp_path / "sites"))
    final = coordinate(link, plan(DATA, CONFIG), tmp_path / "run", "one")
    same(read_tensors(final)[0], expected)
    state = json.loads((tmp_path / "run" / STATE).read_text())
    assert state["complete"] and state["round"] == 3 and not state["problems"]
    assert {node["is"] for node in state["nodes"].values()} == {"ready"}
    assert all(node["sent"] > 1000 and node["got"] > 1000 for node in state["nodes"].values())
    asked = len(link.asked)
    assert coordinate(link, plan(DATA, CONFIG), tmp_path / "run", "one") == final and len(link.asked) == asked


def test_a_server_killed_at_any_moment_goes_on_to_the_same_bits(tmp_path, expected):
    """It dies at every third thing that happens, again and again, and each time a new one takes over."""
    link, lives = Loop(responders(DATA, CONFIG, tmp_path / "sites")), 0
    while True:
        left = 9 + lives

        def watch(folder):
            nonlocal left
            left -= 1
            if not left:
                raise Stopped

        try:
            final = coordinate(link, plan(DATA, CONFIG), tmp_path / "run", "one", watch)
            break
        except Stopped:
            lives += 1
    assert lives > 5
    same(read_tensors(final)[0], expected)


def test_a_run_that_lacks_nodes_stops_with_words_and_goes_on(tmp_path, expected):
    link = Loop(responders(DATA, CONFIG, tmp_path / "sites"))
    link.fail = {"b": 1}
    with pytest.raises(FederationError, match="3 of 4 nodes answered, and min_nodes is 4\nnode 'b' did not answer"):
        coordinate(link, plan(DATA, CONFIG), tmp_path / "run", "one")
    state = json.loads((tmp_path / "run" / STATE).read_text())
    assert state["nodes"]["b"] == {
        "modality": "b",
        "is": "lost",
        "why": state["nodes"]["b"]["why"],
        "sent": 0,
        "got": 0,
    }
    assert "unplugged" in state["nodes"]["b"]["why"] and "min_nodes" in state["problems"][0]
    same(read_tensors(coordinate(link, plan(DATA, CONFIG), tmp_path / "run", "one"))[0], expected)
    what = [json.loads(line)["what"] for line in (tmp_path / "run" / EVENTS).read_text().splitlines()]
    assert what.count("stopped") == 1 and what.count("round") == 4 and what[-1] == "complete"


def test_a_folder_of_another_run_is_left_alone(tmp_path):
    link = Loop(responders(DATA, CONFIG, tmp_path / "sites"))
    link.fail = {"b": 1}
    with pytest.raises(FederationError):
        coordinate(link, plan(DATA, CONFIG), tmp_path / "run", "one")
    with pytest.raises(RunError, match="a run of other run than now"):
        coordinate(link, plan(DATA, CONFIG), tmp_path / "run", "two")


def test_too_few_nodes_of_a_modality_are_told(tmp_path):
    link = Loop(responders(DATA, CONFIG, tmp_path / "sites"))
    link.fail = {"c": 99}
    with pytest.raises(FederationError, match="0 of 1 nodes of 'c' answered"):
        coordinate(link, plan(DATA, CONFIG, quorum=Quorum(2, 1)), tmp_path / "run", "one")


def test_a_node_that_was_away_at_the_end_is_told_later_and_has_the_model_that_it_would_have_had(tmp_path):
    """It has missed the last average as well; and it is killed in between, so that it goes on from its disk."""
    ends = {}

    def sites(folder, ends):
        def finish(node, down, place):
            ends[node.name] = {name: value.clone() for name, value in node_state(node).items()}

        return responders(DATA, CONFIG, folder, finish=finish)

    usual = {}
    coordinate(Loop(sites(tmp_path / "usual", usual)), plan(DATA, CONFIG), tmp_path / "whole", "one")
    link = Loop(sites(tmp_path / "sites", ends))

    def watch(folder):
        if json.loads((folder / STATE).read_text())["round"] == 3:
            link.fail = {"b": 2}

    coordinate(link, plan(DATA, CONFIG), tmp_path / "run", "one", watch)
    state = json.loads((tmp_path / "run" / STATE).read_text())
    assert state["complete"] and state["untold"] == ["b"] and "b" not in ends
    assert "has no model of its own" in state["nodes"]["b"]["why"]
    link, sent = Loop(sites(tmp_path / "sites", ends)), state["nodes"]["a-1"]["sent"]
    coordinate(link, plan(DATA, CONFIG), tmp_path / "run", "one")
    state = json.loads((tmp_path / "run" / STATE).read_text())
    assert state["untold"] == [] and state["nodes"]["b"]["is"] == "ready" and state["nodes"]["a-1"]["sent"] == sent
    same(ends["b"], usual["b"])
    asked = len(link.asked)
    coordinate(link, plan(DATA, CONFIG), tmp_path / "run", "one")
    assert len(link.asked) == asked


def test_a_node_whose_site_has_left_is_not_told_of_the_end_and_the_others_are(tmp_path):
    link = Loop(responders(DATA, CONFIG, tmp_path / "sites"))

    def watch(folder):
        if json.loads((folder / STATE).read_text())["round"] == 3:
            link.fail = {"b": 2, "c": 2}

    coordinate(link, plan(DATA, CONFIG), tmp_path / "run", "one", watch)
    assert json.loads((tmp_path / "run" / STATE).read_text())["untold"] == ["b", "c"]
    link, whole = Loop(responders(DATA, CONFIG, tmp_path / "sites")), plan(DATA, CONFIG)
    stay = {name: modality for name, modality in whole.sites.items() if name != "b"}
    coordinate(link, replace(whole, sites=stay), tmp_path / "run", "one")
    state = json.loads((tmp_path / "run" / STATE).read_text())
    assert state["untold"] == [] and [name for name, _ in link.asked] == ["c"]
    assert "has left the consortium" in state["nodes"]["b"]["why"] and state["nodes"]["c"]["is"] == "ready"


@pytest.mark.parametrize("round", [1, 3], ids=["in a round", "at the end"])
def test_a_node_lost_on_the_way_is_told_while_the_run_goes_on(tmp_path, round):
    link = Loop(responders(DATA, CONFIG, tmp_path / "sites"))

    def watch(folder):
        state = json.loads((folder / STATE).read_text())
        if state["round"] == round and not link.fail:
            link.fail = {"b": 1}

    coordinate(link, plan(DATA, CONFIG, quorum=Quorum(2, 0)), tmp_path / "run", "one", watch)
    events = [json.loads(line) for line in (tmp_path / "run" / EVENTS).read_text().splitlines()]
    (lost,) = [event for event in events if event["what"] == "lost"]
    assert (lost["node"], lost["round"]) == ("b", round) and "unplugged" in lost["line"]
    node = json.loads((tmp_path / "run" / STATE).read_text())["nodes"]["b"]
    assert node["is"] == ("ready" if round == 1 else "late")
    assert round == 1 or "has no model of its own" in node["why"]
