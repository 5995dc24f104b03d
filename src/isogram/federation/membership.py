"""Nodes elsewhere as a server knows them: what they say of themselves, and how many of them a step needs."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from isogram.errors import MessageError
from isogram.federation.exchange import Member

LONGEST = 500
"""Letters of a text that a node says."""

_VERSION = "install the version that the server has"


@dataclass(frozen=True, eq=False)
class Away:
    """A node elsewhere, as the server knows it: `Member`."""

    name: str
    modality: str
    index: Tensor
    labelled: bool


@dataclass(frozen=True)
class Quorum:
    """How many answers a step needs: of all nodes that it asks, and of those of each modality."""

    nodes: int = 1
    per_modality: int = 1

    def lacking(self, asked: Sequence[Member], answered: Collection[str]) -> str:
        """What is too few, in words; "" if there are enough. Of fewer nodes than the quorum, all that were asked."""
        there = [member for member in asked if member.name in answered]
        if len(there) < min(self.nodes, len(asked)):
            return f"{len(there)} of {len(asked)} nodes answered, and min_nodes is {self.nodes}"
        for modality in dict.fromkeys(member.modality for member in asked):
            of = [member.modality == modality for member in asked]
            found = sum(member.modality == modality for member in there)
            if found < min(self.per_modality, sum(of)):
                return (
                    f"{found} of {sum(of)} nodes of {modality!r} answered, and min_per_modality is {self.per_modality}"
                )
        return ""


@dataclass(frozen=True)
class Facts:
    """What a node says of itself."""

    modality: str
    source: str
    anchor_hash: str
    anchors: int
    classes: int
    index: list[int]
    labelled: bool

    @classmethod
    def of(cls, name: str, found: Mapping[str, Any] | str) -> Self:
        """Of an answer to `HELLO`.

        Raises:
            MessageError: it is something else, or says why there is none.
        """
        if isinstance(found, str):
            raise MessageError(found)
        texts, numbers = (
            dict.fromkeys(("modality", "source", "anchor_hash"), str),
            dict.fromkeys(("anchors", "classes"), int),
        )
        kinds: dict[str, type] = {**texts, **numbers, "index": list, "labelled": bool}
        if found.keys() != kinds.keys() or any(type(found[key]) is not kind for key, kind in kinds.items()):
            raise MessageError(f"node {name!r} says of itself something else than {', '.join(kinds)}: {_VERSION}")
        places, anchors = found["index"], found["anchors"]
        if any(type(at) is not int or not 0 <= at < anchors for at in places) or sorted(set(places)) != places:
            raise MessageError(f"node {name!r} names places of anchors that are none: {_VERSION}")
        return cls(**found)

    @property
    def agreed(self) -> tuple[str, str, int, int]:
        """What all nodes need alike."""
        return self.source, self.anchor_hash, self.anchors, self.classes

    def unlike(self, name: str, modality: str, agreed: tuple[str, str, int, int], began: "Facts | None" = None) -> str:
        """Why the node cannot take part, or not go on from what it began with; "" if it can."""
        source, anchor_hash, anchors, n_classes = agreed
        if self.modality != modality:
            held = self.modality[:LONGEST]
            return f"node {name!r} holds {held!r}, the consortium file says {modality!r}: correct one of them"
        if (self.source, self.anchor_hash) != (source, anchor_hash):
            own, theirs = (self.source, source) if self.source != source else (self.anchor_hash, anchor_hash)
            return (
                f"node {name!r} has anchors {own[:8]!r}, and {theirs[:8]!r} are agreed on: give it the same anchor set"
            )
        if (self.anchors, self.classes) != (anchors, n_classes):
            return (
                f"node {name!r} knows {self.anchors} anchors and {self.classes} classes, and {anchors} and {n_classes} "
                "are agreed on: give it the same anchor set and classes"
            )
        if began not in (None, self):
            return f"node {name!r} has other anchors or labels than when the run began: give it back those of then"
        return ""
