"""Pure functions on plain tensors: Gram, CKA, consensus, canonical frame, one-shot alignment.

Shape letters: K anchors of the whole set, k anchors that a node holds, F features, r frame coordinates, n rows.
Everything is computed in float64; what a message carries is rounded to float32 by the message, not here.
"""

from isogram.alignment.choice import Fit, as_kernel, choose_fit, ways
from isogram.alignment.cka import cka, cka_debiased, cka_embedded, hsic, hsic_unbiased
from isogram.alignment.consensus import consensus, consensus_of_sums, pair_sums
from isogram.alignment.cross_fit import sound_anchors
from isogram.alignment.decorrelate import decorrelation, shrunk_covariance
from isogram.alignment.frame import canonical_frame, continue_frame
from isogram.alignment.gram import center, gram, pack, shrink, unpack, unshrink
from isogram.alignment.oneshot import (
    DEFAULT_RANK,
    Gaussians,
    LinearMap,
    OneShot,
    Standardizer,
    Waves,
    feature_metric,
    fit_map,
    left_out,
    one_shot,
)
from isogram.alignment.outliers import outliers
from isogram.alignment.quality import item_quality
from isogram.alignment.residuals import anchor_residuals, sub_smoother

__all__ = [
    "DEFAULT_RANK",
    "Fit",
    "Gaussians",
    "LinearMap",
    "OneShot",
    "Standardizer",
    "Waves",
    "anchor_residuals",
    "as_kernel",
    "canonical_frame",
    "center",
    "choose_fit",
    "cka",
    "cka_debiased",
    "cka_embedded",
    "consensus",
    "consensus_of_sums",
    "continue_frame",
    "decorrelation",
    "feature_metric",
    "fit_map",
    "gram",
    "hsic",
    "hsic_unbiased",
    "item_quality",
    "left_out",
    "one_shot",
    "outliers",
    "pack",
    "pair_sums",
    "shrink",
    "shrunk_covariance",
    "sound_anchors",
    "sub_smoother",
    "unpack",
    "unshrink",
    "ways",
]
