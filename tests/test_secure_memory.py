"""Two sums of the same values over other nodes: never, for their difference is one node's; and what happens instead."""

import pytest
import torch
from loops import Loop, away, plan, responders
from planted import planted
from test_remote import CONFIG, same, with_
from test_secure_rounds import Losing

from isogram import aggregation, federation
from isogram.checkpoint import round_state
from isogram.deploy.coordinate import coordinate
from isogram.envelope import Request
from isogram.errors import FederationError, MessageError
from isogram.federation.membership import Quorum
from isogram.local.rosters import HELD_BACK, Rosters
from isogram.local.summing import SummingNode
from isogram.secure_sum import Collector
from isogram.tensor_file import read_tensors

DATA = planted()
CONFIG = with_(CONFIG, align={"metric": False, "choose": False, "propagate": False})
SECURE = with_(CONFIG, average={"secure": True, "rule": "uniform"}, train={"rounds": 1})


class Stopped(BaseException):
    """A server killed: nothing catches it."""


class Stopping(Losing):
    """The server dies once, when all have answered a step of training."""

    stop = ""

    def ask(self, requests, wait, arrived=lambda name: None):
        found = super().ask(requests, wait, arrived)
        one = Request.read(next(iter(requests.values())))
        if one.stage and one.parts[-1].step == self.stop:
            self.stop = ""
            raise Stopped
        return found


@pytest.fixture
def totals(monkeypatch):
    """Over whom the server has seen a sum, each time."""
    found, total = [], Collector.total

    def seen(collector, revealed):
        value = total(collector, revealed)
        found.append("".join(collector.close()))
        return value

    monkeypatch.setattr(Collector, "total", seen)
    return found


def run(link, folder, config=SECURE, quorum=None):
    """To its end: what the server has, and the lines of the last round."""
    final = coordinate(link, plan(DATA, config, quorum=quorum or Quorum(2, 0)), folder, "one")
    last = folder / f"round-{config.train.rounds:04d}.safetensors"
    return read_tensors(final)[0], read_tensors(last)[1]["refused"]


@pytest.mark.parametrize("step", ["parcels", "summand", "shares"])
def test_a_server_stopped_in_a_sum_goes_on_to_the_same_bits_if_all_are_there(tmp_path, totals, step):
    link = Stopping(responders(DATA, SECURE, tmp_path / "sites"))
    link.stop = step
    with pytest.raises(Stopped):
        run(link, tmp_path / "run")
    link.responders = responders(DATA, SECURE, tmp_path / "sites")  # nodes, too, are started again
    final, lines = run(link, tmp_path / "run")
    same(final, round_state(federation.train(federation.align(DATA, SECURE))))
    assert totals[0] == "a-1a-2bc" and not lines


@pytest.mark.parametrize("phase", ["pair", "summand"])
def test_after_a_sum_was_seen_no_other_is_made_of_the_same_values(tmp_path, totals, phase):
    """The server has all shares of a sum over four nodes; then 'b' is away: a second sum would show its update."""
    link = Stopping(responders(DATA, SECURE, tmp_path / "sites"))
    link.stop = "shares"
    with pytest.raises(Stopped):
        run(link, tmp_path / "run")
    link.lost = {"b": phase}
    final, lines = run(link, tmp_path / "run")
    assert totals == []
    assert not final["adapters/out.weight"].any(), "adapters stay as they were"
    assert (
        len([line for line in lines if "this node's values of round 2 went into a sum over other nodes" in line]) == 1
    )
    assert any("adapters of nodes 'a-1', 'a-2', 'b', 'c' stay as they were" in line for line in lines)


def test_what_was_given_to_a_sum_goes_to_no_sum_over_others():
    kept = {}
    rosters = Rosters(kept)
    rosters.give("values", 2, "abc")
    rosters.close("values", 2, "ab")  # 'c' was lost: the sum was over two
    rosters.give("values", 3, "ba")
    rosters.close("values", 3, "ab")
    again = Rosters(kept)  # the node was started again
    for names in ("a", "abc", "abd"):
        for ask in (again.check, lambda what, names: again.give(what, 2, names)):
            with pytest.raises(MessageError, match="went into a sum over other nodes than .*: it keeps them to itself"):
                ask("values", names)
    again.reopen("values", 3)
    with pytest.raises(MessageError, match="over other nodes"):
        again.close("values", 3, "a")
    again.give("others", 3, "ab")
    assert kept.keys() == {"values", "others"}


def test_a_sum_that_is_begun_again_in_its_round_was_not_seen_and_one_that_was_told_of_was():
    rosters = Rosters({})
    rosters.give("values", 2, "abc")
    rosters.reopen("values", 2)
    rosters.give("values", 2, "ab")
    rosters.reopen("values", 3)
    with pytest.raises(MessageError, match="over other nodes"):
        rosters.give("values", 3, "abc")
    rosters.close("values", 2, "ab")
    rosters.reopen("values", 2)
    with pytest.raises(MessageError, match="over other nodes"):
        rosters.give("values", 2, "abc")


# Class counts: the same in all rounds.

HEADS = with_(CONFIG, average={"head": "means"}, train={"rounds": 2})


@pytest.fixture
def counted(monkeypatch):
    """Over whom the server has seen class counts, each time."""
    found, merge = [], aggregation.merge_counts

    def seen(updates):
        found.append(" ".join(up.node for up in updates))
        return merge(updates)

    monkeypatch.setattr(aggregation, "merge_counts", seen)
    return found


