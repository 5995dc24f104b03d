"""Updates in the order of their nodes' names: no sum may depend on who answered first."""

from collections.abc import Sequence

from isogram.errors import MessageError
from isogram.messages import Up


def in_order(updates: Sequence[Up]) -> list[Up]:
    """Updates sorted by node name, so that sums do not depend on who answered first.

    Raises:
        MessageError: two updates of one node, or of different anchor sets or rounds.
    """
    names = [update.node for update in updates]
    if len(set(names)) != len(names):
        raise MessageError(f"two updates of one node in a round: {sorted(names)}")
    for update in updates:
        if update.anchor_hash != updates[0].anchor_hash:
            raise MessageError(
                f"nodes {updates[0].node!r} and {update.node!r} use different anchor sets "
                f"({updates[0].anchor_hash[:8]}, {update.anchor_hash[:8]}); give all nodes the same files"
            )
        if update.round != updates[0].round:
            raise MessageError(
                f"node {update.node!r} answers round {update.round}, {updates[0].node!r} round {updates[0].round}; "
                "leave late answers out"
            )
    return sorted(updates, key=lambda update: update.node)
