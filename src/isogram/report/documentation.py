"""Tables and picture of the documentation. Nothing is typed by hand: `isogram table` writes what the rows say."""

import re
from collections.abc import Mapping
from pathlib import Path

from isogram.errors import DataError
from isogram.methods import RECIPES
from isogram.report.adapter_tables import adapter_blocks
from isogram.report.anchor_picture import anchor_picture
from isogram.report.anchor_tables import anchor_blocks
from isogram.report.audit_tables import audit_blocks
from isogram.report.doctor_tables import doctor_blocks
from isogram.report.fault_tables import fault_blocks
from isogram.report.hostile_tables import hostile_blocks
from isogram.report.near_tables import near_blocks
from isogram.report.privacy_picture import privacy_picture
from isogram.report.privacy_tables import privacy_blocks
from isogram.report.search_tables import search_blocks
from isogram.report.site_tables import site_blocks
from isogram.report.tables import (
    BASES,
    Results,
    by_anchors,
    by_direction,
    costs,
    directions,
    figure,
    main_table,
    markdown,
    short,
    size,
)


def blocks(results: Results) -> dict[str, str]:
    """Every generated table of the documentation, by name."""
    if not results.methods("tcga-brca"):
        raise DataError("no rows of tcga-brca: give the folder that `isogram bench` wrote to with --results")
    metrics = {
        "r1": ("r1", None),
        "r10": ("r10", None),
        "pam50-mirna": ("pam50", "mirna"),
        "pam50-meth": ("pam50", "meth"),
    }
    metrics["cka"] = ("cka", None)
    out = {"main": main_table(results, "tcga-brca", 100)}
    for name, (metric, direction) in metrics.items():
        out[name] = by_anchors(results, "tcga-brca", metric, direction)
        for base in BASES:
            out[f"{name}-over-{base}"] = by_anchors(results, "tcga-brca", metric, direction, base)
    out["bytes"] = by_anchors(results, "tcga-brca", "bytes_per_node", show=size)
    sends = [[f"`{name}`", recipe.sends] for recipe in RECIPES for name in recipe.names]
    out["sends"] = markdown(["method", "what a node sends"], sends)
    out["seconds"] = by_anchors(results, "tcga-brca", "seconds", show=lambda mean: figure(mean, 1))
    out["fell-back"] = by_anchors(results, "tcga-brca", "fell_back", show=lambda mean: figure(mean, 1))
    for name in ("tcga-brca-chain", "tcga-brca-chain20"):
        out[name] = directions(results, name, "r1", ("rna->meth", "meth->rna", "rna->mirna", "mirna->meth"))
        for anchors in (100, 200):
            rivals = ("oneshot", "oneshot-hsic", *(("pairwise-ridge", "cca") if anchors == 100 else ()))
            out[f"{name}-gains-{anchors}"] = by_direction(results, name, anchors, "r1", "closed-form", rivals)
    out["digits"] = directions(results, "digits", "accuracy", ("image", "speech", "pen"))
    out["digits-sites"] = directions(results, "digits-sites", "accuracy", ("image", "speech", "pen"))
    others = ("closed-form", "oneshot", "no-message", "pairwise-ridge", "fedcola", "own-labels")
    out["digits-sites-gains"] = by_direction(results, "digits-sites", 5, "accuracy", "isogram", others)
    found = ("picture->text", "speech-fr->text", "picture->speech-fr")
    out["pictures"] = directions(results, "pictures", "r10", found)
    for method in ("closed-form", "isogram"):
        bases = ("oneshot", "duration", "pairwise-ridge", "cca")
        out[f"pictures-{method}"] = by_direction(results, "pictures", 200, "r10", method, bases)
    out["machines"] = directions(results, "machines", "accuracy", ("vibration", "vibration:elsewhere", "log"))
    out["costs"] = costs(results)
    out["trunks"] = main_table(results, "tcga-brca-tuning", 100, ("oneshot-hsic",))
    parts = (doctor_blocks, adapter_blocks, site_blocks, anchor_blocks, audit_blocks, privacy_blocks, hostile_blocks)
    return out | {
        name: text
        for part in (*parts, search_blocks, near_blocks, fault_blocks)
        for name, text in part(results).items()
    }


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """Text with each `<!-- table NAME -->` ... `<!-- end -->` block replaced.

    Raises:
        DataError: the text asks for a table that does not exist.
    """

    def replaced(match: re.Match[str]) -> str:
        if match[1] not in blocks:
            raise DataError(f"there is no table {match[1]!r}; choose from {', '.join(blocks)}")
        return f"<!-- table {match[1]} -->\n{blocks[match[1]]}\n<!-- end -->"

    return re.sub(r"<!-- table ([\w-]+) -->\n.*?<!-- end -->", replaced, text, flags=re.DOTALL)


