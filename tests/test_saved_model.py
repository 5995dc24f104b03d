import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from damage import KINDS, places, spoil, with_wrong
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted import planted
from torch.testing import assert_close

from isogram import federation
from isogram.alignment import classes
from isogram.alignment.classes import classify
from isogram.checkpoint import final_model
from isogram.config import AlignConfig, Config, ModelConfig, TrainConfig
from isogram.data import evaluation
from isogram.errors import DataError, IsogramError
from isogram.inference import Model
from isogram.model import SavedModel
from isogram.model.card import card, python
from isogram.tensor_file import read_tensors, write_tensors

CONFIG = Config(
    data="machines",
    anchors=40,
    model=ModelConfig(width=48, layers=1),
    train=TrainConfig(rounds=1, steps=3, lr=1e-2, projector_lr=1e-2),
)


@pytest.fixture(scope="module")
def data():
    return planted()


@pytest.fixture(scope="module", params=["aligned", "trained", "no trunk"])
def fed(request, data):
    config = CONFIG
    if request.param == "no trunk":
        config = config.model_copy(update={"model": ModelConfig(trunk="none")})
    fed = federation.align(data, config)
    return fed if request.param == "aligned" else federation.train(fed)


def test_a_saved_model_embeds_as_the_nodes_do(fed, data, tmp_path):
    path = tmp_path / "model.safetensors"
    final_model(fed, data).save(path)
    model = SavedModel.load(path)
    with evaluation():
        for node in fed.nodes:
            rows = data.held_out.tokens(node.modality)
            assert_close(model.embed(node.name, rows), node.embed(rows), rtol=0, atol=0)
    assert_close(model.frame, fed.frame, rtol=0, atol=0)
    assert_close(model.head, fed.head, rtol=0, atol=0, equal_nan=True)
    assert (model.classes, model.anchor_hash) == (data.classes, data.anchors.hash)


@pytest.mark.parametrize("train", [False, True])
def test_waves_of_a_class_part_are_kept(data, tmp_path, train):
    fed = federation.align(data, CONFIG)
    node = fed.nodes[2]
    waves = classes.random_waves(node.standardize, torch.Generator().manual_seed(0))
    width, r = node.map.weight.shape
    weights = torch.randn(width + len(waves.phase), r, generator=torch.Generator().manual_seed(1)).double()[:, :1]
    weights = weights @ torch.ones(1, r, dtype=torch.float64) / 100
    waves = replace(waves, weight=weights[width:])
    before = node.map
    node.class_part = replace(before, weight=weights[:width], waves=waves)
    node.map = node._fitted(slice(None))
    fed = federation.train(fed) if train else fed
    final_model(fed, data).save(tmp_path / "model")
    with evaluation():
        rows = data.held_out.tokens(node.modality)
        found = SavedModel.load(tmp_path / "model").embed(node.name, rows)
        own = next(n for n in fed.nodes if n.name == node.name).embed(rows)
    assert_close(found, own, rtol=0, atol=0)
    flat = torch.from_numpy(rows).double().flatten(1)
    assert (found - replace(node.map, waves=None)(flat)).abs().max() > 0.1


def test_the_same_model_is_the_same_bytes(fed, data, tmp_path):
    for name in ("one", "two"):
        final_model(fed, data).save(tmp_path / name)
    SavedModel.load(tmp_path / "one").save(tmp_path / "again")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == (tmp_path / "again").read_bytes()


def test_a_file_of_the_format_before_is_read(data, tmp_path):
    """In it maps are linear and nothing is kept."""
    plain = CONFIG.model_copy(update={"align": AlignConfig(choose=False, propagate=False)})
    fed, path = federation.train(federation.align(data, plain)), tmp_path / "model"
    final_model(fed, data).save(path)
    tensors, about = read_tensors(path)
    assert not [name for name in tensors if "Waves-" in name or "Gaussians-" in name or name.startswith("kept/")]
    write_tensors(path, tensors, about | {"format": "isogram-model-2"})
    node = fed.nodes[0]
    assert_close(SavedModel.load(path).embed(node.name, node.data.tokens), node.embed(node.data.tokens), rtol=0, atol=0)


def test_a_model_without_labels_has_no_head(data, tmp_path):
    bare = replace(data, nodes=tuple(replace(node, labels=None) for node in data.nodes))
    final_model(federation.align(bare, CONFIG), data).save(tmp_path / "model")
    assert SavedModel.load(tmp_path / "model").head is None


def test_a_file_that_is_no_model_is_told(tmp_path):
    (tmp_path / "text").write_text("hello")
    for name in ("text", "none"):
        with pytest.raises(DataError, match=f"cannot read .*{name}"):
            SavedModel.load(tmp_path / name)


def test_a_wrong_node_or_shape_is_told(fed, data):
    model = final_model(fed, data)
    with pytest.raises(DataError, match="no node 'd' in this model; there are a-1, a-2, b, c"):
        model.embed("d", data.nodes[0].tokens)
    with pytest.raises(DataError, match=r"takes rows of 4 tokens and 28 values in all, got \(4, 10\)"):
        model.embed("b", data.nodes[0].tokens)
    assert model.embed("b", data.nodes[2].tokens[:0]).shape == (0, fed.frame.shape[1])
    assert torch.isfinite(model.embed("b", data.nodes[2].tokens)).all()


