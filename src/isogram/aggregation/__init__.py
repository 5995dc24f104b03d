"""Server side: lists of updates in, one broadcast out. Pure functions; nodes are taken in the order of their names."""

from isogram.aggregation.grams import (
    PRECISION_FLOOR,
    RESIDUAL_FLOOR,
    choose_fit,
    merge_grams,
    merge_other_grams,
    node_residuals,
    outliers,
    weigh_items,
)
from isogram.aggregation.heads import HEAD_PRIOR, merge_counts, merge_directions, merge_heads, merge_noisy_heads
from isogram.aggregation.order import in_order
from isogram.aggregation.trained import sum_sketches, trained_is_better

__all__ = [
    "HEAD_PRIOR",
    "PRECISION_FLOOR",
    "RESIDUAL_FLOOR",
    "choose_fit",
    "in_order",
    "merge_counts",
    "merge_directions",
    "merge_grams",
    "merge_heads",
    "merge_noisy_heads",
    "merge_other_grams",
    "node_residuals",
    "outliers",
    "sum_sketches",
    "trained_is_better",
    "weigh_items",
]
