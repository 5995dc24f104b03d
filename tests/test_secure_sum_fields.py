import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogram.errors import MessageError
from isogram.secure_sum import pack, scale_for, unpack
from isogram.secure_sum.fields import limit, narrow, signed, widen

PARTIES = st.integers(2, 1000)
LARGEST = st.floats(1e-30, 1e30)


@given(largest=LARGEST, parties=PARTIES)
def test_the_scale_is_the_finest_power_of_two_at_which_no_sum_can_overflow(largest, parties):
    scale = scale_for(largest, parties)
    assert math.frexp(scale)[0] == 0.5
    most = int(pack({"x": torch.tensor([largest], dtype=torch.float64)}, {"x": scale}, parties)[0])
    assert parties * most < 2**55
    assert 2 * Fraction(scale) * Fraction(largest) > limit(parties)


@given(log=st.floats(-7.5, 0), seed=st.integers(0, 2**32), largest=st.sampled_from([1e-12, 1.0, 3e7]))
def test_a_mean_over_1000_nodes_is_right_to_a_millionth(log, seed, largest):
    """Down to 3e-8 of the largest value; the nodes' values all around the mean."""
    generator = torch.Generator().manual_seed(seed)
    values = largest * 10**log * (0.5 + 0.5 * torch.rand(1000, 20, dtype=torch.float64, generator=generator))
    scales = {"x": scale_for(largest, 1000)}
    total = sum(pack({"x": row}, scales, 1000) for row in values)
    found = unpack(total, {"x": (20,)}, scales)["x"] / 1000
    exact = torch.tensor([float(sum(map(Fraction, column.tolist())) / 1000) for column in values.T])
    torch.testing.assert_close(found, exact.double(), rtol=1e-6, atol=0)


@given(st.lists(st.integers(-(2**55), 2**55 - 1), max_size=20))
def test_bytes_and_back(numbers):
    wide = torch.tensor(numbers, dtype=torch.int64).numpy().view(np.uint64)
    narrowed = narrow(wide)
    assert narrowed.shape == (len(numbers), 7) and narrowed.dtype == torch.uint8
    assert narrowed.numpy().tobytes() == b"".join((n % 2**56).to_bytes(7, "little") for n in numbers)
    assert signed(widen(narrowed)).tolist() == numbers


def test_fields_go_by_their_names_and_come_back_in_their_shapes():
    fields = {"b": torch.tensor([[1.5, -2.0]]), "a": torch.tensor(3.0), "none": torch.zeros(0, 4)}
    scales = {"a": 4.0, "b": 2.0, "none": 1.0}
    vector = pack(fields, scales, 3)
    assert vector.tolist() == [12, 3, -4]
    found = unpack(2 * vector, {name: tuple(value.shape) for name, value in fields.items()}, scales)
    for name, value in fields.items():
        torch.testing.assert_close(found[name], 2 * value.double(), rtol=0, atol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.1, -1.1])
def test_a_value_that_could_spoil_the_sum_is_refused_by_name(value):
    scales = {"good": scale_for(1.0, 5), "bad": limit(5) / 1.0}
    fields = {"good": torch.ones(3), "bad": torch.tensor([0.5, value])}
    with pytest.raises(MessageError, match=r"'bad' holds NaN or a value beyond 1, .* each of 5 nodes"):
        pack(fields, scales, 5)


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(MessageError, match=r"\['a'\] .* scales of \['b'\]"):
        pack({"a": torch.ones(1)}, {"b": 1.0}, 2)
    with pytest.raises(MessageError, match=r"shape \(3,\), and its fields have 4"):
        unpack(torch.zeros(3, dtype=torch.int64), {"a": (2, 2)}, {"a": 1.0})
    for largest in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(MessageError, match="a finite number above 0"):
            scale_for(largest, 2)
