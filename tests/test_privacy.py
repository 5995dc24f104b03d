"""What a run under differential privacy releases: nothing else than it says, and nothing that it refuses."""

from dataclasses import fields, replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import planted
from resumed import put_back
from torch.testing import assert_close

from isogram import federation
from isogram.accountant import budget_of
from isogram.bench import Row
from isogram.config import AlignConfig, AverageConfig, Config, ModelConfig, PrivacyConfig, TermWeights, TrainConfig
from isogram.config_file import commented, read_config
from isogram.doctor import examine
from isogram.errors import ConfigError, MessageError
from isogram.local.labels import LabelledNode
from isogram.messages import Up
from isogram.noise import Noise
from isogram.privacy import FOLLOWS, REFUSED, refusals
from isogram.report.privacy_tables import privacy_blocks, refused
from isogram.report.tables import Results

SECRET = bytes(range(32))
SENT = {"gram", "index", "quality", "key", "head", "adapters", "header"}
"""All that a node may send: functions of public anchors, keys, noisy sums, what noisy steps made."""


def config_of(epsilon=4.0, *, task=1.0, adapter="geolora", **privacy):
    return Config(
        data="machines",
        model=ModelConfig(width=48, layers=1, adapter=adapter),
        train=TrainConfig(
            rounds=3, steps=2, lr=0.01, projector_lr=0.01, weights=TermWeights.only(task=task, frame=1, cka=0.1)
        ),
        privacy=PrivacyConfig(epsilon=epsilon, head_share=0.5, **privacy),
    )


def changed(data, name, tokens=None, labels=None):
    """The same federation, but for the rows of one node."""
    nodes = [
        node
        if node.name != name
        else replace(
            node,
            tokens=node.tokens if tokens is None else tokens(node.tokens),
            labels=labels(node.labels) if labels else node.labels,
        )
        for node in data.nodes
    ]
    return replace(data, nodes=tuple(nodes))


def released(data, config, monkeypatch, folder):
    """Every message that a node sends, as bytes, and the saved model's."""
    sent = []
    receive = federation.Federation.receive

    def listen(self, node, kind, round, up, **known):
        # Masks are drawn anew in each run; without them a node's own sums are seen.
        sent.append(replace(up, key=None).to_bytes())
        return receive(self, node, kind, round, up, **known)

    with monkeypatch.context() as patch:
        patch.setattr(federation.Federation, "receive", listen)
        patch.setattr("isogram.secure_sum.SumParty._mask", lambda self, key, label, size: np.zeros(size, np.uint64))
        fed = federation.train(federation.align(data, config, secret=SECRET))
    from isogram.checkpoint import final_model

    final_model(fed, data).save(folder / "model")
    return fed, sent, (folder / "model").read_bytes()


def test_rows_of_a_node_without_labels_are_in_nothing_that_is_released(monkeypatch, tmp_path):
    data, config = planted(), config_of()
    other = changed(data, "c", tokens=lambda tokens: 3 * tokens[:17] + 1)
    one, two = (released(d, config, monkeypatch, tmp_path) for d in (data, other))
    assert one[1] == two[1] and one[2] == two[2]


def test_only_what_is_said_is_sent(monkeypatch, tmp_path):
    fed, _, _ = released(planted(), config_of(), monkeypatch, tmp_path)
    up = [entry for entry in fed.ledger.entries if entry.direction == "up"]
    assert {entry.field.partition("/")[0] for entry in up} == SENT - {"index", "quality"}
    assert SENT - {"header"} <= {entry.name for entry in fields(Up)}
    heads = [entry for entry in up if entry.field == "head"]
    assert sorted(entry.node for entry in heads) == ["a-1", "a-2"]  # once each, before rounds
    assert "task" not in fed.history[0] and set(fed.history[0]) == {"frame", "cka"}


def test_the_number_of_rows_and_their_classes_show_in_no_shape_and_no_size(monkeypatch, tmp_path):
    data, config = planted(), config_of()
    few = changed(
        data, "a-1", tokens=lambda tokens: tokens[:5], labels=lambda labels: np.zeros(5, np.int64)
    )  # one class alone
    one, two = (released(d, config, monkeypatch, tmp_path) for d in (data, few))
    assert [len(blob) for blob in one[1]] == [len(blob) for blob in two[1]]
    assert one[1] != two[1]
    assert len(one[2]) == len(two[2])


def test_anchors_that_train_do_not_depend_on_how_many_rows_there_are(monkeypatch, tmp_path):
    """A draw of anchors after a draw of rows from one stream would tell their number."""
    config = config_of(task=0.0)
    few = changed(planted(), "a-1", tokens=lambda tokens: tokens[:5], labels=lambda labels: labels[:5])
    one, two = (released(d, config, monkeypatch, tmp_path)[0] for d in (planted(), few))
    for name, value in one.adapters.items():
        assert_close(value, two.adapters[name], rtol=0, atol=0)


