"""One node: its private rows, its anchors, its projector; what it computes and what it agrees to send."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from isogram.alignment import (
    Fit,
    LinearMap,
    Standardizer,
    canonical_frame,
    center,
    classes,
    decorrelation,
    feature_metric,
    fit_map,
    gram,
    left_out,
    pack,
    shrink,
    unpack,
    ways,
)
from isogram.alignment.oneshot import metric_gram
from isogram.config import AverageConfig, Config
from isogram.data import AnchorItems, NodeData
from isogram.data.base import FloatArray
from isogram.errors import AnchorError, MessageError
from isogram.messages import Down, Up
from isogram.model import NodeModel, Projector, SharedModel
from isogram.model.adapters import gradient_sketches
from isogram.objective import Step, loss
from isogram.secure_sum import MIN_EVIDENCE, SumParty


def stream(*parts: object) -> torch.Generator:
    """A generator of its own for each purpose: seeded by what it is for, so that no draw depends on another's count."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


MIN_ANCHORS = 4
"""That a node must hold: unbiased estimators do not exist with fewer."""

Map = Callable[[Tensor], Tensor]
"""Raw features [n, F] -> coordinates [n, r]; training starts from a `LinearMap` only."""


def _flat(tokens: FloatArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(tokens)).double().flatten(1)


