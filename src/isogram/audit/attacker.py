"""What a server can compute: it runs the nodes' own code on rows that it knows, fed with the messages that it saw.

One attacker a modality: it has the public anchors, the frame that it made itself, and a pool of candidate rows. What
stays at a node (its own recordings, its own turn and classes) it does not have; its own, from the pool, stand in.
Shape letters: n rows of the pool, T tokens, d coordinates.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from isogram.audit.protocols import Recording
from isogram.data import AnchorItems, NodeData
from isogram.local import Node
from isogram.messages import Down, Message, Up
from isogram.model import SharedModel
from isogram.noise import Noise


@dataclass(frozen=True)
class Seen:
    """One update: the message, class directions that the node knew, and its adapters before and after."""

    update: Up
    head: Tensor | None
    before: dict[str, Tensor]
    after: dict[str, Tensor]


class Attacker:
    """A node's double.

    Args:
        pool: candidate rows, with what labels are known.
        items: the public anchors of the modality.
        n_anchors: K.
        recording: of one replay.
        messages: to and from one of the nodes of this modality, which the double follows through alignment.
        width: coordinates, r.
    """

    def __init__(
        self,
        pool: NodeData,
        items: AnchorItems,
        n_anchors: int,
        recording: Recording,
        messages: Sequence[Message],
        width: int,
    ) -> None:
        config = recording.config
        self.node = Node(pool, items, n_anchors, messages[0].anchor_hash, config)
        if config.privacy.epsilon:  # a node's map is of public anchors alone then, and so the same as the double's
            self.node.noise = Noise(b"", pool.name)
        if not recording.framed:
            self.node.fit_apart(items, width)
        for down in messages:
            if isinstance(down, Down) and down.round < 2:
                self._align(down)
        self.node.noise = None
        assert self.node.target is not None, "no frame was sent"
        self.node.start_training(SharedModel(config.model, self.node.target.shape[1]))
        self.model = self.node.model
        assert self.model is not None
        self.start = self.model.shared.state()
        self.labels = None if pool.labels is None else torch.from_numpy(pool.labels)

    def _align(self, down: Down) -> None:
        if down.quality is not None:
            self.node.weigh(down)
        if down.others is not None:
            self.node.learn_metric(down)
        if down.frame is not None:
            self.node.fit(down.frame.double()[self.node.index], self.node.way_of(down.fit))
        elif down.head is not None and down.round == 1 and self.node.config.align.propagate:
            self.node.learn_classes(down)

    @property
    def coordinates(self) -> Tensor:
        """[n, d] of the pool before training, float64."""
        return self.node.teacher.double().cpu()

    def at_sums(self, messages: Sequence[Message]) -> dict[int, Tensor]:
        """Round -> [n, d] coordinates, float64, as a node's class sums of that round were made: after its average."""
        assert self.model is not None
        now, found = dict(self.start), {1: self.coordinates}
        for message in messages:
            if isinstance(message, Down) and message.adapters:
                now |= {n: v for n, v in message.adapters.items() if n in now}
                self.model.shared.load(now)
                with torch.no_grad():
                    found[message.round] = self.embed(self.node.base_rows).double()
        self.model.shared.load(self.start)
        return found

    def expected_update(self, targets: Down) -> Up:
        """What the double itself would send after this round's steps on its pool; it stays as it is."""
        assert self.model is not None
        shared, seen = self.model.shared, self.node.last_seen
        state, home, change = shared.state(), dict(self.model.home), self.model.projector.change.detach().clone()
        update, _ = self.node.train_round(targets)
        shared.load(state)
        self.model.set_own(home, change)
        self.node.last_seen = seen
        return update

    def losses(self, head: Tensor | None, change: Tensor | None = None) -> Tensor:
        """[n, 1 or 2] each row's own loss as the model is now: out of its starting place, and off its class.

        Args:
            head: class directions, [C, d].
            change: of the projector, [d, d]; none if not given.
        """
        with torch.no_grad():
            return torch.stack(list(self._terms(self.embed(self.node.base_rows, change), head)), 1).double()

    def embed(self, base: Tensor, change: Tensor | None = None) -> Tensor:
        """Coordinates of rows given by the start's output [n, T, d]."""
        assert self.model is not None
        if change is None:
            return self.model.from_base(base)
        moved = base + base @ change
        return base.sum(1) + self.model.bias + (moved - base).sum(1) + self.model.shared(moved)

    def _terms(self, z: Tensor, head: Tensor | None) -> Iterator[Tensor]:
        yield 1 - cosine_similarity(z, self.node.teacher, dim=1)
        if self.labels is None or head is None:
            return
        known = ~head.isnan().any(1)
        logits = (normalize(z, dim=1) @ head[known].float().T) / self.node.config.train.temperature
        place = torch.cumsum(known, 0) - 1
        told = (self.labels >= 0) & known[self.labels.clamp_min(0)]
        loss = torch.zeros(len(z))
        if told.any() and known.sum() > 1:
            loss[told] = cross_entropy(logits[told], place[self.labels[told]], reduction="none")
        yield loss

    def along(self, seen: Seen) -> Tensor:
        """[n, 2 or 3] of one update: `losses` where it ends, and the slope there of their sum along it.

        The slope is the inner product of a row's gradient with the update: the cosine of one-shot canaries (Andrew et
        al. 2024, arXiv 2302.03098), but for the row's own norm.
        """
        assert self.model is not None
        here = self.losses(seen.head)
        sides = []
        for share in (0.5, 1.5):
            self.model.shared.load({n: v + share * (seen.after[n] - v) for n, v in seen.before.items()})
            sides.append(self.losses(seen.head).sum(1))
        self.model.shared.load(seen.after)
        return torch.cat([here, (sides[1] - sides[0])[:, None]], 1)

    def follow(self, messages: Sequence[Message]) -> Iterator[Seen]:
        """Each update of a node in turn, the double's model set to what the node had become."""
        assert self.model is not None
        shared, head = self.model.shared, None
        before = dict(self.start)
        for message in messages:
            if isinstance(message, Down):
                head = message.head if message.head is not None else head
                before |= {n: v for n, v in message.adapters.items() if n in before}
            elif isinstance(message, Up) and message.adapters:
                own = sent(message, before)
                shared.load(before | own)
                yield Seen(message, head, {name: before[name] for name in own}, own)
        shared.load(before)


def last_head(messages: Sequence[Message]) -> Tensor | None:
    """Class directions that a node was sent last."""
    heads = [m.head for m in messages if isinstance(m, Down) and m.head is not None]
    return heads[-1] if heads else None


def sent(update: Up, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adapters as the node had them: without the precisions they may travel with."""
    out = {}
    for name, value in update.adapters.items():
        if update.precision:
            weight = update.precision[name]
            value = torch.where(weight > 0, value / weight, before[name])
        out[name] = value
    return out
