"""A model's adapters handed on in PEFT's format: one for all nodes, or one each."""

import errno
import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from peft_models import WEIGHTS, assert_same, in_peft, run, saved
from safetensors.torch import load_file

from isogram.errors import ConfigError, DataError, StorageError
from isogram.model import SavedModel
from isogram.model.peft_export import export_model

# PEFT asks transformers for a property that the latter deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def test_nodes_with_magnitudes_of_their_own_get_an_adapter_each(bert, tmp_path):
    model = saved(bert, "geodora", ("north", "../so:uth", "base", "..", "Nord 1"))
    done = export_model(model, tmp_path / "all")
    assert list(done.folders) == list(model.nodes)
    names = {path.name for path in done.folders.values()}
    assert names == {"north", "%2E.%2Fso%3Auth", "%62ase", "%2E.", "Nord 1"}
    assert names | {"README.md", "model.safetensors"} == {path.name for path in (tmp_path / "all").iterdir()}
    for node, folder in done.folders.items():
        assert_same(model.shared(node), in_peft(bert, folder))
    one, other = (load_file(done.folders[node] / WEIGHTS) for node in ("north", "base"))
    assert {name for name in one if not torch.equal(one[name], other[name])} == {n for n in one if "magnitude" in n}
    assert export_model(model, tmp_path / "one", "base").folders == {"base": tmp_path / "one"}
    assert (tmp_path / "one" / WEIGHTS).read_bytes() == (done.folders["base"] / WEIGHTS).read_bytes()
    assert_same(run(done.peft), model.shared("north"))


def test_nodes_that_share_everything_get_one(bert, tmp_path):
    model = saved(bert, "dora")
    done = export_model(model, tmp_path / "new" / "out")
    assert done.folders == {"": tmp_path / "new" / "out"}
    assert_same(run(done.peft), model.shared("b"))
    home = str(Path(bert).parent)
    assert home in done.peft and not [p for p in (tmp_path / "new").rglob("*.*") if home.encode() in p.read_bytes()]
    shutil.copytree(bert, tmp_path / "new" / "out" / Path(bert).name)
    assert_same(SavedModel.load(tmp_path / "new" / "out" / "model.safetensors").shared("b"), model.shared("b"))


@pytest.mark.parametrize("method", ["geolora", "geodora", "full"])
def test_a_built_in_trunk_comes_with_its_base(method, tmp_path):
    model = saved("small", method, width=32, layers=1)
    done = export_model(model, tmp_path / "out")
    assert_same(run(done.peft), model.shared("a"))
    assert (tmp_path / "out" / "base").exists() == (method != "full")


def test_the_same_model_is_the_same_bytes(bert, tmp_path):
    model = saved(bert, "geolora")
    for name in ("one", "two"):
        export_model(model, tmp_path / name)
    for file in (WEIGHTS, "adapter_config.json", "README.md", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_no_folder_is_overwritten_and_none_is_left_half_written(bert, tmp_path, monkeypatch):
    model = saved(bert, "geodora")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    (tmp_path / "file").write_text("")
    for name in ("full", "file"):
        with pytest.raises(ConfigError, match=f"{name} is there already and not empty; name another"):
            export_model(model, tmp_path / name)
    with pytest.raises(StorageError, match="a file is where a folder should be"):
        export_model(model, tmp_path / "file" / "out")
    with pytest.raises(DataError, match="no node 'c' in this model; there are a, b"):
        export_model(model, tmp_path / "out", "c")

    def full_disk(self, folder):
        if Path(folder).name == "b":
            raise OSError(errno.ENOSPC, "No space left on device")
        Path(folder).mkdir()

    monkeypatch.setattr(LoraConfig, "save_pretrained", full_disk)
    with pytest.raises(StorageError, match="free some space"):
        export_model(model, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]
    monkeypatch.undo()
    (tmp_path / "out").mkdir()
    assert set(export_model(model, tmp_path / "out").folders) == {"a", "b"}
    assert not [path for path in tmp_path.iterdir() if re.search("tmp", path.name)]
