import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import trim_mean
from torch.nn.functional import normalize
from torch.testing import assert_close

from isogram import averaging, robust, sharing
from isogram.aggregation import merge_directions
from isogram.config import AverageConfig, Config
from isogram.errors import MessageError
from isogram.messages import Up

RULES = ("median", "trimmed")
VALUES = st.integers(1, 12).flatmap(
    lambda n: arrays(np.float64, (n, 4), elements=st.floats(-1e3, 1e3, allow_subnormal=False))
)


def rows(array):
    return list(torch.from_numpy(np.array(array, dtype=np.float64)))


def up(node, modality="a", samples=10, **fields):
    return Up(node=node, modality=modality, round=2, anchor_hash="h", samples=samples, model="m", **fields)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Coordinate by coordinate.


@given(VALUES)
def test_median_and_trimmed_mean_are_those_of_numpy_and_scipy(values):
    np.testing.assert_allclose(robust.middle(rows(values), "median"), np.median(values, axis=0), atol=1e-9)
    expected = trim_mean(values, 1 / 3 + 1e-9, axis=0)
    np.testing.assert_allclose(robust.middle(rows(values), "trimmed"), expected, atol=1e-9)


@given(values=VALUES, seed=st.integers(0, 99), rule=st.sampled_from(RULES))
def test_the_order_of_the_nodes_does_not_matter(values, seed, rule):
    order = np.random.default_rng(seed).permutation(len(values))
    assert_close(robust.middle(rows(values[order]), rule), robust.middle(rows(values), rule), rtol=0, atol=0)


@given(
    honest=st.integers(2, 9).flatmap(lambda n: arrays(np.float64, (n, 4), elements=st.floats(-1e3, 1e3))),
    junk=st.sampled_from([1e30, -1e30, 3e38, 0.0]),
    sign=st.integers(0, 15),
    rule=st.sampled_from(RULES),
)
def test_a_third_that_sends_anything_stays_within_the_range_of_the_honest(honest, junk, sign, rule):
    liars = len(honest) // 2  # a third of all, or less
    lie = junk * np.array([1 if sign >> i & 1 else -1 for i in range(4)])
    found = robust.middle(rows([*honest, *[lie] * liars]), rule).numpy()
    slack = 1e-9 * (1 + np.abs(honest).max())
    assert (found >= honest.min(0) - slack).all() and (found <= honest.max(0) + slack).all()


def test_more_than_a_third_moves_a_trimmed_mean():
    assert robust.middle(rows([[0.0], [0.0], [1e30], [1e30]]), "trimmed") > 1


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 9, 12])
def test_of_equal_values_it_is_that_value(rule, n):
    value = normal(3, 5).double()
    assert_close(robust.middle([value] * n, rule), value)


# Changes.


def test_changes_are_cut_to_the_median_length_and_keep_their_direction():
    changed = {
        node: {"x": size * normal(3, seed=i).double(), "y": size * normal(2, seed=-i).double()}
        for i, (node, size) in SIZES.items()
    }
    found = robust.bounded(changed)
    length = {n: torch.cat([c["x"], c["y"]]).norm() for n, c in changed.items()}
    most = torch.stack(list(length.values())).median()
    for node, change in changed.items():
        cut = torch.cat([found[node]["x"], found[node]["y"]])
        assert_close(cut.norm(), torch.minimum(length[node], most))
        assert_close(normalize(cut, dim=0), normalize(torch.cat([change["x"], change["y"]]), dim=0))


SIZES = dict(enumerate([("a", 1.0), ("b", 1.2), ("c", 1e20), ("d", 0.3), ("e", 1.1)]))


def against(turned, noise, n=9, size=200):
    way = normal(size, seed=7)
    found = {f"n{i}": {"x": way + noise * normal(size, seed=i)} for i in range(n)}
    return found | {node: {"x": -5 * found[node]["x"]} for node in turned}


def test_a_third_that_points_against_the_others_is_found_and_nobody_else():
    assert robust.opposed(against((), 1.0)) == []
    assert robust.opposed(against(("n1", "n4", "n8"), 1.0)) == ["n1", "n4", "n8"]


def test_nobody_is_blamed_where_changes_point_nowhere_or_two_nodes_differ():
    noise = {f"n{i}": {"x": normal(200, seed=i)} for i in range(9)}
    assert robust.opposed(noise) == []
    assert robust.opposed({"a": {"x": torch.ones(3)}, "b": {"x": -torch.ones(3)}}) == []
    assert robust.opposed({n: {} for n in "abc"}) == []


@pytest.mark.parametrize("rule", RULES)
def test_equal_updates_average_to_themselves_whatever_rows_they_claim(rule):
    theta, config = {"x": normal(3, 4)}, AverageConfig(robust=rule)
    sent = [up(f"n{i}", adapters=theta, samples=1 << (8 * i)) for i in range(6)]
    found, notes = sharing.average(sent, {"": {"x": torch.zeros(3, 4)}}, config)
    assert_close(found[""], theta)
    assert notes == []


def test_a_node_that_claims_all_rows_decides_the_mean_and_not_the_median():
    before = {"": {"x": torch.zeros(4)}}
    way = torch.ones(4)
    sent = [up(f"n{i}", adapters={"x": way + 0.1 * normal(4, seed=i)}) for i in range(5)]
    sent.append(up("n5", adapters={"x": 50 * way}, samples=1 << 48))
    plain, _ = sharing.average(sent, before, AverageConfig())
    assert plain[""]["x"].min() > 49
    for rule in RULES:
        found, _ = sharing.average(sent, before, AverageConfig(robust=rule))
        assert_close(found[""]["x"], way, rtol=0, atol=0.2)


