"""What anchors are worth, and what flaws in them cost: tables and picture from the rows of `benchmarks/anchors.py`."""

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from math import isnan
from pathlib import Path
from typing import Any

from isogram.report.tables import Mean, Results, difference, figure, markdown

TCGA, DIGITS, K = "tcga-brca", "digits", {"tcga-brca": 100, "digits": 5}
METRIC = {TCGA: "r1", DIGITS: "accuracy"}
METHODS = ("relative", "no-message", "oneshot", "oneshot-hsic", "robust", "told", "isogram", "isogram robust")
CLEAN = "wrong 0%"
MISSING = (CLEAN, *(f"missing {share}%" for share in (10, 20, 30, 40, 50)))
WRONG = tuple(f"wrong {share}%" for share in (0, 5, 10, 20, 30, 40))
IN_RNA = (CLEAN, *(f"wrong {share}% in RNA" for share in (10, 20, 40)))
ADDED = (0, 50, 100, 200)
INSTEAD = (25, 50, 75)
SUBTYPES = ("Normal", "Basal", "Her2", "LumA", "LumB")
COUNTS = (25, 50, 100, 200)


def anchor_blocks(results: Results) -> dict[str, str]:
    """The tables of docs/anchors.md, by name."""
    out = {"anchors-count": _count(results)}
    for name, source, settings in (
        ("anchors-missing", TCGA, MISSING),
        ("anchors-missing-digits", DIGITS, MISSING),
        ("anchors-wrong", TCGA, WRONG),
        ("anchors-wrong-rna", TCGA, IN_RNA),
        ("anchors-wrong-digits", DIGITS, WRONG),
    ):
        out[name] = _settings(results, source, settings)
    return out | {
        "anchors-added": _added(results),
        "anchors-instead": _instead(results),
        "anchors-uncovered": _uncovered(results),
        "anchors-uncovered-digits": _uncovered_digits(results),
    }


def mean(results: Results, source: str, setting: str, method: str, suffix: str = "") -> Mean | None:
    """R@1 or accuracy of a method at a point of a curve; `suffix` names a part of the held-out rows."""
    return results.mean(f"{source}:{setting}", method, K[source], METRIC[source] + suffix)


def gain(results: Results, source: str, setting: str, method: str, base: str) -> Mean | None:
    """Paired difference of two methods at a point."""
    return results.gain(f"{source}:{setting}", method, base, K[source], METRIC[source])


def _between(results: Results, left: str, right: str, source: str, suffix: str = "") -> Mean | None:
    """Paired difference of `oneshot-hsic` between two settings."""

    def values(setting: str) -> dict[int, float]:
        return results.per_seed(f"{source}:{setting}", "oneshot-hsic", K[source], METRIC[source] + suffix, None)

    a, b = values(left), values(right)
    common = sorted(set(a) & set(b))
    return Mean.of([a[seed] - b[seed] for seed in common]) if common else None


def _count(results: Results) -> str:
    lines = []
    for method in ("relative", "no-message", "oneshot", "oneshot-hsic"):
        lines.append([f"`{method}`", *(figure(results.mean(TCGA, method, k, "r1")) for k in COUNTS)])
    own = [results.per_seed(f"{TCGA}:count", "robust", k, "r1", None) for k in COUNTS]
    lines.append(["`robust`", *(figure(Mean.of(list(v.values())) if v else None) for v in own)])
    cells = []
    for k, values in zip(COUNTS, own, strict=True):
        base = results.per_seed(TCGA, "oneshot-hsic", k, "r1", None)
        common = sorted(set(values) & set(base))
        cells.append(difference(Mean.of([values[s] - base[s] for s in common]) if common else None))
    lines.append(["`robust` − `oneshot-hsic`", *cells])
    return markdown(["method", *(f"K = {k}" for k in COUNTS)], lines)


def _settings(results: Results, source: str, settings: Sequence[str]) -> str:
    lines = []
    for method in METHODS:
        cells = [figure(mean(results, source, setting, method)) for setting in settings]
        if set(cells) != {"–"}:
            lines.append([f"`{method}`", *cells])
    for method, base in (("robust", "oneshot-hsic"), ("isogram robust", "isogram")):
        cells = [difference(gain(results, source, setting, method, base)) for setting in settings]
        if set(cells) != {"–"}:
            lines.append([f"`{method}` − `{base}`", *cells])
    return markdown(["method", *(_share(setting) for setting in settings)], lines)


def _share(setting: str) -> str:
    found = re.search(r"\d+%", setting)
    return found[0] if found else setting


