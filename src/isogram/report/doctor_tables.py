"""How often the doctor is right: tables from the rows of `benchmarks/doctor.py`."""

import numpy as np
from scipy.stats import binomtest

from isogram.report.tables import Results, markdown

DATASETS = ("tcga-brca", "machines", "digits")
UNRELATED = {"noise": "noise", "other rows": "rows of another data set"}


def share(successes: int, n: int) -> str:
    """A proportion with its exact 95% interval (Clopper & Pearson 1934)."""
    if not n:
        return "–"
    low, high = binomtest(successes, n).proportion_ci(0.95)
    return f"{successes} of {n} ({100 * low:.0f}–{100 * high:.0f}%)"


def doctor_blocks(results: Results) -> dict[str, str]:
    """The tables of docs/doctor.md, by name."""
    return {
        "doctor-refused": _refused(results),
        "doctor-p": _levels(results),
        "doctor-permuted": _permuted(results),
    }


def _all(results: Results, dataset: str, condition: str, anchors: int, metric: str) -> list[float]:
    """Values over all seeds and directions."""
    name = f"doctor:{dataset}"
    return [
        value
        for direction in results.directions(name, metric)
        for value in results.per_seed(name, condition, anchors, metric, direction).values()
    ]


def _refused(results: Results) -> str:
    lines = []
    for dataset in DATASETS:
        for anchors in results.anchors(f"doctor:{dataset}"):
            cells = []
            for condition in ("permuted 0", *UNRELATED):
                refused = _all(results, dataset, condition, anchors, "refused")
                cells.append(share(int(sum(refused)), len(refused)))
            named = [v for condition in UNRELATED for v in _all(results, dataset, condition, anchors, "named")]
            lines.append([f"`{dataset}`", _anchors(dataset, anchors), *cells, share(int(sum(named)), len(named))])
    return markdown(
        ["data", "K", "related: refused", *(f"{what}: refused" for what in UNRELATED.values()), "named"], lines
    )


def _levels(results: Results) -> str:
    levels, lines = (0.01, 0.02, 0.05, 0.1), []
    for dataset in DATASETS:
        values = [
            p
            for anchors in results.anchors(f"doctor:{dataset}")
            for condition in UNRELATED
            for p in _all(results, dataset, condition, anchors, "p")
        ]
        cells = [share(int(np.sum(np.array(values) <= level + 1e-9)), len(values)) for level in levels]
        lines.append([f"`{dataset}`", *cells])
    return markdown(["data", *(f"p ≤ {level}" for level in levels)], lines)


def _permuted(results: Results) -> str:
    lines = []
    for dataset in DATASETS:
        worth = "accuracy" if dataset == "digits" else "r1"
        for anchors in results.anchors(f"doctor:{dataset}"):
            for percent in (0, 10, 20, 40):
                found = {
                    metric: _all(results, dataset, f"permuted {percent}", anchors, metric)
                    for metric in ("refused", "auc", worth, "suspects", "suspects_right", "suspects_there")
                }
                named, right, there = (int(sum(found[f"suspects{which}"])) for which in ("", "_right", "_there"))
                cells = [share(int(sum(found["refused"])), len(found["refused"]))]
                cells += [f"{np.mean(v):.2f}" if (v := found[m]) else "–" for m in ("auc", worth)]
                per_run = f"{named / len(found['suspects']):.1f}" if found["suspects"] else "–"
                cells += [per_run, f"{right} of {named}" if percent else "", f"{right} of {there}" if percent else ""]
                lines.append([f"`{dataset}`", _anchors(dataset, anchors), f"{percent}%", *cells])
    header = [
        "data",
        "K",
        "permuted",
        "refused",
        "AUC",
        "R@1 (accuracy)",
        "named a run",
        "named and wrong",
        "wrong and named",
    ]
    return markdown(header, lines)


def _anchors(dataset: str, anchors: int) -> str:
    return str(10 * anchors if dataset == "digits" else anchors)
