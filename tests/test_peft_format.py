import errno
import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModel, BertConfig, LlamaConfig, T5Config, ViTConfig

from isogram.alignment import LinearMap, Standardizer
from isogram.config import ModelConfig
from isogram.errors import ConfigError, DataError, StorageError
from isogram.model import SavedModel, SharedModel
from isogram.model.adapters import METHODS
from isogram.model.peft_export import export_model, write_adapter
from isogram.model.peft_import import read_adapter

# PEFT asks transformers for a property that the latter deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BASES = {
    "bert": BertConfig(**SHAPE, vocab_size=20),
    "llama": LlamaConfig(**SHAPE, vocab_size=20, num_key_value_heads=2),
    "vit": ViTConfig(**SHAPE, image_size=16, patch_size=4),
}
RANK = 3
LOW_RANK = [name for name in METHODS if name != "full"]
WITH_MAGNITUDE = ["geodora", "dora"]
WEIGHTS = "adapter_model.safetensors"


def save_base(config, folder):
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
        for parameter in model.parameters():  # the usual start is so small that layers hardly show in the output
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=list(BASES))
def base(request, tmp_path_factory):
    return save_base(BASES[request.param], tmp_path_factory.mktemp(request.param) / "base")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_base(BASES["bert"], tmp_path_factory.mktemp("only") / "base")


def shared_model(base, method="geolora", **settings):
    return SharedModel(ModelConfig(**{"trunk": base, "adapter": method, "rank": RANK} | settings), 4)


def disturb(shared, seed=1):
    """Every tensor of every adapter far from where it starts."""
    random = torch.Generator().manual_seed(seed)
    for layer in shared.layers.values():
        found = {}
        for name in layer.method.tensors:
            value = getattr(layer, name).detach()
            noise = torch.randn(value.shape, generator=random)
            found[name] = value + 0.1 * noise if name == "weight" else value * (1 + 0.2 * noise)
            if name == "lora_B":
                found[name] = 0.3 * noise
        if "lora_B" not in found and "lora_B" in dict(layer.named_parameters()):
            found["lora_B"] = 0.3 * torch.randn(layer.lora_B.shape, generator=random)
        layer.load(found)


def trained(base, method, refreshes=0):
    shared = shared_model(base, method)
    disturb(shared)
    for number in range(1, refreshes + 1):
        shared.refresh(number, {})
        disturb(shared, seed=number + 1)
    return shared


def plain(base):
    return AutoModel.from_pretrained(base).eval()


def in_peft(base, folder):
    return PeftModel.from_pretrained(plain(base), str(folder)).eval()


@torch.no_grad()
def hidden(model):
    """Hidden states [2, t, 32] that a transformer itself computes, of word vectors or of pictures."""
    model = model.trunk.transformer if isinstance(model, SharedModel) else model
    random = torch.Generator().manual_seed(7)
    if model.config.model_type == "vit":
        return model(pixel_values=torch.randn(2, 3, 16, 16, generator=random)).last_hidden_state
    return model(inputs_embeds=torch.randn(2, 5, 32, generator=random)).last_hidden_state


def assert_same(one, other):
    assert_close(hidden(one), hidden(other), rtol=0, atol=1e-5)


def assert_far(one, other):
    assert (hidden(one) - hidden(other)).abs().max() > 1e-2


def save_peft(base, folder, *, change=None, seed=3, **settings):
    """A checkpoint that PEFT has made, B far from zero and a scale that is not 1."""
    model = plain(base)
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not n.startswith("pooler")]
    config = LoraConfig(**{"r": RANK, "lora_alpha": 2 * RANK, "target_modules": linear} | settings)
    model = get_peft_model(model, config).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if "lora_B" in name:
                parameter.copy_(0.2 * noise)
            elif "magnitude" in name:
                parameter.mul_(1 + 0.2 * noise)
    model.save_pretrained(folder, save_embedding_layers=False)
    if change is not None:
        change(folder)
    return model


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


def run(python):
    names = {}
    exec(python, names)
    return names["transformer"].eval()


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


def saved(trunk, method, nodes=("a", "b"), **settings):
    """A model as a run would save it, its nodes' magnitudes apart."""
    config = ModelConfig(trunk=trunk, adapter=method, rank=RANK, **settings)
    shared = SharedModel(config, 4)
    disturb(shared)
    adapters, homes = shared.state(), {}
    for seed, node in enumerate(nodes):
        disturb(shared, seed)
        homes[node] = shared.home()
    start = LinearMap(Standardizer(torch.zeros(6), torch.ones(6), 5.0), torch.ones(6, 4), torch.zeros(4))
    return SavedModel(
        config=config,
        nodes=dict.fromkeys(nodes, "rna"),
        tokens={"rna": 2},
        classes=(),
        anchor_hash="",
        maps={"rna": start},
        frame=torch.eye(4),
        changes={node: torch.zeros(4, 4) for node in nodes},
        homes=homes,
        adapters=adapters,
    )


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
