"""What the doctor says, as values: they go into JSON and come back as they were. How it is found: `isogram.doctor`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

LEVELS = {"error": "✗", "refusal": "✗", "warning": "!", "note": "·"}
"""Of findings, worst first, each with its sign."""


@dataclass(frozen=True)
class Finding:
    """error: cannot run; refusal: should not, `--force` overrides; warning; note. remedy: "" for notes."""

    level: Literal["error", "refusal", "warning", "note"]
    where: str
    what: str
    remedy: str


@dataclass(frozen=True)
class PairTest:
    """One pair of modalities on the anchors they have in common.

    cka: debiased, of their shrunk Grams; z: cka over its sd under permutation; p: of the permutation test, and the
    level that it must not exceed. auc: how often a held-out anchor's true partner ranks before a random other one (.5
    is chance); r1: share of them found first, and by chance. Of an untested pair all figures say nothing: 0, 1 and .5.
    """

    a: str
    b: str
    anchors: int
    cka: float
    z: float
    p: float
    level: float
    auc: float
    r1: float
    chance: float
    verdict: Literal["aligned", "not shown", "untested"]


@dataclass(frozen=True)
class Coverage:
    """What one modality holds: its nodes, `anchors` of `of`, how many are synthetic; constant of `features` columns."""

    modality: str
    nodes: tuple[str, ...]
    anchors: int
    of: int
    synthetic: int
    features: int
    constant: int


@dataclass(frozen=True)
class Group:
    """Modalities that chains of common anchors connect, and how many anchors they hold together."""

    modalities: tuple[str, ...]
    anchors: int


@dataclass(frozen=True)
class Suspect:
    """An anchor whose item does not go with the others; "log or vibration" where nobody can tell which one is off."""

    modality: str
    anchor: str
    probability: float


@dataclass(frozen=True)
class Diagnosis:
    """All that the doctor found. duplicates: (modality, anchor, anchor); uninformative: (modality, anchor)."""

    pairs: tuple[PairTest, ...]
    coverage: tuple[Coverage, ...]
    groups: tuple[Group, ...]
    suspects: tuple[Suspect, ...]
    duplicates: tuple[tuple[str, str, str], ...]
    uninformative: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> list[Finding]:
        """What keeps it from running."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def refusals(self) -> list[Finding]:
        """What it should not be run with."""
        return [finding for finding in self.findings if finding.level == "refusal"]

    @property
    def warnings(self) -> list[Finding]:
        """What to look at."""
        return [finding for finding in self.findings if finding.level == "warning"]

    @property
    def ok(self) -> bool:
        """Neither error nor refusal."""
        return not self.errors and not self.refusals

    @property
    def connected(self) -> bool:
        """Do chains of common anchors connect all modalities?"""
        return len(self.groups) == 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return _plain(asdict(self))

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        return cls(
            pairs=tuple(PairTest(**pair) for pair in found["pairs"]),
            coverage=tuple(Coverage(**{**c, "nodes": tuple(c["nodes"])}) for c in found["coverage"]),
            groups=tuple(Group(tuple(g["modalities"]), g["anchors"]) for g in found["groups"]),
            suspects=tuple(Suspect(**suspect) for suspect in found["suspects"]),
            duplicates=tuple((m, a, b) for m, a, b in found["duplicates"]),
            uninformative=tuple((m, a) for m, a in found["uninformative"]),
            findings=tuple(Finding(**finding) for finding in found["findings"]),
        )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
