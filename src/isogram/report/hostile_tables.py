"""What a hostile third costs, and what the robust options make of it: tables from `benchmarks/hostile.py`."""

from isogram.report.tables import Mean, Results, difference, figure, markdown

ANCHORS = {"tcga-brca": 100, "digits-sites": 5}
FIGURES = {"tcga-brca": (("r1", None), ("pam50", "mirna")), "digits-sites": (("accuracy", None),)}
"""Source -> metric and direction of its tables."""

MODALITIES = ("image", "speech", "pen")
"""Of digits-sites: its accuracy is their mean, without those on classes labelled elsewhere."""

ATTACKS = {
    "honest": "nobody lies",
    "scaled": "updates x 100, all rows claimed",
    "sign-flipped": "updates x −10",
    "inner-product": "colluding updates: minus their mean",
    "a-little": "colluding updates: a little is enough",
    "spoilt-sums": "class sums spoilt",
    "label-flipped": "labels permuted",
    "anchors": "anchors permuted",
    "anchors-together": "anchors permuted, all alike",
}
OPTIONS = {
    "plain": "plain",
    "outliers": "`outliers`",
    "median": "`outliers`, `median`",
    "trimmed": "`outliers`, `trimmed`",
}


def hostile_blocks(results: Results) -> dict[str, str]:
    """The tables of docs/privacy.md, "Hostile nodes", by name."""
    out = {
        f"hostile-{source}-{metric}": _losses(results, source, metric, direction)
        for source, figures in FIGURES.items()
        for metric, direction in figures
    }
    return out | {"hostile-left-out": _left_out(results)}


def _of(
    results: Results, source: str, attack: str, option: str, metric: str, direction: str | None
) -> dict[int, float]:
    """Figure by seed."""
    if metric != "accuracy":
        return results.per_seed(f"{source}:{attack}", option, ANCHORS[source], metric, direction)
    parts = [results.per_seed(f"{source}:{attack}", option, ANCHORS[source], metric, m) for m in MODALITIES]
    return {seed: sum(part[seed] for part in parts) / len(parts) for seed in parts[0]}


def _losses(results: Results, source: str, metric: str, direction: str | None) -> str:
    """Each option's difference to the federation without hostile nodes under plain averaging, over common seeds."""
    clean = _of(results, source, "honest", "plain", metric, direction)

    def against(attack: str, option: str) -> str:
        found = _of(results, source, attack, option, metric, direction)
        common = sorted(set(found) & set(clean))
        return difference(Mean.of([found[seed] - clean[seed] for seed in common])) if common else ""

    lines = []
    for attack, title in ATTACKS.items():
        cells = [against(attack, option) for option in OPTIONS]
        if attack == "honest" and clean:
            cells[0] = figure(Mean.of(list(clean.values())))
        lines.append([title, *cells])
    lines.append(["the hostile third absent", against("absent", "plain"), *[""] * (len(OPTIONS) - 1)])
    return markdown(["a third of the nodes", *OPTIONS.values()], lines)


def _left_out(results: Results) -> str:
    """Of the hostile nodes and of the honest ones, how many a run leaves out, over all seeds."""
    lines = []
    for attack, title in ATTACKS.items():
        cells = []
        for source in ANCHORS:
            for metric in ("caught", "blamed"):
                found = [
                    value
                    for option in ("median", "trimmed")
                    for value in results.per_seed(f"{source}:{attack}", option, ANCHORS[source], metric, None).values()
                ]
                cells.append(f"{sum(found) / len(found):.1f}" if found else "")
        lines.append([title, *cells])
    heads = [f"{source}: {who}" for source in ANCHORS for who in ("hostile", "honest")]
    return markdown(["left out, nodes a run", *heads], lines)
