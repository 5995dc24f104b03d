"""How a server reaches its nodes: what it knows of each, and the way that requests go. Here: nodes in this process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from isogram.errors import MessageError
from isogram.local import Node
from isogram.local.steps import STEPS, TRAINING
from isogram.messages import Down, Up

Heard = Callable[[str, Mapping[str, float]], None]
"""Told the name of a node when it begins (no terms) and when it has done its steps (its mean loss terms)."""


class Member(Protocol):
    """What a server knows of a node: its anchors' positions `index` [k], and whether it speaks of classes."""

    @property
    def name(self) -> str:
        """Of the node."""
        ...

    @property
    def modality(self) -> str:
        """That it holds."""
        ...

    @property
    def index(self) -> Tensor:
        """Positions of its anchors among all, [k]."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether it speaks of classes."""
        ...


@dataclass(frozen=True)
class Asked:
    """A step that nodes are asked for, and answer with a message each.

    step: of `local.steps.STEPS`. round: that the server is in. prepare: the message that a node is asked with, made
    when it is reached, and not for all before. heard: told who begins and who has done.
    """

    step: str
    round: int
    members: Sequence[Member]
    prepare: Callable[[Member], Down]
    heard: Heard


Answers = Iterator[tuple[Member, Up | bytes | MessageError]]
"""In order of the members that were asked: what each answers, or why it does not."""


class Exchange(Protocol):
    """Ways to reach nodes."""

    def tell(self, step: str, member: Member, down: Down) -> None:
        """Have a node take a message, now or, over a wire, with the next that it is asked for."""
        ...

    def ask(self, asked: Asked) -> Answers:
        """Ask each node for its message of a round."""
        ...

    def excuse(self, member: Member, error: MessageError) -> bool:
        """Whether a step may go on without this node's message."""
        ...

    def settle(self, asked: Sequence[Member], answered: Sequence[str]) -> None:
        """Look whether enough messages of a step can be used.

        Raises:
            FederationError: too few.
        """
        ...


class InProcess:
    """Nodes that live here, each called when it is its turn.

    Args:
        nodes: all that there are.
        restore: puts the averaged adapters of a node's group in place: another node of it has trained in between.
    """

    def __init__(self, nodes: Sequence[Node], restore: Callable[[Node], None]) -> None:
        self._nodes, self._restore = {node.name: node for node in nodes}, restore

    def tell(self, step: str, member: Member, down: Down) -> None:
        """As `Exchange.tell`, now."""
        if step in TRAINING:
            self._restore(self._nodes[member.name])
        STEPS[step].do(self._nodes[member.name], down, down.round)

    def ask(self, asked: Asked) -> Answers:
        """As `Exchange.ask`, one after the other."""
        for member in asked.members:
            node = self._nodes[member.name]
            asked.heard(node.name, {})
            if asked.step in TRAINING:
                self._restore(node)
            down, terms = asked.prepare(member), dict[str, float]()
            try:
                answer = STEPS[asked.step].do(node, down, asked.round)
                assert answer.up is not None
                terms |= answer.terms
                yield member, answer.up
            except MessageError as error:
                yield member, error
            asked.heard(node.name, terms)

    def excuse(self, member: Member, error: MessageError) -> bool:
        """As `Exchange.excuse`: a node of this process has no reason to fail."""
        return False

    def settle(self, asked: Sequence[Member], answered: Sequence[str]) -> None:
        """As `Exchange.settle`: all of them are there, or something was raised."""
