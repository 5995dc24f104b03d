"""One node: its private rows, its anchors, its projector; what it computes and what it agrees to send.

`Node` is a chain of four classes: it aligns (`node`), its classes meet the frame (`labels`), its numbers go into sums
(`summing`), it trains in rounds (`training`).
"""

from isogram.local.node import MIN_ANCHORS, stream, ways_of
from isogram.local.training import Node, precision_of

__all__ = ["MIN_ANCHORS", "Node", "precision_of", "stream", "ways_of"]
