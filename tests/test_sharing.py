"""Who averages with whom: groups of nodes, partial pooling, and what then crosses, is kept and is put back."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from planted import planted
from resumed import put_back
from torch.testing import assert_close

from isogram import averaging, federation, methods, sharing
from isogram.checkpoint import final_model
from isogram.config import AverageConfig, Config, ModelConfig, TermWeights, TrainConfig
from isogram.data import evaluation
from isogram.errors import ConfigError
from isogram.evaluation import evaluate
from isogram.local import Node
from isogram.messages import Up
from isogram.model.peft_export import export_model

ACROSS = ("all", "trunk", "pooled", "attention", "none", "alone")
GROUPS = {
    "all": {"a-1": "", "a-2": "", "b": "", "c": ""},
    **{way: {"a-1": "a", "a-2": "a", "b": "b", "c": "c"} for way in ("trunk", "pooled", "attention", "none")},
    "alone": {"a-1": "a-1", "a-2": "a-2", "b": "b", "c": "c"},
}


def config_(across="none", *, adapter="geolora", rule="samples", **train):
    settings = {"rounds": 2, "steps": 3, "lr": 1e-2, "projector_lr": 1e-2} | train
    return Config(
        data="machines",
        anchors=40,
        model=ModelConfig(width=48, layers=1, rank=4, adapter=adapter),
        train=TrainConfig(**settings),
        average=AverageConfig(across=across, rule=rule),
    )


@pytest.fixture(scope="module")
def data():
    return planted()


def labelled(data):
    """Every node has its labels."""
    with evaluation():
        nodes = tuple(replace(n, labels=data.held_out.private_labels(n.name)) for n in data.nodes)
    return replace(data, nodes=nodes)


def trained(data, config):
    return federation.train(federation.align(data, config))


# Groups.


@pytest.mark.parametrize("across", ACROSS)
def test_nodes_of_a_group_and_no_others_have_the_same_adapters(data, across):
    fed = trained(data, config_(across))
    for one in fed.nodes:
        for two in fed.nodes:
            together = GROUPS[across][one.name] == GROUPS[across][two.name]
            assert (one.shared is two.shared) is together
            for name, value in fed.adapters_of(one).items():
                same = torch.equal(value, fed.adapters_of(two)[name])
                frozen = name.endswith("lora_A")
                shared = {"attention": "attention" in name, "trunk": name != "out.weight"}
                common = together or frozen or shared.get(across, False)
                assert same or not common, name
                if not common and name == "out.weight":
                    assert not same, "groups go their own ways"


@pytest.mark.parametrize("across", ACROSS)
def test_what_a_node_computes_is_what_the_server_knows_of_its_group(data, across):
    fed = trained(data, config_(across))
    for node in fed.nodes:
        for name, value in node.shared.state().items():
            assert_close(value, fed.adapters_of(node)[name], rtol=0, atol=0)


def test_one_trunk_per_modality_is_a_federation_of_each_modality(data):
    """With what binds modalities otherwise switched off: the frame is the same, the head is not used."""
    config = config_("none", weights=TermWeights.only(frame=1))
    aligned = federation.align(data, config)
    whole = federation.train(aligned)
    for modality in "abc":
        nodes = tuple(n for n in aligned.nodes if n.modality == modality)
        part = federation.train(replace(aligned, nodes=nodes, config=config_("all", weights=TermWeights.only(frame=1))))
        for name, value in part.adapters.items():
            assert_close(whole.apart[modality][name], value, rtol=0, atol=0)


def test_attention_alone_is_averaged_over_all_nodes(data, monkeypatch):
    seen = {}
    real = averaging.average

    def around(updates, previous, *rest):
        for name in previous:
            seen.setdefault(name, []).append([u.node for u in updates])
        return real(updates, previous, *rest)

    monkeypatch.setattr(averaging, "average", around)
    trained(data, config_("attention", rounds=1))
    everyone, within = [["a-1", "a-2", "b", "c"]], [["a-1", "a-2"], ["b"], ["c"]]
    assert {name.rpartition(".")[0].rpartition(".")[2] for name, who in seen.items() if who == everyone} == {
        "query", "key", "value", "dense"
    }  # fmt: skip
    for name, who in seen.items():
        assert who == (everyone if "attention" in name else within), name
    assert seen["out.weight"] == within and any("intermediate" in name for name in seen)


def test_attention_needs_a_layer_of_that_name(data):
    config = config_("attention")
    config = config.model_copy(update={"model": config.model.model_copy(update={"target": ("intermediate.dense",)})})
    with pytest.raises(ConfigError, match=r"no adapted layer of small .* has attention in its name"):
        federation.start_training(federation.align(data, config))


# What crosses.


@pytest.mark.parametrize("across", ACROSS)
def test_bytes_of_adapters_are_those_of_its_group_up_and_down(data, across):
    fed = trained(data, config_(across))
    of = {}
    for e in fed.ledger.entries:
        if e.field.startswith("adapters/"):
            of[e.node, e.direction] = of.get((e.node, e.direction), 0) + e.bytes
    size = sum(v.nbytes for n, v in fed.adapters_of(fed.nodes[0]).items() if "lora_A" not in n and "merged" not in n)
    expected = {} if across == "alone" else {(n.name, d): 2 * size for n in fed.nodes for d in ("up", "down")}
    assert of == expected


def test_nothing_leaves_a_node_alone_after_alignment(data):
    fed = trained(labelled(data), config_("alone"))
    assert {e.field for e in fed.ledger.entries if e.direction == "up"} == {"gram", "header"}
    assert max(e.round for e in fed.ledger.entries if e.direction == "up") == 1
    assert "head" not in {e.field for e in fed.ledger.entries}
    without = federation.train(federation.start_apart(data, config_("alone", weights=TermWeights.only(task=1))))
    assert not [e for e in without.ledger.entries if e.direction == "up"]


def test_nodes_alone_train_as_if_there_were_no_others(data):
    config = config_("alone", weights=TermWeights.only(task=1))
    whole = federation.train(federation.start_apart(labelled(data), config))
    for node in whole.nodes:
        only = replace(data, nodes=tuple(n for n in labelled(data).nodes if n.name == node.name))
        part = federation.train(federation.start_apart(only, config))
        assert_close(part.nodes[0].embed_anchors(), node.embed_anchors(), rtol=0, atol=0)
        assert_close(part.head_of(part.nodes[0]), whole.head_of(node), rtol=0, atol=0)


# Heads.


def test_heads_are_shared_by_those_whose_coordinates_mean_the_same(data):
    data = labelled(data)
    task = TermWeights.only(task=1)
    for across in ("all", "trunk", "pooled", "none"):
        fed = federation.align(data, config_(across))
        assert fed.head is not None and not fed.heads
        assert all(fed.head_of(node) is fed.head for node in fed.nodes)
    apart = federation.start_apart(data, config_("none", weights=task))
    assert apart.head is None
    heads = {node.name: apart.head_of(node) for node in apart.nodes}
    assert torch.equal(heads["a-1"], heads["a-2"]) and not torch.equal(heads["a-1"], heads["b"])
    alone = federation.align(data, config_("alone"))
    assert not torch.equal(alone.head_of(alone.nodes[0]), alone.head_of(alone.nodes[1]))


def test_a_node_alone_names_its_own_classes_only(data):
    data = labelled(data)
    few = tuple(replace(n, labels=np.minimum(n.labels, 1)) if n.name == "b" else n for n in data.nodes)
    fed = federation.align(replace(data, nodes=few), config_("alone"))
    heads = {node.name: fed.head_of(node) for node in fed.nodes}
    assert heads["b"][2].isnan().all() and not heads["c"].isnan().any()
    scores = {s.direction: s.value for s in evaluate(data, {n.name: n.embed for n in fed.nodes}, fed.heads)}
    assert scores["c"] > 0.8 and 0.5 < scores["b"] < 0.67, "a third of the classes is never named"


def test_without_labels_a_modality_has_no_head_and_no_figure(data):
    fed = federation.start_apart(data, config_("none", weights=TermWeights.only(task=1)))
    assert sorted(fed.heads) == ["a-1", "a-2"]
    scores = evaluate(data, {n.name: n.embed for n in fed.nodes}, fed.heads)
    assert {s.direction for s in scores if s.metric == "accuracy"} == {"a"}


def test_trained_alone_is_a_method_that_sends_nothing(data):
    found = methods.solve("local-trained", labelled(data), config_("all"))
    assert found.bytes_per_node == 0 and sorted(found.head) == ["a-1", "a-2", "b", "c"]
    again = methods.solve("local-trained", labelled(data), config_("pooled"))
    for node in ("a-1", "c"):
        assert_close(again.head[node], found.head[node], rtol=0, atol=0)


# Interrupted, saved, exported, refreshed, refused.

RESUMED = [
    *((across, adapter, {}) for across in ACROSS[1:] for adapter in ("geolora", "geodora", "rolora")),
    *((across, "geolora", {"refresh": 1}) for across in ACROSS[1:]),
    *((across, "geolora", {"refresh": 1, "refresh_basis": "gradient"}) for across in ACROSS[1:-1]),
]


@pytest.mark.parametrize(("across", "adapter", "train"), RESUMED)
def test_a_run_put_back_goes_on_to_the_same_bits(tmp_path, data, across, adapter, train):
    data = labelled(data)
    config = config_(across, adapter=adapter, rounds=3, **train)
    straight, again, model = put_back(tmp_path, data, config)
    for node, other in zip(straight.nodes, again.nodes, strict=True):
        rows = node.data.tokens
        assert_close(other.embed(rows), node.embed(rows), rtol=0, atol=0)
        assert_close(model.embed(node.name, rows), node.embed(rows), rtol=0, atol=0)
        head = model.head if model.head is not None else model.heads[node.name]
        assert_close(head, straight.head_of(node), rtol=0, atol=0)


@pytest.mark.parametrize("refresh", [0, 1])
def test_each_nodes_adapter_is_exported(tmp_path, data, refresh):
    fed = trained(data, config_("none", refresh=refresh))
    model = final_model(fed, data)
    done = export_model(model, tmp_path / "out")
    assert sorted(done.folders) == ["a-1", "a-2", "b", "c"]
    blobs = {name: (path / "adapter_model.safetensors").read_bytes() for name, path in done.folders.items()}
    assert blobs["a-1"] == blobs["a-2"] and len(set(blobs.values())) == 3
    alone = export_model(model, tmp_path / "one", "c")
    assert (alone.folders["c"] / "adapter_model.safetensors").read_bytes() == blobs["c"]


def test_one_trunk_is_exported_once_whatever_else_modalities_have_apart(tmp_path, data):
    fed = trained(data, config_("trunk"))
    assert {name for state in fed.apart.values() for name in state} == {"out.weight"}
    assert list(export_model(final_model(fed, data), tmp_path / "out").folders) == [""]


@pytest.mark.parametrize("across", ["pooled", "none"])
def test_a_modality_whose_updates_are_refused_keeps_what_it_had(data, monkeypatch, across):
    train_round = Node.train_round

    def spoilt(self, down, sketch=0):
        up, values = train_round(self, down, sketch)
        bad = {name: value * torch.nan for name, value in up.adapters.items()}
        return (replace(up, adapters=bad) if self.name == "b" and down.round > 2 else up), values

    monkeypatch.setattr(Node, "train_round", spoilt)
    aligned = federation.align(data, config_(across))
    first = federation.train_round(federation.start_training(aligned))
    before = {name: value.clone() for name, value in first.adapters_of(first.nodes[2]).items()}
    second = federation.train_round(first)
    assert len(second.refused) == 1 and re.search("node 'b' sent NaN", second.refused[0])
    for name, value in second.adapters_of(second.nodes[2]).items():
        assert_close(value, before[name], rtol=0, atol=0)
    assert not torch.equal(second.adapters_of(second.nodes[3])["out.weight"], before["out.weight"])


@pytest.mark.parametrize("across", ACROSS)
def test_results_do_not_depend_on_the_order_of_nodes(across):
    one, two = (trained(planted(reverse=turned), config_(across)) for turned in (False, True))
    for a, b in zip(one.nodes, two.nodes, strict=True):
        for name, value in one.adapters_of(a).items():
            assert_close(two.adapters_of(b)[name], value, rtol=0, atol=0)


def test_settings_that_contradict_each_other_are_told():
    with pytest.raises(ValueError, match=r"average.across = pooled needs one weight per node"):
        config_("pooled", rule="parameter")
    with pytest.raises(ValueError, match=r"needs all nodes' sketches"):
        config_("alone", refresh=1, refresh_basis="gradient")


# Partial pooling.


def draws(rng, between, within, sizes, shape=(40, 50)):
    groups = [m for m, n in zip("xyz", sizes, strict=True) for _ in range(n)]
    effect = {m: between * rng.normal(size=shape) for m in "xyz"}
    return groups, effect, [torch.from_numpy(5 + effect[m] + within * rng.normal(size=shape)) for m in groups]


def even(n):
    return [1 / n] * n


def test_groups_that_differ_by_chance_alone_are_one():
    rng = np.random.default_rng(0)
    for sizes in ((4, 4, 4), (2, 5, 3)):
        groups, _, values = draws(rng, 0.0, 1.0, sizes)
        found = sharing.pool(values, even(len(values)), groups)
        assert max(found.kept.values()) < 0.08
        assert_close(found.mean, torch.stack(values).mean(0))


def test_groups_far_apart_are_each_their_own():
    rng = np.random.default_rng(1)
    groups, _, values = draws(rng, 20.0, 1.0, (4, 4, 4))
    found = sharing.pool(values, even(12), groups)
    assert min(found.kept.values()) > 0.99
    x = torch.stack([v for v, g in zip(values, groups, strict=True) if g == "x"]).mean(0)
    assert_close(found.value("x"), x, rtol=1e-2, atol=0.2)


def test_equal_values_and_groups_without_spread_are_the_two_ends():
    same = [torch.ones(3)] * 4
    assert sharing.pool(same, even(4), list("xxyy")).kept == {"x": 0.0, "y": 0.0}
    apart = [torch.ones(3), torch.ones(3), torch.zeros(3), torch.zeros(3)]
    assert sharing.pool(apart, even(4), list("xxyy")).kept == {"x": 1.0, "y": 1.0}


@pytest.mark.parametrize(
    ("between", "within", "sizes"), [(0.5, 1.0, (4, 4, 4)), (0.4, 1.5, (2, 3, 6)), (1, 1, (4, 1, 7))]
)
def test_what_is_kept_is_what_the_variances_say(between, within, sizes):
    """With the true variances: t2 / (t2 + s2 / n), for groups of unequal size, too."""
    rng = np.random.default_rng(2)
    groups, _, values = draws(rng, between, within, sizes, (200, 200))
    found = sharing.pool(values, even(len(values)), groups)
    for group, n in zip("xyz", sizes, strict=True):
        expected = between**2 / (between**2 + within**2 / n)
        assert found.kept[group] == pytest.approx(expected, abs=0.03)


def test_pooling_is_nearer_to_the_truth_than_either_end():
    rng = np.random.default_rng(3)
    error = {"pooled": 0.0, "all": 0.0, "none": 0.0}
    for _ in range(5):
        groups, effect, values = draws(rng, 0.5, 1.0, (4, 4, 4))
        found = sharing.pool(values, even(12), groups)
        for group in "xyz":
            truth = torch.from_numpy(5 + effect[group])
            for way, value in (("pooled", found.value(group)), ("all", found.mean), ("none", found.groups[group])):
                error[way] += float((value - truth).square().mean())
    assert error["pooled"] < 0.9 * min(error["all"], error["none"])


def test_a_weight_of_nothing_is_a_node_that_is_not_there():
    rng = np.random.default_rng(4)
    groups, _, values = draws(rng, 0.7, 1.0, (3, 3, 3))
    weights = [1 / 6, 1 / 6, 0.0, 1 / 6, 1 / 6, 0.0, 1 / 6, 1 / 6, 0.0]
    full = sharing.pool(values, weights, groups)
    kept = [i for i, w in enumerate(weights) if w]
    part = sharing.pool([values[i] for i in kept], even(6), [groups[i] for i in kept])
    for group in "xyz":
        assert full.kept[group] == pytest.approx(part.kept[group])
        assert_close(full.value(group), part.value(group))


def test_where_nothing_tells_groups_from_nodes_all_are_one():
    values = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, 0.0])]
    found = sharing.pool(values, [0.25, 0.75], ["x", "y"])
    assert found.kept == {"x": 0.0, "y": 0.0}
    assert_close(found.value("x"), torch.tensor([4.0, 0.5], dtype=torch.float64))


def updates_of(values):
    up = partial(Up, round=2, anchor_hash="h", model="t", samples=10)
    return [up(node=f"{m}-{i}", modality=m, adapters={"k": v}) for m, vs in values.items() for i, v in enumerate(vs)]


def test_the_server_pools_by_the_updates_alone_and_heeds_the_prior():
    rng = np.random.default_rng(5)
    values = {
        m: [torch.from_numpy(k + rng.normal(size=(20, 20))).float() for _ in range(3)] for k, m in enumerate("xy")
    }
    previous = {m: {"k": torch.full((20, 20), 9.0)} for m in "xy"}
    plain, notes = sharing.average(updates_of(values), previous, AverageConfig(across="pooled"))
    pooling = sharing.pool([v for vs in values.values() for v in vs], even(6), list("xxxyyy"))
    assert notes == [] and 0.3 < pooling.kept["x"] < 0.95
    held, _ = sharing.average(updates_of(values), previous, AverageConfig(across="pooled", prior=0.5))
    for m in "xy":
        assert_close(plain[m]["k"], pooling.value(m).float())
        assert_close(held[m]["k"], ((pooling.value(m) + 4.5) / 1.5).float())
