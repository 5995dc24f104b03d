"""Arrays of private rows do not leave, neither by their size nor in the place of public items."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from gates import CONFIG, EVERYTHING, ROWS, VOTES, K, add_up, summing
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from planted import planted

from isogram import federation
from isogram.alignment import gram, pack, shrink
from isogram.data import AnchorItems
from isogram.errors import EgressError, MessageError
from isogram.local.node import AlignedNode
from isogram.messages import Ledger
from isogram.releases import RELEASES, WORDS


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
        add_up(summing(data))
    return {kind if not (kind == "gram" and late) else "trained_gram": call for (kind, late), call in found.items()}


def again(call, kind, **changes):
    node, round, fields = call
    return node._up(kind.removeprefix("trained_"), round, **(fields | changes))


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


def test_a_row_that_lies_where_an_anchor_does_keeps_no_anchor_back(data):
    """A text that its node repeats may be an anchor's, too, and its features may differ in their last digits alone."""
    first, items = data.nodes[0], data.anchors.items["a"]
    alike = items.tokens * np.float32(1 + 1e-6)
    for rows in (np.concatenate([alike[:3], first.tokens[3:]]), alike):  # some, or as many as there are anchors
        labels = first.labels[np.arange(len(rows)) % len(first.labels)]
        nodes = (replace(first, tokens=rows, labels=labels), *data.nodes[1:])
        fed = federation.start_training(federation.align(replace(data, nodes=nodes), EVERYTHING))
        node = fed.nodes[0]
        assert node.gate.private.secret.all(), "to the bit they are no anchors"
        node.send_gram(1)
        node.send_embeddings(2)
        node.send_trained_gram(2)
    fed = federation.start_training(federation.align(data, EVERYTHING))
    node, far = fed.nodes[0], fed.nodes[0].embed_anchors()
    far[4] = node.embed(first.tokens[5:6])[0]
    with pytest.raises(EgressError, match="'embeddings' holds private rows"):
        node._up("embeddings", 2, embeddings=far)


def test_a_row_that_is_a_held_out_anchor_does_not_stop_the_choice_between_two_models(data):
    """In its trial the node holds the other anchors alone; those held out are as public as these."""
    first = data.nodes[0]
    rows = np.concatenate([data.anchors.items["a"].tokens, first.tokens])
    nodes = (replace(first, tokens=rows, labels=np.arange(len(rows)) % 3), *data.nodes[1:])
    same = replace(data, nodes=nodes)
    fed = federation.train(federation.align(same, CONFIG))
    federation.keep_better(fed, same)


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
