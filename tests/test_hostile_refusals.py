"""Under robust averages every answer that does not count is told: whose, why, and what happens instead."""

from dataclasses import replace

import pytest
import torch
from planted import planted
from torch.testing import assert_close

from isogram import federation, hostile
from isogram.config import AverageConfig, Config, ModelConfig, TrainConfig
from isogram.errors import ConfigError, MessageError

TRAIN = TrainConfig(rounds=2, steps=1, frame_update=0.5)
SUMS = Config(
    data="machines",
    anchors=40,
    model=ModelConfig(width=40, layers=1),
    train=TRAIN,
    average=AverageConfig(robust="median", head="laplace"),
)
VOTES = SUMS.model_copy(update={"average": AverageConfig(robust="median", head="anchors")})
INSTEAD = "votes are taken in the place of these sums"


@pytest.fixture(scope="module")
def data():
    """Three nodes of modality a with labels, and b and c without."""
    found = planted(private=60, noise=0.3)
    first, second, *others = found.nodes
    return replace(found, nodes=(first, second, replace(first, name="a-3"), *others))


def told(data, config, liar="a-1", lie=None):
    """The federation after its rounds, and the lines that progress had in each round."""
    lines = {}

    def tick(tick):
        if not tick.node:
            lines[tick.round] = tick.refused

    ledger = None if lie is None else hostile.HostileLedger([liar], lie)
    return federation.train(federation.align(data, config, ledger=ledger), tick), lines


def changed(field, value, *, first=0):
    """A lie in one field of messages, from a round of the wire on."""

    def lie(up, known):
        sent = getattr(up, field)
        return up if sent is None or up.round < first else replace(up, **{field: value(sent)})

    return lie


def test_nothing_is_told_where_nobody_lies(data):
    for config in (SUMS, VOTES):
        fed, lines = told(data, config)
        assert not fed.refused and lines == {1: (), 2: ()}


def test_sums_that_votes_do_not_confirm_are_told_in_alignment_and_in_every_round(data):
    fed, lines = told(data, SUMS, lie=hostile.spoilt_sums)
    assert len(fed.refused) == 3 and len(set(fed.refused)) == 1
    (line,) = set(fed.refused)
    assert "class sums of nodes 'a-1', 'a-2' and 'a-3'" in line and "which" in line and line.endswith(INSTEAD)
    assert lines == {1: (line,), 2: (line,)}
    assert_close(fed.heads["b"], fed.votes)


def test_sums_that_lack_a_class_are_told(data):
    fed, _ = told(data, SUMS, lie=changed("counts", lambda sent: sent - torch.tensor([0, 60 << 24, 0])))
    assert len(fed.refused) == 3
    assert all("too few rows" in line and line.endswith(INSTEAD) for line in fed.refused)


def test_counts_that_are_none_are_told_without_a_second_remedy(data):
    fed, lines = told(data, SUMS, lie=changed("counts", lambda sent: sent + 1))
    assert len(fed.refused) == 3 and lines[2] == fed.refused[-1:]
    for line in fed.refused:
        assert "'a-1', 'a-2', 'a-3' do not add up to whole numbers" in line and line.endswith(INSTEAD)
        assert "ask all of them again" not in line


def test_who_sends_sums_that_are_none_is_named_and_asked_again_in_the_next_round(data):
    """As a node is whose update is none: what cannot be read is left out where it stands, and for once."""
    cut = changed("head", lambda sent: sent[:2])
    fed, lines = told(data, SUMS, lie=lambda up, known: cut(up, known) if up.round == 2 else up)
    (line,) = fed.refused
    assert "node 'a-1' sent the head as (2, " in line and line.endswith(INSTEAD)
    assert lines == {1: (line,), 2: ()}
    assert not fed.left_out
    assert (fed.heads["b"] - fed.votes).norm() > 0.1, "the sums of the last round"


def test_a_vote_that_is_none_is_told_and_its_node_left_out_as_if_it_had_voted_for_other_classes(data):
    """Votes stay, so that who has none is in no sum, either."""
    fed, lines = told(data, SUMS, lie=changed("directions", lambda sent: 3 * sent))
    (line,) = fed.refused
    assert "node 'a-1' sent" in line and line.endswith("its vote does not count, and it is left out from here on")
    assert fed.left_out == {"a-1"} and lines == {1: (), 2: ()}
    again, lines = told(data, SUMS, lie=changed("directions", lambda sent: 3 * sent, first=2))
    assert again.left_out == {"a-1"} and [len(of) for of in lines.values()] == [1, 0] and again.refused == lines[1]


def test_who_is_left_out_in_a_round_by_a_new_vote_is_told_in_that_round(data):
    """Votes are cast again where the frame moves."""
    fed, lines = told(data, VOTES, lie=changed("directions", lambda sent: sent.roll(1, 0), first=2))
    (line,) = fed.refused
    assert "node 'a-1' tells other classes" in line and "left out from here on" in line
    assert fed.left_out == {"a-1"} and lines == {1: (line,), 2: ()}


def test_without_any_vote_that_can_be_read_alignment_stops_with_every_name(data):
    spoilt = changed("directions", lambda sent: 3 * sent)
    ledger = hostile.HostileLedger(["a-1", "a-2", "a-3"], spoilt)
    with pytest.raises(MessageError, match=r"'a-1'[\s\S]*'a-2'[\s\S]*'a-3'"):
        federation.align(data, SUMS, ledger=ledger)


@pytest.mark.parametrize("config", [SUMS, VOTES])
def test_without_a_frame_there_are_no_votes_and_that_is_said(data, config):
    with pytest.raises(ConfigError, match='average.robust needs a frame.*average.robust = "none", or align first'):
        federation.start_apart(data, config)
    silent = replace(data, nodes=tuple(replace(node, labels=None) for node in data.nodes))
    federation.start_apart(silent, config)
