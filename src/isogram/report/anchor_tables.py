"""What anchors are worth, and what flaws in them cost: tables from the rows of `benchmarks/anchors.py`."""

import re
from collections.abc import Sequence

from isogram.report.tables import Mean, Results, difference, figure, markdown

TCGA, DIGITS, PICTURES = "tcga-brca", "digits", "pictures"
K = {TCGA: 100, DIGITS: 5, PICTURES: 100}
METRIC = {TCGA: "r1", DIGITS: "accuracy", PICTURES: "r10"}
ALIGNED = ("relative", "no-message", "oneshot", "oneshot-hsic", "robust", "told", "closed-form", "closed-form robust")
METHODS = (*ALIGNED, "isogram", "isogram robust")
GAINS = (("robust", "oneshot-hsic"), ("closed-form robust", "closed-form"), ("isogram robust", "isogram"))
"""Weights from the Grams, and the same without."""

SEEDS = 10
"""Of most rows."""

CLEAN = "wrong 0%"
MISSING = (CLEAN, *(f"missing {share}%" for share in (10, 20, 30, 40, 50)))
WRONG = tuple(f"wrong {share}%" for share in (0, 5, 10, 20, 30, 40))
IN_RNA = (CLEAN, *(f"wrong {share}% in RNA" for share in (10, 20, 40)))
ADDED = {TCGA: (50, 100, 200), PICTURES: (100,)}
INSTEAD = (25, 50, 75)
SUBTYPES = ("Normal", "Basal", "Her2", "LumA", "LumB")
COUNTS = (25, 50, 100, 200)


def anchor_blocks(results: Results) -> dict[str, str]:
    """The tables of docs/anchors.md, by name."""
    out = {}
    for name, source, settings in (
        ("anchors-missing", TCGA, MISSING),
        ("anchors-missing-digits", DIGITS, MISSING),
        ("anchors-missing-pictures", PICTURES, (CLEAN, *MISSING[1::2])),
        ("anchors-wrong", TCGA, WRONG),
        ("anchors-wrong-rna", TCGA, IN_RNA),
        ("anchors-wrong-digits", DIGITS, WRONG),
        ("anchors-wrong-pictures", PICTURES, (CLEAN, *WRONG[2:])),
    ):
        out[name] = _settings(results, source, settings)
    subtypes = {name: f"{{}} {name}" for name in SUBTYPES}
    digits = {f"{number} of 10": f"{{}} {number}" for number in range(1, 6)}
    return out | {
        "anchors-count": _count(results, TCGA),
        "anchors-count-pictures": _count(results, PICTURES),
        "anchors-added": _added(results, TCGA),
        "anchors-added-pictures": _added(results, PICTURES),
        "anchors-instead": _instead(results, TCGA),
        "anchors-instead-pictures": _instead(results, PICTURES),
        "anchors-uncovered": _uncovered(results, TCGA, "its patients", subtypes),
        "anchors-uncovered-digits": _uncovered(results, DIGITS, "their rows", digits),
    }


def mean(results: Results, source: str, setting: str, method: str, suffix: str = "") -> Mean | None:
    """Main figure of a method at a point of a curve; `suffix` names a part of the held-out rows."""
    return results.mean(f"{source}:{setting}", method, K[source], METRIC[source] + suffix)


def gain(results: Results, source: str, setting: str, method: str, base: str, suffix: str = "") -> Mean | None:
    """Paired difference of two methods at a point."""
    return results.gain(f"{source}:{setting}", method, base, K[source], METRIC[source] + suffix)


def at_count(results: Results, source: str, method: str, k: int) -> dict[int, float]:
    """Main figure by seed with k anchors: rows of this study, and those that were there without it."""
    there = {TCGA: source, PICTURES: f"{source}:{CLEAN}"}[source]
    for dataset in (f"{source}:count", there):
        if values := results.per_seed(dataset, method, k, METRIC[source], None):
            return values
    return {}


def _paired(left: dict[int, float], right: dict[int, float]) -> Mean | None:
    common = sorted(set(left) & set(right))
    return Mean.of([left[seed] - right[seed] for seed in common]) if common else None


def _at(results: Results, source: str, setting: str, method: str, suffix: str = "") -> dict[int, float]:
    return results.per_seed(f"{source}:{setting}", method, K[source], METRIC[source] + suffix, None)


def _between(results: Results, left: str, right: str, source: str, method: str, suffix: str = "") -> Mean | None:
    """Paired difference of a method between two settings."""
    return _paired(*(_at(results, source, setting, method, suffix) for setting in (left, right)))


