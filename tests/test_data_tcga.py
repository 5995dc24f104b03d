import numpy as np
import pytest

from isogram.data import evaluation, load
from isogram.data.tcga import MODALITIES, site_groups
from isogram.errors import AnchorError


@pytest.fixture(scope="module")
def data():
    return load("tcga-brca", anchors=100, seed=3)


def contents(tokens):
    return {row.tobytes() for row in tokens}


def parts(data, modality):
    """Rows by where they are: each node, the anchors, the held-out rows."""
    with evaluation():
        found = {"anchors": data.anchors.items[modality].tokens, "held-out": data.held_out.tokens(modality)}
    return found | {node.name: node.tokens for node in data.nodes if node.modality == modality}


def test_shapes_nodes_and_labels(data):
    assert [node.name for node in data.nodes] == [f"{m}-{i}" for m in MODALITIES for i in (1, 2, 3)]
    widths = {"rna": (8, 750), "meth": (8, 750), "mirna": (8, 63)}
    for node in data.nodes:
        assert node.tokens.shape[1:] == widths[node.modality] and len(node.tokens) > 20
        assert (node.labels is not None) is (node.modality == "rna")
    assert sum(len(node.tokens) for node in data.nodes) == 769 - 354 and len(data.anchors) == 100
    assert data.held_out.paired and len(parts(data, "rna")["held-out"]) == 154


@pytest.mark.parametrize("modality", MODALITIES)
def test_no_row_is_in_two_places(data, modality):
    found = [contents(rows) for rows in parts(data, modality).values()]
    assert sum(map(len, found)) == len(set.union(*found))


def test_no_patient_is_private_in_two_modalities(data):
    """Rows of all patients in order tell who is who."""
    whole = data.all_paired().items
    place = {m: {row.tobytes(): i for i, row in enumerate(whole[m].tokens)} for m in MODALITIES}
    patients = [{place[node.modality][row.tobytes()] for row in node.tokens} for node in data.nodes]
    assert sum(map(len, patients)) == len(set.union(*patients))


def test_the_upper_bound_has_everybody_but_the_held_out(data):
    for modality in MODALITIES:
        rest = contents(data.all_paired().items[modality].tokens)
        assert len(rest) == 615 and not rest & contents(parts(data, modality)["held-out"])


def test_sites_are_not_split_and_groups_are_alike_in_size():
    patients = tuple(
        f"TCGA-{site}-{i:04d}" for site, n in (("AA", 9), ("BB", 5), ("CC", 4), ("DD", 3)) for i in range(n)
    )
    groups = site_groups(patients)
    assert {len(set(groups[[p[5:7] == s for p in patients]])) for s in ("AA", "BB", "CC", "DD")} == {1}
    assert sorted(np.bincount(groups)) == [5, 7, 9]


def test_tuning_touches_no_test_patient(data):
    tuning = load("tcga-brca-tuning", anchors=100, seed=3)
    for modality in MODALITIES:
        test = contents(parts(data, modality)["held-out"])
        rows = set.union(*(contents(r) for r in parts(tuning, modality).values()))
        assert not test & (rows | contents(tuning.all_paired().items[modality].tokens))
        assert len(parts(tuning, modality)["held-out"]) == 100


@pytest.mark.parametrize(("name", "common"), [("tcga-brca-chain", 0), ("tcga-brca-chain20", 20), ("tcga-brca", 100)])
def test_how_many_anchors_rna_and_methylation_share(name, common):
    items = load(name, anchors=100, seed=0).anchors.items
    assert len(np.intersect1d(items["rna"].index, items["meth"].index)) == common
    assert len(items["mirna"].index) == 100 and len(items["rna"].index) == len(items["meth"].index) == 50 + common // 2


def test_fewer_anchors_are_a_prefix_and_change_nothing_else(data):
    fewer = load("tcga-brca", anchors=25, seed=3)
    assert fewer.anchors.ids == data.anchors.ids[:25]
    for one, two in zip(fewer.nodes, data.nodes, strict=True):
        np.testing.assert_array_equal(one.tokens, two.tokens)


def test_more_anchors_than_the_pool_are_refused():
    with pytest.raises(AnchorError, match="pool of 200"):
        load("tcga-brca", anchors=201, seed=0)
    with pytest.raises(AnchorError, match="pool of 100"):
        load("tcga-brca-tuning", anchors=101, seed=0)
