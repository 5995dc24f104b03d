import math
from dataclasses import replace

import pytest
import torch
from planted import planted

from isogram import federation
from isogram.config import AlignConfig, Config, ModelConfig, TermWeights, TrainConfig
from isogram.errors import MessageError
from isogram.messages import Up
from isogram.representations import contrastive_means, mean_embeddings, shared

K, D, T = 6, 3, 0.5
HELD = {"x1": range(6), "x2": [0, 1, 2, 4], "y1": [0, 1, 2, 3], "z1": [1, 2, 3]}


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ups(**changed):
    found = {
        name: Up(
            node=name,
            modality=name[0],
            round=2,
            anchor_hash="h",
            embeddings=normal(len(held), D, seed=n),
            index=None if len(held) == K else torch.tensor(held).int(),
        )
        for n, (name, held) in enumerate(HELD.items())
    }
    return [replace(up, **changed.get(name, {})) for name, up in found.items()]


def of(updates, node, anchor):
    """One node's embedding of an anchor, as a list of floats, or None."""
    up = next(up for up in updates if up.node == node)
    held = list(HELD[node])
    return up.embeddings[held.index(anchor)].double().tolist() if anchor in held else None


def cosine(x, y):
    return sum(map(math.prod, zip(x, y, strict=True))) / math.hypot(*x) / math.hypot(*y)


def naive_mean(vectors):
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def test_contrastive_means_against_plain_numbers():
    """Per anchor, exp(own match) over the sum of exp(other matches), as shares among the modality's nodes."""
    updates = ups()
    found = contrastive_means(updates, K, T)
    assert set(found) == {"x", "y", "z"}
    places = {}
    for anchor in range(K):
        vectors = [v for node in ("y1", "z1") if (v := of(updates, node, anchor)) is not None]
        if vectors:
            places[anchor] = naive_mean(vectors)
    assert set(places) == {0, 1, 2, 3}
    for anchor in range(K):
        holders = {n: v for n in ("x1", "x2") if (v := of(updates, n, anchor)) is not None}
        weight = dict.fromkeys(holders, 1.0)
        if anchor in places:
            for node, v in holders.items():
                match = math.exp(cosine(v, places[anchor]) / T)
                weight[node] = match / sum(math.exp(cosine(v, p) / T) for a, p in places.items() if a != anchor)
        total = sum(weight.values())
        expected = [sum(weight[n] / total * v[i] / math.hypot(*v) for n, v in holders.items()) for i in range(D)]
        torch.testing.assert_close(found["x"][anchor], torch.tensor(expected, dtype=torch.float64))
    assert found["y"][4:].isnan().all() and found["y"][:4].isfinite().all()


def test_each_node_sees_what_its_terms_need_and_nothing_else():
    updates = ups()
    every = {"prototypes", "counterparts", "siblings", "peers"}
    for weights, fields in (
        (TermWeights.only(prototype=1), {"prototypes"}),
        (TermWeights.only(intra=1), {"counterparts", "siblings"}),
        (TermWeights.only(muscle=1), {"peers"}),
        (TermWeights.only(prototype=1, inter=1, muscle=1), every),
    ):
        found = shared(updates, K, weights, T)
        assert set(found) == set(HELD) and all(set(of) == fields for of in found.values())
    merged = contrastive_means(updates, K, T)
    assert_close = torch.testing.assert_close
    assert_close(found["x2"]["siblings"], merged["x"])
    both = torch.stack([merged["y"], merged["z"]])
    assert_close(found["x2"]["counterparts"], both.nanmean(0), equal_nan=True)
    assert_close(found["x2"]["prototypes"], mean_embeddings(updates, K))
    peers = found["y1"]["peers"]
    assert peers.shape == (3, K, D)
    for place, node in enumerate(("x1", "x2", "z1")):
        for anchor in range(K):
            expected = of(updates, node, anchor) or [math.nan] * D
            assert_close(peers[place, anchor], torch.tensor(expected, dtype=torch.float64), equal_nan=True)


def test_one_modality_alone_has_no_counterparts_and_nothing_breaks():
    alone = [up for up in ups() if up.modality == "x"]
    found = shared(alone, K, TermWeights.only(inter=1), T)
    assert found["x1"]["counterparts"].isnan().all() and found["x1"]["siblings"].isfinite().all()


def test_a_node_that_keeps_its_anchors_to_itself_is_named():
    with pytest.raises(MessageError, match="'y1' sent no anchor embeddings"):
        contrastive_means(ups(y1={"embeddings": None, "index": None}), K, T)


@pytest.mark.parametrize("weights", [TermWeights.only(inter=1, intra=1), TermWeights.only(muscle=1)])
def test_training_on_shared_embeddings_lowers_its_loss_also_where_anchors_are_missing(weights):
    data = planted(noise=0.3, holds={"a": range(24), "b": range(16, 40)})
    config = Config(
        data="machines",
        align=AlignConfig(rank=12),
        model=ModelConfig(width=48, layers=1, adapter="fedit"),
        train=TrainConfig(rounds=3, steps=6, anchor_batch=40, lr=1e-3, projector_lr=1e-2, weights=weights),
    )
    fed = federation.train(federation.start_apart(data, config))
    first, last = fed.history[0], fed.history[-1]
    assert set(first) == {name for name, weight in weights if weight}
    assert sum(last.values()) < 0.9 * sum(first.values())
    sent = {entry.field: entry.shape for entry in fed.ledger.entries if entry.direction == "up" and entry.node == "b"}
    assert sent["embeddings"] == (24, 12)
