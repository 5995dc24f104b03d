"""From a node's tokens to coordinates: private projector, skip path, shared trunk.

Shape letters: B rows, T tokens, c values per token, F = T c, d coordinates (the frame's rank r, or a chosen width).
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from isogram.alignment import LinearMap
from isogram.config import ModelConfig
from isogram.errors import ConfigError, MessageError
from isogram.model import peft_import
from isogram.model.adapters import (
    MAGNITUDE,
    MERGED_A,
    MERGED_B,
    METHODS,
    WEIGHT,
    A,
    AdaptedLinear,
    B,
    adapted,
    new_basis,
)
from isogram.model.trunk import Trunk
from isogram.tensor_file import fingerprint


class Projector(nn.Module):
    """Private to a node: standardised tokens [B, T, c] -> [B, T, d], and a token more of what is curved in the start.

    A frozen map per token position (the start) and a trained d x d change of its output, zero at first. The change acts
    on coordinates, not on raw features: F is in the thousands and anchors are few, so a trained F x d map only learns
    the anchors by heart (docs/log.md).
    """

    start: Tensor

    def __init__(self, start: LinearMap, tokens: int) -> None:
        super().__init__()
        width = start.weight.shape[1]
        self.register_buffer("start", start.weight.float().reshape(tokens, -1, width))
        self.map = start
        self.change = nn.Parameter(torch.zeros(width, width))

    def base(self, x: Tensor) -> Tensor:
        """[B, T, d] by the start alone, or [B, T + 1, d] where part of it is curved."""
        linear = torch.einsum("btc,tcd->btd", x, self.start)
        curve = self.map.curved(x.double().cpu().flatten(1))
        return linear if curve is None else torch.cat([linear, curve[:, None].to(linear)], 1)

    def forward(self, base: Tensor) -> Tensor:
        """[B, T, d] from the start's output [B, T, d]."""
        return base + base @ self.change


class SharedModel(nn.Module):
    """What all nodes share: the trunk's adapters and the map from its width to coordinates, which starts at zero.

    One is enough for many nodes in one process: what is a node's own in it (a magnitude that stays at home) is put in
    place by `NodeModel`. With trunk "none" nothing is shared and the correction is zero.

    Raises:
        ConfigError: more coordinates than the trunk is wide, and as `Trunk` and `peft_import.read_adapter` do.
    """

    def __init__(self, config: ModelConfig, coordinates: int) -> None:
        super().__init__()
        self.method = METHODS[config.adapter]
        self.about = "no trunk"
        self.user: object = None
        self.layers: dict[str, AdaptedLinear] = {}
        self.trunk = None if config.trunk == "none" else Trunk(config)
        if self.trunk is None:
            return
        if coordinates > self.trunk.width:
            raise ConfigError(f"{coordinates} coordinates do not fit a trunk of width {self.trunk.width}; lower rank")
        self.about = f"{config.trunk} #{self.trunk.fingerprint}, {config.adapter}, rank {config.rank}"
        # Nothing is drawn for what is 0: the process has one generator, and others may be at it.
        self.out = nn.utils.skip_init(nn.Linear, self.trunk.width, coordinates, bias=False)
        nn.init.zeros_(self.out.weight)
        self.layers = {f"trunk.transformer.{name}": layer for name, layer in adapted(self.trunk.transformer)}
        if config.start:
            peft_import.read_adapter(self, config.start)
            self.about += f", start #{fingerprint(self.state())}"

    def forward(self, tokens: Tensor) -> Tensor | float:
        """Correction [B, d] to the skip path, from projected tokens [B, T, d]."""
        if self.trunk is None:
            return 0.0
        padded = nn.functional.pad(tokens, (0, self.trunk.width - tokens.shape[-1]))
        correction: Tensor = self.out(self.trunk(padded))
        return correction

    def train_turn(self, round: int) -> dict[str, nn.Parameter]:
        """The tensors that train in a round, counted from 1, by name; all others are frozen."""
        trains = self.method.trains(round)
        found = {}
        for name, parameter in self.named_parameters():
            tensor = name.rpartition(".")[2]
            adapter = tensor in trains and name.rpartition(".")[0] in self.layers
            parameter.requires_grad_(adapter or name == OUT)
            if parameter.requires_grad:
                found[name] = parameter
        return found

    def update(self, round: int) -> dict[str, Tensor]:
        """Copies of what trained in a round and leaves the node: all that it sends of the model."""
        trained = self.train_turn(round)
        return {name: _copy(p) for name, p in trained.items() if not self._at_home(name)}

    def state(self) -> dict[str, Tensor]:
        """Copies of all that the nodes share and that training or a refresh changes."""
        return {name: _copy(value) for name, value in self._tensors() if not self._at_home(name)}

    def home(self) -> dict[str, Tensor]:
        """Copies of what stays at a node, as it is now."""
        return {name: _copy(value) for name, value in self._tensors() if self._at_home(name)}

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, layer in self.layers.items():
            for tensor in (WEIGHT,) if WEIGHT in self.method.tensors else (A, B, MAGNITUDE, MERGED_A, MERGED_B):
                if hasattr(layer, tensor):
                    yield f"{name}.{tensor}", getattr(layer, tensor)
        if self.trunk is not None:
            yield OUT, self.out.weight

    def _at_home(self, name: str) -> bool:
        return bool(self.method.home) and name.endswith(f".{self.method.home}")

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Set tensors by name; those not given stay.

        Raises:
            MessageError: a name or a shape that is not this model's.
        """
        own = dict(self._tensors())
        if alone := sorted(n for n in tensors if n.endswith(MERGED_A) and n.replace(MERGED_A, MERGED_B) not in tensors):
            raise MessageError(f"{alone[0]!r} came without its {MERGED_B}; give both")
        unknown = sorted(set(tensors) - set(own))
        if unknown:
            raise MessageError(f"{unknown[:3]} do not belong to {self.about}; all nodes need the same trunk and rank")
        for name, value in tensors.items():
            if MERGED_A not in name and MERGED_B not in name and value.shape != own[name].shape:
                raise MessageError(
                    f"adapter {name!r} is {tuple(value.shape)}, not {tuple(own[name].shape)} as in {self.about}"
                )
        of: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            layer, _, tensor = name.rpartition(".")
            of.setdefault(layer, {})[tensor] = value
        with torch.no_grad():
            if OUT in tensors:
                self.out.weight.copy_(tensors[OUT])
            for name, found in of.items():
                if name in self.layers:
                    self.layers[name].load(found)

    def sketch_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape [2r, i] of each layer's gradient sketch."""
        return {name: (2 * len(layer.lora_A), layer.lora_A.shape[1]) for name, layer in self.layers.items()}

    def refresh(self, number: int, bases: Mapping[str, Tensor]) -> None:
        """Merge every adapter into its layer and go on from a new basis; nothing happens if that was done already.

        Args:
            number: of this refresh, from 1.
            bases: [r, i] by name of the layer's A; a layer without one gets a random basis outside the one that it has.
        """
        for name, layer in self.layers.items():
            if len(layer.merged_A) < number * len(layer.lora_A):
                given = bases.get(f"{name}.{A}")
                layer.refresh(new_basis(layer.lora_A.cpu(), name, number) if given is None else given)


