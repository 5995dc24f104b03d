"""What leaks and what noise costs, as a picture: docs/privacy.md."""

from pathlib import Path
from typing import Any

from isogram.report.tables import Mean, Results

ATTACKED = (
    "isogram: Grams and frame",
    "isogram: class sums",
    "isogram: updates",
    "isogram: final model",
    "full weights: updates",
    "representations: anchor embeddings",
    "representations: updates",
    "prototypes",
)
SOURCES = {"tcga-brca": (100, "TCGA, 23 rows in at a node", "#0072B2"), "digits": (5, "digits, 500 rows in", "#E69F00")}
"""Source -> anchors, what its bars are called, colour (Okabe & Ito)."""

EPSILONS = ("1", "3", "8", "inf")


def privacy_picture(results: Results, path: Path) -> None:
    """Membership by message, and PAM50 miRNA by epsilon; SVG or PNG by the path's ending."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "isogram"
    from matplotlib import pyplot as plt

    plot, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.9), width_ratios=(3, 2), layout="constrained")
    _leaks(results, left)
    _costs(results, right)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    plot.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(plot)


def _leaks(results: Results, axes: Any) -> None:
    for offset, (source, (anchors, name, colour)) in enumerate(SOURCES.items()):
        for place, method in enumerate(ATTACKED):
            mean = results.mean(f"audit:{source}", method, anchors, "membership")
            if mean is None:
                mean = Mean(0.5, 0.0, 0.0, 1)  # the same bytes in every replay
            at = place + (offset - 0.5) * 0.36
            axes.barh(at, mean.mean - 0.5, 0.32, 0.5, xerr=mean.half, color=colour, capsize=2)
        axes.barh([0], [0], color=colour, label=name)
    axes.axvline(0.5, color="black", lw=0.8)
    axes.set_yticks(range(len(ATTACKED)), ATTACKED, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(0.45, 1.0), xlabel="AUC of who was in (.5: chance)")
    axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.15))
    axes.set_title("What a server learns of who was in", fontsize=10, loc="left")


def _costs(results: Results, axes: Any) -> None:
    def mean(method: str) -> Mean | None:
        return results.mean("privacy:tcga-brca", method, 100, "pam50", "mirna")

    points = [mean(f"closed-form {epsilon}") for epsilon in EPSILONS]
    shown = [(place, value) for place, value in enumerate(points) if value is not None]
    axes.errorbar(
        [place for place, _ in shown],
        [value.mean for _, value in shown],
        [value.half for _, value in shown],
        color="#D55E00",
        marker="o",
        ms=4,
        capsize=3,
    )
    free = mean("closed-form default")
    if free is not None:
        axes.axhline(free.mean, color="#009E73", ls="--", lw=1)
        axes.annotate("no privacy", (0, free.mean + 0.006), color="#009E73", fontsize=9)
    axes.axhline(0.2, color="black", lw=0.8, ls=":")
    axes.annotate("chance", (2.7, 0.206), fontsize=8)
    axes.set_xticks(range(len(EPSILONS)), ["1", "3", "8", "no noise"])
    axes.set(xlabel="ε of one row, at each node", ylabel="PAM50 from miRNA, balanced accuracy", ylim=(0.15, 0.75))
    axes.set_title("What differential privacy costs", fontsize=10, loc="left")
