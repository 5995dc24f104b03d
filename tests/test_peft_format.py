"""Adapters in the format of PEFT: it computes the same from what is written, and what it has made is a start."""

import json

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from peft_models import (
    BASES,
    LOW_RANK,
    RANK,
    SHAPE,
    WEIGHTS,
    WITH_MAGNITUDE,
    assert_far,
    assert_same,
    disturb,
    in_peft,
    plain,
    run,
    save_base,
    save_peft,
    saved,
    shared_model,
    trained,
)
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import BertConfig, T5Config

from isogram.config import ModelConfig
from isogram.errors import ConfigError
from isogram.model import SharedModel
from isogram.model.adapters import METHODS
from isogram.model.peft_export import export_model, write_adapter
from isogram.model.peft_import import read_adapter

# PEFT asks transformers for a property that the latter deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture(scope="module", params=list(BASES))
def base(request, tmp_path_factory):
    return save_base(BASES[request.param], tmp_path_factory.mktemp(request.param) / "base")


@pytest.mark.parametrize("method", LOW_RANK)
def test_peft_computes_what_the_trunk_does(base, method, tmp_path):
    refreshes = 2 if METHODS[method].frozen_basis else 0
    shared = trained(base, method, refreshes)
    write_adapter(shared, tmp_path / "adapter", base)
    loaded = in_peft(base, tmp_path / "adapter")
    assert_same(shared, loaded)
    assert_far(shared, plain(base))
    config = loaded.peft_config["default"]
    assert (config.r, config.use_dora) == (RANK * (1 + refreshes), method in WITH_MAGNITUDE)
    assert config.base_model_name_or_path == base
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_only_adapted_layers_are_hit(bert, tmp_path):
    """The pooler is in PEFT's base and not in the trunk; a list of names would hit layers that end in one, too."""
    shared = shared_model(bert, target=["attention.output.dense"])
    disturb(shared)
    write_adapter(shared, tmp_path / "adapter", bert)
    loaded = in_peft(bert, tmp_path / "adapter")
    hit = {name for name, module in loaded.base_model.model.named_modules() if hasattr(module, "lora_A")}
    assert hit == {f"encoder.layer.{n}.attention.output.dense" for n in (0, 1)}
    assert not check_target_module_exists(loaded.peft_config["default"], f"decoder.{min(hit)}")
    assert_same(shared, loaded)


def test_the_whole_transformer_is_written_where_all_of_it_trains(base, tmp_path):
    shared = trained(base, "full")
    write_adapter(shared, tmp_path / "model", base)
    assert_same(shared, plain(tmp_path / "model"))
    assert_far(shared, plain(base))


def test_of_an_encoder_decoder_the_encoder_is_exchanged(tmp_path):
    t5 = T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=20)
    base = save_base(t5, tmp_path / "base")
    for method in ("geodora", "full"):
        model = saved(base, method)
        python = export_model(model, tmp_path / method, "a").peft
        assert_same(model.shared("a"), run(python))


@pytest.mark.parametrize(
    ("method", "dora"), [*((m, False) for m in METHODS), *((m, True) for m in (*WITH_MAGNITUDE, "full"))]
)
def test_a_checkpoint_of_peft_is_a_start(base, method, dora, tmp_path):
    theirs = save_peft(base, tmp_path / "start", use_dora=dora)
    ours = shared_model(base, method, start=str(tmp_path / "start"))
    assert_same(ours, theirs)
    assert_far(ours, plain(base))
    for layer in ours.layers.values():
        if layer.method.orthonormal:
            assert_close(layer.lora_A @ layer.lora_A.T, torch.eye(RANK), rtol=0, atol=1e-5)
    write_adapter(ours, tmp_path / "again", base)
    assert_same(plain(tmp_path / "again") if method == "full" else in_peft(base, tmp_path / "again"), theirs)


def test_rslora_and_half_precision_are_read(bert, tmp_path):
    def halve(folder):
        tensors = load_file(folder / WEIGHTS)
        save_file({name: value.bfloat16() for name, value in tensors.items()}, folder / WEIGHTS)

    save_peft(bert, tmp_path / "start", use_rslora=True, change=halve)
    assert_same(shared_model(bert, start=str(tmp_path / "start")), in_peft(bert, tmp_path / "start"))


def test_a_checkpoint_trained_under_a_head_fits(bert, tmp_path):
    theirs = save_peft(bert, tmp_path / "start", change=rename("base_model.model.", "base_model.model.bert."))
    assert_same(shared_model(bert, start=str(tmp_path / "start")), theirs)


