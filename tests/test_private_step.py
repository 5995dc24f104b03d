"""One private step against a naive one: each row's gradient by autograd alone, clipped, summed."""

import pytest
import torch
from planted import planted
from torch import nn
from torch.testing import assert_close

from isogram import federation
from isogram.config import Config, ModelConfig, PrivacyConfig, TermWeights, TrainConfig
from isogram.errors import ConfigError
from isogram.local.private_step import PrivateStep, refuse_mixing
from isogram.model.adapters import METHODS
from isogram.model.trunk import Trunk
from isogram.objective import Step, task

DATA = planted(private=9)


class Drawn:
    """In the place of `noise.Noise`: ones times the deviation, so that the sum without them is known."""

    def gaussian(self, shape, deviation, *purpose):
        return torch.full(shape, deviation, dtype=torch.float64)


def node_of(adapter, trunk="small", projector_lr=1e-3):
    config = Config(
        data="machines",
        model=ModelConfig(trunk=trunk, width=48, layers=1, rank=2, adapter=adapter),
        train=TrainConfig(rounds=2, weights=TermWeights.only(task=1, frame=1), projector_lr=projector_lr),
        privacy=PrivacyConfig(epsilon=8, noise_seed=0),
    )
    fed = federation.start_training(federation.align(DATA, config))
    draw = torch.Generator().manual_seed(1)
    node = fed.nodes[0]
    with torch.no_grad():  # at the start most gradients are 0, and would agree whatever the code does
        for p in node.model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=draw))
    return node, fed.head


def term_of(node, head, rows):
    z = node.model.from_base(node.base_rows[rows].requires_grad_())
    labels = node._one_hot(len(head))[rows].float()
    nothing = z.new_zeros(0, z.shape[1])
    step = Step(nothing, torch.zeros(0, dtype=torch.int64), z, z, labels=labels, head=head.float())
    return task(step, 0.1, "sum")


def weighted(node, head, rows, weights):
    """A term that gives each row's gradient a factor of its own."""
    z = node.model.from_base(node.base_rows[rows].requires_grad_())
    return (weights[:, None] * z * head[0].float()).sum()


def naive(node, head, rows, parameters, clip):
    """Sum of clipped gradients, one row after the other, in float64; and the largest norm before clipping."""
    total, largest = [torch.zeros(p.shape, dtype=torch.float64) for p in parameters], 0.0
    for row in rows:
        value = term_of(node, head, torch.tensor([row]))
        gradients = [g.double() for g in torch.autograd.grad(value, parameters)]
        norm = float(torch.stack([g.square().sum() for g in gradients]).sum().sqrt())
        largest = max(largest, norm)
        for sum_, g in zip(total, gradients, strict=True):
            sum_ += g * min(1.0, clip / norm)
    return total, largest


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("adapter", METHODS)
def test_clipped_sums_are_those_of_a_loop_over_rows(adapter, turn):
    node, head = node_of(adapter)
    trains = list(node.shared.train_turn(turn + 1).values())
    parameters = [*trains, node.model.projector.change]
    optimiser = torch.optim.SGD(parameters, lr=1)
    rows = [0, 2, 3, 8]
    _, largest = naive(node, head, rows, parameters, 1.0)
    clip = 0.6 * largest  # some are clipped, some are not
    expected, _ = naive(node, head, rows, parameters, clip)
    for p in parameters:
        p.grad = torch.ones_like(p)  # what public terms left
    private = PrivateStep(node.model, optimiser, Drawn(), clip, 0.5, 0.25)
    private.add_gradient(lambda: term_of(node, head, torch.tensor(rows)), len(rows), ("step",))
    for p, sum_ in zip(parameters, expected, strict=True):
        assert float(sum_.norm()) > 1e-6 * clip  # of tensors without a gradient all would agree
        assert_close(p.grad.double(), 1 + 0.25 * (sum_ + 0.5 * clip), rtol=1e-4, atol=1e-5 * clip)
        assert not hasattr(p, "grad_sample")


def test_a_step_without_anything_to_learn_leaves_nothing_for_the_next():
    """The forward pass of rows whose classes nobody knows is recorded by hooks, and no backward pass takes it away."""
    node, head = node_of("geolora")
    parameters = [*node.shared.train_turn(1).values(), node.model.projector.change]

    def released(*unknown):
        private = PrivateStep(node.model, torch.optim.SGD(parameters, lr=1), Drawn(), 1e3, 0.0, 1.0)
        for rows in unknown:
            private.add_gradient(lambda rows=rows: term_of(node, head * torch.nan, torch.arange(rows)), rows, ("step",))
            assert all(float(p.grad.abs().max()) == 0 for p in parameters)
        for p in parameters:
            p.grad = None
        private.add_gradient(lambda: term_of(node, head, torch.arange(4)), 4, ("step",))
        return torch.cat([p.grad.flatten() for p in parameters])

    assert_close(released(6, 2), released(), rtol=0, atol=0)


