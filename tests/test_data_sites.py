from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from planted import planted
from test_data_digits import stand_ins

from isogram.config import Config
from isogram.data import load
from isogram.data.base import evaluation
from isogram.data.digits import load_digits
from isogram.data.distort import KINDS, corrupt, draw_sensors, shift_sensors, standardize_sites
from isogram.data.machines import STATES, load_machines
from isogram.data.sites import STRENGTH, deal_by_class, deal_by_taste, digit_sites, load_sites
from isogram.errors import AnchorError, ConfigError, DataError, HeldOutError
from isogram.evaluation import evaluate
from isogram.federation import align, gather

NAMES = {m: [f"{m}-{i:02d}" for i in range(4)] for m in ("image", "speech", "pen")}


@pytest.fixture(scope="module")
def data():
    """Twelve sites of the published digits: every test of what may be wrong with them starts here."""
    return load_sites("digits", sites=12, iid=False, anchors=3, seed=0, rows=50)


@pytest.fixture(scope="module")
def machines():
    return load_sites("machines", sites=5, iid=False, anchors=8, seed=1, rows=40)


@pytest.fixture(scope="module")
def patients():
    return {iid: load_sites("tcga-brca", sites=9, iid=iid, anchors=20, seed=0) for iid in (True, False)}


def held_out(data, modality, node=""):
    with evaluation():
        return data.held_out.tokens(modality, node)


def contents(data, modality):
    """Rows by where they are: each node, the anchors, the held-out rows."""
    own = [node.tokens for node in data.nodes if node.modality == modality]
    return [[row.tobytes() for row in rows] for rows in (*own, data.anchors.items[modality].tokens)] + [
        [row.tobytes() for row in held_out(data, modality)]
    ]


def same(a, b):
    """Whether two nodes hold the same bits, own anchors included."""
    own = [node.anchors.tokens if node.anchors else np.zeros(0) for node in (a, b)]
    return all(np.array_equal(x, y) for x, y in ((a.tokens, b.tokens), (a.labels, b.labels), own))


# load_sites


@pytest.mark.parametrize("iid", [True, False])
def test_every_digit_is_dealt_once_and_keeps_its_label(iid):
    data = digit_sites(stand_ins(), NAMES, iid=iid, anchors=5, seed=0, rows=50)
    for node in data.nodes:
        np.testing.assert_array_equal(node.tokens.ravel() % 10, node.labels)
        np.testing.assert_array_equal(np.unique(np.bincount(node.labels)[list(node.classes)]), 5 if iid else 10)
        with evaluation():
            np.testing.assert_array_equal(data.held_out.private_labels(node.name), node.labels)
    for modality in NAMES:
        rows = [row for part in contents(data, modality) for row in part]
        assert len(set(rows)) == len(rows) == 4 * 50 + 50 + 500


@pytest.mark.parametrize("sites", [4, 12, 48])
def test_sites_are_dealt_to_the_modalities_in_turn(sites):
    data = load_sites("digits", sites=sites, iid=False, anchors=2, seed=0)
    assert [node.modality for node in data.nodes[:4]] == ["image", "speech", "pen", "image"]
    assert [node.name for node in data.nodes[2:4]] == ["pen-00", "image-01"] and len(data.nodes) == sites
    # 230 spoken rows a digit are left for 16 nodes of half the digits each: 28 of each to a node.
    sizes = {(node.modality, len(node.tokens)) for node in data.nodes}
    assert sizes == {("image", 150), ("speech", 140 if sites == 48 else 150), ("pen", 150)}
    assert {len(node.classes) for node in data.nodes} == {5}
    for modality in data.modalities:
        classes = [node.classes for node in data.nodes if node.modality == modality]
        assert len(set().union(*classes)) == (10 if len(classes) > 1 else 5)
    if sites > 4:
        assert len({node.classes for node in data.nodes}) > 4  # not the same halves everywhere


def test_held_out_rows_and_anchors_are_those_of_the_data_set(data, machines):
    alone = load_digits(anchors=3, seed=0)
    assert data.anchors.hash == alone.anchors.hash and data.held_out.hash == alone.held_out.hash
    assert machines.held_out.hash == load_machines(anchors=2, seed=1).held_out.hash


