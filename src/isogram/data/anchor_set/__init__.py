"""Public anchors as a folder that organisations exchange: read, told apart by a hash, and filled up."""

from isogram.data.anchor_set.fill import Filled, fill_anchor_set
from isogram.data.anchor_set.folder import AnchorTable, Held, guess_modalities, read_anchor_set
from isogram.data.anchor_set.generators import GENERATORS, Generator, Made, Wanted, make_generator
from isogram.data.anchor_set.identity import hash_anchor_set

__all__ = [
    "GENERATORS",
    "AnchorTable",
    "Filled",
    "Generator",
    "Held",
    "Made",
    "Wanted",
    "fill_anchor_set",
    "guess_modalities",
    "hash_anchor_set",
    "make_generator",
    "read_anchor_set",
]
