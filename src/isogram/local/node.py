"""A node in one-shot alignment: its anchors and private rows, its map onto the frame, and its coordinates."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from isogram.alignment import (
    Fit,
    LinearMap,
    Standardizer,
    canonical_frame,
    classes,
    decorrelation,
    feature_metric,
    fit_map,
    gram,
    left_out,
    pack,
    shrink,
    sound_anchors,
    unpack,
    ways,
)
from isogram.alignment.oneshot import metric_gram
from isogram.config import AlignConfig, Config
from isogram.data import AnchorItems, NodeData
from isogram.data.base import FloatArray
from isogram.egress import Gate, Oversight
from isogram.errors import AnchorError, MessageError
from isogram.messages import Down, Up
from isogram.model import NodeModel
from isogram.noise import Noise
from isogram.private_rows import PrivateRows, same_points
from isogram.releases import Case
from isogram.soundness import TOLERANCE
from isogram.validation import Expected

MIN_ANCHORS = 4
"""That a node must hold: unbiased estimators do not exist with fewer."""

Map = Callable[[Tensor], Tensor]
"""Raw features [n, F] -> coordinates [n, r]; training starts from a `LinearMap` only."""


def stream(*parts: object) -> torch.Generator:
    """A generator of its own for each purpose: seeded by what it is for, so that no draw depends on another's count."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def ways_of(align: AlignConfig) -> list[Fit]:
    """How nodes of these settings may fit, as they are set first."""
    return ways(Fit(1.0, align.rho, align.decorrelate))


def flat_rows(tokens: FloatArray) -> Tensor:
    """Tokens [n, T, c] as rows of features [n, T c], float64."""
    return torch.from_numpy(np.ascontiguousarray(tokens)).double().flatten(1)


