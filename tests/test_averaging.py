from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogram import averaging
from isogram.averaging import WeightedSum, average, dealers, node_weights
from isogram.config import AverageConfig
from isogram.errors import MessageError
from isogram.local import precision_of
from isogram.messages import Up

SEEDS = st.integers(0, 2**32)
SHAPES = {"layer.A": (2, 3), "layer.B": (3,), "out": (1, 4), "gain": ()}
MODEL = "small bert 2x128 #1a2b3c4d, geolora, rank 8"
RULES = ("uniform", "samples", "node", "parameter")


def update(node, **fields):
    return Up(node=node, modality="rna", round=2, anchor_hash="a" * 64, model=MODEL, **fields)


def values(rng, scale=1.0, shapes=SHAPES):
    return {key: torch.tensor(scale * rng.normal(size=shape), dtype=torch.float32) for key, shape in shapes.items()}


def precisions(rng, scale=1.0, shapes=SHAPES):
    """Squares with a long tail, a fifth of them 0."""
    return {
        key: torch.tensor(scale * (rng.random(shape) > 0.2) * np.exp(3 * rng.normal(size=shape)), dtype=torch.float32)
        for key, shape in shapes.items()
    }


def trained(seed, n_nodes=4):
    """What the nodes have in common, updates in no particular order, and residuals."""
    rng = np.random.default_rng(seed)
    names = rng.permutation([f"node{n}" for n in range(n_nodes)]).tolist()
    updates = [
        update(
            name,
            samples=int(rng.integers(1, 1000)),
            adapters=values(rng, 10 ** rng.uniform(-2, 2)),
            precision=precisions(rng, 10 ** rng.uniform(-9, 0)),
        )
        for name in names
    ]
    return values(rng), updates, {name: float(rng.uniform(0.0001, 2)) for name in names}


def as_sent(up, config):
    """An update as its node sends it, made of adapters and second moments."""
    if config.rule != "parameter":
        return up
    precision = {key: precision_of(moment, up.samples, config) for key, moment in up.precision.items()}
    return replace(up, adapters={k: v * precision[k] for k, v in up.adapters.items()}, precision=precision)


def averaged(updates, previous, config, residuals=None):
    return average([as_sent(up, config) for up in updates], previous, config, residuals)


def weighed(updates, config, residuals=None):
    return node_weights([as_sent(up, config) for up in updates], config, residuals)


def masses(updates, config):
    """What the weights are multiplied by in the sums."""
    if config.rule != "parameter":
        return {up.node: 1.0 for up in updates}
    sent = [as_sent(up, config) for up in updates]
    return {up.node: sum(float(p.double().sum()) for p in up.precision.values()) for up in sent}


@st.composite
def configs(draw):
    return AverageConfig(
        rule=draw(st.sampled_from(RULES)),
        prior=draw(st.sampled_from([0.0, 0.1, 2.0])),
        clip=draw(st.sampled_from([1.1, 3.0, 1e6])),
        temper=draw(st.sampled_from([1.0, 0.5, 0.1])),
        cap=draw(st.sampled_from([1.0, 0.6, 0.4, 0.1])),
        relative=draw(st.booleans()),
        shuffle=draw(st.integers(0, 3)),
    )


# The naive reference: plain Python numbers, one parameter after the other.


def evidence_of(up, config):
    """Rows times tempered, bounded and perhaps relative second moments of an update, key by key, flat."""
    found = {}
    for key, precision in up.precision.items():
        numbers = [float(p) ** config.temper if p > 0 else 0.0 for p in precision.flatten()]
        mean = sum(numbers) / len(numbers)
        bounded = [min(p, config.clip * mean) for p in numbers]
        relative = [p / mean if mean else 0.0 for p in bounded] if config.relative else bounded
        found[key] = [up.samples * p for p in relative]
    return found


