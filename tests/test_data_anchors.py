from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import planted

from isogram.alignment import cka_debiased, gram, shrink
from isogram.config import Config
from isogram.data import AnchorItems
from isogram.data.anchors import Generator, declare, missing, synthetic, uncovered, varied, wrong
from isogram.data.distort import shift_sensors
from isogram.errors import AnchorError, ConfigError
from isogram.federation import align

DATA = planted()


def private(data):
    return [(node.name, node.tokens.tobytes()) for node in data.nodes], data.held_out.hash


@settings(max_examples=25)
@given(share=st.floats(0, 0.5), seed=st.integers(0, 2**32))
def test_every_modality_lacks_its_share_and_no_anchor_is_lost(share, seed):
    changed = missing(DATA, share, seed)
    held = [set(item.index.tolist()) for item in changed.anchors.items.values()]
    assert set.union(*held) == set(range(40))
    assert sum(map(len, held)) >= 3 * (40 - round(40 * share))
    assert max(map(len, held)) - min(map(len, held)) <= 40 * share  # repaired by exchange, not by keeping more
    for modality, item in changed.anchors.items.items():
        np.testing.assert_array_equal(item.tokens, DATA.anchors.items[modality].tokens[item.index])
    assert private(changed) == private(DATA)
    assert not share or changed.anchors.hash != missing(DATA, share, seed + 1).anchors.hash or round(40 * share) == 0


def test_each_modality_lacks_others_and_exactly_its_share_where_three_can_cover_all():
    changed = missing(DATA, 0.5, 3)
    held = [set(item.index.tolist()) for item in changed.anchors.items.values()]
    assert [len(h) for h in held] == [20, 20, 20] and len({frozenset(h) for h in held}) == 3
    align(changed, Config(data="machines", anchors=40))  # connected


def test_too_few_or_unconnected_anchors_are_refused():
    with pytest.raises(AnchorError, match="4 needed"):
        missing(planted(n_anchors=12), 0.9, 0)
    two = planted(n_anchors=8)
    two = replace(
        two,
        nodes=tuple(n for n in two.nodes if n.modality != "c"),
        anchors=replace(two.anchors, items={m: two.anchors.items[m] for m in "ab"}),
    )
    with pytest.raises(AnchorError, match="2 groups"):
        missing(two, 0.5, 0)  # each anchor at one modality alone


@settings(max_examples=25)
@given(share=st.floats(0, 0.9), seed=st.integers(0, 2**32))
def test_wrong_items_are_a_derangement_and_all_others_stay(share, seed):
    changed, chosen = wrong(DATA, share, seed)
    for modality, item in changed.anchors.items.items():
        old = DATA.anchors.items[modality]
        moved = np.flatnonzero((item.tokens != old.tokens).any(axis=(1, 2)))
        np.testing.assert_array_equal(moved, chosen[modality])
        assert len(moved) == (round(40 * share) if round(40 * share) > 1 else 0)
        assert sorted(map(bytes, item.tokens)) == sorted(map(bytes, old.tokens))
    assert private(changed) == private(DATA) and (changed.anchors.items["a"].quality == 1).all()


def test_wrong_ones_differ_between_modalities_grow_with_the_share_and_stay_where_told():
    few, more = wrong(DATA, 0.2, 5)[1], wrong(DATA, 0.4, 5)[1]
    assert set(few["a"]) < set(more["a"]) and set(few["a"]) != set(few["b"])
    one, chosen = wrong(DATA, 0.2, 5, ("b",))
    assert [len(chosen[m]) for m in "abc"] == [0, 8, 0]
    np.testing.assert_array_equal(chosen["b"], few["b"])
    np.testing.assert_array_equal(one.anchors.items["a"].tokens, DATA.anchors.items["a"].tokens)


def test_declared_quality_is_that_of_the_named_items():
    data = declare(DATA, {"b": np.array([3, 7])}, 0.25)
    assert np.flatnonzero(data.anchors.items["b"].quality == 0.25).tolist() == [3, 7]
    assert (data.anchors.items["a"].quality == 1).all() and (data.anchors.items["b"].quality == 1).sum() == 38


def test_synthetic_anchors_come_after_the_real_ones_or_instead_of_some():
    added = synthetic(DATA, 1.5, 0, 0.3)
    assert len(added.anchors) == 100 and added.anchors.ids[:40] == DATA.anchors.ids
    for modality, item in added.anchors.items.items():
        np.testing.assert_array_equal(item.tokens[:40], DATA.anchors.items[modality].tokens)
        np.testing.assert_array_equal(item.quality, np.float32([1] * 40 + [0.3] * 60))
    instead = synthetic(DATA, 0.25, 0, instead=True)
    real = [DATA.anchors.ids.index(name) for name in instead.anchors.ids[:30]]
    assert len(instead.anchors) == 40 and real == sorted(real)
    np.testing.assert_array_equal(instead.anchors.items["c"].tokens[:30], DATA.anchors.items["c"].tokens[real])
    assert private(added) == private(instead) == private(DATA)


