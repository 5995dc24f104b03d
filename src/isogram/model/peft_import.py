"""A start from Hugging Face PEFT: LoRA and DoRA checkpoints, read and checked as a whole.

Shape letters: o outputs, i inputs, r rank.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from isogram.errors import ConfigError
from isogram.model.adapters import MAGNITUDE, WEIGHT, A, AdaptedLinear, B, adapted

if TYPE_CHECKING:
    from isogram.model.node_model import SharedModel

PREFIX = "base_model.model."
TENSORS = {"lora_A.weight": A, "lora_B.weight": B, "lora_magnitude_vector": MAGNITUDE}
"""As `peft.get_peft_model_state_dict` names them, after `PREFIX` and the layer."""

_UNDERSTOOD = {
    *("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"),
    *("inference_mode", "lora_dropout", "r", "lora_alpha", "use_rslora", "use_dora"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights", "eva_config"),
}
_KEEP_BASE = (True, False, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base's weights alone; PiSSA, OLoRA and the like change them."""


@torch.no_grad()
def read_adapter(shared: "SharedModel", folder: str) -> None:
    """Start from a PEFT LoRA or DoRA checkpoint: the transformer becomes the checkpoint's function.

    With scale s = lora_alpha / r (rsLoRA: / sqrt(r)), lora_A = A and lora_B = s B; for a method whose A is an
    orthonormal basis lora_A = Q^T and lora_B = s B R^T of A^T = Q R, which has the same rows' span. A magnitude is the
    checkpoint's, or of a LoRA the norms of V's rows. With "full" all of it goes into the weight.

    Args:
        shared: fresh, without anything merged.
        folder: on disk, or a name on the Hugging Face hub. A layer may be named as in a model with a head, too
            ("model.layers.0...", "bert.encoder...").

    Raises:
        ConfigError: it cannot be read, is no LoRA, has options of PEFT that isogram has not, or is for another rank,
            other layers, another trunk or a method without magnitude; tells all that it finds.
    """
    transformer = transformer_of(shared)
    layers = dict(adapted(transformer))
    config, tensors = _read(folder)
    found, strange = _by_layer(tensors, layers, f"{transformer.base_model_prefix}.")
    problems = [
        *_options(config, next(iter(layers.values()))),
        *([f"holds {strange[:3]}, which are no LoRA of linear layers; train it without them"] if strange else []),
        *(_layers(config, found, layers) or _shapes(config, found, layers, shared.about)),
    ]
    if problems:
        raise ConfigError(*(f"model.start = {folder!r} {problem}" for problem in problems))
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    for name, layer in layers.items():
        _load(layer, scale, **found[name])


def transformer_of(shared: "SharedModel") -> Any:
    """What PEFT adapts.

    Raises:
        ConfigError: there is no trunk.
    """
    if shared.trunk is None:
        raise ConfigError('model.trunk = "none": PEFT adapts a transformer, and there is none; choose another trunk')
    return shared.trunk.transformer


def _load(layer: AdaptedLinear, scale: float, lora_A: Tensor, lora_B: Tensor, magnitude: Tensor | None = None) -> None:
    a, b = lora_A.double(), scale * lora_B.double()
    if WEIGHT in layer.method.tensors:
        dense = layer.weight.cpu().double() + b @ a
        layer.load({WEIGHT: dense if magnitude is None else dense * (magnitude / dense.norm(dim=1))[:, None]})
        return
    if layer.method.orthonormal:
        q, r = torch.linalg.qr(a.T)
        a, b = q.T, b @ r.T
    layer.load({A: a, B: b})
    if MAGNITUDE in layer.method.tensors:
        layer.load({MAGNITUDE: layer.row_norms() if magnitude is None else magnitude})


