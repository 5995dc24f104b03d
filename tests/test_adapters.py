from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from isogram.errors import ConfigError, MessageError
from isogram.model.adapters import (
    METHODS,
    AdaptedLinear,
    adapt,
    adapted,
    gradient_sketches,
    new_basis,
    orthonormal_basis,
)

SEEDS = st.integers(0, 2**32)
LOW_RANK = [name for name in METHODS if name != "full"]
WITH_MAGNITUDE = ["geodora", "dora"]


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linear(outputs=7, inputs=9, seed=0, bias=True):
    layer = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(normal(outputs, inputs, seed=seed))
        if bias:
            layer.bias.copy_(normal(outputs, seed=seed + 1))
    return layer


def moved(method, *, rank=3, seed=0, **shape):
    """A layer whose adapter is far from zero, so that no term of the formulas can be left out unnoticed."""
    layer = AdaptedLinear(linear(seed=seed, **shape), METHODS[method], rank, "layer")
    outputs, inputs = layer.weight.shape
    found = {"lora_B": normal(outputs, rank, seed=seed + 2)}
    if "lora_A" in layer.method.tensors:
        found["lora_A"] = normal(rank, inputs, seed=seed + 3)
    if method in WITH_MAGNITUDE:
        found["magnitude"] = normal(outputs, seed=seed + 4).abs() + 0.1
    layer.load(found)
    return layer


def reference(layer, x):
    """The formulas as they are written, in float64 and with V in full."""
    w0, a, b = (t.detach().double() for t in (layer.weight, layer.lora_A, layer.lora_B))
    v = w0 + b @ a
    if hasattr(layer, "magnitude"):
        v = layer.magnitude.detach().double()[:, None] * v / v.norm(dim=1, keepdim=True)
    out = x.double() @ v.T
    return out if layer.bias is None else out + layer.bias.detach().double()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("method", LOW_RANK)
