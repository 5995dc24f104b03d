"""From a node's tokens to coordinates: private projector, skip path, shared trunk.

Shape letters: B rows, T tokens, c values per token, F = T c, d coordinates (the frame's rank r, or a chosen width).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from isogram.alignment import LinearMap
from isogram.config import ModelConfig
from isogram.errors import ConfigError, MessageError
from isogram.model.trunk import Trunk


class Projector(nn.Module):
    """Private to a node: standardised tokens [B, T, c] -> [B, T, d].

    A frozen map per token position (the start) and a trained d x d change of its output, zero at first. The change acts
    on coordinates, not on raw features: F is in the thousands and anchors are few, so a trained F x d map only learns
    the anchors by heart (docs/log.md).
    """

    start: Tensor

    def __init__(self, weight: Tensor, tokens: int) -> None:
        super().__init__()
        self.register_buffer("start", weight.float().reshape(tokens, -1, weight.shape[1]))
        self.change = nn.Parameter(torch.zeros(weight.shape[1], weight.shape[1]))

    def base(self, x: Tensor) -> Tensor:
        """[B, T, d] by the start alone."""
        return torch.einsum("btc,tcd->btd", x, self.start)

    def forward(self, base: Tensor) -> Tensor:
        """[B, T, d] from the start's output [B, T, d]."""
        return base + base @ self.change


class SharedModel(nn.Module):
    """What all nodes share: the trunk's adapters and the map from its width to coordinates, which starts at zero.

    With trunk "none" nothing is shared and the correction is zero.
    """

    def __init__(self, config: ModelConfig, coordinates: int) -> None:
        super().__init__()
        self.trunk = None if config.trunk == "none" else Trunk(config)
        if self.trunk is not None:
            if coordinates > self.trunk.width:
                raise ConfigError(
                    f"{coordinates} coordinates do not fit a trunk of width {self.trunk.width}; lower rank"
                )
            with torch.random.fork_rng(devices=[]):
                self.out = nn.Linear(self.trunk.width, coordinates, bias=False)
            nn.init.zeros_(self.out.weight)

    def forward(self, tokens: Tensor) -> Tensor | float:
        """Correction [B, d] to the skip path, from projected tokens [B, T, d]."""
        if self.trunk is None:
            return 0.0
        padded = nn.functional.pad(tokens, (0, self.trunk.width - tokens.shape[-1]))
        correction: Tensor = self.out(self.trunk(padded))
        return correction

    def adapters(self) -> dict[str, Tensor]:
        """Copies of the trained tensors by name: all that a node sends of the model."""
        return {name: p.detach().cpu().clone() for name, p in self.named_parameters() if _is_trained(name)}

    def load_adapters(self, adapters: Mapping[str, Tensor]) -> None:
        """Set the trained tensors.

        Raises:
            MessageError: names or shapes are not this model's.
        """
        own = {name: p for name, p in self.named_parameters() if _is_trained(name)}
        if set(own) != set(adapters):
            odd = sorted(set(own) ^ set(adapters))
            raise MessageError(f"adapters do not fit this trunk: {odd[:3]}; all nodes need the same trunk and rank")
        with torch.no_grad():
            for name, parameter in own.items():
                if parameter.shape != adapters[name].shape:
                    raise MessageError(
                        f"adapter {name!r} is {tuple(adapters[name].shape)}, not {tuple(parameter.shape)}"
                    )
                parameter.copy_(adapters[name])

    def trained(self) -> list[nn.Parameter]:
        """The tensors that an optimiser moves."""
        return [p for name, p in self.named_parameters() if _is_trained(name)]


def _is_trained(name: str) -> bool:
    return "lora_" in name or name.startswith("out.")


class NodeModel(nn.Module):
    """z = sum_t P(x)_t + bias + out(trunk(P(x))): with change, adapters and out at zero this is the starting map."""

    bias: Tensor

    def __init__(self, start: LinearMap, tokens: int, shared: SharedModel) -> None:
        super().__init__()
        self.projector = Projector(start.weight, tokens)
        self.register_buffer("bias", start.bias.float())
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        """Coordinates [B, d] of standardised tokens [B, T, c]."""
        return self.from_base(self.projector.base(x))

    def from_base(self, base: Tensor) -> Tensor:
        """Coordinates [B, d] from the start's output [B, T, d]: frozen, hence computed once for rows seen often."""
        projected = self.projector(base)
        return projected.sum(1) + self.bias + self.shared(projected)
