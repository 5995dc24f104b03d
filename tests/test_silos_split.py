"""Rows held out: whole groups, whatever the order, about the share, no class lost."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogram.data.base import UNLABELLED
from isogram.data.silos.split import groups_of, hold_out, hold_out_each

ROWS = st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab"), st.integers(-1, 3)), min_size=1, max_size=60)
SHARES = st.floats(0, 0.99)


def split(rows, share, *, keep=1, seed=0, name="shop"):
    """Rows as (group, node, label); each its own content."""
    groups = groups_of([[f"g{group}"] for group, _, _ in rows])
    labels = np.array([label for _, _, label in rows])
    marks, nodes = [f"{i}" for i in range(len(rows))], [n for _, n, _ in rows]
    return hold_out(groups, marks, nodes, labels, share, keep=keep, seed=seed, name=name)


@given(ROWS, SHARES)
def test_groups_are_never_split_and_every_class_keeps_a_row(rows, share):
    held = split(rows, share)
    for group in {group for group, _, _ in rows}:
        assert len({bool(h) for h, row in zip(held, rows, strict=True) if row[0] == group}) == 1
    before = {(node, label) for _, node, label in rows if label != UNLABELLED}
    after = {(node, label) for h, (_, node, label) in zip(held, rows, strict=True) if not h and label != UNLABELLED}
    assert after == before


@given(ROWS, SHARES, st.integers(1, 9))
def test_of_a_class_as_many_rows_stay_as_it_keeps_or_all_that_there_are(rows, share, keep):
    held = split(rows, share, keep=keep)
    before = Counter((node, label) for _, node, label in rows if label != UNLABELLED)
    out = Counter(row[1:] for h, row in zip(held, rows, strict=True) if h)
    assert all(before[of] - out[of] >= keep for of in before if out[of])


@given(ROWS, SHARES, st.randoms(use_true_random=False))
def test_the_order_of_rows_decides_nothing(rows, share, random):
    order = list(range(len(rows)))
    random.shuffle(order)
    groups = groups_of([[f"g{group}"] for group, _, _ in rows])
    labels, nodes = np.array([label for _, _, label in rows]), [node for _, node, _ in rows]
    marks = [f"{i}" for i in range(len(rows))]
    held = hold_out(groups, marks, nodes, labels, share, keep=1, seed=1, name="shop")
    mixed = hold_out(
        groups_of([[f"g{rows[i][0]}"] for i in order]),
        [marks[i] for i in order],
        [nodes[i] for i in order],
        labels[order],
        share,
        keep=1,
        seed=1,
        name="shop",
    )
    assert {marks[i] for i in np.flatnonzero(held)} == {marks[order[i]] for i in np.flatnonzero(mixed)}


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_the_share_is_met_at_each_node_by_rows_or_groups_of_four(share):
    rows = [(i // 4 if i < 200 else i, "ab"[i >= 200], i % 3) for i in range(400)]
    held = split(rows, share)
    assert held[200:].sum() == round(200 * share) and abs(held[:200].sum() - 200 * share) <= 2


def test_seed_and_name_draw_anew():
    rows = [(i, "a", i % 2) for i in range(60)]
    draws = [split(rows, 0.3).tolist(), split(rows, 0.3, seed=1).tolist(), split(rows, 0.3, name="lab").tolist()]
    assert draws[0] == split(rows, 0.3).tolist() and draws[0] != draws[1] and draws[0] != draws[2]


def test_unlabelled_rows_go_with_their_group_and_do_not_count():
    rows = [(i % 10, "a", i % 2 if i < 40 else UNLABELLED) for i in range(100)]
    held = split(rows, 0.2)
    assert held[:40].sum() == 8 and held[40:].sum() == 12
    assert not split([(i, "a", UNLABELLED) for i in range(9)], 0.5).any()


@given(st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=3), max_size=20))
def test_rows_linked_by_keys_are_one_group(keys):
    """Against the slowest way there is: merge until nothing changes."""
    sets = [set(own) for own in keys]
    while any(a is not b and a & b for a in sets for b in sets):
        for a in sets:
            for b in sets:
                if a is not b and a & b:
                    a |= b
                    b |= a
                    sets = [a if s is b else s for s in sets]
    found = groups_of(keys)
    for i in range(len(keys)):
        for j in range(len(keys)):
            assert (found[i] == found[j]) == bool(sets[i] & sets[j])


@given(st.lists(st.text(max_size=3), min_size=1), st.floats(0, 0.99), st.data())
def test_under_privacy_no_row_decides_about_another(keys, share, data):
    held = hold_out_each(keys, share, seed=0, name="shop")
    kept = data.draw(st.lists(st.sampled_from(range(len(keys))), unique=True))
    assert hold_out_each([keys[i] for i in kept], share, seed=0, name="shop").tolist() == held[kept].tolist()
    assert all(len(set(held[[k == key for k in keys]].tolist())) == 1 for key in Counter(keys))


def test_under_privacy_the_share_is_met_on_average():
    assert abs(hold_out_each([str(i) for i in range(4000)], 0.2, seed=0, name="shop").mean() - 0.2) < 0.02