def _added(results: Results) -> str:
    lines = []
    for title, way in (("declared as real", ""), ("quality .3", " at 0.3")):
        for method in ("oneshot", "oneshot-hsic", "isogram"):
            cells = [figure(mean(results, TCGA, CLEAN if not n else f"added {n}%{way}", method)) for n in ADDED]
            if set(cells[1:]) != {"–"}:
                lines.append([f"`{method}`, {title}", *cells])
        changes = [difference(_between(results, f"added {n}%{way}", CLEAN, TCGA)) for n in ADDED if n]
        lines.append([f"`oneshot-hsic`, {title}, − none added", "", *changes])
    return markdown(["synthetic anchors beside 100 real ones", *(str(n) for n in ADDED)], lines)


def _instead(results: Results) -> str:
    lines = []
    for title, setting in (
        ("left out", "dropped {}%"),
        ("synthetic", "replaced {}%"),
        ("synthetic, quality .3", "replaced {}% at 0.3"),
    ):
        cells = [figure(mean(results, TCGA, setting.format(n), "oneshot-hsic")) for n in INSTEAD]
        if title != "left out":
            cells = [
                f"{cell} ({difference(_between(results, setting.format(n), f'dropped {n}%', TCGA))})"
                for cell, n in zip(cells, INSTEAD, strict=True)
            ]
        lines.append([title, *cells])
    return markdown(["of 100 real anchors", *(f"{n}" for n in INSTEAD)], lines)


def _uncovered(results: Results) -> str:
    lines = []
    for name in SUBTYPES:
        cells = []
        for part in ("-uncovered", "-covered"):
            cells += [
                figure(mean(results, TCGA, f"{how} {name}", "oneshot-hsic", part)) for how in ("random", "uncovered")
            ]
            cells.append(difference(_between(results, f"uncovered {name}", f"random {name}", TCGA, part)))
        lines.append([name, *cells])
    parts = [f"{who}, {what}" for who in ("its patients", "others") for what in ("at random", "none of its own", "−")]
    return markdown(["anchors left out", *parts], lines)


def _uncovered_digits(results: Results) -> str:
    lines = []
    for number in range(1, 6):
        cells = []
        for part in ("-uncovered", "-covered"):
            for method in ("no-message", "oneshot-hsic"):
                cells.append(figure(mean(results, DIGITS, f"uncovered {number}", method, part)))
            cells.append(difference(_between(results, f"uncovered {number}", f"random {number}", DIGITS, part)))
        lines.append([str(number), *cells])
    parts = ("`no-message`", "`oneshot-hsic`", "− as many at random")
    header = [f"{who}, {what}" for who in ("their rows", "other rows") for what in parts]
    return markdown(["digits without an anchor", *header], lines)


# Readable on light and on dark: `_INK` and the paper follow the reader's colour scheme.
_INK = "#1c2024"
_STYLES: dict[str, tuple[str, str]] = {
    "told": ("#b86a96", ":"),
    "robust": ("#D55E00", "-"),
    "oneshot-hsic": ("#1f7fc0", "-"),
    "no-message": ("#009E73", "--"),
    "relative": ("#808891", "-."),
}
_SCHEME = """<style>
svg { color: #1c2024; } .paper { fill: #ffffff; }
@media (prefers-color-scheme: dark) { svg { color: #dfe3e8; } .paper { fill: #14171b; } }
</style><rect class="paper" width="100%" height="100%" rx="6"/>"""

Line = tuple[str, str, str, list[tuple[float, Mean | None]]]
"""Label, colour, dashes, points."""


