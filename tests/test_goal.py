"""The goal of rounds: which settings follow from it, where the user's own stay, and that it teaches what it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import CLASSES, planted

from isogram import federation
from isogram.config import AverageConfig, Config, TermWeights, TrainConfig
from isogram.config_file import _keys, commented, read_config, to_toml
from isogram.doctor import examine
from isogram.errors import ConfigError, RunError
from isogram.goal import GOVERNED
from isogram.run_folder import CONFIG, check_folder


def by_key(config, key):
    value = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def test_every_governed_setting_exists_and_differs_between_the_goals():
    assert set(dict(_keys(Config))) >= GOVERNED
    pairs, classes = Config(goal="pairs"), Config(goal="classes")
    same = {key for key in GOVERNED if by_key(pairs, key) == by_key(classes, key)}
    assert same == {"train.weights.cka"}  # said for both: a default that moves must not move it there


def test_the_goal_follows_from_the_data_where_nobody_says():
    assert Config(data="digits-sites").goal == "classes" and Config().goal == "pairs"
    assert Config(data="digits-sites", goal="pairs").train == TrainConfig()


@pytest.mark.parametrize(
    "group",
    [{"rounds": 2, "weights": {"task": 0.5}}, TrainConfig(rounds=2, weights=TermWeights(task=0.5))],
    ids=["mapping", "model"],
)
def test_what_is_given_stays(group):
    train = Config(goal="classes", train=group, average=AverageConfig(across="none")).train
    assert (train.rounds, train.weights.task) == (2, 0.5)
    assert (train.steps, train.weights.teacher) == (16, 0.0)
    assert Config(goal="classes", average=AverageConfig(across="none")).average.head == "laplace"


def test_a_dump_says_everything_and_is_read_back():
    config = Config(goal="classes", train={"steps": 3})
    assert Config.model_validate(config.model_dump()) == config


@pytest.mark.parametrize("wrong", [{"goal": "both"}, {"goal": "classes", "train": 3}, {"goal": ["classes"]}])
def test_wrong_goals_and_groups_are_told_like_any_wrong_setting(wrong):
    with pytest.raises(ValueError, match="validation error"):
        Config.model_validate(wrong)
    with pytest.raises(ConfigError, match=r"goal = 'both': should be 'pairs' or 'classes'"):
        read_config(None, ["goal=both"])


def test_a_folder_from_before_there_were_goals_is_of_pairs(tmp_path):
    config = Config(data="digits-sites", goal="pairs")
    (tmp_path / CONFIG).write_text(to_toml(config).replace('goal = "pairs"\n', ""))
    check_folder(tmp_path, config, resume=True)
    with pytest.raises(RunError, match="goal = 'pairs' there and 'classes' now"):
        check_folder(tmp_path, Config(data="digits-sites"), resume=True)


def test_a_file_to_start_from_follows_its_goal_and_keeps_what_was_changed(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(commented(Config(train={"steps": 3})).replace('goal = "pairs"', 'goal = "classes"'))
    config = read_config(path)
    assert config.train == Config(goal="classes", train={"steps": 3}).train
    assert config.average.across == "attention"


def everywhere(data):
    """The planted federation with labels at every node, not at a's alone."""
    nodes = tuple(replace(node, labels=np.arange(len(node.tokens)) % CLASSES) for node in data.nodes)
    return replace(data, nodes=nodes)


def test_the_doctor_refuses_a_goal_that_lacks_labels_and_tells_of_one_that_does_not():
    def told(data, goal):
        findings = examine(data, Config(goal=goal)).findings
        return [(f.level, f.where) for f in findings if "goal =" in f.what]

    data = planted()
    assert told(data, "classes") == [("refusal", "modality b"), ("refusal", "modality c")]
    assert told(data, "pairs") == []
    data = everywhere(data)
    assert told(data, "classes") == [] and told(data, "pairs") == [("note", "classes")]
    some = tuple(replace(n, labels=np.minimum(n.labels, 1)) if n.modality == "b" else n for n in data.nodes)
    assert told(replace(data, nodes=some), "classes") == [("refusal", "modality b")]
    [what] = [f.what for f in examine(replace(data, nodes=some), Config(goal="classes")).refusals]
    assert "fewer than 5 rows of z" in what
    nobody = replace(data, nodes=tuple(replace(n, labels=None) for n in data.nodes))
    assert told(nobody, "classes") == [("refusal", "classes")] and told(nobody, "pairs") == []


def test_rounds_follow_the_labels_if_they_are_for_classes():
    data, left = everywhere(planted(noise=1.5, n_anchors=20, private=300)), {}
    for goal in ("pairs", "classes"):
        fed = federation.train(federation.align(data, Config(goal=goal, align={"propagate": False})))
        left[goal] = fed.history[-1]["task"] / fed.history[0]["task"]
    assert left["classes"] < 0.8 and left["pairs"] > 0.95


def test_each_modality_has_class_directions_of_its_own_labels():
    data = everywhere(planted())
    fed = federation.align(data, Config(goal="classes"))
    assert fed.head is None and set(fed.heads) == {node.name for node in data.nodes}
    assert torch.equal(fed.heads["a-1"], fed.heads["a-2"]) and not torch.allclose(fed.heads["a-1"], fed.heads["b"])
    common = federation.align(data, Config(goal="classes", average={"head_within": False}))
    assert common.head is not None and not common.heads
