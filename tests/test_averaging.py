"""Every rule of averages against a loop, in any order of nodes; the streaming sum."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from averages import (
    RULES,
    SEEDS,
    as_sent,
    averaged,
    configs,
    evidence_of,
    naive,
    naive_weights,
    precisions,
    trained,
    update,
    values,
    weighed,
)
from hypothesis import given
from hypothesis import strategies as st

from isogram import averaging
from isogram.averaging import WeightedSum, node_weights
from isogram.config import AverageConfig
from isogram.errors import MessageError
from isogram.local import precision_of


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
