"""Kernels from inner products alone, and how nodes fit, chosen by anchors left out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import planted
from resumed import put_back
from scipy.spatial.distance import cdist, pdist
from sklearn.kernel_ridge import KernelRidge
from torch.testing import assert_close

from isogram import federation
from isogram.alignment import (
    Fit,
    Standardizer,
    as_kernel,
    canonical_frame,
    choose_fit,
    consensus,
    fit_map,
    gram,
    left_out,
    shrink,
    unshrink,
    ways,
)
from isogram.alignment.choice import RIDGES, SHARES
from isogram.alignment.cross_fit import cross_fit
from isogram.alignment.kernel import WIDTH, Kernel, kernel_gram
from isogram.config import AlignConfig, Config, ModelConfig, TrainConfig
from isogram.errors import MessageError

SEEDS = st.integers(0, 2**32)
START = Fit(1.0, 0.1, True)


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mixed(x, y, share):
    """The kernel between rows of x and of y, its constants by the anchors y: written out with scipy."""
    width = np.quantile(pdist(y, "sqeuclidean"), 0.5, method="lower") / WIDTH
    centring = np.eye(len(y)) - 1 / len(y)
    among = np.exp(-cdist(y, y, "sqeuclidean") / width)
    linear = share / np.trace(centring @ y @ y.T @ centring)
    bent = (1 - share) / np.trace(centring @ among @ centring)
    return linear * x @ y.T + bent * np.exp(-cdist(x, y, "sqeuclidean") / width)


@given(seed=SEEDS, share=st.floats(0.05, 0.95), scale=st.floats(0.01, 100))
def test_the_kernel_comes_from_inner_products_alone(seed, share, scale):
    x = normal(9, 4, seed=seed)
    x = scale * (x - x.mean(0))
    expected = torch.from_numpy(mixed(x.numpy(), x.numpy(), share))
    assert_close(Kernel.fit(gram(x), share)(gram(x)), expected)
    # A Gram that was shrunk has lost its scale, and the kernel does not ask for it.
    assert_close(kernel_gram(unshrink(shrink(gram(x), 0.1)), share), kernel_gram(gram(x), share), rtol=1e-6, atol=1e-9)


def test_anchors_of_which_most_are_the_same_have_the_linear_kernel():
    x = torch.zeros(9, 2, dtype=torch.float64)
    x[0, 0] = 1
    assert Kernel.fit(gram(x), 0.3) == Kernel()


@given(seed=SEEDS, k=st.integers(3, 12))
def test_unshrinking_undoes_shrinking_but_for_scale(seed, k):
    kernel = gram(normal(k, 20, seed=seed))
    assert_close(unshrink(shrink(kernel, 0.1)) * 0.1 * kernel.trace() / k, kernel, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_the_mixed_fit_is_scikit_learns_kernel_ridge(share, metric):
    anchors, rows, target = normal(25, 6, seed=0) + 2, normal(40, 6, seed=1), normal(25, 3, seed=2) + 5
    weights = normal(6, seed=3).exp() if metric else None
    standardize = Standardizer.fit(anchors, 5.0)
    stretch = 1.0 if weights is None else weights.sqrt()
    x, new = ((standardize(z) * stretch).numpy() for z in (anchors, rows))
    among, across = mixed(x, x, share), mixed(new, x, share)
    middle = among.mean(0)
    among_centred = among - middle - middle[:, None] + middle.mean()
    across_centred = across - across.mean(1, keepdims=True) - middle + middle.mean()
    model = KernelRidge(alpha=0.1 * np.trace(among_centred) / 25, kernel="precomputed")
    model.fit(among_centred, target.numpy() - target.numpy().mean(0))
    found = fit_map(anchors, target, 0.1, 5.0, weights, share=share)
    assert found.gaussians is not None
    assert_close(found(rows), torch.from_numpy(model.predict(across_centred)) + target.mean(0))
    turn = normal(3, 3, seed=4)
    assert_close(found.then(turn)(rows), found(rows) @ turn)


def test_weights_of_a_mixed_fit_that_are_all_alike_say_nothing_and_those_of_0_leave_out():
    anchors, rows, target = normal(15, 4, seed=0), normal(6, 4, seed=1), normal(15, 2, seed=2)
    alike = torch.full((15,), 0.25, dtype=torch.float64)
    plain = fit_map(anchors, target, 0.1, 5.0, share=0.3)(rows)
    assert_close(fit_map(anchors, target, 0.1, 5.0, quality=alike, share=0.3)(rows), plain)
    none = torch.ones(15, dtype=torch.float64)
    none[4] = 0
    moved = target.clone()
    moved[4] += 100
    found = [fit_map(anchors, t, 0.1, 5.0, quality=none, share=0.3)(rows) for t in (target, moved)]
    assert_close(*found)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_left_out_anchors_are_placed_as_by_fits_without_them(share):
    x, target = normal(12, 5, seed=0), normal(12, 3, seed=1)
    # Standardiser and kernel are those of all anchors: with features and width given, fits without one are the naive.
    among = kernel_gram(gram(Standardizer.fit(x, 5.0)(x)), share)
    ridge = 0.2 * among.trace() / 12
    expected = []
    for i in range(12):
        keep = torch.arange(12) != i
        inner, cross = among[keep][:, keep], among[i, keep]
        middle = inner.mean(0)
        centred = inner - middle - middle[:, None] + middle.mean()
        dual = torch.linalg.solve(centred + ridge * torch.eye(11), target[keep] - target[keep].mean(0))
        expected.append((cross - cross.mean() - middle + middle.mean()) @ dual + target[keep].mean(0))
    assert_close(left_out(x, target, 0.2, 5.0, None, share), torch.stack(expected))


def test_a_fold_is_held_out_of_frame_and_fits():
    rows = [normal(14, w, seed=w) for w in (5, 8)]
    index = [torch.arange(14), torch.tensor([0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 13])]
    rows[1] = rows[1][index[1]]
    fold, weight = torch.tensor([1, 4, 13]), [normal(len(i), seed=7).exp().clamp(0.1, 1) for i in index]
    kernels = [gram(x) for x in rows]
    parts = cross_fit(kernels, index, 14, weight, fold, rank=4, power=1.0)
    stays = torch.tensor([i for i in range(14) if i not in (1, 4, 13)])
    at = [torch.searchsorted(stays, i[torch.isin(i, stays)]) for i in index]
    own = [gram(x[torch.isin(i, stays)]) for x, i in zip(rows, index, strict=True)]
    smoothers = [k @ torch.linalg.inv(k + torch.eye(len(k))) for k in own]
    say = [q[torch.isin(i, stays)] for q, i in zip(weight, index, strict=True)]
    frame = canonical_frame(consensus(smoothers, at, 11, say, connected=False), 4, 1.0)
    for part, x, i, here, q in zip(parts, rows, index, at, say, strict=True):
        kept = x[torch.isin(i, stays)]
        assert part.held_out.tolist() == [a for a in i.tolist() if a in (1, 4, 13)]
        placed, left = part.places(0.5)
        rho = 0.5 / float((q / q.max() * (kept - q @ kept / q.sum()).square().sum(1)).sum() / len(q))
        rho *= float(q.sum() / q.max()) / len(q)
        found = fit_map(kept, frame[here], rho, None, quality=q)
        mean = q @ frame[here] / q.sum()
        assert_close(placed, found(x[~torch.isin(i, stays)]) - mean)
        j = 3
        rest = torch.arange(len(kept)) != j
        share, root = q[rest] / q[rest].sum(), (q[rest] / q.max()).sqrt()[:, None]
        centred = kept[rest] - share @ kept[rest]
        inner = root * (centred @ centred.T) * root.T
        dual = torch.linalg.solve(
            inner + 0.5 * torch.eye(len(inner)), root * (frame[here][rest] - share @ frame[here][rest])
        )
        naive = (kept[j] - share @ kept[rest]) @ centred.T @ (root * dual) + share @ frame[here][rest]
        assert_close(left[j] + mean, naive)


def noisy(seed, *, noise, n=60):
    """Two modalities of one latent, each in many features of which noise drowns most."""
    latent = normal(n, 5, seed=seed)
    return [latent @ normal(5, 80, seed=seed + i) + noise * normal(n, 80, seed=seed - i) for i in (1, 2)]


def chosen(rows, start=START, modalities="ab"):
    index = [torch.arange(len(x)) for x in rows]
    quality = [torch.ones(len(x)) for x in rows]
    matrices = [shrink(gram(x), start.ridge) for x in rows]
    way = choose_fit(matrices, index, len(rows[0]), list(modalities), start=start, rank=30, power=2.0, quality=quality)
    return ways(start)[way]


def test_what_is_set_comes_first_and_nothing_twice():
    found = ways(START)
    assert found[0] == START and len(set(found)) == len(found) == 2 * len(SHARES) * len(RIDGES)
    assert {way.decorrelate for way in ways(replace(START, decorrelate=False))} == {False}


def test_where_features_are_noise_for_the_most_part_the_ridge_is_heavier():
    heavier = [chosen(noisy(seed, noise=4.0), replace(START, ridge=0.001)).ridge for seed in range(100, 600, 100)]
    assert np.mean([ridge > 0.001 for ridge in heavier]) >= 0.6
    assert [chosen(noisy(seed, noise=0.5)) for seed in range(100, 600, 100)] == [START] * 5


def test_a_curved_relation_is_seen_by_the_kernel_that_can_bend():
    def bent(seed):
        latent = normal(80, 2, seed=seed)
        waves = (latent @ normal(2, 30, seed=seed + 2) + 6 * normal(1, 30, seed=seed + 3)).sin()
        return [latent + 0.02 * normal(80, 2, seed=seed + 1), waves + 0.02 * normal(80, 30, seed=seed + 4)]

    assert [chosen(bent(seed)).share for seed in range(0, 30, 10)] == [0.3] * 3


def test_too_few_anchors_or_one_modality_leave_it_as_it_is():
    assert chosen([x[:19] for x in noisy(100, noise=8.0)], replace(START, ridge=0.001)).ridge == 0.001
    assert chosen(noisy(100, noise=8.0), replace(START, ridge=0.001), modalities="aa").ridge == 0.001


def test_unrelated_modalities_choose_nothing():
    rows = [[normal(60, 20, seed=s), normal(60, 20, seed=s + 1)] for s in range(0, 40, 2)]
    assert np.mean([chosen(pair) != START for pair in rows]) <= 0.25  # of twelve ways, at two standard errors


def test_nodes_fit_as_the_server_says():
    data = planted(n_anchors=40)
    fed = federation.align(data, Config())
    node = fed.nodes[0]
    way = next(w for w in fed.ways if w.share < 1)
    node.fit(node.target, way)
    assert node.map.gaussians is not None and node.way == way
    assert node.own_map == way.decorrelate
    kernel = as_kernel(node.features_gram(), way.share, 0.1)
    assert_close(kernel, shrink(kernel_gram(unshrink(node.features_gram()), way.share), 0.1))
    plain = federation.align(data, Config(align=AlignConfig(choose=False)))
    assert plain.way == 0


def test_a_way_that_a_node_does_not_have_is_refused(monkeypatch):
    data = planted(n_anchors=40)
    fed = federation.gather(data, Config())
    node = fed.nodes[-1]
    assert [node.way_of(number) for number in range(len(node.ways))] == node.ways
    for number in (-1, len(node.ways)):
        with pytest.raises(MessageError, match=rf"'c' .* way {number}, .* the same version and settings"):
            node.way_of(number)
    last = len(fed.ways) - 1
    node.config = Config(align=AlignConfig(decorrelate=False))
    assert len(node.ways) <= last
    monkeypatch.setattr("isogram.aggregation.choose_fit", lambda *_: last)
    monkeypatch.setattr("isogram.federation.alignment.gather", lambda *_, **__: fed)
    with pytest.raises(MessageError, match=f"node 'c' was told to fit by way {last},"):
        federation.align(data, Config())


def test_a_choice_needs_no_message():
    data = planted(n_anchors=40)
    sent = [
        sum(
            federation.align(data, Config(align=AlignConfig(choose=choose))).ledger.sent(node.name)
            for node in data.nodes
        )
        for choose in (True, False)
    ]
    assert sent[0] == sent[1]


@pytest.mark.parametrize("decorrelate", [False, True])
def test_a_run_from_a_curved_start_begins_there_and_is_put_back_and_saved_to_the_same_bits(
    decorrelate, tmp_path, monkeypatch
):
    curved = next(n for n, w in enumerate(ways(START)) if w.share < 1 and w.decorrelate == decorrelate)
    monkeypatch.setattr("isogram.aggregation.choose_fit", lambda *_: curved)
    data = planted(n_anchors=40)
    config = Config(
        anchors=40, model=ModelConfig(width=48, layers=1), train=TrainConfig(rounds=3, steps=2, projector_lr=1e-2)
    )
    aligned = federation.align(data, config)
    begun = federation.start_training(aligned)
    for before, node in zip(aligned.nodes, begun.nodes, strict=True):
        assert node.map.gaussians is not None
        places = before.map(torch.from_numpy(node.data.tokens).double().flatten(1))
        assert_close(node.embed(node.data.tokens), places, rtol=1e-4, atol=1e-4 * float(places.abs().max()))
    straight, again, model = put_back(tmp_path, data, config)
    for node, other in zip(straight.nodes, again.nodes, strict=True):
        z = node.embed(node.data.tokens)
        assert_close(other.embed(node.data.tokens), z, rtol=0, atol=0)
        assert_close(model.embed(node.name, node.data.tokens), z, rtol=0, atol=0)


def test_coordinates_keep_their_size_under_another_way_to_fit():
    data = planted(n_anchors=40)
    node = federation.align(data, Config(align=AlignConfig(choose=False))).nodes[0]
    plain, sizes = replace(node.ways[0], decorrelate=False), []
    for ridge in (1.0, 10.0):
        node.fit(node.target, replace(plain, ridge=ridge * plain.ridge))
        left = node._unseen(node.way)
        sizes.append((left if node.turn is None else left @ node.turn).square().mean())
    assert_close(*sizes)
