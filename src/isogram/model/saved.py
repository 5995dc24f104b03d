"""A trained federation as one file: what embeds new rows, without its nodes, their data or the anchors."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from isogram.alignment import Gaussians, LinearMap, Standardizer, Waves
from isogram.config import ModalityConfig, ModelConfig, found_from, handed_on
from isogram.errors import DataError
from isogram.files import write_atomic
from isogram.model.header import Header, check_header
from isogram.model.node_model import NodeModel, SharedModel
from isogram.model.saved_check import check
from isogram.tensor_file import read_tensors, tensor_bytes

_FORMATS = ("isogram-model-2", "isogram-model-3")
"""That can be read; the last is written. Maps may be curved since the third."""

T = TypeVar("T")

_PART_OF = "part_of"
"""In `SavedModel.about`, of which model it is a part."""

MODEL_FILE = "model.safetensors"
"""Its name in the folder of a run or an export."""


OWN_MAP = "node:"
"""Before the name of a node whose map is its own, not that of its modality."""


@dataclass(frozen=True)
class SavedModel:
    """Maps per modality, or per node (`OWN_MAP`); what of the trained model is a node's own; what all share.

    changes, homes: node -> change of its projector, and what of its adapters not all nodes share. kept: node -> see
    `NodeModel`; only nodes that keep something.
    nodes: name -> modality; tokens: modality -> tokens per row; frame [K, r]; head [C, r], NaN for a class without
    evidence, None without labels or where nodes have `heads` of their own; adapters: that all share, None if the model
    was not trained; fingerprint: of the trunk's base; privacy: see `accountant.card`.
    encoders: modality -> how raw items became tokens; about: of the run, for the model's card.
    """

    config: ModelConfig
    nodes: Mapping[str, str]
    tokens: Mapping[str, int]
    classes: tuple[str, ...]
    anchor_hash: str
    maps: Mapping[str, LinearMap]
    frame: Tensor
    head: Tensor | None = None
    heads: Mapping[str, Tensor] = field(default_factory=dict)
    changes: Mapping[str, Tensor] | None = None
    homes: Mapping[str, Mapping[str, Tensor]] | None = None
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    adapters: Mapping[str, Tensor] | None = None
    fingerprint: str = ""
    privacy: Mapping[str, Any] = field(default_factory=dict)
    encoders: Mapping[str, ModalityConfig] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def embed(self, node: str, tokens: ArrayLike) -> Tensor:
        """[n, r] coordinates of raw tokens [n, T, c], as the node itself computes them; see `data.sheets.read_tokens`.

        Raises:
            DataError: no such node; or rows of another shape than its own, or that are no finite numbers.
        """
        return self.mapper(node)(tokens)

    def mapper(self, node: str) -> Callable[[ArrayLike], Tensor]:
        """What `embed` does for a node, with its trunk set up once.

        Raises:
            DataError: no such node, or the trunk's weights have changed; what it returns raises as `embed` does.
        """
        if node not in self.nodes:
            raise DataError(f"no node {node!r} in this model; there are {', '.join(self.nodes)}")
        start = self.map_of(node)
        trained = self.adapters is not None and self.changes is not None
        model = self._node_model(node, start) if trained else None

        def embed(tokens: ArrayLike) -> Tensor:
            flat = self._flat(node, start, tokens)
            if model is None or not len(flat):
                return start(flat)
            n_tokens = self.tokens[self.nodes[node]]
            with torch.no_grad():
                return model(start.standardize(flat).float().reshape(len(flat), n_tokens, -1)).double()

        return embed

    def map_of(self, node: str) -> LinearMap:
        """A node's map: its own, or that of its modality."""
        own = OWN_MAP + node
        return self.maps[own if own in self.maps else self.nodes[node]]

    def _node_model(self, node: str, start: LinearMap) -> NodeModel:
        assert self.changes is not None
        try:
            model = NodeModel(start, self.tokens[self.nodes[node]], self.shared(node), self.kept.get(node))
            with torch.no_grad():
                model.projector.change.copy_(self.changes[node])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise DataError(
                f"this model's part of node {node!r} is damaged ({_first_line(error)}); copy its file again"
            ) from error
        return model

    def _flat(self, node: str, start: LinearMap, tokens: ArrayLike) -> Tensor:
        """[n, F] of tokens [n, T, c], if they are as the node has them."""
        n_tokens = self.tokens[self.nodes[node]]
        try:
            with np.errstate(over="ignore"):
                tokens = np.asarray(tokens, np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"tokens of node {node!r} are no numbers ({error}); give an array [n, T, c]") from error
        if tokens.ndim != 3 or tokens.shape[1] != n_tokens or tokens.shape[1] * tokens.shape[2] != len(start.weight):
            raise DataError(
                f"node {node!r} takes rows of {n_tokens} tokens and {len(start.weight)} values in all, got "
                f"{tokens.shape[1:]}; tokenize them as in training"
            )
        if bad := np.flatnonzero(~np.isfinite(tokens).all((1, 2))).tolist():
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise DataError(
                f"node {node!r}: tokens of row {bad[0] + 1}{more} hold values that are no finite numbers; impute them, "
                "or leave the row out"
            )
        return torch.from_numpy(np.ascontiguousarray(tokens)).double().flatten(1)

    def head_of(self, node: str) -> Tensor:
        """[C, r] class directions that a node uses, NaN for a class without evidence.

        Raises:
            DataError: no labels reached it.
        """
        head = self.heads.get(node) if self.heads else self.head
        if head is None:
            raise DataError(f"this model has no class directions for node {node!r}: no labels reached it")
        return head

    def shared(self, node: str) -> SharedModel:
        """The trunk as a node has it.

        Raises:
            DataError: the model was not trained, or its trunk's weights have changed since.
        """
        if self.adapters is None or self.homes is None:
            raise DataError("this model is one-shot alignment alone: it has no trunk")
        shared = SharedModel(self.config, self.frame.shape[1])
        if shared.trunk is not None and self.fingerprint not in ("", shared.trunk.fingerprint):
            raise DataError(
                f"the model was trained on {self.config.trunk} #{self.fingerprint}, which is now "
                f"#{shared.trunk.fingerprint}; give it the weights of then"
            )
        shared.load({**self.adapters, **self.homes[node]})
        return shared

    @cached_property
    def identity(self) -> str:
        """What tells this model from any other; a node's part of it has the same, wherever its encoders are."""
        return self.about.get(_PART_OF) or hashlib.sha256(self.handed_on().to_bytes()).hexdigest()[:16]

    def handed_on(self) -> "SavedModel":
        """The model as others get it: of folders of this machine, with trunk or encoders, the names alone."""
        encoders = {m: one.model_copy(update={"encoder": handed_on(one.encoder)}) for m, one in self.encoders.items()}
        config = self.config.model_copy(update={"trunk": handed_on(self.config.trunk)})
        return replace(self, config=config, encoders=encoders)

    def only(self, node: str) -> "SavedModel":
        """The part that one node needs: nothing of what others keep at home, such as maps fitted to their rows.

        Raises:
            DataError: no such node.
        """
        if node not in self.nodes:
            raise DataError(f"no node {node!r} in this model; there are {', '.join(self.nodes)}")
        modality, own = self.nodes[node], OWN_MAP + node
        return replace(
            self,
            nodes={node: modality},
            tokens={modality: self.tokens[modality]},
            maps={own: self.maps[own]} if own in self.maps else {modality: self.maps[modality]},
            heads=_of(self.heads, node),
            changes=None if self.changes is None else _of(self.changes, node),
            homes=None if self.homes is None else _of(self.homes, node),
            kept=_of(self.kept, node),
            encoders=_of(self.encoders, modality),
            about={**self.about, _PART_OF: self.identity},
        )

    def of_run(self, run: str, *, adapters: bool) -> "SavedModel":
        """A node's own model as part of a whole that nobody has: of a run between machines, one at each site.

        Its identity is of what all nodes of the run have alike, so that one's items are searched by another's model.

        Args:
            run: its name.
            adapters: whether all nodes have the same.
        """
        none: dict[str, Any] = {"changes": None, "homes": None, "head": None, "privacy": {}, "about": {_PART_OF: run}}
        alike = replace(self, nodes={}, tokens={}, maps={}, heads={}, kept={}, encoders={}, **none)
        alike = alike if adapters else replace(alike, adapters=None)
        whole = hashlib.sha256(alike.handed_on().to_bytes()).hexdigest()[:16]
        return replace(self, about={**self.about, _PART_OF: whole})

    def save(self, path: Path) -> None:
        """Write the file; the same model gives the same bytes.

        Raises:
            StorageError: it cannot be written.
        """
        write_atomic(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        tensors = {"frame": self.frame} | ({} if self.head is None else {"head": self.head})
        tensors |= {f"heads/{node}": value for node, value in self.heads.items()}
        for modality, start in self.maps.items():
            parts = {"mean": start.standardize.mean, "scale": start.standardize.scale}
            parts |= {"weight": start.weight, "bias": start.bias}
            for part in (start.waves, start.gaussians):
                if part is not None:
                    parts |= {f"{type(part).__name__}-{name}": value for name, value in vars(part).items()}
            tensors |= {f"map/{modality}/{name}": value for name, value in parts.items()}
        tensors |= {f"change/{node}": value for node, value in (self.changes or {}).items()}
        tensors |= {f"kept/{node}": value for node, value in self.kept.items()}
        tensors |= {f"home/{name}": value for name, value in flat_homes(self.homes or {}).items()}
        tensors |= {f"adapters/{name}": value for name, value in (self.adapters or {}).items()}
        about = {
            "format": _FORMATS[-1],
            "model": self.config.model_dump(mode="json"),
            "nodes": dict(self.nodes),
            "tokens": dict(self.tokens),
            "classes": list(self.classes),
            "anchor_hash": self.anchor_hash,
            "clip": {modality: start.standardize.clip for modality, start in self.maps.items()},
            "trained": self.adapters is not None,
            "fingerprint": self.fingerprint,
        }
        encoders = {modality: one.model_dump(mode="json") for modality, one in self.encoders.items()}
        more = {"privacy": dict(self.privacy), "encoders": encoders, "about": dict(self.about)}
        return tensor_bytes(tensors, about | {key: value for key, value in more.items() if value})

    @classmethod
    def load(cls, path: Path) -> "SavedModel":
        """Read a file that `save` wrote.

        Raises:
            DataError: it is none, or is damaged.
        """
        tensors, about = read_tensors(path)
        if not isinstance(about, dict) or about.get("format") not in _FORMATS:
            raise DataError(f"{path} is no model of this version of isogram; give a run's model.safetensors")
        try:
            model = cls._read(tensors, check_header(about), path.parent)
            check(model)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise DataError(f"{path} is damaged ({_first_line(error)}); copy it again, or train anew") from error
        return model

    @classmethod
    def _read(cls, tensors: Mapping[str, Tensor], header: Header, folder: Path) -> "SavedModel":
        def under(prefix: str) -> dict[str, Tensor]:
            return _fields(tensors, prefix)

        maps = {}
        for modality, clip in header.clip.items():
            part = under(f"map/{modality}/")
            standardize = Standardizer(part["mean"], part["scale"], clip)
            waves, gaussians = (_fields(part, f"{kind.__name__}-") for kind in (Waves, Gaussians))
            maps[modality] = LinearMap(
                standardize,
                part["weight"],
                part["bias"],
                Waves(**waves) if waves else None,
                Gaussians(**gaussians) if gaussians else None,
            )
        return cls(
            config=header.model.model_copy(update={"trunk": found_from(header.model.trunk, folder)}),
            nodes=header.nodes,
            tokens=header.tokens,
            classes=tuple(header.classes),
            anchor_hash=header.anchor_hash,
            maps=maps,
            frame=tensors["frame"],
            head=tensors.get("head"),
            heads=under("heads/"),
            fingerprint=header.fingerprint,
            changes=under("change/") if header.trained else None,
            kept=under("kept/"),
            homes=nested_homes(under("home/"), header.nodes) if header.trained else None,
            adapters=under("adapters/") if header.trained else None,
            privacy=header.privacy,
            encoders={
                m: one.model_copy(update={"encoder": found_from(one.encoder, folder)})
                for m, one in header.encoders.items()
            },
            about=header.about.model_dump(exclude_unset=True),
        )


def _first_line(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]


def _of(values: Mapping[str, T], name: str) -> dict[str, T]:
    return {name: values[name]} if name in values else {}


def _fields(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def flat_homes(homes: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The nodes' own tensors under one name each, "TENSOR/NODE": a tensor's name has no slash, a node's may."""
    return {f"{name}/{node}": value for node, home in homes.items() for name, value in home.items()}


def nested_homes(flat: Mapping[str, Tensor], nodes: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    """The inverse of `flat_homes`."""
    homes: dict[str, dict[str, Tensor]] = {node: {} for node in nodes}
    for key, value in flat.items():
        name, _, node = key.partition("/")
        homes[node][name] = value
    return homes