def test_half_of_a_small_group_cannot_carry_it_far():
    """Two liars of four in modality a, of twelve nodes in all: opposed ones are left out, long ones cut."""
    way = normal(300, seed=1)
    sent = [up(f"{m}{i}", m, adapters={"x": way + 0.3 * normal(300, seed=i)}) for m in "abc" for i in range(4)]
    before = {m: {"x": torch.zeros(300)} for m in "abc"}
    for i in (0, 1):
        sent[i] = up(f"a{i}", "a", adapters={"x": -10 * way})
    config = AverageConfig(robust="median", across="none")
    told = sharing.opposed(sent, before, config)
    assert list(told) == ["a0", "a1"] and all("against" in line for line in told.values())
    assert sharing.opposed(sent, before, AverageConfig(across="none")) == {}
    found, _ = sharing.average([u for u in sent if u.node not in told], before, config)
    assert torch.nn.functional.cosine_similarity(found["a"]["x"], way, dim=0) > 0.9
    for i in (0, 1):
        sent[i] = up(f"a{i}", "a", adapters={"x": 1e6 * (way.abs())})
    found, _ = sharing.average(sent, before, config)
    assert found["a"]["x"].norm() < 1.5 * way.norm()


def test_the_previous_value_counts_as_the_prior_says():
    sent = [up(n, adapters={"x": torch.full((2,), 4.0)}) for n in "abc"]
    config = AverageConfig(robust="median", prior=1.0)
    found, _ = averaging.average(sent, {"x": torch.zeros(2)}, config)
    assert_close(found["x"], torch.full((2,), 2.0))


# Votes.


def voters(n, classes=4, width=30, noise=0.05, seed=0):
    truth = normalize(normal(classes, width, seed=seed).double(), dim=1)
    return truth, [normalize(truth + noise * normal(classes, width, seed=100 + i), dim=1) for i in range(n)]


@pytest.mark.parametrize("n", [3, 6, 9])
@pytest.mark.parametrize("rule", RULES)
def test_a_third_that_votes_for_the_next_class_does_not_count(n, rule):
    truth, votes = voters(n)
    liars = range(0, n, 3)
    for i in liars:
        votes[i] = votes[i].roll(1, 0)
    head, counts = robust.vote(votes, rule)
    assert [i for i, count in enumerate(counts) if not count] == list(liars)
    assert (head * truth).sum(1).min() > 0.95
    assert_close(head.norm(dim=1), torch.ones(4).double())
    mean = normalize(torch.stack(votes).mean(0), dim=1)
    assert (mean * truth).sum(1).max() < 0.95, "the plain mean is moved"


def test_honest_votes_count_also_where_classes_are_seen_by_some_alone():
    truth, votes = voters(6, classes=10, noise=0.15)
    for i, vote in enumerate(votes):
        vote[(torch.arange(10) + i) % 10 < 4] = torch.nan
    votes.append(torch.full((10, 30), torch.nan).double())
    head, counts = robust.vote(votes, "median")
    assert all(counts)
    assert (head * truth).sum(1).min() > 0.8


def test_a_class_that_nobody_speaks_of_stays_unknown_and_nobody_is_blamed_where_all_differ():
    votes = [normalize(normal(3, 40, seed=i).double(), dim=1) for i in range(3)]
    votes[1] = -votes[0]
    for vote in votes:
        vote[2] = torch.nan
    head, counts = robust.vote(votes, "median")
    assert all(counts)
    assert head[2].isnan().all() and not head[:2].isnan().any()


def test_votes_are_merged_in_any_order_and_left_out_by_name():
    _, votes = voters(3)
    votes[2] = votes[2].roll(1, 0)
    sent = [up(f"n{i}", directions=vote.float()) for i, vote in enumerate(votes)]
    head, told = merge_directions(sent, "median")
    again, _ = merge_directions(sent[::-1], "median")
    assert_close(head, again, rtol=0, atol=0)
    assert list(told) == ["n2"] and "labels" in told["n2"]
    with pytest.raises(MessageError, match="'n0' and 'n1'.*directions"):
        merge_directions([sent[0], up("n1", directions=votes[1][:2].float())], "median")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"average": {"rule": "parameter"}}, "counts all nodes alike"),
        ({"average": {"rule": "node"}}, "counts all nodes alike"),
        ({"average": {"across": "pooled"}}, "without variances"),
        ({"average": {"across": "alone"}}, "nothing to protect"),
        ({"train": {"refresh": 2, "refresh_basis": "gradient"}}, "sum of sketches"),
    ],
)
def test_what_a_hostile_node_would_decide_in_spite_of_it_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Config.model_validate(settings | {"average": {"robust": "median"} | settings.get("average", {})})
    Config.model_validate({"average": {"robust": "median"}})


def test_sums_are_taken_where_votes_confirm_them():
    votes = unit(4, 6)
    votes[3] = torch.nan
    near = torch.nn.functional.normalize(votes + 0.3 * unit(4, 6, seed=1), dim=1)
    near[3] = unit(1, 6)[0]
    found = robust.confirmed(near, votes)
    assert_close(found[:3], near[:3])
    assert found[3].isnan().all(), "nobody has voted for this class, so nothing confirms it"
    turned, silent, swapped = near.clone(), near.clone(), near.clone()
    turned[0] = -votes[0]
    silent[1] = torch.nan
    swapped[:3] = swapped[[1, 2, 0]]
    for spoilt in (turned, silent, swapped, unit(4, 6, seed=2), torch.full((4, 6), torch.nan)):
        assert_close(robust.confirmed(spoilt, votes), votes, equal_nan=True)


def unit(*shape, seed=0):
    found = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(found, dim=1)
