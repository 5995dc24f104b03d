import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogram.alignment import center, gram, pack, shrink, unpack
from isogram.errors import AnchorError

SEEDS = st.integers(0, 2**32)
SIZES = st.integers(2, 12)


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotation(width, seed):
    return torch.linalg.qr(normal(width, width, seed=seed))[0]


def test_center_is_multiplication_by_the_centring_matrix_on_both_sides():
    matrix = normal(7, 7, seed=0)  # not symmetric, so that the two sides differ
    middle = torch.eye(7, dtype=torch.float64) - 1 / 7
    torch.testing.assert_close(center(matrix), middle @ matrix @ middle)


def test_gram_holds_the_inner_products_of_centred_rows():
    features = normal(6, 4, seed=1) + 50
    centred = [[float(x) - sum(map(float, features[:, j])) / 6 for j, x in enumerate(row)] for row in features]
    expected = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in centred] for a in centred]
    torch.testing.assert_close(gram(features), torch.tensor(expected, dtype=torch.float64))


@given(k=SIZES, width=st.integers(1, 30), seed=SEEDS)
def test_the_gram_is_that_of_the_plain_kernel_centred(k, width, seed):
    features = normal(k, width, seed=seed)
    torch.testing.assert_close(gram(features + 3), center(features @ features.T))


@pytest.mark.parametrize("width", [3, 40])
@pytest.mark.parametrize("rho", [0.01, 0.1, 3.0])
def test_shrink_maps_each_eigenvalue_and_keeps_the_eigenvectors(width, rho):
    matrix = gram(normal(10, width, seed=2))
    values, vectors = np.linalg.eigh(matrix.numpy())
    values = values.clip(0)
    expected = (vectors * (values / (values + rho * values.mean()))) @ vectors.T
    np.testing.assert_allclose(shrink(matrix, rho).numpy(), expected, atol=1e-12)
    ridge = rho * np.trace(matrix.numpy()) / 10
    direct = matrix.numpy() @ np.linalg.inv(matrix.numpy() + ridge * np.eye(10))
    np.testing.assert_allclose(shrink(matrix, rho).numpy(), direct, atol=1e-12)


@given(k=SIZES, width=st.integers(1, 30), rho=st.floats(1e-3, 10), seed=SEEDS)
def test_shrunk_eigenvalues_lie_from_0_to_below_1(k, width, rho, seed):
    shrunk = shrink(gram(normal(k, width, seed=seed)), rho)
    torch.testing.assert_close(shrunk, shrunk.T, rtol=0, atol=0)
    values = torch.linalg.eigvalsh(shrunk)
    assert values.min() > -1e-12
    assert values.max() < 1


@given(k=SIZES, width=st.integers(1, 12), log_scale=st.floats(-6, 6), seed=SEEDS)
def test_the_shrunk_gram_ignores_unit_origin_and_rotation_of_the_features(k, width, log_scale, seed):
    features = normal(k, width, seed=seed)
    moved = 10**log_scale * (features @ rotation(width, seed + 1) + normal(width, seed=seed + 2))
    torch.testing.assert_close(shrink(gram(moved), 0.1), shrink(gram(features), 0.1), rtol=0, atol=1e-9)


def test_the_shrunk_gram_sees_a_stretched_axis():
    # Without this, a constant matrix would pass the invariance above.
    features = normal(10, 4, seed=3)
    stretched = features * torch.tensor([5.0, 1.0, 1.0, 1.0])
    assert (shrink(gram(stretched), 0.1) - shrink(gram(features), 0.1)).abs().max() > 0.1


def test_features_that_are_the_same_for_all_anchors_are_refused():
    with pytest.raises(AnchorError, match="zero"):
        shrink(gram(torch.full((5, 3), 2.0, dtype=torch.float64)), 0.1)


@given(k=st.integers(1, 30), seed=SEEDS)
def test_pack_holds_each_pair_once_and_unpack_restores_the_matrix(k, seed):
    matrix = normal(k, k, seed=seed)
    matrix = matrix + matrix.T
    triangle = pack(matrix)
    expected = [float(matrix[i, j]) for i in range(k) for j in range(i + 1)]
    assert triangle.tolist() == expected
    torch.testing.assert_close(unpack(triangle), matrix, rtol=0, atol=0)


@given(st.integers(0, 500))
def test_unpack_takes_triangular_numbers_and_no_others(length):
    if length in {k * (k + 1) // 2 for k in range(40)}:
        assert len(pack(unpack(torch.ones(length)))) == length
    else:
        with pytest.raises(AnchorError, match=str(length)):
            unpack(torch.ones(length))
