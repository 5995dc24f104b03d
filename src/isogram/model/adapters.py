"""Adapters of linear layers, and the seven methods that differ in what of them trains, travels and stays at home.

y = x (W0 + B A)^T + b, with a magnitude y = m / ||V|| * (x V^T) + b, V = W0 + B A, ||.|| by rows (docs/adapters.md).
Shape letters: o outputs, i inputs, r rank, N rows of a batch times tokens, R rank merged by refreshes.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from isogram.errors import ConfigError, MessageError

A, B, MAGNITUDE, WEIGHT = "lora_A", "lora_B", "magnitude", "weight"
MERGED_A, MERGED_B = "merged_A", "merged_B"


@dataclass(frozen=True)
class Method:
    """What sets an adapter method apart.

    turns: the tensors that train in a round, one turn after the other; what trains is sent, but for what is at home.
    orthonormal: rows of A are an orthonormal basis; else they are drawn as PEFT draws them.
    home: the tensor that never leaves its node.
    """

    turns: tuple[frozenset[str], ...]
    orthonormal: bool = False
    home: str = ""

    def trains(self, round: int) -> frozenset[str]:
        """Names of the tensors that train in a round, counted from 1."""
        return self.turns[(round - 1) % len(self.turns)]

    @property
    def tensors(self) -> frozenset[str]:
        """Names of all that trains in some round."""
        return frozenset().union(*self.turns)

    @property
    def frozen_basis(self) -> bool:
        """Whether all nodes share one A, so that the average of their B is the average of their models."""
        return A not in self.tensors and WEIGHT not in self.tensors


METHODS: dict[str, Method] = {
    "geolora": Method((frozenset({B}),), orthonormal=True),
    "geodora": Method((frozenset({B, MAGNITUDE}),), orthonormal=True, home=MAGNITUDE),
    "fedit": Method((frozenset({A, B}),)),
    "ffa-lora": Method((frozenset({B}),)),
    "rolora": Method((frozenset({B}), frozenset({A}))),
    "dora": Method((frozenset({A, B, MAGNITUDE}),)),
    "full": Method((frozenset({WEIGHT}),)),
}
"""FedIT: arXiv 2305.05644; FFA-LoRA: 2403.12313; RoLoRA: 2409.02346; DoRA: 2402.09353; GeoLoRA, GeoDoRA: 2601.17986."""


class AdaptedLinear(nn.Module):
    """A frozen linear layer and its adapter, zero at first: the function starts as the layer's own.

    weight [o, i], in the trunk's dtype; lora_A [r, i], lora_B [o, r], magnitude [o], in float32 (all absent with
    "full"); merged_A [R, i], merged_B [o, R]: what refreshes have merged into the weight.
    """

    bias: Tensor | None
    merged_A: Tensor
    merged_B: Tensor
    _squares: Tensor
    _cross: Tensor

    def __init__(self, layer: nn.Linear, method: Method, rank: int, name: str) -> None:
        super().__init__()
        self.method, self.name = method, name
        self.weight = nn.Parameter(layer.weight.detach(), requires_grad=WEIGHT in method.tensors)
        self.register_parameter("bias", None if layer.bias is None else nn.Parameter(layer.bias.detach(), False))
        if WEIGHT in method.tensors:
            return
        outputs, inputs = self.weight.shape
        device = self.weight.device
        if method.orthonormal:
            basis = orthonormal_basis(inputs, rank, name, 0)
        else:
            basis = torch.empty(rank, inputs)
            nn.init.kaiming_uniform_(basis, a=5**0.5, generator=_generator(name, 0))
        self.lora_A = nn.Parameter(basis.to(device), requires_grad=A in method.tensors)
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank, device=device))
        self.register_buffer(MERGED_A, torch.empty(0, inputs, device=device))
        self.register_buffer(MERGED_B, torch.empty(outputs, 0, device=device))
        if MAGNITUDE in method.tensors:
            self.register_buffer("_squares", torch.empty(outputs, device=device), persistent=False)
            self.register_buffer("_cross", torch.empty(outputs, rank, device=device), persistent=False)
            self.magnitude = nn.Parameter(self.weight.detach().float().norm(dim=1))
            self._cache()

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [..., o] of inputs [..., i], in the inputs' dtype."""
        if WEIGHT in self.method.tensors:
            return linear(x, self.weight, self.bias)
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ self.lora_A.to(x.dtype).T
        if MAGNITUDE in self.method.tensors:
            # One fused pass each for "+ low B^T" and "* gain + bias"; PEFT takes five.
            out = torch.addmm(rows @ self.weight.T, low, self.lora_B.to(x.dtype).T)
            gain = (self.magnitude / self.row_norms()).to(x.dtype)
            out = out * gain if self.bias is None else torch.addcmul(self.bias, out, gain)
        else:
            out = torch.addmm(linear(rows, self.weight, self.bias), low, self.lora_B.to(x.dtype).T)
        return out.reshape(*x.shape[:-1], -1)

    @torch.no_grad()
    def row_norms(self) -> Tensor:
        """[o] norms of the rows of V, without V: ||W0_j||^2 + 2 <(W0 A^T)_j, B_j> + B_j A A^T B_j.

        O(o r) while A is an orthonormal basis that is frozen, for W0 A^T is cached and A A^T = I; where A moves, the
        factored norm of arXiv 2603.22276, O(o i r). No gradient flows through it (DoRA, section 4.3).
        """
        b = self.lora_B
        if self.method.frozen_basis and self.method.orthonormal:
            twice = 2 * self._cross + b
        else:
            cross = self.weight.float() @ self.lora_A.T
            twice = 2 * cross + b @ (self.lora_A @ self.lora_A.T)
        # Rounding can push the square of a row that B A cancels below 0.
        return (self._squares + (b * twice).sum(1)).clamp_min(torch.finfo(b.dtype).tiny).sqrt()

    @torch.no_grad()
    def refresh(self, basis: Tensor) -> None:
        """Merge B A into the weight (with a magnitude, into V) and go on from B = 0 on a new basis [r, i].

        The function stays: V is the same matrix, and a magnitude stays as it is.
        """
        self._merge(self.lora_A, self.lora_B)
        self.lora_B.zero_()
        self.lora_A.copy_(basis)
        self._cache()

    def _merge(self, a: Tensor, b: Tensor) -> None:
        self.weight.add_((b @ a).to(self.weight.dtype))
        self.merged_A, self.merged_B = torch.cat([self.merged_A, a]), torch.cat([self.merged_B, b], 1)

    @torch.no_grad()
    def _cache(self) -> None:
        if MAGNITUDE in self.method.tensors:
            weight = self.weight.float()
            # Cached for the norm: functions of frozen tensors alone, so few events change them.
            self._squares.copy_(weight.square().sum(1))
            self._cross.copy_(weight @ self.lora_A.T)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Set tensors by their names in this layer; those not given stay.

        Raises:
            MessageError: merged factors that do not go on from those that the weight holds.
        """
        if MERGED_A in tensors:
            # Block by block, as they were merged: another order of sums would change the last bits.
            a, b = (tensors[name].to(self.weight.device) for name in (MERGED_A, MERGED_B))
            have, rank = len(self.merged_A), len(self.lora_A)
            if a.shape[1:] != self.merged_A.shape[1:] or b.shape != (len(self.weight), len(a)) or len(a) % rank:
                raise MessageError(f"{self.name!r}: merged factors {tuple(a.shape)}, {tuple(b.shape)} do not fit it")
            if not torch.equal(a[:have], self.merged_A) or not torch.equal(b[:, :have], self.merged_B):
                raise MessageError(f"{self.name!r} has merged something else already; begin from a fresh trunk")
            for at in range(len(self.merged_A), len(a), len(self.lora_A)):
                block = slice(at, at + len(self.lora_A))
                self._merge(a[block], b[:, block])
        for name in (A, B, MAGNITUDE, WEIGHT):
            if name in tensors:
                getattr(self, name).copy_(tensors[name])
        if A in tensors or MERGED_A in tensors:
            self._cache()


def adapt(model: nn.Module, targets: Collection[str], method: Method, rank: int) -> None:
    """Put an `AdaptedLinear` in the place of every layer named, and freeze all else.

    Raises:
        ConfigError: a rank above a layer's width, or two layers that share a weight; names the layers.
    """
    model.requires_grad_(False)
    modules = model.named_modules(remove_duplicate=False)
    layers = {name: layer for name, layer in modules if name in targets and isinstance(layer, nn.Linear)}
    owner: dict[int, str] = {}
    for name, layer in layers.items():
        first = owner.setdefault(layer.weight.data_ptr(), name)
        if first != name:
            raise ConfigError(f"layers {first!r} and {name!r} share one weight; leave one of them out of model.target")
    for name, layer in layers.items():
        if WEIGHT not in method.tensors and rank > min(layer.weight.shape):
            raise ConfigError(
                f"model.rank = {rank}: layer {name!r} is {layer.out_features} x {layer.in_features}; "
                f"choose a rank of {min(layer.weight.shape)} or less, or leave the layer out of model.target"
            )
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, AdaptedLinear(layer, method, rank, name))


def adapted(model: nn.Module) -> Iterator[tuple[str, AdaptedLinear]]:
    """All adapted layers by name, in the model's order."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, AdaptedLinear))


