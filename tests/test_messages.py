import json
import struct
from collections.abc import Mapping
from dataclasses import fields, replace

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogram.alignment import gram, pack, shrink
from isogram.errors import MessageError
from isogram.messages import Down, Ledger, Message, Up

ARRAYS = {kind: [f.name for f in fields(kind) if f.type == torch.Tensor | None] for kind in (Up, Down)}
MAPPINGS = {kind: [f.name for f in fields(kind) if f.type == Mapping[str, torch.Tensor]] for kind in (Up, Down)}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.int32, torch.int64, torch.uint8]
HEADER = {"type": "Up", "node": "a", "round": "1", "anchor_hash": "h", "modality": "rna"}


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    value = (100 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(draw(st.sampled_from(DTYPES)))
    if value.is_floating_point() and value.numel() and draw(st.booleans()):
        value.view(-1)[0] = draw(st.sampled_from([float("nan"), float("inf"), -0.0]))
    return value.mT if value.ndim > 1 and draw(st.booleans()) else value


@st.composite
def messages(draw):
    kind = draw(st.sampled_from([Up, Down]))
    present = draw(st.lists(st.sampled_from(ARRAYS[kind]), unique=True))
    values = {name: draw(arrays()) for name in present}
    for name in MAPPINGS[kind]:
        values[name] = draw(st.dictionaries(st.text(max_size=5), arrays(), max_size=3))
    values["round"] = draw(st.integers(0, 2**40))
    for name in ("node", "anchor_hash", *(["modality"] if kind is Up else [])):
        values[name] = draw(st.text(max_size=5))
    if kind is Up:
        values["samples"] = draw(st.integers(0, 2**40))
        values["model"] = draw(st.text(max_size=5))
    return kind(**values)


def assert_as_on_the_wire(found, sent):
    expected = sent.float() if sent.is_floating_point() else sent
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def assert_same(found: Message, sent: Message):
    assert type(found) is type(sent)
    for name in (f.name for f in fields(sent)):
        before, after = getattr(sent, name), getattr(found, name)
        if isinstance(before, torch.Tensor):
            assert_as_on_the_wire(after, before)
        elif isinstance(before, Mapping):
            assert set(after) == set(before)
            for key in before:
                assert_as_on_the_wire(after[key], before[key])
        else:
            assert after == before


def test_the_fields_that_travel_are_known():
    # Were `ARRAYS` empty, the round trips below would carry nothing.
    assert ARRAYS[Up][:2] == ["gram", "index"] and ARRAYS[Down][:2] == ["frame", "geometry"]
    assert min(map(len, ARRAYS.values())) >= 6
    assert {Up: ["adapters", "precision", "sketches"], Down: ["adapters"]} == MAPPINGS


@given(messages())
def test_a_message_survives_the_wire(message):
    assert_same(type(message).from_bytes(message.to_bytes()), message)


@given(messages())
def test_a_message_of_the_other_direction_is_refused(message):
    other = Down if isinstance(message, Up) else Up
    with pytest.raises(MessageError, match=f"expected a {other.__name__} message"):
        other.from_bytes(message.to_bytes())


def test_values_that_share_memory_travel():
    whole = torch.arange(12.0).reshape(3, 4)
    message = Down(
        node="a",
        round=1,
        anchor_hash="h",
        frame=whole,
        prototypes=whole,
        head=whole[1:],
        adapters={"x": whole.T, "y": whole},
    )
    assert_same(Down.from_bytes(message.to_bytes()), message)


@given(st.binary(max_size=200))
def test_noise_is_refused(blob):
    with pytest.raises(MessageError):
        Up.from_bytes(blob)


@given(message=messages(), share=st.floats(0, 1, exclude_max=True))
def test_a_message_cut_short_is_refused(message, share):
    blob = message.to_bytes()
    with pytest.raises(MessageError):
        type(message).from_bytes(blob[: int(share * len(blob))])


@pytest.mark.parametrize(
    ("header", "sent", "named"),
    [
        ({**HEADER, "colour": "red"}, {}, "colour"),
        (HEADER, {"patients": torch.ones(2)}, "patients"),
        ({**HEADER, "gram": "text"}, {}, "gram"),
        ({**HEADER, "adapters": "text"}, {}, "adapters"),
        (HEADER, {"adapters": torch.ones(2)}, "adapters"),
        (HEADER, {"precision": torch.ones(2)}, "precision"),
        (HEADER, {"precisions/x": torch.ones(2)}, "precisions/x"),
        (HEADER, {"node": torch.ones(2)}, "node"),
        (HEADER, {"samples": torch.ones(2)}, "samples"),
        ({**HEADER, "round": "soon"}, {}, "soon"),
        ({name: text for name, text in HEADER.items() if name != "node"}, {}, "node"),
        ({name: text for name, text in HEADER.items() if name != "round"}, {}, "round"),
        ({name: text for name, text in HEADER.items() if name != "type"}, {}, "expected a Up message"),
        (None, {}, "expected a Up message"),
    ],
)
def test_well_formed_safetensors_that_are_no_message_are_refused(header, sent, named):
    with pytest.raises(MessageError, match=named):
        Up.from_bytes(safetensors.torch.save(sent, metadata=header and {"message": json.dumps(header)}))


@pytest.mark.parametrize("header", ["[]", "7", '{"type": "Up", "node": 1}', "{", '{"type": null}'])
def test_a_header_that_is_no_mapping_of_texts_is_refused(header):
    with pytest.raises(MessageError):
        Up.from_bytes(safetensors.torch.save({}, metadata={"message": header}))


def test_the_same_message_is_the_same_bytes():
    assert (
        len({Up(node="a", modality="rna", round=1, anchor_hash="h", gram=torch.ones(3)).to_bytes() for _ in range(20)})
        == 1
    )


def test_a_null_header_is_refused():
    head = json.dumps({"__metadata__": None}).encode()
    with pytest.raises(MessageError):
        Up.from_bytes(struct.pack("<Q", len(head)) + head)


@given(st.lists(messages(), min_size=1, max_size=4))
def test_the_ledger_counts_exactly_the_bytes_on_the_wire(sent):
    ledger = Ledger()
    for message in sent:
        before = len(ledger.entries)
        assert_same(ledger.carry(message), message)
        new = ledger.entries[before:]
        assert sum(entry.bytes for entry in new) == len(message.to_bytes())
        assert {(e.direction, e.node, e.round) for e in new} == {
            (type(message).__name__.lower(), message.node, message.round)
        }
        carried = dict(message.arrays())
        assert [e.field for e in new] == [*carried, "header"]
        for entry in new[:-1]:
            width = 4 if carried[entry.field].is_floating_point() else carried[entry.field].element_size()
            assert entry.bytes == width * carried[entry.field].numel()
            assert entry.shape == tuple(carried[entry.field].shape)


@pytest.mark.parametrize("k", [4, 25, 100])
def test_a_gram_costs_one_float_per_pair_of_anchors(k):
    features = torch.randn(k, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
    ledger = Ledger()
    ledger.carry(Up(node="a", modality="rna", round=0, anchor_hash="0" * 64, gram=pack(shrink(gram(features), 0.1))))
    assert {e.field: e.bytes for e in ledger.entries if e.field != "header"} == {"gram": 4 * k * (k + 1) // 2}
    assert 0 < ledger.entries[-1].bytes < 400


def test_what_a_node_sent_excludes_what_it_received_and_what_others_sent():
    ledger = Ledger()
    up = Up(node="a", modality="rna", round=0, anchor_hash="h", gram=torch.ones(10))
    sent = [up, replace(up, round=1, head=torch.ones(3, 2, dtype=torch.int64))]
    for message in (*sent, replace(up, node="b", gram=torch.ones(99)), Down(node="a", round=0, anchor_hash="h")):
        ledger.carry(message)
    assert ledger.sent("a") == sum(len(message.to_bytes()) for message in sent)
    assert ledger.sent("c") == 0


def test_the_receiver_cannot_reach_into_the_senders_memory():
    sent = Up(node="a", modality="rna", round=0, anchor_hash="h", gram=torch.ones(3), adapters={"x": torch.ones(2)})
    received = Ledger().carry(sent)
    assert received is not sent
    received.gram.zero_()
    received.adapters["x"].zero_()
    assert sent.gram.sum() == 3 and sent.adapters["x"].sum() == 2


def test_gradients_stay_at_home():
    weight = torch.ones(2, requires_grad=True)
    received = Ledger().carry(Up(node="a", modality="rna", round=0, anchor_hash="h", adapters={"x": 2 * weight}))
    assert not received.adapters["x"].requires_grad
    torch.testing.assert_close(received.adapters["x"], torch.full((2,), 2.0))


def test_values_and_their_precisions_do_not_mix_and_are_counted_apart():
    up = Up(
        node="a",
        modality="rna",
        round=2,
        anchor_hash="h",
        adapters={"b/x": torch.ones(2, 3), "y": torch.zeros(())},
        precision={"b/x": torch.full((2, 3), 2.0), "y": torch.ones(())},
        model="small, geolora, rank 8",
    )
    ledger = Ledger()
    assert_same(ledger.carry(up), up)
    sizes = {e.field: e.bytes for e in ledger.entries[:-1]}
    assert sizes == {"adapters/b/x": 24, "adapters/y": 4, "precision/b/x": 24, "precision/y": 4}
    assert ledger.sent("a") == len(up.to_bytes())


def test_a_precision_is_unknown_on_the_way_down():
    blob = safetensors.torch.save(
        {"precision/x": torch.ones(2)}, metadata={"message": json.dumps({**HEADER, "type": "Down"})}
    )
    with pytest.raises(MessageError, match="precision/x"):
        Down.from_bytes(blob)


def test_what_is_left_at_its_default_costs_nothing():
    plain = Up(node="a", modality="rna", round=0, anchor_hash="h").to_bytes()
    assert b"model" not in plain and b"samples" not in plain and b"precision" not in plain
    assert b"rank 8" in Up(node="a", modality="rna", round=0, anchor_hash="h", model="rank 8").to_bytes()
