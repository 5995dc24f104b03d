"""What anchors are worth, as curves: the picture of docs/anchors.md."""

from collections.abc import Sequence
from io import StringIO
from math import isnan
from pathlib import Path
from typing import Any

from isogram.report.anchor_tables import (
    CLEAN,
    COUNTS,
    DIGITS,
    IN_RNA,
    INSTEAD,
    MISSING,
    PICTURES,
    TCGA,
    WRONG,
    at_count,
    mean,
    share,
)
from isogram.report.tables import Mean, Results

# Readable on light and on dark: `_INK` and the paper follow the reader's colour scheme.
_INK = "#1c2024"
_STYLES: dict[str, tuple[str, str]] = {
    "told": ("#b86a96", ":"),
    "closed-form robust": ("#D55E00", "--"),
    "closed-form": ("#D55E00", "-"),
    "robust": ("#1f7fc0", "--"),
    "oneshot-hsic": ("#1f7fc0", "-"),
    "no-message": ("#009E73", "-."),
    "relative": ("#808891", "-."),
}
_SCHEME = """<style>
svg { color: #1c2024; } .paper { fill: #ffffff; }
@media (prefers-color-scheme: dark) { svg { color: #dfe3e8; } .paper { fill: #14171b; } }
</style><rect class="paper" width="100%" height="100%" rx="6"/>"""

Points = list[tuple[float, Mean | None]]

Line = tuple[str, str, str, Points]
"""Label, colour, dashes, points."""

_GAP = 0.068
"""Between labels, as a share of a panel's height."""


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
        plot = Figure(figsize=(10.8, 9.4), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
        for axes, (title, x, y, lines) in zip(plot.subplots(3, 3).flat, _panels(results), strict=True):
            axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
            axes.set(xlabel=x, ylabel=y)
            _draw(axes, lines)
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


def _draw(axes: Any, lines: Sequence[Line]) -> None:
    """Curves and bands, each line's name at its end."""
    ends, tops, ticks = [], [], set()
    for label, colour, dashes, points in lines:
        there = [(at, m) for at, m in points if m is not None]
        if not there:
            continue
        at, middle = [p for p, _ in there], [m.mean for _, m in there]
        half = [0.0 if isnan(m.half) else m.half for _, m in there]
        width = 2.8 if dashes == "-" else 1.6  # so that a line that coincides shows on top of it
        axes.plot(at, middle, color=colour, ls=dashes, lw=width, marker="o", ms=3, zorder=4 - width / 3)
        low, high = ([m + sign * h for m, h in zip(middle, half, strict=True)] for sign in (-1, 1))
        axes.fill_between(at, low, high, color=colour, alpha=0.18, lw=0)
        ends.append((middle[-1], label, colour))
        tops.append(max(high))
        ticks |= set(at)
    top = 1.05 * max(tops, default=1.0)
    axes.set_ylim(0, top)
    axes.set_xticks(sorted(ticks))
    ends.sort()
    for place, (end, label, colour) in zip(_spread([end / top for end, _, _ in ends]), ends, strict=True):
        axes.annotate(
            label,
            (max(ticks), end),
            (1.03, place),
            textcoords="axes fraction",
            color=colour,
            va="center",
            fontsize=8.5,
            annotation_clip=False,
        )


def _spread(ends: Sequence[float]) -> list[float]:
    """Heights of labels near the ends of their lines, which ascend, no two closer than `_GAP`."""
    groups: list[list[float]] = []
    for end in ends:
        groups.append([end])
        while len(groups) > 1 and _low(groups[-1]) < _low(groups[-2]) + _GAP * len(groups[-2]):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_low(group) + _GAP * i for group in groups for i in range(len(group))]


def _low(group: Sequence[float]) -> float:
    """Height of the lowest label of some that stand as near together as they may, about the middle of their ends."""
    room = _GAP * (len(group) - 1)
    return max(0.0, sum(group) / len(group) - room / 2)


def _panels(results: Results) -> list[tuple[str, str, str, list[Line]]]:
    def lines(source: str, settings: Sequence[str], names: Sequence[str] = tuple(_STYLES)) -> list[Line]:
        shares = [(float(share(setting).rstrip("%")), setting) for setting in settings]
        return [
            (name, *_STYLES[name], [(at, mean(results, source, setting, name)) for at, setting in shares])
            for name in names
        ]

    def counts(source: str) -> list[Line]:
        found = {name: [at_count(results, source, name, k) for k in COUNTS] for name in untold}
        return [
            (
                name,
                *_STYLES[name],
                [(k, Mean.of(list(v.values())) if v else None) for k, v in zip(COUNTS, all_, strict=True)],
            )
            for name, all_ in found.items()
        ]

    untold = tuple(name for name in _STYLES if name != "told")
    found, right, ten = "R@1, 154 held-out patients", "accuracy, held-out digits", "R@10, 118 held-out concepts"
    wrong, instead = "% wrong in each modality", "% of 100 anchors left out"
    return [
        ("How many", "public anchor patients", found, counts(TCGA)),
        ("Missing", "% missing in each modality", found, lines(TCGA, MISSING, untold)),
        ("Wrong everywhere", wrong, found, lines(TCGA, WRONG)),
        ("Wrong in RNA alone", "% wrong in RNA", found, lines(TCGA, IN_RNA)),
        ("Synthetic, from the others (oneshot-hsic)", instead, found, _instead_lines(results, TCGA, "oneshot-hsic")),
        ("Uncovered (oneshot-hsic)", "digits without an anchor", right, _digit_lines(results)),
        ("Talking pictures: how many", "public anchor concepts", ten, counts(PICTURES)),
        ("Talking pictures: wrong", wrong, ten, lines(PICTURES, (CLEAN, *WRONG[2:]))),
        ("Talking pictures: variants (closed-form)", instead, ten, _instead_lines(results, PICTURES, "closed-form")),
    ]


def _instead_lines(results: Results, source: str, method: str) -> list[Line]:
    def points(setting: str) -> Points:
        clean = mean(results, source, CLEAN, method)
        return [(0.0, clean), *((float(n), mean(results, source, setting.format(n), method)) for n in INSTEAD)]

    return [
        ("left out", "#1f7fc0", "-", points("dropped {}%")),
        ("synthetic instead" if source == TCGA else "variants instead", "#D55E00", "--", points("replaced {}%")),
    ]


def _digit_lines(results: Results) -> list[Line]:
    def points(how: str, part: str) -> Points:
        return [(n, mean(results, DIGITS, f"{how} {n}", "oneshot-hsic", part)) for n in range(1, 6)]

    return [
        ("others", "#1f7fc0", "-", points("uncovered", "-covered")),
        ("others, random", "#1f7fc0", ":", points("random", "-covered")),
        ("these", "#D55E00", "-", points("uncovered", "-uncovered")),
        ("these, random", "#D55E00", ":", points("random", "-uncovered")),
    ]
