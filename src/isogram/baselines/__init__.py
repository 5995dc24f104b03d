"""What the method is measured against, where it is not the same code under other settings: see `methods`."""

from isogram.baselines.alone import by_control, local, no_message, relative
from isogram.baselines.anchor_labels import told_anchors
from isogram.baselines.bounds import centralised, level, own_labels, seen_level
from isogram.baselines.pairwise import METHODS as PAIRWISE
from isogram.baselines.pairwise import align_pairs

__all__ = [
    "PAIRWISE",
    "align_pairs",
    "by_control",
    "centralised",
    "level",
    "local",
    "no_message",
    "own_labels",
    "relative",
    "seen_level",
    "told_anchors",
]
