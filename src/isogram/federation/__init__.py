"""The whole algorithm in one process: the reference that any engine has to reproduce.

Nodes and server exchange nothing but `messages.Up` and `messages.Down`, and every one goes through the ledger.
"""

from isogram.federation.alignment import (
    align,
    learn_classes,
    one_shot,
    read_through_frame,
    start_apart,
)
from isogram.federation.heads import class_directions, with_heads
from isogram.federation.rounds import HELD_OUT_SHARE, keep_better, start_training, targets, train, train_round
from isogram.federation.secure import Summed, secure_sum
from isogram.federation.state import Federation, Progress, Tick, gather

__all__ = [
    "HELD_OUT_SHARE",
    "Federation",
    "Progress",
    "Summed",
    "Tick",
    "align",
    "class_directions",
    "gather",
    "keep_better",
    "learn_classes",
    "one_shot",
    "read_through_frame",
    "secure_sum",
    "start_apart",
    "start_training",
    "targets",
    "train",
    "train_round",
    "with_heads",
]
