from dataclasses import replace

import numpy as np
import pytest
from planted import planted

from isogram.data.base import AnchorItems, AnchorSet, FederatedData, HeldOut, NodeData
from isogram.errors import AnchorError, DataError, HeldOutError


def rows(n=5, tokens=2, values=3):
    return np.ones((n, tokens, values), np.float32)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (np.ones((5, 6), np.float32), r"float32 \[rows, tokens, values\]"),
        (np.ones((5, 2, 3)), "float64"),
        (np.where(np.arange(30).reshape(5, 2, 3) == 14, np.nan, 1).astype(np.float32), "row 2 holds NaN"),
    ],
)
def test_tokens_that_cannot_be_used_are_refused_with_the_node(tokens, said):
    with pytest.raises(DataError, match=f"node 'a'.*{said}"):
        NodeData("a", "rna", tokens)


def test_one_label_a_row():
    with pytest.raises(DataError, match="5 rows, labels"):
        NodeData("a", "rna", rows(), np.zeros(4, np.int64))


@pytest.mark.parametrize("index", [[0, 0, 1], [1, 0, 2]])
def test_anchor_positions_are_distinct_and_in_order(index):
    with pytest.raises(AnchorError, match="ascending and distinct"):
        AnchorItems(np.array(index), rows(3), np.ones(3, np.float32))


def test_controls_are_one_a_row_and_follow_their_anchors():
    with pytest.raises(AnchorError, match="one number per anchor"):
        AnchorItems(np.arange(3), rows(3), np.ones(3, np.float32), np.ones(2, np.float32))
    with pytest.raises(DataError, match="held-out a: 5 rows, controls"):
        HeldOut({"a": rows()}, {}, paired=True, private={}, controls={"a": np.ones(4, np.float32)})
    data = planted()
    held_out = data.held_out
    with pytest.raises(HeldOutError):
        held_out.control("a")
    few = data.subset_anchors(np.array([3, 9]))
    np.testing.assert_array_equal(few.anchors.items["a"].control, data.anchors.items["a"].control[[3, 9]])
    assert few.anchors.items["c"].control is None and held_out.controlled == ("a", "b")


@pytest.mark.parametrize("index", [[-1, 0], [0, 2]])
def test_anchor_positions_lie_in_the_set(index):
    item = AnchorItems(np.array(index), rows(2), np.ones(2, np.float32))
    with pytest.raises(AnchorError, match="rna: anchor positions"):
        AnchorSet(("x", "y"), {"rna": item})


@pytest.mark.parametrize("quality", [0, 1.5])
def test_quality_is_a_weight(quality):
    with pytest.raises(AnchorError, match="quality"):
        AnchorItems(np.arange(2), rows(2), np.array([1, quality], np.float32))


def test_a_federation_that_does_not_fit_together_is_refused():
    data = planted()
    first, *others = data.nodes

    def with_first(node):
        return FederatedData(data.name, (node, *others), data.anchors, data.held_out, data.classes)

    with pytest.raises(DataError, match="names must be distinct"):
        with_first(replace(first, name="b"))
    with pytest.raises(AnchorError, match="'sound', of which no anchor exists"):
        with_first(replace(first, modality="sound"))
    with pytest.raises(DataError, match="label 3, but there are 3 classes"):
        with_first(replace(first, labels=np.full(len(first.tokens), 3)))
    with pytest.raises(DataError, match="tokenize both alike"):
        with_first(replace(first, tokens=first.tokens[:, :2]))


def test_the_hash_tells_anchor_sets_apart_and_a_subset_keeps_its_items():
    anchors = planted().anchors
    assert anchors.hash == planted().anchors.hash
    item = anchors.items["a"]
    moved = item.tokens.copy()
    moved[0, 0, 0] += 1
    other = AnchorSet(anchors.ids, {**anchors.items, "a": replace(item, tokens=moved)})
    assert other.hash != anchors.hash
    some = anchors.subset(np.array([3, 7]))
    assert some.ids == (anchors.ids[3], anchors.ids[7])
    np.testing.assert_array_equal(some.items["b"].tokens, anchors.items["b"].tokens[[3, 7]])
    np.testing.assert_array_equal(some.items["b"].index, [0, 1])
