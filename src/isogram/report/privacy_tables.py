"""What differential privacy costs and refuses: tables from the rows of `benchmarks/privacy.py`, and from the code."""

from collections.abc import Mapping

from isogram.privacy import REFUSED
from isogram.report.tables import Results, difference, figure, markdown

COLUMNS: dict[tuple[str, str, str | None], str] = {
    ("privacy:tcga-brca", "pam50", "rna"): "PAM50 RNA",
    ("privacy:tcga-brca", "pam50", "mirna"): "PAM50 miRNA",
    ("privacy:tcga-brca", "pam50", "meth"): "PAM50 meth.",
    ("privacy:tcga-brca", "r1", None): "R@1",
    ("privacy:digits", "accuracy", "image"): "image",
    ("privacy:digits", "accuracy", "speech"): "speech",
    ("privacy:digits", "accuracy", "pen"): "pen",
}
SITES: dict[tuple[str, str, str | None], str] = {
    ("privacy:digits-sites", "accuracy", m): m for m in ("image", "speech", "pen")
}
STUDIES = {
    "closed-form": "class directions alone",
    "rounds": "rounds on public anchors",
    "dp-sgd": "rounds with DP-SGD",
}
EPSILONS = {"1": "ε = 1", "3": "ε = 3", "8": "ε = 8", "inf": "no noise", "default": "no privacy"}
NUMBERS = ("1", "3", "8")


def privacy_blocks(results: Results) -> dict[str, str]:
    """The tables of docs/privacy.md, by name."""
    return {
        "privacy-refused": refused(),
        "privacy-utility": _utility(results, COLUMNS),
        "privacy-sites": _utility(results, SITES),
        "privacy-loss": _losses(results, "inf"),
        "privacy-loss-default": _losses(results, "default"),
    }


def refused() -> str:
    """What settings have to be with `privacy.epsilon`, and why."""
    lines = [[f"`{refusal.key}`", refusal.remedy, refusal.why] for refusal in REFUSED]
    return "\n".join(
        "| " + " | ".join(line) + " |" for line in (["setting", "has to be", "because"], ["---"] * 3, *lines)
    )


def _utility(results: Results, columns: Mapping[tuple[str, str, str | None], str]) -> str:
    lines = []
    for study, title in STUDIES.items():
        for epsilon, shown in EPSILONS.items():
            method = f"{study} {epsilon}"
            cells = [_of(results, method, *column) for column in columns]
            if any(cell != "–" for cell in cells):
                lines.append([f"{title}, {shown}", *cells])
    return markdown(["", *columns.values()], lines)


def _losses(results: Results, base: str) -> str:
    """What noise, or all that privacy asks for, takes away: paired over seeds."""
    lines = []
    for study, title in STUDIES.items():
        against = f"{'rounds' if (study, base) == ('dp-sgd', 'default') else study} {base}"
        for epsilon in NUMBERS:
            cells = []
            for dataset, metric, direction in COLUMNS:
                pair = (f"{study} {epsilon}", against)
                gains = [results.gain(dataset, *pair, k, metric, direction) for k in results.anchors(dataset)]
                cells.append(difference(next((gain for gain in gains if gain is not None), None)))
            if any(cell != "–" for cell in cells):
                lines.append([f"{title}, {EPSILONS[epsilon]}", *cells])
    return markdown(["", *COLUMNS.values()], lines)


def _of(results: Results, method: str, dataset: str, metric: str, direction: str | None) -> str:
    found = [results.mean(dataset, method, anchors, metric, direction) for anchors in results.anchors(dataset)]
    return figure(next((mean for mean in found if mean is not None), None))
