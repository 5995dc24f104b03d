"""What a node does with classes: sums of its labelled rows for the head, and classes learnt from the head in turn."""

import json

import torch
from torch import Tensor
from torch.nn.functional import normalize

from isogram.accountant import budget_of
from isogram.alignment import LinearMap, classes, pack
from isogram.errors import MessageError
from isogram.local.node import AlignedNode, flat_rows, stream
from isogram.local.rosters import Rosters
from isogram.messages import Down, Up
from isogram.privacy import head_rank
from isogram.secure_sum import MIN_EVIDENCE, SumParty

MIN_VOTE = 2
"""Rows of a class at the node, below which its direction would be that of a single row."""

_COUNTS = "class counts"
"""The same in all rounds of a run; and class sums are made with whom they were made with."""


class LabelledNode(AlignedNode):
    """An aligned silo that speaks of its classes, and learns those that others speak of."""

    party: SumParty | None = None
    """This node's side of the secure sum that is going on; it dies with the process."""

    rosters: Rosters | None = None
    """With whom its values were summed; None where the server lives in this process, and nobody else sees a sum."""

    def send_key(self, round: int) -> Up:
        """Public key for the secure sums of class counts and class sums."""
        if self.rosters is not None:
            self.rosters.reopen(_COUNTS, round)
        self.party = SumParty()
        return self._up("key", round, key=self.party.key, masked=True)

    def send_counts(self, down: Down, n_classes: int) -> Up:
        """Labelled rows per class, masked so that only the total over nodes shows.

        A node that is alone with its labels has nobody to hide among: in one process with the others it keeps counts of
        too few rows to itself, elsewhere all.

        Raises:
            MessageError: under differential privacy; or its counts went into a sum over other nodes.
        """
        self._without_noise("class counts")
        assert down.keys is not None
        if self.rosters is not None:
            names = self._summed_with(down)
            self.rosters.give(_COUNTS, down.round, names)
        counts = self._one_hot(n_classes).sum(0)
        if len(down.keys) == 1:
            counts = torch.where(counts >= MIN_EVIDENCE, counts, 0)
        counts = self._masked(counts, down, "counts")
        return self._up("counts", down.round, counts=counts, masked=len(down.keys) > 1)

    def send_head(self, down: Down) -> Up:
        """Class sums [C, r] of private rows' unit coordinates, masked; 0 for classes that too few rows speak for.

        Where it is asked for, also the second moment of these rows.

        Raises:
            MessageError: under differential privacy; or its counts went into a sum over other nodes.
        """
        self._without_noise("class sums")
        self._as_counted(down)
        assert down.keys is not None and down.evidence is not None
        rows = normalize(self.embed(self.data.tokens), dim=1)
        counted = self._one_hot(len(down.evidence)) * down.evidence
        head, second = self._masked(counted.T @ rows, down), None
        if down.second:
            rows = rows[counted.any(1)]
            second = self._masked(pack(rows.T @ rows), down, "second")
        return self._up("sums", down.round, head=head, second=second, masked=len(down.keys) > 1)

    def send_noisy_head(self, down: Down) -> Up:
        """Class sums of unit rows in the leading coordinates, each number with Gaussian noise, masked.

        A row adds one vector of length 1 to one class's sum, so that is what one row changes them by at most. Of all
        classes that there are: which of them the rows have is private, too. The node adds noise enough for itself; it
        trusts neither the server nor the other nodes of the sum.

        Raises:
            MessageError: it is asked a second time.
        """
        self._release("class sums")
        budget = budget_of(self.config)
        assert down.keys is not None and down.evidence is not None and self.noise is not None and budget is not None
        n_classes = len(down.evidence)
        rows = self.embed(self.data.tokens)
        width = head_rank(self.config.privacy, n_classes, rows.shape[1])
        sums = torch.zeros(n_classes, rows.shape[1], dtype=torch.float64)
        noise = self.noise.gaussian((n_classes, width), budget.head, "head", down.round)
        sums[:, :width] = self._one_hot(n_classes).T @ normalize(rows[:, :width], dim=1) + noise
        head = self._masked(sums, down)
        return self._up("sums", down.round, head=head, masked=len(down.keys) > 1)

    def send_scores(self, down: Down) -> Up:
        """Class directions [C, r] by what the node makes of the anchors, times its rows of each class, masked.

        In the place of class sums, see `send_head`: no coordinate of a private row enters.

        Raises:
            MessageError: as `send_head`.
        """
        self._without_noise("class directions by the anchors")
        self._as_counted(down)
        assert down.keys is not None and down.evidence is not None
        counted = self._one_hot(len(down.evidence)) * down.evidence
        directions = self._directions(counted) * counted.sum(0)[:, None]
        sums = self._masked(directions, down)
        return self._up("sums", down.round, head=sums, masked=len(down.keys) > 1)

    def send_directions(self, round: int, n_classes: int) -> Up:
        """Unit class directions [C, r] by what the node makes of the anchors, for the server to compare: bare.

        NaN for classes of fewer than `MIN_VOTE` of the node's rows, and for all if but one has as many.

        Raises:
            MessageError: under differential privacy.
        """
        self._without_noise("bare class directions")
        counted = self._one_hot(n_classes)
        counted = counted * (counted.sum(0) >= MIN_VOTE)
        found = normalize(self._directions(counted), dim=1)
        return self._up("directions", round, directions=torch.where(found.any(1, keepdim=True), found, torch.nan))

    def _as_counted(self, down: Down) -> None:
        """Look whether class sums are over the nodes whose counts were summed."""
        if self.rosters is not None:
            self.rosters.close(_COUNTS, down.round, self._summed_with(down))

    def _summed_with(self, down: Down) -> list[str]:
        """Names of the nodes in a sum.

        Raises:
            MessageError: not one for each key.
        """
        assert down.names is not None and down.keys is not None
        names: list[str] = json.loads(down.names.numpy().tobytes())
        if len(names) != len(down.keys) or self.name not in names:
            raise MessageError(f"node {self.name!r} was sent {len(down.keys)} keys of {len(names)} nodes")
        return names

    def _masked(self, values: Tensor, down: Down, purpose: str = "sum") -> Tensor:
        """Values for a secure sum over the nodes whose keys a message has.

        Raises:
            MessageError: as `SumParty.masked` does; names the node.
        """
        assert down.keys is not None
        if self.party is None:
            raise MessageError(
                f"node {self.name!r} was started again since it sent its key for this sum, and keeps no secret on "
                "disk; begin the sum again"
            )
        try:
            return self.party.masked(values, down.keys, down.round, purpose)
        except MessageError as error:
            raise MessageError(f"node {self.name!r}: {error}") from error

    def _directions(self, counted: Tensor) -> Tensor:
        """[C, r] by rows and their classes [N, C]; 0 for classes without a row, and for all if there is but one."""
        assert self.target is not None
        rows, own = counted.any(1), counted.any(0)
        if own.sum() < 2:
            return torch.zeros(len(own), self.target.shape[1], dtype=torch.float64)
        x = self.standardize(flat_rows(self.data.tokens[rows.numpy()]))
        scores = classes.anchor_scores(x, counted[rows].argmax(1), self.standardize(self.anchors), len(own))
        return classes.evidence_head(scores, self.target)

    def learn_classes(self, down: Down) -> None:
        """Spread the classes of the head over the node's rows, and learn the map's part in their directions from them.

        A node that labels some of the classes alone learns nothing: its rows say too little of the others. `kept` is
        the span of the directions, where the frame term costs accuracy (docs/log.md): rounds leave the map there as it
        is at a node that has learnt, and take nothing from the anchors there at one that labels some classes.

        Raises:
            MessageError: under differential privacy.
        """
        self._without_noise("a map that has learnt classes")
        assert down.head is not None and self.target is not None
        self.learnt = down
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
            tokens = self._standard_tokens(torch.cat([self.anchors[sound], flat_rows(self.data.tokens)])).double().cpu()
            seen = tokens.flatten(1)
            students = [seen] * classes.STUDENTS + [classes.beside_waves(seen, waves)]
            spread = classes.spread(classes.views(tokens), self.target[sound], places, labels, head, students)
            if spread is None:
                return
            labels = spread
        assert isinstance(self.map, LinearMap)
        self.class_part = classes.class_part(self.map, flat_rows(self.data.tokens), labels, head, waves)
        if self.class_part is not None:
            self.kept = classes.span(head)
            self.map = self._fitted(slice(None))

    def _one_hot(self, n_classes: int) -> Tensor:
        assert self.data.labels is not None
        labels = torch.from_numpy(self.data.labels)
        one_hot = torch.zeros(len(labels), n_classes, dtype=torch.float64)
        one_hot[labels >= 0, labels[labels >= 0]] = 1
        return one_hot
