"""Noise that nobody can predict who has not the run's secret, and that a run which goes on draws again to the bit.

A seed that the server knows would let it take the noise away, and Mersenne twisters give away their state. So every
draw is a stream of ChaCha20 under a key of its own, derived from a secret of 32 bytes and from what the draw is for.
The secret comes from the operating system, anew for each run; it stands in the run's folder (`run_folder`) until the
run is complete, and no message carries it. Drawing the same noise twice is safe for the same sum only: a secret serves
one run of one configuration. What floating point does to the tails of a Gaussian (Mironov 2012) is not accounted for.
"""

import hashlib
import json
import secrets

import numpy as np
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from scipy.special import ndtri
from torch import Tensor

from isogram.config import PrivacyConfig

SECRET_BYTES = 32


def secret_of(privacy: PrivacyConfig) -> bytes:
    """A fresh secret from the operating system, or where `noise_seed` is given the one that follows from it."""
    if privacy.noise_seed is None:
        return secrets.token_bytes(SECRET_BYTES)
    return hashlib.sha256(f"isogram noise {privacy.noise_seed}".encode()).digest()


class Noise:
    """One node's source of noise. purpose: what a draw is for, different for each draw of a run."""

    def __init__(self, secret: bytes, node: str) -> None:
        self._secret, self._node = secret, node

    def gaussian(self, shape: tuple[int, ...], deviation: float, *purpose: object) -> Tensor:
        """Float64 of this shape and standard deviation."""
        drawn = ndtri(self._uniform(int(np.prod(shape)), *purpose))
        return torch.from_numpy(deviation * drawn).reshape(shape)

    def sample(self, n: int, rate: float, *purpose: object) -> Tensor:
        """Positions below n, each there with probability `rate`, whatever the others (Poisson sampling)."""
        return torch.from_numpy(np.flatnonzero(self._uniform(n, *purpose) < rate))

    def _uniform(self, n: int, *purpose: object) -> np.ndarray:
        """[n] in (0, 1), of 52 bits: with 53 the last one is rounded to 1, of which a Gaussian is infinite."""
        label = json.dumps(["isogram noise", self._node, *map(str, purpose)]).encode()
        key = HKDF(hashes.SHA256(), 32, None, label).derive(self._secret)
        stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * n))
        return ((np.frombuffer(stream, dtype="<u8") >> np.uint64(12)) + 0.5) * 2.0**-52
