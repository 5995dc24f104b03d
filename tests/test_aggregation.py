from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogram.aggregation import (
    MIN_EVIDENCE,
    average_adapters,
    in_order,
    mean_embeddings,
    merge_counts,
    merge_grams,
    merge_heads,
    merge_other_grams,
)
from isogram.alignment import consensus, gram, pack, shrink
from isogram.errors import MessageError
from isogram.messages import Up
from isogram.secure_sum import SumParty

SEEDS = st.integers(0, 2**32)
SHAPES = {"layer.A": (2, 3), "layer.B": (3,), "out": (1, 4), "gain": ()}


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def update(node, modality="rna", **fields):
    return Up(node=node, modality=modality, round=2, anchor_hash="a" * 64, **fields)


def trained(seed, n_nodes=4):
    """Updates with differing keys, sizes and numbers of rows, in no particular order."""
    rng = np.random.default_rng(seed)
    names = rng.permutation([f"node{n}" for n in range(n_nodes)]).tolist()
    return [
        update(
            name,
            samples=int(rng.integers(1, 1000)),
            adapters={
                key: normal(*shape, seed=int(rng.integers(2**32))) * 10 ** rng.uniform(-4, 4)
                for key, shape in SHAPES.items()
                if rng.random() < 0.6
            },
        )
        for name in names
    ]


@given(seed=SEEDS)
def test_adapters_are_averaged_per_key_over_the_nodes_that_sent_it(seed):
    updates = trained(seed)
    found = average_adapters(updates)
    assert set(found) == {key for up in updates for key in up.adapters}
    for key, value in found.items():
        senders = [up for up in updates if key in up.adapters]
        rows = sum(up.samples for up in senders)
        expected = torch.zeros(SHAPES[key], dtype=torch.float64)
        for place in np.ndindex(SHAPES[key]):
            expected[place] = sum(up.samples * float(up.adapters[key][place]) for up in senders) / rows
        # To one unit in the last place: sums in float32 would lose more.
        torch.testing.assert_close(value, expected.float(), rtol=1.2e-7, atol=1e-12)


def test_a_tensor_that_one_node_alone_has_keeps_its_scale():
    # A global denominator, as in the federated codes that average over the first client's keys, would quarter it.
    own = normal(5, seed=0)
    others = [update(f"node{n}", samples=900, adapters={"shared": normal(5, seed=n)}) for n in range(1, 4)]
    found = average_adapters([*others, update("node0", samples=10, adapters={"own": own})])
    torch.testing.assert_close(found["own"], own, rtol=0, atol=0)


def test_averages_are_the_same_to_the_last_bit_whoever_answers_first():
    values = {"a": 1e20, "b": 1.0, "c": -1e20, "d": 3.0}
    updates = [update(node, samples=1, adapters={"x": torch.tensor([value])}) for node, value in values.items()]
    # Values that cancel, because float64 sums of like numbers would agree in float32 in any order.
    assert len({sum(order) for order in permutations(values.values())}) > 2
    assert len({float(average_adapters(order)["x"]) for order in permutations(updates)}) == 1


def test_averaging_leaves_the_updates_as_they_were():
    updates = trained(seed=0)
    before = [{key: value.clone() for key, value in up.adapters.items()} for up in updates]
    average_adapters(updates)
    for up, kept in zip(updates, before, strict=True):
        torch.testing.assert_close(dict(up.adapters), kept, rtol=0, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_refused_with_node_and_key(bad):
    good = update("a", samples=1, adapters={"x": torch.ones(2), "y": torch.ones(2)})
    spoilt = update("b", samples=1, adapters={"x": torch.ones(2), "y": torch.tensor([0, bad])})
    with pytest.raises(MessageError, match="'b'.*'y'"):
        average_adapters([spoilt, good])


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), ()])
def test_another_shape_is_refused_with_node_and_key(shape):
    # (1,), (2, 1) and () would broadcast silently.
    updates = [
        update("a", samples=1, adapters={"x": torch.ones(2)}),
        update("b", samples=1, adapters={"x": torch.ones(shape)}),
    ]
    with pytest.raises(MessageError, match=r"'b'.*'x'.*\(2,\)"):
        average_adapters(updates)


def test_adapters_with_no_rows_behind_them_are_refused():
    with pytest.raises(MessageError, match="'b'"):
        average_adapters([update("a", samples=3), update("b", adapters={"x": torch.ones(2)})])


@pytest.mark.parametrize(
    "function",
    [in_order, average_adapters, merge_counts, lambda ups: merge_grams(ups, 3), lambda ups: mean_embeddings(ups, 3)],
)
def test_one_node_twice_and_another_anchor_set_are_refused_everywhere(function):
    with pytest.raises(MessageError, match=r"two updates of one node.*'a', 'a', 'b'"):
        function([update("a"), update("b"), update("a", modality="meth")])
    with pytest.raises(MessageError, match="'a' and 'c'.*aaaaaaaa, cccccccc"):
        function([update("a"), update("b"), replace(update("c"), anchor_hash="c" * 64)])


def with_gram(node, modality, index, seed, quality=None):
    matrix = shrink(gram(normal(len(index), 4, seed=seed).double()), 0.1)
    return matrix, update(
        node, modality, gram=pack(matrix), index=None if len(index) == 8 else index.int(), quality=quality
    )


