from itertools import permutations, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogram.alignment import cka, cka_debiased, cka_embedded, gram, hsic, hsic_unbiased
from isogram.errors import AnchorError

SEEDS = st.integers(0, 2**32)
SIZES = st.integers(5, 14)
WIDTHS = st.integers(1, 14)


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def kernels(k, seed):
    """Two plain, uncentred kernels of dependent features."""
    x = normal(k, 3, seed=seed) + 1
    y = x @ normal(3, 5, seed=seed + 1) + 0.3 * normal(k, 5, seed=seed + 2)
    return x @ x.T, y @ y.T


def expectations(a, b, tuples):
    """E[a_ij b_ij] + E[a_ij b_qr] - 2 E[a_ij b_iq] over the given index tuples: the definition of HSIC."""
    a, b, k = a.tolist(), b.tolist(), len(a)

    def mean(term, count):
        values = [term(*index) for index in tuples(range(k), count)]
        return sum(values) / len(values)

    pairs = mean(lambda i, j: a[i][j] * b[i][j], 2)
    apart = mean(lambda i, j, q, r: a[i][j] * b[q][r], 4)
    shared = mean(lambda i, j, q: a[i][j] * b[i][q], 3)
    return torch.tensor(pairs + apart - 2 * shared, dtype=torch.float64)


@pytest.mark.parametrize("k", [2, 3, 6])
def test_hsic_is_the_mean_over_all_index_tuples(k):
    a, b = kernels(k, seed=0)
    expected = expectations(a, b, lambda indices, n: product(indices, repeat=n))
    torch.testing.assert_close(hsic(a, b), expected * k**2 / (k - 1) ** 2)


@pytest.mark.parametrize("k", [4, 5, 7])
def test_unbiased_hsic_is_the_mean_over_tuples_of_distinct_indices(k):
    a, b = kernels(k, seed=0)
    torch.testing.assert_close(hsic_unbiased(a, b), expectations(a, b, permutations))


def test_cka_is_the_normalised_cross_covariance_of_the_features():
    x, y = normal(9, 4, seed=0), normal(9, 6, seed=1)
    xc, yc = x - x.mean(0), y - y.mean(0)
    expected = (yc.T @ xc).norm() ** 2 / ((xc.T @ xc).norm() * (yc.T @ yc).norm())
    torch.testing.assert_close(cka(gram(x), gram(y)), expected)
    torch.testing.assert_close(cka(x @ x.T, y @ y.T), expected)


@given(k=st.integers(2, 12), width=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_cka_of_embeddings_is_that_of_their_gram_and_so_is_its_gradient(k, width, seed):
    target = gram(normal(k, 3, seed=seed + 1))
    fast, plain = (normal(k, width, seed=seed).requires_grad_() for _ in range(2))
    found, expected = cka_embedded(fast, target), cka(gram(plain), target)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, plain.grad, rtol=1e-6, atol=1e-9)


def test_debiased_cka_is_the_ratio_of_unbiased_terms():
    a, b = kernels(6, seed=4)
    terms = [expectations(*pair, permutations) for pair in ((a, b), (a, a), (b, b))]
    torch.testing.assert_close(cka_debiased(a, b), terms[0] / (terms[1] * terms[2]).sqrt())


@pytest.mark.parametrize("similarity", [cka, cka_debiased])
@given(k=SIZES, width=WIDTHS, log_scale=st.floats(-4, 4), seed=SEEDS)
def test_similarity_ignores_rotation_unit_and_origin(similarity, k, width, log_scale, seed):
    x, y = normal(k, width, seed=seed), normal(k, 4, seed=seed + 1)
    turned = torch.linalg.qr(normal(width, width, seed=seed + 2))[0]
    moved = 10**log_scale * (x @ turned + normal(width, seed=seed + 3))
    # Plain kernels, because `gram` would take the origin out before the function under test sees it.
    before, after = similarity(x @ x.T, y @ y.T), similarity(moved @ moved.T, y @ y.T)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-8)


