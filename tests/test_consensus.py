import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogram.alignment import consensus, gram, shrink
from isogram.errors import AnchorError

SEEDS = st.integers(0, 2**32)


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def federation(n_anchors, n_nodes, seed):
    """Shrunk Grams, positions and qualities of nodes that each lack some anchors, chained so that all connect."""
    rng = np.random.default_rng(seed)
    held = [sorted({0, *rng.choice(n_anchors, rng.integers(3, n_anchors + 1), replace=False)}) for _ in range(n_nodes)]
    held[0] = sorted({*held[0], *(set(range(n_anchors)) - set().union(*held))})
    indices = [torch.tensor(positions) for positions in held]
    matrices = [shrink(gram(normal(len(at), 4, seed=seed + n)), 0.1) for n, at in enumerate(indices)]
    return matrices, indices, [torch.from_numpy(rng.uniform(0.1, 1, len(at))) for at in indices]


def naive(matrices, indices, n_anchors, quality):
    """The definition, pair by pair, in plain Python numbers."""
    mean = [[0.0] * n_anchors for _ in range(n_anchors)]
    for a in range(n_anchors):
        for b in range(n_anchors):
            above = below = 0.0
            for matrix, index, q in zip(matrices, indices, quality, strict=True):
                places = index.tolist()
                if a in places and b in places:
                    i, j = places.index(a), places.index(b)
                    above += float(q[i]) * float(q[j]) * float(matrix[i, j])
                    below += float(q[i]) * float(q[j])
            mean[a][b] = above / below if below else 0.0
    rows = [sum(row) / n_anchors for row in mean]
    whole = sum(rows) / n_anchors
    centred = [[mean[a][b] - rows[a] - rows[b] + whole for b in range(n_anchors)] for a in range(n_anchors)]
    values, vectors = np.linalg.eigh(np.array(centred))
    return torch.from_numpy(sum(max(v, 0.0) * np.outer(u, u) for v, u in zip(values, vectors.T, strict=True)))


@given(n_anchors=st.integers(4, 9), n_nodes=st.integers(1, 4), seed=SEEDS)
def test_consensus_against_a_loop_over_pairs_and_nodes(n_anchors, n_nodes, seed):
    matrices, indices, quality = federation(n_anchors, n_nodes, seed)
    expected = naive(matrices, indices, n_anchors, quality)
    torch.testing.assert_close(consensus(matrices, indices, n_anchors, quality), expected, rtol=0, atol=1e-12)


@given(n_anchors=st.integers(4, 9), n_nodes=st.integers(1, 4), seed=SEEDS)
def test_no_quality_means_quality_1(n_anchors, n_nodes, seed):
    matrices, indices, quality = federation(n_anchors, n_nodes, seed)
    expected = naive(matrices, indices, n_anchors, [torch.ones_like(q) for q in quality])
    torch.testing.assert_close(consensus(matrices, indices, n_anchors), expected, rtol=0, atol=1e-12)


def test_quality_moves_the_consensus_towards_the_better_node():
    good, bad = (shrink(gram(normal(8, 3, seed=s)), 0.1) for s in (0, 1))
    everything = [torch.arange(8)] * 2
    quality = [torch.ones(8), torch.full((8,), 0.1)]
    torch.testing.assert_close(consensus([good, bad], everything, 8, quality), (good + 0.01 * bad) / 1.01)


@given(n_nodes=st.integers(1, 5), seed=SEEDS)
def test_where_every_node_holds_every_anchor_it_is_the_plain_mean(n_nodes, seed):
    matrices = [shrink(gram(normal(10, 4, seed=seed + n)), 0.1) for n in range(n_nodes)]
    found = consensus(matrices, [torch.arange(10)] * n_nodes, 10)
    torch.testing.assert_close(found, sum(matrices) / n_nodes, rtol=0, atol=1e-12)


@given(n_anchors=st.integers(4, 12), n_nodes=st.integers(1, 5), seed=SEEDS)
def test_it_is_symmetric_centred_and_positive_semi_definite(n_anchors, n_nodes, seed):
    found = consensus(*federation(n_anchors, n_nodes, seed)[:2], n_anchors)
    torch.testing.assert_close(found, found.T)
    torch.testing.assert_close(found.sum(0), torch.zeros(n_anchors, dtype=torch.float64), rtol=0, atol=1e-10)
    assert torch.linalg.eigvalsh(found).min() > -1e-10


def test_the_mean_over_differing_nodes_does_need_clipping():
    # Without such a case the test above would pass with no clipping at all.
    matrices, indices, _ = federation(9, 3, seed=5)
    total, count = torch.zeros(2, 9, 9, dtype=torch.float64)
    for matrix, index in zip(matrices, indices, strict=True):
        total[index[:, None], index] += matrix
        count[index[:, None], index] += 1
    assert torch.linalg.eigvalsh(total / count.clamp_min(1)).min() < -0.01


