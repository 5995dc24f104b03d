"""Tensors and a JSON header in one safetensors file, written whole or not at all; and what tells weights apart."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from isogram.errors import DataError
from isogram.files import write_atomic

_HEADER = "isogram"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write the file.

    Raises:
        StorageError: it cannot be written.
    """
    write_atomic(path, tensor_bytes(tensors, header))


def tensor_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """The file's bytes: the same for the same contents, in any precision that the tensors have."""
    # One metadata entry, for the order of several is not fixed. Copies, because safetensors refuses shared memory.
    metadata = {_HEADER: json.dumps(header, sort_keys=True)}
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return safetensors.torch.save(copies, metadata=metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that `write_tensors` wrote.

    Raises:
        DataError: no such file, or it is damaged or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            # Copies, because where a mapped file lies in memory may change the last bits of what is computed from it.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, header  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"cannot read {path}: {error or type(error).__name__}; it is damaged, or of another kind"
        ) from error


def fingerprint(weights: Mapping[str, Tensor], *, whole: bool = False) -> str:
    """Tells two sets of weights apart: eight hex digits over names, shapes and a sample of each.

    Args:
        weights: by name.
        whole: every value counts, in its own precision, and all 64 digits are given.
    """
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(f"{name}{tuple(value.shape)}".encode())
        if whole:
            values = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(f"{value.dtype}".encode() + values.numpy().tobytes())
        else:
            flat = value.detach().flatten()
            sample = flat[:: max(1, len(flat) // 64)][:64].bfloat16().float().cpu()  # the same in either dtype
            digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[: 64 if whole else 8]
