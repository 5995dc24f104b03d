"""What a node's messages say of it as a whole: which site it is, and its mix of classes.

The attacker holds rows of each site, and of each class, that were not in; a node's messages favour rows like its own.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from isogram.audit.game import Bools, Game

Floats = NDArray[np.float64]


def table(statistics: Mapping[str, Floats], groups: Sequence[NDArray[np.int64]]) -> Floats:
    """[nodes, groups, f] mean statistic of each node's messages over each group of rows, double-centred.

    Args:
        statistics: node -> [n, f], of one replay, all over the same n rows.
        groups: positions of rows.
    """
    means = np.array([[values[rows].mean(0) for rows in groups] for values in statistics.values()])
    return means - means.mean(0, keepdims=True) - means.mean(1, keepdims=True) + means.mean((0, 1), keepdims=True)


def sites_named(tables: Sequence[Floats]) -> list[float]:
    """Share of nodes matched to their own group, of each replay; how to weigh statistics is learnt from the others.

    Args:
        tables: of each replay, [nodes, nodes, f], the own group on the diagonal.
    """
    found = []
    for target, now in enumerate(tables):
        others = [t for i, t in enumerate(tables) if i != target]
        score = now @ _weights(others)
        hidden = np.random.default_rng(target).permutation(len(score))  # or ties would be told apart by their order
        rows, columns = linear_sum_assignment(-score[:, hidden])
        found.append(float((rows == hidden[columns]).mean()))
    return found


def _weights(tables: Sequence[Floats]) -> Floats:
    """[f] mean of the diagonal over the spread of all: a linear discriminant without correlations."""
    stacked = np.array(tables)
    spread = stacked.std((0, 1, 2))
    own = np.array([t.diagonal(axis1=0, axis2=1).T for t in stacked])
    return np.where(spread > 0, own.mean((0, 1)) / np.where(spread > 0, spread, 1) ** 2, 0.0)


def mix_told(tables: Sequence[Floats], truth: Sequence[Floats]) -> list[float]:
    """Correlation of the nodes' true class shares with those told by statistics, of each replay; learnt as above.

    Args:
        tables: of each replay, [nodes, classes, f].
        truth: of each replay, [nodes, classes] shares of the rows that were in; centred here.
    """
    centred = [t - t.mean(0) for t in truth]
    centred = [t - t.mean(1, keepdims=True) for t in centred]
    found = []
    for target, now in enumerate(tables):
        x = np.concatenate([t.reshape(-1, t.shape[2]) for i, t in enumerate(tables) if i != target])
        y = np.concatenate([t.ravel() for i, t in enumerate(centred) if i != target])
        spread = x.std(0)
        x, at = (np.divide(a, spread, out=np.zeros_like(a), where=spread > 0) for a in (x, now.reshape(-1, x.shape[1])))
        weight = np.linalg.solve(x.T @ x + 0.1 * len(x) * np.eye(x.shape[1]), x.T @ y)
        told, own = at @ weight, centred[target].ravel()
        flat = told.std() < 1e-12 or own.std() < 1e-12
        found.append(0.0 if flat else float(np.corrcoef(told, own)[0, 1]))
    return found


def shares(labels: NDArray[np.int64], members: Bools, classes: int) -> Floats:
    """[C] of the rows that were in, of those whose class is known."""
    known = labels[members & (labels >= 0)]
    return np.bincount(known, minlength=classes) / max(1, len(known))


def truth(game: Game, members: Mapping[str, Bools], modality: str, classes: int) -> Floats:
    """[nodes, C] `shares` of each node of a modality, by name."""
    return np.array([shares(game.labels[n.name], members[n.name], classes) for n in game.members(modality)])
