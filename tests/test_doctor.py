import json
import sys
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from planted import VIEWS, planted
from test_federation import Poisoned

from isogram.alignment.evidence import relation
from isogram.config import AlignConfig, Config, ModalityConfig, ModelConfig, TrainConfig
from isogram.data import AnchorItems, NodeData
from isogram.doctor import Diagnosis, examine
from isogram.doctor.findings import LEVEL
from isogram.doctor.words import one_per, words_of

CONFIG = Config(data="digits")  # the name alone: data are given


def with_items(data, modality, change):
    """The data with `change` applied to the anchor tokens of one modality."""
    items = data.anchors.items[modality]
    new = AnchorItems(items.index, change(items.tokens.copy()), items.quality)
    return replace(data, anchors=replace(data.anchors, items={**data.anchors.items, modality: new}))


def noise(tokens):
    return np.random.default_rng(5).normal(size=tokens.shape).astype(np.float32)


def said(diagnosis, level):
    return [finding for finding in diagnosis.findings if finding.level == level]


def test_related_silos_pass_without_a_word():
    found = examine(planted(), CONFIG)
    assert found.ok and found.connected and found.findings == () and found.suspects == ()
    assert {(pair.a, pair.b): pair.verdict for pair in found.pairs} == dict.fromkeys(combinations("abc", 2), "aligned")
    assert min(pair.auc for pair in found.pairs) > 0.9 > 0.5 > max(pair.chance for pair in found.pairs)
    assert [(c.modality, c.nodes, c.anchors, c.of) for c in found.coverage] == [
        ("a", ("a-1", "a-2"), 40, 40),
        ("b", ("b",), 40, 40),
        ("c", ("c",), 40, 40),
    ]


@pytest.mark.parametrize("modality", VIEWS)
def test_a_modality_of_noise_is_refused_by_name_with_a_remedy(modality):
    found = examine(with_items(planted(), modality, noise), CONFIG)
    [refusal] = found.refusals
    assert refusal.where.startswith(f"modality {modality} (node") and "p = " in refusal.what and refusal.remedy
    assert not found.ok and not found.errors
    rest = [pair for pair in found.pairs if modality not in (pair.a, pair.b)]
    assert [pair.verdict for pair in rest] == ["aligned"]


def test_of_two_modalities_both_are_named():
    data = planted()
    data = replace(data, nodes=tuple(node for node in data.nodes if node.modality != "c"))
    assert examine(data, CONFIG).ok
    [refusal] = examine(with_items(data, "b", noise), CONFIG).refusals
    assert refusal.where == "modalities a, b (nodes a-1, a-2, b)"


def test_a_file_in_another_order_is_refused():
    """Sorted, not shifted: classes come in turns here, so that a shift keeps them together and looks related."""
    [refusal] = examine(with_items(planted(), "b", lambda x: x[x[:, 0, 0].argsort()]), CONFIG).refusals
    assert refusal.where == "modality b (node b)" and "shifted" in refusal.remedy


def test_silos_without_a_common_anchor_are_untested_and_pass_through_a_third():
    found = examine(planted(n_anchors=60, holds={"a": range(30), "b": range(30, 60)}), CONFIG)
    assert found.ok and found.connected
    assert [(p.a, p.b, p.anchors, p.verdict) for p in found.pairs] == [
        ("a", "b", 0, "untested"),
        ("a", "c", 30, "aligned"),
        ("b", "c", 30, "aligned"),
    ]


def test_silos_that_nothing_connects_are_an_error_and_still_tested_within_their_group():
    found = examine(planted(n_anchors=60, holds={"a": range(20), "b": range(20, 60), "c": range(20, 60)}), CONFIG)
    assert [(group.modalities, group.anchors) for group in found.groups] == [(("b", "c"), 40), (("a",), 20)]
    [error] = found.errors
    assert (
        "2 groups" in error.what
        and "b, c (40 anchors, such as anchor-20); a (20 anchors, such as anchor-0)" in error.what
        and found.refusals == []
    )
    assert {(p.a, p.b): p.verdict for p in found.pairs}["b", "c"] == "aligned"


def test_a_pair_that_is_not_shown_but_connected_otherwise_is_a_warning():
    """Anchors that a and b have in common are noise at b; c agrees with b on the others, and with a on all of a's."""
    data = planted(n_anchors=80, holds={"a": range(40), "b": range(30, 80)})
    found = examine(with_items(data, "b", lambda x: np.concatenate([noise(x[:10]), x[10:]])), CONFIG)
    assert {(p.a, p.b): p.verdict for p in found.pairs} == {
        ("a", "b"): "not shown",
        ("a", "c"): "aligned",
        ("b", "c"): "aligned",
    }
    assert found.refusals == [] and "a - b" in [warning.where for warning in found.warnings]


