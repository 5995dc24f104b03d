"""Shamir's secret sharing (1979, "How to share a secret"): any `threshold` shares give the secret, fewer say nothing.

What is shared is the value at 0 of a random polynomial of degree threshold - 1 over the integers modulo `PRIME`; a
share is its value at the place of who holds it, 1, 2, ... With a secret its SHA-256 is shared, so that a share that was
changed shows when they are put together.
"""

import hashlib
import math
import secrets
from collections.abc import Callable, Mapping, Sequence

PRIME = 2**521 - 1
"""The 13th Mersenne prime (Robinson 1952), the field of NIST's curve P-521: room for 32 bytes and their SHA-256."""

SHARE = 66
"""Bytes of a share, big-endian."""

SECRET = 32
"""Bytes of a secret."""


def split(
    secret: bytes, shares: int, threshold: int, draw: Callable[[int], bytes] = secrets.token_bytes
) -> list[bytes]:
    """A share for each of the places 1 to `shares`.

    Args:
        secret: 32 bytes.
        shares: how many.
        threshold: how many give the secret, 1 to `shares`.
        draw: random bytes, so many; the operating system's if not given.

    Raises:
        ValueError: a secret of another length, or no such threshold.
    """
    if len(secret) != SECRET or not 1 <= threshold <= shares:
        raise ValueError(f"a secret of {len(secret)} bytes in {shares} shares, of which {threshold} give it")
    # 521 random bits; the one value that is not below the prime stands for 0, once in 2^521 times.
    higher = [(int.from_bytes(draw(SHARE), "big") >> 7) % PRIME for _ in range(threshold - 1)]
    coefficients = [int.from_bytes(secret + hashlib.sha256(secret).digest(), "big"), *higher]
    found = []
    for place in range(1, shares + 1):
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * place + coefficient) % PRIME
        found.append(value.to_bytes(SHARE, "big"))
    return found


def is_share(found: bytes) -> bool:
    """Whether bytes are a number of the field, as long as a share is."""
    return len(found) == SHARE and int.from_bytes(found, "big") < PRIME


def weights(places: Sequence[int]) -> dict[int, int]:
    """What each place's share counts in the value at 0 (Lagrange): the same for all secrets shared by these places."""
    found = {}
    for x in places:
        rest = [y for y in places if y != x]
        found[x] = math.prod(rest) * pow(math.prod(y - x for y in rest), -1, PRIME) % PRIME
    return found


def combine(shares: Mapping[int, bytes], counts: Mapping[int, int] | None = None) -> bytes | None:
    """The secret that shares give; None if they are too few, or not all shares of it as `split` made them.

    Args:
        shares: by place.
        counts: of `weights`, of these places.
    """
    counts = counts or weights(list(shares))
    value = sum(counts[x] * int.from_bytes(share, "big") for x, share in shares.items()) % PRIME
    whole = value.to_bytes(SHARE, "big")[-2 * SECRET :]
    secret, digest = whole[:SECRET], whole[SECRET:]
    return secret if value >> 16 * SECRET == 0 and hashlib.sha256(secret).digest() == digest else None
