"""A sum over nodes of which the server sees only the total: class sums of private rows, too small to be sent bare.

Pairwise masks (Bonawitz et al. 2017, section 4) without dropout recovery: every two nodes agree on a mask by X25519,
one adds it and the other subtracts it. Values are fixed-point integers modulo 2^64, so masks cancel exactly and the
total does not depend on the keys. Server and nodes are trusted to follow the protocol ("honest but curious"): a server
that hands out keys of its own making could unmask a node, and a sum over one party hides nothing.
"""

import numpy as np
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

from isogram.errors import MessageError

MIN_EVIDENCE = 5
"""Samples of a class, over all nodes in the sum, below which its sum would speak of single rows."""

_SCALE = 2.0**24
_LIMIT = 2.0**38


class SumParty:
    """One node's side of one secure sum; a fresh key each time."""

    def __init__(self) -> None:
        self._secret = X25519PrivateKey.generate()
        self.key = torch.frombuffer(bytearray(self._secret.public_key().public_bytes_raw()), dtype=torch.uint8)

    def masked(self, values: Tensor, keys: Tensor, round: int, purpose: str = "sum") -> Tensor:
        """Fixed-point `values` under this node's masks, int64 of the same shape.

        Args:
            values: float, |v| < 2^38.
            keys: [m, 32] uint8 public keys of all parties in one order for all, this one's among them.
            round, purpose: masks of different rounds and purposes differ.

        Raises:
            MessageError: a value that fixed point cannot hold, or this node's own key is not among the keys.
        """
        if not (values.abs() < _LIMIT).all():
            raise MessageError(
                "a value for the secure sum is NaN or too large; it would spoil the sum of all nodes unseen"
            )
        own = self.key.numpy().tobytes()
        parties = [row.numpy().tobytes() for row in keys]
        if own not in parties:
            raise MessageError("the server's list of keys for the secure sum lacks this node's own key")
        mine = parties.index(own)
        total = fixed_point(values).numpy().view(np.uint64).copy()
        for position, key in enumerate(parties):
            if position != mine:
                mask = self._mask(key, f"{purpose} {round}", total.size).reshape(total.shape)
                total = total + mask if mine < position else total - mask
        return torch.from_numpy(total.view(np.int64))

    def _mask(self, key: bytes, label: str, size: int) -> np.ndarray:
        shared = self._secret.exchange(X25519PublicKey.from_public_bytes(key))
        derived = HKDF(hashes.SHA256(), 32, None, f"isogram {label}".encode()).derive(shared)
        stream = Cipher(algorithms.ChaCha20(derived, bytes(16)), mode=None).encryptor().update(bytes(8 * size))
        return np.frombuffer(stream, dtype="<u8")


def fixed_point(values: Tensor) -> Tensor:
    """Values as they are summed, int64."""
    return (values.double() * _SCALE).round().to(torch.int64)


def total(masked: list[Tensor]) -> Tensor:
    """Sum over all parties as float64; noise if one of them is missing."""
    summed = torch.stack(masked).numpy().view(np.uint64).sum(0, dtype=np.uint64)
    return torch.from_numpy(summed.view(np.int64) / _SCALE)
