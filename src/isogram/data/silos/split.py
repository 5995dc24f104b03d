"""Which rows are held out: whole groups, by seed, name and the rows themselves, whatever their order."""

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from isogram.data.base import UNLABELLED, IntArray


def groups_of(keys: Sequence[Sequence[Hashable]]) -> IntArray:
    """[n] group of each row: rows that share a key, or are so linked through others, are one."""
    place: dict[Hashable, int] = {}
    pairs = [(row, len(keys) + place.setdefault(key, len(place))) for row, own in enumerate(keys) for key in own]
    if not pairs:
        return np.empty(0, np.int64)
    size = len(keys) + len(place)
    rows, columns = np.array(pairs).T
    _, found = connected_components(coo_array((np.ones(len(pairs), bool), (rows, columns)), (size, size)), False)
    return found[: len(keys)].astype(np.int64)


def hold_out(
    groups: IntArray,
    marks: Sequence[str],
    nodes: Sequence[str],
    labels: IntArray,
    share: float,
    *,
    keep: int,
    seed: int,
    name: str,
) -> NDArray[np.bool_]:
    """[n] whether a row is held out: of each node about `share` of its labelled rows, never a part of a group.

    Every class of a node keeps `keep` labelled rows that are not; of one that has no more, none is held out.

    Args:
        groups: [n] number of each row's group, which may have rows of several nodes.
        marks: [n] what tells groups apart, whatever the order of rows: hashes of content, equal ones in one group.
        nodes: [n] the node that each row is at.
        labels: [n] its class; `UNLABELLED` rows go with their group and are not counted.
        share: in [0, 1).
        keep: rows, 1 or more.
        seed: of the draw.
        name: of what is split: others draw otherwise.
    """
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    members = [part.tolist() for part in np.split(order, starts[1:])] if len(groups) else []
    ranked = sorted(members, key=lambda rows: rank(min(marks[row] for row in rows), seed, name))
    known = [label != UNLABELLED for label in labels.tolist()]
    left = Counter((nodes[row], int(labels[row])) for row in range(len(groups)) if known[row])
    goal = Counter(nodes[row] for row in range(len(groups)) if known[row])
    have: Counter[str] = Counter()
    held = np.zeros(len(groups), bool)
    for node in sorted(goal):
        for rows in ranked:
            if have[node] + 0.5 > share * goal[node]:
                break
            if held[rows[0]]:
                continue
            here = Counter((nodes[row], int(labels[row])) for row in rows if known[row])
            own = sum(count for (at, _), count in here.items() if at == node)
            # Half of a large group beyond the goal is as far off as the other half below it.
            if not own or have[node] + own / 2 > share * goal[node]:
                continue
            if any(left[key] - count < keep for key, count in here.items()):
                continue
            left -= here
            for (at, _), count in here.items():
                have[at] += count
            held[rows] = True
    return held


def hold_out_each(keys: Sequence[str], share: float, *, seed: int, name: str) -> NDArray[np.bool_]:
    """[n] the same where no row may decide about another (differential privacy): by each row's own key alone.

    Shares are met on average, and a class may lose all of its rows.
    """
    bound = int(share * 2**64)
    return np.array([int.from_bytes(rank(key, seed, name)[:8], "big") < bound for key in keys], bool)


def rank(mark: str, seed: int, name: str) -> bytes:
    """What a draw sorts by: the same for the same mark, whatever else there is."""
    return hashlib.sha256(f"{seed}\n{name}\n{mark}".encode()).digest()
