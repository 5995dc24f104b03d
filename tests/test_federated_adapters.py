"""Adapters and averages in a whole federation: what travels, what stays, what is refused."""

import json
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from planted import planted
from resumed import put_back
from rich.console import Console
from torch.testing import assert_close

from isogram import averaging, federation, methods, sharing
from isogram.config import AlignConfig, AverageConfig, Config, ModelConfig, TermWeights, TrainConfig
from isogram.data import evaluation
from isogram.data.distort import corrupt
from isogram.errors import ConfigError, MessageError
from isogram.federation import rounds
from isogram.local import Node
from isogram.messages import Ledger, Up
from isogram.model.adapters import METHODS
from isogram.progress import Watch
from isogram.validation import Expected

CONFIG = Config(
    data="machines",
    anchors=40,
    model=ModelConfig(width=48, layers=1, rank=4),
    train=TrainConfig(rounds=2, steps=3, lr=1e-2, projector_lr=1e-2),
)


def with_(config=CONFIG, *, average=None, align=None, **groups):
    """The configuration with some fields of `model` and `train` changed."""
    update = {name: getattr(config, name).model_copy(update=fields) for name, fields in groups.items()}
    if average is not None:
        update["average"] = AverageConfig(**average)
    if align is not None:
        update["align"] = AlignConfig(**align)
    return config.model_copy(update=update)


@pytest.fixture(scope="module")
def data():
    return planted()


def trained(data, config):
    return federation.train(federation.align(data, config))


def crossed(fed, direction):
    return {e.field for e in fed.ledger.entries if e.direction == direction}


@pytest.mark.parametrize("adapter", list(METHODS))
def test_what_crosses_is_what_the_method_shares(data, adapter):
    fed = trained(data, with_(model={"adapter": adapter}))
    method = METHODS[adapter]
    for direction in ("up", "down"):
        fields = {f for f in crossed(fed, direction) if f.startswith("adapters/")}
        kinds = {field.rpartition(".")[2] for field in fields}
        assert kinds == (method.tensors - {method.home}) | {"weight"}  # `out.weight` with all of them
        assert "adapters/out.weight" in fields


def test_no_message_holds_a_magnitude_and_each_node_has_its_own(data, monkeypatch):
    """Every message, as bytes: neither a name nor any of the numbers."""
    blobs = []
    carry = Ledger.carry
    monkeypatch.setattr(Ledger, "carry", lambda self, m, *read: blobs.append(m.to_bytes()) or carry(self, m, *read))
    fed = trained(data, with_(model={"adapter": "geodora"}, train={"refresh": 1}))
    homes = {node.name: node.model.home for node in fed.nodes}
    assert len(blobs) > 20 and not any(b"magnitude" in blob for blob in blobs)
    for (one, mine), (two, theirs) in product(homes.items(), repeat=2):
        for name, value in mine.items():
            assert torch.equal(value, theirs[name]) is (one == two), name
            assert not any(value.numpy().tobytes() in blob for blob in blobs)
    state = fed.nodes[0].shared.state()
    assert not any("magnitude" in name for name in state) and len(homes["b"]) == 6


RESUMED = [
    *((adapter, {}, "samples") for adapter in METHODS),
    *((adapter, {}, rule) for adapter in ("geodora", "rolora") for rule in ("node", "parameter")),
    *(
        (adapter, {"refresh": 1, "refresh_basis": basis}, "samples")
        for adapter in ("geolora", "geodora")
        for basis in ("random", "gradient")
    ),
]


@pytest.mark.parametrize(("adapter", "train", "rule"), RESUMED)
def test_a_run_put_back_goes_on_to_the_same_bits(tmp_path, data, adapter, train, rule):
    config = with_(model={"adapter": adapter}, train={"rounds": 3, **train}, average={"rule": rule})
    straight, again, model = put_back(tmp_path, data, config)
    with evaluation():
        for node, other in zip(straight.nodes, again.nodes, strict=True):
            rows = data.held_out.tokens(node.modality)
            assert_close(other.embed(rows), node.embed(rows), rtol=0, atol=0)
            assert_close(model.embed(node.name, rows), node.embed(rows), rtol=0, atol=0)


