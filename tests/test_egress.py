"""Nothing leaves a node by accident: the list of what may, the one door, the page of documentation."""

import copy
import inspect
import json
import re
import typing

import numpy as np
import pytest
import torch
from gates import CONFIG, EVERYTHING, ROWS, SRC, SUM, K, add_up, allowing, summing
from planted import planted

from isogram import federation
from isogram.baselines import PAIRWISE, align_pairs
from isogram.config import (
    AverageConfig,
    Config,
    ModelConfig,
    Sendable,
    TermWeights,
    TrainConfig,
)
from isogram.egress import Oversight
from isogram.errors import EgressError, MessageError
from isogram.local import Node
from isogram.messages import Down, Up
from isogram.releases import RELEASES, WORDS, Case
from isogram.validation import FIELDS, KINDS


@pytest.fixture(scope="module")
def data():
    return planted(n_anchors=K, private=ROWS, holds={"b": np.arange(13)})


# The list.


def test_the_list_has_every_field_of_every_kind_and_nothing_else():
    listed = {(release.kind.removeprefix("trained_"), release.field) for release in RELEASES}
    there = {
        (name, field)
        for name, kind in KINDS[Up].items()
        for field in (*kind.must, *kind.may, *kind.groups, *kind.numbers)
    }
    assert listed == there
    assert len({(release.kind, release.field) for release in RELEASES}) == len(RELEASES)
    assert WORDS.keys() == {release.kind for release in RELEASES}
    assert set(typing.get_args(Sendable)) == {name for r in RELEASES for name in (r.kind, r.field)}


BASE = {"gram.gram", "update.adapters", "update.samples"}
LABELS = {"key.key", "counts.counts", "sums.head"}


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({}, set()),
        ({"train": TrainConfig(rounds=0, frame_update=1)}, {"-update.adapters", "-update.samples"}),
        ({"model": ModelConfig(trunk="none")}, {"-update.adapters"}),
        ({"train": TrainConfig(frame_update=0.1)}, {"trained_gram.gram"}),
        ({"train": TrainConfig(weights=TermWeights(muscle=1))}, {"embeddings.embeddings"}),
        ({"train": TrainConfig(refresh=2, refresh_basis="gradient")}, {"update.sketches"}),
        ({"train": TrainConfig(refresh=2)}, set()),
        ({"average": AverageConfig(rule="parameter")}, {"update.precision", "-update.samples"}),
        ({"average": AverageConfig(rule="uniform")}, {"-update.samples"}),
        ({"average": AverageConfig(head="laplace")}, {"+sums.second"}),
        ({"average": AverageConfig(robust="median")}, {"+directions.directions", "-update.samples"}),
    ],
)
def test_what_settings_need_is_what_they_ask_for(change, more):
    for labelled in (False, True):
        case = Case(CONFIG.model_copy(update=change), labelled=labelled, lacking=False, weighted=False)
        found = {f"{r.kind}.{r.field}" for r in RELEASES if r.needed(case)}
        gone, with_labels = ({m[1:] for m in more if m[0] == sign} for sign in "-+")
        expected = (BASE | {m for m in more if m[0] not in "+-"}) - gone
        summed = LABELS if "directions.directions" not in with_labels else set()
        assert found == expected | (summed | with_labels if labelled else set())
    case = Case(CONFIG, labelled=False, lacking=True, weighted=True)
    assert {f"{r.kind}.{r.field}" for r in RELEASES if r.needed(case)} == BASE | {
        "gram.index",
        "gram.quality",
        "update.index",
    }


def test_a_run_does_not_begin_if_what_it_needs_is_not_allowed(data):
    with pytest.raises(EgressError) as caught:
        federation.gather(data, allowing("gram", "key", "counts", "adapters", "samples"))
    said = caught.value.problems
    assert len(said) == 1
    assert re.search(
        r"node 'a-1' has to send 'head' in 'sums' messages \(the node has labels, and not both .* are set\)", said[0]
    )
    assert re.search("add 'sums' or 'head', or give the node no labels", said[0])
    with pytest.raises(EgressError, match=r"node 'b' has to send 'index' in 'update' messages"):
        federation.gather(data, allowing("gram", "key", "counts", "head", "adapters", "samples"))


def test_kinds_and_fields_that_are_allowed_are_sent_as_without_a_list(data):
    free = federation.train(federation.align(data, CONFIG))
    for names in (
        ("gram", "key", "counts", "sums", "update"),
        ("gram", "index", "key", "counts", "head", "adapters", "samples"),
    ):
        fed = federation.train(federation.align(data, allowing(*names)))
        assert fed.ledger.entries == free.ledger.entries


