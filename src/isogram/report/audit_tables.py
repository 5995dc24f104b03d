"""What attacks make of messages: the table of an audit, for terminal, page and docs/privacy.md."""

from collections.abc import Callable

import numpy as np

from isogram.audit.suite import EVERYTHING, GRAMS, PRIVATE_SCALES
from isogram.report.tables import Mean, Results, difference, figure, markdown, short

ORDER = (
    GRAMS,
    "isogram: class sums",
    "isogram: votes",
    "isogram: updates",
    "isogram: final model",
    EVERYTHING,
    "prototypes",
    "full weights: updates",
    "full weights: final model",
    "representations: anchor embeddings",
    "representations: updates",
    "representations: final model",
)

OURS = tuple(method for method in ORDER[1:] if method.startswith("isogram"))

COLUMNS = {
    "AUC": ("membership", "telling who was in, .5 is chance"),
    "at 1%": ("tpr", "true positives at 1% false ones, .01 is chance"),
    "noise": ("canaries", "the same AUC on canaries, rows of noise"),
    "ε ≥": ("epsilon-rows", "lower bound on epsilon, 95%, by rows"),
    "rebuilt": ("rebuilt", "cosine of rebuilt rows with rows that were in, less that with rows that were not"),
    "likeness": ("likeness", "cosine of rebuilt rows with rows that were in, less that of noise with them"),
    "site": ("site", "nodes whose site is told, among those of their modality"),
    "mix": ("mix", "correlation with the true class shares"),
}
"""Column -> metric, and what it is."""

AGAINST = {
    "what is attacked": False,
    "figure": False,
    "modality": False,
    "this field": True,
    "prototypes": True,
    "difference": True,
    "verdict": False,
}
"""Columns of `claims`, and whether they hold numbers."""

BASE = "prototypes"
PRIVATE = "private"
"""In the names of rows of an audit under differential privacy."""

VERDICTS = ("below", "no different", "above")
COMPARED = ("membership", "advantage", "rebuilt", "likeness")


def lines(results: Results, dataset: str, anchors: int, show: Callable[[Mean | None], str]) -> list[list[str]]:
    """One line a field of a protocol, one cell a column."""
    out = []
    for method in ORDER:
        found = {name: results.mean(dataset, method, anchors, metric) for name, (metric, _) in COLUMNS.items()}
        if method == GRAMS and results.methods(dataset):
            varies = results.mean(dataset, method, anchors, "varies")
            constant = varies is not None and varies.mean == 0
            text = "same bytes" if constant else "bytes vary"
            out.append([method, text, *[""] * (len(COLUMNS) - 1)])
        elif any(found.values()):
            out.append([method, *(show(value) for value in found.values())])
    return out


def stated(results: Results, dataset: str, anchors: int) -> str | None:
    """The bound that differential privacy states, beside what attacks show; None without it."""
    upper = results.mean(dataset, EVERYTHING, anchors, "epsilon-stated")
    lower = results.mean(dataset, EVERYTHING, anchors, "epsilon-rows")
    if upper is None or lower is None:
        return None
    return (
        f"differential privacy states epsilon of {upper.mean:g} at most; the attacks' lower bounds have a mean of "
        f"{lower.mean:.2f}"
    )


def repeated(results: Results, dataset: str, anchors: int) -> str:
    """Whether what was attacked is what the run sent."""
    share = results.mean(dataset, "the run itself", anchors, "repeated")
    if share is None and stated(results, dataset, anchors):
        return "not compared with the run's own messages, whose noise cannot be drawn again"
    if share is None:
        return "not compared with the run's own messages, of which it has no log"
    if share.mean == 1:
        return "repeated with all rows, these settings sent the run's messages again, bit for bit"
    return f"repeated with all rows, {share.mean:.0%} of the arrays were those of the run: another machine, or versions"


def with_interval(value: Mean | None) -> str:
    """Mean and 95% interval over replays."""
    if value is None:
        return "–"
    return figure(value) if np.isnan(value.half) else f"{figure(value)} ± {short(value.half)}"


def claims(results: Results, dataset: str, anchors: int) -> list[list[str]]:
    """Each of Isogram's fields against prototype sharing: paired differences over replays, and whether it holds."""
    out = []
    for method in OURS:
        for metric in COMPARED:
            directions = results.directions(dataset, metric)
            common = [
                d
                for d in directions
                if results.mean(dataset, method, anchors, metric, d) and results.mean(dataset, BASE, anchors, metric, d)
            ]
            for direction in common:
                gain = results.gain(dataset, method, BASE, anchors, metric, direction)
                assert gain is not None
                holds = (
                    "below" if gain.mean + gain.half < 0 else "above" if gain.mean - gain.half > 0 else "no different"
                )
                here = (results.mean(dataset, m, anchors, metric, direction) for m in (method, BASE))
                out.append([method, metric, direction, *(figure(mean) for mean in here), difference(gain), holds])
    return out


def verdicts(against: list[list[str]]) -> str:
    """How many figures are below prototype sharing's, no different, and above, each at 95% by itself."""
    counts = [f"{sum(line[-1] == verdict for line in against)} {verdict}" for verdict in VERDICTS]
    return f"against prototype sharing, {len(against)} figures by field and modality: {', '.join(counts)}"


def audit_blocks(results: Results) -> dict[str, str]:
    """The tables of docs/privacy.md, by name."""
    out = {}
    for source, anchors in (("tcga-brca", 100), ("digits", 5)):
        dataset = f"audit:{source}"
        out[f"audit-{source}"] = markdown(
            ["what is attacked", *COLUMNS], lines(results, dataset, anchors, with_interval)
        )
        out[f"audit-{source}-claims"] = markdown([*AGAINST], claims(results, dataset, anchors))
        out[f"audit-{source}-grams"] = grams(results, dataset, anchors)
    private = lines(results, f"audit:tcga-brca {PRIVATE}", 100, with_interval)
    out["audit-private"] = markdown(["what is attacked", *COLUMNS], private)
    return out


def grams(results: Results, dataset: str, anchors: int) -> str:
    """What a Gram gives away: features up to a rotation, and private scales where it had them."""
    out = []
    for direction in results.directions(dataset, "up to rotation"):

        def cell(metric: str, method: str, direction: str = direction) -> str:
            return figure(results.mean(dataset, method, anchors, metric, direction))

        own, what_if = GRAMS, PRIVATE_SCALES
        line = [results.mean(dataset, own, anchors, "up to rotation", direction)]
        out.append(
            [
                direction,
                *("–" if mean is None else f"{mean.mean:.0e}" if mean.mean >= 1e-6 else "<1e-06" for mean in line),
                *(
                    cell(f"{metric}, by {by}", method)
                    for metric in ("scale error", "scale membership")
                    for by, method in (("anchors", own), ("private", what_if))
                ),
            ]
        )
    header = ["modality", "features up to rotation: error", "scale error: Isogram", "private scales"]
    return markdown([*header, "membership by scales: Isogram", "private scales"], out)
