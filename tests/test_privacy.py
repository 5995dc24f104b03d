"""What a run under differential privacy releases: nothing else than it says, and nothing that it refuses."""

import json
import shutil
from dataclasses import fields, replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import planted
from resumed import put_back
from rich.console import Console
from tables import write_tables
from torch.testing import assert_close

from isogram import federation
from isogram.accountant import budget_of
from isogram.bench import Row
from isogram.config import AlignConfig, AverageConfig, Config, ModelConfig, PrivacyConfig, TermWeights, TrainConfig
from isogram.config_file import commented, read_config
from isogram.doctor import examine
from isogram.errors import ConfigError, MessageError, RunError
from isogram.local.labels import LabelledNode
from isogram.messages import Up
from isogram.model import SavedModel
from isogram.model.peft_export import export_model
from isogram.noise import Noise
from isogram.privacy import FOLLOWS, REFUSED, refusals
from isogram.progress import Watch
from isogram.report.privacy_tables import privacy_blocks, refused
from isogram.report.tables import Results
from isogram.run import run
from isogram.run_folder import check_noise

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


# A run in its folder.


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("private")
    file = write_tables(folder, anchors=40)
    settings = ["threads=1", "model.width=48", "model.layers=1", "train.rounds=2", "train.steps=2"]
    settings += ["privacy.epsilon=5", "train.weights.task=1", f"output.folder='{folder}'"]
    return run(read_config(file, settings), Watch(Console(quiet=True)))


def test_a_run_says_what_it_spent(outcome, tmp_path):
    metrics = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    spent = [m["value"] for m in metrics if m["metric"] == "epsilon"]
    assert [m["round"] for m in metrics if m["metric"] == "epsilon"] == [0, 1, 2]
    assert spent == sorted(spent) and 4.99 < spent[-1] <= 5
    assert not [m for m in metrics if m["metric"] == "loss/task"]
    model = SavedModel.load(outcome.folder / "model.safetensors")
    assert model.privacy["epsilon"] == round(spent[-1], 4) and model.privacy["noise"] == "secret"
    assert outcome.notes[-1] == "privacy: epsilon 5 of 5 is spent, at delta 1e-05"
    assert "ε spent" in (outcome.folder / "report.html").read_text()
    done = export_model(model, tmp_path / "adapter")
    for folder in done.folders.values():
        assert f"epsilon: {model.privacy['epsilon']}" in (folder / "README.md").read_text()


def test_a_run_tells_nobody_how_many_rows_there_are(outcome):
    state = json.loads((outcome.folder / "run.json").read_text())
    assert {node["rows"] for node in state["nodes"]} == {None}
    methods = {row.method for row in outcome.rows}
    assert methods == {"closed-form", "isogram"}  # others would release class sums without noise
    assert not (outcome.folder / "noise.key").exists()


def test_a_run_does_not_go_on_without_its_secret(tmp_path, monkeypatch):
    file = write_tables(tmp_path, anchors=40)
    settings = ["threads=1", "model.width=48", "model.layers=1", "train.rounds=2", "train.steps=2"]
    settings += ["privacy.epsilon=5", "train.weights.task=1", f"output.folder='{tmp_path}'"]
    config = read_config(file, settings)
    with monkeypatch.context() as patch:
        patch.setattr("isogram.federation.train_round", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(config, Watch(Console(quiet=True)))
    secret = tmp_path / config.name / "noise.key"
    assert len(bytes.fromhex(secret.read_text())) == 32 and secret.stat().st_mode & 0o077 == 0
    assert secret.read_text() not in (tmp_path / config.name / "config.toml").read_text()
    kept = secret.read_text()
    secret.unlink()
    with pytest.raises(RunError, match="noise.key"):
        run(config, Watch(Console(quiet=True)), resume=True)
    secret.write_text(kept)
    run(config, Watch(Console(quiet=True)), resume=True)


class Stopping(Watch):
    """Stops a run in its second round, after a node has sent its update."""

    def tick(self, tick):
        if tick.round == 2 and tick.terms:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    settings = ["threads=1", "model.width=48", "model.layers=1", "train.rounds=2", "train.steps=1"]
    config = read_config(
        write_tables(folder, anchors=40), [*settings, "privacy.epsilon=5", f"output.folder='{folder}'"]
    )
    with pytest.raises(KeyboardInterrupt):
        run(config, Stopping(Console(quiet=True)))
    return folder / config.name, config


@pytest.mark.parametrize("what", ["torch", "python", "platform", "vector unit"])
def test_a_run_does_not_draw_its_noise_again_under_other_software_or_on_another_machine(stopped, what):
    """The last bits of a sum may be others there: the difference of two sums under the same noise has none."""
    folder, config = stopped
    path = folder / "environment.json"
    kept = path.read_text()
    environment = json.loads(kept)
    (environment["packages"] if what == "torch" else environment)[what] = "older"
    path.write_text(json.dumps(environment))
    try:
        with pytest.raises(RunError, match=f"{folder}.*{what} .*, before older.*; go on .*another name"):
            run(config, Watch(Console(quiet=True)), resume=True)
    finally:
        path.write_text(kept)


def test_a_round_that_had_begun_to_send_is_not_sent_again_by_a_device_that_sums_as_it_likes(stopped, tmp_path):
    folder, config = stopped
    check_noise(folder, config)
    cuda = config.model_copy(update={"train": config.train.model_copy(update={"device": "cuda"})})
    with pytest.raises(RunError, match="round 2 had begun to send.*train.device = cuda.*another name"):
        check_noise(folder, cuda)
    copied = shutil.copytree(folder, tmp_path / "copy")
    lines = (copied / "egress.jsonl").read_text().splitlines(keepends=True)
    (copied / "egress.jsonl").write_text("".join(line for line in lines if json.loads(line)["round"] < 3))
    check_noise(copied, cuda)  # stopped between two rounds
    (copied / "checkpoints" / "round-0001.safetensors").unlink()
    with pytest.raises(RunError, match="round 1 had begun to send"):
        check_noise(copied, cuda)
    (copied / "checkpoints" / "round-0000.safetensors").unlink()
    with pytest.raises(RunError, match="alignment had begun to send"):
        check_noise(copied, cuda)
    run(config, Watch(Console(quiet=True)), resume=True)
    check_noise(folder, cuda)  # complete: no more noise is drawn


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
