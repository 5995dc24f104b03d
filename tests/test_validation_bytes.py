"""Bytes that are no message, also a fuzzer's: refused before an array is made of them."""

import json
import struct
import sys
from pathlib import Path

import pytest
import safetensors.torch
from hypothesis import given, settings
from hypothesis import strategies as st
from message_samples import EVERY, LAYOUT, WRONG, sample, spoilt

from isogram import validation
from isogram.errors import MessageError
from isogram.messages import Up
from isogram.wire import MAX_ARRAYS, MAX_HEADER, layout

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from fuzz_messages import corpus, fuzz  # noqa: E402
from message_oracle import judge  # noqa: E402

# Bytes.

BLOB = sample("key")[0].to_bytes()
LENGTH = int.from_bytes(BLOB[:8], "little")
HEADER = json.loads(BLOB[8 : 8 + LENGTH])
BODY = BLOB[8 + LENGTH :]


def blob(header, body=BODY):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def with_entry(**entry):
    return blob({**HEADER, "key": {**HEADER["key"], **entry}})


SECOND = {"dtype": "U8", "shape": [32], "data_offsets": [0, 32]}
BYTES = {
    "nothing": (b"", "the length of the header alone takes 8"),
    "a header beyond the end": (struct.pack("<Q", len(BLOB)) + BLOB[8:], "a header of"),
    "a header beyond all bounds": (struct.pack("<Q", MAX_HEADER + 1) + b" " * (MAX_HEADER + 9), "are the limit"),
    "no JSON": (blob(b"{"), "no JSON in UTF-8"),
    "another encoding": (blob(json.dumps(HEADER).encode("utf-16")), "no JSON in UTF-8"),
    "half a surrogate pair": (blob({**HEADER, "\ud800": SECOND}), "no JSON in UTF-8"),
    "deep JSON": (blob(b'{"x":' * 100_000), "no JSON in UTF-8"),
    "a number of 10000 digits": (
        blob(json.dumps(HEADER).encode().replace(b"[32]", b"[" + b"9" * 10000 + b"]")),
        "JSON",
    ),
    "a list": (blob([1]), "no mapping"),
    "a key twice": (blob(json.dumps(HEADER).encode()[:-1] + b', "key": 1}'), "a key stands twice"),
    "a text twice": (
        blob({**HEADER, "__metadata__": {"message": '{"type": "Up", "type": "Up"}'}}),
        "a key stands twice",
    ),
    "more metadata": (blob({**HEADER, "__metadata__": {**HEADER["__metadata__"], "x": "y"}}), "beside one text"),
    "metadata that are none": (blob({**HEADER, "__metadata__": None}), "beside one text"),
    "a text that is none": (
        blob({**HEADER, "__metadata__": {"message": '{"type": 1}'}}),
        "no mapping of names to texts",
    ),
    "too many arrays": (
        blob({f"{n}": 0 for n in range(MAX_ARRAYS + 1)}),
        f"{MAX_ARRAYS + 1} arrays, of {MAX_ARRAYS} at most",
    ),
    "an entry that is none": (blob({**HEADER, "key": 7}), "something else than dtype, shape and data_offsets"),
    "more in an entry": (with_entry(more=1), "something else than dtype, shape and data_offsets"),
    "a type that does not travel": (with_entry(dtype="F64"), "is of type 'F64'"),
    "a negative length": (with_entry(shape=[-32]), "a shape or offsets that are none"),
    "a length that is no integer": (with_entry(shape=[32.0]), "a shape or offsets that are none"),
    "a length that is a truth value": (with_entry(shape=[True, 32]), "a shape or offsets that are none"),
    "an absurd length": (with_entry(shape=[2**62, 0]), "a shape or offsets that are none"),
    "many dimensions": (with_entry(shape=[1] * 9 + [32]), "a shape or offsets that are none"),
    "three offsets": (with_entry(data_offsets=[0, 32, 32]), "a shape or offsets that are none"),
    "a shape beyond the bytes": (with_entry(shape=[2**40]), "takes 1099511627776 bytes"),
    "bytes in two arrays": (blob({**HEADER, "x": SECOND}), "begins at byte 0"),
    "a gap": (blob({**HEADER, "key": {**SECOND, "data_offsets": [1, 33]}}, BODY + b"x"), "begins at byte 1"),
    "bytes in no array": (blob(HEADER, BODY + b"x"), "arrays end at byte 32 of 33"),
    "bytes that are not there": (blob(HEADER, BODY[:-1]), "arrays end at byte 32 of 31"),
}


@pytest.mark.parametrize("case", list(BYTES))
def test_bytes_that_are_no_message_are_refused_before_an_array_is_made(case, monkeypatch):
    wrong, said = BYTES[case]
    monkeypatch.setattr(safetensors.torch, "load", _never)
    with pytest.raises(MessageError, match=said):
        layout(wrong)
    with pytest.raises(MessageError, match="node 'a' sent what cannot be read: not a Up message: .*"):
        sample("key")[1].read(Up, wrong)
    assert judge(wrong, "Up", sample("key")[1])


def _never(*_):
    raise AssertionError("an array was made of a message that is refused")


@pytest.mark.parametrize("case", list(LAYOUT))
def test_what_the_layout_shows_is_refused_before_an_array_is_made(case, monkeypatch):
    kind, field, change, _ = WRONG[case]
    message, expected = spoilt(kind, field, change)
    sent = message.to_bytes()
    monkeypatch.setattr(safetensors.torch, "load", _never)
    with pytest.raises(MessageError):
        expected.read(type(message), sent)


# The fuzzer, and what it judges by.


@pytest.fixture(scope="module")
def samples():
    found = corpus(anchors=12)
    assert {s.expected.kind for s in found} == set(EVERY), "messages of every kind"
    assert all(judge(s.blob, s.of.__name__, s.expected) is None for s in found)
    return found


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_no_mutant_is_accepted_wrongly_or_breaks_the_reader(samples, seed):
    outcome = fuzz(samples, 100, seed)
    assert not outcome.wrong and not outcome.broken
    assert outcome.refused.total() > 50


def test_the_fuzzer_notices_a_validation_that_is_not_there(samples, monkeypatch):
    monkeypatch.setattr(validation.Expected, "_wrong_value", lambda *_: None)
    assert len(fuzz(samples, 1000, 0).wrong) > 20
    monkeypatch.setattr(validation.Expected, "_check_layout", lambda *_: None)
    assert len(fuzz(samples, 1000, 0).wrong) > 100
