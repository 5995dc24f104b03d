"""What may leave a node: every field of every kind of message, of what it is a function, and which settings need it.

docs/privacy.md shows the list as a table.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from isogram.config import Config

Source = Literal["public data alone", "private rows", "trained parameters", "a fresh key"]
"""Of what a field is a function; private rows: with their labels."""


@dataclass(frozen=True)
class Case:
    """What a node may be, beside its settings: has labels, lacks anchors, has weights of its anchors."""

    config: Config
    labelled: bool
    lacking: bool
    weighted: bool


@dataclass(frozen=True)
class Release:
    """One field of one kind of message.

    kind: as in `validation.KINDS`, but that Grams of trained coordinates have a name of their own. when: in which runs;
    remedy: how to do without; masked: by fresh keys, so that its bytes are others in each run.
    """

    kind: str
    field: str
    of: Source
    when: str
    remedy: str
    needed: Callable[[Case], bool]
    masked: bool = False


def _trains(case: Case) -> bool:
    return case.config.train.rounds > 0


def _adapts(case: Case) -> bool:
    return _trains(case) and case.config.model.trunk != "none"


def _moves(case: Case) -> bool:
    return _trains(case) and case.config.train.frame_update > 0


def _peers(case: Case) -> bool:
    return _trains(case) and case.config.train.weights.of_peers


def _sketches(case: Case) -> bool:
    train = case.config.train
    return _adapts(case) and train.refresh > 0 and train.refresh_basis == "gradient"


def _labels(case: Case) -> bool:
    average = case.config.average
    return case.labelled and (average.robust == "none" or average.head != "anchors")


def _votes(case: Case) -> bool:
    return case.labelled and case.config.average.robust != "none"


def _never(case: Case) -> bool:
    return False


def _bare(case: Case) -> bool:
    return _trains(case) and not case.config.average.secure


def _summed(case: Case) -> bool:
    return case.config.align.secure or (_trains(case) and case.config.average.secure)


_NO_ROUNDS = "set train.rounds = 0"
_NO_LABELS = "give the node no labels"
_SUMS = 'and not both average.robust and average.head = "anchors" are set'
_TRIAL = "in a trial on held-out anchors alone (`federation.keep_better`)"
_SUM = "align.secure, or train.rounds > 0 and average.secure"
_NO_SUM = "set align.secure and average.secure to false"
_BY_PEERS = "a loss term of peers has a weight (prototype, inter, intra, muscle)"

_SENT = (
    Release(
        "gram",
        "gram",
        "public data alone",
        "not align.secure",
        "set align.secure = true",
        lambda case: not case.config.align.secure,
    ),
    Release(
        "trained_gram",
        "gram",
        "trained parameters",
        "train.frame_update > 0",
        "set train.frame_update = 0",
        _moves,
    ),
    Release("key", "key", "a fresh key", f"the node has labels, {_SUMS}", _NO_LABELS, _labels, masked=True),
    Release(
        "counts",
        "counts",
        "private rows",
        f"the node has labels, privacy.epsilon = 0, {_SUMS}",
        _NO_LABELS,
        lambda case: _labels(case) and not case.config.privacy.epsilon,
        masked=True,
    ),
    Release("sums", "head", "private rows", f"the node has labels, {_SUMS}", _NO_LABELS, _labels, masked=True),
    Release(
        "sums",
        "second",
        "private rows",
        'the node has labels, and average.head = "laplace"',
        'set average.head = "anchors"',
        lambda case: _labels(case) and case.config.average.head == "laplace",
        masked=True,
    ),
    Release(
        "directions",
        "directions",
        "private rows",
        'the node has labels, and average.robust is not "none"',
        'set average.robust = "none"',
        _votes,
    ),
    Release("embeddings", "embeddings", "trained parameters", _BY_PEERS, "set these weights to 0", _peers),
    Release("pair", "pair", "a fresh key", _SUM, _NO_SUM, _summed, masked=True),
    Release("parcels", "parcels", "a fresh key", _SUM, _NO_SUM, _summed, masked=True),
    Release("summand", "summand", "trained parameters", _SUM, _NO_SUM, _summed, masked=True),
    Release("shares", "shares", "a fresh key", _SUM, _NO_SUM, _summed, masked=True),
    Release("blocks", "block_start", "private rows", _TRIAL, "keep the trained model", _never),
    Release("blocks", "block_trained", "trained parameters", _TRIAL, "keep the trained model", _never),
    Release(
        "update",
        "adapters",
        "trained parameters",
        "train.rounds > 0 and not average.secure",
        "set average.secure = true",
        lambda case: _adapts(case) and _bare(case),
    ),
    Release(
        "update",
        "samples",
        "private rows",
        'train.rounds > 0, average.rule = "samples" or "node", average.robust = "none", and not average.secure',
        'set average.rule = "uniform"',
        lambda case: _bare(case) and case.config.average.counts_rows,
    ),
    Release(
        "update",
        "precision",
        "trained parameters",
        'average.rule = "parameter" and not average.secure',
        'set average.rule = "samples"',
        lambda case: _adapts(case) and _bare(case) and case.config.average.rule == "parameter",
    ),
    Release(
        "update",
        "sketches",
        "trained parameters",
        'train.refresh > 0 and train.refresh_basis = "gradient"',
        'set train.refresh_basis = "random"',
        _sketches,
    ),
)


def _with_anchors(sent: Iterable[Release]) -> Iterator[Release]:
    """With every kind, which anchors the node holds; with Grams, their weights."""
    last = ""
    for release in sent:
        if release.kind != last:
            when, remedy = "the node lacks some anchors", "give the node all anchors"
            if release.needed is _never:
                when, remedy = release.when, release.remedy
            of, needed = release.needed, lambda case, of=release.needed: case.lacking and of(case)
            yield Release(release.kind, "index", "public data alone", when, remedy, needed)
            if release.field == "gram":
                when, remedy = "anchors have weights, their own or by align.robust", "set align.robust = false"
                weighted = lambda case, of=of: case.weighted and of(case)  # noqa: E731
                yield Release(release.kind, "quality", "public data alone", when, remedy, weighted)
        last = release.kind
        yield release


RELEASES = tuple(_with_anchors(_SENT))
"""All that can leave a node, in the order in which a run sends it."""

WORDS = {
    "gram": "similarities between the public anchors, made from public data alone",
    "trained_gram": "similarities between the public anchors as the trained model sees them",
    "key": "a public key, made for one sum",
    "counts": "how many rows of each class the node has",
    "sums": "a sum over the node's labelled rows for each class",
    "directions": "a direction for each class that the node labels, not masked",
    "embeddings": "coordinates of the public anchors",
    "pair": "two public keys, made for one sum",
    "parcels": "shares of keys made for one sum, sealed for the other nodes",
    "summand": "the anchors' Gram, or adapters after training on the node's rows, and what they weigh, masked",
    "shares": "of each node one share of a key made for one sum, to take masks off that sum",
    "blocks": "similarities of held-out public anchors to the others, before and after training",
    "update": "adapters of the shared model after training on the node's rows; how many these are, if they weigh",
}
"""What a message of each kind is, in a line."""


def kind_in(kind: str, round: int) -> str:
    """A kind's name on the list: a Gram after alignment is one of trained coordinates."""
    return "trained_gram" if kind == "gram" and round > 1 else kind