@given(seed=SEEDS)
def test_the_forward_pass_is_the_formula(method, bias, seed):
    layer = moved(method, seed=seed, bias=bias)
    x = normal(2, 5, 9, seed=seed + 5)
    assert_close(layer(x).double(), reference(layer, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_fresh_adapter_leaves_the_layer_as_it_was(method):
    layer = linear()
    x = normal(4, 9, seed=5)
    assert_close(AdaptedLinear(layer, METHODS[method], 3, "layer")(x), layer(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", WITH_MAGNITUDE)
@given(seed=SEEDS)
def test_row_norms_are_those_of_the_dense_matrix(method, seed):
    layer = moved(method, seed=seed)
    dense = layer.weight.detach().double() + layer.lora_B.detach().double() @ layer.lora_A.detach().double()
    assert_close(layer.row_norms().double(), dense.norm(dim=1), rtol=1e-5, atol=1e-5)


def test_a_row_that_the_adapter_cancels_has_a_norm_that_can_be_divided_by():
    layer = AdaptedLinear(linear(), METHODS["geodora"], 3, "layer")
    with torch.no_grad():
        layer.weight[0] = layer.lora_A[0]
        layer.load({"lora_B": torch.cat([torch.tensor([[-1.0, 0, 0]]), torch.zeros(6, 3)])})
    assert layer(normal(4, 9, seed=0)).isfinite().all()


@pytest.mark.parametrize("method", WITH_MAGNITUDE)
def test_gradients_are_those_of_a_norm_held_constant(method):
    layer, x = moved(method), normal(6, 9, seed=9)
    goal = normal(6, 7, seed=10)
    (layer(x) * goal).sum().backward()
    b = layer.lora_B.detach().double().requires_grad_()
    m = layer.magnitude.detach().double().requires_grad_()
    v = layer.weight.detach().double() + b @ layer.lora_A.detach().double()
    w = m[:, None] * v / v.detach().norm(dim=1, keepdim=True)
    ((x.double() @ w.T + layer.bias.detach().double()) * goal.double()).sum().backward()
    assert_close(layer.lora_B.grad.double(), b.grad, rtol=1e-4, atol=1e-4)
    assert_close(layer.magnitude.grad.double(), m.grad, rtol=1e-4, atol=1e-4)
    # With the gradient through the norm it would be orthogonal to V, row by row; it must not be.
    assert (b.grad @ layer.lora_A.detach().double() * v.detach()).sum(1).abs().max() > 0.1


def peft_layer(layer, *, dora):
    """PEFT's own layer with the same tensors."""
    from peft import LoraConfig, get_peft_model

    plain = linear(*layer.weight.shape)
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
        plain.bias.copy_(layer.bias)
    rank = len(layer.lora_A)
    model = get_peft_model(
        nn.Sequential(plain), LoraConfig(r=rank, lora_alpha=rank, target_modules=["0"], use_dora=dora)
    )
    theirs = model.base_model.model[0]
    with torch.no_grad():
        theirs.lora_A["default"].weight.copy_(layer.lora_A)
        theirs.lora_B["default"].weight.copy_(layer.lora_B)
        if dora:
            theirs.lora_magnitude_vector["default"].weight.copy_(layer.magnitude)
    return model, theirs


@pytest.mark.parametrize("method", LOW_RANK)
def test_outputs_and_gradients_are_pefts(method):
    layer, x = moved(method), normal(6, 9, seed=9)
    x.requires_grad_()
    model, theirs = peft_layer(layer, dora=method in WITH_MAGNITUDE)
    goal = normal(6, 7, seed=10)
    ours, own = layer(x), x.detach().clone().requires_grad_()
    out = model(own)
    assert_close(ours, out, rtol=1e-5, atol=1e-5)
    (ours * goal).sum().backward()
    (out * goal).sum().backward()
    assert_close(x.grad, own.grad, rtol=1e-4, atol=1e-4)
    assert_close(layer.lora_B.grad, theirs.lora_B["default"].weight.grad, rtol=1e-4, atol=1e-4)
    if method in WITH_MAGNITUDE:
        assert_close(layer.magnitude.grad, theirs.lora_magnitude_vector["default"].weight.grad, rtol=1e-4, atol=1e-4)
    if "lora_A" in METHODS[method].tensors:
        assert_close(layer.lora_A.grad, theirs.lora_A["default"].weight.grad, rtol=1e-4, atol=1e-4)


def test_inputs_are_not_kept_for_the_backward_pass_while_the_basis_is_frozen():
    """What makes GeoLoRA lighter than LoRA: nothing of the size of the input stays in memory."""
    x = normal(50, 9, seed=1).requires_grad_()

    def kept(method):
        layer = AdaptedLinear(linear(), METHODS[method], 3, "layer")
        layer.lora_A.requires_grad_("lora_A" in layer.method.trains(1))
        shapes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: shapes.append(tuple(t.shape)) or t, lambda t: t):
            layer(x)
        return shapes

    assert (50, 9) in kept("fedit")
    assert (50, 9) not in kept("geolora")


@given(seed=SEEDS, nodes=st.integers(2, 5))
@torch.no_grad()
def test_averaging_commutes_with_the_forward_pass_on_a_shared_basis_and_only_there(seed, nodes):
    """Mean of the nodes' outputs against output of the mean adapter, in float64."""
    x = normal(4, 9, seed=seed).double()
    gaps = {}
    for method in ("geolora", "ffa-lora", "fedit"):
        layers = [moved(method, seed=7).double() for _ in range(nodes)]
        for n, layer in enumerate(layers):
            layer.load({"lora_B": normal(7, 3, seed=seed + 10 * n).double()})
            if method == "fedit":
                layer.load({"lora_A": normal(3, 9, seed=seed + 10 * n + 1).double()})
        mean = moved(method, seed=7).double()
        mean.load({name: sum(getattr(layer, name) for layer in layers) / nodes for name in ("lora_A", "lora_B")})
        gaps[method] = float((sum(layer(x) for layer in layers) / nodes - mean(x)).norm() / mean(x).norm())
    assert gaps["geolora"] < 1e-12
    assert gaps["ffa-lora"] < 1e-12
    assert gaps["fedit"] > 0.05


@given(seed=SEEDS)
def test_an_orthonormal_basis_is_one_and_another_for_every_layer_and_refresh(seed):
    bases = [orthonormal_basis(16, 4, name, refresh) for name in ("a", "b") for refresh in (0, 1)]
    for basis in bases:
        assert_close(basis @ basis.T, torch.eye(4), rtol=0, atol=1e-6)
    for one, two in pairwise(bases):
        assert (one - two).abs().max() > 0.01
    torch.manual_seed(seed)
    assert_close(orthonormal_basis(16, 4, "a", 0), bases[0], rtol=0, atol=0)


@pytest.mark.parametrize("sketched", [False, True])
@pytest.mark.parametrize("method", ["geolora", "geodora"])
@given(seed=SEEDS)
def test_a_refresh_moves_the_basis_and_keeps_the_function(method, sketched, seed):
    layer = moved(method, seed=seed)
    x = normal(5, 9, seed=seed)
    before, old = layer(x), layer.lora_A.detach().clone()
    sketch = normal(6, 9, seed=seed + 20) if sketched else None
    layer.refresh(new_basis(old, layer.name, 1, sketch))
    assert_close(layer(x), before, rtol=1e-4, atol=1e-4)
    assert (layer.lora_B == 0).all()
    now = layer.lora_A.detach()
    assert_close(now @ now.T, torch.eye(3), rtol=0, atol=1e-5)
    moved_by = (torch.linalg.pinv(old) @ old - now.T @ now).norm()
    # An SVD of the averaged B A would span the same rows: a distance of 0.
    assert moved_by > 0.5
    if not sketched:
        assert_close(now @ old.T, torch.zeros(3, 3), rtol=0, atol=1e-5)


def test_merged_factors_account_for_all_that_refreshes_did():
    layer = moved("geodora")
    original = layer.weight.detach().clone()
    for number in (1, 2):
        layer.refresh(new_basis(layer.lora_A.detach(), layer.name, number))
        layer.load({"lora_B": normal(7, 3, seed=30 + number)})
    assert layer.merged_A.shape == (6, 9) and layer.merged_B.shape == (7, 6)
    assert_close(layer.weight.detach(), original + layer.merged_B @ layer.merged_A, rtol=1e-5, atol=1e-5)
    twin = moved("geodora")
    state = {n: getattr(layer, n).detach() for n in ("merged_A", "merged_B", "lora_A", "lora_B", "magnitude")}
    for _ in range(2):  # a second time changes nothing
        twin.load(state)
    x = normal(5, 9, seed=3)
    assert torch.equal(twin.weight, layer.weight), "the same bits as merging step by step"
    assert torch.equal(twin(x), layer(x))


def test_a_new_basis_follows_the_gradient_where_it_points():
    rows = torch.linalg.qr(normal(9, 2, seed=0).double()).Q.T.float()
    sketch = normal(6, 2, seed=1) @ rows  # rank two: the third direction is filled up
    basis = new_basis(orthonormal_basis(9, 3, "layer", 0), "layer", 1, sketch)
    assert_close((basis @ rows.T).square().sum(), torch.tensor(2.0), rtol=1e-4, atol=1e-4)
    assert_close(basis @ basis.T, torch.eye(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("inputs", [3, 4, 5, 9])
def test_a_basis_can_be_renewed_in_a_layer_hardly_wider_than_its_rank(inputs):
    old = orthonormal_basis(inputs, 3, "layer", 0)
    for sketch in (None, torch.zeros(6, inputs)):
        basis = new_basis(old, "layer", 1, sketch)
        assert_close(basis @ basis.T, torch.eye(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["geolora", "geodora"])
def test_sketches_are_of_the_gradient_by_the_weight(method):
    model = nn.Sequential(moved(method))
    layer, x, goal = model[0], normal(6, 9, seed=9), normal(6, 7, seed=10)
    gain = (layer.magnitude / layer.row_norms()).detach() if method == "geodora" else torch.ones(7)
    with gradient_sketches(model, 1) as sketches:
        for _ in range(2):  # they add up
            (layer(x) * goal).sum().backward()
    with gradient_sketches(model, 1) as unit:  # the gradient is (I, 0) here: its sketch is (Omega, 0)
        (layer(torch.eye(7, 9)) * torch.diag(1 / gain)).sum().backward()
    omega = unit["0"][:, :7]
    assert omega.std() > 0.5 and torch.linalg.matrix_rank(omega) == 6
    assert_close(sketches["0"], 2 * omega @ (gain[:, None] * (goal.T @ x)), rtol=1e-4, atol=1e-4)
    summed = sketches["0"].clone()
    (layer(x) * goal).sum().backward()
    assert_close(sketches["0"], summed, rtol=0, atol=0, msg="hooks are gone")
    with gradient_sketches(model, 0) as none:
        (layer(x) * goal).sum().backward()
    assert none == {}


def test_what_was_merged_can_only_be_added_to():
    layer = moved("geodora")
    state = {name: getattr(layer, name).detach().clone() for name in ("merged_A", "merged_B", "lora_A", "lora_B")}
    layer.refresh(new_basis(layer.lora_A.detach(), layer.name, 1))
    for wrong, said in (
        (state, "begin from a fresh trunk"),
        ({"merged_A": torch.ones(3, 9), "merged_B": torch.ones(7, 3)}, "begin from a fresh trunk"),
        ({"merged_A": torch.ones(4, 9), "merged_B": torch.ones(7, 4)}, "do not fit"),
        ({"merged_A": torch.ones(3, 8), "merged_B": torch.ones(7, 3)}, "do not fit"),
    ):
        with pytest.raises(MessageError, match=said):
            layer.load(wrong)


def test_layers_that_share_a_weight_are_refused_for_a_merge_would_count_twice():
    found = nn.ModuleDict({"one": linear(), "two": linear()})
    found["two"].weight = found["one"].weight
    with pytest.raises(ConfigError, match="'one' and 'two' share one weight"):
        adapt(found, ["one", "two"], METHODS["geolora"], 3)
    adapt(found, ["one"], METHODS["geolora"], 3)


def model():
    return nn.ModuleDict({"one": linear(), "two": linear(4, 6)})


def test_a_rank_above_a_layers_width_names_the_layer_and_changes_nothing():
    found = model()
    with pytest.raises(ConfigError, match=r"rank = 5: layer 'two' is 4 x 6.*4 or less"):
        adapt(found, ["one", "two"], METHODS["geolora"], 5)
    assert not list(adapted(found))
    adapt(found, ["one", "two"], METHODS["full"], 5)
    assert [name for name, _ in adapted(found)] == ["one", "two"]


@pytest.mark.parametrize("method", list(METHODS))
def test_what_trains_is_what_the_method_says(method):
    found = model()
    adapt(found, ["one"], METHODS[method], 3)
    for tensor in METHODS[method].tensors:
        assert hasattr(found["one"], tensor)
    assert not any(p.requires_grad for p in found["two"].parameters())
    assert METHODS[method].trains(1) <= METHODS[method].tensors


def test_rolora_takes_turns_and_begins_with_the_one_that_has_a_gradient():
    turns = [METHODS["rolora"].trains(round) for round in (1, 2, 3)]
    assert turns == [{"lora_B"}, {"lora_A"}, {"lora_B"}]
