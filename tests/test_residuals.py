import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from isogram.alignment import anchor_residuals, center, gram, shrink, sub_smoother

SEEDS = st.integers(0, 2**32)
RHO = 0.1


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def refitted(features, ridge, target):
    """The definition: anchor i is dropped, also from the means, ridge is fitted to the others, and i predicted."""
    x, y = features.numpy(), target.numpy()
    errors = []
    for i in range(len(x)):
        rest = [j for j in range(len(x)) if j != i]
        model = Ridge(alpha=ridge, solver="svd").fit(x[rest], y[rest])
        errors.append(((y[i] - model.predict(x[[i]])[0]) ** 2).sum())
    return torch.from_numpy(np.array(errors) / ((y - y.mean(0)) ** 2).sum(1).mean())


@given(k=st.integers(3, 15), width=st.integers(1, 20), rank=st.integers(1, 5), seed=SEEDS)
def test_the_closed_form_is_ridge_refitted_without_the_anchor(k, width, rank, seed):
    features, target = normal(k, width, seed=seed), normal(k, rank + 1, seed=seed + 1)
    kernel = gram(features)
    found = anchor_residuals(shrink(kernel, RHO), target)
    expected = refitted(features, RHO * float(kernel.trace()) / k, target)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@given(seed=SEEDS, factor=st.floats(0.01, 100))
def test_neither_scale_nor_rotation_nor_origin_of_the_target_matters(seed, factor):
    m, target = shrink(gram(normal(9, 5, seed=seed)), RHO), normal(9, 3, seed=seed + 1)
    rotation = torch.linalg.qr(normal(3, 3, seed=seed + 2))[0]
    moved = factor * target @ rotation + normal(3, seed=seed + 3)
    torch.testing.assert_close(anchor_residuals(m, moved), anchor_residuals(m, target), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("k", [10, 25, 200])
@pytest.mark.parametrize("width", [5, 2000])
def test_features_that_say_nothing_predict_no_better_than_the_mean_place(k, width):
    """With an anchor left in the means, 10 anchors of 2000 features would seem to tell where each of them lies."""
    found = [
        float(anchor_residuals(shrink(gram(normal(k, width, seed=s)), RHO), normal(k, 3, seed=s + 99)).mean())
        for s in range(8)
    ]
    assert 0.9 < np.mean(found) < 3


def test_permuted_anchors_are_the_ones_with_large_residuals():
    latent, wrong = normal(60, 3, seed=0), torch.arange(0, 60, 2)
    mixed = latent.clone()
    mixed[wrong] = latent[wrong.roll(1)]
    good, bad = (
        anchor_residuals(shrink(gram(rows @ normal(3, 20, seed=1) + 0.1 * normal(60, 20, seed=2)), RHO), latent)
        for rows in (latent, mixed)
    )
    assert bad.mean() > 5 * good.mean()
    right = torch.arange(1, 60, 2)
    # Some anchors are harder than others anyhow, so what counts is how much harder the permutation makes them.
    assert bad[wrong].median() / bad[right].median() > 1.2 * good[wrong].median() / good[right].median()
    assert (bad[wrong] > good[wrong]).all()


def test_a_target_without_variation_leaves_nothing_to_predict():
    m = shrink(gram(normal(6, 3, seed=0)), RHO)
    torch.testing.assert_close(anchor_residuals(m, torch.zeros(6, 2).double()), torch.ones(6).double())


@pytest.mark.parametrize("diagonal", [1.0, 1 + 1e-7])
def test_a_smoother_that_rounding_made_too_sure_gives_finite_residuals(diagonal):
    m = shrink(gram(normal(6, 3, seed=0)), RHO)
    m[2, 2] = diagonal
    found = anchor_residuals(m, normal(6, 2, seed=1))
    assert found.isfinite().all() and (found >= 0).all()


@given(k=st.integers(3, 12), width=st.integers(1, 15), seed=SEEDS)
def test_a_part_of_the_anchors_is_smoothed_with_the_same_kernel_and_ridge(k, width, seed):
    kernel = gram(normal(k, width, seed=seed))
    ridge = RHO * kernel.trace() / k
    rng = np.random.default_rng(seed)
    index = torch.from_numpy(rng.choice(k, rng.integers(1, k + 1), replace=False))
    part = center(kernel[index[:, None], index])
    expected = part @ torch.linalg.inv(part + ridge * torch.eye(len(index), dtype=torch.float64))
    torch.testing.assert_close(sub_smoother(shrink(kernel, RHO), index), expected, rtol=1e-8, atol=1e-9)


def test_all_anchors_are_the_matrix_itself():
    m = shrink(gram(normal(8, 20, seed=0)), RHO)
    torch.testing.assert_close(sub_smoother(m, torch.arange(8)), m)
