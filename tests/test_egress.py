"""Nothing leaves a node by accident: what its gate lets out, what it keeps, what it writes down, whom it asks."""

import copy
import hashlib
import inspect
import json
import re
import typing
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from planted import planted

from isogram import federation
from isogram.alignment import gram, pack, shrink
from isogram.baselines import PAIRWISE, align_pairs
from isogram.config import (
    AlignConfig,
    AverageConfig,
    Config,
    EgressConfig,
    ModelConfig,
    Sendable,
    TermWeights,
    TrainConfig,
)
from isogram.data import AnchorItems
from isogram.egress import Oversight
from isogram.errors import EgressError, MessageError
from isogram.local import Node
from isogram.local.node import AlignedNode
from isogram.messages import Down, Ledger, Up
from isogram.releases import RELEASES, WORDS, Case
from isogram.validation import FIELDS, KINDS

SRC = Path(__file__).parents[1] / "src" / "isogram"
K, ROWS = 16, 23
TRAIN = TrainConfig(rounds=2, steps=1, batch=8)
CONFIG = Config(data="machines", anchors=K, model=ModelConfig(width=24, layers=1, rank=2), train=TRAIN)
EVERYTHING = CONFIG.model_copy(
    update={
        "align": AlignConfig(robust=True),
        "average": AverageConfig(rule="parameter", head="laplace"),
        "train": TRAIN.model_copy(
            update={
                "refresh": 1,
                "refresh_basis": "gradient",
                "frame_update": 0.5,
                "weights": TermWeights(prototype=1, cka=1),
            }
        ),
    }
)
VOTES = CONFIG.model_copy(update={"average": AverageConfig(robust="median")})


@pytest.fixture(scope="module")
def data():
    return planted(n_anchors=K, private=ROWS, holds={"b": np.arange(13)})


@pytest.fixture(scope="module")
def calls(data):
    """Kind -> the arguments with which a node of a run with everything made a message of that kind."""
    found, up = {}, AlignedNode._up

    def heard(self, kind, round, *, masked=False, **fields):
        message = up(self, kind, round, masked=masked, **fields)
        if self.name == "a-1":
            found.setdefault(
                (kind, round > 1), (copy.copy(self), round, {n: v for n, v in fields.items() if v is not None})
            )
        return message

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AlignedNode, "_up", heard)
        fed = federation.train(federation.align(data, EVERYTHING))
        federation.keep_better(fed, data)
        federation.align(data, VOTES)
    return {kind if not (kind == "gram" and late) else "trained_gram": call for (kind, late), call in found.items()}


def again(call, kind, **changes):
    node, round, fields = call
    return node._up(kind.removeprefix("trained_"), round, **(fields | changes))


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


def allowing(*names, config=CONFIG):
    return config.model_copy(update={"egress": EgressConfig(allow=names)})