def test_permuted_anchors_are_found_with_few_false_alarms():
    named = right = 0
    for seed in range(3):
        bad = np.random.default_rng(seed).permutation(100)[:8]

        def permute(x, bad=bad):
            x[bad] = x[np.roll(bad, 1)]
            return x

        found = examine(with_items(planted(n_anchors=100, seed=seed), "b", permute), CONFIG)
        wrong = {(f"anchor-{i}", "b") for i in bad}
        named += len(found.suspects)
        right += sum((suspect.anchor, suspect.modality) in wrong for suspect in found.suspects)
        assert found.ok and found.suspects[0].anchor in " ".join(warning.what for warning in found.warnings)
    assert right >= 6 and right >= 0.8 * named  # by chance 8 of 300 (anchor, modality) are right


def test_duplicates_and_items_that_say_nothing_are_named():
    def blur(x):
        x[7] = x[3]
        x[11] = np.delete(x, 11, 0).mean(0)
        return x

    found = examine(with_items(planted(), "c", blur), CONFIG)
    assert found.duplicates == (("c", "anchor-3", "anchor-7"),) and found.uninformative == (("c", "anchor-11"),)
    assert ["anchor-3 = anchor-7" in w.what or "(anchor-11)" in w.what for w in found.warnings if "c" in w.where]


def test_constant_columns_are_counted_and_named():
    def freeze(x):
        x[:, 0, 2:4] = 1.5
        return x

    found = examine(with_items(planted(), "b", freeze), CONFIG)
    [warning] = found.warnings
    assert warning.where == "modality b (node b)" and "2 of 28 columns (2, 3)" in warning.what
    assert [c.constant for c in found.coverage] == [0, 2, 0]


def test_anchors_that_do_not_vary_are_an_error_and_nothing_else():
    data = planted()
    for errors, modality in enumerate(VIEWS, 1):
        data = with_items(data, modality, lambda x: 0 * x + 1)
        found = examine(data, CONFIG)
        assert [finding.level for finding in found.findings] == ["error"] * errors
        assert "look the same" in found.findings[0].what


def test_anchors_that_vary_only_outside_those_in_common_leave_a_pair_untested():
    """Up to roundoff: features that differ by less than the standardiser sees make no Gram."""
    data = planted(holds={"a": range(20), "b": range(10, 40)})

    def freeze(x):
        x[:10] = 1 + 1e-7 * noise(x[:10])
        return x

    found = examine(with_items(data, "b", freeze), CONFIG)
    assert {(p.a, p.b): p.verdict for p in found.pairs}["a", "b"] == "untested" and found.errors == []


def test_padding_is_no_loss_and_a_dead_column_at_a_node_is():
    data = planted()

    def zero(data, name, column):
        nodes = []
        for node in data.nodes:
            tokens = node.tokens.copy()
            if name in (node.name, node.modality):
                tokens[:, 0, column] = 0
            nodes.append(replace(node, tokens=tokens))
        return replace(data, nodes=tuple(nodes))

    def pad(x):
        x[:, 0, 1] = 0
        return x

    assert examine(zero(with_items(data, "a", pad), "a", 1), CONFIG).findings == ()
    [warning] = examine(zero(data, "a-2", 1), CONFIG).warnings
    assert warning.where == "node a-2" and "1 of 40 columns (1) is constant at this node" in warning.what


def test_a_node_that_labels_one_class_is_refused_if_there_is_a_task():
    data = planted()
    nodes = (replace(data.nodes[0], labels=np.ones(60, np.int64)), *data.nodes[1:])
    [refusal] = examine(replace(data, nodes=nodes), CONFIG).refusals
    assert refusal.where == "node a-1" and "one class only, y" in refusal.what
    untrained = CONFIG.model_copy(update={"train": TrainConfig(rounds=0)})
    assert [f.level for f in examine(replace(data, nodes=nodes), untrained).findings] == ["warning"]


def test_a_rank_that_is_asked_for_and_cannot_be_had_is_an_error():
    asked = CONFIG.model_copy(update={"align": AlignConfig(rank=40)})
    [error] = examine(planted(), asked).errors
    assert "align.rank = 40, but 40 anchors allow at most 39" in error.what
    assert examine(planted(), CONFIG.model_copy(update={"align": AlignConfig(rank=39)})).ok