OUT = "out.weight"


def _copy(value: Tensor) -> Tensor:
    return value.detach().float().cpu().clone()


class NodeModel(nn.Module):
    """z = sum_t P(x)_t + bias + out(trunk(P(x))): with change, adapters and out at zero this is the starting map.

    kept [d, d]: a projector; in its span z is what the starting map says, whatever is trained. None: nothing is kept.
    """

    bias: Tensor
    kept: Tensor | None

    def __init__(self, start: LinearMap, tokens: int, shared: SharedModel, kept: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("kept", None if kept is None else kept.float())
        self.projector = Projector(start, tokens)
        self.register_buffer("bias", start.bias.float())
        self.shared = shared
        self.home = shared.home()
        self._change = self.projector.change.detach().clone()
        self._key = object()

    def forward(self, x: Tensor) -> Tensor:
        """Coordinates [B, d] of standardised tokens [B, T, c]."""
        return self.from_base(self.projector.base(x))

    def from_base(self, base: Tensor) -> Tensor:
        """Coordinates [B, d] from the start's output [B, T, d]: frozen, hence computed once for rows seen often."""
        self.take_place()
        projected = self.projector(base)
        moved = (projected - base).sum(1) + self.shared(projected)
        if self.kept is not None:
            moved = moved - moved @ self.kept
        return base.sum(1) + self.bias + moved

    def take_place(self) -> None:
        """Put what is this node's own into the shared model, if another node used it last."""
        if self.home and self.shared.user is not self._key:
            self.shared.load(self.home)
            self.shared.user = self._key

    def keep_own(self) -> None:
        """Keep what training has made of this node's own part, or put back what it was if training has gone astray.

        A node that kept NaN would never find its way home, whatever it receives.
        """
        home, change = self.shared.home(), self.projector.change.detach().clone()
        if all(value.isfinite().all() for value in (change, *home.values())):
            self.home, self._change = home, change
        self.set_own(self.home, self._change)

    def set_own(self, home: Mapping[str, Tensor], change: Tensor) -> None:
        """Set this node's own part: what its adapters keep at home, and the change [d, d] of its projector."""
        with torch.no_grad():
            self.projector.change.copy_(change)
        self.home, self._change = dict(home), self.projector.change.detach().clone()
        self.shared.user = None