def test_seed_and_number_of_sites_decide(data):
    again, other = (load_sites("digits", sites=12, iid=False, anchors=3, seed=s, rows=50) for s in (0, 1))
    assert all(same(a, b) for a, b in zip(data.nodes, again.nodes, strict=True))
    assert not any(same(a, b) for a, b in zip(data.nodes, other.nodes, strict=True))
    fewer = load_sites("digits", sites=6, iid=True, anchors=3, seed=0)
    assert fewer.anchors.hash == data.anchors.hash and fewer.held_out.hash == data.held_out.hash


def test_the_built_in_sites_have_a_sensor_five_digits_and_labels_each():
    config = Config(data="digits-sites")
    data = load(config.data, anchors=config.anchors, seed=0)
    assert len(data.anchors) == 50 and len(data.nodes) == 12
    gains = {}
    for node in data.nodes:
        plain = load_sites("digits", sites=12, iid=False, anchors=5, seed=0)
        public, own = plain.anchors.items[node.modality].tokens, data.anchors_of(node).tokens
        gains[node.name] = np.polyfit(public.ravel(), own.ravel(), 1)[0]
        assert len(node.tokens) == 150 and len(node.classes) == 5
        assert not np.array_equal(held_out(data, node.modality, node.name), held_out(data, node.modality))
    spread = np.array(list(gains.values()))
    assert len(set(gains.values())) == 12
    assert spread.min() > 0.8 / STRENGTH and spread.max() < 1.2 * STRENGTH and spread.max() / spread.min() > 3
    for modality in data.modalities:
        held = [set(node.classes) for node in data.nodes if node.modality == modality]
        assert len(held) == 4 and set.union(*held) == set(range(10))


def test_machines_hold_three_states_each_in_the_fleets_proportions(machines):
    assert [node.name for node in machines.nodes[-2:]] == ["log-01", "vibration-02"] and machines.held_out.paired
    for modality in machines.modalities:
        classes = [node.classes for node in machines.nodes if node.modality == modality]
        assert {len(c) for c in classes} == {3} and sorted(classes[0] + classes[1]) == list(range(len(STATES)))
    rows = [row for part in contents(machines, "vibration") for row in part]
    assert len(set(rows)) == len(rows) == 3 * 40 + 8 + 300
    alike = load_sites("machines", sites=2, iid=True, anchors=8, seed=1, rows=100)
    assert [node.classes for node in alike.nodes] == [tuple(range(6))] * 2
    assert alike.anchors.hash == machines.anchors.hash
    assert len(machines.all_paired()) == 8 + 5 * 40


def test_patients_are_dealt_once_and_skewed_only_if_asked(patients):
    spread = {}
    for iid, data in patients.items():
        assert sorted(len(n.tokens) for n in data.nodes) == [46] * 8 + [47]
        assert data.name == "tcga-brca-sites" and "RNA nodes" not in data.notes[0]
        for modality in data.modalities:
            parts = contents(data, modality)
            assert sum(map(len, parts)) == len(set().union(*parts)) == sum(map(len, parts[:3])) + 20 + 154
        shares = np.array([np.bincount(n.labels, minlength=5) / len(n.labels) for n in data.nodes])
        spread[iid] = np.abs(shares - shares.mean(0)).sum(1).mean()
        whole = {row.tobytes(): i for i, row in enumerate(data.all_paired().items["rna"].tokens)}
        assert all(row.tobytes() in whole for row in data.nodes[0].tokens)
    assert spread[False] > 2 * spread[True]
    assert patients[True].held_out.hash == patients[False].held_out.hash


def test_what_a_class_lacks_is_lacking_at_all_its_nodes():
    labels = np.repeat([0, 1], [100, 7])
    dealt = deal_by_class(np.arange(107), labels, [np.array([0, 1]), np.array([1]), np.array([0])], 20)
    assert [np.bincount(labels[rows], minlength=2).tolist() for rows in dealt] == [[10, 3], [0, 3], [20, 0]]