def test_after_class_counts_were_seen_none_are_asked_for_over_fewer(tmp_path, counted):
    """'a-2' is lost with the counts seen, is away in round 1, and comes back in round 2."""
    data = planted(labelled="ab")
    link = Losing(responders(data, HEADS, tmp_path))
    fed, _ = away(data, HEADS, tmp_path, quorum=Quorum(1, 0), link=link)
    link.lost = {"a-2": "head"}
    fed = federation.one_shot(fed)
    assert fed.head is None and counted == ["a-1 a-2 b"]
    assert "node 'a-2' did not answer" in fed.refused[-1] and "class directions stay as they were" in fed.refused[-1]
    link.lost = {"a-2": "key"}
    fed = federation.train_round(federation.start_training(fed))
    assert fed.head is None and counted == ["a-1 a-2 b"]
    assert "this node's class counts went into a sum over other nodes than 'a-1', 'b'" in fed.refused[-1]
    link.lost = {}
    fed = federation.train_round(fed)
    assert fed.head.isfinite().all() and counted == ["a-1 a-2 b"] * 2


@pytest.mark.parametrize("step", ["key", "counts", "head"])
def test_a_node_that_is_left_alone_sends_nothing_bare(tmp_path, counted, step):
    """And where directions are there, they stay: here 'a-1' and 'a-2' alone have labels."""
    link = Losing(responders(DATA, HEADS, tmp_path))
    fed, _ = away(DATA, HEADS, tmp_path, quorum=Quorum(1, 0), link=link)
    before = federation.one_shot(fed)
    link.lost = {"a-2": step}
    asked = len(link.asked)
    fed = federation.train_round(federation.start_training(before))
    assert torch.equal(fed.head, before.head) and "class directions stay as they were" in fed.refused[-1]
    sent = [Request.read(blob).parts[-1].step for name, blob in link.asked[asked:] if name == "a-1"]
    assert sent[-1] == {"key": "key", "counts": "key", "head": "head"}[step]


def test_a_node_that_was_summed_with_others_gives_nothing_alone(tmp_path):
    fed, link = away(DATA, HEADS, tmp_path, link=Loop(responders(DATA, HEADS, tmp_path)))
    federation.one_shot(fed)
    node = link.responders["a-1"]._node
    key = node.send_key(3).key
    down = fed.down(fed.members[0], 3, keys=key[None], names=torch.tensor(list(b'["a-1"]'), dtype=torch.uint8))
    with pytest.raises(MessageError, match=HELD_BACK):
        node.send_counts(down, 3)


def test_the_one_node_that_has_labels_gives_what_it_gives_in_process(tmp_path):
    data = planted(labelled="c")
    fed, _ = away(data, HEADS, tmp_path, link=Loop(responders(data, HEADS, tmp_path)))
    fed = federation.one_shot(fed)
    assert torch.equal(fed.head, federation.align(data, HEADS).head) and fed.head.isfinite().all()


# One node with spoilt shares or parcels.


def spoiling(monkeypatch, step, at):
    """Node 'b' changes a byte of what it sends for the nodes at some places."""
    send = getattr(SummingNode, f"send_{step}")

    def spoilt(node, down):
        up = send(node, down)
        if node.name == "b":
            getattr(up, step)[at, 5] ^= 1
        return up

    monkeypatch.setattr(SummingNode, f"send_{step}", spoilt)


def test_spoilt_shares_are_left_out_and_whose_they_are_is_said(tmp_path, monkeypatch, totals):
    spoiling(monkeypatch, "shares", [0])
    final, lines = run(Losing(responders(DATA, SECURE, tmp_path / "sites")), tmp_path / "run")
    same(final, round_state(federation.train(federation.align(DATA, SECURE))))
    [line] = lines
    assert "node 'b' revealed a share of node 'a-1' that is not what it was given" in line


@pytest.mark.parametrize("at", [[0, 1, 3], [0, 3]], ids=["for all", "for two of three"])
def test_a_sum_begins_again_without_the_node_whose_parcels_cannot_be_opened(tmp_path, monkeypatch, totals, at):
    spoiling(monkeypatch, "parcels", at)
    final, lines = run(Losing(responders(DATA, SECURE, tmp_path / "sites")), tmp_path / "run")
    assert totals == ["a-1a-2c"] and final["adapters/out.weight"].any()
    [line] = lines
    assert line.startswith("node 'b' sent shares that nodes cannot open ('a-1', ")


# Groups: the quorum is of all nodes.


def test_a_group_of_which_too_few_are_left_stays_as_it_was_and_the_run_goes_on(tmp_path, totals):
    config = with_(SECURE, average={"across": "none"})
    link = Losing(responders(DATA, config, tmp_path / "sites"))
    link.lost = {"a-2": "pair"}
    final, lines = run(link, tmp_path / "run", config, Quorum(3, 1))
    assert totals == [] and not any(v.any() for name, v in final.items() if name.endswith("out.weight"))
    assert any("adapters of nodes 'a-1', 'a-2' stay as they were" in line for line in lines)
    link.responders = responders(DATA, config, tmp_path / "other sites")
    with pytest.raises(FederationError, match="3 of 4 nodes answered, and min_nodes is 4"):
        run(link, tmp_path / "other", config, Quorum(4, 0))