@pytest.mark.parametrize("rule", ["uniform", "samples", "node", "parameter"])
def test_results_do_not_depend_on_the_order_of_nodes(rule):
    config = with_(average={"rule": rule}, align={"precision": True})
    one, two = (trained(planted(reverse=turned), config) for turned in (False, True))
    for name, value in one.adapters.items():
        assert_close(two.adapters[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("basis", ["random", "gradient"])
@pytest.mark.parametrize("adapter", ["geolora", "geodora"])
def test_a_refresh_in_a_federation_moves_the_basis_and_keeps_every_nodes_function(data, adapter, basis, monkeypatch):
    seen = []
    refresh = rounds._refresh

    def around(fed, *rest):
        before = [node.embed_anchors() for node in fed.nodes]
        old = fed.nodes[0].shared.state()
        refresh(fed, *rest)
        state = fed.nodes[0].shared.state()
        for node, embedded in zip(fed.nodes, before, strict=True):
            assert_close(node.embed_anchors(), embedded, rtol=1e-4, atol=1e-4)
        seen.append((old, state))

    monkeypatch.setattr(rounds, "_refresh", around)
    fed = trained(data, with_(model={"adapter": adapter}, train={"refresh": 2, "refresh_basis": basis, "rounds": 4}))
    assert len(seen) == 2
    for old, new in seen:
        for name in (n for n in old if n.endswith("lora_A")):
            a, b = (torch.linalg.pinv(s[name]) @ s[name] for s in (old, new))
            assert (a - b).norm() > 0.5, "the rows span something else now"
            assert not new[name.replace("lora_A", "lora_B")].any()
    name = next(n for n in fed.adapters if n.endswith("merged_A"))
    assert len(fed.adapters[name]) == 2 * 4
    sent = any(field.startswith("sketches/") for field in crossed(fed, "up"))
    got = any(field.endswith("lora_A") for field in crossed(fed, "down"))
    assert sent is got is (basis == "gradient")


# What is refused.


def spoiling(monkeypatch, spoil, node="b"):
    """Node b sends something else from its second round on."""
    train_round = Node.train_round

    def spoilt(self, down, sketch=0):
        up, values = train_round(self, down, sketch)
        return (spoil(up) if self.name == node and down.round > 2 else up), values

    monkeypatch.setattr(Node, "train_round", spoilt)


def with_one(up, value):
    name = next(n for n in up.adapters if n.endswith("lora_B"))
    return {**up.adapters, name: value(up.adapters[name])}


SPOILT = {
    "NaN": (lambda up: replace(up, adapters=with_one(up, lambda v: v * torch.nan)), "NaN or infinity in the adapter"),
    "shape": (lambda up: replace(up, adapters=with_one(up, lambda v: v[:, :2])), r"as \(48, 2\), it is \(48, 4\)"),
    "another trunk": (lambda up: replace(up, model="small #00000000, geolora, rank 2"), "rank 2.*rank 4"),
    "no rows": (lambda up: replace(up, samples=0), "0 rows"),
    "missing": (lambda up: replace(up, adapters={}), "lacks the adapter"),
}


@pytest.mark.parametrize("case", list(SPOILT))
def test_the_round_goes_on_without_an_update_that_does_not_fit(data, monkeypatch, case):
    spoil, said = SPOILT[case]
    without = trained(replace(data, nodes=tuple(n for n in data.nodes if n.name != "b")), CONFIG)
    spoiling(monkeypatch, spoil)
    ticks = []
    fed = federation.train(federation.align(data, CONFIG), ticks.append)
    assert len(fed.refused) == 1 and re.search(f"node 'b' .*{said}", fed.refused[0])
    assert [tick.refused for tick in ticks if not tick.node] == [(), fed.refused]
    assert all(value.isfinite().all() for value in fed.adapters.values())
    assert set(without.adapters) == set(fed.adapters)
    served = {e.node for e in fed.ledger.entries if e.direction == "down" and e.round == 3 and "adapters/" in e.field}
    assert served == {"a-1", "a-2", "b", "c"}, "a node that was left out gets the average, too"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda v: v * torch.nan, "NaN or infinity in the sketch of 'trunk"),
        (lambda v: v[:, :5], r"should send a sketch \(8, 48\) of 'trunk.* and sent one of \(8, 5\)"),
    ],
)
def test_a_sketch_that_does_not_fit_is_left_out_with_its_update(data, monkeypatch, spoil, said):
    spoiling(monkeypatch, lambda up: replace(up, sketches={n: spoil(v) for n, v in up.sketches.items()}))
    fed = trained(data, with_(train={"refresh": 2, "refresh_basis": "gradient"}))
    assert len(fed.refused) == 1 and re.search(f"node 'b' .*{said}", fed.refused[0])
    assert all(len(v) == 4 for name, v in fed.adapters.items() if name.endswith("merged_A")), "the refresh took place"


