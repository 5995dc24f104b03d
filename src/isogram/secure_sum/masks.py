"""What the parties of a sum derive from their keys: channels between two of them, masks, and the streams they are."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from isogram.errors import MessageError

KEY = 32
"""Bytes of a key, public or secret, and of a seed."""

KEYS = 2 * KEY
"""Bytes of what a party advertises: the public key of its channels, and that of its masks."""

_PIECE = 1 << 14  # numbers at a time, so that a mask never leaves the cache


def default_threshold(parties: int) -> int:
    """Two thirds of the parties, rounded up: so many have to stay until the end; more than half in any case."""
    return -(-2 * parties // 3)


@dataclass(frozen=True)
class Roster:
    """What all parties of a sum have alike, from phase 1 on; what is derived from other ones fits nothing here.

    Args:
        label: what the sum is, different for each: run, round, purpose.
        keys: of each party what it advertised, by its name.
        threshold: how many have to stay until the end.

    Raises:
        MessageError: fewer than two parties, a threshold beyond them or of no more than half, or a key that is none.
    """

    label: str
    keys: Mapping[str, bytes]
    threshold: int

    def __post_init__(self) -> None:
        n = len(self.keys)
        if n < 2:
            raise MessageError(f"a secure sum over {n} nodes hides nothing: it needs two or more")
        if not n < 2 * self.threshold <= 2 * n:
            raise MessageError(
                f"a secure sum over {n} nodes of which {self.threshold} have to stay: take more than half, and not "
                f"more than there are; {default_threshold(n)} is usual"
            )
        for name, found in self.keys.items():
            if len(found) != KEYS:
                raise MessageError(f"node {name!r} sent keys of {len(found)} bytes, and they have {KEYS}: leave it out")

    @cached_property
    def names(self) -> list[str]:
        """Of all parties, in order."""
        return sorted(self.keys)

    def place(self, name: str) -> int:
        """Of a party's shares."""
        return self.names.index(name) + 1

    @cached_property
    def _context(self) -> str:
        found = [self.label, self.threshold, [[name, self.keys[name].hex()] for name in self.names]]
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()

    def derive(self, secret: bytes, *purpose: str) -> bytes:
        """A key for one purpose in this sum alone."""
        info = json.dumps(["isogram secure sum", self._context, *purpose]).encode()
        return HKDF(hashes.SHA256(), KEY, None, info).derive(secret)

    def channel(self, secret: X25519PrivateKey, own: str, sender: str, receiver: str) -> ChaCha20Poly1305:
        """What seals the shares from one party to another; each direction has a key of its own, used once."""
        other = receiver if own == sender else sender
        return ChaCha20Poly1305(
            self.derive(_agreed(secret, self.keys[other][:KEY], other), "channel", sender, receiver)
        )

    def pair_mask(self, secret: X25519PrivateKey, own: str, other: str) -> bytes:
        """The key of the mask that two parties have in common, by the secret of one."""
        return self.derive(_agreed(secret, self.keys[other][KEY:], other), "pair", *sorted((own, other)))

    def own_mask(self, seed: bytes, name: str) -> bytes:
        """The key of a party's own mask."""
        return self.derive(seed, "own", name)

    def enough(self, there: int, done: str) -> None:
        """Look whether so many parties that have done something are enough to go on.

        Raises:
            MessageError: they are not.
        """
        if there < self.threshold:
            raise MessageError(
                f"{there} of {len(self.keys)} nodes {done} for the secure sum {self.label!r}, and {self.threshold} are "
                "needed: bring back those that are lost, and begin the sum again"
            )


def add_mask(total: np.ndarray, key: bytes, sign: int) -> None:
    """Add the stream of ChaCha20 under a key, 8 bytes a number, or take it off."""
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    zeros, buffer = bytes(8 * _PIECE), bytearray(8 * _PIECE)
    for start in range(0, len(total), _PIECE):
        part = total[start : start + _PIECE]
        size = 8 * len(part)
        stream.update_into(memoryview(zeros)[:size], memoryview(buffer)[:size])
        mask = np.frombuffer(buffer, dtype="<u8", count=len(part))
        (np.add if sign > 0 else np.subtract)(part, mask, out=part)


def _agreed(secret: X25519PrivateKey, public: bytes, name: str) -> bytes:
    try:
        return secret.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise MessageError(f"node {name!r} sent a key of small order, which hides nothing: leave it out") from error