class Node:
    """A silo. Methods named `send_*` return a message; all others keep what they compute.

    Raises:
        AnchorError: fewer than four anchors of this node's modality.
    """

    def __init__(self, data: NodeData, anchors: AnchorItems, n_anchors: int, anchor_hash: str, config: Config) -> None:
        if len(anchors.index) < MIN_ANCHORS:
            raise AnchorError(
                f"node {data.name!r} holds {len(anchors.index)} anchors of {data.modality!r}; it needs "
                f"{MIN_ANCHORS} or more"
            )
        self.name, self.modality, self.config = data.name, data.modality, config
        self.data, self.anchor_hash = data, anchor_hash
        self.index = torch.from_numpy(anchors.index)
        self.holds_all = len(anchors.index) == n_anchors
        self.quality = None if (anchors.quality == 1).all() else torch.from_numpy(anchors.quality)
        self.anchors = _flat(anchors.tokens)
        self.standardize = Standardizer.fit(self.anchors, config.align.clip)
        self.device = torch.device(config.train.device)
        self.metric: Tensor | None = None
        self.target: Tensor | None = None
        self.map: Map | None = None
        self.way = self.ways[0]
        self.turn: Tensor | None = None
        self.class_part: LinearMap | None = None
        self.kept: Tensor | None = None
        self.model: NodeModel | None = None
        self.readout: LinearMap | None = None

    def accept(self, down: Down) -> Down:
        """The message, if it is for this node and its anchors.

        Raises:
            MessageError: another node's, or another anchor set's.
        """
        if (down.node, down.anchor_hash) != (self.name, self.anchor_hash):
            raise MessageError(
                f"node {self.name!r} got a message for {down.node!r} and anchors {down.anchor_hash[:8]}, its own are "
                f"{self.anchor_hash[:8]}; server and nodes need the same anchor files"
            )
        return down

    def _up(self, round: int, **fields: object) -> Up:
        return Up(
            node=self.name,
            modality=self.modality,
            round=round,
            anchor_hash=self.anchor_hash,
            index=None if self.holds_all else self.index.int(),
            **fields,  # type: ignore[arg-type]
        )

    # One-shot alignment.

    def features_gram(self) -> Tensor:
        """[k, k] shrunk Gram of the anchors' features under the current metric."""
        return shrink(metric_gram(self.standardize(self.anchors), self.metric), self.config.align.rho)

    def send_gram(self, round: int) -> Up:
        """The shrunk Gram of the anchors' features: a function of public data alone."""
        return self._up(round, gram=pack(self.features_gram()), quality=self.quality)

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
        align = self.config.align
        return ways(Fit(1.0, align.rho, align.decorrelate))

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
            self.turn = decorrelation(torch.cat([self.map(_flat(self.data.tokens)), self._unseen(self.way)]))
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
        """Which anchors weigh at least half: what a doubtful one would be placed at says nothing of new rows."""
        sound = torch.ones(len(self.anchors), dtype=torch.bool) if self.quality is None else self.quality >= 0.5
        return sound if sound.sum() >= MIN_ANCHORS else torch.ones_like(sound)

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

    def learn_classes(self, down: Down) -> None:
        """Spread the classes of the head over the node's rows, and learn the map's part in their directions from them.

        A node that labels some of the classes alone learns nothing: its rows say too little of the others. `kept` is
        the span of the directions, where the frame term costs accuracy (docs/log.md): rounds leave the map there as it
        is at a node that has learnt, and take nothing from the anchors there at one that labels some classes.
        """
        assert down.head is not None and self.target is not None
        known = ~down.head.isnan().any(1)
        own = set(self.data.classes)
        if known.sum() < 2:
            return
        head = down.head[known].double()
        if own and not set(known.nonzero().flatten().tolist()) <= own:
            self.kept = classes.span(head)
            return
        labels = torch.zeros(len(self.data.tokens), len(head), dtype=torch.float64)
        if own:
            labels = self._one_hot(len(known))[:, known]
        waves = classes.random_waves(self.standardize, stream(self.anchor_hash, self.modality, "waves"))
        if (labels.sum(1) == 0).any():
            sound, places = self._sound, self._unseen(self.way)
            places = places if self.turn is None else places @ self.turn
            tokens = self._standard_tokens(torch.cat([self.anchors[sound], _flat(self.data.tokens)])).double().cpu()
            seen = tokens.flatten(1)
            students = [seen] * classes.STUDENTS + [classes.beside_waves(seen, waves)]
            spread = classes.spread(classes.views(tokens), self.target[sound], places, labels, head, students)
            if spread is None:
                return
            labels = spread
        assert isinstance(self.map, LinearMap)
        self.class_part = classes.class_part(self.map, _flat(self.data.tokens), labels, head, waves)
        if self.class_part is not None:
            self.kept = classes.span(head)
            self.map = self._fitted(slice(None))

    def fit_apart(self, width: int) -> None:
        """The same ridge, onto a frame of `width` coordinates made of this node's own Gram in a basis of its own.

        By every measure that is blind to rotation as good a start as one-shot's; the basis is what any encoder trained
        alone has. Nodes of one modality hold the same anchors and share it. Nothing is sent.
        """
        align, k = self.config.align, len(self.anchors)
        frame = canonical_frame(self.features_gram(), min(width, k - 1), align.power)
        noise = torch.randn(width, width, generator=stream(self.config.seed, self.modality, "basis"))
        basis, _ = torch.linalg.qr(noise.double())
        self.fit(frame @ basis[: frame.shape[1]])

    def fit_readout(self, target: Tensor) -> None:
        """A second ridge, from the embeddings as they are onto `target` [k, r]: a frame read after training."""
        self.readout = fit_map(
            self.embed_anchors(), target.double(), self.config.align.rho, clip=None, quality=self.quality
        )

    # Coordinates.

    def embed(self, tokens: FloatArray) -> Tensor:
        """[n, r] coordinates of raw tokens [n, T, c]: by the trained model if there is one, else by the map."""
        assert self.map is not None, "fit the node first"
        flat = _flat(tokens)
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
        return self.embed(self.anchors.float().reshape(len(self.anchors), self.data.tokens.shape[1], -1).numpy())

    def _standard_tokens(self, flat: Tensor) -> Tensor:
        tokens = self.standardize(flat).float().reshape(len(flat), self.data.tokens.shape[1], -1)
        return tokens.to(self.device)

    # Labels.

    def send_key(self, round: int) -> Up:
        """Public key for the secure sums of class counts and class sums."""
        self.party = SumParty()
        return self._up(round, key=self.party.key)

    def send_counts(self, down: Down, n_classes: int) -> Up:
        """Labelled rows per class, masked so that only the total over nodes shows.

        A node that is alone with its labels has nobody to hide among: it keeps counts of too few rows to itself.
        """
        assert down.keys is not None
        counts = self._one_hot(n_classes).sum(0)
        if len(down.keys) == 1:
            counts = torch.where(counts >= MIN_EVIDENCE, counts, 0)
        return self._up(down.round, counts=self.party.masked(counts, down.keys, down.round, "counts"))

    def send_head(self, down: Down) -> Up:
        """Class sums [C, r] of private rows' unit coordinates, masked; 0 for classes that too few rows speak for.

        Where it is asked for, also the second moment of these rows.
        """
        assert down.keys is not None and down.evidence is not None
        rows = normalize(self.embed(self.data.tokens), dim=1)
        counted = self._one_hot(len(down.evidence)) * down.evidence
        up = self._up(down.round, head=self.party.masked(counted.T @ rows, down.keys, down.round))
        if down.second:
            rows = rows[counted.any(1)]
            up = replace(up, second=self.party.masked(pack(rows.T @ rows), down.keys, down.round, "second"))
        return up

    def send_scores(self, down: Down) -> Up:
        """Class directions [C, r] by what the node makes of the anchors, times its rows of each class, masked.

        In the place of class sums, see `send_head`: no coordinate of a private row enters.
        """
        assert down.keys is not None and down.evidence is not None and self.target is not None
        counted = self._one_hot(len(down.evidence)) * down.evidence
        rows, own = counted.any(1), counted.any(0)
        directions = torch.zeros(len(own), self.target.shape[1], dtype=torch.float64)
        if own.sum() > 1:
            x = self.standardize(_flat(self.data.tokens[rows.numpy()]))
            scores = classes.anchor_scores(x, counted[rows].argmax(1), self.standardize(self.anchors), len(own))
            directions = classes.evidence_head(scores, self.target) * counted.sum(0)[:, None]
        return self._up(down.round, head=self.party.masked(directions, down.keys, down.round))

    def _one_hot(self, n_classes: int) -> Tensor:
        assert self.data.labels is not None
        labels = torch.from_numpy(self.data.labels)
        one_hot = torch.zeros(len(labels), n_classes, dtype=torch.float64)
        one_hot[labels >= 0, labels[labels >= 0]] = 1
        return one_hot

    # Rounds of training.

    def start_training(self, shared: SharedModel) -> None:
        """Build the model on the current map.

        Training sees cross-fitted anchors, each by a map that was fitted without it, as new rows will be seen; by the
        full map their residual would say nothing about new rows.
        """
        assert isinstance(self.map, LinearMap) and self.target is not None, "fit the node first"
        n_tokens = self.data.tokens.shape[1]
        learnt = self.class_part is not None
        self.model = NodeModel(self.map, n_tokens, shared, self.kept if learnt else None).to(self.device)
        self.base_rows = self.model.projector.base(self._standard_tokens(_flat(self.data.tokens)))
        self.teacher = self.base_rows.sum(1) + self.model.bias
        self.base_anchors = torch.empty(len(self.anchors), *self.base_rows.shape[1:], device=self.device)
        self.shift = torch.empty(len(self.anchors), self.target.shape[1], device=self.device)
        order = torch.randperm(len(self.anchors), generator=stream(self.anchor_hash, self.modality, "folds"))
        for fold in order.chunk(self.config.train.folds):
            keep = torch.ones(len(order), dtype=torch.bool)
            keep[fold] = False
            without = self._fitted(keep)
            x = without.standardize(self.anchors[fold]).float().reshape(len(fold), n_tokens, -1)
            self.base_anchors[fold] = Projector(without, n_tokens).base(x).to(self.device)
            self.shift[fold] = (without.bias - self.map.bias).float().to(self.device)
        self.first_seen = self.last_seen = self.base_anchors.sum(1) + self.model.bias + self.shift

    @property
    def shared(self) -> SharedModel:
        """The part of the model that this node has in common with others."""
        assert self.model is not None, "start training first"
        return self.model.shared

    def reset(self, adapters: Mapping[str, Tensor]) -> None:
        """Back to the averaged adapters: where nodes live in one process, another has trained in between."""
        self.shared.load(adapters)

    def load(self, down: Down) -> None:
        """Take the adapters as the server averaged them.

        Raises:
            MessageError: they do not fit, or hold what is this node's own.
        """
        home = self.shared.method.home
        if own := [name for name in down.adapters if home and name.endswith(f".{home}")]:
            raise MessageError(f"node {self.name!r} was sent {own[0]!r}, which is its own; nobody else may set it")
        self.shared.load(down.adapters)

    def refresh(self, down: Down, number: int) -> None:
        """Merge the adapters and take a new basis: the broadcast one, or a random one that all nodes draw alike."""
        self.shared.refresh(number, down.adapters)

    def train_round(self, down: Down, sketch: int = 0) -> tuple[Up, dict[str, float]]:
        """Local steps from the current adapters; returns what they became and the mean of each loss term.

        Args:
            down: frame, geometry, head, other nodes' anchor embeddings: what the loss needs.
            sketch: number of the refresh that these steps' gradients are sketched for, 0 for none.
        """
        assert self.model is not None
        train, shared = self.config.train, self.shared
        turn = shared.train_turn(down.round - 1)
        optimiser = torch.optim.AdamW(
            [
                {"params": list(turn.values()), "lr": train.lr},
                {"params": self.model.projector.parameters(), "lr": train.projector_lr},
            ],
            weight_decay=train.weight_decay,
        )
        draw = stream(self.config.seed, self.name, "round", down.round)
        geometry = None if down.geometry is None else center(unpack(down.geometry)[self.index][:, self.index])
        previous = self.last_seen
        values: dict[str, float] = {}
        with gradient_sketches(shared, sketch) as sketches:
            for _ in range(train.steps):
                total, terms = loss(self._step(down, geometry, previous, draw), train)
                if terms:  # a node without labels has nothing to learn from the task term alone
                    optimiser.zero_grad()
                    total.backward()
                    optimiser.step()
                for name, value in terms.items():
                    values[name] = values.get(name, 0.0) + value / train.steps
        sent = shared.update(down.round - 1)
        self.model.keep_own()
        if not self.last_seen.isfinite().all():
            self.last_seen = self.first_seen
        precision: dict[str, Tensor] = {}
        if self.config.average.rule == "parameter":
            moments = {name: _second_moment(optimiser, turn[name]) for name in sent}
            precision = {n: precision_of(m, len(self.data.tokens), self.config.average) for n, m in moments.items()}
            sent = {name: value * precision[name] for name, value in sent.items()}
        up = self._up(
            down.round,
            adapters=sent,
            precision=precision,
            sketches={name: value.cpu() for name, value in sketches.items()},
            model=shared.about if sent else "",
            samples=len(self.data.tokens),
        )
        return up, values

    def send_trained_gram(self, round: int) -> Up:
        """Shrunk Gram of the anchors' current coordinates."""
        return self._up(
            round, gram=pack(shrink(gram(self.embed_anchors()), self.config.align.rho)), quality=self.quality
        )

    def send_embeddings(self, round: int) -> Up:
        """The anchors' coordinates themselves: only in peers that share them."""
        return self._up(round, embeddings=self.embed_anchors())

    def send_blocks(self, items: AnchorItems, frame: Tensor, round: int) -> Up:
        """Similarities of held-out anchors to the frame's anchors, under the starting map and under the trained model.

        The server needs them to say which of the two finds held-out anchors better.
        """
        assert self.map is not None
        flat, frame = _flat(items.tokens), frame.double()
        blocks = {"block_start": self.map(flat) @ frame.T, "block_trained": self.embed(items.tokens) @ frame.T}
        return replace(self._up(round, **blocks), index=torch.from_numpy(items.index).int())

    def fall_back(self) -> None:
        """Use the starting map again."""
        self.model = None

    def _step(self, down: Down, geometry: Tensor | None, previous: Tensor, draw: torch.Generator) -> Step:
        assert self.model is not None
        train = self.config.train
        rows = torch.randperm(len(self.base_rows), generator=draw)[: train.batch]
        live = torch.randperm(len(self.base_anchors), generator=draw)[: train.anchor_batch]
        targets = {
            "frame": down.frame,
            "prototypes": down.prototypes,
            "counterparts": down.counterparts,
            "siblings": down.siblings,
        }
        if geometry is None and down.peers is None and all(target is None for target in targets.values()):
            live = live[:0]  # no term looks at anchors
        z = self.model.from_base(torch.cat([self.base_anchors[live], self.base_rows[rows]]))
        now = z[: len(live)] + self.shift[live]
        if self.kept is not None:
            now = now + (now.detach() - now) @ self.kept.to(now)
        anchors = self.last_seen.index_copy(0, live.to(self.device), now)
        self.last_seen = anchors.detach()
        labels = head = None
        if down.head is not None and self.data.classes and self.class_part is None:
            own = torch.tensor(self.data.classes)
            head, labels = down.head[own], self._one_hot(len(down.head))[rows][:, own].float()
        step = Step(
            anchors=anchors,
            live=live,
            rows=z[len(live) :],
            teacher=self.teacher[rows],
            geometry=geometry,
            **{name: target[self.index] for name, target in targets.items() if target is not None},
            peers=None if down.peers is None else down.peers[:, self.index],
            previous=previous,
            labels=labels,
            head=head,
        )
        return step.to(self.device)


def precision_of(moment: Tensor, samples: int, config: AverageConfig) -> Tensor:
    """A node's precision of one adapter, L, by which the rule "parameter" weighs it.

    Args:
        moment: of the adapter's shape, mean squared gradients, none of them negative.
        samples: N, the node's private rows, which multiply it.
        config: `temper`, a power of the moments; then `clip`, a bound in their means; `relative`, over that mean.
    """
    tempered = moment if config.temper == 1 else moment**config.temper
    mean = tempered.mean()
    bounded = samples * tempered.clamp(max=config.clip * mean)
    return bounded / mean.clamp_min(torch.finfo(mean.dtype).tiny) if config.relative else bounded


def _second_moment(optimiser: torch.optim.AdamW, parameter: nn.Parameter) -> Tensor:
    """Adam's running mean of squared gradients, without its bias towards 0: a diagonal Fisher that costs nothing."""
    state = optimiser.state.get(parameter)
    if not state:
        return torch.zeros_like(parameter, device="cpu")  # no step was taken: no evidence
    return (state["exp_avg_sq"] / (1 - optimiser.defaults["betas"][1] ** float(state["step"]))).cpu()
