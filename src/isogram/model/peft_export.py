"""A model to hand on: its file, its card, and adapters in PEFT's format, for `PeftModel.from_pretrained`.

PEFT's format holds adapters of a transformer and nothing else. Isogram's projectors, frame and map to coordinates are
in `SavedModel`'s file: what is the same on both sides are the transformer's hidden states.
Shape letters: o outputs, i inputs, r rank, R rank merged by refreshes.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from isogram.config import BUILT_IN_TRUNKS, handed_on
from isogram.errors import ConfigError, StorageError
from isogram.files import make_folder, write_atomic, writing
from isogram.model.adapters import MAGNITUDE, WEIGHT, A, B, adapted
from isogram.model.card import CARD, card, python
from isogram.model.node_model import SharedModel
from isogram.model.peft_import import PREFIX, TENSORS, transformer_of
from isogram.model.saved import MODEL_FILE, SavedModel
from isogram.model.trunk import base_model

BASE, TRANSFORMER = "base", "transformer"
"""Folders in an export: a built-in trunk's transformer, which has no name on the hub; one that trained as a whole."""

_TAKEN = (BASE, TRANSFORMER, CARD.casefold(), MODEL_FILE)


@dataclass(frozen=True)
class Export:
    """What was written: folder of adapters by node, or one under "" where nodes share everything, {} without a trunk.

    python: lines that load the model; peft: lines that load the first adapter, "" without.
    """

    folder: Path
    folders: dict[str, Path]
    python: str
    peft: str


def export_model(model: SavedModel, folder: Path, node: str | None = None) -> Export:
    """Write a model's file, its card, and if it has a trunk that was trained its adapters.

    Adapters are beside the file, or where not all nodes share them in one folder per node inside: its name, odd
    characters as %XX. For a built-in trunk `folder/base` holds the transformer.

    Args:
        model: with "full" the whole transformer is written to `transformer`, for there is no adapter.
        folder: new or empty.
        node: whose part of the model alone is written, its adapter beside the file.

    Raises:
        DataError: no such node.
        ConfigError: the folder is not empty.
        StorageError: it cannot be written; nothing is left behind.
    """
    model = model if node is None else model.only(node)
    with appears_whole(folder) as temporary:
        write_atomic(temporary / CARD, card(model).encode())
        model.handed_on().save(temporary / MODEL_FILE)
        folders: dict[str, Path] = {}
        peft = ""
        if model.adapters is not None and model.config.trunk != "none":
            folders, peft = _export_adapters(model, folder, temporary, node)
    return Export(folder, folders, python(model, str(folder)), peft)


def _export_adapters(model: SavedModel, folder: Path, temporary: Path, node: str | None) -> tuple[dict[str, Path], str]:
    shared = model.shared(next(iter(model.nodes)))
    full = WEIGHT in shared.method.tensors
    own_base = model.config.trunk in BUILT_IN_TRUNKS and not full
    base = str(folder / BASE) if own_base else model.config.trunk
    folders = {"": folder}
    apart = {name.rpartition(".")[0] for home in (model.homes or {}).values() for name in home}
    if apart & shared.layers.keys():
        folders = {name: folder / _file_name(name) for name in model.nodes} if node is None else {node: folder}
    if full:  # transformers would call it as we call ours
        folders = {name: place / TRANSFORMER for name, place in folders.items()}
    for name, place in folders.items():
        inside = temporary / place.relative_to(folder)
        _write(model.shared(name) if name else shared, inside, f"./{BASE}" if own_base else handed_on(base))
        if model.privacy and inside != temporary:
            write_atomic(inside / CARD, card(model).encode())
    if own_base:
        base_model(model.config).save_pretrained(temporary / BASE)
    return folders, _python(transformer_of(shared), next(iter(folders.values())), base, full)


def _file_name(node: str) -> str:
    name = quote(node, safe=" ")
    # "." and ".." are no names, and hidden folders are overlooked.
    return f"%{ord(name[0]):02X}{name[1:]}" if name[0] == "." or name.casefold() in _TAKEN else name


def _python(transformer: Any, folder: Path, base: str, full: bool) -> str:
    if full:
        module, name = type(transformer).__module__, type(transformer).__name__
        return f"from {module} import {name}\ntransformer = {name}.from_pretrained({str(folder)!r})"
    part = ".get_encoder()" if getattr(transformer.config, "is_encoder_decoder", False) else ""
    return (
        "from peft import PeftModel; from transformers import AutoModel\n"
        f"transformer = PeftModel.from_pretrained(AutoModel.from_pretrained({base!r}){part}, {str(folder)!r})"
    )


def write_adapter(shared: SharedModel, folder: Path, base: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors: LoRA, or DoRA where a magnitude trains.

    Against the original base: what refreshes have merged is part of the adapter, whose rank is r + R. With "full" the
    whole transformer is written by its `save_pretrained`.

    Args:
        shared: its map to coordinates has no place in the format.
        folder: new or empty; appears whole or not at all.
        base: name or folder of the transformer, for base_model_name_or_path. Of an encoder-decoder the adapters are
            those of `get_encoder()`.

    Raises:
        ConfigError: there is no trunk, or the folder is not empty.
        StorageError: it cannot be written; nothing is left behind.
    """
    with appears_whole(folder) as temporary:
        _write(shared, temporary, base)


def _write(shared: SharedModel, folder: Path, base: str) -> None:
    from peft import LoraConfig

    transformer = transformer_of(shared)
    if WEIGHT in shared.method.tensors:
        transformer.save_pretrained(folder)
        return
    tensors: dict[str, Tensor] = {}
    rank = 0
    for name, layer in adapted(transformer):
        a, b = torch.cat([layer.lora_A, layer.merged_A]), torch.cat([layer.lora_B, layer.merged_B], 1)
        values = {A: a, B: b} | ({MAGNITUDE: layer.magnitude} if MAGNITUDE in shared.method.tensors else {})
        tensors |= {f"{PREFIX}{name}.{kind}": values[own] for kind, own in TENSORS.items() if own in values}
        rank = len(a)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,  # scale 1
        use_dora=MAGNITUDE in shared.method.tensors,
        # A pattern of whole names: of a list each would also hit layers that end in it, such as "pooler.dense".
        target_modules="|".join(re.escape(name) for name, _ in adapted(transformer)),
        base_model_name_or_path=base,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    copies = {name: value.detach().float().cpu().contiguous().clone() for name, value in tensors.items()}
    write_atomic(folder / "adapter_model.safetensors", safetensors.torch.save(copies, metadata={"format": "pt"}))


@contextmanager
def appears_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` to write into, renamed to it at the end or removed."""
    with writing(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} is there already and not empty; name another folder")
        make_folder(folder.parent)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        try:
            temporary.mkdir()
            yield temporary
            if folder.exists():
                folder.rmdir()  # Windows renames over nothing
            temporary.rename(folder)
        except SafetensorError as error:  # how a full disk looks through save_pretrained
            raise StorageError(f"cannot write {folder}: {error}; free some space, or name another folder") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
