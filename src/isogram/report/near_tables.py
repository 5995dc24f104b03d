"""Which variants of anchors are found: a table from the rows of `benchmarks/near_anchors.py`."""

from isogram.report.tables import Results, figure, markdown

_ENCODERS = {
    "image builtin": "picture, `builtin`",
    "image lite0": "picture, `lite0`",
    "audio builtin": "recording, `builtin`",
    "text minilm": "text, `minilm`",
}
_RULES = ("third", "distance")


def near_blocks(results: Results) -> dict[str, str]:
    """The table of docs/anchor-sets.md, by name."""
    lines = []
    for encoder, title in _ENCODERS.items():
        data, shown = f"near:{encoder}", title
        for variant in results.directions(data, "found"):
            (anchors, *_) = results.anchors(data)
            found = [figure(results.mean(data, rule, anchors, "found", variant), 2) for rule in _RULES]
            lines.append([shown, variant, *found])
            shown = ""
        for anchors in results.anchors(data):
            named = [results.mean(data, rule, anchors, "named") for rule in _RULES]
            cells = [f"{mean.mean:.1f} pairs" if mean is not None else "–" for mean in named]
            lines.append(["", f"none: named of {anchors}", *cells])
    header = ["encoder", "variant", "found by the third item", "by distance alone"]
    return {"near": markdown(header, lines)}
