"""Grams and updates that reach the server in sums alone: what bare ones give, wherever nodes live, whoever is lost."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from loops import away, plan, responders
from planted import planted
from test_remote import CONFIG, same, with_
from test_secure_rounds import Losing

from isogram import federation
from isogram.checkpoint import round_state
from isogram.config_file import validated
from isogram.deploy.coordinate import coordinate
from isogram.errors import ConfigError
from isogram.federation.membership import Quorum
from isogram.messages import Ledger
from isogram.tensor_file import read_tensors

DATA = planted()
SHORT = with_(CONFIG, train={"rounds": 2})
SEEN = {"metric": False, "choose": False}
"""What needs single Grams, switched off."""


@pytest.mark.parametrize(
    "average",
    [
        {"rule": "samples"},
        {"rule": "uniform", "prior": 0.1},
        {"rule": "parameter", "relative": True},
        {"rule": "samples", "across": "none"},
    ],
    ids=["samples", "uniform", "parameter", "modality"],
)
def test_sums_give_what_bare_updates_give(average):
    """To the fixed point of sums, in which very small precisions are coarse. One node alone keeps what it has."""
    coarse = 2e-5 if average.get("rule") == "parameter" else 1e-7
    bare, sums = (
        federation.train(federation.align(DATA, with_(SHORT, average=average | {"secure": secure})))
        for secure in (False, True)
    )
    for node, other in zip(bare.nodes, sums.nodes, strict=True):
        alone = average.get("across") == "none" and node.modality != "a"
        for name, value in bare.adapters_of(node).items():
            found = sums.adapters_of(other)[name]
            if alone and name.endswith(("lora_B", "out.weight")):
                assert not found.any(), "a node alone shows nobody what it has learnt"
            else:
                torch.testing.assert_close(found, value, rtol=1e-4, atol=coarse)
    assert len(sums.refused) == (4 if "across" in average else 0) and not bare.refused


def test_the_sum_of_grams_gives_the_consensus_of_bare_ones():
    """Also of nodes that hold some of the anchors, of other weights."""
    data = planted(holds={"b": range(24), "c": range(10, 40)})
    items = data.anchors.items
    items["b"] = replace(items["b"], quality=np.linspace(0.2, 1, 24, dtype=np.float32))
    bare, sums = (federation.align(data, with_(SHORT, align=SEEN | {"secure": secure})) for secure in (False, True))
    torch.testing.assert_close(sums.consensus, bare.consensus, rtol=0, atol=1e-7)  # float32
    torch.testing.assert_close(sums.frame, bare.frame, rtol=0, atol=1e-4)
    torch.testing.assert_close(sums.head, bare.head, rtol=0, atol=1e-4)


def test_a_node_lost_in_the_sum_of_grams_is_not_in_the_consensus(tmp_path):
    config = with_(CONFIG, align=SEEN | {"secure": True}, train={"rounds": 0})
    whole = federation.align(DATA, config)
    for phase in ("pair", "parcels", "summand", "shares"):
        link = Losing(responders(DATA, config, tmp_path / phase))
        link.lost = {"a-2": phase}
        fed, _ = away(DATA, config, tmp_path / phase, link=link, quorum=Quorum(3))
        fed = federation.one_shot(fed)
        lost = phase != "shares"  # by then its Gram is in the sum
        assert torch.equal(fed.consensus, whole.consensus) != lost, phase
        assert any("'a-2'" in line and "its Gram is not in the consensus" in line for line in fed.refused) == lost


def test_nothing_of_a_gram_or_an_update_crosses_but_masked():
    heard = []
    config = with_(SHORT, align=SEEN | {"secure": True}, average={"secure": True})
    fed = federation.align(DATA, config, ledger=Ledger(heard.append))
    federation.train(fed)
    up = {name.partition("/")[0] for message in heard if type(message).__name__ == "Up" for name, _ in message.arrays()}
    assert "summand" in up and not up & {"gram", "adapters", "precision", "sketches"}
    assert not any(getattr(message, "samples", 0) for message in heard)


def test_nodes_behind_bytes_give_the_same_bits_and_a_lost_one_is_left_out(tmp_path):
    config = with_(SHORT, align=SEEN | {"secure": True}, average={"secure": True})
    here = federation.train(federation.align(DATA, config))
    final = coordinate(away(DATA, config, tmp_path)[1], plan(DATA, config), tmp_path / "run", "one")
    same(read_tensors(final)[0], round_state(here))
    link = Losing(responders(DATA, config, tmp_path / "lossy"))
    link.lost = {"a-2": "summand"}
    final = coordinate(link, plan(DATA, config, quorum=Quorum(3)), tmp_path / "other", "two")
    found = read_tensors(final)[0]["adapters/out.weight"]
    assert found.isfinite().all() and not torch.equal(found, here.adapters["out.weight"])


@pytest.mark.parametrize("name", ["metric", "choose", "robust", "outliers", "precision"])
def test_what_needs_single_grams_is_refused(name):
    with pytest.raises(ConfigError, match=f"align.{name} = True needs more: set false"):
        validated({"data": "machines", "align": SEEN | {"secure": True, name: True}})
    with pytest.raises(ConfigError, match="train.frame_update = 0.5 needs more: set 0"):
        validated({"data": "machines", "align": SEEN | {"secure": True}, "train": {"frame_update": 0.5}})


@pytest.mark.parametrize(
    ("average", "said"),
    [
        ({"rule": "node"}, "average.rule = node needs more: set uniform, samples or parameter"),
        ({"rule": "parameter"}, "average.relative = False needs more: set true"),
        ({"robust": "median"}, "average.robust = median needs more: set none"),
        ({"across": "attention"}, "average.across = attention needs more: set all or none"),
        ({"cap": 0.5}, "average.cap = 0.5 needs more: set 1"),
    ],
)
def test_what_needs_single_updates_is_refused(average, said):
    with pytest.raises(ConfigError, match=said):
        validated({"data": "machines", "average": average | {"secure": True}})