def test_a_trunk_whose_weights_have_changed_is_told(data, tmp_path):
    from transformers import BertConfig, BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    shape = BertConfig(vocab_size=16, hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48)
    BertModel(shape).save_pretrained(tmp_path / "trunk")
    config = CONFIG.model_copy(update={"model": ModelConfig(trunk=str(tmp_path / "trunk"))})
    final_model(federation.train(federation.align(data, config)), data).save(tmp_path / "model")
    model = SavedModel.load(tmp_path / "model")
    rows = data.nodes[0].tokens
    model.embed(data.nodes[0].name, rows)
    BertModel(shape).save_pretrained(tmp_path / "trunk")
    with pytest.raises(DataError, match=r"trained on .*trunk #\w{8}, which is now #\w{8}"):
        model.embed(data.nodes[0].name, rows)


def test_a_saved_model_names_classes_as_evaluation_does(fed, data, tmp_path):
    final_model(fed, data).save(tmp_path / "model.safetensors")
    model = SavedModel.load(tmp_path / "model.safetensors")
    for node in fed.nodes:
        rows = node.data.tokens[:20]
        expected = [data.classes[c] for c in classify(node.embed(rows), fed.head_of(node)).tolist()]
        assert Model(model).classify(node.name, rows) == expected and len(set(expected)) > 1
    bare = Model(replace(model, head=None, heads={}))
    with pytest.raises(DataError, match="no class directions for node 'b'"):
        bare.classify("b", rows[:0].reshape(0, *fed.nodes[2].data.tokens.shape[1:]))


def test_tokens_that_are_no_finite_numbers_are_told(fed, data):
    model, rows = final_model(fed, data), data.nodes[2].tokens[:3].copy()
    rows[1, 0, 0] = np.inf
    with pytest.raises(DataError, match=r"tokens of row 2 hold values that are no finite numbers; impute them"):
        model.embed("b", rows)
    with pytest.raises(DataError, match="tokens of node 'b' are no numbers"):
        model.embed("b", np.array([["a"]]))


@pytest.fixture(scope="module")
def parts(fed, data, tmp_path_factory):
    """Tensors and header of a model file, and rows of each node."""
    path = tmp_path_factory.mktemp("parts") / "model.safetensors"
    final_model(fed, data).save(path)
    return *read_tensors(path), {node.name: node.tokens[:2] for node in data.nodes}


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_told_or_can_be_used(parts, tmp_path, data):
    """Whatever stands in the place of an entry of its header or of a tensor: no error but those raised on purpose."""
    tensors, header, rows = dict(parts[0]), copy.deepcopy(parts[1]), parts[2]
    if data.draw(st.booleans()):
        spoil(data, header)
    else:
        name = data.draw(st.sampled_from(sorted(tensors)))
        tensors[name] = data.draw(st.sampled_from([torch.zeros(0), torch.zeros(2, 3), torch.tensor(torch.nan)]))
        if data.draw(st.booleans()):
            del tensors[name]
    write_tensors(tmp_path / "model", tensors, header)
    told = used(tmp_path / "model", rows)
    assert all(problem.strip() for problem in told)


def used(path, rows):
    """What is told of a model file that is loaded and used for all that there is: problems, or that it can be."""
    try:
        model = Model.load(path)
        assert model.fingerprint and card(model.saved) and python(model.saved)
        for node in model.nodes:
            assert np.isfinite(model.embed(node, rows.get(node, np.zeros((1, 1, 1))))).all()
            model.classify(node, rows.get(node, np.zeros((1, 1, 1))))
            with pytest.raises(IsogramError):  # they are tables of numbers: no file is an item of theirs
                model.embed(node, ["no such file"])
    except IsogramError as error:
        return error.problems
    return ("it can be used",)


ABOUT = {
    "encoder_files": {"a": "0" * 64},
    "anchor_folder": "0" * 64,
    "notes": ["a note"],
    "part_of": "0123456789abcdef",
}
"""What the planted data's own header lacks."""


def test_a_header_of_wrong_types_is_told_at_every_key(data, tmp_path):
    path = tmp_path / "model"
    final_model(federation.align(data, CONFIG), data).save(path)
    tensors, header = read_tensors(path)
    header["about"] |= ABOUT
    header["encoders"] = {"a": {"kind": "image", "encoder": "builtin", "rate": 100, "columns": ["x"]}}
    header["privacy"] = {"epsilon": 5.0, "noise": "secret"}
    rows = {node.name: node.tokens[:1] for node in data.nodes}
    write_tensors(path, tensors, header)
    assert used(path, rows) == ("it can be used",)
    refused = set()
    for place in places(header):
        for value in KINDS:
            write_tensors(path, tensors, with_wrong(header, place, value))
            told = used(path, rows)
            assert len(told) == 1 and told[0].strip() and "\n" not in told[0], (place, value)
            if "is damaged (" in told[0] or "no model of this version" in told[0]:
                refused.add(place)
    assert refused == {*places(header)}, "of each type there is, at least one is wrong everywhere"


def test_what_is_damaged_is_told_with_its_file(parts, tmp_path):
    tensors, header, _ = parts
    for gone in ("nodes", "clip", "anchor_hash", "model"):
        write_tensors(tmp_path / "model", tensors, {name: value for name, value in header.items() if name != gone})
        with pytest.raises(DataError, match=rf"model is damaged \(it lacks '{gone}'\); copy it again"):
            SavedModel.load(tmp_path / "model")
    write_tensors(tmp_path / "model", {**tensors, "frame": tensors["frame"] * torch.nan}, header)
    with pytest.raises(DataError, match=r"damaged \(frame holds what is no finite number\)"):
        SavedModel.load(tmp_path / "model")
    write_tensors(tmp_path / "model", tensors, [1])
    with pytest.raises(DataError, match="no model of this version"):
        SavedModel.load(tmp_path / "model")
