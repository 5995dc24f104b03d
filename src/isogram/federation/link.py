"""What carries bytes between a server and nodes elsewhere; an engine implements it, and knows nothing of the rest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Lost:
    """A node that did not answer: why, in words."""

    why: str


class Link(Protocol):
    """Carries requests and answers; all nodes at once."""

    def ask(
        self, requests: Mapping[str, bytes], wait: float, arrived: Callable[[str], None] = lambda name: None
    ) -> dict[str, bytes | Lost]:
        """Send each named node its request.

        Args:
            requests: by name of the node.
            wait: seconds, after which a node that has not answered counts as lost.
            arrived: told each node that has answered, when it does.

        Returns:
            What came back of each node, in the order of the requests.
        """
        ...