@given(n_nodes=st.integers(2, 5), seed=SEEDS)
def test_the_order_of_nodes_and_of_a_nodes_anchors_changes_nothing(n_nodes, seed):
    matrices, indices, quality = federation(8, n_nodes, seed)
    expected = consensus(matrices, indices, 8, quality)
    rng = np.random.default_rng(seed)
    within = [torch.from_numpy(rng.permutation(len(index))) for index in indices]
    nodes = rng.permutation(n_nodes)
    found = consensus(
        [matrices[n][within[n]][:, within[n]] for n in nodes],
        [indices[n][within[n]] for n in nodes],
        8,
        [quality[n][within[n]] for n in nodes],
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_an_anchor_that_no_node_holds_is_named():
    matrix = shrink(gram(normal(4, 3, seed=0)), 0.1)
    with pytest.raises(AnchorError, match=r"\[2, 5\] \(of 2\)"):
        consensus([matrix, matrix], [torch.tensor([0, 1, 3, 4]), torch.tensor([1, 3, 4, 6])], 7)


def test_groups_of_anchors_that_nothing_connects_are_named_until_a_node_bridges_them():
    left, right = torch.tensor([0, 2, 3, 7, 8, 9]), torch.tensor([1, 4, 5, 6])
    matrices = [shrink(gram(normal(len(at), 3, seed=0)), 0.1) for at in (left, right)]
    with pytest.raises(AnchorError, match=r"2 groups .*\[0, 2, 3, 7, 8\]\.\.\.; \[1, 4, 5, 6\]\)"):
        consensus(matrices, [left, right], 10)
    bridge = torch.tensor([3, 4])
    whole = consensus([*matrices, torch.tensor([[0.5, -0.5], [-0.5, 0.5]])], [left, right, bridge], 10)
    assert whole[3, 4] < -0.1
    apart = consensus(matrices, [left, right], 10, connected=False)
    torch.testing.assert_close(apart[left[:, None], right], torch.zeros(6, 4, dtype=torch.float64), rtol=0, atol=1e-12)


def balanced(n, seed):
    """Latent rows whose mean is 0, so that a node which holds only this block centres nothing away."""
    half = normal(n // 2, 3, seed=seed)
    return torch.cat([half, -half])


def test_a_planted_gram_is_recovered_from_blocks_that_cover_every_pair():
    latent = torch.cat([balanced(8, seed) for seed in range(3)])
    blocks = [torch.arange(0, 16), torch.arange(8, 24), torch.cat([torch.arange(8), torch.arange(16, 24)])]
    found = consensus([gram(latent[block]) for block in blocks], blocks, 24)
    torch.testing.assert_close(found, latent @ latent.T, rtol=0, atol=1e-12)


def test_nodes_with_no_anchor_in_common_align_through_a_third():
    # Three blocks of one design, held as AB and BC: the pair AC is never seen. The mean is kron(P, latent latent^T),
    # whose clipped form couples A and C by what the eigenvalues 1 +- sqrt(2) and 1 of P leave.
    one = balanced(8, seed=0)
    blocks = [torch.arange(0, 16), torch.arange(8, 24)]
    found = consensus([gram(torch.cat([one, one]))] * 2, blocks, 24)
    values, vectors = np.linalg.eigh(np.array([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]]))
    assert values[0] == pytest.approx(1 - 2**0.5)
    clipped = torch.from_numpy((vectors * values.clip(0)) @ vectors.T)
    torch.testing.assert_close(found, torch.kron(clipped, one @ one.T), rtol=0, atol=1e-12)
    assert clipped[0, 2] > 0.1


def test_noisy_nodes_with_random_halves_of_the_anchors_agree_on_the_planted_directions():
    latent = normal(40, 3, seed=0)
    rng = np.random.default_rng(0)
    indices = [torch.from_numpy(np.sort(rng.choice(40, 25, replace=False))) for _ in range(8)]
    seen = [latent[index] @ normal(3, 20, seed=n + 1) for n, index in enumerate(indices)]
    matrices = [shrink(gram(x + 0.3 * normal(25, 20, seed=n + 100)), 0.1) for n, x in enumerate(seen)]
    planted = torch.linalg.qr(latent - latent.mean(0))[0]

    def smallest_cosine(nodes):
        found = consensus([matrices[n] for n in nodes], [indices[n] for n in nodes], 40, connected=False)
        return torch.linalg.svdvals(planted.T @ torch.linalg.eigh(found)[1][:, -3:]).min()

    assert smallest_cosine(range(8)) > 0.98
    assert max(smallest_cosine([n]) for n in range(8)) < 0.9  # no node could have told alone
