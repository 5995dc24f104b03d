"""Who averages with whom: tables from the rows of `benchmarks/sites.py`."""

from collections.abc import Mapping

from isogram.report.tables import Results, difference, figure, markdown, spread

DATA = "digits-sites:across"
ANCHORS = 5
MODALITIES = ("image", "speech", "pen")
RULES = {
    "start": "before training",
    "alone": "every node alone",
    "all": "everything over all nodes",
    "none": "everything within a modality",
    "trunk": "the trunk over all nodes, the map from it within a modality",
    "attention": "attention over all nodes, the rest within a modality",
    "pooled": "everything, as far as modalities agree",
    "none frozen": "control: within a modality the map alone, the trunk does not train",
    "trunk transfer": "control: the same on a trunk that the other modalities trained",
}
CONDITIONS = {
    "frame {}": "as above",
    "frame {} head=laplace": "`average.head = laplace`",
    "frame {} standardised": "rows standardised at the site",
    "frame {} geodora": "GeoDoRA",
    "frame {} steps=48": "48 steps a round",
    "few frame {}": "30 rows a site",
    "apart {}": "no frame",
    "apart {} cka": "no frame, CKA",
}


def site_blocks(results: Results) -> dict[str, str]:
    """The tables of docs/adapters.md, by name."""
    return {
        "sites-default": _rules(results, {rule: f"default {rule}" for rule in RULES}),
        "sites": _rules(results, {rule: f"frame {rule}" for rule in RULES}),
        "sites-apart": _rules(results, {rule: f"apart {rule}" for rule in RULES}),
        "sites-trunk": _trunk(results),
    }


def _rules(results: Results, methods: Mapping[str, str]) -> str:
    lines = []
    for rule, method in methods.items():
        if results.mean(DATA, method, ANCHORS, "accuracy") is None:
            continue
        means = [spread(results.mean(DATA, method, ANCHORS, "accuracy", m)) for m in (*MODALITIES, None)]
        base = f"{method.split()[0]} none"
        gain = "" if method == base else difference(results.gain(DATA, method, base, ANCHORS, "accuracy"))
        lines.append([f"{RULES[rule]} (`{rule}`)", *means, gain])
    return markdown(["who averages", *MODALITIES, "mean", "mean − `none`"], lines)


def _trunk(results: Results) -> str:
    """What is shared over modalities against nothing, wherever both have rows."""
    lines = []
    shared = ("trunk", "attention")
    for method, title in CONDITIONS.items():
        own = method.format("none")
        gains = [
            difference(results.gain(DATA, method.format(rule), own, ANCHORS, "accuracy", m))
            for rule in shared
            for m in (*MODALITIES, None)
        ]
        lines.append([title, figure(results.mean(DATA, own, ANCHORS, "accuracy")), *gains])
    return markdown(["", "`none`", *(f"{r} − none, {m}" for r in shared for m in (*MODALITIES, "mean"))], lines)
