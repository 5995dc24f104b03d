"""Sums over nodes of which the server sees only the total.

`pairwise`: of few numbers, where every node has to answer. `recovery`: of many, without those that are lost.
"""

from isogram.secure_sum.fields import pack, scale_for, unpack
from isogram.secure_sum.masks import default_threshold
from isogram.secure_sum.pairwise import MIN_EVIDENCE, SumParty, fixed_point, total
from isogram.secure_sum.recovery import Collector, Party, SpoiltError, blamed

__all__ = [
    "MIN_EVIDENCE",
    "Collector",
    "Party",
    "SpoiltError",
    "SumParty",
    "blamed",
    "default_threshold",
    "fixed_point",
    "pack",
    "scale_for",
    "total",
    "unpack",
]
