"""Who was in, by statistics of many replays: calibrated by shadow runs, with what it says of epsilon.

Every replay is attacked once, by an attacker who learns from all the others (its shadow runs) what a row's statistics
are when it is out, and how they differ when one is in (after Carlini et al. 2022, arXiv 2112.03570). R replays, n rows
of a node, f statistics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def scores(statistics: Mapping[str, Floats], members: Mapping[str, Bools]) -> dict[str, Floats]:
    """Node -> [R, n] log-odds that a row was in, each replay's from all the others.

    Args:
        statistics: node -> [R, n, f].
        members: node -> [R, n] who was in.
    """
    replays = len(next(iter(members.values())))
    out = {node: np.zeros(members[node].shape) for node in statistics}
    kinds: dict[int, list[str]] = {}
    for node, values in statistics.items():
        kinds.setdefault(values.shape[2], []).append(node)
    # What all rows share in a replay says nothing of one of them.
    level = {node: values - np.median(values, 1, keepdims=True) for node, values in statistics.items()}
    for nodes in kinds.values():
        for target in range(replays):
            shadows = np.array([r for r in range(replays) if r != target])
            x, y, asked = [], [], []
            for node in nodes:
                seen, own, at = _standardised(level[node], members[node], shadows, target)
                x.append(seen)
                y.append(own)
                asked.append(at)
            samples, truth = np.concatenate(x), np.concatenate(y)
            if not samples.any() or truth.all() or not truth.any():
                continue
            model = LogisticRegression(C=1.0).fit(samples, truth)
            for node, rows in zip(nodes, asked, strict=True):
                out[node][target] = model.decision_function(rows)
    return out


def _standardised(
    values: Floats, members: Bools, shadows: NDArray[np.int64], target: int
) -> tuple[Floats, Bools, Floats]:
    """Shadow samples [S n, f] with who was in, and the target's [n, f]: off a row's mean when out, in common spreads.

    A shadow's own value is left out of the mean that it is compared with, as the target's is.
    """
    seen, out = values[shadows], ~members[shadows]
    weight = out[:, :, None].astype(float)
    total, count = (seen * weight).sum(0), weight.sum(0)
    # Of a row that was never out nothing is known: it is taken to be where it is expected.
    own = np.where(count > 0, total / np.maximum(count, 1), values[target])
    without = np.where(count - weight > 0, (total - seen * weight) / np.maximum(count - weight, 1), seen)
    off = seen - without
    spread = np.sqrt(np.mean((off**2)[out], 0)) if out.any() else np.ones(values.shape[2])
    # What varies by no more than rounding does not vary.
    spread = np.where(spread > 1e-9 * np.abs(seen).max((0, 1), initial=0.0), spread, np.inf)
    samples = np.clip(off / spread, -20, 20).reshape(-1, values.shape[2])
    return samples, members[shadows].reshape(-1), np.clip((values[target] - own) / spread, -20, 20)


def auc(score: Floats, members: Bools) -> float:
    """Chance that a row that was in scores above one that was not; 0.5 if all score alike, or one kind is absent."""
    return 0.5 if members.all() or not members.any() else float(roc_auc_score(members, score))


def advantage(score: Floats, members: Bools) -> float:
    """True minus false positive rate where the odds are even: chance guesses have 0."""
    if members.all() or not members.any():
        return 0.0
    said = score > 0
    return float(said[members].mean() - said[~members].mean())


def at_false_positives(score: Floats, members: Bools, share: float) -> float:
    """True positive rate at a threshold that `share` of the rows that were out exceed at most."""
    if members.all() or not members.any():
        return 0.0
    out = np.sort(score[~members])[::-1]
    bar = out[int(share * len(out))]
    return float((score[members] > bar).mean())


SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of the rows, those that a guess is made on: the surest ones."""


@dataclass(frozen=True)
class Guesses:
    """Rows m, guesses r, of which v were right."""

    m: int
    r: int
    v: int

    @classmethod
    def surest(cls, score: Floats, members: Bools, share: float) -> "Guesses":
        """Guesses on the `share` of rows with the most extreme log-odds."""
        r = max(1, round(share * len(score)))
        order = np.argsort(-np.abs(score), kind="stable")[:r]
        return cls(len(score), r, int(((score[order] > 0) == members[order]).sum()))


def epsilon_at_least(guesses: Guesses, delta: float, confidence: float = 0.95) -> float:
    """Lower bound on epsilon of a mechanism of this delta, from one run (Steinke, Nasr & Jagielski 2023, 2305.08846).

    Each of m rows was in by a fair coin; r guesses were made, v right. The largest epsilon whose probability of so many
    right guesses (Theorem 5.2, with its algorithm for delta > 0) is below 1 - confidence; 0 if none.
    """
    low, high = 0.0, 40.0
    if _chance(guesses, 0.0, delta) > 1 - confidence:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _chance(guesses, middle, delta) < 1 - confidence else (low, middle)
    return low


def _chance(guesses: Guesses, epsilon: float, delta: float) -> float:
    m, r, v = guesses.m, guesses.r, guesses.v
    q = 1 / (1 + np.exp(-epsilon))
    beta = float(binom.sf(v - 1, r, q))
    steps = np.arange(1, v + 1)
    sums = np.cumsum(binom.pmf(v - steps, r, q))
    alpha = float((sums / steps).max(initial=0.0))
    return min(beta + alpha * delta * 2 * m, 1.0)


def epsilon_bounds(replays: Sequence[tuple[Floats, Bools]], delta: float) -> list[float]:
    """Of each replay, by scores and who was in; on how many rows to guess is chosen by the others."""
    table = np.array([[epsilon_at_least(Guesses.surest(s, m, share), delta) for share in SHARES] for s, m in replays])
    found = []
    for target in range(len(table)):
        others = np.delete(table, target, 0)
        found.append(float(table[target, int(others.mean(0).argmax())]))
    return found