def test_too_few_anchors_a_single_modality_and_unheld_anchors_are_errors():
    [error] = examine(planted(holds={"b": range(3)}), CONFIG).errors
    assert error.where == "modality b (node b)" and "3 anchors" in error.what
    data = planted()
    alone = replace(data, nodes=data.nodes[:2])
    assert "nothing to align" in examine(alone, CONFIG).errors[0].what
    unheld = examine(planted(holds=dict.fromkeys(VIEWS, range(39))), CONFIG).errors
    assert ["(anchor-39)" in error.what for error in unheld] == [True]


def test_few_anchors_are_told_what_they_could_show():
    found = examine(with_items(planted(n_anchors=10), "c", noise), CONFIG)
    assert "10 can only show a CKA above" in found.refusals[0].remedy


@pytest.mark.parametrize("n_anchors", [4, 5, 7])
def test_a_handful_of_anchors_gives_a_diagnosis_all_the_same(n_anchors):
    found = examine(planted(n_anchors=n_anchors), CONFIG)
    assert found.errors == [] and all(np.isfinite([p.auc, p.p, p.z, p.cka]).all() for p in found.pairs)


def test_a_diagnosis_survives_json():
    bad = with_items(planted(holds={"a": range(30)}), "c", lambda x: np.concatenate([noise(x[:20]), x[:20]]))
    found = examine(bad, CONFIG)
    assert found.findings and found.duplicates == ()
    text = json.dumps(found.to_json(), allow_nan=False)
    assert Diagnosis.from_json(json.loads(text)) == found


def test_the_same_data_give_the_same_diagnosis_in_any_order_of_nodes():
    first, global_state = examine(planted(noise=1.0), CONFIG), torch.get_rng_state()
    torch.manual_seed(7)
    assert examine(planted(noise=1.0), CONFIG) == first == examine(planted(noise=1.0, reverse=True), CONFIG)
    torch.set_rng_state(global_state)


def test_held_out_rows_are_not_opened_and_private_values_do_not_matter():
    data = planted()
    poisoned = replace(data, held_out=Poisoned({}, {}, paired=True, private={}))
    other = tuple(NodeData(n.name, n.modality, 7 * n.tokens[::-1].copy(), n.labels) for n in data.nodes)
    assert examine(poisoned, CONFIG) == examine(data, CONFIG)
    found = examine(replace(data, nodes=other), CONFIG)
    assert replace(found, findings=()) == replace(examine(data, CONFIG), findings=())
    assert {(f.level, f.where) for f in found.findings} == {("warning", f"node {n.name}") for n in data.nodes}
    assert all("another unit" in f.remedy for f in found.findings)


def test_a_pair_of_many_modalities_must_pass_a_stricter_level():
    data = planted()
    two = replace(data, nodes=tuple(node for node in data.nodes if node.modality != "c"))
    assert {pair.level for pair in examine(data, CONFIG).pairs} == {LEVEL / 2}
    assert {pair.level for pair in examine(two, CONFIG).pairs} == {LEVEL}


def test_anchors_that_stand_twice_prove_nothing():
    """With every anchor twice, and unrelated modalities, permuting single anchors would show a relation every time."""
    refused = 0
    for seed in range(20):
        half = {m: np.random.default_rng([seed, i]).normal(size=(20, 4, w)) for i, (m, w) in enumerate(VIEWS.items())}
        data = planted(seed=seed)
        items = {
            m: AnchorItems(np.arange(40), np.tile(x, (2, 1, 1)).astype(np.float32), np.ones(40, np.float32))
            for m, x in half.items()
        }
        found = examine(replace(data, anchors=replace(data.anchors, items=items)), CONFIG)
        assert len(found.duplicates) == 60
        refused += bool(found.refusals)
    assert refused >= 19


def test_a_common_order_of_the_anchors_is_told():
    """Two unrelated modalities that drift along the anchors look related: the reader is warned."""
    for seed in range(5):
        walk = {
            m: np.random.default_rng([seed, i]).normal(size=(40, 4, w)).cumsum(0)
            for i, (m, w) in enumerate(VIEWS.items())
        }
        data = planted(seed=seed)
        items = {m: AnchorItems(np.arange(40), x.astype(np.float32), np.ones(40, np.float32)) for m, x in walk.items()}
        found = examine(replace(data, anchors=replace(data.anchors, items=items)), CONFIG)
        aligned = {f"{pair.a} - {pair.b}" for pair in found.pairs if pair.verdict == "aligned"}
        assert aligned and aligned == {f.where for f in found.warnings if "follow each other" in f.what}
    assert not [f for f in examine(planted(), CONFIG).warnings if "follow each other" in f.what]


