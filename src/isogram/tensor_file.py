"""Tensors and a JSON header in one safetensors file, written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from isogram.errors import DataError
from isogram.files import write_atomic

_HEADER = "isogram"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write the file; the same contents give the same bytes, in any precision that the tensors have.

    Raises:
        StorageError: it cannot be written.
    """
    # One metadata entry, for the order of several is not fixed. Copies, because safetensors refuses shared memory.
    metadata = {_HEADER: json.dumps(header, sort_keys=True)}
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_atomic(path, safetensors.torch.save(copies, metadata=metadata))


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
