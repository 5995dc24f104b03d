"""Sensors that differ, rows standardised by site, and nodes whose data are spoilt."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from planted import planted
from site_rows import held_out, same

from isogram.config import Config
from isogram.data.base import evaluation
from isogram.data.digits import load_digits
from isogram.data.distort import KINDS, corrupt, draw_sensors, shift_sensors, standardize_sites
from isogram.data.sites import load_sites
from isogram.errors import ConfigError
from isogram.federation import gather


@pytest.fixture(scope="module")
def data():
    """Twelve sites of the published digits: every test of what may be wrong with them starts here."""
    return load_sites("digits", sites=12, iid=False, anchors=3, seed=0, rows=50)


# Sensors


def test_without_noise_a_sensor_can_be_undone(data):
    shifted, sensors = shift_sensors(data, seed=2, noise=0), draw_sensors(data, seed=2, noise=0)
    for node, raw in zip(shifted.nodes, data.nodes, strict=True):
        gain, offset = sensors[node.name].gain, sensors[node.name].offset
        assert gain.shape == raw.tokens.shape[2:] and offset and np.ptp(gain) > 0
        for recorded, true in (
            (node.tokens, raw.tokens),
            (node.anchors.tokens, data.anchors.items[node.modality].tokens),
            (held_out(shifted, node.modality, node.name), held_out(data, node.modality)),
        ):
            np.testing.assert_allclose((recorded - offset) / gain, true, atol=1e-4 * np.abs(true).max())
            assert not np.allclose(recorded, true)


def test_sensors_differ_between_nodes_as_told(data):
    for strength in (1.0, 5.0):
        sensors = draw_sensors(data, seed=0, strength=strength).values()
        scale = [float(data.anchors.items[s.name.split("-")[0]].tokens.std()) for s in sensors]
        gain = np.array([s.gain.mean() for s in sensors])
        offset = np.array([s.offset for s in sensors]) / scale / 0.2
        noise = np.array([s.noise for s in sensors]) / scale / 0.05
        for level in (gain / 1.1, np.abs(offset), noise):
            assert (1 / 1.3 / strength <= level).all() and (level <= 1.01 * strength).all()
        assert {-1, 1} == set(np.sign(offset))
        if strength == 5:
            assert max(gain) > 4 * min(gain) and max(noise) > 4 * min(noise)


def test_noise_is_the_same_each_time_but_not_the_same_everywhere(data):
    shifted, again, other = (shift_sensors(data, seed=s) for s in (0, 0, 1))
    quiet = shift_sensors(data, seed=0, noise=0)
    for a, b, c, d in zip(shifted.nodes, again.nodes, other.nodes, quiet.nodes, strict=True):
        assert same(a, b) and not same(a, c)
        looks = [held_out(s, a.modality, a.name) for s in (shifted, shifted, again, other)]
        np.testing.assert_array_equal(looks[0], looks[1])
        np.testing.assert_array_equal(looks[0], looks[2])
        assert (looks[0] != looks[3]).any()
        noise = [(a.tokens - d.tokens)[:30].ravel(), (a.anchors.tokens - d.anchors.tokens)[:30].ravel()]
        noise.append((looks[0] - held_out(quiet, a.modality, a.name))[:30].ravel())
        for one, two in combinations(noise, 2):
            assert abs(np.corrcoef(one, two)[0, 1]) < 0.1
    one, two = (s.tokens - q.tokens for s, q in zip(shifted.nodes[::3][:2], quiet.nodes[::3][:2], strict=True))
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.1


def test_only_the_modalities_named_are_shifted_and_anchors_only_if_asked(data):
    shifted = shift_sensors(data, seed=0, modalities=["pen"], anchors_too=False)
    for node, raw in zip(shifted.nodes, data.nodes, strict=True):
        assert same(node, raw) is (node.modality != "pen") and node.anchors is None
        there = held_out(shifted, node.modality, node.name)
        assert np.array_equal(there, held_out(data, node.modality)) is (node.modality != "pen")
    assert shifted.all_paired is None and held_out(shifted, "pen") is held_out(data, "pen")


@pytest.mark.parametrize("wrong", [{"strength": 0.5}, {"noise": -1}, {"modalities": ["smell"]}])
def test_impossible_sensors_are_refused(data, wrong):
    with pytest.raises(ConfigError, match="choose"):
        shift_sensors(data, seed=0, **wrong)


# standardize_sites


def test_standardized_rows_have_the_mean_and_std_of_the_public_anchors(data):
    shifted = shift_sensors(data, seed=0)
    rival = standardize_sites(shifted)
    for node in rival.nodes:
        public = data.anchors.items[node.modality].tokens
        np.testing.assert_allclose(node.tokens.mean(0), public.mean(0), atol=1e-4 * public.std())
        np.testing.assert_allclose(node.tokens.std(0), public.std(0), atol=1e-4 * public.std())


def test_standardizing_undoes_gain_and_offset_in_all_that_a_node_sees():
    """The sensor must vanish: rows, recordings and held-out rows come out as if it had never been there."""
    data = planted()
    data = replace(data, nodes=tuple(replace(node, anchors=data.anchors_of(node)) for node in data.nodes))
    alone, behind = standardize_sites(data), standardize_sites(shift_sensors(data, seed=0, noise=0))
    for one, two, raw in zip(alone.nodes, behind.nodes, data.nodes, strict=True):
        for a, b, before in (
            (one.tokens, two.tokens, raw.tokens),
            (one.anchors.tokens, two.anchors.tokens, raw.anchors.tokens),
            *[[held_out(d, one.modality, one.name) for d in (alone, behind, data)]],
        ):
            np.testing.assert_allclose(a, b, atol=1e-4 * before.std())
            assert not np.allclose(a, before, atol=0.01 * before.std())


def test_a_constant_feature_is_only_shifted():
    data = planted()
    tokens = data.nodes[0].tokens.copy()
    tokens[:, 0, 0] = 7
    data = replace(data, nodes=(replace(data.nodes[0], tokens=tokens), *data.nodes[1:]))
    rival = standardize_sites(data)
    centre = data.anchors.items["a"].tokens.mean(0)[0, 0]
    np.testing.assert_allclose(rival.nodes[0].tokens[:, 0, 0], centre, rtol=1e-5)
    seen = held_out(rival, "a", "a-1")[:, 0, 0]
    np.testing.assert_allclose(seen, held_out(data, "a")[:, 0, 0] - 7 + centre, rtol=1e-4, atol=1e-5)


# corrupt


@pytest.mark.parametrize("kind", KINDS)
def test_corruption_touches_only_the_nodes_named_and_the_seed_decides(data, kind):
    spoilt, names = corrupt(data, kind, seed=0)
    again, _ = corrupt(data, kind, seed=0)
    assert len(names) == 4 and names == corrupt(data, "few", seed=0)[1] != corrupt(data, kind, seed=1)[1]
    for node, raw, twin in zip(spoilt.nodes, data.nodes, again.nodes, strict=True):
        assert same(node, raw) is (node.name not in names) and same(node, twin)
        assert held_out(spoilt, node.modality, node.name) is held_out(data, node.modality)
    assert spoilt.anchors is data.anchors
    gather(spoilt, Config())


@pytest.mark.parametrize("seed", range(5))
def test_one_node_of_each_modality_stays_clean_and_a_larger_share_holds_the_smaller(data, seed):
    few, many, most = (set(corrupt(data, "few", share=s, seed=seed)[1]) for s in (0.25, 0.5, 1.0))
    assert [len(few), len(many), len(most)] == [3, 6, 9] and few < many < most
    assert {node.modality for node in data.nodes if node.name not in most} == set(data.modalities)


def chosen(data, kind, seed=0):
    """(node, as it was) of each spoilt node."""
    spoilt, names = corrupt(data, kind, seed=seed)
    return [(a, b) for a, b in zip(spoilt.nodes, data.nodes, strict=True) if a.name in names]


def test_noise_drowns_rows_and_recordings_apart(data):
    for node, raw in chosen(data, "noise"):
        public = data.anchors_of(raw).tokens
        for spoilt, true in ((node.tokens, raw.tokens), (node.anchors.tokens, public)):
            noise, std = spoilt - true, true.std(0)
            np.testing.assert_allclose(noise[:, std > 0].std(0).mean() / std[std > 0].mean(), 3, rtol=0.1)
            assert abs(np.corrcoef((noise / (std + 1e-9)).ravel(), true.ravel())[0, 1]) < 0.1
        n = min(len(public), len(raw.tokens))
        noise = [(node.tokens - raw.tokens)[:n], (node.anchors.tokens - public)[:n]]
        assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1


def test_labels_are_dealt_anew(data):
    right = []
    for node, raw in chosen(data, "labels"):
        np.testing.assert_array_equal(node.tokens, raw.tokens)
        np.testing.assert_array_equal(np.bincount(node.labels), np.bincount(raw.labels))
        right.append(np.mean(node.labels == raw.labels))
    assert 0.1 < np.mean(right) < 0.35  # chance is 1 in 5


def test_few_rows_are_some_of_each_class_and_their_truth_follows(data):
    spoilt, _ = corrupt(data, "few", seed=0)
    for node, raw in chosen(data, "few"):
        assert len(node.tokens) == 10 and node.classes == raw.classes
        label = {row.tobytes(): c for row, c in zip(raw.tokens, raw.labels, strict=True)}
        assert [label[row.tobytes()] for row in node.tokens] == node.labels.tolist()
        with evaluation():
            np.testing.assert_array_equal(spoilt.held_out.private_labels(node.name), node.labels)
            assert len(data.held_out.private_labels(node.name)) == 50


def test_half_of_the_anchors_have_the_recording_of_another(data):
    for node, raw in chosen(data, "anchors"):
        public = data.anchors_of(raw).tokens
        moved = (node.anchors.tokens != public).any((1, 2))
        assert moved.sum() == len(public) // 2
        assert {row.tobytes() for row in node.anchors.tokens} == {row.tobytes() for row in public}
        np.testing.assert_array_equal(node.tokens, raw.tokens)


def test_synthetic_anchors_are_near_the_neighbours_and_not_the_anchor(data):
    for node, raw in chosen(data, "synthetic"):
        public = data.anchors_of(raw).tokens.reshape(len(data.anchors), -1).astype(float)
        std = public.std(0)
        scaled = public / np.where(std > 0, std, 1)
        made = node.anchors.tokens.reshape(public.shape)
        residual = []
        for i, row in enumerate(scaled):
            others = sorted((j for j in range(len(scaled)) if j != i), key=lambda j: np.sum((scaled[j] - row) ** 2))
            residual.append(made[i] - public[others[:3]].mean(0))
        spread = np.std(residual, axis=0)[std > 0] / std[std > 0]
        np.testing.assert_allclose(spread.mean(), 0.5, rtol=0.1)
        assert (node.anchors.quality == 1).all()


def test_a_corruption_goes_over_own_recordings(data):
    shifted = shift_sensors(data, seed=0)
    spoilt, names = corrupt(shifted, "anchors", seed=0)
    for node, raw in zip(spoilt.nodes, shifted.nodes, strict=True):
        rows = {row.tobytes() for row in raw.anchors.tokens}
        assert {row.tobytes() for row in node.anchors.tokens} == rows
        assert same(node, raw) is (node.name not in names)


def test_what_cannot_be_spoilt_is_refused(data):
    with pytest.raises(ConfigError, match="no corruption 'smell'; choose one of few, noise"):
        corrupt(data, "smell", seed=0)
    with pytest.raises(ConfigError, match="share=2"):
        corrupt(data, "few", share=2, seed=0)
    with pytest.raises(ConfigError, match="take more sites"):
        corrupt(load_digits(anchors=1, seed=0), "few", share=1, seed=0)
    with pytest.raises(ConfigError, match="labels 0 classes"):
        corrupt(replace(data, nodes=tuple(replace(n, labels=None) for n in data.nodes)), "labels", seed=0)
    for kind in ("anchors", "synthetic"):
        with pytest.raises(ConfigError, match="3 anchors"):
            corrupt(data.subset_anchors(np.arange(3)), kind, seed=0)
