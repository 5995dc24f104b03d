"""A model knows its anchors and its encoders' files, goes on without paths, and refuses encoders that have changed."""

import shutil

import numpy as np
import pytest
import torch
from anchor_sets import write_anchor_set, write_rows
from tiny_models import tiny
from typer.testing import CliRunner

import isogram
from isogram import federation
from isogram.checkpoint import final_model
from isogram.cli import app
from isogram.config import Config, ModalityConfig, SiloNode, SilosConfig
from isogram.data.anchor_set import hash_anchor_set
from isogram.data.modalities import encoders
from isogram.data.silos.load import load_silos
from isogram.errors import ConfigError, DataError
from isogram.inference import Bank
from isogram.model.card import card

RUN = CliRunner()


def test_a_model_knows_its_anchor_folder_and_its_encoders_files(tmp_path):
    """Weights that changed in place: the model's rows would stand elsewhere, and nothing else would tell."""
    from transformers import BertModel

    write_anchor_set(tmp_path / "anchors", 30, columns=("lab", "name"))
    shutil.copytree(tiny("bert"), tmp_path / "bert")
    (tmp_path / "lab.csv").write_bytes((tmp_path / "anchors" / "lab.csv").read_bytes().replace(b"0.1", b"0.2"))
    write_rows(tmp_path / "texts.csv", [{"words": f"the pump {i} hums"} for i in range(8)])
    silos = SilosConfig(
        anchors=tmp_path / "anchors",
        modalities={
            "lab": ModalityConfig(kind="table"),
            "name": ModalityConfig(kind="text", encoder=f"hf:{tmp_path / 'bert'}"),
        },
        nodes=(
            SiloNode(name="lab", modality="lab", data=tmp_path / "lab.csv"),
            SiloNode(name="desk", modality="name", data=tmp_path / "texts.csv", column="words"),
        ),
        skip_bad=True,
    )
    data = load_silos(silos, anchors=0, seed=0)
    assert data.sources["anchor_folder"] == hash_anchor_set(tmp_path / "anchors")
    final_model(federation.align(data, Config(data="silos", silos=silos)), data).save(tmp_path / "model.safetensors")
    model, files = isogram.Model.load(tmp_path), data.sources["encoder_files"]["name"]
    text = card(model.saved)
    assert f"| name | text | hf:bert #{files[:16]} (a local folder) |" in text and str(tmp_path) not in text
    assert f"the hash `{hash_anchor_set(tmp_path / 'anchors')}`" in text
    before = model.embed("desk", ["the pump hums"])
    assert str(tmp_path) not in "".join(Bank.build(model, "desk", ["the pump hums"]).about.values())
    _is_handed_on_without_paths(tmp_path, model, before)
    bert = BertModel.from_pretrained(tmp_path / "bert")
    with torch.no_grad():
        bert.embeddings.word_embeddings.weight += 0.1
    bert.save_pretrained(tmp_path / "bert")
    encoders._made.cache_clear()  # as in another process
    with pytest.raises(
        DataError, match=rf"has other files than when the model was trained \(#\w+ now, #{files[:16]} then"
    ):
        isogram.Model.load(tmp_path).embed("desk", ["the pump hums"])
    shutil.copytree(tiny("bert"), tmp_path / "bert", dirs_exist_ok=True)
    encoders._made.cache_clear()
    np.testing.assert_array_equal(isogram.Model.load(tmp_path).embed("desk", ["the pump hums"]), before)


def _is_handed_on_without_paths(folder, model, before):
    """No file of an export has the folder; with a copy of the encoder beside it, it is the same model."""
    done = RUN.invoke(app, ["export", str(folder), str(folder / "out")])
    assert done.exit_code == 0, done.output
    for path in (folder / "out").rglob("*"):
        assert str(folder).encode() not in path.read_bytes(), path
    handed = isogram.Model.load(folder / "out")
    assert handed.fingerprint == model.fingerprint
    with pytest.raises(ConfigError, match=rf"there is no folder {folder / 'out' / 'bert'}; .*copy there"):
        handed.embed("desk", ["the pump hums"])
    shutil.copytree(folder / "bert", folder / "out" / "bert")
    np.testing.assert_array_equal(handed.embed("desk", ["the pump hums"]), before)
