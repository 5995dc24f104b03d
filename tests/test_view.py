from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import planted
from torch.nn.functional import normalize

from isogram import federation
from isogram.alignment import cka_debiased, gram
from isogram.config import Config, ModelConfig, TrainConfig
from isogram.data import evaluation
from isogram.data.base import HeldOut
from isogram.view import EXAMPLES, FOUND, view

CONFIG = Config(
    data="machines", anchors=40, model=ModelConfig(width=48, layers=1), train=TrainConfig(rounds=1, steps=2, lr=1e-2)
)


@pytest.fixture(scope="module")
def data():
    return planted()


@pytest.fixture(scope="module")
def fed(data):
    return federation.train(federation.align(data, CONFIG))


def test_nodes_agree_after_alignment_where_their_features_did_not(data, fed):
    seen = view(data, fed.nodes)
    assert (seen.on, seen.rows, seen.paired) == ("held-out rows", 50, True)
    names, stages = seen.cka["nodes"], [np.array(seen.cka[s]) for s in ("features", "aligned", "trained")]
    assert names == ["a-1", "a-2", "b", "c"] and seen.cka["on"] == "held-out rows"
    for matrix in stages:
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-4)
        np.testing.assert_allclose(matrix.diagonal(), 1, atol=1e-4)
    off = ~np.eye(4, dtype=bool) & ~np.isin(np.arange(16).reshape(4, 4), (1, 4))
    assert (stages[1][off] > stages[0][off]).all()
    with evaluation():
        rows = [node.embed(data.held_out.tokens(node.modality)) for node in fed.nodes]
    assert stages[2][0, 3] == pytest.approx(float(cka_debiased(gram(rows[0]), gram(rows[3]))), abs=1e-4)


def test_the_map_is_a_plane_of_principal_directions(data, fed):
    seen = view(data, fed.nodes)
    first = {"a": fed.nodes[0], "b": fed.nodes[2], "c": fed.nodes[3]}
    with evaluation():
        rows = [normalize(first[m].embed(data.held_out.tokens(m)), dim=1) for m in seen.map]
        labels = data.held_out.labels("b").tolist()
    pooled = torch.cat(rows)
    spread = torch.linalg.svdvals(pooled - pooled.mean(0))
    for number, axis in enumerate("xy"):
        values = torch.tensor([v for m in seen.map for v in seen.map[m][axis]])
        assert float(values.square().sum().sqrt()) == pytest.approx(float(spread[number]), rel=1e-3)
    assert seen.map["b"]["label"] == labels


def test_examples_are_the_first_rows_and_what_is_nearest(data, fed):
    seen = view(data, fed.nodes)
    assert len(seen.examples) == 6 * EXAMPLES
    example = next(e for e in seen.examples if (e["from"], e["to"], e["query"]) == ("b", "c", 1))
    with evaluation():
        query = normalize(fed.nodes[2].embed(data.held_out.tokens("b"))[1:2], dim=1)
        gallery = normalize(fed.nodes[3].embed(data.held_out.tokens("c")), dim=1)
        label = data.classes[data.held_out.labels("b")[1]]
    cosines = (gallery @ query.T)[:, 0]
    assert [f["row"] for f in example["found"]] == cosines.topk(FOUND).indices.tolist()
    assert [f["right"] for f in example["found"]] == [f["row"] == 1 for f in example["found"]]
    assert example["label"] == label


def test_a_modality_is_shown_as_its_first_node_embeds_it(data, fed):
    """The nodes of a modality differ once their projectors were trained."""
    train = TrainConfig(rounds=1, steps=4, lr=1e-2, projector_lr=0.1)
    config = CONFIG.model_copy(update={"train": train})
    own = federation.train(federation.align(data, config))
    turned = (own.nodes[1], own.nodes[0], *own.nodes[2:])
    assert view(data, own.nodes).map != view(data, turned).map
    with evaluation():
        rows = {n.name: normalize(n.embed(data.held_out.tokens(n.modality)), dim=1) for n in own.nodes}
    example = next(e for e in view(data, own.nodes).examples if (e["from"], e["to"], e["query"]) == ("a", "b", 0))
    assert example["found"][0]["cosine"] == pytest.approx(float((rows["b"] @ rows["a-1"][0]).max()), abs=1e-4)


def test_rows_are_shown_by_their_names_where_they_have_some(data, fed):
    with evaluation():
        tokens = {m: data.held_out.tokens(m) for m in "abc"}
    named = HeldOut(tokens, {}, paired=True, private={}, ids=[f"patient-{i}" for i in range(50)])
    example = view(replace(data, held_out=named), fed.nodes).examples[1]
    assert example["name"] == "patient-1" and example["found"][0]["name"] == f"patient-{example['found'][0]['row']}"


def test_unpaired_rows_are_right_by_their_class(data, fed):
    with evaluation():
        tokens = {m: data.held_out.tokens(m)[: 50 - i] for i, m in enumerate("abc")}
        labels = {m: data.held_out.labels(m)[: 50 - i] for i, m in enumerate("abc")}
    apart = replace(data, held_out=HeldOut(tokens, labels, paired=False, private={}))
    seen = view(apart, fed.nodes)
    assert not seen.paired and seen.cka["on"] == "public anchors"
    for example in seen.examples:
        assert all(f["right"] == (f["label"] == example["label"]) for f in example["found"])


def test_without_held_out_rows_the_anchors_are_shown(data, fed):
    seen = view(replace(data, held_out=HeldOut({}, {}, paired=False, private={})), fed.nodes)
    assert (seen.on, seen.rows, seen.paired) == ("public anchors", 40, True)
    assert seen.cka["on"] == "public anchors" and set(seen.map["a"]["label"]) == {-1}


def test_nodes_without_a_common_anchor_have_no_cka_on_anchors():
    data = planted(n_anchors=60, holds={"a": range(30), "b": range(30, 60)})
    fed = federation.align(data, CONFIG)
    seen = view(replace(data, held_out=HeldOut({}, {}, paired=False, private={})), fed.nodes)
    assert seen.cka["features"][0][2] is None and seen.cka["features"][0][3] is not None
    assert "trained" not in seen.cka
