"""Small transformers, their trunks disturbed from where adapters start, and what PEFT makes of the same."""

import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.testing import assert_close
from transformers import AutoModel, BertConfig, LlamaConfig, ViTConfig

from isogram.alignment import LinearMap, Standardizer
from isogram.config import ModelConfig
from isogram.model import SavedModel, SharedModel
from isogram.model.adapters import METHODS

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


def run(python):
    """The transformer that the lines of Python printed beside an export load."""
    names = {}
    exec(python, names)
    return names["transformer"].eval()


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