def _line(title: str, found: Sequence[dict[int, float]]) -> list[list[str]]:
    """Means over the seeds that all points have, or no line without any; it says so if these are fewer than `SEEDS`."""
    common = set.intersection(*there) if (there := [set(values) for values in found if values]) else set()
    if not common:
        return []
    few = f", {len(common)} seeds" if len(common) < SEEDS else ""
    means = [Mean.of([values[seed] for seed in sorted(common)]) if values else None for values in found]
    return [[title + few, *(figure(m) for m in means)]]


def _changes(title: str, means: Sequence[Mean | None]) -> list[list[str]]:
    """A line of differences, or none without any."""
    return [[title, *("" if m is None else difference(m) for m in means)]] if any(means) else []


def _count(results: Results, source: str) -> str:
    lines = []
    for method in ALIGNED:
        found = [at_count(results, source, method, k) for k in COUNTS]
        if all(found):
            lines += _line(f"`{method}`", found)
    for method, base in GAINS:
        both = [[at_count(results, source, name, k) for name in (method, base)] for k in COUNTS]
        if all(left for left, _ in both):
            lines += _changes(f"`{method}` − `{base}`", [_paired(left, right) for left, right in both])
    return markdown(["method", *(f"K = {k}" for k in COUNTS)], lines)


def _settings(results: Results, source: str, settings: Sequence[str]) -> str:
    lines = []
    for method in METHODS:
        lines += _line(f"`{method}`", [_at(results, source, setting, method) for setting in settings])
    for method, base in GAINS:
        changes = [gain(results, source, setting, method, base) for setting in settings]
        lines += _changes(f"`{method}` − `{base}`", changes)
    return markdown(["method", *(share(setting) for setting in settings)], lines)


def share(setting: str) -> str:
    """The percentage that a setting names."""
    found = re.search(r"\d+%", setting)
    return found[0] if found else setting


def _added(results: Results, source: str) -> str:
    lines, counts = [], ADDED[source]
    for title, way in (("declared as real", ""), ("quality .3", " at 0.3")):
        settings = [f"added {n}%{way}" for n in counts]
        for method in ("oneshot", "oneshot-hsic", "closed-form", "closed-form robust", "isogram"):
            found = [_at(results, source, setting, method) for setting in (CLEAN, *settings)]
            lines += _line(f"`{method}`, {title}", found if any(found[1:]) else [])
        for method in ("oneshot-hsic", "closed-form", "closed-form robust"):
            changes = [_between(results, setting, CLEAN, source, method) for setting in settings]
            lines += _changes(f"`{method}`, {title}, − none added", [None, *changes])
    return markdown(["synthetic anchors beside 100 real ones", *(str(n) for n in (0, *counts))], lines)


def _instead(results: Results, source: str) -> str:
    lines = []
    for method in ("oneshot-hsic", "closed-form", "closed-form robust"):
        for title, setting in (
            ("left out", "dropped {}%"),
            ("synthetic", "replaced {}%"),
            ("synthetic, quality .3", "replaced {}% at 0.3"),
            ("synthetic in speech alone", "replaced {}% in speech"),
        ):
            found = [_at(results, source, at, method) for at in (CLEAN, *(setting.format(n) for n in INSTEAD))]
            for line in _line(f"`{method}`, {title}", found if any(found[1:]) else []):
                if title != "left out":
                    pairs = [(setting.format(n), f"dropped {n}%") for n in INSTEAD]
                    changes = [difference(_between(results, *pair, source, method)) for pair in pairs]
                    line[2:] = [f"{cell} ({change})" for cell, change in zip(line[2:], changes, strict=True)]
                lines.append(line)
    return markdown(["of 100 real anchors", *(str(n) for n in (0, *INSTEAD))], lines)


def _uncovered(results: Results, source: str, whose: str, columns: dict[str, str]) -> str:
    lines = []
    for who, part in ((whose, "-uncovered"), ("others", "-covered")):
        gone, random = ([way.format(how) for way in columns.values()] for how in ("uncovered", "random"))
        for method in ("no-message", "oneshot-hsic", "closed-form"):
            lines += _line(f"{who}: `{method}`", [_at(results, source, setting, method, part) for setting in gone])
            changes = [_between(results, *pair, source, method, part) for pair in zip(gone, random, strict=True)]
            lines += _changes(f"{who}: `{method}` − as many left out at random", changes)
        changes = [gain(results, source, setting, "closed-form robust", "closed-form", part) for setting in gone]
        lines += _changes(f"{who}: `closed-form robust` − `closed-form`", changes)
    return markdown(["without an anchor", *columns], lines)
