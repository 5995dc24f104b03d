import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import null_space
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from isogram.alignment import (
    Standardizer,
    canonical_frame,
    center,
    consensus,
    feature_metric,
    fit_map,
    gram,
    shrink,
)
from isogram.alignment.oneshot import metric_gram
from isogram.errors import AnchorError
from isogram.evaluation import retrieval

SEEDS = st.integers(0, 2**32)
CLIP = 5.0


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def standardised(anchors, rows, clip=CLIP):
    """By scikit-learn; the features must vary."""
    scaler = StandardScaler().fit(anchors.numpy())
    return tuple(scaler.transform(x.numpy()).clip(-clip, clip) for x in (anchors, rows))


def ridge(anchors, target, rows, rho, metric=None, clip=CLIP):
    """Predictions of scikit-learn's primal ridge with an intercept, under the penalty that `fit_map` promises."""
    x, new = standardised(anchors, rows, clip)
    stretch = 1.0 if metric is None else metric.numpy() ** 0.5
    middle = (x * stretch).mean(0)
    alpha = rho * ((x * stretch - middle) ** 2).sum() / len(x)
    return Ridge(alpha, solver="svd").fit(x * stretch, target.numpy()).predict(new * stretch)


@given(k=st.integers(2, 20), width=st.integers(1, 10), clip=st.sampled_from([0.5, 1.5, 5.0]), seed=SEEDS)
def test_standardizer_is_that_of_scikit_learn_clipped(k, width, clip, seed):
    anchors, rows = 3 * normal(k, width, seed=seed) + 7, 9 * normal(5, width, seed=seed + 1)
    standardize = Standardizer.fit(anchors, clip)
    for found, expected in zip(map(standardize, (anchors, rows)), standardised(anchors, rows, clip), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6, -3e-8])
def test_a_feature_that_is_constant_over_the_anchors_says_nothing_of_any_row(value):
    anchors = torch.stack([torch.full((9,), value), torch.arange(9.0)], 1)  # float32, as tokens are
    standardize = Standardizer.fit(anchors, CLIP)
    rows = standardize(torch.tensor([[value + 1, 4.0], [1e9, 4.0]]))
    torch.testing.assert_close(rows, torch.zeros(2, 2, dtype=torch.float64))


@given(log_units=st.lists(st.floats(-12, 12), min_size=4, max_size=4), seed=SEEDS)
def test_standardised_features_have_no_unit(log_units, seed):
    anchors, units = normal(8, 4, seed=seed), 10 ** torch.tensor(log_units, dtype=torch.float64)
    found = Standardizer.fit(anchors * units, CLIP)(anchors * units)
    torch.testing.assert_close(found, Standardizer.fit(anchors, CLIP)(anchors))


