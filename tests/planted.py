"""A federation with known truth: private rows, anchors and held-out rows are linear views of planted latents.

The first latent is the control of a and b; c has none.
"""

import numpy as np
import torch

from isogram.data.base import AnchorItems, AnchorSet, FederatedData, HeldOut, NodeData

N_TOKENS, LATENTS, CLASSES = 4, 6, 3
VIEWS = {"a": 10, "b": 7, "c": 12}
OWNERS = {"a-1": "a", "a-2": "a", "b": "b", "c": "c"}


def planted(
    *,
    seed=0,
    n_anchors=40,
    noise=0.1,
    holds=None,
    private_seed=0,
    held_out_seed=0,
    reverse=False,
    private=60,
    labelled="a",
) -> FederatedData:
    """Nodes a-1, a-2, b and c; labels at nodes of the modalities `labelled`.

    holds: modality -> positions of its anchors, all if absent.
    """
    rng = np.random.default_rng(seed)
    mixing = {m: rng.normal(size=(LATENTS, N_TOKENS * width)) for m, width in VIEWS.items()}
    centres = 3 * rng.normal(size=(CLASSES, LATENTS))

    def draw(n, rng):
        labels = np.arange(n) % CLASSES
        return centres[labels] / 2 + rng.normal(size=(n, LATENTS)), labels

    def see(latents, modality, rng):
        rows = latents @ mixing[modality]
        rows = rows + noise * rows.std() * rng.normal(size=rows.shape)
        return rows.reshape(len(rows), N_TOKENS, -1).astype(np.float32)

    everything = np.arange(n_anchors)
    shared, shared_labels = draw(n_anchors, rng)
    items = {}
    for modality in VIEWS:
        index = everything if holds is None else np.asarray(holds.get(modality, everything))
        control = None if modality == "c" else shared[index, 0].astype(np.float32)
        items[modality] = AnchorItems(
            index, see(shared[index], modality, rng), np.ones(len(index), np.float32), control
        )
    own = np.random.default_rng([seed, private_seed, 1])
    nodes, truth = [], {}
    for name, modality in OWNERS.items():
        latents, labels = draw(private, own)
        nodes.append(NodeData(name, modality, see(latents, modality, own), labels if modality in labelled else None))
        truth[name] = labels
    apart = np.random.default_rng([seed, held_out_seed, 2])
    latents, labels = draw(50, apart)
    held_out = HeldOut(
        {m: see(latents, m, apart) for m in VIEWS},
        dict.fromkeys(VIEWS, labels),
        paired=True,
        private=truth,
        anchors=shared_labels,
        controls=dict.fromkeys("ab", latents[:, 0].astype(np.float32)),
    )
    anchors = AnchorSet(tuple(f"anchor-{i}" for i in everything), items)
    ordered = tuple(reversed(nodes)) if reverse else tuple(nodes)
    return FederatedData("planted", ordered, anchors, held_out, ("x", "y", "z"), lambda: anchors)


def seen_in_training(node):
    """[k, r] coordinates under which training sees a node's anchors."""
    with torch.no_grad():
        return (node.model.from_base(node.base_anchors) + node.shift).double()
