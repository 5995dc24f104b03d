"""A trained model, and new items seen by it.

Shape letters: n items, T tokens, c values per token, r coordinates, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isogram.alignment.classes import best_class, class_scores
from isogram.config import ModalityConfig
from isogram.data.base import FloatArray
from isogram.data.modalities.base import BadItem, Item
from isogram.errors import DataError
from isogram.inference.source import Source, as_items
from isogram.model.saved import MODEL_FILE, SavedModel

if TYPE_CHECKING:
    from isogram.data.modalities.encode import Encoded

Items = Sequence[Any] | NDArray[Any]
"""Paths, texts, mappings from a column to its number, `Item`s; or tokens [n, T, c]."""

_BATCH = 1024
"""Rows that a node's map sees at once."""


class Model:
    """A model file that embeds and classifies. saved: all that it holds."""

    def __init__(self, saved: SavedModel) -> None:
        self.saved = saved
        self._mappers: dict[str, Callable[[Any], Tensor]] = {}

    @classmethod
    def load(cls, path: Path | str) -> "Model":
        """Read a run's folder, an export, or a model file.

        Raises:
            DataError: there is no model, or it is damaged.
        """
        path = Path(path)
        if not path.exists():
            raise DataError(f"cannot read {path}: there is no such folder or file; name a run, an export or a model")
        file = path / MODEL_FILE if path.is_dir() else path
        if path.is_dir() and not file.exists():
            raise DataError(f"{path} holds no {MODEL_FILE}; give the folder of a run that is complete, or a model file")
        return cls(SavedModel.load(file))

    @property
    def fingerprint(self) -> str:
        """Of the model, which a bank remembers; one node's part of a model has the same."""
        return self.saved.identity

    @property
    def nodes(self) -> Mapping[str, str]:
        """Node -> its modality."""
        return self.saved.nodes

    @property
    def modalities(self) -> tuple[str, ...]:
        """In the order of their first node."""
        return tuple(dict.fromkeys(self.saved.nodes.values()))

    @property
    def classes(self) -> tuple[str, ...]:
        """That it may name; empty where nobody labelled."""
        return self.saved.classes

    @property
    def rank(self) -> int:
        """Coordinates of an item, r."""
        return int(self.saved.frame.shape[1])

    def node(self, name: str) -> str:
        """The node of this name, or the one node that holds the modality of this name.

        Raises:
            DataError: there is none, or several nodes hold it.
        """
        if name in self.nodes:
            return name
        holders = [node for node, modality in self.nodes.items() if modality == name]
        if len(holders) == 1:
            return holders[0]
        if holders:
            raise DataError(f"several nodes hold {name!r}: {', '.join(holders)}; name one of them")
        raise DataError(f"no node {name!r} in this model; there are {', '.join(self.nodes)}")

    def encoder(self, node: str) -> ModalityConfig:
        """How items of a node become tokens.

        Raises:
            DataError: no such node; or its rows were numbers, and no encoder made tokens of them.
        """
        modality = self.nodes[self.node(node)]
        if modality not in self.saved.encoders:
            raise DataError(
                f"this model does not know how items of {modality!r} become tokens: its nodes held numbers; give "
                "tokens as an array [n, T, c], which `isogram.data.read_tokens(path)` makes of a CSV like a node's own"
            )
        config = self.saved.encoders[modality]
        return config if config.kind else config.model_copy(update={"kind": modality})

    def tokens(
        self,
        node: str,
        items: Sequence[Any],
        *,
        skip_bad: bool = False,
        told: Callable[[int, int], None] = lambda done, total: None,
        cache: Path | None = None,
    ) -> "Encoded":
        """Items as the encoder of the node's modality has them: tokens, and which were kept.

        Args:
            node: or the modality that only one node holds.
            items: a string is the content where items are written (text, sequences), of others a path; a mapping has
                numbers by column.
            skip_bad: leave out items that cannot be read.
            told: is called with items done and in all.
            cache: folder of tokens that were made before.

        Raises:
            DataError, ConfigError: as `embed`; or the encoder's files are not those that the model was trained with.
        """
        from isogram.data.modalities.encode import encode

        config = self._as_in_training(node)
        return encode(as_items(items, config.kind), config, skip_bad=skip_bad, told=told, cache=cache)

    def look(self, node: str, item: Item) -> tuple[str, FloatArray]:
        """What the node's kind says of one item, such as "640 x 480 pixels", and its coordinates [r].

        It is read once, and nothing of it is kept.

        Raises:
            DataError, ConfigError: as `embed`.
        """
        from isogram.data.modalities.encode import reader_of

        described, tokens = reader_of(self._as_in_training(node), [item]).look(item)
        return described, self.embed(node, tokens)[0]

    def _as_in_training(self, node: str) -> ModalityConfig:
        """`encoder`, if its files are those of then.

        Raises:
            DataError, ConfigError: as `encoder`; they are others, or it cannot be loaded.
        """
        from isogram.data.modalities.encoders import encoder_of

        config = self.encoder(node)
        then = self.saved.about.get("encoder_files", {}).get(self.nodes[self.node(node)])
        now = getattr(encoder_of(config), "files", then)
        if then not in (None, now):
            raise DataError(
                f"encoder {config.encoder!r} has other files than when the model was trained (#{now[:16]} now, "
                f"#{then[:16]} then), so coordinates would mean nothing; give it the files of then"
            )
        return config

    def encoded(
        self,
        node: str,
        source: Source,
        *,
        skip_bad: bool = False,
        told: Callable[[int, int], None] = lambda done, total: None,
        cache: Path | None = None,
    ) -> tuple[Source, FloatArray]:
        """What of a source can be read, what cannot among its `bad`, what was changed among `notes`; and its tokens.

        Raises:
            DataError, ConfigError: as `tokens`; without `skip_bad` also if the source has bad rows.
        """
        if source.tokens is not None:
            return source, source.tokens
        try:
            found = self.tokens(node, source.items, skip_bad=skip_bad, told=told, cache=cache)
        except BadItem as error:
            raise BadItem(*source.bad, *error.problems) from error
        if source.bad and not skip_bad:
            raise BadItem(*source.bad)
        return source.kept(found.kept.tolist(), found.bad, found.notes), found.tokens

    def embed(self, node: str, items: Items, *, skip_bad: bool = False) -> FloatArray:
        """[n, r] float32, the coordinates of items in the common frame as the node computes them, not of unit length.

        Args:
            node: or the modality that only one node holds.
            items: paths, texts, mappings from columns to numbers, `Item`s; or an array of tokens [n, T, c].
            skip_bad: leave out items that cannot be read; `tokens` says which.

        Raises:
            DataError: no such node; items that cannot be read, all of them; tokens of another shape than its own, or
                that are no finite numbers.
            ConfigError: the encoder needs a library that is missing.
        """
        node = self.node(node)
        tokens = items if isinstance(items, np.ndarray) else self.tokens(node, items, skip_bad=skip_bad).tokens
        if node not in self._mappers:
            self._mappers[node] = self.saved.mapper(node)
        starts = range(0, max(len(tokens), 1), _BATCH)
        found = [self._mappers[node](tokens[start : start + _BATCH]).numpy() for start in starts]
        return np.concatenate(found).astype(np.float32)

    def class_scores(self, node: str, items: Items, *, skip_bad: bool = False) -> FloatArray:
        """[n, C] how well each class fits: cosines with class directions, NaN for a class without evidence.

        Raises:
            DataError: as `embed`; or nobody has class directions for this node.
        """
        node = self.node(node)
        head = self.saved.head_of(node)
        rows = self.embed(node, items, skip_bad=skip_bad)
        return class_scores(torch.from_numpy(rows).double(), head).float().numpy()

    def classify(self, node: str, items: Items, *, skip_bad: bool = False) -> list[str]:
        """The class of each item: that whose direction has the largest cosine with its coordinates.

        Raises:
            DataError: as `class_scores`; or no class has evidence.
        """
        return self.best(self.class_scores(node, items, skip_bad=skip_bad))

    def best(self, scores: FloatArray) -> list[str]:
        """Of `class_scores` [n, C], the class of the largest.

        Raises:
            DataError: no class has evidence.
        """
        return [self.classes[c] for c in best_class(torch.from_numpy(scores)).tolist()]