def test_a_start_trains_and_refreshes_like_any_other(bert, tmp_path):
    theirs = save_peft(bert, tmp_path / "start")
    ours = shared_model(bert, "geodora", start=str(tmp_path / "start"))
    ours.refresh(1, {})
    assert_same(ours, theirs)
    copy = shared_model(bert, "geodora")
    copy.load({**ours.state(), **ours.home()})
    assert_same(copy, theirs)


def edit(**values):
    def change(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def tensors(change):
    def changed(folder):
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)

    return changed


def rename(old, new):
    return tensors(lambda found: {name.replace(old, new): value for name, value in found.items()})


def without(part):
    return tensors(lambda found: {name: value for name, value in found.items() if part not in name})


KEY = "base_model.model.encoder.layer.0.intermediate.dense.lora_B.weight"


@pytest.mark.parametrize(
    ("settings", "change", "said"),
    [
        ({"r": 5}, None, "has rank 5, and model.rank = 3; set model.rank = 5"),
        ({"use_dora": True}, None, "is a DoRA.*set model.adapter to dora, geodora or full"),
        (
            {"target_modules": ["query", "value"]},
            None,
            r"nothing for 8 layers.*set model.target = \['query', 'value'\]",
        ),
        ({"target_modules": "all-linear"}, None, "has 1 layers without an adapter here, such as 'pooler.dense'"),
        ({"rank_pattern": {"query": 2}}, None, "has rank_pattern = {'query': 2}, which isogram does not support"),
        ({"alpha_pattern": {"query": 2}}, None, "has alpha_pattern"),
        ({"bias": "all"}, None, "has bias = 'all'"),
        ({"modules_to_save": ["pooler"]}, None, "has modules_to_save"),
        ({}, edit(lora_bias=True), "has lora_bias = True"),
        ({}, edit(init_lora_weights="pissa"), "has init_lora_weights = 'pissa', which changes the base's weights"),
        ({}, edit(peft_type="nothing"), "cannot be read"),
        ({}, lambda folder: (folder / "adapter_config.json").unlink(), "cannot be read .*adapter_config.json"),
        ({}, lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
        ({}, lambda folder: (folder / WEIGHTS).unlink(), "cannot be read"),
        ({}, lambda folder: (folder / WEIGHTS).write_bytes(b"12345678"), "cannot be read"),
        ({}, tensors(lambda found: found | {KEY: found[KEY] * float("nan")}), "NaN or infinity in 'encoder.layer.0.i"),
        ({}, tensors(lambda found: found | {"embedding": torch.ones(1)}), r"holds \['embedding'\], which are no LoRA"),
        ({}, without(KEY), "is damaged: of .* it has \\['lora_A'\\], not \\['lora_A', 'lora_B'\\]"),
    ],
)
def test_what_cannot_be_a_start_is_told(bert, settings, change, said, tmp_path):
    save_peft(bert, tmp_path / "start", change=change, **settings)
    with pytest.raises(ConfigError, match=said) as error:
        shared_model(bert, start=str(tmp_path / "start"))
    assert str(tmp_path / "start") in str(error.value)


def test_a_checkpoint_of_another_kind_or_trunk_or_place_is_told(bert, tmp_path):
    get_peft_model(
        plain(bert), PromptTuningConfig(num_virtual_tokens=2, task_type="FEATURE_EXTRACTION")
    ).save_pretrained(tmp_path / "prompt")
    with pytest.raises(ConfigError, match="is a checkpoint of .*PROMPT_TUNING; give one of LORA"):
        shared_model(bert, start=str(tmp_path / "prompt"))
    wide = save_base(BertConfig(**SHAPE | {"intermediate_size": 64}, vocab_size=20), tmp_path / "wide")
    save_peft(wide, tmp_path / "start")
    with pytest.raises(ConfigError, match=f"is of '{wide}', .* the trunk is {bert} #.* needs .*the checkpoint's own"):
        shared_model(bert, start=str(tmp_path / "start"))
    with pytest.raises(ConfigError, match="cannot be read"):
        shared_model(bert, start=str(tmp_path / "nowhere"))


def test_all_problems_are_told_and_nothing_is_loaded(bert, tmp_path):
    save_peft(bert, tmp_path / "start", r=5, use_dora=True, target_modules=["query"])
    shared = shared_model(bert)
    before = shared.state()
    with pytest.raises(ConfigError) as error:
        read_adapter(shared, str(tmp_path / "start"))
    assert len(error.value.problems) == 3
    assert_close(shared.state(), before, rtol=0, atol=0)


def test_without_a_trunk_there_is_nothing_to_exchange(tmp_path):
    shared = SharedModel(ModelConfig(trunk="none"), 4)
    for call in (lambda: write_adapter(shared, tmp_path / "out", ""), lambda: read_adapter(shared, "start")):
        with pytest.raises(ConfigError, match="choose another trunk"):
            call()
    assert list(tmp_path.iterdir()) == []