def test_a_row_moves_class_sums_by_one_and_noise_is_of_the_budget():
    data, config = planted(), config_of()

    def sums(found):
        up = []
        fed = federation.align(found, config, secret=SECRET)
        for node in fed.nodes:
            if node.labelled:
                keys = node.send_key(1).key[None]
                down = fed.down(node, 1, keys=keys, evidence=torch.ones(3, dtype=torch.uint8))
                node.released = frozenset()
                up.append(node.send_noisy_head(down).head.double() / 2**24)
        return up

    before = sums(data)
    for row in (0, 7, 59):
        without = changed(
            data, "a-1", tokens=lambda t, row=row: np.delete(t, row, 0), labels=lambda x, row=row: np.delete(x, row)
        )
        after = sums(without)
        assert float((before[0] - after[0]).norm()) == pytest.approx(1, abs=1e-4)
        assert_close(before[1], after[1], rtol=0, atol=0)
    nothing = changed(data, "a-1", labels=lambda labels: np.full_like(labels, -1))
    noise = sums(nothing)[0]
    expected = Noise(SECRET, "a-1").gaussian((3, 3), budget_of(config).head, "head", 1)
    assert_close(noise[:, :3], expected, atol=1e-6, rtol=0)
    assert noise[:, 3:].abs().max() == 0  # coordinates beyond the number of classes


def test_classes_that_only_noise_speaks_for_are_named_by_nobody():
    none = planted()
    for name in ("a-1", "a-2"):
        none = changed(none, name, labels=lambda labels: np.where(labels == 2, -1, labels))
    unknown = [
        bool(federation.align(none, config_of(8.0), secret=bytes([seed]) * 32).head.isnan().any(1)[2])
        for seed in range(8)
    ]
    assert 1 < sum(unknown) < 8  # noise alone is above its own mean now and then
    full = federation.align(planted(private=600), config_of(8.0), secret=SECRET).head
    assert not full.isnan().any()


def test_class_directions_are_made_once():
    fed = federation.align(planted(), config_of(), secret=SECRET)
    trained = federation.train(fed)
    assert_close(trained.head, fed.head, rtol=0, atol=0)


def test_a_node_releases_once_what_the_accountant_counts_once_whoever_asks():
    """Another frame, the same noise: the difference of two answers would have none."""
    fed = federation.align(planted(), config_of(), secret=SECRET)
    node = fed.nodes[0]
    down = fed.down(node, 1, keys=node.send_key(1).key[None], evidence=torch.ones(3, dtype=torch.uint8))
    with pytest.raises(MessageError, match="class sums a second time"):
        node.send_noisy_head(down)
    trained = federation.train(fed)
    with pytest.raises(MessageError, match="steps of round 2 a second time"):
        trained.nodes[0].train_round(federation.targets(trained, trained.nodes[0], 3))
    with pytest.raises(MessageError, match="trains 3 rounds; nobody may ask for another one"):
        trained.nodes[0].train_round(federation.targets(trained, trained.nodes[0], 5))
    assert trained.nodes[0].released == {"class sums", *(f"steps of round {number}" for number in (1, 2, 3))}
    federation.train(fed)  # copies of the nodes, with the same noise for the same steps


def test_without_a_secret_noise_is_fresh_each_time():
    one, two = (federation.align(planted(), config_of()).head for _ in range(2))
    assert not torch.equal(one, two)


@pytest.mark.parametrize("adapter", ["geolora", "geodora"])
def test_a_run_that_was_stopped_goes_on_to_the_same_noise(tmp_path, adapter):
    straight, again, model = put_back(tmp_path, planted(), config_of(adapter=adapter, noise_seed=3))
    assert_close(straight.nodes[0].embed_anchors(), again.nodes[0].embed_anchors(), rtol=0, atol=0)
    assert 3.99 < model.privacy["epsilon"] <= 4
    assert "no guarantee" in model.privacy["noise"]


# What is refused.

WRONG = {
    "align.propagate": {"align": AlignConfig(propagate=True)},
    "average.head": {"average": AverageConfig(head="anchors")},
    "average.rule": {"average": AverageConfig(rule="samples")},
    "average.robust": {"average": AverageConfig(robust="median", head="anchors", head_within=False)},
    "train.weights.teacher": {"train": TrainConfig(weights=TermWeights.only(frame=1, teacher=0.5))},
    "train.frame_update": {"train": TrainConfig(frame_update=0.3)},
    "train.refresh_basis": {"train": TrainConfig(refresh=2, refresh_basis="gradient")},
    "model.gradient_checkpointing": {"model": ModelConfig(gradient_checkpointing=True)},
    "privacy.head_share": {
        "privacy": PrivacyConfig(epsilon=1, head_share=1),
        "train": TrainConfig(weights=TermWeights.only(task=1)),
    },
}


