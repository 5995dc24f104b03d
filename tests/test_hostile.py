"""Nodes that lie, and what the robust options make of a federation with a third of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import planted
from resumed import put_back
from torch.testing import assert_close

from isogram import federation, hostile
from isogram.alignment import gram, outliers, shrink
from isogram.alignment.outliers import relations
from isogram.config import Config
from isogram.errors import ConfigError
from isogram.evaluation import evaluate
from isogram.messages import Down, Up

TRAIN = {"rounds": 2, "steps": 4, "lr": 2e-2}
PLAIN = {"data": "machines", "anchors": 40, "model": {"width": 40, "layers": 1}, "train": TRAIN}
ROBUST = PLAIN | {"align": {"outliers": True}, "average": {"robust": "median"}}


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def data():
    """Three nodes of each modality, those of a labelled."""
    found = planted(private=60, noise=0.6)
    names = {node.name: node for node in found.nodes}
    nodes = []
    for modality, of in (("a", ("a-1", "a-2", "a-1")), ("b", ("b",) * 3), ("c", ("c",) * 3)):
        for i, name in enumerate(of):
            nodes.append(replace(names[name], name=f"{modality}-{i}", modality=modality))
    return replace(found, nodes=tuple(nodes))


# Lies.


def known(**changes):
    before = {"x": torch.ones(3)}
    return hostile.Known(before, [{"x": torch.tensor(c)} for c in changes.values()])


def update(change):
    return Up(node="n", modality="a", round=2, anchor_hash="h", samples=9, adapters={"x": 1 + torch.tensor(change)})


def test_scaled_and_flipped_updates_are_what_they_are_called():
    change = [1.0, 0.0, -2.0]
    scaled = hostile.scaled(update(change), known(own=change))
    assert_close(scaled.adapters["x"], torch.tensor([101.0, 1.0, -199.0]))
    assert scaled.samples == 1 << 48
    assert hostile.scaled(replace(update(change), samples=0), known(own=change)).samples == 0, "nobody asked for rows"
    flipped = hostile.sign_flipped(update(change), known(own=change))
    assert_close(flipped.adapters["x"], torch.tensor([-9.0, 1.0, 21.0]))
    assert flipped.samples == 9


def test_a_little_hides_among_the_accomplices_updates():
    found = hostile.a_little(update([3.0, -1.0, 0.0]), known(one=[1.0, -3.0, 0.0], own=[3.0, -1.0, 0.0]))
    assert_close(found.adapters["x"] - 1, torch.tensor([2 - 1.5, -2 + 1.5, 0.0]))


def test_accomplices_send_the_opposite_of_their_mean():
    found = hostile.inner_product(update([3.0, -1.0, 0.0]), known(one=[1.0, -3.0, 0.0], own=[3.0, -1.0, 0.0]))
    assert_close(found.adapters["x"] - 1, torch.tensor([-2.0, 2.0, 0.0]))
    assert found.samples == 9


def test_a_message_without_an_update_is_left_as_it_is():
    up = Up(node="n", modality="a", round=0, anchor_hash="h")
    for lie in (hostile.scaled, hostile.sign_flipped, hostile.inner_product, hostile.a_little):
        assert lie(up, hostile.Known({}, [{}])) == up


def test_the_ledger_changes_the_liars_updates_and_knows_what_they_were_sent():
    ledger, seen = None, []

    def lie(up, known):
        seen.append(known)
        return hostile.scaled(up, known, 2.0)

    ledger = hostile.HostileLedger(["n", "m"], lie)
    told = {"x": torch.full((3,), 5.0)}
    ledger.carry(Down(node="n", round=2, anchor_hash="h", adapters=told))
    sent = update([1.0, 1.0, 1.0])
    assert_close(ledger.carry(replace(sent, node="honest")).adapters["x"], sent.adapters["x"])
    assert_close(ledger.carry(sent).adapters["x"], torch.full((3,), 5 + 2 * (2.0 - 5)))
    assert_close(ledger.carry(replace(sent, node="m")).adapters["x"], torch.full((3,), 4.0))  # it began at 0
    assert [len(one.changes) for one in seen] == [1, 2]
    assert ledger.sent("n") > 0


def test_liars_are_a_third_spread_over_modalities_and_never_all_of_one(data):
    for seed in range(5):
        names = hostile.spread(data, seed=seed)
        assert sorted(name[0] for name in names) == ["a", "b", "c"]
    assert len({hostile.spread(data, seed=seed) for seed in range(9)}) > 3
    with pytest.raises(ConfigError, match="is none"):
        hostile.spread(replace(data, nodes=data.nodes[::3]), seed=0)


def test_labels_and_anchors_of_liars_alone_are_changed(data):
    flipped = hostile.flip_labels(data, ["a-1", "b-1"])
    for node, before in zip(flipped.nodes, data.nodes, strict=True):
        if node.name == "a-1":
            assert (node.labels == (before.labels + 1) % 3).all()
        else:
            assert node is before or node.labels is None
    for together in (True, False):
        liars = ("a-1", "b-1", "b-2")
        found = {n.name: n for n in hostile.permute_anchors(data, liars, seed=0, together=together).nodes}
        orders = {}
        for name in liars:
            own = data.anchors.items[name[0]].tokens
            moved = found[name].anchors.tokens
            orders[name] = [int(np.flatnonzero((own == row).all((1, 2)))[0]) for row in moved]
            assert sorted(orders[name]) == list(range(40)) and orders[name] != list(range(40))
        assert (orders["b-1"] == orders["b-2"] == orders["a-1"]) is together
        assert found["a-0"].anchors is None


# Grams that stand out.


def grams(n=9, k=40, permuted=(), seed=0, together=True):
    latent = normal(k, 5, seed=seed)
    found = []
    for i in range(n):
        rows = latent @ normal(5, 8, seed=100 + i) + 0.5 * normal(k, 8, seed=200 + i)
        order = torch.randperm(k, generator=torch.Generator().manual_seed(7 if together else i))
        found.append(shrink(gram(rows[order] if i in permuted else rows), 0.1))
    return found


@pytest.mark.parametrize("together", [True, False])
def test_a_third_of_permuted_grams_is_found_and_nobody_else(together):
    modalities = [m for m in "abc" for _ in range(3)]
    for seed in range(3):
        index = [torch.arange(40)] * 9
        assert not any(outliers(grams(seed=seed), index, 40, modalities))
        found = outliers(grams(permuted=(1, 3, 8), seed=seed, together=together), index, 40, modalities)
        assert [i for i, out in enumerate(found) if out] == [1, 3, 8]


def test_outliers_do_not_depend_on_the_order_of_the_nodes():
    modalities, index = [m for m in "abc" for _ in range(3)], [torch.arange(40)] * 9
    matrices, order = grams(permuted=(1, 3, 8)), [4, 1, 8, 0, 2, 7, 3, 6, 5]
    scores = relations(matrices, index, 40)
    again = relations([matrices[i] for i in order], index, 40)
    np.testing.assert_allclose([scores[i] for i in order], again, rtol=1e-9)
    found = outliers(matrices, index, 40, modalities)
    again = outliers([matrices[i] for i in order], index, 40, [modalities[i] for i in order])
    assert [found[i] for i in order] == again


def test_not_all_of_a_modality_and_not_one_that_nobody_can_judge():
    index = [torch.arange(40)] * 9
    matrices = grams(permuted=(6, 7, 8))
    assert not any(outliers(matrices, index, 40, [*"aaabbbccc"]))
    assert not any(outliers(matrices[:1] + matrices[-1:], index[:2], 40, ["a", "b"]))
    few = [torch.arange(40)] * 2 + [torch.arange(3) + 50]
    assert relations([*matrices[:2], matrices[0][:3, :3]], few, 53)[2] is None


def test_anchors_that_only_some_hold_are_judged_by_those():
    index = [torch.arange(0, 24), torch.arange(16, 40), torch.arange(40)] * 3
    matrices = [shrink(gram(x), 0.1) for x in _parts(index)]
    assert not any(outliers(matrices, index, 40, [*"abcabcabc"]))
    bad = matrices[2][torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    matrices[2] = bad[:, torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    assert outliers(matrices, index, 40, [*"abcabcabc"]) == [False, False, True] + [False] * 6


def _parts(index):
    latent = normal(40, 4, seed=3)
    return [(latent @ normal(4, 9, seed=i) + 0.1 * normal(40, 9, seed=50 + i))[held] for i, held in enumerate(index)]


# A whole federation.


def figures(data, liars, fed):
    measured = replace(data, nodes=tuple(node for node in data.nodes if node.name not in liars))
    found = evaluate(measured, {node.name: node.embed for node in fed.nodes}, fed.heads or fed.head)
    return {m: np.mean([s.value for s in found if s.metric == m]) for m in ("r1", "accuracy")}


def solved(data, settings, liars=(), lie=None):
    ledger = None if lie is None else hostile.HostileLedger(liars, lie)
    return federation.train(federation.align(data, Config.model_validate(settings), ledger=ledger))


LIARS = ("a-0", "b-1", "c-2")


@pytest.fixture(scope="module")
def clean(data):
    return figures(data, LIARS, solved(data, PLAIN))


@pytest.mark.parametrize("rule", ["median", "trimmed"])
def test_where_nobody_lies_the_robust_options_cost_little_and_blame_nobody(data, clean, rule):
    fed = solved(data, ROBUST | {"average": {"robust": rule}})
    found = figures(data, LIARS, fed)
    assert not fed.left_out and not fed.refused
    assert found["r1"] > clean["r1"] - 0.05 and found["accuracy"] > clean["accuracy"] - 0.05


@pytest.mark.parametrize(
    ("lie", "told"), [(hostile.scaled, ""), (hostile.sign_flipped, "against"), (hostile.a_little, "")]
)
def test_lying_updates_are_survived(data, clean, lie, told):
    fed = solved(data, ROBUST, LIARS, lie)
    found = figures(data, LIARS, fed)
    assert found["r1"] > clean["r1"] - 0.05 and found["accuracy"] > clean["accuracy"] - 0.05
    if told:
        assert fed.left_out == set(LIARS), "from the first round on"
        assert len(fed.refused) == len(LIARS) and all(told in line for line in fed.refused)
    if lie is not hostile.a_little:
        plain = figures(data, LIARS, solved(data, PLAIN, LIARS, lie))
        assert plain["r1"] < clean["r1"] - 0.08, "or there is nothing to survive"


def test_flipped_labels_are_survived(data, clean):
    liars = ("a-0",)
    lied = hostile.flip_labels(data, liars)
    fed = solved(lied, ROBUST)
    assert fed.left_out == {"a-0"} and len(fed.refused) == 1 and "labels" in fed.refused[0]
    assert figures(data, LIARS, fed)["accuracy"] > clean["accuracy"] - 0.05
    assert figures(data, LIARS, solved(lied, PLAIN))["accuracy"] < clean["accuracy"] - 0.04
    voted = {entry.field for entry in fed.ledger.entries if entry.direction == "up"}
    assert "directions" in voted and not voted & {"key", "counts", "head"}
    assert not any(e.node == "a-0" and e.direction == "up" and e.round > 1 for e in fed.ledger.entries)


@pytest.mark.parametrize("together", [True, False])
def test_permuted_anchors_leave_the_consensus_as_if_they_were_not_there(data, together):
    lied = hostile.permute_anchors(data, LIARS, seed=0, together=together)
    fed = federation.align(lied, Config.model_validate(ROBUST))
    assert fed.left_out == set(LIARS) and len(fed.refused) == 3
    without = replace(data, nodes=tuple(node for node in data.nodes if node.name not in LIARS))
    expected = federation.align(without, Config.model_validate(ROBUST)).consensus
    assert_close(fed.consensus, expected)
    plain = federation.align(lied, Config.model_validate(PLAIN)).consensus
    assert (plain - expected).norm() > 0.2 * expected.norm()
    assert all(node.map is not None for node in fed.nodes), "who is left out gets the frame all the same"


def test_a_run_goes_on_to_the_same_bits_with_nodes_left_out(data, tmp_path):
    lied = hostile.permute_anchors(data, LIARS, seed=0, together=True)
    config = Config.model_validate(ROBUST | {"train": TRAIN | {"rounds": 3}})
    straight, again, _ = put_back(tmp_path, lied, config)
    assert straight.left_out == again.left_out == set(LIARS)


SUMS = ROBUST | {"average": {"robust": "median", "head": "laplace"}}


def test_sums_of_nodes_whose_votes_count_are_taken_and_spoilt_ones_are_not(data, clean):
    honest, lied = solved(data, SUMS), solved(data, SUMS, ("a-1",), hostile.spoilt_sums)
    sent = {entry.field for entry in honest.ledger.entries if entry.direction == "up"}
    assert {"directions", "key", "counts", "head"} <= sent
    some = honest.heads["b-0"]
    assert not some.isnan().any() and (some - honest.votes).norm() > 0.1, "they are the sums'"
    assert_close(lied.heads["b-0"], lied.votes)
    assert not lied.left_out, "nobody sees whose lie it was"
    for fed in (honest, lied):
        assert figures(data, LIARS, fed)["accuracy"] > clean["accuracy"] - 0.05
    plain = solved(data, PLAIN | {"average": {"head": "laplace"}}, ("a-1",), hostile.spoilt_sums)
    assert figures(data, LIARS, plain)["accuracy"] < clean["accuracy"] - 0.1


def test_who_votes_for_other_classes_is_in_no_sum(data):
    fed = solved(hostile.flip_labels(data, ("a-0",)), SUMS)
    assert fed.left_out == {"a-0"}
    assert not any(e.node == "a-0" and e.field in ("key", "head") and e.direction == "up" for e in fed.ledger.entries)
    assert (fed.heads["b-0"] - fed.votes).norm() > 0.1, "the sum of the other two"


def test_votes_are_kept_with_the_run(data, tmp_path):
    config = Config.model_validate(SUMS | {"train": TRAIN | {"rounds": 3}})
    straight, again, _ = put_back(tmp_path, data, config)
    assert_close(straight.votes, again.votes, rtol=0, atol=0)
