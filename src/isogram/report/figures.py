"""Charts of a run's page as inline SVG: no size or font of their own, no ids that clash, the same bytes every time.

One unit of a chart is a pixel where its panel is `WIDTH` wide, which it is in one column of a phone and in three of a
desktop alike; so text keeps its size.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from itertools import accumulate, pairwise
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from isogram.report.tables import short

WIDTH = 340

# Okabe & Ito's colours can be told apart by colour-blind readers. Eight colours and eleven shapes have no common
# factor, so that 88 classes differ; that two neighbours differ in both is what makes a picture without colours legible.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", "*", "h")
LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
INK, FAINT, EMPTY = "#1c2024", "#d5d8dc", "#8a9099"
SEQUENTIAL = "cividis"

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "isogram",
    "text.parse_math": False,  # a node may be called $x
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.grid": False,
    "grid.color": FAINT,
    "lines.solid_capstyle": "round",
}


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The reader's fonts draw the text; matplotlib's own, which measure it, may lack a script.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@_style()
def curves(chart: str, alt: str, mean: Mapping[int, float], parts: Sequence[Mapping[int, float]]) -> Markup:
    """One value over rounds: the mean as a thick line, and thin ones in the style of `line_key`."""
    figure, axes = _panel(200)
    for number, part in enumerate(parts):
        line, colour = _line(number)
        axes.plot(list(part), list(part.values()), color=colour, ls=line, lw=1.3)
    axes.plot(list(mean), list(mean.values()), color=INK, lw=2.6, marker="o", ms=5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(axis="y", lw=0.8)
    axes.set_xlabel("round")
    return _svg(figure, chart, alt)


@_style()
def line_key(number: int | None) -> Markup:
    """The sample of a line for a legend in HTML; None is the mean."""
    figure, axes = _bare(30, 12)
    line, colour = ("-", INK) if number is None else _line(number)
    axes.plot([0.05, 0.95], [0.5, 0.5], color=colour, ls=line, lw=2.6 if number is None else 1.6)
    return _svg(figure, f"line-{number}", None)


def _line(number: int) -> tuple[str | tuple[int, tuple[float, ...]], str]:
    return LINES[number % len(LINES)], COLOURS[number % 6]  # black is the mean's, yellow is faint in a thin line


@_style()
def heat_map(
    chart: str, alt: str, nodes: Sequence[str], groups: Mapping[str, int], values: Sequence[Sequence[float | None]]
) -> Markup:
    """A square matrix between 0 and 1, `groups` of nodes (name -> how many) set apart; numbers, names while legible."""
    gap = 0.02 * len(nodes) + 0.06
    starts = [0, *accumulate(groups.values())]
    place = [node + gap * group for group, (a, b) in enumerate(pairwise(starts)) for node in range(a, b)]
    figure, axes = _panel(WIDTH)
    size = 12 if len(nodes) <= 7 else 10.5 if len(nodes) <= 12 else None
    for y, line in zip(place, values, strict=True):
        for x, value in zip(place, line, strict=True):
            _cell(axes, x, y, value, size)
    for (group, count), start in zip(groups.items(), starts, strict=False):
        name = label(group, max(4, 36 * count // len(nodes)))
        axes.text(place[start] + count / 2, -0.25, name, ha="center", va="bottom", fontweight="bold", fontsize=11)
    names = [label(node, 12) for node in nodes] if len(nodes) <= 20 else []
    middle = [at + 0.485 for at in place] if names else []
    axes.set_yticks(middle, names, fontsize=11 if size else 9)
    axes.set_xticks(middle, names, fontsize=11 if size else 9, rotation=90)
    axes.set(xlim=(0, place[-1] + 1), ylim=(place[-1] + 1, 0), aspect="equal")
    axes.spines[:].set_visible(False)
    return _svg(figure, chart, alt)


def _cell(axes: Axes, x: float, y: float, value: float | None, size: float | None) -> None:
    colour, text = "#ffffff", "–"
    edge: dict[str, Any] = {"ec": FAINT, "lw": 0.8}
    if value is not None:
        colour = matplotlib.colors.to_hex(matplotlib.colormaps[SEQUENTIAL](min(max(value, 0.0), 1.0)))
        text, edge = short(value, 2).replace("1.00", "1"), {"lw": 0}
    axes.add_artist(Rectangle((x, y), 0.97, 0.97, fc=colour, **edge))
    if size is not None:
        ink, middle = _on(colour), (x + 0.485, y + 0.485)
        axes.text(*middle, text, ha="center", va="center", color=ink, fontsize=size, in_layout=False)


def gradient() -> str:
    """Colours of the heat maps from 0 to 1, as stops of a CSS gradient."""
    scale = matplotlib.colormaps[SEQUENTIAL]
    return ", ".join(matplotlib.colors.to_hex(scale(stop / 10)) for stop in range(11))


@_style()
def scatter(
    chart: str,
    alt: str,
    points: Sequence[tuple[float, float, int]],
    limits: Sequence[tuple[float, float]],
) -> Markup:
    """Points (x, y, class) in the style of `class_key`, lowest and highest along x and y; class -1 is unknown."""
    figure, axes = _panel(WIDTH)
    by_class: dict[int, list[tuple[float, float]]] = {}
    for x, y, kind in points:
        by_class.setdefault(max(kind, -1), []).append((x, y))
    for kind, at in sorted(by_class.items(), key=lambda entry: (entry[0] >= 0, -len(entry[1]), entry[0])):
        axes.plot(*zip(*at, strict=True), **_marker(kind))  # rare classes last, so that none is buried
    axes.axhline(0, color=FAINT, lw=0.8, zorder=0)
    axes.axvline(0, color=FAINT, lw=0.8, zorder=0)
    axes.set(xlim=_wider(*limits[0]), ylim=_wider(*limits[1]), xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="box")
    axes.spines[:].set(visible=True, color=FAINT)
    return _svg(figure, chart, alt)


def _wider(low: float, high: float) -> tuple[float, float]:
    edge = 0.05 * (high - low) or 1.0
    return low - edge, high + edge


@_style()
def class_key(number: int) -> Markup:
    """The marker of a class for a legend in HTML; -1 is unknown."""
    figure, axes = _bare(16, 16)
    axes.plot([0.5], [0.5], **_marker(number))
    return _svg(figure, f"class-{'unknown' if number < 0 else number}", None)


def _marker(number: int) -> dict[str, Any]:
    if number < 0:
        return {"ls": "", "marker": "o", "ms": 4.5, "mfc": "none", "mec": EMPTY, "mew": 1}
    shape, colour = MARKERS[number % len(MARKERS)], COLOURS[number % len(COLOURS)]
    small = {"ms": 6.0 if shape in "oshDp" else 7.5}
    return {"ls": "", "marker": shape, "mfc": colour, "mec": INK, "mew": 0.5} | small


@_style()
def stacked(chart: str, alt: str, bars: Mapping[str, Mapping[int, float]]) -> Markup:
    """Horizontal bars of parts in kB (number of `swatch` -> value), each with its sum; wide parts carry their value."""
    figure, axes = _panel(44 + 48 * len(bars))
    total = max((sum(parts.values()) for parts in bars.values()), default=0) or 1.0
    for y, parts in enumerate(bars.values()):
        left = 0.0
        for number, value in parts.items():
            colour = swatch(number)
            axes.barh(y, value, 0.62, left=left, color=colour, ec="#ffffff", lw=1)
            if value > 0.11 * total:
                text = f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
                axes.text(left + value / 2, y, text, color=_on(colour), ha="center", va="center", fontsize=11)
            left += value
        axes.text(left + 0.015 * total, y, f"{left:,.1f}", va="center", fontweight="bold")
    axes.set_yticks(range(len(bars)), list(bars))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.set(xlim=(0, 1.22 * total), ylim=(len(bars) - 0.5, -0.5), xlabel="kB per node")
    axes.spines["bottom"].set_visible(False)
    return _svg(figure, chart, alt)


def swatch(number: int) -> str:
    """Colour of a part of `stacked`."""
    return COLOURS[number % len(COLOURS)]


def label(text: str, longest: int) -> str:
    """A name short enough for a chart, without characters that cannot be printed."""
    clean = "".join(c if c.isprintable() else "·" for c in text)
    return clean if len(clean) <= longest else clean[: max(longest - 1, 1)] + "…"


def _panel(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
    axes = figure.subplots()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    return figure, axes


def _bare(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    figure.patch.set_visible(False)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()
    return figure, axes


def _on(colour: str) -> str:
    """Black or white, whichever is read better on a colour: the contrast is 4.58 or more on any."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in matplotlib.colors.to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"