def picture(results: Results, path: Path) -> None:
    """R@1 against the number of anchors, and silos without a common anchor, as SVG or PNG by the path's ending.

    A file whose name begins with "anchors" or "privacy" gets the picture of that page of docs/.
    """
    for name, draw in (("anchors", anchor_picture), ("privacy", privacy_picture)):
        if path.name.startswith(name):
            draw(results, path)
            return
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "isogram"
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    # Okabe & Ito's colours can be told apart by colour-blind readers; line styles tell them apart in print.
    styles = {
        "oneshot-hsic": ("#0072B2", "-"),
        "closed-form": ("#D55E00", "--"),
        "oneshot": ("#56B4E9", "-"),
        "no-message": ("#009E73", "--"),
        "cka-frame": ("#CC79A7", "-."),
        "relative": ("#000000", ":"),
        "cka": ("#E69F00", "-"),
    }
    plot, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.9), width_ratios=(3, 2), layout="constrained")
    counts = results.anchors("tcga-brca")
    ends = []
    for method, (colour, line) in styles.items():
        means = [results.mean("tcga-brca", method, k, "r1") for k in counts]
        points = [(k, m) for k, m in zip(counts, means, strict=True) if m is not None]
        if points:
            x, y = [k for k, _ in points], [m.mean for _, m in points]
            left.errorbar(x, y, [m.half for _, m in points], color=colour, ls=line, marker="o", ms=3.5, capsize=2)
            ends.append((y[-1], method, colour))
    place = -0.03
    for end, method, colour in sorted(ends):
        place = max(end, place + 0.055)
        left.annotate(method, (counts[-1] * 1.08, place), color=colour, va="center", fontsize=9, annotation_clip=False)
    left.set(xscale="log", xticks=counts, xlabel="public anchor patients (K)", ylabel="R@1 on 154 held-out patients")
    left.set_xticklabels(counts)
    left.minorticks_off()
    left.set_xlim(counts[0] * 0.9, counts[-1] * 2.6)
    left.set_ylim(0, 1)
    left.set_title("Find the same patient in another modality", fontsize=10, loc="left")
    chain, names = "tcga-brca-chain", ("no-message", "oneshot", "oneshot-hsic", "closed-form")
    for number, anchors in enumerate(results.anchors(chain)):
        for offset, method in enumerate(names):
            value = results.mean(chain, method, anchors, "r1", "rna->meth")
            if value is not None:
                at = number + (offset - 1.5) * 0.21
                right.bar(at, value.mean, 0.19, yerr=value.half, color=styles[method][0], capsize=2)
                right.annotate(short(value.mean, 2), (at, value.mean + value.half + 0.008), ha="center", fontsize=8)
    right.set_xticks(range(len(results.anchors(chain))), [f"K = {k}" for k in results.anchors(chain)])
    right.set(ylabel="R@1, RNA to methylation", ylim=(0, 0.5))
    handles = [Rectangle((0, 0), 1, 1, color=styles[m][0]) for m in names]
    right.legend(handles, names, frameon=False, fontsize=8, loc="upper left")
    right.set_title("No anchor in common: through a third silo", fontsize=10, loc="left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    plot.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(plot)