def orthonormal_basis(inputs: int, rank: int, name: str, refresh: int) -> Tensor:
    """[r, i] random orthonormal rows: public and the same at every node, drawn anew for each layer and refresh."""
    noise = torch.randn(inputs, rank, generator=_generator(name, refresh), dtype=torch.float64)
    return torch.linalg.qr(noise).Q.T.float()


def new_basis(old: Tensor, name: str, refresh: int, sketch: Tensor | None = None) -> Tensor:
    """[r, i] for the time after a refresh: what the gradient asks for, or a random basis outside the old one.

    Args:
        old: [r, i] orthonormal rows to leave.
        name: of the layer.
        refresh: its number, from 1.
        sketch: [q, i] of the loss gradient by the weight; its leading right singular vectors, where it has any, come
            first.
    """
    rank, inputs = old.shape
    old = old.double()
    wanted = orthonormal_basis(inputs, min(2 * rank, inputs), name, refresh).double()
    if 2 * rank <= inputs:
        wanted = wanted - wanted @ old.T @ old
    if sketch is not None:
        _, values, rows = torch.linalg.svd(sketch.double(), full_matrices=False)
        wanted = torch.cat([rows[values > 1e-6 * values[0]], wanted])
    return torch.linalg.qr(wanted[: max(rank, min(len(wanted), inputs))].T).Q.T[:rank].float()