def test_every_row_is_taken_by_somebody_even_if_nobody_prefers_it():
    labels = np.repeat([0, 1, 2], [10, 10, 1])
    draw = np.random.default_rng(0)
    hands = deal_by_taste(np.arange(21), labels, np.array([[1.0, 0, 0], [0, 1, 0]]), 50, draw)
    assert sorted(np.concatenate(hands).tolist()) == list(range(21)) and [len(h) for h in hands] == [11, 10]
    assert np.bincount(labels[hands[0]]).tolist() == [10, 0, 1] and (labels[hands[1]] == 1).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "files"}, "no data set 'files' of several sites; choose one of digits"),
        ({"sites": 2}, "sites=2, but digits has 3 modalities"),
        ({"rows": 9}, "rows=9"),
        ({"anchors": 21}, "anchors=21 per digit"),
        ({"source": "machines", "anchors": 1}, "anchors=1"),
        ({"source": "tcga-brca", "anchors": 201}, "pool of 200"),
    ],
)
def test_what_cannot_be_dealt_is_refused(change, said):
    arguments = {"source": "digits", "sites": 12, "iid": True, "anchors": 3, "seed": 0} | change
    with pytest.raises((ConfigError, AnchorError), match=said):
        load_sites(arguments.pop("source"), **arguments)


# Own recordings and views


def test_own_recordings_are_of_the_public_anchors_and_follow_a_subset(data):
    shifted = shift_sensors(data, seed=0)
    keep = np.array([1, 4, 29])
    some = shifted.subset_anchors(keep)
    for node, whole in zip(some.nodes, shifted.nodes, strict=True):
        np.testing.assert_array_equal(some.anchors_of(node).tokens, whole.anchors.tokens[keep])
        np.testing.assert_array_equal(node.anchors.index, [0, 1, 2])
    assert some.anchors.hash == data.anchors.subset(keep).hash
    with pytest.raises(AnchorError, match="'image-00'.*subset_anchors"):
        replace(shifted, anchors=data.anchors.subset(keep))


def test_a_subset_follows_where_a_modality_lacks_anchors():
    data = planted(holds={"a": np.arange(0, 40, 2)})
    own = replace(data.anchors.items["a"], tokens=data.anchors.items["a"].tokens + 1)
    data = replace(data, nodes=(replace(data.nodes[0], anchors=own), *data.nodes[1:]))
    some = data.subset_anchors(np.array([1, 2, 3, 4]))
    np.testing.assert_array_equal(some.nodes[0].anchors.index, [1, 3])
    np.testing.assert_array_equal(some.nodes[0].anchors.tokens, own.tokens[[1, 2]])
    assert some.nodes[1].anchors is None


def test_a_federation_runs_on_own_recordings(data):
    shifted = shift_sensors(data, seed=0)
    fed = gather(shifted, Config())
    for node in fed.nodes:
        own = next(n.anchors.tokens for n in shifted.nodes if n.name == node.name)
        np.testing.assert_array_equal(node.anchors.numpy(), own.reshape(len(own), -1).astype(float))
    assert fed.anchor_hash == data.anchors.hash


def test_held_out_rows_are_embedded_as_the_node_sees_them():
    data = planted()
    views = {"a-2": lambda rows: rows + 1}
    shifted = replace(data, held_out=data.held_out.seen_through(views).seen_through({"a-2": lambda rows: rows * 2}))
    seen = {}

    def embed(name):
        def f(tokens):
            seen[name] = tokens
            return align_once[name](tokens)

        return f

    align_once = {node.name: node.embed for node in align(data, Config()).nodes}
    evaluate(shifted, {n.name: embed(n.name) for n in data.nodes}, None)
    np.testing.assert_array_equal(seen["a-1"], held_out(data, "a"))
    np.testing.assert_array_equal(seen["a-2"], (held_out(data, "a") + 1) * 2)
    np.testing.assert_array_equal(held_out(data, "a", "a-2"), held_out(data, "a"))  # the first is as it was
    with pytest.raises(HeldOutError):
        shifted.held_out.tokens("a", "a-2")
    with pytest.raises(DataError, match=r"seen by 'b'.*keep the shape"):
        held_out(replace(data, held_out=data.held_out.seen_through({"b": lambda rows: rows[1:]})), "b", "b")


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
