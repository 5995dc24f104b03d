"""What search finds, and what it costs: tables from the rows of `benchmarks/search.py`."""

from isogram.report.tables import Results, difference, figure, markdown, short

_POINTS = {
    "anchors": "the anchors (`Bank`)",
    "own": "rows of the node with the items",
    "query": "rows of the node that asks",
    "items": "the items",
}
_COSTS = {
    "hubness": "hubness of all items",
    "load": "read the bank, and the first search",
    "median": "a search, median",
    "most": "a search, the slowest of 50",
}


def search_blocks(results: Results) -> dict[str, str]:
    """The tables of docs/use.md, by name."""
    return {"search": _gains(results), "search-costs": _costs(results)}


def _gains(results: Results) -> str:
    """Figures by cosine, and the paired gain of each correction."""
    lines = []
    for data in ("tcga-brca", "machines", "pictures"):
        name = f"search:{data}"
        for anchors in results.anchors(name):
            for metric, title in (("r1", "R@1"), ("r10", "R@10")):
                gains = [difference(results.gain(name, points, "cosine", anchors, metric)) for points in _POINTS]
                lines.append(
                    [f"`{data}`, K = {anchors}, {title}", figure(results.mean(name, "cosine", anchors, metric)), *gains]
                )
    return markdown(["held-out rows", "cosine", *_POINTS.values()], lines)


def _costs(results: Results) -> str:
    name = "search:speed"
    (items,) = results.anchors(name) or (0,)
    values = {key: results.mean(name, "bank", items, key) for key in (*_COSTS, "megabytes")}
    lines = [[title, f"{short(found.mean)} s"] for key, title in _COSTS.items() if (found := values[key]) is not None]
    if values["megabytes"] is not None:
        lines.append(["most memory of the process", f"{values['megabytes'].mean:,.0f} MB"])
    return markdown([f"{items:,} items, 96 coordinates, one thread", ""], lines)
