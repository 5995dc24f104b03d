"""From tidy rows to tables and the picture. Nothing here is typed by hand: `isogram table` writes what the rows say."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from isogram.bench import Row
from isogram.errors import DataError
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


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """Text with each `<!-- table NAME -->` ... `<!-- end -->` block replaced.

    Raises:
        DataError: the text asks for a table that does not exist.
    """

    def replaced(match: re.Match[str]) -> str:
        if match[1] not in blocks:
            raise DataError(f"there is no table {match[1]!r}; choose from {', '.join(blocks)}")
        return f"<!-- table {match[1]} -->\n{blocks[match[1]]}\n<!-- end -->"

    return re.sub(r"<!-- table ([\w-]+) -->\n.*?<!-- end -->", replaced, text, flags=re.DOTALL)


def blocks(results: Results) -> dict[str, str]:
    """Every generated table of the documentation, by name."""
    from isogram.report.doctor_tables import doctor_blocks  # which is built on this module

    if not results.methods("tcga-brca"):
        raise DataError("no rows of tcga-brca: give the folder that `isogram bench` wrote to with --results")
    metrics = {
        "r1": ("r1", None),
        "r10": ("r10", None),
        "pam50-mirna": ("pam50", "mirna"),
        "pam50-meth": ("pam50", "meth"),
    }
    metrics["cka"] = ("cka", None)
    out = {"main": main_table(results, "tcga-brca", 100)}
    for name, (metric, direction) in metrics.items():
        out[name] = by_anchors(results, "tcga-brca", metric, direction)
        for base in BASES:
            out[f"{name}-over-{base}"] = by_anchors(results, "tcga-brca", metric, direction, base)
    out["bytes"] = by_anchors(results, "tcga-brca", "bytes_per_node", show=size)
    sends = [[f"`{name}`", recipe.sends] for recipe in RECIPES for name in recipe.names]
    out["sends"] = markdown(["method", "what a node sends"], sends)
    out["seconds"] = by_anchors(results, "tcga-brca", "seconds", show=lambda mean: figure(mean, 1))
    out["fell-back"] = by_anchors(results, "tcga-brca", "fell_back", show=lambda mean: figure(mean, 1))
    for name in ("tcga-brca-chain", "tcga-brca-chain20"):
        out[name] = directions(results, name, "r1", ("rna->meth", "meth->rna", "rna->mirna", "mirna->meth"))
    out["digits"] = directions(results, "digits", "accuracy", ("image", "speech", "pen"))
    out["machines"] = directions(results, "machines", "accuracy", ("vibration", "vibration:elsewhere", "log"))
    out["trunks"] = main_table(results, "tcga-brca-tuning", 100, ("oneshot-hsic",))
    return out | doctor_blocks(results)


def picture(results: Results, path: Path) -> None:
    """R@1 against the number of anchors, and silos without a common anchor, as SVG or PNG by the path's ending."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "isogram"
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    # Okabe & Ito's colours can be told apart by colour-blind readers; line styles tell them apart in print.
    styles = {
        "oneshot-hsic": ("#0072B2", "-"),
        "isogram+oneshot": ("#D55E00", "--"),
        "oneshot": ("#56B4E9", "-"),
        "no-message": ("#009E73", "--"),
        "cka-frame": ("#CC79A7", "-."),
        "relative": ("#000000", ":"),
        "cka": ("#E69F00", "-"),
    }
    plot, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.9), width_ratios=(3, 2), layout="constrained")
    counts = results.anchors("tcga-brca")
    ends = []
    for method, (colour, line) in styles.items():
        means = [results.mean("tcga-brca", method, k, "r1") for k in counts]
        points = [(k, m) for k, m in zip(counts, means, strict=True) if m is not None]
        if points:
            x, y = [k for k, _ in points], [m.mean for _, m in points]
            left.errorbar(x, y, [m.half for _, m in points], color=colour, ls=line, marker="o", ms=3.5, capsize=2)
            ends.append((y[-1], method, colour))
    place = -0.03
    for end, method, colour in sorted(ends):
        place = max(end, place + 0.055)
        left.annotate(method, (counts[-1] * 1.08, place), color=colour, va="center", fontsize=9, annotation_clip=False)
    left.set(xscale="log", xticks=counts, xlabel="public anchor patients (K)", ylabel="R@1 on 154 held-out patients")
    left.set_xticklabels(counts)
    left.minorticks_off()
    left.set_xlim(counts[0] * 0.9, counts[-1] * 2.6)
    left.set_ylim(0, 1)
    left.set_title("Find the same patient in another modality", fontsize=10, loc="left")
    chain, names = "tcga-brca-chain", ("no-message", "oneshot", "oneshot-hsic")
    for number, anchors in enumerate(results.anchors(chain)):
        for offset, method in enumerate(names):
            value = results.mean(chain, method, anchors, "r1", "rna->meth")
            if value is not None:
                at = number + (offset - 1) * 0.27
                right.bar(at, value.mean, 0.25, yerr=value.half, color=styles[method][0], capsize=2)
                right.annotate(short(value.mean, 2), (at, value.mean + value.half + 0.008), ha="center", fontsize=8)
    right.set_xticks(range(len(results.anchors(chain))), [f"K = {k}" for k in results.anchors(chain)])
    right.set(ylabel="R@1, RNA to methylation", ylim=(0, 0.5))
    handles = [Rectangle((0, 0), 1, 1, color=styles[m][0]) for m in names]
    right.legend(handles, names, frameon=False, fontsize=8, loc="upper left")
    right.set_title("No anchor in common: through a third silo", fontsize=10, loc="left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    plot.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(plot)
