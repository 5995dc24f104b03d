import hashlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogram.secure_sum import shamir

SECRETS = st.binary(min_size=32, max_size=32)
SIZES = st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


def by_place(shares):
    return dict(enumerate(shares, start=1))


def test_the_prime_is_one():
    # Lucas and Lehmer: 2^p - 1 is prime if and only if s_(p-2) = 0, s_0 = 4, s_(n+1) = s_n^2 - 2.
    s = 4
    for _ in range(521 - 2):
        s = (s * s - 2) % shamir.PRIME
    assert s == 0 and shamir.PRIME.bit_length() == 521 <= 8 * shamir.SHARE


@given(secret=SECRETS, size=SIZES, data=st.data())
def test_any_threshold_shares_or_more_give_the_secret_in_any_order(secret, size, data):
    n, threshold = size
    shares = by_place(shamir.split(secret, n, threshold))
    chosen = data.draw(st.permutations(range(1, n + 1)))[: data.draw(st.integers(threshold, n))]
    assert shamir.combine({place: shares[place] for place in chosen}) == secret


@given(secret=SECRETS, size=SIZES, data=st.data())
def test_fewer_shares_give_nothing(secret, size, data):
    n, threshold = size
    shares = by_place(shamir.split(secret, n, threshold))
    chosen = data.draw(st.permutations(range(1, n + 1)))[: threshold - 1]
    assert not chosen or shamir.combine({place: shares[place] for place in chosen}) is None


@given(secret=SECRETS, size=SIZES, data=st.data())
def test_fewer_shares_fit_any_secret(secret, size, data):
    """With threshold - 1 shares in hand, some polynomial of that degree leads to every other secret."""
    n, threshold = size
    shares = by_place(shamir.split(secret, n, threshold))
    chosen = data.draw(st.permutations(range(1, n + 1)))[: threshold - 1]
    other = hashlib.sha256(secret).digest()
    whole = int.from_bytes(other + hashlib.sha256(other).digest(), "big")
    points = {0: whole} | {place: int.from_bytes(shares[place], "big") for place in chosen}
    further = [place for place in range(1, n + 1) if place not in chosen][: threshold - len(chosen)]
    made = {place: naive(points, place).to_bytes(shamir.SHARE, "big") for place in further}
    assert shamir.combine({place: shares[place] for place in chosen} | made) == other


def naive(points, at):
    """The polynomial through points, at a place: Lagrange's formula in rational numbers, then in the field."""
    total = 0
    for x, y in points.items():
        factor = Fraction(1)
        for z in points:
            if z != x:
                factor *= Fraction(at - z, x - z)
        total += y * factor.numerator * pow(factor.denominator, -1, shamir.PRIME)
    return total % shamir.PRIME


@given(secret=SECRETS, size=SIZES, data=st.data())
def test_a_spoilt_share_shows_even_where_there_are_no_more_than_needed(secret, size, data):
    n, threshold = size
    shares = by_place(shamir.split(secret, n, threshold))
    chosen = data.draw(st.permutations(range(1, n + 1)))[: data.draw(st.integers(threshold, n))]
    spoilt = data.draw(st.sampled_from(chosen))
    changed = int.from_bytes(shares[spoilt], "big") ^ (1 << data.draw(st.integers(0, 520)))
    found = {place: shares[place] for place in chosen} | {spoilt: changed.to_bytes(shamir.SHARE, "big")}
    assert shamir.combine(found) is None


def test_shares_of_one_secret_differ_each_time():
    assert not set(shamir.split(bytes(32), 5, 3)) & set(shamir.split(bytes(32), 5, 3))


@pytest.mark.parametrize(("size", "shares", "threshold"), [(31, 3, 2), (33, 3, 2), (32, 3, 0), (32, 3, 4)])
def test_what_cannot_be_split_is_refused(size, shares, threshold):
    with pytest.raises(ValueError, match="shares, of which"):
        shamir.split(bytes(size), shares, threshold)


def test_what_is_no_share_is_seen():
    largest = (shamir.PRIME - 1).to_bytes(shamir.SHARE, "big")
    assert shamir.is_share(largest) and shamir.is_share(bytes(shamir.SHARE))
    assert not any(map(shamir.is_share, [b"", largest[1:], largest + b"\0", shamir.PRIME.to_bytes(66, "big")]))