def test_a_foreign_sender_of_half_precision_is_left_out():
    """Messages of our own are float32 always; another program's may be anything."""
    import safetensors.torch

    good = Up(node="a", modality="m", round=2, anchor_hash="h", samples=3, model="x", adapters={"k": torch.ones(2)})
    blob = good.to_bytes()
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + size])["__metadata__"]
    half = safetensors.torch.save({"adapters/k": torch.ones(2).half()}, metadata=header)
    shapes = {"adapters": {"k": (2,)}}
    sizes = {"K": 4, "C": 0}
    expected = Expected("update", "a", 2, "h", sizes, 0.1, 2.0, modality="m", model="x", groups=shapes)
    assert expected.read(Up, blob).samples == 3
    with pytest.raises(MessageError, match="node 'a' sent the adapter 'k' as F16: send F32"):
        expected.read(Up, half)


def test_nobody_can_set_a_nodes_own_magnitude(data):
    fed = federation.start_training(federation.align(data, with_(model={"adapter": "geodora"})))
    node = fed.nodes[0]
    name = next(iter(node.model.home))
    down = replace(federation.targets(fed, node, 2), adapters={name: node.model.home[name]})
    with pytest.raises(MessageError, match="'a-1' was sent .*magnitude', which is its own"):
        node.load(down)


def test_baselines_keep_to_their_own_settings(data):
    """What a configuration says of refreshes and averages is not theirs."""
    odd = with_(train={"refresh": 1}, average={"rule": "node"})
    plain = methods.solve("fedavg-lora", data, CONFIG)
    with evaluation():
        rows = data.held_out.tokens("b")
    assert_close(methods.solve("fedavg-lora", data, odd).embed["b"](rows), plain.embed["b"](rows), rtol=0, atol=0)


def test_a_node_left_out_is_as_good_as_absent_from_the_average(data, monkeypatch):
    seen = []
    average = sharing.average
    monkeypatch.setattr(sharing, "average", lambda *given: seen.append(given) or average(*given))
    spoiling(monkeypatch, SPOILT["NaN"][0])
    fed = trained(data, CONFIG)
    good, before, *_ = seen[-1]
    assert [up.node for up in good] == ["a-1", "a-2", "c"]
    expected, _ = averaging.average(good, next(iter(before.values())), CONFIG.average)
    for name, value in expected.items():
        assert_close(fed.adapters[name], value, rtol=0, atol=0)


def test_when_no_update_fits_the_run_stops_and_says_why(data, monkeypatch):
    train_round = Node.train_round

    def spoilt(self, down, sketch=0):
        up, values = train_round(self, down, sketch)
        return replace(up, adapters=with_one(up, lambda v: v * torch.inf)), values

    monkeypatch.setattr(Node, "train_round", spoilt)
    with pytest.raises(MessageError, match=r"'a-1'[\s\S]*'c'"):
        trained(data, CONFIG)


def test_what_was_left_out_is_printed_and_kept_in_the_runs_folder(tmp_path, monkeypatch):
    from io import StringIO

    from isogram.run import run
    from isogram.run_folder import STATE

    spoiling(monkeypatch, SPOILT["NaN"][0], node="vibration")
    config = with_(train={"rounds": 2}).model_copy(
        update={"name": "own", "output": CONFIG.output.model_copy(update={"folder": tmp_path})}
    )
    printed = StringIO()
    run(config, Watch(Console(file=printed, width=200)))
    kept = json.loads((tmp_path / "own" / STATE).read_text())["refused"]
    assert len(kept) == 1 and "node 'vibration' sent NaN" in kept[0]
    assert f"left out of round 2: {kept[0]}" in printed.getvalue()
    assert "node &#39;vibration&#39; sent NaN" in (tmp_path / "own" / "report.html").read_text()


