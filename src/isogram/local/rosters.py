"""Which nodes a node's values were summed with: of two sums over other nodes the difference may be one node's values.

A server that follows the protocol makes such sums without meaning to: it is stopped after one and, when it goes on, a
node is away; or a node comes back. Each node therefore keeps, with its state, a digest of the names for each thing that
it has given to a sum, and gives it to no sum over others.
"""

import hashlib
import json
from collections.abc import Collection

from isogram.errors import MessageError

HELD_BACK = "keeps them to itself"
"""In the line of a node that is there, and gives no values: for the quorum it has answered."""


class Rosters:
    """What went into a sum, and with whom.

    Args:
        kept: what -> digest of the names; changed in place.
    """

    def __init__(self, kept: dict[str, str]) -> None:
        self.kept = kept
        self._open: tuple[str, int] | None = None

    def check(self, what: str, names: Collection[str]) -> None:
        """Look whether values may go into a sum over these nodes.

        Raises:
            MessageError: they have gone into one over others.
        """
        if self.kept.get(what, found := _digest(names)) != found:
            those = ", ".join(map(repr, sorted(names)))
            raise MessageError(
                f"this node's {what} went into a sum over other nodes than {those}, and the difference would be single "
                f"nodes': it {HELD_BACK}"
            )

    def give(self, what: str, round: int, names: Collection[str]) -> None:
        """Note that values go into a sum over these nodes, or over some of them: see `close`.

        Raises:
            MessageError: as `check`.
        """
        self.check(what, names)
        if what not in self.kept:
            self.kept[what] = _digest(names)
            self._open = what, round

    def close(self, what: str, round: int, names: Collection[str]) -> None:
        """Note over which of them the sum was: the server has told it, in the sum that they were given to first.

        Raises:
            MessageError: as `check`.
        """
        if self._open == (what, round):
            self.kept[what], self._open = _digest(names), None
        self.check(what, names)

    def reopen(self, what: str, round: int) -> None:
        """A server that begins a sum again in the same round could make nothing of the first: it is forgotten.

        Not so if either side was started again in between; then nobody here knows.
        """
        if self._open == (what, round):
            del self.kept[what]
            self._open = None


def _digest(names: Collection[str]) -> str:
    return hashlib.sha256(json.dumps(sorted(names)).encode()).hexdigest()
