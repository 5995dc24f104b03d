"""One step's gradient of private rows under differential privacy: clipped row by row, summed, with noise (DP-SGD).

Abadi et al. 2016, "Deep learning with differential privacy", algorithm 1, by Opacus: its hooks make each row's own
gradient, its optimiser clips them. Terms of public anchors have no part in it: their gradient is added as it is.
Shape letters: b rows of the sample, T tokens, i inputs, o outputs, r rank, d coordinates.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from isogram.accountant import opacus
from isogram.errors import ConfigError
from isogram.model.adapters import MAGNITUDE, WEIGHT, AdaptedLinear
from isogram.model.node_model import Projector
from isogram.noise import Noise

_SAME = 1e-4  # by which a row may differ in another batch: kernels round as they like


class PrivateStep:
    """Adds the noisy gradient of a term of private rows to what the parameters have already.

    Args:
        model: a `NodeModel`; its rows must not depend on each other, see `refuse_mixing`.
        optimiser: of all that trains.
        noise: the node's own.
        clip: bound on the L2 norm of a row's gradient over all that trains.
        multiplier: standard deviation of the noise on the sum of clipped gradients, over `clip`.
        scale: what that sum is multiplied by. It is no mean over the rows that were drawn: their number is private.

    Raises:
        ConfigError: Opacus is not installed.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        noise: Noise,
        clip: float,
        multiplier: float,
        scale: float,
    ) -> None:
        self._model, self._noise, self._deviation, self._scale = model, noise, clip * multiplier, scale
        self._hooks = opacus("grad_sample").GradSampleHooks
        for kind, sampler in ((AdaptedLinear, adapted_gradients), (Projector, projector_gradients)):
            opacus("grad_sample").register_grad_sampler(kind)(sampler)
        self._clipper = opacus("optimizers").DPOptimizer(
            optimiser, noise_multiplier=multiplier, max_grad_norm=clip, expected_batch_size=None, loss_reduction="sum"
        )
        for module in model.modules():
            if any(p.requires_grad for p in module.parameters(recurse=False)):
                module.training = True  # hooks look at nothing else; there is no dropout

    def add_gradient(self, term: Callable[[], Tensor | None], rows: int, purpose: tuple[object, ...]) -> None:
        """Add the gradient of the rows of a sample, each clipped, and noise: also where there are no rows.

        Args:
            term: sum over the rows; None if none of them has a part in it.
            rows: how many there are.
            purpose: what the noise is for, different for each step of a run.

        Raises:
            ConfigError: the trunk folds rows into one, so that parts of them would be clipped and not they.
        """
        parameters = self._clipper.params
        before = [p.grad for p in parameters]
        for p in parameters:
            p.grad, p.summed_grad = None, None
        # For this pass alone: terms of anchors, which mix rows as they like, never see a hook.
        hooks = self._hooks(self._model, loss_reduction="sum", strict=False)
        value = term()
        if value is not None:
            value.backward()
        hooks.remove_hooks()
        for module in self._model.modules():  # what a pass forward that no pass back followed has left there
            vars(module).pop("activations", None)
            vars(module).pop("max_batch_len", None)
        for p in parameters:
            if value is None or p.grad_sample is None:  # nothing to learn from, or a layer that no row goes through
                p.grad_sample = p.new_zeros(0 if value is None else rows, *p.shape)
            if value is not None and len(p.grad_sample) != rows:
                raise ConfigError(
                    f"model.trunk folds {rows} rows into {len(p.grad_sample)}: no row has a gradient of its own then, "
                    "and privacy.epsilon cannot be kept; choose another trunk, or another model.target"
                )
        _leave_out_broken([p.grad_sample for p in parameters])
        self._clipper.clip_and_accumulate()
        for number, (p, public) in enumerate(zip(parameters, before, strict=True)):
            noise = self._noise.gaussian(tuple(p.shape), self._deviation, *purpose, number)
            p.grad = self._scale * (p.summed_grad + noise.to(p.summed_grad))
            if public is not None:
                p.grad += public
            p.summed_grad = None
        hooks.cleanup()


def _leave_out_broken(gradients: list[Tensor]) -> None:
    """Set to 0 the gradient of a row that has NaN or infinity in it: no bound would hold, and the sum would show it."""
    broken = torch.stack([~g.flatten(1).isfinite().all(1) for g in gradients]).any(0)
    if broken.any():
        for g in gradients:
            g[broken] = 0


def adapted_gradients(layer: AdaptedLinear, inputs: list[Tensor], gradient: Tensor) -> dict[nn.Parameter, Tensor]:
    """Each row's gradient [b, ...] of what trains of an adapted layer.

    Args:
        layer: y = m / ||V|| (x W0^T + x A^T B^T) + bias, without m / ||V|| where there is no magnitude.
        inputs: x [b, ..., i].
        gradient: of the loss by y [b, ..., o].
    """
    x = inputs[0].detach().flatten(1, -2).float() if inputs[0].dim() > 2 else inputs[0].detach()[:, None].float()
    by_out = gradient.flatten(1, -2).float() if gradient.dim() > 2 else gradient[:, None].float()
    found: dict[nn.Parameter, Tensor] = {}
    if WEIGHT in layer.method.tensors:
        return {layer.weight: torch.einsum("bto,bti->boi", by_out, x)}
    low = x @ layer.lora_A.T
    if MAGNITUDE in layer.method.tensors:
        norms = layer.row_norms()
        plain = x @ layer.weight.float().T + low @ layer.lora_B.T
        found[layer.magnitude] = (by_out * plain).sum(1) / norms
        by_out = by_out * (layer.magnitude / norms)
    if layer.lora_B.requires_grad:
        found[layer.lora_B] = torch.einsum("bto,btr->bor", by_out, low)
    if layer.lora_A.requires_grad:
        found[layer.lora_A] = torch.einsum("btr,bti->bri", by_out @ layer.lora_B, x)
    return {p: value.detach() for p, value in found.items()}


def projector_gradients(layer: Projector, inputs: list[Tensor], gradient: Tensor) -> dict[nn.Parameter, Tensor]:
    """Each row's gradient [b, d, d] of the change of a projector; inputs [b, T, d], gradient [b, T, d]."""
    return {layer.change: torch.einsum("bti,btj->bij", inputs[0].detach(), gradient)}


def refuse_mixing(trunk: nn.Module, width: int, tokens: int) -> None:
    """Look whether a row's embedding depends on the row beside it: then no row has a gradient of its own.

    Raises:
        ConfigError: it does.
    """
    draw = torch.Generator().manual_seed(0)
    one, other, another = torch.randn(3, 1, tokens, width, generator=draw)
    with torch.no_grad():
        device = next(trunk.parameters()).device
        alone, beside = (trunk(torch.stack([one, x]).flatten(0, 1).to(device))[0] for x in (other, another))
    if not torch.allclose(alone, beside, rtol=_SAME, atol=_SAME * float(alone.abs().max())):
        raise ConfigError(
            "model.trunk mixes the rows of a batch (batch normalisation does): no row has a gradient of its own then, "
            "and privacy.epsilon cannot be kept; choose another trunk"
        )