def test_grams_meet_at_the_anchors_their_messages_name():
    left, right = torch.tensor([0, 1, 2, 5, 7]), torch.tensor([1, 3, 4, 6, 7])
    quality = torch.tensor([1.0, 0.5, 0.25, 1.0, 0.1])
    matrices, ups = zip(
        with_gram("c", "rna", torch.arange(8), seed=0),
        with_gram("a", "meth", left, seed=1, quality=quality),
        with_gram("b", "meth", right, seed=2),
        strict=True,
    )
    expected = consensus(matrices, [torch.arange(8), left, right], 8, [torch.ones(8), quality, torch.ones(5)])
    torch.testing.assert_close(merge_grams([*ups, update("d")], 8), expected)
    torch.testing.assert_close(merge_grams(ups, 8), merge_grams(ups[::-1], 8), rtol=0, atol=0)


def test_the_others_consensus_leaves_out_every_node_of_the_own_modality():
    left = torch.tensor([0, 1, 2, 3])
    matrices, ups = zip(
        with_gram("a", "rna", torch.arange(8), seed=0),
        with_gram("b", "rna", torch.arange(8), seed=1),
        with_gram("c", "meth", left, seed=2),
        with_gram("d", "mirna", left, seed=3),
        strict=True,
    )
    expected = torch.zeros(8, 8, dtype=torch.float64)
    expected[:4, :4] = (matrices[2] + matrices[3]) / 2  # anchors 4-7 are held by no other modality
    torch.testing.assert_close(merge_other_grams(ups, 8, "rna"), expected)
    three = consensus([matrices[0], matrices[1], matrices[3]], [torch.arange(8), torch.arange(8), left], 8)
    torch.testing.assert_close(merge_other_grams(ups, 8, "meth"), three)
    with pytest.raises(MessageError, match="'rna'"):
        merge_other_grams(ups[:2], 8, "rna")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gram": torch.full((6,), torch.nan)}, "NaN"),
        ({"gram": torch.ones(5)}, "5 numbers for 3 anchors"),
        ({"index": torch.tensor([0, 1, 3])}, "distinct positions in 0..2"),
        ({"index": torch.tensor([0, 1, 1])}, "distinct positions"),
        ({"quality": torch.tensor([1.0, 0.5, -0.1])}, "qualities"),
        ({"quality": torch.ones(2)}, "qualities"),
    ],
)
def test_a_gram_that_does_not_fit_is_refused_with_the_node(wrong, said):
    good = {"gram": torch.tensor([1.0, 0, 1, 0, 0, 1])}
    with pytest.raises(MessageError, match=f"'b'.*{said}"):
        merge_grams([update("a", **good), update("b", **(good | wrong))], 3)


def test_a_late_answer_is_refused():
    late = replace(update("b"), round=update("b").round + 1)
    with pytest.raises(MessageError, match="'b' answers round"):
        in_order([update("a"), late])


def masked(field, values):
    """Updates that carry the nodes' masked values."""
    parties = [SumParty() for _ in values]
    keys = torch.stack([party.key for party in parties])
    return [
        update(f"node{n}", **{field: party.masked(value, keys, round=2)})
        for n, (party, value) in enumerate(zip(parties, values, strict=True))
    ]


def test_heads_become_unit_directions_of_class_sums_where_there_is_evidence():
    sums = normal(2, 4, 3, seed=0).double()
    # Per class over both nodes: enough at one node, enough only together, one too few, none at all.
    counts = torch.tensor([[MIN_EVIDENCE, 2, MIN_EVIDENCE - 2, 0], [0, MIN_EVIDENCE - 2, 1, 0]], dtype=torch.float64)
    evidence = merge_counts([*masked("counts", counts), update("unlabelled")])
    assert evidence.tolist() == [1, 1, 0, 0]
    found = merge_heads([*masked("head", sums), update("unlabelled")], evidence)
    for c in range(2):
        total = sums[0, c] + sums[1, c]
        torch.testing.assert_close(found[c], total / total.norm(), rtol=0, atol=1e-6)
    assert found[2:].isnan().all()


def test_sums_of_different_shapes_name_the_nodes():
    with pytest.raises(MessageError, match="'node0' and 'node1' sent counts"):
        merge_counts([update("node0", counts=torch.zeros(2).long()), update("node1", counts=torch.zeros(3).long())])


@given(seed=SEEDS)
def test_mean_embeddings_are_taken_per_anchor_over_the_nodes_that_hold_it(seed):
    rng = np.random.default_rng(seed)
    held = [np.arange(6), *(np.sort(rng.choice(6, rng.integers(1, 6), replace=False)) for _ in range(3))]
    first = int(rng.integers(0, 2))  # in half of the cases nobody holds everything
    ups = [
        update(f"n{n}", embeddings=normal(len(at), 3, seed=seed + n), index=torch.from_numpy(at).int() if n else None)
        for n, at in list(enumerate(held))[first:]
    ]
    expected = torch.zeros(6, 3, dtype=torch.float64)
    for anchor in range(6):
        rows = [
            up.embeddings[at.tolist().index(anchor)] for up, at in zip(ups, held[first:], strict=True) if anchor in at
        ]
        if rows:
            expected[anchor] = torch.stack(rows).double().mean(0)
    torch.testing.assert_close(mean_embeddings([*ups, update("silent")], 6), expected)