@pytest.mark.parametrize(("k", "width"), [(30, 4), (12, 12), (8, 40)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rho", [0.01, 1.0])
def test_the_dual_fit_is_scikit_learns_ridge(k, width, weighted, rho):
    # The target is off-centre, as a node's rows of the frame are when it lacks anchors: the intercept has to carry it.
    anchors, rows, target = normal(k, width, seed=0) + 2, normal(50, width, seed=1), normal(k, 3, seed=2) + 5
    metric = normal(width, seed=3).exp() if weighted else None
    found = fit_map(anchors, target, rho, CLIP, metric)(rows)
    np.testing.assert_allclose(found.numpy(), ridge(anchors, target, rows, rho, metric), atol=1e-9)


def test_the_fit_is_kernel_ridge_on_centred_features_and_target():
    anchors, rows, target = normal(10, 25, seed=0), normal(7, 25, seed=1), normal(10, 4, seed=2) + 1
    x, new = standardised(anchors, rows)
    model = KernelRidge(alpha=0.1 * (x**2).sum() / 10, kernel="linear").fit(x, target.numpy() - target.numpy().mean(0))
    expected = model.predict(new - x.mean(0)) + target.numpy().mean(0)
    np.testing.assert_allclose(fit_map(anchors, target, 0.1, CLIP)(rows).numpy(), expected, atol=1e-9)


def test_clipping_moves_the_middle_and_the_fit_follows():
    anchors, target = normal(20, 5, seed=0), normal(20, 3, seed=1)
    anchors[0] += 40
    rows = torch.cat([anchors, normal(5, 5, seed=2)])
    found = fit_map(anchors, target, 0.1, 1.0)(rows)
    assert Standardizer.fit(anchors, 1.0)(anchors).mean(0).abs().min() > 0.05
    np.testing.assert_allclose(found.numpy(), ridge(anchors, target, rows, 0.1, clip=1.0), atol=1e-9)
    torch.testing.assert_close(found[:20].mean(0), target.mean(0))


def test_a_feature_of_weight_0_has_no_influence():
    anchors, target = normal(12, 5, seed=0), normal(12, 2, seed=1)
    metric = torch.tensor([1.0, 2.0, 0.0, 1.0, 0.5], dtype=torch.float64)
    others = [0, 1, 3, 4]
    found = fit_map(anchors, target, 0.1, CLIP, metric)
    assert (found.weight[2] == 0).all()
    torch.testing.assert_close(
        found.weight[others], fit_map(anchors[:, others], target, 0.1, CLIP, metric[others]).weight
    )


def test_anchors_that_look_all_the_same_are_refused():
    with pytest.raises(AnchorError, match="do not vary"):
        fit_map(torch.ones(6, 3), normal(6, 2, seed=0), 0.1, CLIP)


def test_feature_metric_against_a_loop_over_features():
    features, others = normal(9, 6, seed=0) + 1, shrink(gram(normal(9, 3, seed=1)), 0.1)
    features[:, 4] = 2.0
    power = np.linalg.multi_dot([others.numpy()] * 3)
    # Chance: what a direction orthogonal to the constant scores on average.
    chance = np.mean([u @ power @ u for u in null_space(np.ones((1, 9))).T])
    scores = [x @ power @ x / (x @ x) / chance if x.any() else None for x in (features - features.mean(0)).numpy().T]
    assert scores[4] is None
    assert 0 < sum(score is not None and score < 0.7 for score in scores) < 5  # some reach the floor, not all
    weights = np.array([0.0 if score is None else max(score, 0.7) ** 2 for score in scores])
    found = feature_metric(features, others, power=3, sharpness=2.0, floor=0.7)
    np.testing.assert_allclose(found.numpy(), weights / weights.mean())


@given(seed=SEEDS, log_units=st.lists(st.floats(-6, 6), min_size=5, max_size=5))
def test_the_metric_has_mean_1_and_ignores_units_and_origins(seed, log_units):
    features, others = normal(12, 5, seed=seed), shrink(gram(normal(12, 3, seed=seed + 1)), 0.1)
    metric = feature_metric(features, others)
    torch.testing.assert_close(metric.mean(), torch.ones((), dtype=torch.float64))
    units = 10 ** torch.tensor(log_units, dtype=torch.float64)
    moved = units * (features + normal(5, seed=seed + 2))
    torch.testing.assert_close(feature_metric(moved, others), metric, rtol=1e-4, atol=1e-9)


def test_the_metric_weighs_each_features_share_of_the_gram():
    features, metric = normal(7, 5, seed=0), normal(5, seed=1).exp()
    expected = sum(w * gram(x[:, None]) for w, x in zip(metric, features.T, strict=True))
    torch.testing.assert_close(metric_gram(features, metric), expected)
    torch.testing.assert_close(metric_gram(features, None), gram(features))


def test_features_that_agree_with_the_others_outweigh_noise():
    latent = normal(40, 3, seed=0)
    others = shrink(gram(latent @ normal(3, 20, seed=1)), 0.1)
    features = torch.cat([latent @ normal(3, 5, seed=2) + 0.3 * normal(40, 5, seed=3), normal(40, 50, seed=4)], 1)
    metric = feature_metric(features, others)
    assert metric[:5].min() > 20 * metric[5:].max()


def test_others_that_hold_none_of_the_anchors_leave_all_features_alike():
    features = normal(6, 4, seed=0)
    # The consensus of nodes that hold other anchors is 0 here up to roundoff, and roundoff must not become weights.
    elsewhere = torch.arange(6, 15)
    held = consensus([shrink(gram(normal(9, 3, seed=1)), 0.1)], [elsewhere], 15, connected=False)[:6, :6]
    for nothing in (torch.zeros(6, 6, dtype=torch.float64), held, center(1e-17 * normal(6, 6, seed=2))):
        torch.testing.assert_close(feature_metric(features, nothing), torch.ones(4, dtype=torch.float64))


def silos(latents, widths, noise, seed):
    """Observations through a random linear sensor per silo."""
    for n, (latent, width) in enumerate(zip(latents, widths, strict=True)):
        sensor = normal(latent.shape[1], width, seed=seed + n)
        yield (
            latent @ sensor
            + noise * normal(len(latent), width, seed=seed + 100 + n)
            + 10 * normal(width, seed=seed + 200 + n)
        )


@pytest.mark.parametrize("learn_metric", [False, True])
def test_silos_that_share_latents_find_each_others_rows_and_unrelated_ones_do_not(learn_metric):
    def recall(latents):
        silo = list(silos(latents, (20, 40, 90), 0.1, seed=50))
        anchors, rows = [x[:60] for x in silo], [x[60:] for x in silo]
        features = [Standardizer.fit(x, CLIP)(x) for x in anchors]
        metrics = [None] * 3
        everything = [torch.arange(60)] * 3
        if learn_metric:
            grams = [shrink(gram(x), 0.1) for x in features]
            others = [consensus([g for m, g in enumerate(grams) if m != n], everything[1:], 60) for n in range(3)]
            metrics = [feature_metric(x, other) for x, other in zip(features, others, strict=True)]
        grams = [shrink(metric_gram(x, metric), 0.1) for x, metric in zip(features, metrics, strict=True)]
        frame = canonical_frame(consensus(grams, everything, 60), 30, 2.0)
        maps = [fit_map(x, frame, 0.1, CLIP, metric) for x, metric in zip(anchors, metrics, strict=True)]
        u = [f(x) for f, x in zip(maps, rows, strict=True)]
        return [retrieval(u[a], u[b], (1,))[0] for a in range(3) for b in range(3) if a != b]

    shared = normal(260, 8, seed=0)
    assert min(recall([shared] * 3)) > 0.9
    # Chance is 1 in 200. The anchors of unrelated silos are fitted just as well, so only new rows can tell.
    assert max(recall([normal(260, 8, seed=s) for s in range(3)])) <= 0.03


@given(k=st.integers(3, 12), width=st.integers(1, 9), rank=st.integers(1, 4), seed=SEEDS)
def test_a_weighted_fit_is_scikit_learns_ridge_with_sample_weights(k, width, rank, seed):
    anchors, target, rows = normal(k, width, seed=seed), normal(k, rank, seed=seed + 1), normal(4, width, seed=seed + 2)
    q = torch.rand(k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 0.99 + 0.01
    q[0] = 1.0  # weights are relative to the largest
    x, new = standardised(anchors, rows)
    middle = np.average(x, axis=0, weights=q)
    alpha = 0.3 * np.average(((x - middle) ** 2).sum(1), weights=q)
    expected = Ridge(alpha, solver="svd").fit(x, target.numpy(), sample_weight=q.numpy()).predict(new)
    for scale in (1.0, 0.01):
        found = fit_map(anchors, target, 0.3, CLIP, quality=scale * q)(rows)
        np.testing.assert_allclose(found.numpy(), expected.reshape(found.shape), atol=1e-7)


@given(k=st.integers(3, 12), seed=SEEDS)
def test_weights_are_repeated_rows(k, seed):
    """Fitting n_a copies of anchor a is weighing it n_a, under the ridge of one copy of the most frequent one."""
    times = torch.randint(1, 4, (k,), generator=torch.Generator().manual_seed(seed))
    anchors, target = normal(k, 6, seed=seed), normal(k, 3, seed=seed + 1)
    repeated = fit_map(anchors.repeat_interleave(times, 0), target.repeat_interleave(times, 0), 0.3, None)
    weighted = fit_map(anchors, target, 0.3 / float(times.max()), None, quality=times.double() / times.max())
    torch.testing.assert_close(weighted.weight, repeated.weight, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(weighted.bias, repeated.bias, atol=1e-9, rtol=1e-9)


@given(k=st.integers(4, 12), seed=SEEDS)
def test_equal_weights_are_none_to_the_last_bit_and_weight_0_is_absence(k, seed):
    anchors, target = normal(k, 6, seed=seed), normal(k, 3, seed=seed + 1)
    plain = fit_map(anchors, target, 0.1, CLIP)
    equal = fit_map(anchors, target, 0.1, CLIP, quality=torch.ones(k))
    assert torch.equal(plain.weight, equal.weight) and torch.equal(plain.bias, equal.bias)
    without = fit_map(anchors[1:], target[1:], 0.1, None)
    zero = fit_map(anchors, target, 0.1, None, quality=torch.cat([torch.zeros(1), torch.ones(k - 1)]))
    torch.testing.assert_close(zero.weight, without.weight)
    torch.testing.assert_close(zero.bias, without.bias)
