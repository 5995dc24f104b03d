"""Rows dealt to sites, each with its sensor: who has which, and what cannot be dealt."""

from dataclasses import replace

import numpy as np
import pytest
from planted import planted
from site_rows import contents, held_out, same
from test_data_digits import stand_ins

from isogram.config import Config
from isogram.data import load
from isogram.data.base import evaluation
from isogram.data.digits import load_digits
from isogram.data.distort import shift_sensors
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