def test_a_generator_sees_none_of_the_anchors_that_it_replaces():
    data = planted()
    first = synthetic(data, 0.25, 0, instead=True)
    gone = [i for i, name in enumerate(data.anchors.ids) if name not in first.anchors.ids]
    items = {}
    for modality, item in data.anchors.items.items():
        tokens = item.tokens.copy()
        tokens[gone] += 100
        items[modality] = replace(item, tokens=tokens)
    again = synthetic(replace(data, anchors=replace(data.anchors, items=items)), 0.25, 0, instead=True)
    assert first.anchors.hash == again.anchors.hash


def test_synthetic_items_of_an_anchor_belong_together_and_look_like_real_ones():
    made = Generator.fit(DATA.anchors, 0)(200)
    grams = {m: shrink(gram(as_rows(x)), 0.1) for m, x in made.items()}
    assert min(float(cka_debiased(grams[a], grams[b])) for a, b in ("ab", "bc", "ac")) > 0.5
    for m, x in made.items():
        real = DATA.anchors.items[m].tokens
        assert x.shape == (200, *real.shape[1:]) and x.dtype == np.float32
        assert 0.5 < x.std() / real.std() < 1.5
        np.testing.assert_allclose(x.mean((0, 1)), real.mean((0, 1)), atol=0.5 * real.std())
    assert not np.array_equal(made["a"], Generator.fit(DATA.anchors, 1)(200)["a"])


def as_rows(x):
    return torch.from_numpy(x).double().flatten(1)


def test_variants_take_the_place_of_the_items_that_are_named():
    other = {"b": AnchorItems(np.arange(40), DATA.anchors.items["b"].tokens + 1, np.ones(40, np.float32))}
    data = varied(DATA, other, np.array([2, 5]), 0.5)
    assert np.flatnonzero((data.anchors.items["b"].tokens != DATA.anchors.items["b"].tokens).any((1, 2))).tolist() == [
        2,
        5,
    ]
    assert np.flatnonzero(data.anchors.items["b"].quality < 1).tolist() == [2, 5]
    np.testing.assert_array_equal(data.anchors.items["a"].tokens, DATA.anchors.items["a"].tokens)
    np.testing.assert_array_equal(data.anchors.items["a"].quality, DATA.anchors.items["a"].quality)
    with pytest.raises(AnchorError, match="variants of 'b'"):
        varied(DATA, {"b": other["b"].renumbered(np.where(np.arange(40) == 2, -1, np.arange(40)))}, np.array([2]))


def test_variants_beside_the_items_are_anchors_of_their_own():
    """The real anchors stay; each of those that are named stands once more, with its other items where it has some."""
    other = {"b": AnchorItems(np.arange(40), DATA.anchors.items["b"].tokens + 1, np.ones(40, np.float32))}
    data = varied(DATA, other, np.array([2, 5]), 0.5, added=True)
    assert len(data.anchors) == 42 and len(set(data.anchors.ids)) == 42
    assert data.anchors.subset(np.arange(40)).hash == DATA.anchors.hash
    for modality, moved, weight in (("a", 0, 1.0), ("b", 1, 0.5)):
        old, new = DATA.anchors.items[modality], data.anchors.items[modality]
        np.testing.assert_array_equal(new.tokens[40:], old.tokens[[2, 5]] + moved)
        assert new.quality[40:].tolist() == [weight, weight] and new.index.tolist() == list(range(42))


def test_kinds_without_an_anchor_are_gone_and_the_rest_is_as_it_was():
    kinds = np.arange(40) % 3
    data = uncovered(DATA, kinds, {1})
    assert data.anchors.ids == tuple(name for name, kind in zip(DATA.anchors.ids, kinds, strict=True) if kind != 1)
    assert private(data) == private(DATA)
    with pytest.raises(AnchorError, match="0 anchors are left"):
        uncovered(DATA, kinds, {0, 1, 2})
    with pytest.raises(ConfigError, match="one kind per anchor"):
        uncovered(DATA, kinds[:9], {1})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: missing(d, 1.0, 0), "share=1.0"),
        (lambda d: wrong(d, -0.1, 0), "share=-0.1"),
        (lambda d: wrong(d, 0.1, 0, ("x",)), "no anchors of"),
        (lambda d: synthetic(d, 1.0, 0, instead=True), "share=1.0"),
        (lambda d: missing(missing(d, 0.2, 0), 0.2, 1), "lacks anchors already"),
        (lambda d: wrong(shift_sensors(d, seed=0), 0.2, 0), "recordings of its own"),
    ],
)
def test_what_cannot_be_changed_is_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        change(DATA)


def test_a_generator_needs_complete_anchors_and_more_than_a_mixture():
    with pytest.raises(AnchorError, match="a generator needs 6"):
        Generator.fit(planted(n_anchors=5).anchors, 0)
    with pytest.raises(AnchorError, match="are missing"):
        Generator.fit(missing(DATA, 0.2, 0).anchors, 0)
