"""Rows of a federation of sites, to compare two of them."""

import numpy as np

from isogram.data.base import evaluation


def held_out(data, modality, node=""):
    with evaluation():
        return data.held_out.tokens(modality, node)


def contents(data, modality):
    """Rows by where they are: each node, the anchors, the held-out rows."""
    own = [node.tokens for node in data.nodes if node.modality == modality]
    return [[row.tobytes() for row in rows] for rows in (*own, data.anchors.items[modality].tokens)] + [
        [row.tobytes() for row in held_out(data, modality)]
    ]


def same(a, b):
    """Whether two nodes hold the same bits, own anchors included."""
    own = [node.anchors.tokens if node.anchors else np.zeros(0) for node in (a, b)]
    return all(np.array_equal(x, y) for x, y in ((a.tokens, b.tokens), (a.labels, b.labels), own))