def _svg(figure: Figure, chart: str, alt: str | None) -> Markup:
    """The figure as an element of a page, read aloud as `alt`; without one it decorates a text that says the same."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _clean(root, chart)
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib |= {"viewBox": box} | ({"aria-hidden": "true"} if alt is None else {"role": "img", "aria-label": alt})
    return Markup(ElementTree.tostring(root, encoding="unicode"))


_DROPPED = {"metadata", "clipPath", "style"}
_KEPT = {"d", "x", "y", "style", "transform", "viewBox"}


def _clean(element: ElementTree.Element, prefix: str) -> None:
    """Only what draws, ids under a prefix of the chart's own, two decimals; HTML needs no namespaces."""
    element.tag = _local(element.tag)
    identity, target = element.get("id"), next((v for k, v in element.items() if _local(k) == "href"), None)
    kept = {key: re.sub(r"-?\d+\.\d{3,}", _rounded, value) for key, value in element.items() if key in _KEPT}
    if element.tag == "text":
        kept["style"] = re.sub(r"font-family: [^;]*;? ?", "", kept.get("style", ""))
        kept["transform"] = re.sub(r"^rotate\(-0 .*\)$", "", kept.get("transform", ""))
    if element.tag == "path":
        kept["d"] = " ".join(kept.get("d", "").split())
        if identity is not None:
            kept["id"] = f"{prefix}-{identity}"
    if target is not None:
        kept["href"] = f"#{prefix}-{target.removeprefix('#')}"
    element.attrib.clear()
    element.attrib.update({key: value for key, value in kept.items() if value})
    for child in list(element):
        _clean(child, prefix)
        if child.tag in _DROPPED or (child.tag in ("g", "defs") and not len(child)):
            element.remove(child)
        child.tail = None
    if element.tag != "text":
        element.text = None


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")