def test_a_run_does_not_begin_if_what_it_needs_is_not_allowed(data):
    with pytest.raises(EgressError) as caught:
        federation.gather(data, allowing("gram", "key", "counts", "adapters", "samples"))
    said = caught.value.problems
    assert len(said) == 1
    assert re.search(r"node 'a-1' has to send 'head' in 'sums' messages \(the node has labels\)", said[0])
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
    for name, method in inspect.getmembers(Node, inspect.isfunction):
        hints = typing.get_type_hints(method)
        if name.startswith("_") or "Up" not in str(hints.get("return")):
            continue
        made.append(name)
        target = fed.deliver(node, "targets", federation.targets(fed, node, 2)) if name == "train_round" else base
        needed = {p: given[p] for p in inspect.signature(method).parameters if p != "self"}
        closed = copy.copy(noisy if name == "send_noisy_head" else node)
        closed.gate = Closed()
        with pytest.raises(EgressError, match="closed"):
            getattr(closed, name)(**(needed | ({"down": target} if "down" in needed else {})))
    assert set(made) == {
        *("send_gram", "send_trained_gram", "send_key", "send_counts", "send_head", "send_noisy_head", "send_scores"),
        *("send_directions", "send_embeddings", "send_blocks", "train_round"),
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


# Per-row arrays.

ARRAYS = [
    (release.kind, release.field)
    for release in RELEASES
    if release.field != "samples" and not (release.field == "index" and release.kind != "blocks")
]
TAILS = [(), (1,), (3,), (10,), (40,), (4, 10), (15,), (K,), (24,)]
"""One number a row, some, and as many as there are classes, features, tokens, coordinates, anchors, model widths."""


def of_rows(node, n, tail, like):
    """An array [n, ...] of numbers of private rows, of the type that the field has."""
    flat = torch.from_numpy(node.data.tokens).flatten()
    size = n * int(np.prod(tail, initial=1))
    return flat.repeat(1 + size // len(flat))[:size].reshape(n, *tail).to(like.dtype)


@settings(max_examples=400)
@given(
    of=st.sampled_from(ARRAYS),
    n=st.integers(1, 200) | st.just(ROWS) | st.just(K) | st.just(3),
    tail=st.sampled_from(TAILS),
    extra=st.booleans(),
)
def test_arrays_with_a_place_for_each_row_do_not_leave(calls, of, n, tail, extra):
    kind, field = of
    node, _, fields = calls[kind]
    before = fields.get(field)
    group = next(iter(before.values())) if isinstance(before, dict) else before
    wrong = of_rows(node, n, tail, torch.zeros(1) if group is None else group)
    if isinstance(before, dict):
        name = next(iter(before))
        changed = before | {"rows" if extra else name: wrong}
        assume(extra or wrong.shape != group.shape)
    else:
        changed = wrong
        lengths = {"index": (len(node.index),), "quality": (len(node.index),)}
        assume(wrong.shape != (lengths[field] if before is None else before.shape))
    lines = len(node.gate.oversight.lines)
    with pytest.raises(EgressError, match=f"node 'a-1' kept its .*{field.rstrip('s')[:6]}.*send what the methods"):
        again(calls[kind], kind, **{field: changed})
    assert len(node.gate.oversight.lines) == lines, "what stays is not written down as sent"


@settings(max_examples=100)
@given(kind=st.sampled_from(list(WORDS)), name=st.text(min_size=1, max_size=8), n=st.integers(1, 60))
def test_fields_of_another_kind_or_of_none_do_not_leave(calls, kind, name, n):
    node = calls[kind][0]
    own = {release.field for release in RELEASES if release.kind == kind}
    for field in ({name} | {release.field for release in RELEASES}) - own - {"kind", "round", "masked", "model"}:
        with pytest.raises(EgressError, match="node 'a-1' does not send .* in .*: they have none; send what"):
            again(calls[kind], kind, **{field: of_rows(node, n, (40,), torch.zeros(1))})


@pytest.mark.parametrize("value", [np.ones((ROWS, 40)), [1.0], {"x": np.ones(ROWS)}, "rows", b"rows", 7])
@pytest.mark.parametrize("field", ["gram", "quality"])
def test_what_is_no_tensor_does_not_leave(calls, field, value):
    with pytest.raises(EgressError, match=f"sends tensors alone, and '{field}'"):
        again(calls["gram"], "gram", **{field: value})


@pytest.mark.parametrize("type_", [torch.bool, torch.float64, torch.complex64, torch.int8])
def test_a_type_that_does_not_travel_does_not_leave(calls, type_):
    with pytest.raises(EgressError, match="node 'a-1' kept its 'key' message of round"):
        again(calls["key"], "key", key=torch.ones(32).to(type_))


def test_every_message_of_the_run_passes_a_second_time_and_is_what_the_wire_gives(calls):
    """Or else the tests above would prove nothing."""
    for kind, call in calls.items():
        up = again(call, kind)
        wire = Ledger().carry(up)
        assert all(
            torch.equal(a, b) and a.dtype == b.dtype for (_, a), (_, b) in zip(up.arrays(), wire.arrays(), strict=True)
        )


# Private rows where the number of rows is one of the public sizes.


def coincident(data, config=CONFIG):
    """A federation of which node a-1 has as many rows as there are anchors."""
    first = data.nodes[0]
    nodes = (replace(first, tokens=first.tokens[:K], labels=first.labels[:K]), *data.nodes[1:])
    return replace(data, nodes=nodes)


def test_coordinates_of_rows_do_not_leave_in_the_place_of_those_of_anchors(data):
    fed = federation.start_training(federation.align(coincident(data), EVERYTHING))
    node = fed.nodes[0]
    node.send_embeddings(2)
    assert len(node.data.tokens) == len(node.index) == K
    with pytest.raises(EgressError, match="node 'a-1' kept its message to itself: 'embeddings' holds private rows"):
        node._up("embeddings", 2, embeddings=node.embed(node.data.tokens))
    one = node.embed_anchors()
    one[5] = node.embed(node.data.tokens[7:8])[0]
    with pytest.raises(EgressError, match="'embeddings' holds private rows"):
        node._up("embeddings", 2, embeddings=one)
    node.anchors = torch.from_numpy(node.data.tokens).double().flatten(1)
    with pytest.raises(EgressError, match="'embeddings' holds private rows"):
        node.send_embeddings(2)


def test_a_gram_of_rows_does_not_leave_in_the_place_of_that_of_anchors(data):
    fed = federation.align(coincident(data), EVERYTHING)
    node = fed.nodes[0]
    node.send_gram(1)
    rows = torch.from_numpy(node.data.tokens).double().flatten(1)
    with pytest.raises(EgressError, match="'gram' holds private rows"):
        node._up("gram", 2, gram=pack(shrink(gram(node.embed(node.data.tokens)), CONFIG.align.rho)))
    node.anchors = rows
    with pytest.raises(EgressError, match="'gram' holds private rows"):
        node.send_gram(1)


def test_features_do_not_leave_in_the_place_of_adapters(calls):
    node, _, fields = calls["update"]
    name, value = max(fields["adapters"].items(), key=lambda item: item[1].numel())
    hidden = value.clone()
    hidden.view(-1)[2:42] = torch.from_numpy(node.data.tokens[11]).flatten()
    with pytest.raises(EgressError, match="'adapters/.*' holds private rows"):
        again(calls["update"], "update", adapters=fields["adapters"] | {name: hidden})


@pytest.mark.parametrize("n", [1, 3, ROWS])
def test_blocks_of_private_rows_do_not_leave(calls, data, n):
    node = copy.copy(calls["blocks"][0])
    items = AnchorItems(np.arange(n), node.data.tokens[:n], np.ones(n, np.float32))
    with pytest.raises(EgressError, match="'blocks' holds private rows"):
        node.send_blocks(items, node.target, 4)
    frame = node.target.clone()
    frame[2] = node.embed(node.data.tokens[n - 1 : n])[0]
    with pytest.raises(EgressError, match="'blocks' holds private rows"):
        node.send_blocks(node.trial, frame, 4)
    node.send_blocks(node.trial, node.target, 4)


def test_values_that_a_server_refuses_do_not_leave_either(calls, data, monkeypatch):
    name, value = next(iter(calls["update"][2]["adapters"].items()))
    spoilt = calls["update"][2]["adapters"] | {name: value * torch.nan}
    with pytest.raises(MessageError, match=f"node 'a-1' sent NaN or infinity in the adapter '{name}': lower train.lr"):
        again(calls["update"], "update", adapters=spoilt)
    with pytest.raises(MessageError, match="sent a trace of"):
        again(calls["gram"], "gram", gram=3 * calls["gram"][2]["gram"])


# The log.


def listening(monkeypatch):
    blobs, carry = [], Ledger.carry

    def heard(self, message, read=None):
        if isinstance(message, Up):
            blobs.append(message.to_bytes())
        return carry(self, message, read)

    monkeypatch.setattr(Ledger, "carry", heard)
    return blobs


@pytest.mark.parametrize("config", [CONFIG, EVERYTHING, VOTES])
def test_the_log_is_what_crossed_the_boundary_with_the_hashes_of_its_bytes(data, monkeypatch, config):
    blobs, oversight = listening(monkeypatch), Oversight()
    fed = federation.train(federation.align(data, config, oversight=oversight))
    fed, _ = federation.keep_better(fed, data)
    lines = [line for line in oversight.lines if line.dtype != "text"]
    crossed = [e for e in fed.ledger.entries if e.direction == "up" and e.field != "header"]

    def key(entry):
        return entry.node, entry.round, entry.field, entry.shape, entry.bytes

    assert sorted(map(key, lines)) == sorted(map(key, crossed)), "keep_better's ledger is in another order"
    arrays = [array for blob in blobs for array in sorted(safetensors.torch.load(blob).items())]
    hashes = [(name, hashlib.sha256(value.numpy().tobytes()).hexdigest()) for name, value in arrays]
    assert sorted(hashes) == sorted((line.field, line.sha256) for line in lines)
    numbers = [line for line in oversight.lines if line.dtype == "text"]
    counted = {("update", "samples", 2)} if config is CONFIG else set()
    assert {(line.kind, line.field, line.bytes) for line in numbers} == counted
    assert {line.kind for line in oversight.lines if line.field == "gram" and line.round > 1} <= {"trained_gram"}


def test_the_log_is_the_same_in_each_run_but_for_hashes_of_what_fresh_keys_mask(data):
    logs = []
    for _ in range(2):
        oversight = Oversight()
        federation.train(federation.align(data, CONFIG, oversight=oversight))
        logs.append(oversight.lines)
    for one, other in zip(*logs, strict=True):
        assert astuple(replace(one, sha256="")) == astuple(replace(other, sha256=""))
        assert (one.sha256 != other.sha256) == one.masked == (one.field in ("key", "counts", "head"))


def test_a_sum_over_one_node_is_not_called_masked(data):
    nodes = (data.nodes[0], replace(data.nodes[1], labels=None), *data.nodes[2:])
    oversight = Oversight()
    federation.align(replace(data, nodes=nodes), CONFIG, oversight=oversight)
    assert {line.field: line.masked for line in oversight.lines} == {
        **{"gram": False, "index": False, "key": True},
        **{"counts": False, "head": False},
    }


def test_what_nodes_alone_keep_to_themselves_is_not_written_down_as_sent(data):
    oversight = Oversight()
    alone = CONFIG.model_copy(update={"average": AverageConfig(across="alone")})
    fed = federation.train(federation.align(data, alone, oversight=oversight))
    assert {line.kind for line in oversight.lines} == {"gram"}
    assert {e.field for e in fed.ledger.entries if e.direction == "up"} == {"gram", "index", "header"}
    federation.gather(data, allowing("gram", config=alone))


# The question.


class Person:
    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, question):
        self.asked.append(question)
        return self.answers.pop(0) if self.answers else "yes"


def test_every_node_asks_once_for_each_kind_and_shows_what_it_is(data):
    person = Person()
    federation.train(federation.align(data, CONFIG, oversight=Oversight(person)))
    asked = [(question.node, question.kind) for question in person.asked]
    assert len(set(asked)) == len(asked)
    assert {kind for node, kind in asked if node == "a-1"} == {"gram", "key", "counts", "sums", "update"}
    assert {kind for node, kind in asked if node == "b"} == {"gram", "update"}
    first = person.asked[0]
    assert first.words == WORDS["gram"] and [(e.field, e.shape) for e in first.lines] == [("gram", (K * (K + 1) // 2,))]
    sums = next(question for question in person.asked if question.kind == "sums")
    assert sums.words.endswith(", masked: only the total over nodes shows")


def test_all_is_for_every_node_and_this_kind_alone(data):
    person = Person("all")
    federation.align(data, CONFIG, oversight=Oversight(person))
    assert [question.node for question in person.asked if question.kind == "gram"] == ["a-1"]
    assert [question.node for question in person.asked if question.kind == "key"] == ["a-1", "a-2"]


def test_a_no_stops_before_the_first_byte(data, monkeypatch):
    blobs, person = listening(monkeypatch), Person("no")
    oversight = Oversight(person)
    with pytest.raises(EgressError, match="node 'a-1' was not allowed to send its 'gram' message of round 0.*--resume"):
        federation.align(data, CONFIG, oversight=oversight)
    assert not blobs and not oversight.lines and len(person.asked) == 1


def test_a_no_to_updates_lets_none_out(data, monkeypatch):
    def ask(question):
        return "no" if question.kind == "update" else "all"

    oversight = Oversight(ask)
    aligned = federation.align(data, CONFIG, oversight=oversight)
    blobs = listening(monkeypatch)
    with pytest.raises(EgressError, match="'update' message of round 2"):
        federation.train(aligned)
    assert not blobs and "update" not in {line.kind for line in oversight.lines}


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
