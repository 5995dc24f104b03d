"""A node in rounds: the model that starts as its map, local steps, and the update that they end in."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from isogram.accountant import budget_of
from isogram.alignment import LinearMap, center, gram, pack, shrink, unpack
from isogram.config import AverageConfig, TrainConfig
from isogram.data import AnchorItems
from isogram.errors import MessageError
from isogram.local.node import flat_rows, stream
from isogram.local.private_step import PrivateStep, refuse_mixing
from isogram.local.summing import SummingNode
from isogram.messages import Down, Up
from isogram.model import NodeModel, Projector, SharedModel
from isogram.model.adapters import gradient_sketches
from isogram.objective import Step, loss, task
from isogram.validation import Expected


class Node(SummingNode):
    """A silo. Methods named `send_*` return a message; all others keep what they compute.

    Raises:
        AnchorError: fewer than four anchors of this node's modality.
    """

    def start_training(self, shared: SharedModel) -> None:
        """Build the model on the current map.

        Training sees cross-fitted anchors, each by a map that was fitted without it, as new rows will be seen; by the
        full map their residual would say nothing about new rows.
        """
        assert isinstance(self.map, LinearMap) and self.target is not None, "fit the node first"
        n_tokens = self.data.tokens.shape[1]
        learnt = self.class_part is not None
        self.model = NodeModel(self.map, n_tokens, shared, self.kept if learnt else None).to(self.device)
        if self.noise is not None and shared.trunk is not None:
            refuse_mixing(shared.trunk, shared.trunk.width, n_tokens)
        self.base_rows = self.model.projector.base(self._standard_tokens(flat_rows(self.data.tokens)))
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

        Arguments and errors as `_trained`.
        """
        fields, values = self._trained(down, sketch)
        return self._up("update", down.round, **fields), values

    def train_summand(self, down: Down, sketch: int = 0) -> dict[str, float]:
        """The same steps; what they gave stays here until a secure sum is made of it (`summand`).

        Its fields: adapters/NAME, times what they weigh; precision/NAME where they are weighed by it, else the one
        number `weight`; sketch/LAYER. Arguments and errors as `_trained`.
        """
        fields, values = self._trained(down, sketch)
        adapters, precision = fields["adapters"], fields["precision"]
        weight = float(fields["samples"] or 1)
        if not precision:
            adapters = {name: weight * value.double() for name, value in adapters.items()}
        self.summand = (
            {f"adapters/{name}": value for name, value in adapters.items()}
            | ({f"precision/{n}": v for n, v in precision.items()} or {"weight": torch.tensor(weight)})
            | {f"sketch/{name}": value for name, value in fields["sketches"].items()}
        )
        return values

    def _trained(self, down: Down, sketch: int) -> tuple[dict[str, Any], dict[str, float]]:
        """Fields of an update, and the mean of each loss term.

        Args:
            down: frame, geometry, head, other nodes' anchor embeddings: what the loss needs.
            sketch: number of the refresh that these steps' gradients are sketched for, 0 for none.

        Raises:
            MessageError: under differential privacy, a round that was trained before or that the budget does not have.
        """
        assert self.model is not None
        train, shared = self.config.train, self.shared
        turn = shared.train_turn(down.round - 1)
        if self.noise is not None:
            # What does not train has no part in a row's gradient, which is clipped as a whole.
            self.model.projector.change.requires_grad_(train.projector_lr > 0)
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
        private = self._private_step(optimiser)
        if private is not None:
            if not 1 <= down.round - 1 <= train.rounds:
                raise MessageError(f"node {self.name!r} trains {train.rounds} rounds; nobody may ask for another one")
            self._release(f"steps of round {down.round - 1}")
        with gradient_sketches(shared, sketch) as sketches:
            for number in range(train.steps):
                total, terms = loss(self._step(down, geometry, previous, draw), train)
                optimiser.zero_grad()
                if terms:  # a node without labels has nothing to learn from the task term alone
                    total.backward()
                if private is not None:
                    purpose = ("round", down.round, number)
                    rows = self._sample(purpose)
                    private.add_gradient(self._task_of(rows, down), len(rows), purpose)
                if terms or private is not None:
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
        fields = {
            "adapters": sent,
            "precision": precision,
            "sketches": {name: value.cpu() for name, value in sketches.items()},
            "model": shared.about if sent else "",
            "samples": len(self.data.tokens) if self.config.average.counts_rows else 0,
        }
        return fields, values

    def send_trained_gram(self, round: int) -> Up:
        """Shrunk Gram of the anchors' current coordinates."""
        own = shrink(gram(self.embed_anchors()), self.config.align.rho)
        return self._up("gram", round, gram=pack(own), quality=self.quality)

    def send_embeddings(self, round: int) -> Up:
        """The anchors' coordinates themselves: only in peers that share them."""
        return self._up("embeddings", round, embeddings=self.embed_anchors())

    def send_blocks(self, items: AnchorItems, frame: Tensor, round: int) -> Up:
        """Similarities of held-out anchors to the frame's anchors, under the starting map and under the trained model.

        The server needs them to say which of the two finds held-out anchors better.

        Raises:
            EgressError: the items, or the frame, are private rows.
        """
        assert self.map is not None
        self.gate.refuse_rows("blocks", torch.from_numpy(items.tokens))
        if self._are_rows(frame):
            raise self.gate.shows_rows("blocks")
        self.trial = items
        flat, frame = flat_rows(items.tokens), frame.double()
        start, trained = self.map(flat) @ frame.T, self.embed(items.tokens) @ frame.T
        index = torch.from_numpy(items.index).int()
        return self._up("blocks", round, index=index, block_start=start, block_trained=trained)

    def fall_back(self) -> None:
        """Use the starting map again."""
        self.model = None

    def _expected(self, kind: str, round: int, given: Collection[str]) -> Expected:
        expected = super()._expected(kind, round, given)
        if kind != "update":
            return expected
        shapes = {name: tuple(value.shape) for name, value in self.shared.update(round - 1).items()}
        groups = {
            "adapters": shapes,
            "precision": shapes if self.config.average.rule == "parameter" else {},
            "sketches": self.shared.sketch_shapes() if "sketches" in given else {},
        }
        counted = self.config.average.counts_rows
        return replace(expected, groups=groups, model=self.shared.about if shapes else "", counted=counted)

    def _step(self, down: Down, geometry: Tensor | None, previous: Tensor, draw: torch.Generator) -> Step:
        assert self.model is not None
        train = self.config.train
        # Under differential privacy terms of private rows have a gradient of their own, see `private_step`; and a draw
        # of anchors that came after one of rows would tell how many these are.
        n_rows = len(self.base_rows) if self.noise is None else 0
        rows = torch.randperm(n_rows, generator=draw)[: train.batch]
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
        if down.head is not None and self.noise is None and self.data.classes and self.class_part is None:
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

    def _private_step(self, optimiser: torch.optim.Optimizer) -> PrivateStep | None:
        """What adds the gradient of the task term under differential privacy; None where there is none to add."""
        budget = None if self.noise is None else budget_of(self.config)
        if budget is None or budget.step is None or not self.labelled:
            return None
        assert self.model is not None and self.noise is not None
        train, clip = self.config.train, self.config.privacy.clip
        return PrivateStep(self.model, optimiser, self.noise, clip, budget.step, train.weights.task / train.batch)

    def _sample(self, purpose: tuple[object, ...]) -> Tensor:
        """A Poisson sample of the private rows, by position."""
        assert self.noise is not None
        return self.noise.sample(len(self.base_rows), self.config.privacy.rate, *purpose, "rows")

    def _task_of(self, rows: Tensor, down: Down) -> Callable[[], Tensor | None]:
        """The task term of some private rows, summed over them; None if none has a class to learn."""
        assert self.model is not None
        model, temperature = self.model, self.config.train.temperature

        def term() -> Tensor | None:
            if down.head is None or not len(rows):
                return None
            z = model.from_base(self.base_rows[rows.to(self.device)].requires_grad_())  # as a hook needs it
            labels, nothing = self._one_hot(len(down.head))[rows].float(), z.new_zeros(0, z.shape[1])
            live = torch.zeros(0, dtype=torch.int64)
            step = Step(anchors=nothing, live=live, rows=z, teacher=z, labels=labels, head=down.head)
            return task(step.to(self.device), temperature, "sum")

        return term


def refresh_number(train: TrainConfig, number: int) -> int:
    """Number of the refresh that ends a round, counted from 1 both; 0 where none does."""
    return number // train.refresh if train.refresh and number % train.refresh == 0 else 0


def sketched(train: TrainConfig, number: int) -> int:
    """Number of the refresh that the gradients of a round are sketched for; 0 for none."""
    return refresh_number(train, number) if train.refresh_basis == "gradient" else 0


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
