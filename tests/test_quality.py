from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import planted
from resumed import put_back
from sklearn.linear_model import Ridge
from torch.nn.functional import normalize
from torch.testing import assert_close

from isogram import aggregation, federation
from isogram.alignment import canonical_frame, consensus, gram, item_quality, shrink, unshrink
from isogram.alignment.quality import LEAST, _beliefs, _placed
from isogram.config import AlignConfig, Config
from isogram.data import AnchorItems
from isogram.data.anchors import declare, wrong
from isogram.errors import MessageError
from isogram.evaluation import evaluate
from isogram.messages import Down

RHO, SEEDS = 0.1, st.integers(0, 2**32)
ROBUST = Config(data="machines", anchors=40, align=AlignConfig(robust=True))


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def views(n, seed, widths=(10, 7, 12)):
    latent = normal(n, 6, seed=seed)
    return [latent @ normal(6, w, seed=seed + i) + 0.1 * normal(n, w, seed=seed - i) for i, w in enumerate(widths, 1)]


def weights(rows, index=None, modalities="abc", **more):
    index = index or [torch.arange(len(x)) for x in rows]
    grams = [shrink(gram(x), RHO) for x in rows]
    n = int(max(i.max() for i in index)) + 1
    return item_quality(grams, index, n, list(modalities[: len(rows)]), rank=20, power=2.0, **more)