def test_what_the_settings_do_not_need_stays_though_a_list_has_it(data):
    fed = federation.gather(data, allowing("gram", "key", "counts", "sums", "update", "embeddings"))
    fed.nodes[0].map = fed.nodes[0].standardize
    with pytest.raises(EgressError, match=r"node 'a-1' does not send 'embeddings'.*a loss term of peers has a weight"):
        fed.nodes[0].send_embeddings(2)


def test_a_method_says_what_it_sends_beyond_the_settings(data):
    align_pairs(next(iter(PAIRWISE)), data, CONFIG)
    with pytest.raises(EgressError, match="has to send 'embeddings'"):
        align_pairs(next(iter(PAIRWISE)), data, allowing("gram", "key", "counts", "sums", "update"))


# The one door.


class Closed:
    def __getattr__(self, name):
        raise EgressError("closed")


def at_each_phase(data):
    """By method, a node in a secure sum as it is when it is asked, and what it is asked with."""
    found = {}
    for name in (f"send_{phase}" for phase in SUM[1:]):
        method = getattr(Node, name)

        def stop(node, down, name=name, method=method):
            if node.name == "a-1":
                found[name] = node, down
                raise MessageError("this is where it stands")
            return method(node, down)

        fed = summing(data)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Node, name, stop)
            with pytest.raises(MessageError, match="4 are needed"):
                add_up(fed, threshold=4)
    return found


def test_no_public_method_of_a_node_returns_a_message_that_has_not_passed_the_gate(data):
    fed = federation.start_training(federation.align(data, EVERYTHING))
    node = fed.nodes[0]
    private = Config(train={"rounds": 1}, privacy={"epsilon": 8, "noise_seed": 0})
    noisy = federation.gather(data, private).nodes[0]
    noisy.fit(fed.frame[node.index])
    noisy.party = node.party
    key = node.party.key[None]
    evidence = torch.ones(3, dtype=torch.uint8)
    base = Down(node="a-1", round=2, anchor_hash=node.anchor_hash, keys=key, evidence=evidence)
    items = data.anchors.items["a"]
    given = {"round": 2, "down": base, "n_classes": 3, "sketch": 0, "items": items, "frame": fed.frame}
    made = []
    summed = at_each_phase(data)
    for name, method in inspect.getmembers(Node, inspect.isfunction):
        hints = typing.get_type_hints(method)
        if name.startswith("_") or "Up" not in str(hints.get("return")):
            continue
        made.append(name)
        target = fed.deliver(node, "targets", federation.targets(fed, node, 2)) if name == "train_round" else base
        needed = {p: given[p] for p in inspect.signature(method).parameters if p != "self"}
        asked = noisy if name == "send_noisy_head" else node
        asked, target = summed.get(name, (asked, target))
        closed = copy.copy(asked)
        closed.gate = Closed()
        with pytest.raises(EgressError, match="closed"):
            getattr(closed, name)(**(needed | ({"down": target} if "down" in needed else {})))
    assert set(made) == {
        *("send_gram", "send_trained_gram", "send_key", "send_counts", "send_head", "send_noisy_head", "send_scores"),
        *("send_directions", "send_embeddings", "send_blocks", "train_round"),
        *("send_pair", "send_parcels", "send_summand", "send_shares"),
    }


def test_messages_up_are_made_in_one_place():
    made = {
        path.relative_to(SRC).as_posix(): len(found)
        for path in SRC.rglob("*.py")
        if (found := re.findall(r"(?<!class )\bUp\((?=\n|node|\*|[a-z])", path.read_text()))
    }
    assert made == {"local/node.py": 1}
    for path in (SRC / "local").glob("*.py"):
        assert not re.search(r"replace\((self\._up|up)\b", path.read_text()), path


# Documentation.


def test_the_page_has_the_list():
    heading = "\n## What may leave a node\n"
    pages = ["\n" + path.read_text() for path in (SRC.parents[1] / "docs").glob("privacy*.md")]
    (section,) = [page.partition(heading)[2].partition("\n## ")[0] for page in pages if heading in page]
    rows = [
        tuple(cell.strip().replace("`", "") for cell in line.strip("|").split("|"))
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    assert rows == [table_row(release) for release in RELEASES]


def table_row(release):
    spec = FIELDS[Up].get(release.field)
    shape = ", ".join(map(str, spec.shape)) if spec else {"samples": "number"}.get(release.field, "of each layer")
    when = release.when.replace("`", "")
    return release.kind, release.field, shape, release.of, "yes" if release.masked else "no", when


def test_lines_are_json(data):
    oversight = Oversight()
    federation.align(data, CONFIG, oversight=oversight)
    line = json.loads(json.dumps(vars(oversight.lines[0])))
    assert list(line) == ["node", "round", "kind", "field", "shape", "dtype", "bytes", "sha256", "masked"]