def _read(folder: str) -> tuple[Any, dict[str, Tensor]]:
    from peft import PeftConfig
    from peft.utils import load_peft_weights

    here = Path(folder).expanduser()
    # An absolute path is no name on the hub: what a folder lacks is not looked for there.
    place = str(here.absolute()) if here.is_dir() else folder
    try:
        config = PeftConfig.from_pretrained(place)
        if config.peft_type != "LORA":
            raise ConfigError(f"model.start = {folder!r} is a checkpoint of {config.peft_type}; give one of LORA")
        return config, load_peft_weights(place, device="cpu")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ConfigError(
            f"model.start = {folder!r} cannot be read ({told}); give a folder that PEFT's save_pretrained wrote, or "
            f"the name of one on the Hugging Face hub"
        ) from error


def _by_layer(
    tensors: dict[str, Tensor], layers: dict[str, AdaptedLinear], head: str
) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Tensors by layer and our name, and the keys that are none; `head` is what a model with a head puts in front."""
    found: dict[str, dict[str, Tensor]] = {}
    strange = []
    for key, value in tensors.items():
        name, _, kind = key.removeprefix(PREFIX).partition(".lora_")
        if f"lora_{kind}" not in TENSORS:
            strange.append(key)
            continue
        name = name if name in layers else name.removeprefix(head)
        name = name if name in layers else name.removeprefix("encoder.")  # of an encoder-decoder, whose encoder it is
        found.setdefault(name, {})[TENSORS[f"lora_{kind}"]] = value
    return found, strange


def _options(config: Any, layer: AdaptedLinear) -> Iterator[str]:
    from peft import LoraConfig

    plain = LoraConfig()
    for name, value in config.to_dict().items():
        if name not in _UNDERSTOOD and value and value != getattr(plain, name):
            yield f"has {name} = {value!r}, which isogram does not support; train it without"
    if config.init_lora_weights not in _KEEP_BASE:
        yield (
            f"has init_lora_weights = {config.init_lora_weights!r}, which changes the base's weights; save it with "
            f"path_initial_model_for_weight_conversion"
        )
    if WEIGHT in layer.method.tensors:
        return
    if config.r != len(layer.lora_A):
        yield f"has rank {config.r}, and model.rank = {len(layer.lora_A)}; set model.rank = {config.r}"
    if config.use_dora and MAGNITUDE not in layer.method.tensors:
        yield "is a DoRA: it has magnitudes, which this method has not; set model.adapter to dora, geodora or full"


def _layers(config: Any, found: dict[str, Any], layers: dict[str, AdaptedLinear]) -> list[str]:
    target = config.target_modules
    set_target = f"set model.target = {sorted(target) if isinstance(target, set | list) else target!r}"
    problems = []
    if missing := [name for name in layers if name not in found]:
        problems.append(f"has nothing for {len(missing)} layers with adapters, such as {missing[0]!r}; {set_target}")
    if extra := [name for name in found if name not in layers]:
        problems.append(
            f"has {len(extra)} layers without an adapter here, such as {extra[0]!r}; {set_target}, or, where the trunk "
            f"has no such layer, train the checkpoint without it"
        )
    return problems


def _shapes(
    config: Any, found: dict[str, dict[str, Tensor]], layers: dict[str, AdaptedLinear], about: str
) -> Iterator[str]:
    """The first that is wrong: one layer says enough."""
    for name, layer in layers.items():
        outputs, inputs = layer.weight.shape
        wanted = {A: (config.r, inputs), B: (outputs, config.r)} | ({MAGNITUDE: (outputs,)} if config.use_dora else {})
        shapes = {kind: tuple(value.shape) for kind, value in found[name].items()}
        if shapes.keys() != wanted.keys():
            yield f"is damaged: of {name!r} it has {sorted(shapes)}, not {sorted(wanted)}; get it again"
            return
        if shapes != wanted:
            yield (
                f"is of {config.base_model_name_or_path!r}, where {name!r} has {shapes}; the trunk is {about}, which "
                f"needs {wanted}: choose the checkpoint's own trunk"
            )
            return
        if not all(value.isfinite().all() for value in found[name].values()):
            yield f"holds NaN or infinity in {name!r}; its training has diverged, use an earlier checkpoint"
            return