class AlignedNode:
    """A silo that is aligned: it sends Grams, fits its map to the frame, and embeds rows by what it has learnt.

    Raises:
        AnchorError: fewer than four anchors of this node's modality.
        EgressError: `egress.allow` lacks a field that the node has to send.
    """

    def __init__(
        self,
        data: NodeData,
        anchors: AnchorItems,
        n_anchors: int,
        anchor_hash: str,
        config: Config,
        run: str = "",
        n_classes: int = 0,
        noise: Noise | None = None,
        oversight: Oversight | None = None,
    ) -> None:
        if len(anchors.index) < MIN_ANCHORS:
            raise AnchorError(
                f"node {data.name!r} holds {len(anchors.index)} anchors of {data.modality!r}; it needs "
                f"{MIN_ANCHORS} or more"
            )
        self.name, self.modality, self.config = data.name, data.modality, config
        self.data, self.anchor_hash, self.run, self.noise = data, anchor_hash, run, noise
        self.released: frozenset[str] = frozenset()
        self.index = torch.from_numpy(anchors.index)
        self.holds_all = len(anchors.index) == n_anchors
        self.n_anchors, self.n_classes = n_anchors, n_classes
        self.quality = None if (anchors.quality == 1).all() else torch.from_numpy(anchors.quality)
        self.anchors = flat_rows(anchors.tokens)
        self.standardize = Standardizer.fit(self.anchors, config.align.clip)
        self.device = torch.device(config.train.device)
        self.metric: Tensor | None = None
        self.target: Tensor | None = None
        self.map: Map | None = None
        self.taken: Down | None = None
        self.learnt: Down | None = None
        self.way = self.ways[0]
        self.turn: Tensor | None = None
        self.class_part: LinearMap | None = None
        self.kept: Tensor | None = None
        self.model: NodeModel | None = None
        self.readout: LinearMap | None = None
        self.trial: AnchorItems | None = None
        # Under differential privacy the gate looks for no row: that it refuses would tell which rows there are.
        private = PrivateRows(flat_rows(data.tokens if noise is None else data.tokens[:0]), self.anchors)
        weighted = self.quality is not None or config.align.robust
        case = Case(config, labelled=self.labelled, lacking=not self.holds_all, weighted=weighted)
        self.gate = Gate(self.name, case, private, oversight)

    @property
    def labelled(self) -> bool:
        """Whether the node speaks of classes. Under differential privacy no row may decide that, only its tables."""
        return self.data.labels is not None if self.noise is not None else bool(self.data.classes)

    def _release(self, what: str) -> None:
        """Note that something with noise leaves the node: whoever asks, it does so once, as the accountant counts it.

        Raises:
            MessageError: it has left already, and under the same noise a second one could be told from it.
        """
        if what in self.released:
            raise MessageError(
                f"node {self.name!r} was asked for its {what} a second time, which would spend more of epsilon than "
                "privacy.epsilon; leave the node as it is, or begin a new run"
            )
        self.released |= {what}

    def _without_noise(self, what: str) -> None:
        """Note that something is to be made of private rows to which no noise is added.

        Raises:
            MessageError: under differential privacy, whoever asks.
        """
        if self.noise is not None:
            raise MessageError(
                f"node {self.name!r} was asked for {what}, made of its rows without noise, and has privacy.epsilon = "
                f"{self.config.privacy.epsilon:g}; ask for noisy class sums, with the same settings at server and nodes"
            )

    # What leaves: by no other way than `_up`.

    def _up(self, kind: str, round: int, *, masked: bool = False, **fields: object) -> Up:
        """A message that has passed the node's gate; nothing else in a node makes one.

        masked: by keys of others, see `egress.Gate.let_out`. A field that is None, empty or 0 is absent.

        Raises:
            EgressError, MessageError: as `egress.Gate` does.
        """
        fields = {"index": None if self.holds_all else self.index.int()} | fields
        given = {
            name: v for name, v in fields.items() if v is not None and not (isinstance(v, Mapping | int) and not v)
        }
        model = given.pop("model", "")
        self.gate.admit(kind, round, given)
        up = Up(
            node=self.name,
            modality=self.modality,
            round=round,
            anchor_hash=self.anchor_hash,
            run=self.run,
            model=str(model),
            **given,  # type: ignore[arg-type]
        )
        return self.gate.let_out(kind, up, self._expected(kind, round, given), self._made_of_rows, masked=masked)

    def _expected(self, kind: str, round: int, given: Collection[str]) -> Expected:
        """What a message has to be, by all sizes that the node knows; given: names of its fields."""
        lengths = {"K": self.n_anchors, "C": self.n_classes, "k": len(self.index)}
        if kind in ("sums", "directions", "embeddings"):
            lengths |= dict.fromkeys("rd", self.coordinates)
        if kind == "blocks":
            lengths["k"] = 0 if self.trial is None else len(self.trial.index)
        return Expected(
            kind,
            self.name,
            round,
            self.anchor_hash,
            lengths,
            self.config.align.rho,
            self.config.align.power,
            self.run,
            modality=self.modality,
            second="second" in given,
        )

    def _made_of_rows(self, up: Up) -> bool:
        """Whether private rows stand in the place of anchors, where sizes would let them: in coordinates, in a Gram."""
        if self.noise is not None:
            return False
        if up.embeddings is not None:
            return self._are_rows(up.embeddings)
        if up.gram is None or len(self.data.tokens) != len(self.anchors) or not self.gate.private.secret.any():
            return False
        rows, public, sent = flat_rows(self.data.tokens), self.gate.private.public, up.gram.double()
        return self._has_gram(rows, sent) and not self._has_gram(public, sent)

    def _has_gram(self, flat: Tensor, sent: Tensor) -> bool:
        """Whether a packed Gram is that of these items [k, F]: of their features, or of their coordinates."""
        found = [metric_gram(self.standardize(flat), self.metric)]
        if self.map is not None:
            found.append(gram(self._embed_flat(flat)))
        shrunk = [pack(shrink(one, self.config.align.rho)) for one in found]
        return any(one.shape == sent.shape and torch.allclose(sent, one, atol=TOLERANCE) for one in shrunk)

    def _are_rows(self, points: Tensor) -> bool:
        """Whether coordinates [n, r] hold those of a private row that no public item has, too."""
        if self.noise is not None:
            return False
        rows = self.data.tokens[self.gate.private.secret]
        return len(rows) > 0 and same_points(points, self.embed(rows), self._embed_flat(self.gate.private.public))

    # One-shot alignment.

    def features_gram(self) -> Tensor:
        """[k, k] shrunk Gram of the anchors' features under the current metric."""
        return shrink(metric_gram(self.standardize(self.anchors), self.metric), self.config.align.rho)

    def send_gram(self, round: int) -> Up:
        """The shrunk Gram of the anchors' features: a function of public data alone."""
        return self._up("gram", round, gram=pack(self.features_gram()), quality=self.quality)

    def learn_metric(self, down: Down) -> None:
        """Feature weights from the other modalities' consensus."""
        assert down.others is not None
        others = unpack(down.others.double())[self.index][:, self.index]
        self.metric = feature_metric(self.standardize(self.anchors), others)

    def weigh(self, down: Down) -> None:
        """Weights of the anchors, in this node's messages and fits from here on.

        Raises:
            MessageError: not one number in (0, 1] per anchor.
        """
        quality = down.quality
        if quality is None or quality.shape != self.index.shape or not ((quality > 0) & (quality <= 1)).all():
            raise MessageError(
                f"node {self.name!r} was sent anchor weights that are not {len(self.index)} numbers in (0, 1]; "
                "server and nodes need the same version"
            )
        self.quality = None if (quality == 1).all() else quality

    @property
    def ways(self) -> list[Fit]:
        """How the node may fit, as it is set first."""
        return ways_of(self.config.align)

    def way_of(self, number: int) -> Fit:
        """The way to fit that a message gives by its number.

        Raises:
            MessageError: this node has no such way.
        """
        if not 0 <= number < len(self.ways):
            raise MessageError(
                f"node {self.name!r} was told to fit by way {number}, its own are 0 to {len(self.ways) - 1}; "
                "server and nodes need the same version and settings"
            )
        return self.ways[number]

    def take_frame(self, down: Down) -> None:
        """Fit the map to this node's rows of the frame, in the way that the server chose.

        Raises:
            MessageError: this node has no such way.
        """
        assert down.frame is not None
        self.taken = down
        self.fit(down.frame.double()[self.index], self.way_of(down.fit))

    def fit(self, target: Tensor, way: Fit | None = None) -> None:
        """Ridge onto the coordinates `target` [k, r] of this node's anchors: its rows of the frame, for one-shot.

        Args:
            target: see above.
            way: kernel and ridge; and whether to make the coordinates of rows that the ridge has not seen uncorrelated:
                of the node's own, and of each anchor by a fit without it. The linear kernel and no more if not given.
        """
        self.way = way or replace(self.ways[0], decorrelate=False)
        self.target, self.turn, self.class_part, self.kept = target.double(), None, None, None
        self.map = self._fitted(slice(None))
        if self.way.decorrelate:
            # Under differential privacy by anchors alone: a turn by rows would let one row move all others.
            rows = [self.map(flat_rows(self.data.tokens))] if self.noise is None else []
            self.turn = decorrelation(torch.cat([*rows, self._unseen(self.way)]))
            self.map = self._fitted(slice(None))
        if self.way != self.ways[0] and way is not None:
            # A heavy ridge makes coordinates small, and rounds correct them in units that hardly know of it.
            mine, usual = (float(self._unseen(one).square().mean()) for one in (self.way, self.ways[0]))
            size = (usual / mine) ** 0.5 if mine > 0 else 1.0
            self.turn = size * (torch.eye(self.target.shape[1]).double() if self.turn is None else self.turn)
            self.map = self._fitted(slice(None))

    def _unseen(self, way: Fit) -> Tensor:
        """[k', r] places of the anchors in full standing, each by a ridge fitted without it; not turned."""
        align, sound = self.config.align, self._sound
        assert self.target is not None
        anchors, target = self.anchors[sound], self.target[sound]
        return left_out(anchors, target, way.ridge, align.clip, self.metric, way.share)

    @property
    def _sound(self) -> Tensor:
        """Which of the anchors are in full standing."""
        weight = torch.ones(len(self.anchors)) if self.quality is None else self.quality
        return sound_anchors(weight, least=MIN_ANCHORS)

    def _fitted(self, keep: Tensor | slice) -> LinearMap:
        """The node's map, its ridge fitted to some of the anchors alone."""
        align = self.config.align
        assert self.target is not None
        quality = None if self.quality is None else self.quality[keep]
        anchors, target = self.anchors[keep], self.target[keep]
        found = fit_map(anchors, target, self.way.ridge, align.clip, self.metric, quality, self.way.share)
        if self.turn is not None:
            found = found.then(self.turn)
        return found if self.class_part is None else classes.with_part(found, self.class_part)

    @property
    def own_map(self) -> bool:
        """Whether the map is this node's own, not that of every node of its modality."""
        return self.data.anchors is not None or self.turn is not None or self.class_part is not None

    def fit_apart(self, public: AnchorItems, width: int) -> None:
        """The same ridge, onto a frame of `width` coordinates made of one modality's own Gram in a basis of its own.

        By every measure that is blind to rotation as good a start as one-shot's; the basis is what any encoder trained
        alone has. Nodes of one modality share it, for it is made of the public items, also where they record anchors
        themselves. Nothing is sent.
        """
        align, items = self.config.align, flat_rows(public.tokens)
        own = shrink(metric_gram(Standardizer.fit(items, align.clip)(items), None), align.rho)
        frame = canonical_frame(own, min(width, len(items) - 1), align.power)
        noise = torch.randn(width, width, generator=stream(self.config.seed, self.modality, "basis"))
        basis, _ = torch.linalg.qr(noise.double())
        at = torch.searchsorted(torch.from_numpy(public.index), self.index)
        self.fit((frame @ basis[: frame.shape[1]])[at])

    def fit_readout(self, target: Tensor) -> None:
        """A second ridge, from the embeddings as they are onto `target` [k, r]: a frame read after training."""
        self.readout = fit_map(
            self.embed_anchors(), target.double(), self.config.align.rho, clip=None, quality=self.quality
        )

    # Coordinates.

    def embed(self, tokens: FloatArray) -> Tensor:
        """[n, r] coordinates of raw tokens [n, T, c]: by the trained model if there is one, else by the map."""
        return self._embed_flat(flat_rows(tokens))

    def _embed_flat(self, flat: Tensor) -> Tensor:
        assert self.map is not None, "fit the node first"
        if self.model is None:
            z = self.map(flat)
        else:
            with torch.no_grad():
                z = self.model(self._standard_tokens(flat)).double().cpu()
        return z if self.readout is None else self.readout(z)

    @property
    def coordinates(self) -> int:
        """Length of an embedding."""
        return self.embed(self.data.tokens[:1]).shape[1]

    def embed_anchors(self) -> Tensor:
        """[k, r] coordinates of this node's anchors."""
        return self._embed_flat(self.anchors)

    def _standard_tokens(self, flat: Tensor) -> Tensor:
        return self.standardize(flat).float().reshape(-1, *self.data.tokens.shape[1:]).to(self.device)
