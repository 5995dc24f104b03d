import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes

from isogram.alignment import canonical_frame, continue_frame
from isogram.errors import AnchorError

SEEDS = st.integers(0, 2**32)


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotation(width, seed):
    return torch.linalg.qr(normal(width, width, seed=seed))[0]


def planted(values, k=12, seed=0):
    """A centred consensus with these eigenvalues, and its eigenvectors."""
    raw = normal(k, len(values), seed=seed)
    vectors = torch.linalg.qr(raw - raw.mean(0))[0]
    return (vectors * torch.tensor(values, dtype=torch.float64)) @ vectors.T, vectors


@given(rank=st.integers(1, 4), power=st.floats(0, 4), seed=SEEDS)
def test_the_frame_is_the_planted_eigenvectors_weighted_by_their_eigenvalues(rank, power, seed):
    values = [0.9, 0.6, 0.5, 0.1]
    matrix, vectors = planted(values, seed=seed)
    frame = canonical_frame(matrix, rank, power)
    assert frame.shape == (12, rank)
    for j in range(rank):
        sign = torch.sign(frame[:, j] @ vectors[:, j])
        torch.testing.assert_close(frame[:, j], sign * vectors[:, j] * values[j] ** power, rtol=0, atol=1e-10)


@given(rank=st.integers(1, 8), power=st.floats(0.5, 3), seed=SEEDS)
def test_inner_products_in_the_frame_are_powers_of_the_consensus(rank, power, seed):
    # At full rank the frame is known without eigenvectors, hence also for eigenvalues that are equal.
    matrix, _ = planted([0.8] * rank, seed=seed)
    frame = canonical_frame(matrix, rank, power)
    torch.testing.assert_close(frame @ frame.T, 0.8 ** (2 * power - 1) * matrix, rtol=0, atol=1e-10)


@given(flips=st.lists(st.sampled_from([-1.0, 1.0]), min_size=12, max_size=12))
def test_the_same_consensus_gives_the_same_signs_whatever_the_solver_returns(flips):
    matrix, _ = planted([0.9, 0.6, 0.5, 0.1])
    expected = canonical_frame(matrix, 4, 2.0)
    values, vectors = torch.linalg.eigh(matrix)
    flipped = vectors * torch.tensor(flips, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.linalg, "eigh", lambda _: (values, flipped))
        torch.testing.assert_close(canonical_frame(matrix, 4, 2.0), expected, rtol=0, atol=0)


def test_eigenvalues_below_0_count_as_0():
    matrix, _ = planted([0.9, 0.5])
    noisy = matrix - 1e-15 * torch.eye(12, dtype=torch.float64)
    frame = canonical_frame(noisy, 11, 0.5)  # a negative value to the power 0.5 would be NaN
    torch.testing.assert_close(frame[:, :2], canonical_frame(matrix, 2, 0.5), rtol=0, atol=1e-10)
    torch.testing.assert_close(frame[:, 2:], torch.zeros(12, 9, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rank", [-1, 0, 12, 13])
def test_a_rank_that_the_anchors_cannot_carry_is_refused(rank):
    with pytest.raises(AnchorError, match=f"1..11 with 12 anchors, got {rank}"):
        canonical_frame(planted([0.9, 0.5])[0], rank, 2.0)


@given(k=st.integers(6, 15), rank=st.integers(1, 5), seed=SEEDS)
def test_continuing_undoes_any_rotation(k, rank, seed):
    previous = normal(k, rank, seed=seed)
    turned = previous @ rotation(rank, seed + 1)
    torch.testing.assert_close(continue_frame(turned, previous), previous, rtol=0, atol=1e-9)


@given(k=st.integers(2, 15), rank=st.integers(1, 8), seed=SEEDS)
def test_continuing_keeps_all_inner_products_and_agrees_with_scipy(k, rank, seed):
    frame, previous = normal(k, rank, seed=seed), normal(k, rank, seed=seed + 1)
    continued = continue_frame(frame, previous)
    torch.testing.assert_close(continued @ continued.T, frame @ frame.T, rtol=0, atol=1e-10)
    best, _ = orthogonal_procrustes(frame.numpy(), previous.numpy())
    distance = torch.linalg.norm(frame @ torch.from_numpy(best) - previous)
    torch.testing.assert_close(torch.linalg.norm(continued - previous), distance, rtol=0, atol=1e-9)


def test_a_rotation_that_moves_less_is_not_found_among_random_ones():
    frame, previous = normal(10, 4, seed=0), normal(10, 4, seed=1)
    reached = torch.linalg.norm(continue_frame(frame, previous) - previous)
    others = [torch.linalg.norm(frame @ rotation(4, seed) - previous) for seed in range(500)]
    assert reached < min(others)


def test_a_swap_of_near_equal_directions_is_followed():
    _, vectors = planted([1.0] * 4)

    def consensus(*values):
        return (vectors * torch.tensor(values, dtype=torch.float64)) @ vectors.T

    before = canonical_frame(consensus(0.9, 0.500001, 0.5, 0.1), 4, 2.0)
    after = canonical_frame(consensus(0.9, 0.5, 0.500001, 0.1), 4, 2.0)
    assert (after - before).abs().max() > 0.1  # what a node learnt about columns 1 and 2 would be lost
    torch.testing.assert_close(continue_frame(after, before), before, rtol=0, atol=1e-5)


def test_a_small_change_of_the_consensus_is_a_small_change_of_the_continued_frame():
    matrix, vectors = planted([0.9, 0.5, 0.5, 0.5, 0.1])
    frame = start = canonical_frame(matrix, 5, 2.0)
    jumps = 0
    for step in range(30):
        noise = vectors @ normal(5, 5, seed=step) @ vectors.T
        raw = canonical_frame(matrix + 1e-6 * (noise + noise.T), 5, 2.0)
        jumps += int((raw - frame).abs().max() > 0.05)
        frame = continue_frame(raw, frame)
    assert jumps > 20  # otherwise nothing had to be undone
    torch.testing.assert_close(frame, start, rtol=0, atol=1e-4)
