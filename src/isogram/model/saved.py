"""A trained federation as one file: what embeds new rows, without its nodes, their data or the anchors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from isogram.alignment import LinearMap, Standardizer
from isogram.config import ModelConfig
from isogram.errors import DataError
from isogram.model.node_model import NodeModel, SharedModel
from isogram.tensor_file import read_tensors, write_tensors

_FORMAT = "isogram-model-1"


@dataclass(frozen=True)
class SavedModel:
    """Maps per modality; per node the change of its projector, if trained; what all share.

    nodes: name -> modality; tokens: modality -> tokens per row; frame [K, r]; head [C, r], NaN for a class without
    evidence, None without labels; adapters: empty if the model was not trained.
    """

    config: ModelConfig
    nodes: Mapping[str, str]
    tokens: Mapping[str, int]
    classes: tuple[str, ...]
    anchor_hash: str
    maps: Mapping[str, LinearMap]
    frame: Tensor
    head: Tensor | None = None
    changes: Mapping[str, Tensor] | None = None
    adapters: Mapping[str, Tensor] | None = None

    def embed(self, node: str, tokens: ArrayLike) -> Tensor:
        """[n, r] coordinates of raw tokens [n, T, c], as the node itself computes them; see `data.sheets.read_tokens`.

        Raises:
            DataError: no such node, or rows of another shape than its own.
        """
        if node not in self.nodes:
            raise DataError(f"no node {node!r} in this model; there are {', '.join(self.nodes)}")
        modality, tokens = self.nodes[node], np.asarray(tokens, np.float32)
        start, n_tokens = self.maps[modality], self.tokens[modality]
        if tokens.ndim != 3 or tokens.shape[1] != n_tokens or tokens.shape[1] * tokens.shape[2] != len(start.weight):
            raise DataError(
                f"node {node!r} takes rows of {n_tokens} tokens and {len(start.weight)} values in all, got "
                f"{tokens.shape[1:]}; tokenize them as in training"
            )
        if not len(tokens):
            return torch.empty(0, start.weight.shape[1], dtype=torch.float64)
        flat = torch.from_numpy(np.ascontiguousarray(tokens)).double().flatten(1)
        if self.adapters is None or self.changes is None:
            return start(flat)
        shared = SharedModel(self.config, start.weight.shape[1])
        shared.load_adapters(self.adapters)
        model = NodeModel(start, n_tokens, shared)
        with torch.no_grad():
            model.projector.change.copy_(self.changes[node])
            return model(start.standardize(flat).float().reshape(len(flat), n_tokens, -1)).double()

    def save(self, path: Path) -> None:
        """Write the file; the same model gives the same bytes.

        Raises:
            StorageError: it cannot be written.
        """
        tensors = {"frame": self.frame} | ({} if self.head is None else {"head": self.head})
        for modality, start in self.maps.items():
            parts = {"mean": start.standardize.mean, "scale": start.standardize.scale}
            parts |= {"weight": start.weight, "bias": start.bias}
            tensors |= {f"map/{modality}/{name}": value for name, value in parts.items()}
        tensors |= {f"change/{node}": value for node, value in (self.changes or {}).items()}
        tensors |= {f"adapters/{name}": value for name, value in (self.adapters or {}).items()}
        about = {
            "format": _FORMAT,
            "model": self.config.model_dump(mode="json"),
            "nodes": dict(self.nodes),
            "tokens": dict(self.tokens),
            "classes": list(self.classes),
            "anchor_hash": self.anchor_hash,
            "clip": {modality: start.standardize.clip for modality, start in self.maps.items()},
            "trained": self.adapters is not None,
        }
        write_tensors(path, tensors, about)

    @classmethod
    def load(cls, path: Path) -> "SavedModel":
        """Read a file that `save` wrote.

        Raises:
            DataError: it is none.
        """
        tensors, about = read_tensors(path)
        if about.get("format") != _FORMAT:
            raise DataError(f"{path} is no model of this version of isogram; give a run's model.safetensors")

        def under(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        maps = {}
        for modality, clip in about["clip"].items():
            part = under(f"map/{modality}/")
            standardize = Standardizer(part["mean"], part["scale"], clip)
            maps[modality] = LinearMap(standardize, part["weight"], part["bias"])
        return cls(
            config=ModelConfig.model_validate(about["model"]),
            nodes=about["nodes"],
            tokens=about["tokens"],
            classes=tuple(about["classes"]),
            anchor_hash=about["anchor_hash"],
            maps=maps,
            frame=tensors["frame"],
            head=tensors.get("head"),
            changes=under("change/") if about["trained"] else None,
            adapters=under("adapters/") if about["trained"] else None,
        )
