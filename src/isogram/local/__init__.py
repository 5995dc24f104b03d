"""One node: its private rows, its anchors, its projector; what it computes and what it agrees to send.

`Node` is a chain of three classes, in the order of what happens: it aligns (`node`), its classes meet the frame
(`labels`), it trains in rounds (`training`).
"""

from isogram.local.node import MIN_ANCHORS, stream
from isogram.local.training import Node, precision_of

__all__ = ["MIN_ANCHORS", "Node", "precision_of", "stream"]
