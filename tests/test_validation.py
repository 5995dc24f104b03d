"""What a receiver reads, and all that it refuses: every check by a message that nothing else refuses."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from message_samples import EVERY, INF, NAN, VALUES, WRONG, draw, read, sample, spoilt

from isogram import soundness
from isogram.aggregation import merge_counts
from isogram.alignment import gram, pack, shrink
from isogram.errors import MessageError
from isogram.messages import Up
from isogram.secure_sum import SumParty
from isogram.soundness import Bounds
from isogram.validation import FIELDS, KINDS

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from message_oracle import judge  # noqa: E402


@pytest.mark.parametrize("kind", EVERY)
def test_what_is_as_expected_is_read_and_the_oracle_agrees(kind):
    message, expected = sample(kind)
    found = read(message, expected)
    assert [name for name, _ in found.arrays()] == [name for name, _ in message.arrays()]
    assert judge(message.to_bytes(), type(message).__name__, expected) is None
    assert len(message.to_bytes()) <= expected.limit(type(message))


def test_every_field_of_a_message_has_a_specification():
    for of, specified in FIELDS.items():
        arrays = {name for name, entry in of.__dataclass_fields__.items() if entry.type == torch.Tensor | None}
        groups = {n for n in ("adapters", "precision", "sketches") if n in of.__dataclass_fields__}
        assert set(specified) == arrays
        assert {
            name for kind in KINDS[of].values() for name in (*kind.must, *kind.may, *kind.groups)
        } == arrays | groups


def test_rows_are_sent_where_a_rule_needs_them_and_nowhere_else():
    message, expected = sample("update")
    uncounted = replace(expected, counted=False)
    with pytest.raises(MessageError, match="sent samples = '9', of 0 to 0"):
        read(message, uncounted)
    assert judge(message.to_bytes(), "Up", uncounted) == "texts ['samples']"
    silent = replace(message, samples=0)
    assert read(silent, uncounted).samples == 0
    assert judge(silent.to_bytes(), "Up", uncounted) is None
    with pytest.raises(MessageError, match="trained on 0 rows"):
        read(silent, expected)


@pytest.mark.parametrize("case", list(WRONG))
def test_what_is_not_as_expected_is_refused_by_both(case):
    kind, field, change, said = WRONG[case]
    message, expected = spoilt(kind, field, change)
    sender = "node 'a' " if isinstance(message, Up) else "the server, to node 'a', "
    with pytest.raises(MessageError, match=said) as caught:
        read(message, expected)
    assert str(caught.value).startswith(sender) and ": " in str(caught.value), "names the sender, and a remedy"
    assert judge(message.to_bytes(), type(message).__name__, expected)


@pytest.mark.parametrize("case", list(VALUES))
def test_it_is_the_check_of_the_field_that_refuses(case, monkeypatch):
    kind, field, change, _ = WRONG[case]
    message, expected = spoilt(kind, field, change)
    of = type(message)
    if field in FIELDS[of]:
        monkeypatch.setitem(FIELDS, of, FIELDS[of] | {field: replace(FIELDS[of][field], check=_none)})
    else:
        kinds = KINDS[of] | {kind: replace(KINDS[of][kind], groups=dict.fromkeys(KINDS[of][kind].groups, _none))}
        monkeypatch.setitem(KINDS, of, kinds)
    read(message, expected)


def _none(value, bounds):
    return None


@pytest.mark.parametrize("group", ["adapters", "precision"])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (4, 1), (1, 2), (2,), (), (4, 2, 1)])
def test_adapters_that_would_broadcast_are_refused(group, shape):
    message, expected = sample("update", **{group: {"x.lora_B": torch.ones(shape)}})
    with pytest.raises(MessageError, match=r"as \(.*\), it is \(4, 2\): give all nodes the same trunk and rank"):
        read(message, expected)


@pytest.mark.parametrize(
    ("value", "said"), [(-1e-30, "negative"), (-0.0, None), (0.0, None), (3e38, None), (INF, "infinity"), (NAN, "NaN")]
)
def test_a_precision_is_finite_and_not_negative(value, said):
    message, expected = sample("update", precision={"x.lora_B": torch.full((4, 2), value)})
    if said is None:
        read(message, expected)
        return
    with pytest.raises(MessageError, match=f"{said}.* in the precision 'x.lora_B'"):
        read(message, expected)


def test_large_numbers_whose_sum_overflows_are_not_infinite():
    message, expected = sample("update", adapters={"x.lora_B": torch.full((4, 2), 3e38)})
    read(message, expected)


@pytest.mark.parametrize("k", [0, 1])
def test_a_gram_of_no_anchors_or_of_one_is_refused(k):
    message, expected = sample("gram", index=torch.arange(k).int(), gram=torch.zeros(k), quality=torch.ones(k))
    with pytest.raises(MessageError, match=f"sent {k} anchors in the gram"):
        read(message, expected)


def test_a_kind_has_its_rounds():
    message, expected = sample("weights", round=1)
    with pytest.raises(MessageError, match="'weights' in round 1, where nobody sends it"):
        read(message, replace(expected, round=1))


@pytest.mark.parametrize("rho", [1e-4, 0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize(("k", "width"), [(4, 1), (4, 40), (30, 3), (60, 200)])
def test_every_shrunk_gram_is_sound_after_the_wire(k, width, rho):
    features = draw(k, width) * torch.logspace(0, 2, width, dtype=torch.float64)
    packed = pack(shrink(gram(features), rho)).float()
    assert soundness.shrunk_gram(packed, Bounds(rho, 2.0, k, k)) is None


def test_equal_directions_and_one_direction_are_the_bounds_of_the_trace():
    k, rho = 8, 0.1
    for features in (torch.eye(k, dtype=torch.float64), draw(k, 1)):
        m = shrink(gram(features), rho)
        ends = (k / (k + rho), (k - 1) / (1 + rho * (k - 1) / k))
        assert min(abs(float(m.trace()) - end) for end in ends) < 1e-9


# One door, and nothing that runs what it reads.


def sources():
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "src").rglob("*.py")}


def test_no_message_reaches_a_receiver_but_through_what_it_expects():
    calls = {path: re.findall(r"\.carry\(.*", text) for path, text in sources().items()}
    assert calls.pop("src/isogram/hostile.py") == [".carry(message, read)"], "a ledger that passes on what it is given"
    assert {path: len(found) for path, found in calls.items() if found} == {"src/isogram/federation/state.py": 2}
    assert all(".read)" in call or "_expected(" in call for found in calls.values() for call in found)
    parsed = {path for path, text in sources().items() if re.search(r"(?<!int)\.from_bytes\(", text)}
    assert parsed == {"src/isogram/messages.py", "src/isogram/validation.py"}


UNSAFE = re.compile(
    r"\bpickle\b|\bmarshal\b|\bshelve\b|\bdill\b|\bjoblib\b|yaml\.(unsafe_)?load|allow_pickle\s*=\s*True"
    r"|(?<![\w.])(eval|exec)\(|(?<!safetensors\.)torch\.load\((?![^)]*weights_only=True)"
)


def test_nothing_is_unpickled_or_run():
    assert UNSAFE.search("torch.load(path)") and not UNSAFE.search("torch.load(path, weights_only=True)")
    assert UNSAFE.search("x = eval(text)") and not UNSAFE.search("model.eval()")
    assert UNSAFE.search("np.load(f, allow_pickle=True)")
    found = {path: UNSAFE.findall(text) for path, text in sources().items() if UNSAFE.search(text)}
    assert not found


@pytest.mark.parametrize("spoil", [lambda v: v + 1, lambda v: -v, lambda v: v ^ 3])
def test_counts_that_do_not_add_up_are_refused_though_no_single_one_shows_it(spoil):
    parties = [SumParty() for _ in range(3)]
    keys = torch.stack([party.key for party in parties])
    masked = [party.masked(torch.tensor([7.0, 9.0, 5.0]), keys, 2, "counts") for party in parties]
    ups = [replace(sample("counts")[0], node=name, counts=v) for name, v in zip("abc", masked, strict=True)]
    assert merge_counts(ups).tolist() == [21, 27, 15]
    read(replace(ups[0], counts=spoil(masked[0])), sample("counts")[1])
    with pytest.raises(MessageError, match="counts of nodes 'a', 'b', 'c' do not add up"):
        merge_counts([replace(ups[0], counts=spoil(masked[0])), *ups[1:]])
