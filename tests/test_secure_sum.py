import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogram.errors import MessageError
from isogram.secure_sum import SumParty, total

SEEDS = st.integers(0, 2**32)


def run(values, order=None, round=3):
    """The masked values of one secure sum with fresh keys, listed in `order`."""
    parties = [SumParty() for _ in values]
    keys = torch.stack([parties[n].key for n in order or range(len(parties))])
    return [party.masked(value, keys, round) for party, value in zip(parties, values, strict=True)]


def inputs(n_parties, shape, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(n_parties)]


def bits(masked):
    """[n, 64] of the unsigned values."""
    return np.unpackbits(masked.numpy().view(np.uint8).reshape(-1, 8), axis=1)


@given(
    order=st.integers(1, 5).flatmap(lambda n: st.permutations(range(n))),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    log_scale=st.integers(-3, 6),
    seed=SEEDS,
)
def test_the_total_is_the_plain_sum_up_to_fixed_point(order, shape, log_scale, seed):
    values = inputs(len(order), shape, 10.0**log_scale, seed)
    found = total(run(values, order))
    torch.testing.assert_close(found, torch.stack(values).sum(0), rtol=0, atol=len(order) * 2.0**-25 + 1e-8)


def test_the_total_does_not_depend_on_the_keys():
    # Float masks would cancel only up to roundoff, and one run would differ from the next.
    values = inputs(4, (5, 6), 1.0, seed=0)
    first = total(run(values))
    for order in itertools.permutations(range(4)):
        torch.testing.assert_close(total(run(values, list(order))), first, rtol=0, atol=0)


@pytest.mark.parametrize("value", [0.0, 1.0, -(2.0**37)])
def test_one_masked_value_is_uniform_whatever_it_hides(value):
    # Every bit of 20,000 equal inputs is a fair coin to within six standard deviations, and so is its exclusive or with
    # the bit before it. An unmasked or half-masked value has constant bits.
    values = [torch.full((20_000,), value, dtype=torch.float64) for _ in range(2)]
    for masked in run(values):
        fair = bits(masked)
        slack = 6 * 0.5 / 20_000**0.5
        np.testing.assert_allclose(fair.mean(0), 0.5, atol=slack)
        np.testing.assert_allclose((fair[1:] ^ fair[:-1]).mean(0), 0.5, atol=slack)


def test_fresh_keys_and_other_rounds_give_other_masks_and_the_same_ones_the_same():
    value = torch.zeros(50, dtype=torch.float64)
    alice, bob, carol = SumParty(), SumParty(), SumParty()
    keys = torch.stack([alice.key, bob.key])
    masked = alice.masked(value, keys, round=1)
    torch.testing.assert_close(alice.masked(value, keys, round=1), masked, rtol=0, atol=0)
    for other in (
        alice.masked(value, keys, round=2),
        alice.masked(value, torch.stack([alice.key, carol.key]), round=1),
        bob.masked(value, keys, round=1),
        alice.masked(value, keys, round=1, purpose="counts"),
    ):
        assert not (other == masked).any()


def test_without_one_party_the_sum_of_the_rest_stays_hidden():
    values = inputs(3, (1000,), 1.0, seed=0)
    masked = run(values)
    for left_out in range(3):
        rest = total([m for n, m in enumerate(masked) if n != left_out])
        truth = sum(v for n, v in enumerate(values) if n != left_out)
        assert rest.abs().median() > 2**30  # of a range of 2^39
        assert abs(np.corrcoef(rest, truth)[0, 1]) < 6 / 1000**0.5


def test_a_party_in_another_round_spoils_the_sum_visibly():
    value = torch.ones(1000, dtype=torch.float64)
    alice, bob = SumParty(), SumParty()
    keys = torch.stack([alice.key, bob.key])
    assert (total([alice.masked(value, keys, 1), bob.masked(value, keys, 1)]) == 2).all()
    assert total([alice.masked(value, keys, 1), bob.masked(value, keys, 2)]).abs().median() > 2**30


def test_a_list_of_keys_without_the_own_one_is_refused():
    alice, bob, carol = SumParty(), SumParty(), SumParty()
    with pytest.raises(MessageError, match="own key"):
        alice.masked(torch.zeros(2), torch.stack([bob.key, carol.key]), round=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 2.0**38, -(2.0**38)])
def test_a_value_that_fixed_point_cannot_hold_is_refused(value):
    party = SumParty()
    with pytest.raises(MessageError, match="NaN or too large"):
        party.masked(torch.tensor([1.0, value], dtype=torch.float64), party.key[None], round=1)


def test_the_input_is_left_as_it_was():
    values = inputs(2, (4,), 1.0, seed=0)
    before = [value.clone() for value in values]
    run(values)
    torch.testing.assert_close(values, before, rtol=0, atol=0)