def naive_weights(updates, config, residuals):
    names = sorted(up.node for up in updates)
    by_name = {up.node: up for up in updates}
    raw = {}
    for name in names:
        raw[name] = {
            "uniform": 1.0,
            "samples": by_name[name].samples,
            "node": by_name[name].samples / max(residuals[name], 1e-3),
            "parameter": 1.0,
        }[config.rule]
    size = dict.fromkeys(names, 1.0)
    if config.rule == "parameter":
        for name in names:
            size[name] = sum(p for part in evidence_of(by_name[name], config).values() for p in part)
    share = {name: raw[name] * size[name] for name in names}
    share = {name: value / sum(share.values()) for name, value in share.items()}
    if config.cap < 1:
        if config.cap * len(names) <= 1:
            share = dict.fromkeys(names, 1 / len(names))
        for _ in range(1000):  # bit by bit, what is above the cap is dealt to those below it
            excess = sum(max(value - config.cap, 0) for value in share.values())
            share = {name: min(value, config.cap) for name, value in share.items()}
            below = sum(value for value in share.values() if value < config.cap)
            if excess < 1e-15 or not below:
                break
            share = {n: v * (1 + excess / below) if v < config.cap else v for n, v in share.items()}
    weight = {name: share[name] / size[name] for name in names}
    return {name: value / sum(weight.values()) for name, value in weight.items()}


def naive(updates, previous, config, residuals):
    weights, by_name = naive_weights(updates, config, residuals), {up.node: up for up in updates}
    dealt = dealers(sorted(by_name), config)
    out = {}
    for key, before in previous.items():
        flat = before.flatten().tolist()
        above, below = [0.0] * len(flat), [0.0] * len(flat)
        for name, dealer in dealt.items():
            theta = by_name[name].adapters[key].flatten().tolist()
            factor = evidence_of(by_name[dealer], config)[key] if config.rule == "parameter" else [1.0] * len(flat)
            if config.rule == "parameter":  # a node tells nothing of a parameter that it has no evidence on
                own = evidence_of(by_name[name], config)[key]
                theta = [t if e > 0 else p for t, e, p in zip(theta, own, flat, strict=True)]
            for i in range(len(flat)):
                above[i] += weights[dealer] * factor[i] * theta[i]
                below[i] += weights[dealer] * factor[i]
        prior = config.prior * sum(below) / len(below)
        mean = [(a + prior * p) / (b + prior) if b else p for a, b, p in zip(above, below, flat, strict=True)]
        out[key] = torch.tensor(mean, dtype=torch.float64).reshape(before.shape)
    return out


@given(seed=SEEDS, config=configs())
def test_every_rule_against_a_loop_over_nodes_and_parameters(seed, config):
    previous, updates, residuals = trained(seed)
    found, _ = averaged(updates, previous, config, residuals)
    largest = max(float(value.abs().max()) for up in updates for value in up.adapters.values())
    for key, expected in naive(updates, previous, config, residuals).items():
        torch.testing.assert_close(found[key].double(), expected, rtol=1e-6, atol=1e-6 * largest)
        assert found[key].dtype == torch.float32


@given(seed=SEEDS, config=configs())
def test_weights_against_a_loop(seed, config):
    _, updates, residuals = trained(seed)
    plain = config.model_copy(update={"shuffle": 0})
    found = weighed(updates, plain, residuals)
    assert list(found) == sorted(found)
    assert found == pytest.approx(naive_weights(updates, plain, residuals), rel=1e-5)
    assert sum(found.values()) == pytest.approx(1)


@given(seed=SEEDS, config=configs())
def test_averages_are_the_same_to_the_last_bit_whoever_answers_first(seed, config):
    previous, updates, residuals = trained(seed)
    first, second = (averaged(order, previous, config, residuals)[0] for order in (updates, updates[::-1]))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_values_that_cancel_have_one_sum_whoever_answers_first():
    numbers = {"a": 1e20, "b": 1.0, "c": -1e20, "d": 3.0}
    updates = [update(node, samples=1, adapters={"x": torch.tensor([value])}) for node, value in numbers.items()]
    assert len({sum(order) for order in permutations(numbers.values())}) > 2
    config, previous = AverageConfig(rule="samples"), {"x": torch.zeros(1)}
    assert len({float(averaged(order, previous, config)[0]["x"]) for order in permutations(updates)}) == 1