@contextmanager
def gradient_sketches(model: nn.Module, refresh: int) -> Iterator[dict[str, Tensor]]:
    """Within it, backward passes add up, per adapted layer, Omega^T dL/dV [2r, i] without forming dL/dV [o, i].

    Omega [o, 2r] is Gaussian, public, and the same at every node, so that sketches of nodes add up to that of their sum
    (Halko et al. 2011, section 4). Without a refresh (0) nothing is added up.
    """
    sketches: dict[str, Tensor] = {}
    if not refresh:
        yield sketches
        return
    hooks = [layer.register_forward_hook(_sketcher(name, layer, refresh, sketches)) for name, layer in adapted(model)]
    try:
        yield sketches
    finally:
        for hook in hooks:
            hook.remove()


def _sketcher(name: str, layer: AdaptedLinear, refresh: int, sketches: dict[str, Tensor]) -> Any:
    outputs, size = len(layer.weight), 2 * len(layer.lora_A)
    omega = torch.randn(outputs, size, generator=_generator(name, "sketch", refresh)).to(layer.weight.device)

    def seen(layer: AdaptedLinear, inputs: tuple[Tensor], out: Tensor) -> None:
        x = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()

        def add(gradient: Tensor) -> None:
            by_row = gradient.reshape(-1, outputs).float()
            if MAGNITUDE in layer.method.tensors:
                by_row = by_row * (layer.magnitude / layer.row_norms()).detach()
            sketches[name] = sketches.get(name, torch.zeros((), device=x.device)) + (by_row @ omega).T @ x

        out.register_hook(add)

    return seen


def _generator(*parts: object) -> torch.Generator:
    # Of names, not of a run's seed: a basis is public, like a pretrained weight.
    digest = hashlib.sha256("/".join(map(str, ("isogram basis", *parts))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
