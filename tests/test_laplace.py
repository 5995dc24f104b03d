import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from isogram.errors import DataError, MessageError
from isogram.laplace import GaussianHead, head_posterior, head_statistics, merge_heads_laplace

SEEDS = st.integers(0, 2**32)
NOISE, PRIOR = 0.3, 0.7


def nodes(seed, n_nodes=3, r=4, classes=3):
    """Unit rows and labels of nodes of different sizes; one has no row, one no row of some class."""
    rng = np.random.default_rng(seed)
    sizes = [0, *rng.integers(1, 30, n_nodes - 1)]
    found = []
    for size in sizes:
        rows = torch.from_numpy(rng.normal(size=(size, r)))
        seen = rng.choice(classes, rng.integers(1, classes + 1), replace=False)
        found.append((rows / rows.norm(dim=1, keepdim=True), torch.from_numpy(rng.choice(seen, size))))
    return found


@given(seed=SEEDS)
def test_merged_heads_are_the_ridge_on_all_rows_pooled(seed):
    parts = nodes(seed)
    heads = [head_posterior(*head_statistics(rows, labels, 3), NOISE, PRIOR) for rows, labels in parts]
    merged = merge_heads_laplace(heads, PRIOR)
    rows, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    pooled = Ridge(alpha=NOISE * PRIOR, fit_intercept=False).fit(rows, torch.eye(3, dtype=torch.float64)[labels])
    torch.testing.assert_close(merged.mean, torch.from_numpy(pooled.coef_.reshape(3, 4)), rtol=1e-8, atol=1e-8)
    precision = rows.T @ rows / NOISE + PRIOR * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(merged.precision, precision, rtol=1e-8, atol=1e-8)


@given(seed=SEEDS)
def test_sums_of_statistics_give_the_same_head(seed):
    statistics = [head_statistics(rows, labels, 3) for rows, labels in nodes(seed)]
    summed = head_posterior(*(torch.stack(column).sum(0) for column in zip(*statistics, strict=True)), NOISE, PRIOR)
    merged = merge_heads_laplace([head_posterior(*pair, NOISE, PRIOR) for pair in statistics], PRIOR)
    torch.testing.assert_close(summed.mean, merged.mean, rtol=1e-8, atol=1e-8)


def test_the_plain_mean_of_heads_is_another_one():
    # Else the test above could pass with no precision at all.
    heads = [head_posterior(*head_statistics(rows, labels, 3), NOISE, PRIOR) for rows, labels in nodes(1)]
    plain = torch.stack([head.mean for head in heads]).mean(0)
    assert (plain - merge_heads_laplace(heads, PRIOR).mean).norm() > 0.1


@given(seed=SEEDS)
def test_statistics_against_a_loop(seed):
    rows, labels = nodes(seed)[1]
    second, first = head_statistics(rows, labels, 3)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    moment = torch.zeros(4, 4, dtype=torch.float64)
    for u, label in zip(rows, labels, strict=True):
        expected[label] += u
        moment += torch.outer(u, u)
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, torch.stack([moment[i, j] for i in range(4) for j in range(i + 1)]))


def test_variance_is_the_priors_where_no_rows_were_and_falls_with_rows():
    rows = torch.tensor([[1.0, 0, 0]]).repeat(50, 1)
    head = head_posterior(*head_statistics(rows, torch.zeros(50).long(), 2), NOISE, PRIOR)
    found = head.variance(torch.eye(3))
    expected = torch.tensor([1 / (50 / NOISE + PRIOR), 1 / PRIOR, 1 / PRIOR], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(head.scores(torch.eye(3))[0], torch.tensor([50 / (50 + NOISE * PRIOR), 0]).double())


def test_labels_that_are_no_class_are_refused():
    with pytest.raises(DataError, match=r"0\.\.2"):
        head_statistics(torch.ones(2, 3), torch.tensor([0, -1]), 3)


def test_heads_of_different_shapes_are_not_merged():
    heads = [GaussianHead(torch.zeros(2, r).double(), torch.eye(r).double()) for r in (3, 4)]
    with pytest.raises(MessageError, match=r"\(2, 3\), \(2, 4\)"):
        merge_heads_laplace(heads, PRIOR)
    with pytest.raises(MessageError):
        merge_heads_laplace([], PRIOR)