@given(seed=SEEDS)
def test_uniform_is_the_plain_mean_and_samples_the_mean_over_rows(seed):
    previous, updates, _ = trained(seed)
    rows = sum(up.samples for up in updates)
    uniform, by_rows = (averaged(updates, previous, AverageConfig(rule=rule))[0] for rule in ("uniform", "samples"))
    for key in previous:
        mean = torch.stack([up.adapters[key].double() for up in updates]).mean(0)
        weighted = sum(up.samples * up.adapters[key].double() for up in updates) / rows
        # To one unit in the last place: sums in float32 would lose more.
        torch.testing.assert_close(uniform[key], mean.float(), rtol=1.2e-7, atol=1e-12)
        torch.testing.assert_close(by_rows[key], weighted.float(), rtol=1.2e-7, atol=1e-12)


@given(seed=SEEDS, config=configs())
def test_updates_that_agree_are_the_average(seed, config):
    _, updates, residuals = trained(seed)
    same = updates[0].adapters
    updates = [replace(up, adapters=same) for up in updates]
    found, _ = averaged(updates, same, config, residuals)
    for key in same:
        torch.testing.assert_close(found[key], same[key], rtol=1e-6, atol=0)


def test_precisions_of_equal_size_are_no_other_rule_than_samples():
    previous, updates, _ = trained(seed=0)
    updates = [replace(up, precision={k: torch.full_like(v, 7e-6) for k, v in up.adapters.items()}) for up in updates]
    found, _ = averaged(updates, previous, AverageConfig(rule="parameter"))
    expected, _ = averaged(updates, previous, AverageConfig(rule="samples"))
    for key in previous:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-5)


@given(seed=SEEDS, power=st.integers(-20, 20), relative=st.booleans())
def test_the_unit_of_all_precisions_does_not_matter(seed, power, relative):
    previous, updates, _ = trained(seed)
    config = AverageConfig(rule="parameter", prior=0.3, relative=relative)
    scaled = [replace(u, precision={k: p * 2.0**power for k, p in u.precision.items()}) for u in updates]
    found, expected = averaged(scaled, previous, config)[0], averaged(updates, previous, config)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_relative_precisions_make_a_nodes_unit_irrelevant_and_absolute_ones_do_not():
    previous, updates, _ = trained(seed=0)
    loud = replace(updates[0], precision={k: p * 2.0**10 for k, p in updates[0].precision.items()})
    for relative, same in ((True, True), (False, False)):
        config = AverageConfig(rule="parameter", relative=relative)
        found, expected = (averaged([up, *updates[1:]], previous, config)[0] for up in (loud, updates[0]))
        close = [torch.allclose(found[key], expected[key], rtol=1e-5, atol=1e-5) for key in previous]
        assert all(close) if same else not any(close)


def test_averaging_leaves_what_it_is_given_as_it_was():
    previous, updates, residuals = trained(seed=0)
    before = [{k: v.clone() for k, v in group.items()} for up in updates for group in (up.adapters, up.precision)]
    kept = {key: value.clone() for key, value in previous.items()}
    for rule in RULES:
        averaged(updates, previous, AverageConfig(rule=rule, prior=1.0, temper=0.5), residuals)
    after = [dict(group) for up in updates for group in (up.adapters, up.precision)]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    torch.testing.assert_close(previous, kept, rtol=0, atol=0)


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


# The streaming sum.


def test_updates_come_in_the_order_of_names():
    sums = WeightedSum({"x": torch.zeros(2)}, AverageConfig(rule="samples"))
    sums.add(update("b", adapters={"x": torch.ones(2)}), 0.5)
    for late in ("a", "b"):
        with pytest.raises(ValueError, match="'b'"):
            sums.add(update(late, adapters={"x": torch.ones(2)}), 0.5)