def anchor_picture(results: Results, path: Path) -> None:
    """Curves with 95% bands as SVG, or as PNG by the path's ending."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    style: dict[Any, Any] = {
        "svg.hashsalt": "isogram",
        "svg.fonttype": "none",
        "font.size": 9,
        "font.family": "sans-serif",
    }
    ink: dict[Any, Any] = {f"{part}.color": _INK for part in ("text", "xtick", "ytick")}
    with matplotlib.rc_context(style | ink | {"axes.edgecolor": "#808891", "axes.labelcolor": _INK}):
        plot = Figure(figsize=(10.2, 6.3), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
        panels = plot.subplots(2, 3)
        for axes, (title, x, y, lines) in zip(panels.flat, _panels(results), strict=True):
            axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
            axes.set(xlabel=x, ylabel=y)
            ends = []
            for label, colour, dashes, points in lines:
                there = [(at, m) for at, m in points if m is not None]
                if not there:
                    continue
                at, middle = [p for p, _ in there], [m.mean for _, m in there]
                half = [0.0 if isnan(m.half) else m.half for _, m in there]
                width = 3.0 if label == "oneshot-hsic" else 1.6  # so that a line that coincides shows on top of it
                axes.plot(at, middle, color=colour, ls=dashes, lw=width, marker="o", ms=3, zorder=4 - width / 3)
                low, high = ([m + sign * h for m, h in zip(middle, half, strict=True)] for sign in (-1, 1))
                axes.fill_between(at, low, high, color=colour, alpha=0.22, lw=0)
                ends.append((middle[-1], label, colour))
            top = (
                max(
                    (
                        m.mean + (0 if isnan(m.half) else m.half)
                        for *_, points in lines
                        for _, m in points
                        if m is not None
                    ),
                    default=1.0,
                )
                * 1.05
            )
            axes.set_ylim(0, top)
            right = max((at for *_, points in lines for at, _ in points), default=1.0)
            axes.set_xticks(sorted({at for *_, points in lines for at, _ in points}))
            place = -1.0
            for end, label, colour in sorted(ends):
                place = max(end, place + 0.062 * top)
                axes.annotate(
                    label,
                    (right, end),
                    (1.03, place / top),
                    textcoords="axes fraction",
                    color=colour,
                    va="center",
                    fontsize=8.5,
                    annotation_clip=False,
                )
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#808891", alpha=0.25, lw=0.6)
            axes.patch.set_visible(False)
        plot.patch.set_visible(path.suffix != ".svg")
        if path.suffix != ".svg":
            plot.savefig(path, dpi=150)
            return
        buffer = StringIO()
        plot.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    drawn = buffer.getvalue().replace(_INK, "currentColor")
    head, rest = drawn.split("<defs>", 1)
    path.write_text(f"{head}{_SCHEME}\n <defs>{rest}", encoding="utf-8")


def _panels(results: Results) -> list[tuple[str, str, str, list[Line]]]:
    def lines(of: Callable[[str], list[tuple[float, Mean | None]]], names: Sequence[str]) -> list[Line]:
        return [(name, *_STYLES[name], of(name)) for name in names]

    def along(settings: Mapping[float, str], method: str) -> list[tuple[float, Mean | None]]:
        return [(at, mean(results, TCGA, setting, method)) for at, setting in settings.items()]

    def count(method: str) -> list[tuple[float, Mean | None]]:
        source = f"{TCGA}:count" if method == "robust" else TCGA
        return [(k, results.mean(source, method, k, "r1")) for k in COUNTS]

    untold = tuple(name for name in _STYLES if name != "told")
    missing = {float(_share(s).rstrip("%")): s for s in MISSING}
    wrong = {float(_share(s).rstrip("%")): s for s in WRONG}
    in_rna = {float(_share(s).rstrip("%")): s for s in IN_RNA}
    found, right = "R@1, 154 held-out patients", "accuracy, held-out digits"
    return [
        ("How many", "public anchor patients", found, lines(count, untold)),
        ("Missing", "% missing in each modality", found, lines(lambda m: along(missing, m), untold)),
        ("Wrong everywhere", "% wrong in each modality", found, lines(lambda m: along(wrong, m), tuple(_STYLES))),
        ("Wrong in RNA alone", "% wrong in RNA", found, lines(lambda m: along(in_rna, m), tuple(_STYLES))),
        ("Synthetic (oneshot-hsic)", "% of 100 anchors left out", found, _instead_lines(results)),
        ("Uncovered (oneshot-hsic)", "digits without an anchor", right, _digit_lines(results)),
    ]


def _instead_lines(results: Results) -> list[Line]:
    def points(setting: str) -> list[tuple[float, Mean | None]]:
        clean = mean(results, TCGA, CLEAN, "oneshot-hsic")
        return [(0.0, clean), *((float(n), mean(results, TCGA, setting.format(n), "oneshot-hsic")) for n in INSTEAD)]

    return [
        ("left out", "#1f7fc0", "-", points("dropped {}%")),
        ("synthetic instead", "#D55E00", "--", points("replaced {}%")),
    ]


def _digit_lines(results: Results) -> list[Line]:
    def points(how: str, part: str) -> list[tuple[float, Mean | None]]:
        return [(n, mean(results, DIGITS, f"{how} {n}", "oneshot-hsic", part)) for n in range(1, 6)]

    return [
        ("others", "#1f7fc0", "-", points("uncovered", "-covered")),
        ("others, random", "#1f7fc0", ":", points("random", "-covered")),
        ("these", "#D55E00", "-", points("uncovered", "-uncovered")),
        ("these, random", "#D55E00", ":", points("random", "-uncovered")),
    ]
