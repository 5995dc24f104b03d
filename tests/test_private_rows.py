"""A private row is found wherever it stands, and nothing else is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogram import private_rows
from isogram.private_rows import PrivateRows, same_points


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


ROWS = draw(9, 6)


@given(row=st.integers(0, 8), before=st.integers(0, 40), after=st.integers(0, 40), piece=st.integers(1, 50))
def test_a_row_is_found_at_any_place_and_nothing_in_noise(row, before, after, piece):
    rows = PrivateRows(ROWS, draw(3, 6, seed=1))
    noise = draw(before + after + 6, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private_rows, "_PIECE", piece)
        assert not rows.are_in(noise)
        noise[before : before + 6] = ROWS[row]
        assert rows.are_in(noise) and rows.are_in(noise.double()) and rows.are_in(noise.reshape(1, -1, 1))
        noise[before + 5] += 1e-4
        assert not rows.are_in(noise)


def test_a_row_is_found_over_the_bounds_of_lines():
    wide = torch.zeros(5, 8)
    wide.view(-1)[5:11] = ROWS[3]
    assert PrivateRows(ROWS, draw(3, 6, seed=1)).are_in(wide)


def test_rows_that_are_public_or_say_nothing_are_not_looked_for():
    flat = torch.full((1, 6), 0.5)
    rows = PrivateRows(torch.cat([ROWS, flat]), ROWS[:8])
    assert rows.secret.tolist() == [False] * 8 + [True, True]
    assert not rows.are_in(ROWS[:8]) and not rows.are_in(torch.full((40,), 0.5))
    assert rows.are_in(ROWS[8:])


def test_of_few_features_nothing_can_be_told():
    assert not PrivateRows(ROWS[:, :3], draw(3, 3, seed=1)).are_in(ROWS[:, :3])


def test_nothing_is_found_in_what_is_shorter_than_a_row_or_where_there_are_none():
    assert not PrivateRows(ROWS, ROWS[:1]).are_in(ROWS[1, :5])
    assert not PrivateRows(ROWS[:0], ROWS).are_in(ROWS)
    assert not PrivateRows(ROWS, ROWS[:1]).are_in(torch.zeros(0, 6))


@pytest.mark.filterwarnings("error")
def test_hashes_agree_with_a_loop():
    bits = np.random.default_rng(0).integers(0, 1 << 32, 20, dtype=np.uint32)
    base = int(private_rows._BASE)
    expected = [sum(int(b) * base**j for j, b in enumerate(bits[i : i + 7])) % (1 << 64) for i in range(14)]
    assert private_rows._hashes(bits, 7).tolist() == expected


NOBODY = torch.zeros(0, 4)


def test_points_are_the_same_but_for_the_last_digits():
    sent, own = draw(5, 4).double(), draw(7, 4, seed=1).double()
    assert not same_points(sent, own, NOBODY)
    sent[2] = own[6] * (1 + 1e-7)
    assert same_points(sent.float(), own, NOBODY)
    assert not same_points(torch.zeros(2, 4), torch.zeros(1, 4), NOBODY), "a row at 0 is nobody"


def test_a_point_where_a_public_item_is_shows_no_row():
    """As of a text that is an anchor's, too, and came through the encoder with others beside it."""
    public, own = draw(5, 4).double(), draw(7, 4, seed=1).double()
    own[6] = public[2] * (1 + 1e-7)
    assert same_points(public.float(), own, NOBODY) and not same_points(public.float(), own, public)
    assert same_points(torch.cat([public, own[:1]]), own, public), "another row still is one"