def test_one_row_more_or_less_moves_the_sum_by_the_clip_at_most():
    node, head = node_of("geolora")
    parameters = [*node.shared.train_turn(1).values(), node.model.projector.change]

    def released(rows):
        for p in parameters:
            p.grad = None
        private = PrivateStep(node.model, torch.optim.SGD(parameters, lr=1), Drawn(), 0.01, 1.0, 1.0)
        private.add_gradient(lambda: term_of(node, head, torch.tensor(rows)), len(rows), ("step",))
        return torch.cat([p.grad.flatten() for p in parameters])

    everything = list(range(9))
    for row in everything:
        moved = float((released(everything) - released([r for r in everything if r != row])).norm())
        assert 0.0099 < moved < 0.01001


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 1e30])
def test_a_row_whose_gradient_is_not_finite_moves_nothing_by_more_than_the_clip(broken):
    node, head = node_of("geolora")
    parameters = [*node.shared.train_turn(1).values(), node.model.projector.change]
    private = PrivateStep(node.model, torch.optim.SGD(parameters, lr=1), Drawn(), 0.01, 1.0, 1.0)
    rows = torch.arange(3)
    private.add_gradient(lambda: weighted(node, head, rows, torch.tensor([1.0, broken, 1.0])), 3, ("step",))
    found = torch.cat([p.grad.flatten() for p in parameters])
    for p in parameters:
        p.grad = None
    private.add_gradient(lambda: weighted(node, head, rows, torch.tensor([1.0, 0.0, 1.0])), 3, ("step",))
    without = torch.cat([p.grad.flatten() for p in parameters])
    assert found.isfinite().all() and float((found - without).norm()) < 0.01001


def test_a_trunk_that_folds_rows_into_one_is_refused():
    """Opacus would take each token for a row, clip it by itself, and no error would be seen."""
    node, head = node_of("geolora")
    parameters = list(node.shared.train_turn(1).values())
    node.model.projector.change.requires_grad_(False)
    trunk = node.shared.trunk.forward

    def folded(tokens):
        hidden = tokens.flatten(0, 1)
        for layer in node.shared.layers.values():
            if layer.weight.shape == (48, 48):
                hidden = layer(hidden)
        return hidden.reshape(tokens.shape).mean(1)

    node.shared.trunk.forward = folded
    try:
        private = PrivateStep(node.model, torch.optim.SGD(parameters, lr=1), Drawn(), 0.01, 1.0, 1.0)
        with pytest.raises(ConfigError, match="folds 3 rows into 12"):
            private.add_gradient(lambda: term_of(node, head, torch.arange(3)), 3, ("step",))
    finally:
        node.shared.trunk.forward = trunk


@pytest.mark.parametrize("empty", ["no row", "no class"])
def test_noise_is_added_also_where_no_row_has_a_part(empty):
    node, _ = node_of("geolora")
    parameters = [*node.shared.train_turn(1).values(), node.model.projector.change]
    private = PrivateStep(node.model, torch.optim.SGD(parameters, lr=1), node.noise, 2.0, 3.0, 0.5)
    private.add_gradient(lambda: None, 4, ("step", empty))
    drawn = torch.cat([p.grad.flatten() for p in parameters])
    assert len(drawn) > 2000
    assert float(drawn.std()) == pytest.approx(3.0, rel=0.05) and abs(float(drawn.mean())) < 0.2


def test_a_rows_loss_depends_on_no_other_row():
    """Fails if a batch statistic gets into the task term: a mean over rows, a class weight."""
    node, head = node_of("geolora")

    def value(*rows):
        return float(term_of(node, head, torch.tensor(rows)).detach())

    alone = [value(row) for row in range(9)]
    assert value(*range(9)) == pytest.approx(sum(alone), rel=1e-5)
    assert value(0, 0, 5) == pytest.approx(2 * alone[0] + alone[5], rel=1e-5)


class Mixing(nn.Module):
    def __init__(self, trunk):
        super().__init__()
        self.trunk, self.norm = trunk, nn.BatchNorm1d(trunk.width)

    def forward(self, tokens):
        return self.norm(self.trunk(tokens))


def test_a_trunk_that_mixes_rows_is_refused():
    trunk = Trunk(ModelConfig(width=48, layers=1))
    refuse_mixing(trunk, trunk.width, 4)
    with pytest.raises(ConfigError, match="mixes the rows of a batch"):
        refuse_mixing(Mixing(trunk), trunk.width, 4)
