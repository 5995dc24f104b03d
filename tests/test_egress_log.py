"""What leaves a node is written down first, and asked for where that is wished."""

import hashlib
from dataclasses import astuple, replace

import numpy as np
import pytest
import safetensors.torch
from gates import CONFIG, EVERYTHING, ROWS, VOTES, K, allowing
from planted import planted

from isogram import federation
from isogram.config import (
    AverageConfig,
)
from isogram.egress import Oversight
from isogram.errors import EgressError
from isogram.messages import Ledger, Up
from isogram.releases import WORDS


@pytest.fixture(scope="module")
def data():
    return planted(n_anchors=K, private=ROWS, holds={"b": np.arange(13)})


# The log.


def listening(monkeypatch):
    blobs, carry = [], Ledger.carry

    def heard(self, message, read=None):
        if isinstance(message, Up):
            blobs.append(message.to_bytes())
        return carry(self, message, read)

    monkeypatch.setattr(Ledger, "carry", heard)
    return blobs


@pytest.mark.parametrize("config", [CONFIG, EVERYTHING, VOTES])
def test_the_log_is_what_crossed_the_boundary_with_the_hashes_of_its_bytes(data, monkeypatch, config):
    blobs, oversight = listening(monkeypatch), Oversight()
    fed = federation.train(federation.align(data, config, oversight=oversight))
    fed, _ = federation.keep_better(fed, data)
    lines = [line for line in oversight.lines if line.dtype != "text"]
    crossed = [e for e in fed.ledger.entries if e.direction == "up" and e.field != "header"]

    def key(entry):
        return entry.node, entry.round, entry.field, entry.shape, entry.bytes

    assert sorted(map(key, lines)) == sorted(map(key, crossed)), "keep_better's ledger is in another order"
    arrays = [array for blob in blobs for array in sorted(safetensors.torch.load(blob).items())]
    hashes = [(name, hashlib.sha256(value.numpy().tobytes()).hexdigest()) for name, value in arrays]
    assert sorted(hashes) == sorted((line.field, line.sha256) for line in lines)
    numbers = [line for line in oversight.lines if line.dtype == "text"]
    counted = {("update", "samples", 2)} if config is CONFIG else set()
    assert {(line.kind, line.field, line.bytes) for line in numbers} == counted
    assert {line.kind for line in oversight.lines if line.field == "gram" and line.round > 1} <= {"trained_gram"}


def test_the_log_is_the_same_in_each_run_but_for_hashes_of_what_fresh_keys_mask(data):
    logs = []
    for _ in range(2):
        oversight = Oversight()
        federation.train(federation.align(data, CONFIG, oversight=oversight))
        logs.append(oversight.lines)
    for one, other in zip(*logs, strict=True):
        assert astuple(replace(one, sha256="")) == astuple(replace(other, sha256=""))
        assert (one.sha256 != other.sha256) == one.masked == (one.field in ("key", "counts", "head"))


def test_a_sum_over_one_node_is_not_called_masked(data):
    nodes = (data.nodes[0], replace(data.nodes[1], labels=None), *data.nodes[2:])
    oversight = Oversight()
    federation.align(replace(data, nodes=nodes), CONFIG, oversight=oversight)
    assert {line.field: line.masked for line in oversight.lines} == {
        **{"gram": False, "index": False, "key": True},
        **{"counts": False, "head": False},
    }


def test_what_nodes_alone_keep_to_themselves_is_not_written_down_as_sent(data):
    oversight = Oversight()
    alone = CONFIG.model_copy(update={"average": AverageConfig(across="alone")})
    fed = federation.train(federation.align(data, alone, oversight=oversight))
    assert {line.kind for line in oversight.lines} == {"gram"}
    assert {e.field for e in fed.ledger.entries if e.direction == "up"} == {"gram", "index", "header"}
    federation.gather(data, allowing("gram", config=alone))


# The question.


class Person:
    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, question):
        self.asked.append(question)
        return self.answers.pop(0) if self.answers else "yes"


def test_every_node_asks_once_for_each_kind_and_shows_what_it_is(data):
    person = Person()
    federation.train(federation.align(data, CONFIG, oversight=Oversight(person)))
    asked = [(question.node, question.kind) for question in person.asked]
    assert len(set(asked)) == len(asked)
    assert {kind for node, kind in asked if node == "a-1"} == {"gram", "key", "counts", "sums", "update"}
    assert {kind for node, kind in asked if node == "b"} == {"gram", "update"}
    first = person.asked[0]
    assert first.words == WORDS["gram"] and [(e.field, e.shape) for e in first.lines] == [("gram", (K * (K + 1) // 2,))]
    sums = next(question for question in person.asked if question.kind == "sums")
    assert sums.words.endswith(", masked: only the total over nodes shows")


def test_all_is_for_every_node_and_this_kind_alone(data):
    person = Person("all")
    federation.align(data, CONFIG, oversight=Oversight(person))
    assert [question.node for question in person.asked if question.kind == "gram"] == ["a-1"]
    assert [question.node for question in person.asked if question.kind == "key"] == ["a-1", "a-2"]


def test_a_no_stops_before_the_first_byte(data, monkeypatch):
    blobs, person = listening(monkeypatch), Person("no")
    oversight = Oversight(person)
    with pytest.raises(EgressError, match="node 'a-1' was not allowed to send its 'gram' message of round 0.*--resume"):
        federation.align(data, CONFIG, oversight=oversight)
    assert not blobs and not oversight.lines and len(person.asked) == 1


def test_a_no_to_updates_lets_none_out(data, monkeypatch):
    def ask(question):
        return "no" if question.kind == "update" else "all"

    oversight = Oversight(ask)
    aligned = federation.align(data, CONFIG, oversight=oversight)
    blobs = listening(monkeypatch)
    with pytest.raises(EgressError, match="'update' message of round 2"):
        federation.train(aligned)
    assert not blobs and "update" not in {line.kind for line in oversight.lines}