def test_a_run_that_trains_astray_at_one_node_leaves_its_magnitude_as_it_was(data, monkeypatch):
    def astray(self, down, sketch=0):
        if self.name == "b":
            self.last_seen = self.last_seen * torch.nan
        return train_round(self, down, sketch)

    train_round = Node.train_round
    monkeypatch.setattr(Node, "train_round", astray)
    fed = trained(data, with_(model={"adapter": "geodora"}))
    assert [text.partition(" sent")[0] for text in fed.refused] == ["node 'b'"] * 2
    for node in fed.nodes:
        assert all(value.isfinite().all() for value in node.model.home.values())
        assert node.embed(node.data.tokens).isfinite().all()


# Precision.


def test_a_node_whose_anchors_are_wrong_weighs_less_by_its_residual(data):
    spoilt, (name, *_) = corrupt(data, "anchors", share=0.25, seed=0)
    assert name.startswith("a-")
    residuals = federation.align(spoilt, with_(average={"rule": "node"})).residuals
    twin = "a-2" if name == "a-1" else "a-1"
    assert residuals[name] > 2 * residuals[twin]


def test_weights_by_node_need_an_alignment(data):
    apart = with_(average={"rule": "node"}, train={"weights": TermWeights.only(task=1)})
    with pytest.raises(ConfigError, match="align first"):
        federation.train(federation.start_apart(data, apart))


def test_precision_in_the_consensus_moves_the_frame_away_from_a_doubtful_node(data):
    spoilt, _ = corrupt(data, "anchors", share=0.25, seed=0)
    plain, precise = (federation.align(spoilt, with_(align={"precision": on})) for on in (False, True))
    clean = federation.align(data, CONFIG)

    def distance(fed):
        return float((fed.consensus - clean.consensus).norm())

    assert distance(precise) < 0.9 * distance(plain)


def test_parameters_without_a_gradient_have_no_weight(data):
    """Labels at the a nodes alone: with the task as the only term, b and c have nothing to say and change nothing."""
    config = with_(average={"rule": "parameter"}, train={"weights": TermWeights.only(task=1)})
    fed = trained(data, config)
    assert fed.refused == ()
    only_a = replace(data, nodes=tuple(n for n in data.nodes if n.modality == "a"))
    assert all(value.isfinite().all() for value in fed.adapters.values())
    alone = federation.train(federation.start_apart(only_a, config))
    apart = federation.train(federation.start_apart(data, config))
    for name, value in alone.adapters.items():
        assert_close(apart.adapters[name], value, rtol=1e-5, atol=1e-7)


# Class directions by Laplace.


def test_second_moments_travel_masked_and_only_where_enough_rows_hide_in_them(data):
    fed = federation.align(data, with_(average={"head": "laplace"}))
    up = [e for e in fed.ledger.entries if e.field == "second" and e.direction == "up"]
    assert {(e.node, e.shape) for e in up} == {(n, (39 * 40 // 2,)) for n in ("a-1", "a-2")}
    plain = federation.align(data, CONFIG)
    assert "second" not in crossed(plain, "up")
    cosines = torch.nn.functional.cosine_similarity(fed.head, plain.head, dim=1)
    assert float(cosines.min()) > 0.3 and float(cosines.max()) < 0.999
    few = planted(private=19)  # 38 rows for 39 coordinates
    assert "second" not in crossed(federation.align(few, with_(average={"head": "laplace"})), "up")


def test_the_head_is_the_ridge_on_the_rows_of_all_labelled_nodes(data):
    from sklearn.linear_model import Ridge

    from isogram.aggregation import HEAD_PRIOR

    fed = federation.align(data, with_(average={"head": "laplace"}))
    rows = torch.cat([node.embed(node.data.tokens) for node in fed.nodes if node.modality == "a"])
    labels = np.concatenate([node.data.labels for node in fed.nodes if node.modality == "a"])
    rows = torch.nn.functional.normalize(rows, dim=1).numpy()
    ridge = Ridge(alpha=HEAD_PRIOR, fit_intercept=False).fit(rows, np.eye(3)[labels])
    expected = torch.nn.functional.normalize(torch.from_numpy(ridge.coef_), dim=1)
    assert_close(fed.head.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_message_says_what_its_adapters_belong_to(data):
    fed = federation.start_training(federation.align(data, CONFIG))
    up, _ = fed.nodes[0].train_round(fed.deliver(fed.nodes[0], "targets", federation.targets(fed, fed.nodes[0], 2)))
    assert up.model == fed.nodes[0].shared.about
    assert Up.from_bytes(up.to_bytes()).model == up.model
    assert up.model.startswith("small #") and up.model.endswith("geolora, rank 4")
