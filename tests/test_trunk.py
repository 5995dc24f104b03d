import warnings

import pytest
import torch
from planted import planted
from torch.testing import assert_close

from isogram import federation
from isogram.config import Config, ModelConfig, TrainConfig
from isogram.errors import ConfigError
from isogram.model import SharedModel, Trunk
from isogram.model.adapters import METHODS, adapted
from isogram.model.trunk import base_model

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def shapes():
    import transformers as t

    decoder = {"vocab_size": 16, "bos_token_id": 1, "eos_token_id": 2, "num_key_value_heads": 2, **TINY}
    return {
        "bert": t.BertConfig(vocab_size=16, **TINY),
        "llama": t.LlamaConfig(**decoder),
        "vit": t.ViTConfig(image_size=32, patch_size=8, **TINY),
        "qwen": t.Qwen3Config(head_dim=8, **decoder),
        "clip": t.CLIPVisionConfig(image_size=32, patch_size=8, **TINY),
        "t5": t.T5Config(vocab_size=16, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
    }


FAMILIES = ["bert", "llama", "vit", "qwen", "clip", "t5"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Models as `save_pretrained` writes them, with dropout, which a trunk must not have."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    found = {}
    for name, shape in shapes().items():
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "dropout_rate"):
            if hasattr(shape, key):
                setattr(shape, key, 0.5)
        torch.manual_seed(0)
        found[name] = str(tmp_path_factory.mktemp("models") / name)
        AutoModel.from_config(shape).save_pretrained(found[name])
    return found


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("adapter", ["geolora", "geodora", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_trains(folders, family, checkpointing, dtype, adapter):
    config = ModelConfig(
        trunk=folders[family], adapter=adapter, rank=4, dtype=dtype, gradient_checkpointing=checkpointing
    )
    shared = SharedModel(config, 16)
    shared.load({"out.weight": normal(16, 32)})
    turn = shared.train_turn(1)
    tokens = normal(3, 5, 16)
    out = shared(tokens)
    assert out.shape == (3, 16) and out.dtype == torch.float32
    out.square().mean().backward()
    for name, parameter in turn.items():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert {n for n, p in shared.named_parameters() if p.grad is not None} == set(turn), "the base stays frozen"
    assert_close(shared(tokens), out, rtol=0, atol=0, msg="dropout is off")


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_same_with_activations_computed_again(folders, family):
    grads = []
    for checkpointing in (False, True):
        shared = SharedModel(
            ModelConfig(trunk=folders[family], adapter="geodora", rank=4, gradient_checkpointing=checkpointing), 16
        )
        shared.load({"out.weight": normal(16, 32)})
        turn = shared.train_turn(1)
        shared(normal(3, 5, 16)).square().mean().backward()
        grads.append({name: p.grad for name, p in turn.items()})
    for name, value in grads[0].items():
        assert_close(grads[1][name], value)


def test_hidden_states_of_a_vision_transformer_are_its_own_from_the_patches_on(folders):
    """Against the whole model: its patch embeddings, put in as tokens, give its own hidden states."""
    from transformers import AutoModel

    whole = AutoModel.from_pretrained(folders["vit"]).eval()
    pixels = normal(2, 3, 32, 32)
    trunk = Trunk(ModelConfig(trunk=folders["vit"], rank=4)).eval()
    with torch.no_grad():
        expected = whole(pixel_values=pixels).last_hidden_state.mean(1)
        assert_close(trunk(whole.embeddings(pixels)), expected, rtol=1e-5, atol=1e-5)


def test_tokens_of_a_language_model_are_its_embeddings(folders):
    from transformers import AutoModel

    whole = AutoModel.from_pretrained(folders["llama"]).eval()
    tokens = normal(2, 7, 32)
    with torch.no_grad():
        expected = whole(inputs_embeds=tokens).last_hidden_state.mean(1)
        assert_close(Trunk(ModelConfig(trunk=folders["llama"], rank=4))(tokens), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("all-linear", 14),
        (("q_proj", "v_proj"), 4),
        (r"layers\.0\..*_proj", 7),
        (r".*\.1\.mlp\.(up|down)_proj", 2),
    ],
)
def test_targets_are_matched_as_in_peft(folders, target, names):
    from peft import LoraConfig, get_peft_model

    config = ModelConfig(trunk=folders["llama"], target=target, rank=4)
    ours = {name for name, _ in adapted(Trunk(config).transformer)}
    lora = LoraConfig(r=4, target_modules=target if isinstance(target, str) else list(target))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for names that will go
        theirs = get_peft_model(base_model(config), lora)
    assert len(ours) == names
    assert ours == {n.removeprefix("base_model.model.") for n, m in theirs.named_modules() if hasattr(m, "lora_A")}


def test_a_target_that_matches_nothing_names_what_there_is(folders):
    with pytest.raises(ConfigError, match=r"'query' matches no linear layer.*end in down_proj, gate_proj, k_proj"):
        Trunk(ModelConfig(trunk=folders["llama"], target="query", rank=4))


def test_a_rank_above_the_width_names_the_layer(folders):
    with pytest.raises(ConfigError, match=r"rank = 20: layer 'layers.0.self_attn.k_proj' is 16 x 32.*16 or less"):
        Trunk(ModelConfig(trunk=folders["llama"], rank=20))


def test_a_model_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match="cannot be loaded.*save_pretrained wrote"):
        base_model(ModelConfig(trunk=str(tmp_path / "nowhere")))


def test_two_bases_of_one_shape_have_two_names(folders, tmp_path):
    from transformers import AutoModel

    torch.manual_seed(1)
    AutoModel.from_config(shapes()["bert"]).save_pretrained(tmp_path / "other")
    prints = [
        Trunk(ModelConfig(trunk=trunk, rank=4, dtype=dtype)).fingerprint
        for trunk in (folders["bert"], str(tmp_path / "other"))
        for dtype in ("float32", "bfloat16")
    ]
    assert prints[0] == prints[1] != prints[2] == prints[3]


@pytest.mark.parametrize("trunk", ["bert", "llama", "vit", "qwen", "minilm"])
def test_a_federation_trains_on_it(folders, trunk):
    """Only adapters and the map to coordinates are sent, and the loss goes down."""
    model = ModelConfig(trunk=folders.get(trunk, trunk), rank=4)
    train = TrainConfig(rounds=2, steps=4, lr=3e-3, batch=8)
    config = Config(data="machines", anchors=30, model=model, train=train)
    fed = federation.train(federation.align(planted(n_anchors=30), config))
    sent = {e.field for e in fed.ledger.entries if e.direction == "up" and "/" in e.field}
    layers = len(list(adapted(fed.nodes[0].shared.trunk.transformer)))
    assert len(sent) == layers + 1 and all(f.endswith((".lora_B", "out.weight")) for f in sent)
    assert fed.history[1]["frame"] < fed.history[0]["frame"]


@pytest.mark.parametrize("adapter", list(METHODS))
def test_a_trunk_with_a_fresh_adapter_is_the_trunk(folders, adapter):
    from transformers import AutoModel

    whole = AutoModel.from_pretrained(folders["qwen"]).eval()
    tokens = normal(2, 4, 32)
    with torch.no_grad():
        expected = whole(inputs_embeds=tokens).last_hidden_state.mean(1)
        found = Trunk(ModelConfig(trunk=folders["qwen"], adapter=adapter, rank=4))(tokens)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
