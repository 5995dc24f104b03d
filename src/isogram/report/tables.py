"""From tidy rows to tables."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from isogram.bench import Row
from isogram.config import DATASETS
from isogram.methods import METHODS, RECIPES

COLUMNS = {
    "R@1": ("r1", None),
    "R@10": ("r10", None),
    "PAM50 miRNA": ("pam50", "mirna"),
    "PAM50 meth.": ("pam50", "meth"),
    "CKA": ("cka", None),
}
"""Column of the main table -> metric and direction; None is the mean over all directions."""

BASES = ("no-message", "oneshot", "oneshot-hsic")


@dataclass(frozen=True)
class Mean:
    """Mean over seeds, sd of one seed, half-width of the 95% interval (Student's t), number of seeds."""

    mean: float
    sd: float
    half: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Of one value per seed; no spread from a single one."""
        array, n = np.asarray(values), len(values)
        sd = float(array.std(ddof=1)) if n > 1 else float("nan")
        return cls(
            float(array.mean()), sd, float(student.ppf(0.975, n - 1) * sd / n**0.5) if n > 1 else float("nan"), n
        )


class Results:
    """Rows indexed for tables: figures per seed, means and paired differences."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._values: dict[tuple[str, str, int, str], dict[int, dict[str, float]]] = {}
        for row in rows:
            seeds = self._values.setdefault((row.dataset, row.method, row.anchors, row.metric), {})
            seeds.setdefault(row.seed, {})[row.direction] = row.value

    def methods(self, dataset: str) -> list[str]:
        """Methods that have rows, in the order of `METHODS`, then others (the doctor's conditions) by name."""
        have = {method for name, method, _, _ in self._values if name == dataset}
        place = {name: number for number, name in enumerate(METHODS)}
        return sorted(have, key=lambda m: (place.get(m.partition("@")[0], len(place)), m))

    def anchors(self, dataset: str) -> list[int]:
        """Numbers of anchors that have rows."""
        return sorted({anchors for name, _, anchors, _ in self._values if name == dataset})

    def directions(self, dataset: str, metric: str) -> list[str]:
        """Directions that a metric has rows for."""
        entries = [v for (name, _, _, what), v in self._values.items() if (name, what) == (dataset, metric)]
        return sorted({direction for seeds in entries for values in seeds.values() for direction in values})

    def cells(self) -> dict[tuple[str, str, int, int], float]:
        """Seconds of every run with rows, by data set, method, anchors, seed; methods of one recipe share its run."""
        first = {name: recipe.names[0] for recipe in RECIPES for name in recipe.names}
        found: dict[tuple[str, str, int, int], float] = {}
        for (dataset, method, anchors, metric), seeds in self._values.items():
            name, at, trunk = method.partition("@")
            for seed, values in seeds.items() if metric == "seconds" else ():
                key = (dataset, first.get(name, name) + at + trunk, anchors, seed)
                found[key] = max(found.get(key, 0.0), *values.values())
        return found

    def per_seed(self, dataset: str, method: str, anchors: int, metric: str, direction: str | None) -> dict[int, float]:
        """Figure of each seed: of one direction, or the mean over all."""
        seeds = self._values.get((dataset, method, anchors, metric), {})
        if direction is None:
            return {seed: float(np.mean(list(values.values()))) for seed, values in seeds.items()}
        return {seed: values[direction] for seed, values in seeds.items() if direction in values}

    def mean(self, dataset: str, method: str, anchors: int, metric: str, direction: str | None = None) -> Mean | None:
        """Over all seeds that have rows; None if none has."""
        values = self.per_seed(dataset, method, anchors, metric, direction)
        return Mean.of(list(values.values())) if values else None

    def gain(
        self, dataset: str, method: str, base: str, anchors: int, metric: str, direction: str | None = None
    ) -> Mean | None:
        """Paired difference to another method over the seeds that both have."""
        left = self.per_seed(dataset, method, anchors, metric, direction)
        right = self.per_seed(dataset, base, anchors, metric, direction)
        common = sorted(set(left) & set(right))
        return Mean.of([left[s] - right[s] for s in common]) if common else None


def costs(results: Results) -> str:
    """What the rows took, by data set of `isogram bench`; what scripts under benchmarks/ made stands in one line."""
    of: dict[str, list[float]] = {}
    other = "others, by `benchmarks/`"
    for (dataset, name, _, _), seconds in results.cells().items():
        made = dataset in DATASETS and name.partition("@")[0] in METHODS
        of.setdefault(f"`{dataset}`" if made else other, []).append(seconds)
    order = [*(f"`{name}`" for name in DATASETS), other]
    of = {name: of[name] for name in order if name in of}
    of |= {"all": [seconds for found in of.values() for seconds in found]}
    lines = []
    for name, found in of.items():
        minutes = sum(found) / 60
        lines.append([name, f"{len(found):,}", *(f"{m:.1f}" for m in (minutes, minutes / 2)), f"{max(found):.0f}"])
    return markdown(["data", "runs", "minutes", "minutes, `--jobs 2`", "longest run, s"], lines)


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column left, the others right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def figure(value: Mean | None, digits: int = 3) -> str:
    """Mean, three decimals without the leading zero."""
    return "–" if value is None else short(value.mean, digits)


def spread(value: Mean | None) -> str:
    """Mean, with the standard deviation of one seed in brackets."""
    return figure(value) if value is None or np.isnan(value.sd) else f"{figure(value)} ({short(value.sd)})"


def difference(value: Mean | None) -> str:
    """Signed mean with its 95% interval."""
    if value is None:
        return "–"
    interval = "" if np.isnan(value.half) else f" ± {short(value.half)}"
    return ("+" if value.mean >= 0 else "−") + short(abs(value.mean)) + interval


def short(value: float, digits: int = 3) -> str:
    """A number without its leading zero, with a typeset minus."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}").replace("-", "−")


def probability(value: float) -> str:
    """Three decimals; what would round to nothing is said to be below .001."""
    return short(value) if value >= 5e-4 else "<.001"


def size(value: Mean | None) -> str:
    """Bytes in kB."""
    return "–" if value is None else f"{value.mean / 1000:,.1f}"


def main_table(results: Results, dataset: str, anchors: int, bases: Sequence[str] = BASES) -> str:
    """One line a method: the means, bytes, and the paired gain in R@1 over each of `bases`."""
    header = ["method", "seeds", *COLUMNS, "kB sent", *(f"R@1 − {base}" for base in bases)]
    lines = []
    for method in results.methods(dataset):
        first = results.mean(dataset, method, anchors, "pam50", "mirna")
        if first is None:
            continue
        cells = [figure(results.mean(dataset, method, anchors, *column)) for column in COLUMNS.values()]
        sent = size(results.mean(dataset, method, anchors, "bytes_per_node"))
        gains = [
            difference(results.gain(dataset, method, base, anchors, "r1")) if method != base else "" for base in bases
        ]
        lines.append([f"`{method}`", str(first.seeds), *cells, sent, *gains])
    return markdown(header, lines)


def by_anchors(
    results: Results,
    dataset: str,
    metric: str,
    direction: str | None = None,
    base: str | None = None,
    show: Callable[[Mean | None], str] = spread,
) -> str:
    """One line a method, one column a number of anchors: means, or paired differences to `base`."""
    counts = results.anchors(dataset)
    lines = []
    for method in results.methods(dataset):
        if base is None:
            cells = [show(results.mean(dataset, method, k, metric, direction)) for k in counts]
        else:
            cells = [difference(results.gain(dataset, method, base, k, metric, direction)) for k in counts]
        if set(cells) != {"–"} and method != base:
            lines.append([f"`{method}`", *cells])
    return markdown(["method", *(f"K = {k}" for k in counts)], lines)


def directions(results: Results, dataset: str, metric: str, columns: Sequence[str]) -> str:
    """One line a method and number of anchors, one column a direction."""
    lines = []
    for anchors in results.anchors(dataset):
        for method in results.methods(dataset):
            cells = [figure(results.mean(dataset, method, anchors, metric, column)) for column in columns]
            if set(cells) != {"–"}:
                lines.append([f"`{method}`", str(anchors), *cells])
    return markdown(["method", "K", *columns], lines)


def by_direction(results: Results, dataset: str, anchors: int, metric: str, method: str, bases: Sequence[str]) -> str:
    """One line a direction, and one of their mean: a method's figure, and the paired difference to each of `bases`."""
    lines = []
    for direction in (None, *results.directions(dataset, metric)):
        gains = [results.gain(dataset, method, base, anchors, metric, direction) for base in bases]
        found = figure(results.mean(dataset, method, anchors, metric, direction))
        lines.append([direction or "mean", found, *(difference(gain) for gain in gains)])
    return markdown(["direction", f"`{method}`", *(f"− `{base}`" for base in bases)], lines)
