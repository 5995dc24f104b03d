from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import planted

from isogram.evaluation import classify, evaluate, retrieval


@given(st.integers(0, 2**32), st.integers(2, 12), st.integers(2, 5))
def test_recall_against_a_loop(seed, n, width):
    draw = torch.Generator().manual_seed(seed)
    queries, gallery = torch.randn(2, n, width, generator=draw, dtype=torch.float64)
    for k, found in zip((1, 3), retrieval(queries, gallery, (1, 3)), strict=True):
        hits = 0
        for i in range(n):
            cosine = [float(queries[i] @ g / (queries[i].norm() * g.norm())) for g in gallery]
            hits += sum(c > cosine[i] + 1e-12 for c in cosine) < k
        assert found == pytest.approx(hits / n)


def test_ties_and_nan_count_as_misses():
    same, nan = torch.ones(5, 3), torch.full((5, 3), torch.nan)
    assert retrieval(same, same, (1, 4, 5)) == [0, 0, 1]
    assert retrieval(nan, same, (1, 5)) == retrieval(same, nan, (1, 5)) == [0, 1]


def test_a_class_without_direction_is_never_named():
    head = torch.tensor([[1.0, 0], [torch.nan, torch.nan], [0, 1]])
    rows = torch.tensor([[2.0, 0.1], [0.1, 3], [-1, -2]], dtype=torch.float64)
    np.testing.assert_array_equal(classify(rows, head), [0, 2, 0])


def test_directions_nodes_and_classes_are_all_counted():
    data = planted()
    told = np.where(data.nodes[0].labels == 2, -1, data.nodes[0].labels)
    b_labels = np.arange(60) % 3
    nodes = (*(replace(n, labels=told) for n in data.nodes[:2]), replace(data.nodes[2], labels=b_labels), data.nodes[3])
    data = replace(data, nodes=nodes)
    calls = []

    def embed(name):
        def f(tokens):
            calls.append(name)
            return torch.from_numpy(tokens.reshape(len(tokens), -1)[:, :5]).double()

        return f

    found = evaluate(data, {n.name: embed(n.name) for n in data.nodes}, torch.eye(5)[:3])
    assert calls == ["a-1", "a-2", "b", "c"]
    directions = {metric: {s.direction for s in found if s.metric == metric} for metric in ("r1", "cka", "accuracy")}
    pairs = {f"{a}->{b}" for a in "abc" for b in "abc" if a != b}
    assert directions["r1"] == pairs and directions["cka"] == {"a->b", "a->c", "b->c"}
    assert directions["accuracy"] == {"a", "b", "c", "a:elsewhere"}  # the a nodes label two of three classes


def test_a_modality_with_several_nodes_counts_the_mean_over_pairs_of_nodes():
    data = planted()
    draw = torch.Generator().manual_seed(0)
    fixed = {n.name: torch.randn(50, 4, generator=draw, dtype=torch.float64) for n in data.nodes}
    found = evaluate(data, {name: lambda _, z=z: z for name, z in fixed.items()}, None)
    r10 = next(s.value for s in found if (s.metric, s.direction) == ("r10", "a->b"))
    one, two = (retrieval(fixed[name], fixed["b"], (10,))[0] for name in ("a-1", "a-2"))
    assert one != two and r10 == pytest.approx((one + two) / 2)
    assert {s.metric for s in found} == {"r1", "r10", "cka"}