@pytest.mark.parametrize("key", [refusal.key for refusal in REFUSED])
def test_what_would_break_the_guarantee_is_refused_with_its_reason(key):
    Config(**{name: value for name, value in WRONG[key].items() if name != "privacy"})
    with pytest.raises(ValueError, match=f"{key} = .* is refused with privacy.epsilon: .*; set it to"):
        Config(**{"privacy": PrivacyConfig(epsilon=1)} | WRONG[key])


@pytest.mark.parametrize("head", ["anchors", "laplace"])
@pytest.mark.parametrize("rule", ["samples", "node", "parameter"])
def test_every_other_average_and_head_is_refused(head, rule):
    with pytest.raises(ValueError, match="average.head.*average.rule"):
        Config(privacy=PrivacyConfig(epsilon=1), average=AverageConfig(head=head, rule=rule))


def test_a_copy_that_was_never_validated_is_refused_before_anything_is_sent(monkeypatch):
    config = config_of()
    monkeypatch.setattr(LabelledNode, "send_gram", lambda *_: pytest.fail("sent a message"))
    for key, value in (("rule", "samples"), ("robust", "median")):
        wrong = config.model_copy(update={"average": config.average.model_copy(update={key: value})})
        with pytest.raises(ConfigError, match=f"average.{key} = {value} is refused"):
            federation.align(planted(), wrong)
    with pytest.raises(ConfigError, match="needs a frame"):
        federation.start_apart(planted(), config)


def test_the_doctor_says_the_same_whatever_the_rows_are():
    odd = changed(planted(), "a-1", tokens=lambda t: 0 * t[:3] + 1e6, labels=lambda x: np.zeros(3, np.int64))
    for goal in ("pairs", "classes"):
        config = config_of().model_copy(update={"goal": goal})
        assert examine(odd, config) == examine(planted(), config)
        assert examine(odd, config.model_copy(update={"privacy": PrivacyConfig()})) != examine(planted(), config)


def test_a_second_run_to_decide_by_is_refused():
    fed = federation.align(planted(), config_of())
    with pytest.raises(ConfigError, match="no second run"):
        federation.keep_better(fed, planted())


@pytest.mark.parametrize("data", ["tcga-brca", "digits-sites"])
def test_settings_that_are_not_given_follow_from_epsilon(data, tmp_path):
    config = Config(data=data, privacy=PrivacyConfig(epsilon=2))
    assert refusals(config) == []
    assert reduce(getattr, ["average", "rule"], config) == "uniform"
    assert Config(data=data).average.rule == "samples"
    # So they do in a file with comments, where they stand as such.
    path = tmp_path / "run.toml"
    path.write_text(commented(Config(data=data)))
    text = path.read_text()
    assert read_config(path) == Config(data=data, name="run")
    again = read_config(path, ["privacy.epsilon=2"])
    assert again.model_dump(exclude={"name", "output"}) == config.model_dump(exclude={"name", "output"})
    for key in FOLLOWS:
        assert f"# {key.rpartition('.')[2]} = " in text


# The page.

ROOT = Path(__file__).parents[1]


def test_what_is_refused_stands_in_the_documentation_as_in_the_code():
    text = "".join(page.read_text() for page in (ROOT / "docs").glob("privacy*.md"))
    assert refused() in text
    for refusal in REFUSED:
        assert f"| `{refusal.key}` | {refusal.remedy} |" in refused()
    for key in FOLLOWS:
        assert f"`{key} = " in text, f"{key} follows from epsilon, and the page does not say so"


def test_losses_are_paired_with_what_they_are_losses_of():
    def row(method, seed, value):
        return Row("privacy:digits", method, 5, seed, "accuracy", "pen", value)

    rows = [row("closed-form 8", s, 0.6 + 0.1 * s) for s in range(3)]
    rows += [row("closed-form inf", s, 0.65 + 0.1 * s) for s in range(3)]
    rows += [row("dp-sgd 8", 0, 0.5), row("dp-sgd inf", 0, 0.6), row("rounds default", 0, 0.8)]
    tables = privacy_blocks(Results(rows))
    assert "class directions alone, ε = 8 | – | – | – | – | – | – | −.050 ± .000 |" in tables["privacy-loss"]
    assert "rounds with DP-SGD, ε = 8 | – | – | – | – | – | – | −.100 |" in tables["privacy-loss"]
    assert "rounds with DP-SGD, ε = 8 | – | – | – | – | – | – | −.300 |" in tables["privacy-loss-default"]
    assert "no noise | – | – | – | – | – | – | .750 |" in tables["privacy-utility"]
