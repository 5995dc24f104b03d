"""Nodes that were away while a server was stopped and went on: they come back to where the others are, or are told."""

import json
from dataclasses import replace

import pytest
from loops import Loop, plan
from test_coordinate import DATA, Stopped, sites, state_of
from test_remote import CONFIG, same, with_

from isogram.deploy.coordinate import EVENTS, coordinate
from isogram.federation.membership import Quorum
from isogram.tensor_file import read_tensors

MEANS = with_(average={"head": "means"})
"""With these each round goes on after its average: class sums, of which a-1 and a-2 have labels."""


class Run:
    """A run for which one of the four nodes is enough, in one life of its server or several."""

    def __init__(self, folder, config=CONFIG):
        self.plan, self.folder, self.sites = plan(DATA, config, quorum=Quorum(1, 0)), folder / "run", folder / "sites"
        self.config, self.data, self.ends = config, DATA, {}

    def live(self, kill=(), lose=(), **fail):
        """One life; the file of what the server has, None if it was killed.

        kill: the step and the round before it whose request ends this life. lose: the same, from which on nodes fail,
        and how often each. fail: how often from the beginning.
        """
        nodes, ends = sites(self.sites, self.config, self.data)
        link = Loop(nodes)
        link.fail = fail

        def watch(folder):
            event = json.loads((folder / EVENTS).read_text().splitlines()[-1])
            at = event["what"] == "asked" and (event["line"], event["round"])
            if at == kill:
                raise Stopped
            if lose and at == lose[:2]:
                link.fail = dict(lose[2])

        try:
            return coordinate(link, self.plan, self.folder, "one", watch)
        except Stopped:
            return None
        finally:
            self.ends |= ends

    @property
    def state(self):
        return state_of(self.folder)


def equal(one, other, finals):
    """In what the server has at the end, and in what each node is."""
    same(*(read_tensors(final)[0] for final in finals))
    assert len(one.ends) == len(other.ends) == 4
    for name, end in one.ends.items():
        same(end, other.ends[name])


def test_a_node_away_at_one_resume_and_back_at_the_next_has_missed_a_round_and_no_more(tmp_path):
    run, other = Run(tmp_path / "one"), Run(tmp_path / "other")
    assert run.live(kill=("round", 1)) is None and run.live(kill=("round", 2), b=99) is None
    assert run.state["nodes"]["b"]["is"] == "lost"
    equal(run, other, (run.live(), other.live(lose=("round", 1, {"b": 1}))))


def test_a_node_away_at_the_resume_that_ends_the_run_gets_its_model_later(tmp_path):
    run, other = Run(tmp_path / "one"), Run(tmp_path / "other")
    run.live(kill=("round", 2))
    final = run.live(b=99)
    assert run.state["untold"] == ["b"] and "b" not in run.ends
    run.live()
    assert run.state["untold"] == []
    equal(run, other, (final, other.live(lose=("round", 2, {"b": 1}))))


def test_a_node_goes_back_before_a_round_that_was_made_anew_without_it(tmp_path):
    """It has trained, and taken an average, of which the server knows nothing any more."""
    run, other = Run(tmp_path / "one", MEANS), Run(tmp_path / "other", MEANS)
    assert run.live(kill=("counts", 1)) is None
    equal(run, other, (run.live(**{"a-2": 3}), other.live(lose=("round", 1, {"a-2": 2}))))


def test_a_node_is_told_an_alignment_anew_that_was_made_anew_without_it(tmp_path):
    """Without its Gram the frame is another, under the numbers of the first: it had done these."""
    run, other = Run(tmp_path / "one"), Run(tmp_path / "other")
    assert run.live(kill=("counts", None)) is None
    lose = ("gram", None, {"a-2": 2})
    equal(run, other, (run.live(lose=lose), other.live(lose=lose)))


@pytest.mark.parametrize("before", [True, False])
def test_a_node_away_when_the_run_began_is_told_that_it_stays_out(tmp_path, before):
    """Also one that was there for an alignment that was broken off."""
    run = Run(tmp_path)
    if before:
        run.live(kill=("counts", None))
    assert run.live(kill=("round", 0), **{"a-2": 99}) is None
    assert run.live()
    node = run.state["nodes"]["a-2"]
    assert node["is"] == "lost" and "was away when the run began" in node["why"] and node["sent"] == 0
    assert run.state["untold"] == [] and sorted(run.ends) == ["a-1", "b", "c"]


def test_who_left_the_consortium_or_has_other_labels_is_not_asked_and_may_come_back(tmp_path):
    run, other = Run(tmp_path / "one"), Run(tmp_path / "other")
    run.live(kill=("round", 1))
    del run.plan.sites["b"]
    run.data = replace(DATA, nodes=tuple(replace(n, labels=None) if n.name == "a-2" else n for n in DATA.nodes))
    assert run.live(kill=("round", 2)) is None
    whys = [run.state["nodes"][name]["why"] for name in ("a-2", "b")]
    assert "other anchors or labels than when the run began" in whys[0] and "consortium file no more" in whys[1]
    run.plan.sites["b"], run.data = "b", DATA
    equal(run, other, (run.live(), other.live(lose=("round", 1, {"a-2": 1, "b": 1}))))