@given(seed=st.integers(10, 2**32), k=st.integers(8, 14))
def test_held_out_anchors_are_placed_by_weighted_ridge_on_features_that_the_gram_stands_for(seed, k):
    rows, q = views(k, seed), [torch.rand(k, generator=torch.Generator().manual_seed(seed)) * 0.9 + 0.1] * 3
    rows, q = [x - x.mean(0) for x in rows], [x.double() for x in q]
    index, fold = [torch.arange(k)] * 3, torch.arange(3)
    ridge = [RHO * float((x**2).sum()) / k for x in rows]
    found = _placed([unshrink(shrink(gram(x), RHO)) for x in rows], index, k, q, fold, 4, 2.0)
    own = []
    for x, c in zip(rows, ridge, strict=True):
        part = gram(x[3:])
        own.append(part @ torch.linalg.inv(part + c * torch.eye(k - 3, dtype=part.dtype)))
    frame = canonical_frame(consensus(own, [torch.arange(k - 3)] * 3, k - 3, [v[3:] for v in q]), 4, 2.0)
    for x, c, v, rows_found in zip(rows, ridge, q, found.rows, strict=True):
        # Weights are relative to the largest; the mean coordinates, which say nothing of an item, are left out.
        model = Ridge(c, solver="svd").fit(x[3:].numpy(), frame.numpy(), sample_weight=(v[3:] / v[3:].max()).numpy())
        mean = (v[3:] @ frame) / v[3:].sum()
        assert_close(
            rows_found, normalize(torch.from_numpy(model.predict(x[:3].numpy())) - mean, dim=1), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("seed", range(3))
def test_wrong_items_lose_their_weight_and_right_ones_keep_it(seed):
    rows = views(60, seed + 100)
    bad = torch.randperm(60, generator=torch.Generator().manual_seed(seed))[:12]
    clean, rows[1] = weights(rows), rows[1].index_copy(0, bad, rows[1][bad.roll(1)])
    assert min(float(q.mean()) for q in clean) > 0.98
    found = weights(rows)
    good = torch.ones(60, dtype=torch.bool)
    good[bad] = False
    assert found[1][bad].median() < 0.05 and found[1][good].mean() > 0.95
    assert min(found[0].mean(), found[2].mean()) > 0.95  # the other two agree: it is not their items that are off


def test_between_two_modalities_nobody_can_tell_whose_item_is_wrong():
    rows = views(60, 5)[:2]
    rows[1] = rows[1].index_copy(0, torch.arange(8), rows[1][torch.arange(8).roll(1)])
    left, right = weights(rows)
    assert left[:8].mean() < 0.75 and right[:8].mean() < 0.75 and left[8:].mean() > 0.95
    assert_close(left[:8].mean(), right[:8].mean(), atol=0.05, rtol=0)


def test_the_order_of_nodes_does_not_matter():
    rows = views(30, 7)
    rows[2] = rows[2].roll(1, 0)
    forward, back = weights(rows), weights(rows[::-1], modalities="cba")
    for a, b in zip(forward, back[::-1], strict=True):
        assert_close(a, b, atol=1e-9, rtol=0)


def test_what_nothing_can_judge_keeps_its_declared_weight():
    declared = [torch.linspace(0.1, 1, 30).double()] * 2
    rows = views(30, 9)[:2]
    for found, given_weight in zip(weights(rows, modalities="aa", declared=declared), declared, strict=True):
        assert_close(found, given_weight)
    apart = [torch.arange(30), torch.arange(30, 60)]
    for found, given_weight in zip(weights(rows, apart, declared=declared), declared, strict=True):
        assert_close(found, given_weight)
    few = weights([x[:9] for x in rows])
    assert (torch.cat(few) == 1).all()


def test_items_are_judged_where_others_hold_them_and_weights_are_never_zero():
    rows = views(60, 11)
    index = [torch.arange(0, 40), torch.arange(20, 60), torch.arange(60)]
    parts = [x[i] for x, i in zip(rows, index, strict=True)]
    parts[2] = parts[2].index_copy(0, torch.arange(10), parts[2][torch.arange(10).roll(1)])
    found = weights(parts, index)
    assert [len(q) for q in found] == [40, 40, 60]
    assert found[2][:10].mean() < 0.8 and found[2][20:].mean() > 0.95
    assert min(float(q.min()) for q in found) >= LEAST


def test_a_node_of_few_anchors_may_have_none_left_to_be_placed_by():
    rows = views(40, 13)
    index = [torch.arange(40), torch.arange(40), torch.tensor([0, 7, 20, 33])]
    found = weights([rows[0], rows[1], rows[2][index[2]]], index)
    assert [len(q) for q in found] == [40, 40, 4] and all(q.isfinite().all() for q in found)
    assert min(found[0].mean(), found[1].mean()) > 0.95


def test_beliefs_are_those_of_all_cases_counted_where_evidence_forms_a_tree():
    """Two modalities: right and wrong of either, four cases; the likelihood ratio counts where both are right."""
    draw = torch.Generator().manual_seed(3)
    v = torch.cat([torch.randn(10, generator=draw), 4 + torch.randn(60, generator=draw)]).double()
    index = [torch.arange(70)] * 2
    found = _beliefs({(0, "b"): v, (1, "a"): v}, index, "ab", 70)
    assert_close(found[0], found[1])
    # At the fixed point: share s and fit (mu, sd) that the beliefs themselves give.
    p, s = found[0], float((1 - found[0]).sum() + 1) / (70 + 50)
    both = p * p
    mu = float((both * v).sum() / both.sum())
    sd = max(1.0, float((both * (v - mu) ** 2).sum() / both.sum()) ** 0.5)
    low = v.clamp(max=mu)
    ratio = torch.exp(low**2 / 2 - ((low - mu) / sd) ** 2 / 2) / sd
    ratio = torch.where(v >= mu, ratio.clamp(min=1), ratio)
    cases = torch.stack(
        [(1 - s) ** 2 * ratio, (1 - s) * s * torch.ones(70), s * (1 - s) * torch.ones(70), s**2 * torch.ones(70)]
    )
    assert_close(p, cases[:2].sum(0) / cases.sum(0), atol=1e-3, rtol=0)


def r1(data, config):
    fed = federation.align(data, config)
    found = evaluate(data, {node.name: node.embed for node in fed.nodes}, None)
    return float(np.mean([s.value for s in found if s.metric == "r1"])), fed


def test_robust_alignment_gets_back_most_of_what_wrong_items_cost():
    data, positions = wrong(planted(n_anchors=60), 0.3, seed=0)
    fits = AlignConfig(decorrelate=False, propagate=False)
    plain = ROBUST.model_copy(update={"align": fits})
    weighed = ROBUST.model_copy(update={"align": fits.model_copy(update={"robust": True})})
    (naive, _), (robust, fed), (told, _) = r1(data, plain), r1(data, weighed), r1(declare(data, positions, 1e-3), plain)
    assert told > naive + 0.15, "declared quality counts in the fit"
    assert robust > naive + 0.5 * (told - naive)
    sent = {(e.field, e.shape) for e in fed.ledger.entries if e.direction == "down" and e.round == 0}
    assert ("quality", (60,)) in sent


def test_robust_messages_are_functions_of_public_data_alone():
    def sent(private_seed):
        data, _ = wrong(planted(private_seed=private_seed), 0.2, seed=0)
        fed = federation.align(data, ROBUST)
        return [(node.send_gram(1).to_bytes(), node.metric, node.quality) for node in fed.nodes]

    for (gram_, weight, q), (other_gram, other_weight, other_q) in zip(sent(0), sent(1), strict=True):
        assert gram_ == other_gram
        assert_close(weight, other_weight, rtol=0, atol=0)
        assert_close(q, other_q, rtol=0, atol=0)


def test_nodes_that_send_the_same_gram_count_as_one():
    data, _ = wrong(planted(), 0.2, seed=0)
    grams = [node.send_gram(0) for node in federation.gather(data, ROBUST).nodes]
    assert [up.node for up in grams] == ["a-1", "a-2", "b", "c"]
    all_four = aggregation.weigh_items(grams, 40, 39, 2.0)
    three = aggregation.weigh_items(grams[1:], 40, 39, 2.0)
    assert set(all_four) == {"a-1", "a-2", "b", "c"}
    for node, found in three.items():
        assert_close(found, all_four[node], rtol=0, atol=0)
    assert_close(all_four["a-1"], all_four["a-2"], rtol=0, atol=0)


def test_training_from_weighted_anchors_starts_at_the_weighted_map():
    data, _ = wrong(planted(), 0.2, seed=0)
    align = ROBUST.align.model_copy(update={"decorrelate": False, "propagate": False})
    train = ROBUST.train.model_copy(update={"rounds": 1, "steps": 1})
    fed = federation.align(data, ROBUST.model_copy(update={"train": train, "align": align}))
    trained = federation.train(fed)
    for before, after in zip(fed.nodes, trained.nodes, strict=True):
        assert_close(after.model.bias.double(), before.map.bias, atol=1e-5, rtol=0)
    keep = torch.from_numpy(np.flatnonzero(fed.nodes[2].quality.numpy() > 0.5))
    seen = (trained.nodes[2].first_seen.double() - fed.nodes[2].target)[keep]
    assert seen.square().sum() < fed.nodes[2].target[keep].square().sum()


@pytest.mark.parametrize("quality", [None, torch.ones(3), torch.zeros(40), torch.full((40,), 1.5)])
def test_weights_that_fit_no_anchor_are_refused(quality):
    node = federation.gather(planted(), ROBUST).nodes[0]
    with pytest.raises(MessageError, match=r"'a-1'.*40 numbers in \(0, 1\]"):
        node.weigh(Down(node="a-1", round=0, anchor_hash=node.anchor_hash, quality=quality))


def test_a_robust_run_put_back_goes_on_to_the_same_bits(tmp_path):
    data, _ = wrong(planted(n_anchors=60), 0.3, seed=0)
    train = ROBUST.train.model_copy(update={"rounds": 3, "steps": 1})
    straight, again, model = put_back(tmp_path, data, ROBUST.model_copy(update={"train": train}))
    assert any(node.quality is not None for node in straight.nodes)
    for node, other in zip(straight.nodes, again.nodes, strict=True):
        assert_close(other.embed(node.data.tokens), node.embed(node.data.tokens), rtol=0, atol=0)
        assert_close(model.embed(node.name, node.data.tokens), node.embed(node.data.tokens), rtol=0, atol=0)


def test_a_node_with_recordings_of_its_own_is_judged_by_them():
    data = planted(n_anchors=60)
    b = next(node for node in data.nodes if node.name == "a-2")
    items = data.anchors.items["a"]
    tokens = items.tokens.copy()
    tokens[:12] = np.roll(items.tokens[:12], 1, axis=0)
    nodes = [replace(b, anchors=AnchorItems(items.index, tokens, items.quality)) if n is b else n for n in data.nodes]
    fed = federation.align(replace(data, nodes=tuple(nodes)), ROBUST)
    found = {node.name: node.quality for node in fed.nodes}
    assert found["a-2"][:12].mean() < 0.3 and found["a-2"][12:].mean() > 0.9
    assert found["a-1"] is None or found["a-1"].mean() > 0.9
