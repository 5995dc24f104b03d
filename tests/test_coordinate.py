"""The server's side of a run: to the same bits as in process; stopped anywhere, it goes on."""

import json
from dataclasses import replace

import pytest
from loops import Loop, plan, responders
from planted import planted
from test_remote import CONFIG, same, with_

from isogram import federation
from isogram.checkpoint import round_state
from isogram.deploy.coordinate import EVENTS, STATE, coordinate
from isogram.deploy.worker import save
from isogram.errors import FederationError, RunError
from isogram.federation.membership import Quorum
from isogram.local.memory import node_state
from isogram.model import SavedModel
from isogram.tensor_file import read_tensors

DATA = planted()


class Stopped(BaseException):
    """The server was killed."""


@pytest.fixture(scope="module")
def expected():
    """What the federation in process ends with."""
    return round_state(federation.train(federation.align(DATA, CONFIG)))


def sites(folder, config=CONFIG, data=DATA):
    """Responders, and the states that their nodes end in, which they fill."""
    ends = {}

    def finish(node, down, place):
        ends[node.name] = {name: value.clone() for name, value in node_state(node).items()}

    return responders(data, config, folder, finish=finish), ends


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """The states in which nodes end that nothing happens to."""
    folder = tmp_path_factory.mktemp("usual")
    nodes, ends = sites(folder / "sites")
    coordinate(Loop(nodes), plan(DATA, CONFIG), folder / "run", "one")
    return ends


def state_of(folder):
    return json.loads((folder / STATE).read_text())


def until(round):
    """Kills the server as soon as a round is complete."""

    def watch(folder):
        if state_of(folder)["round"] == round:
            raise Stopped

    return watch


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


def test_a_server_killed_at_any_moment_goes_on_to_the_same_bits(tmp_path, expected, usual):
    """It dies again and again, each time after one thing more than before, and each time a new one takes over."""
    nodes, ends = sites(tmp_path / "sites")
    link, lives = Loop(nodes), 0
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
    assert ends.keys() == usual.keys() and not state_of(tmp_path / "run")["untold"]
    for name, end in ends.items():
        same(end, usual[name])


@pytest.mark.parametrize("rounds", [0, 3])
def test_a_server_killed_between_the_last_round_and_the_end_gives_every_node_its_model(tmp_path, rounds):
    """The first time before it has told any node of the end, the second time after it has told all."""
    config = with_(train={"rounds": rounds})
    nodes, usual = sites(tmp_path / "usual", config)
    coordinate(Loop(nodes), plan(DATA, config), tmp_path / "whole", "one")
    nodes, ends = sites(tmp_path / "sites", config)
    link = Loop(nodes)
    with pytest.raises(Stopped):
        coordinate(link, plan(DATA, config), tmp_path / "run", "one", until(rounds))

    def told_all(folder):
        if len(ends) == len(nodes):
            raise Stopped

    with pytest.raises(Stopped):
        coordinate(link, plan(DATA, config), tmp_path / "run", "one", told_all)
    ends.clear()
    coordinate(link, plan(DATA, config), tmp_path / "run", "one")
    assert ends.keys() == usual.keys() and not state_of(tmp_path / "run")["untold"]
    for name, end in ends.items():
        same(end, usual[name])


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


def test_a_node_that_was_away_at_the_end_is_told_later_and_has_the_model_that_it_would_have_had(tmp_path, usual):
    """It has missed the last average as well; and it is killed in between, so that it goes on from its disk."""
    nodes, ends = sites(tmp_path / "sites")
    link = Loop(nodes)

    def watch(folder):
        if json.loads((folder / STATE).read_text())["round"] == 3:
            link.fail = {"b": 2}

    coordinate(link, plan(DATA, CONFIG), tmp_path / "run", "one", watch)
    state = json.loads((tmp_path / "run" / STATE).read_text())
    assert state["complete"] and state["untold"] == ["b"] and "b" not in ends
    assert "has no model of its own" in state["nodes"]["b"]["why"]
    (nodes, ends), sent = sites(tmp_path / "sites"), state["nodes"]["a-1"]["sent"]
    link = Loop(nodes)
    coordinate(link, plan(DATA, CONFIG), tmp_path / "run", "one")
    state = json.loads((tmp_path / "run" / STATE).read_text())
    assert state["untold"] == [] and state["nodes"]["b"]["is"] == "ready" and state["nodes"]["a-1"]["sent"] == sent
    same(ends["b"], usual["b"])
    asked = len(link.asked)
    coordinate(link, plan(DATA, CONFIG), tmp_path / "run", "one")
    assert len(link.asked) == asked


def test_models_of_one_run_are_parts_of_one_whole_and_those_of_another_are_not(tmp_path):
    """So that the items of one site can be searched by the model of another."""
    found = {}
    for run in ("one", "two"):

        def finish(node, down, place):
            own = replace(DATA, nodes=tuple(one for one in DATA.nodes if one.name == node.name))
            save(node, down, own, CONFIG, place / "model.safetensors")
            found[node.run, node.name] = SavedModel.load(place / "model.safetensors").identity

        link = Loop(responders(DATA, CONFIG, tmp_path / run, finish=finish))
        coordinate(link, plan(DATA, CONFIG), tmp_path / f"{run}-server", run)
    assert len(found) == 8 and len(set(found.values())) == 2
    assert found["one", "b"] == found["one", "c"] != found["two", "c"]


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