def test_a_precision_that_the_rule_needs_is_missed_before_anything_is_added():
    sums = WeightedSum({"x": torch.zeros(2), "y": torch.zeros(2)}, AverageConfig(rule="parameter"))
    one = torch.ones(2)
    half = update("b", samples=1, adapters={"x": one, "y": one}, precision={"x": one})
    with pytest.raises(MessageError, match="'b'.*'y'"):
        sums.add(half, 0.5)
    sums.add(update("a", adapters={"x": 2 * one, "y": 2 * one}, precision={"x": one, "y": one}), 0.5)
    torch.testing.assert_close(sums.result()[0], {"x": 2 * one, "y": 2 * one})


@pytest.mark.parametrize("rule", ["samples", "parameter"])
def test_tensors_larger_than_a_piece_are_no_exception(rule, monkeypatch):
    previous, updates, _ = trained(seed=1)
    config = AverageConfig(rule=rule, prior=0.2, temper=0.5)
    expected = averaged(updates, previous, config)
    monkeypatch.setattr(averaging, "_PIECE", 2)
    found = averaged(updates, previous, config)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-6)
    turned = [{k: v.T.contiguous().T if v.ndim == 2 else v for k, v in up.adapters.items()} for up in updates]
    assert not turned[0]["layer.A"].is_contiguous()
    updates = [replace(up, adapters=adapters) for up, adapters in zip(updates, turned, strict=True)]
    torch.testing.assert_close(averaged(updates, previous, config)[0], found[0], rtol=0, atol=0)


def test_float32_sums_of_many_nodes_are_exact_to_a_millionth():
    rng = np.random.default_rng(0)
    shapes = {"x": (100_000,)}
    sums = WeightedSum({"x": torch.zeros(100_000)}, AverageConfig(rule="parameter", clip=1e9))
    above, below, size = np.zeros((3, 100_000))
    for n in range(50):
        weight = rng.uniform(0.01, 0.03)
        up = update(f"{n:02}", samples=1, adapters=values(rng, shapes=shapes), precision=precisions(rng, 1e-8, shapes))
        sums.add(as_sent(up, AverageConfig(rule="parameter", clip=1e9)), weight)
        evidence, theta = weight * up.precision["x"].double().numpy(), up.adapters["x"].double().numpy()
        above, below, size = above + evidence * theta, below + evidence, size + evidence * abs(theta)
    error = np.abs(sums.result()[0]["x"].double().numpy() - above / below)
    # Relative to the mean size of what was averaged, for the average itself may cancel to 0.
    assert (error / (size / below)).max() < 1e-6


def test_one_node_twice_is_refused():
    with pytest.raises(MessageError, match="two updates of one node"):
        node_weights([update("a", samples=1), update("a", samples=1)], AverageConfig())


# Why A is frozen: the average of functions.


def test_averages_of_b_under_a_shared_a_are_the_average_of_functions_and_those_of_both_are_not():
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(20, 6)))
    shapes = {"B": (5, 2), "A": (2, 6)}
    nodes = [
        update(node, samples=n, adapters=values(rng, shapes=shapes))
        for node, n in zip("abc", (10, 20, 70), strict=True)
    ]
    basis = torch.linalg.qr(torch.from_numpy(rng.normal(size=(6, 2))))[0].T.float()

    def forward(adapters):
        return rows @ adapters["A"].double().T @ adapters["B"].double().T

    def gap(updates):
        mean, _ = averaged(updates, updates[0].adapters, AverageConfig(rule="samples"))
        expected = sum(up.samples / 100 * forward(up.adapters) for up in updates)
        return float((forward(mean) - expected).norm() / expected.norm())

    shared = [replace(up, adapters={**up.adapters, "A": basis}) for up in nodes]  # GeoLoRA
    assert gap(shared) < 1e-6
    assert gap(nodes) > 0.1  # FedIT: the mean of B times the mean of A is not the mean of B A


@given(seed=SEEDS, config=configs())
def test_precisions_that_nodes_send_against_a_loop(seed, config):
    _, updates, _ = trained(seed)
    for up in updates:
        expected = evidence_of(up, config)
        for key, moment in up.precision.items():
            found = precision_of(moment, up.samples, config)
            assert found.shape == moment.shape and found.dtype == torch.float32
            torch.testing.assert_close(found.flatten().tolist(), expected[key], rtol=1e-5, atol=0)
