"""One row more or less changes nothing but noisy sums: not which messages there are, not whether one is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import planted
from tables import write_tables

from isogram import federation
from isogram.config import Config, ModelConfig, PrivacyConfig, TermWeights, TrainConfig
from isogram.config_file import read_config
from isogram.data import open_data
from isogram.data.base import UNLABELLED
from isogram.errors import DataError, EgressError, MessageError
from isogram.local import Node

SECRET = bytes(range(32))


def config_of(epsilon=4.0, rounds=2):
    return Config(
        data="machines",
        model=ModelConfig(width=48, layers=1),
        train=TrainConfig(rounds=rounds, steps=2, projector_lr=0.01, weights=TermWeights.only(task=1, frame=1)),
        privacy=PrivacyConfig(epsilon=epsilon, noise_seed=0),
    )


def with_rows(data, name, keep):
    """The federation with some rows of one node alone."""
    return replace(
        data,
        nodes=tuple(
            replace(n, tokens=n.tokens[keep], labels=None if n.labels is None else n.labels[keep])
            if n.name == name
            else n
            for n in data.nodes
        ),
    )


def told(data, config):
    """What leaves the nodes, but for its values."""
    fed = federation.train(federation.align(data, config, secret=SECRET))
    lines = fed.nodes[0].gate.oversight.lines
    return [(line.node, line.round, line.kind, line.field, line.shape, line.bytes) for line in lines]


# Whether a table of one's own has labels.


def tables(folder, keep=None, settings=("privacy.epsilon=5",)):
    """Tables of which node south has one row with a class alone, or of which `keep` says by line number what stays."""
    file = write_tables(folder, anchors=40)
    path = folder / "south.csv"
    header, *lines = path.read_text().splitlines()
    lines = [line.rpartition(",")[0] + ("," if number else ",ill") for number, line in enumerate(lines)]
    path.write_text("\n".join([header, *(lines if keep is None else lines[keep])]) + "\n")
    own = ["threads=1", "model.width=48", "model.layers=1", "train.rounds=1", "train.steps=1"]
    return read_config(file, [*own, *settings])


def test_the_one_row_with_a_class_does_not_decide_whether_a_node_speaks(tmp_path):
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    configs = tables(tmp_path / "one"), tables(tmp_path / "two", slice(1, None))
    one, two = (open_data(config) for config in configs)
    south = next(node for node in two.nodes if node.name == "south")
    assert south.classes == () and (south.labels == UNLABELLED).all()
    assert next(node for node in two.nodes if node.name == "lab").labels is None  # its table has no such column
    sent = told(one, configs[0])
    assert ("south", "sums") in {(node, kind) for node, _, kind, *_ in sent}
    assert told(two, configs[1]) == sent


def test_without_epsilon_a_table_without_classes_has_no_labels(tmp_path):
    data = open_data(tables(tmp_path, slice(1, None), ()))
    assert next(node for node in data.nodes if node.name == "south").labels is None


def test_under_epsilon_tables_are_not_refused_for_want_of_classes_but_for_want_of_their_names(tmp_path):
    config = tables(tmp_path, slice(1, None))
    path = tmp_path / "north.csv"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, *(line.rpartition(",")[0] + "," for line in lines)]) + "\n")
    assert len(told(open_data(config), config)) > 0
    with pytest.raises(DataError, match="no private row has a class"):
        open_data(config.model_copy(update={"privacy": PrivacyConfig()}))
    held = {"classes": (), "held_out": {}}
    with pytest.raises(DataError, match="files.classes is empty, .*; declare all"):
        open_data(config.model_copy(update={"files": config.files.model_copy(update=held)}))


# Whether there is a row at all.


@pytest.mark.parametrize("name", ["a-1", "c"])
def test_a_node_without_rows_sends_what_it_sends_with_one(name):
    one, none = (with_rows(planted(), name, slice(0, count)) for count in (1, 0))
    assert told(none, config_of()) == told(one, config_of())


# Whether the gate refuses.


def test_under_epsilon_the_gate_does_not_tell_whether_a_row_is_like_an_anchor():
    """Rows that are anchors but for rounding: without epsilon their bits are refused, under it nothing tells of any."""
    data = planted()
    near = data.anchors.items["a"].tokens * np.float32(1 + 1e-6)
    labels = np.arange(len(near)) % 3
    nodes = tuple(replace(n, tokens=near, labels=labels) if n.name == "a-1" else n for n in data.nodes)
    data = replace(data, nodes=nodes)
    bare = federation.align(data, config_of(0.0)).nodes[0]
    with pytest.raises(EgressError, match="private rows"):
        bare.gate.refuse_rows("head", torch.from_numpy(near))
    assert told(data, config_of()) == told(with_rows(data, "a-1", slice(1, None)), config_of())
    node = federation.align(data, config_of(), secret=SECRET).nodes[0]
    node.gate.refuse_rows("head", torch.from_numpy(near))
    assert not node._are_rows(node.embed(near))


# What a node refuses whoever asks.


@pytest.mark.parametrize("name", ["send_counts", "send_head", "send_scores", "send_directions", "learn_classes"])
def test_a_node_makes_nothing_of_its_rows_without_noise_whoever_asks(name):
    fed = federation.align(planted(), config_of(), secret=SECRET)
    node = fed.nodes[0]
    evidence = torch.ones(3, dtype=torch.uint8)
    down = fed.down(node, 1, keys=node.send_key(1).key[None], evidence=evidence, head=fed.head)
    given = {"send_counts": (down, 3), "send_directions": (1, 3)}.get(name, (down,))
    lines, before = len(node.gate.oversight.lines), node.map
    with pytest.raises(MessageError, match=r"node 'a-1' was asked for .* without noise, .*privacy.epsilon = 4; ask"):
        getattr(Node, name)(node, *given)
    assert len(node.gate.oversight.lines) == lines and node.map is before