@pytest.mark.parametrize("similarity", [cka, cka_debiased])
@given(k=SIZES, width=WIDTHS, seed=SEEDS)
def test_similarity_is_symmetric_and_ignores_the_order_of_the_anchors(similarity, k, width, seed):
    a, b = gram(normal(k, width, seed=seed)), gram(normal(k, 4, seed=seed + 1))
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    expected = similarity(a, b)
    torch.testing.assert_close(similarity(b, a), expected)
    torch.testing.assert_close(similarity(a[order][:, order], b[order][:, order]), expected)


@pytest.mark.parametrize("similarity", [cka, cka_debiased])
def test_similarity_falls_when_one_side_is_permuted(similarity):
    # An implementation that compared spectra alone would pass every invariance above.
    a, b = kernels(30, seed=7)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert similarity(a, b) > 0.5
    assert similarity(a, b[order][:, order]) < 0.2


@pytest.mark.parametrize("similarity", [cka, cka_debiased])
@given(k=SIZES, width=WIDTHS, seed=SEEDS)
def test_everything_is_fully_similar_to_itself(similarity, k, width, seed):
    a = gram(normal(k, width, seed=seed))
    torch.testing.assert_close(similarity(a, a), torch.ones((), dtype=torch.float64))


@given(k=SIZES, width=WIDTHS, seed=SEEDS)
def test_biased_cka_lies_between_0_and_1(k, width, seed):
    assert 0 <= cka(gram(normal(k, width, seed=seed)), gram(normal(k, width, seed=seed + 1))) <= 1


def test_unrelated_features_look_alike_only_to_the_biased_estimator():
    pairs = [(gram(normal(20, 20, seed=s)), gram(normal(20, 20, seed=10_000 + s))) for s in range(300)]
    biased = torch.stack([cka(a, b) for a, b in pairs])
    unbiased = torch.stack([cka_debiased(a, b) for a, b in pairs])
    covariance = torch.stack([hsic_unbiased(a, b) for a, b in pairs])
    assert biased.mean() > 0.45
    assert unbiased.mean().abs() < 0.01
    # Clipping at 0 would give a small mean as well; an unbiased value has to be negative half of the time.
    assert 0.35 < (unbiased < 0).double().mean() < 0.65
    assert covariance.mean().abs() < 3 * covariance.std() / 300**0.5


@given(k=st.integers(4, 40), log_size=st.floats(-9, 9))
def test_equidistant_anchors_have_debiased_similarity_0(k, log_size):
    # Of their unbiased self-HSIC only roundoff is left, of either sign: a guard at 0 alone would let 1 through.
    equidistant = 10**log_size * torch.eye(k, dtype=torch.float64)
    other = gram(normal(k, 3, seed=0))
    for structureless in (equidistant, gram(equidistant), torch.zeros_like(equidistant)):
        assert cka_debiased(structureless, other) == 0
        assert cka_debiased(other, structureless) == 0
        assert cka_debiased(structureless, structureless) == 0


def test_faint_structure_is_not_taken_for_roundoff():
    a = gram(torch.eye(12, dtype=torch.float64) + 1e-3 * normal(12, 12, seed=0))
    torch.testing.assert_close(cka_debiased(a, a), torch.ones((), dtype=torch.float64))


def test_biased_cka_of_constant_features_is_0_and_not_nan():
    assert cka(torch.zeros(5, 5, dtype=torch.float64), gram(normal(5, 3, seed=0))) == 0


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("function", [hsic_unbiased, cka_debiased])
def test_unbiased_estimators_need_four_anchors(function, k):
    a = gram(normal(k, 5, seed=0))
    with pytest.raises(AnchorError, match=f"4 anchors, got {k}"):
        function(a, a)


@pytest.mark.parametrize("function", [hsic, hsic_unbiased, cka, cka_debiased])
def test_gradients_agree_with_finite_differences(function):
    x, y = normal(6, 3, seed=0).requires_grad_(), normal(6, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda u, v: function(gram(u), gram(v)), (x, y))