def test_at_most_so_many_anchors_are_tested(monkeypatch):
    seen = []
    real = relation
    module = sys.modules["isogram.doctor.examine"]  # the package has a function of that name
    monkeypatch.setattr(module, "relation", lambda left, *rest: seen.append(len(left)) or real(left, *rest))
    found = examine(planted(n_anchors=module.MOST + 60, private=10), CONFIG)
    assert seen == [module.MOST] * 3 and {pair.anchors for pair in found.pairs} == {module.MOST + 60}


def test_a_node_in_another_unit_is_told_and_one_row_is_no_dead_sensor():
    data = planted()
    a, rest = data.nodes[0], data.nodes[1:]
    unit = replace(data, nodes=(replace(a, tokens=1000 * a.tokens), *rest))
    assert [f.where for f in examine(unit, CONFIG).warnings if "another unit" in f.remedy] == ["node a-1"]
    one = replace(data, nodes=(NodeData("a-1", "a", a.tokens[:1]), *rest))
    assert not examine(one, CONFIG).warnings


def test_each_kind_of_data_is_spoken_of_in_its_own_words():
    """Rows that lie far from the anchors, and a number that never changes: of sensors only where there are any."""
    kinds = {"a": "image", "b": "text", "c": "table"}
    data = replace(planted(), encoders={name: ModalityConfig(kind=kind) for name, kind in kinds.items()})

    def odd(tokens):
        tokens = 1000 * tokens
        tokens[:, 0, 0] = 1
        return tokens

    found = examine(replace(data, nodes=tuple(replace(n, tokens=odd(n.tokens)) for n in data.nodes)), CONFIG)
    told = {(f.where, f.remedy) for f in found.warnings}
    assert told == {
        (f"node {node}", remedy)
        for node, words in (("a-1", "image"), ("a-2", "image"), ("b", "text"), ("c", "table"))
        for remedy in (words_of(words).far, words_of(words).still)
    }
    still = {f.where: f.what.partition(" (")[0] for f in found.warnings if "constant at this node" in f.what}
    assert still["node c"].endswith(" columns") and still["node b"].endswith(" values of its tokens")
    assert one_per(["text", "image"]) == "author, document or scene" and one_per(["", ""]) == "patient, site or hour"


def test_classes_that_too_few_rows_speak_for_are_named():
    data = planted()
    few = [np.where(np.cumsum(n.labels == 2) > 2, -1, n.labels) if n.labels is not None else None for n in data.nodes]
    nodes = tuple(replace(node, labels=labels) for node, labels in zip(data.nodes, few, strict=True))
    [warning] = [f for f in examine(replace(data, nodes=nodes), CONFIG).warnings if f.where == "classes"]
    assert "fewer than 5 rows over all nodes: z" in warning.what


def test_votes_and_quality_weigh_in_the_cross_fit():
    data = planted(noise=1.5)
    items = data.anchors.items
    low = replace(items["c"], quality=np.linspace(0.01, 1, 40, dtype=np.float32))
    doubted = replace(data, anchors=replace(data.anchors, items={**items, "c": low}))
    fewer = replace(data, nodes=data.nodes[1:])  # one a node instead of two
    whole = [pair.auc for pair in examine(data, CONFIG).pairs]
    assert whole != [pair.auc for pair in examine(doubted, CONFIG).pairs]
    assert whole != [pair.auc for pair in examine(fewer, CONFIG).pairs]


def test_a_column_that_is_constant_by_chance_is_only_noted():
    """A word that one private row in a hundred uses is in none of 40 anchors two times in three."""
    data = planted(private=200)

    def rare(tokens, every):
        tokens = tokens.copy()
        tokens[:, 0, 0] = 0
        if every:
            tokens[::every, 0, 0] = 1
        return tokens

    nodes = tuple(replace(n, tokens=rare(n.tokens, 100)) if n.modality == "b" else n for n in data.nodes)
    found = examine(with_items(replace(data, nodes=nodes), "b", lambda t: rare(t, 0)), CONFIG)
    assert [f.level for f in found.findings] == ["note"]
    often = tuple(replace(n, tokens=rare(n.tokens, 2)) if n.modality == "b" else n for n in data.nodes)
    found = examine(with_items(replace(data, nodes=often), "b", lambda t: rare(t, 0)), CONFIG)
    assert [f.level for f in found.findings] == ["warning"]


def test_a_frame_that_does_not_fit_the_trunk_is_an_error():
    config = CONFIG.model_copy(update={"model": ModelConfig(width=32)})
    [error] = examine(planted(), config).errors
    assert error.where == "model.width" and "39 coordinates" in error.what
    narrow = config.model_copy(update={"align": AlignConfig(rank=32)})
    assert examine(planted(), narrow).ok
    assert examine(planted(), config.model_copy(update={"train": TrainConfig(rounds=0)})).ok
