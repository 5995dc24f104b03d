"""What an update weighs: no evidence, clip, temper, cap, shuffled weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from averages import RULES, SEEDS, SHAPES, averaged, masses, trained, update, values, weighed
from hypothesis import given
from hypothesis import strategies as st

from isogram.averaging import dealers, node_weights
from isogram.config import AverageConfig
from isogram.errors import MessageError

# No evidence, no weight.


@pytest.mark.parametrize("prior", [0.0, 0.5])
def test_a_parameter_without_evidence_keeps_its_value(prior):
    config = AverageConfig(rule="parameter", prior=prior)
    previous = {"x": torch.tensor([5.0, 6.0, 7.0])}
    updates = [
        update("a", samples=1, adapters={"x": torch.ones(3)}, precision={"x": torch.tensor([1.0, 0.0, 0.0])}),
        update("b", samples=1, adapters={"x": 3 * torch.ones(3)}, precision={"x": torch.tensor([1.0, 1.0, 0.0])}),
    ]
    found, without = averaged(updates, previous, config)
    lent = prior * 0.5  # prior times the mean of sum_n L_n: (1 + 1/2 + 0) / 3
    expected = torch.tensor([(2 + lent * 5) / (1 + lent), (1.5 + lent * 6) / (0.5 + lent), 7])
    torch.testing.assert_close(found["x"], expected)
    assert found["x"][2] == 7 and without == []


def test_a_tensor_without_evidence_keeps_its_values_and_is_reported_with_its_nodes():
    previous, updates, _ = trained(seed=0)
    silent = [replace(up, precision={**up.precision, "out": torch.zeros(1, 4)}) for up in updates]
    found, without = averaged(silent, previous, AverageConfig(rule="parameter", prior=0.1))
    torch.testing.assert_close(found["out"], previous["out"], rtol=0, atol=0)
    assert len(without) == 1 and "'out'" in without[0]
    assert all(repr(up.node) in without[0] for up in updates)
    assert not torch.equal(found["layer.A"], previous["layer.A"])


def test_no_evidence_at_all_changes_nothing():
    previous, updates, _ = trained(seed=0)
    silent = [replace(up, precision={k: torch.zeros_like(p) for k, p in up.precision.items()}) for up in updates]
    for config in (AverageConfig(rule="parameter"), AverageConfig(rule="parameter", cap=0.5, relative=True)):
        found, without = averaged(silent, previous, config)
        torch.testing.assert_close(found, previous, rtol=0, atol=0)
        assert len(without) == len(previous)


@given(seed=SEEDS, rule=st.sampled_from(["samples", "parameter"]))
def test_adapters_are_averaged_per_key_over_the_nodes_that_sent_it(seed, rule):
    previous, updates, _ = trained(seed)
    rng = np.random.default_rng(seed)
    partial = []
    for up in updates:
        kept = {key for key in SHAPES if rng.random() < 0.6}
        ones = {key: torch.ones(SHAPES[key]) for key in kept}
        partial.append(replace(up, adapters={key: up.adapters[key] for key in kept}, precision=ones))
    found, without = averaged(partial, previous, AverageConfig(rule=rule))
    for key, value in found.items():
        senders = [up for up in partial if key in up.adapters]
        if not senders:
            torch.testing.assert_close(value, previous[key], rtol=0, atol=0)
            assert any(repr(key) in line for line in without)
            continue
        rows = sum(up.samples for up in senders)
        expected = sum(up.samples / rows * up.adapters[key].double() for up in senders)
        size = max(float(up.adapters[key].abs().max()) for up in senders)
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6 * size)


def test_a_tensor_that_one_node_alone_has_keeps_its_scale():
    # A global denominator, as in the federated codes that average over the first client's keys, would quarter it.
    own = values(np.random.default_rng(0))["layer.A"]
    others = [update(f"node{n}", samples=900, adapters={"shared": torch.ones(5)}) for n in range(1, 4)]
    updates = [*others, update("node0", samples=10, adapters={"own": own})]
    previous = {"own": torch.zeros(2, 3), "shared": torch.zeros(5), "nobodys": torch.ones(2)}
    found, without = averaged(updates, previous, AverageConfig(rule="samples"))
    torch.testing.assert_close(found["own"], own, rtol=0, atol=0)
    torch.testing.assert_close(found["nobodys"], torch.ones(2), rtol=0, atol=0)
    assert len(without) == 1 and "'nobodys'" in without[0]


def test_sums_beyond_float32_are_refused_with_the_key():
    huge = {"x": torch.full((2,), 3e38)}
    updates = [update(node, samples=1, adapters=huge, precision=huge) for node in "ab"]
    with pytest.raises(MessageError, match="'x'"):
        averaged(updates, {"x": torch.zeros(2)}, AverageConfig(rule="parameter"))


# Clip, temper, cap, shuffle.


def test_one_parameter_of_huge_precision_weighs_no_more_than_the_clip():
    steep = torch.ones(100)
    steep[0] = 1e9
    ups = [
        update("a", samples=1, adapters={"x": torch.ones(100)}, precision={"x": steep}),
        update("b", samples=1, adapters={"x": torch.zeros(100)}, precision={"x": torch.full((100,), 1e7)}),
    ]
    found, _ = averaged(ups, {"x": torch.zeros(100)}, AverageConfig(rule="parameter", clip=10.0))
    assert float(found["x"][0]) == pytest.approx(1e8 / (1e8 + 1e7), rel=1e-3)


@given(seed=SEEDS, cap=st.floats(0.01, 1), rule=st.sampled_from(RULES))
def test_no_node_has_more_than_the_cap_and_none_of_the_total_is_lost(seed, cap, rule):
    _, updates, residuals = trained(seed)
    config = AverageConfig(rule=rule, cap=cap)
    mass = masses(updates, config)

    def shares(config):
        found = {node: weight * mass[node] for node, weight in weighed(updates, config, residuals).items()}
        return {node: share / sum(found.values()) for node, share in found.items()}

    found, free = shares(config), shares(config.model_copy(update={"cap": 1.0}))
    assert max(found.values()) <= max(cap, 1 / len(updates)) * (1 + 1e-6)
    assert sorted(found, key=lambda n: (round(found[n], 9), free[n])) == sorted(free, key=lambda n: free[n])


def test_the_cap_bounds_the_share_of_absolute_evidence():
    ups = [
        update(node, samples=10, adapters={"x": torch.ones(4)}, precision={"x": torch.full((4,), p)})
        for node, p in zip("abc", (1e-6, 1e-3, 1e-6), strict=True)
    ]
    weights = weighed(ups, AverageConfig(rule="parameter", cap=0.5))
    share = {up.node: weights[up.node] * float(up.precision["x"].mean()) for up in ups}
    total = sum(share.values())
    assert share["b"] / total == pytest.approx(0.5) and share["a"] == pytest.approx(share["c"])
    assert weighed(ups, AverageConfig(rule="parameter"))["b"] == pytest.approx(1 / 3)


@given(n_nodes=st.integers(2, 6), shuffle=st.integers(1, 50))
def test_shuffled_weights_are_the_same_weights_at_other_nodes(n_nodes, shuffle):
    nodes = [f"n{n}" for n in range(n_nodes)]
    updates = [update(node, samples=2**n) for n, node in enumerate(nodes)]
    plain, dealt = (node_weights(updates, AverageConfig(rule="samples", shuffle=s)) for s in (0, shuffle))
    assert sorted(plain.values()) == sorted(dealt.values()) and plain != dealt
    assert dealt == node_weights(updates, AverageConfig(rule="samples", shuffle=shuffle))


def test_different_shuffles_differ_and_one_node_has_nobody_to_deal_to():
    nodes = [f"n{n}" for n in range(8)]
    found = {tuple(dealers(nodes, AverageConfig(shuffle=s)).values()) for s in range(1, 9)}
    assert len(found) == 8
    assert dealers(["a"], AverageConfig(shuffle=1)) == {"a": "a"}


def test_shuffling_deals_the_precisions_together_with_the_weights():
    ups = [
        update(node, samples=n, adapters={"x": torch.tensor([theta, theta])}, precision={"x": torch.tensor(p)})
        for node, n, theta, p in (("a", 1, 1.0, [1.0, 3.0]), ("b", 3, 2.0, [2.0, 1.0]))
    ]
    found, _ = averaged(ups, {"x": torch.zeros(2)}, AverageConfig(rule="parameter", shuffle=1))
    # Of two nodes there is one other order: a's theta with b's 3 * [2, 1], b's theta with a's 1 * [1, 3].
    torch.testing.assert_close(found["x"], torch.tensor([(6 * 1 + 1 * 2) / 7, (3 * 1 + 3 * 2) / 6]))


def test_a_node_whose_anchors_are_well_placed_weighs_more_and_no_floor_is_broken():
    ups = [update(node, samples=10) for node in "abc"]
    weights = node_weights(ups, AverageConfig(rule="node"), {"a": 0.2, "b": 0.4, "c": 0.0})
    assert weights["a"] == pytest.approx(2 * weights["b"])
    assert weights["c"] == pytest.approx(200 * weights["a"])
    for residuals in (None, {"a": 0.2, "b": 0.4}):
        with pytest.raises(MessageError, match=r"node '[ac]'.*average\.rule"):
            node_weights(ups, AverageConfig(rule="node"), residuals)
