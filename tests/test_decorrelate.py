import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from isogram.alignment import decorrelation, shrunk_covariance


def rows(n, r, seed, mixed=True):
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(n, r, dtype=torch.float64, generator=draw)
    return z @ torch.randn(r, r, dtype=torch.float64, generator=draw) if mixed else z


def naive_covariance(x):
    """Schaefer & Strimmer 2005, target D, by loops."""
    x = x.numpy()
    n, r = x.shape
    c = x - x.mean(0)
    s, v = np.zeros((r, r)), np.zeros((r, r))
    for i in range(r):
        for j in range(r):
            w = [c[k, i] * c[k, j] for k in range(n)]
            s[i, j] = sum(w) / n
            v[i, j] = sum((value - s[i, j]) ** 2 for value in w) / n / (n - 1)
    pairs = [(i, j) for i in range(r) for j in range(r) if i != j]
    share = min(1, sum(v[p] for p in pairs) / sum(s[p] ** 2 for p in pairs))
    return np.array([[s[i, j] * (1 if i == j else 1 - share) for j in range(r)] for i in range(r)])


@given(st.integers(3, 30), st.integers(2, 6), st.integers(0, 99))
@settings(deadline=None)
def test_the_covariance_is_that_of_a_loop(n, r, seed):
    x = rows(n, r, seed)
    np.testing.assert_allclose(shrunk_covariance(x).numpy(), naive_covariance(x), rtol=1e-8, atol=1e-10)


@given(st.integers(5, 60), st.integers(2, 12), st.integers(0, 99))
@settings(deadline=None)
def test_it_takes_the_covariance_to_its_diagonal_and_is_symmetric(n, r, seed):
    x = rows(n, r, seed)
    c, t = shrunk_covariance(x), decorrelation(x)
    assert_close(t, t.T, rtol=1e-6, atol=1e-8)
    scale = float(c.diagonal().max())
    assert_close(t @ c @ t, torch.diag(c.diagonal()), rtol=1e-5, atol=1e-5 * scale)
    assert (torch.linalg.eigvalsh(t) > 0).all()


def test_many_rows_become_uncorrelated_and_uncorrelated_ones_stay():
    x = rows(20_000, 4, 1)
    found = torch.corrcoef((x @ decorrelation(x)).T)
    assert (found - torch.eye(4)).abs().max() < 0.01 < (torch.corrcoef(x.T) - torch.eye(4)).abs().max()
    assert_close(decorrelation(rows(20_000, 4, 2, mixed=False)), torch.eye(4, dtype=torch.float64), rtol=0, atol=0.02)


def test_faint_coordinates_are_left_alone():
    x = rows(50, 5, 3) * torch.tensor([1, 1, 1, 1e-4, 0])
    t = decorrelation(x)
    assert_close(t[3:], torch.eye(5, dtype=torch.float64)[3:], rtol=0, atol=0)
    assert not torch.allclose(t[:3, :3], torch.eye(3, dtype=torch.float64), atol=0.01)
