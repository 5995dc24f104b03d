from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from isogram.aggregation import (
    HEAD_PRIOR,
    PRECISION_FLOOR,
    in_order,
    merge_counts,
    merge_grams,
    merge_heads,
    merge_other_grams,
    node_residuals,
    sum_sketches,
)
from isogram.alignment import canonical_frame, consensus, gram, pack, shrink
from isogram.errors import MessageError
from isogram.messages import Up
from isogram.representations import mean_embeddings
from isogram.secure_sum import MIN_EVIDENCE, SumParty

SEEDS = st.integers(0, 2**32)


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def update(node, modality="rna", **fields):
    return Up(node=node, modality=modality, round=2, anchor_hash="a" * 64, **fields)


@pytest.mark.parametrize(
    "function",
    [in_order, merge_counts, sum_sketches, lambda ups: merge_grams(ups, 3), lambda ups: mean_embeddings(ups, 3)],
)
def test_one_node_twice_and_another_anchor_set_are_refused_everywhere(function):
    with pytest.raises(MessageError, match=r"two updates of one node.*'a', 'a', 'b'"):
        function([update("a"), update("b"), update("a", modality="meth")])
    with pytest.raises(MessageError, match="'a' and 'c'.*aaaaaaaa, cccccccc"):
        function([update("a"), update("b"), replace(update("c"), anchor_hash="c" * 64)])


def with_gram(node, modality, index, seed, quality=None):
    matrix = shrink(gram(normal(len(index), 4, seed=seed).double()), 0.1)
    return matrix, update(
        node, modality, gram=pack(matrix), index=None if len(index) == 8 else index.int(), quality=quality
    )


def test_grams_meet_at_the_anchors_their_messages_name():
    left, right = torch.tensor([0, 1, 2, 5, 7]), torch.tensor([1, 3, 4, 6, 7])
    quality = torch.tensor([1.0, 0.5, 0.25, 1.0, 0.1])
    matrices, ups = zip(
        with_gram("c", "rna", torch.arange(8), seed=0),
        with_gram("a", "meth", left, seed=1, quality=quality),
        with_gram("b", "meth", right, seed=2),
        strict=True,
    )
    expected = consensus(matrices, [torch.arange(8), left, right], 8, [torch.ones(8), quality, torch.ones(5)])
    torch.testing.assert_close(merge_grams([*ups, update("d")], 8), expected)
    torch.testing.assert_close(merge_grams(ups, 8), merge_grams(ups[::-1], 8), rtol=0, atol=0)


def test_the_others_consensus_leaves_out_every_node_of_the_own_modality():
    left = torch.tensor([0, 1, 2, 3])
    matrices, ups = zip(
        with_gram("a", "rna", torch.arange(8), seed=0),
        with_gram("b", "rna", torch.arange(8), seed=1),
        with_gram("c", "meth", left, seed=2),
        with_gram("d", "mirna", left, seed=3),
        strict=True,
    )
    expected = torch.zeros(8, 8, dtype=torch.float64)
    expected[:4, :4] = (matrices[2] + matrices[3]) / 2  # anchors 4-7 are held by no other modality
    torch.testing.assert_close(merge_other_grams(ups, 8, "rna"), expected)
    three = consensus([matrices[0], matrices[1], matrices[3]], [torch.arange(8), torch.arange(8), left], 8)
    torch.testing.assert_close(merge_other_grams(ups, 8, "meth"), three)
    with pytest.raises(MessageError, match="'rna'"):
        merge_other_grams(ups[:2], 8, "rna")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gram": torch.full((6,), torch.nan)}, "NaN"),
        ({"gram": torch.ones(5)}, "5 numbers for 3 anchors"),
        ({"index": torch.tensor([0, 1, 3])}, "distinct positions in 0..2"),
        ({"index": torch.tensor([0, 1, 1])}, "distinct positions"),
        ({"quality": torch.tensor([1.0, 0.5, -0.1])}, "qualities"),
        ({"quality": torch.ones(2)}, "qualities"),
    ],
)
def test_a_gram_that_does_not_fit_is_refused_with_the_node(wrong, said):
    good = {"gram": torch.tensor([1.0, 0, 1, 0, 0, 1])}
    with pytest.raises(MessageError, match=f"'b'.*{said}"):
        merge_grams([update("a", **good), update("b", **(good | wrong))], 3)


def test_a_late_answer_is_refused():
    late = replace(update("b"), round=update("b").round + 1)
    with pytest.raises(MessageError, match="'b' answers round"):
        in_order([update("a"), late])


def masked(field, values):
    """Updates that carry the nodes' masked values."""
    parties = [SumParty() for _ in values]
    keys = torch.stack([party.key for party in parties])
    return [
        update(f"node{n}", **{field: party.masked(value, keys, round=2)})
        for n, (party, value) in enumerate(zip(parties, values, strict=True))
    ]


def test_heads_become_unit_directions_of_class_sums_where_there_is_evidence():
    sums = normal(2, 4, 3, seed=0).double()
    # Per class over both nodes: enough at one node, enough only together, one too few, none at all.
    counts = torch.tensor([[MIN_EVIDENCE, 2, MIN_EVIDENCE - 2, 0], [0, MIN_EVIDENCE - 2, 1, 0]], dtype=torch.float64)
    rows = merge_counts([*masked("counts", counts), update("unlabelled")])
    assert rows.tolist() == [MIN_EVIDENCE, MIN_EVIDENCE, 0, 0]
    evidence = (rows > 0).to(torch.uint8)
    found = merge_heads([*masked("head", sums), update("unlabelled")], evidence)
    for c in range(2):
        total = sums[0, c] + sums[1, c]
        torch.testing.assert_close(found[c], total / total.norm(), rtol=0, atol=1e-6)
    assert found[2:].isnan().all()


@given(seed=SEEDS)
def test_with_second_moments_the_head_is_the_precision_weighted_mean_of_the_nodes_ridges(seed):
    rng = np.random.default_rng(seed)
    sums, seconds, ridges, parts = [], [], [], []
    for n in rng.integers(1, 30, 3):
        rows, labels = torch.from_numpy(rng.normal(size=(n, 4))), torch.from_numpy(rng.integers(0, 3, n))
        rows, one_hot = torch.nn.functional.normalize(rows, dim=1), torch.eye(3, dtype=torch.float64)[labels]
        parts.append((rows, one_hot))
        sums.append(one_hot.T @ rows)
        seconds.append(rows.T @ rows)
        ridges.append(Ridge(alpha=HEAD_PRIOR, fit_intercept=False).fit(rows, one_hot).coef_.reshape(3, 4))
    moments = masked("second", torch.stack([pack(second) for second in seconds]))
    ups = [replace(u, second=m.second) for u, m in zip(masked("head", torch.stack(sums)), moments, strict=True)]
    found = merge_heads(ups, torch.ones(3))
    # Each node's own head, weighted by its precision; the prior, which is in all three of them, counts once.
    prior = HEAD_PRIOR * torch.eye(4, dtype=torch.float64)
    weighted = sum(torch.from_numpy(w) @ (s + prior) for w, s in zip(ridges, seconds, strict=True))
    merged = torch.linalg.solve(sum(seconds) + prior, weighted.T).T
    pooled = Ridge(alpha=HEAD_PRIOR, fit_intercept=False).fit(*(torch.cat(c) for c in zip(*parts, strict=True)))
    seen = merged.norm(dim=1) > 1e-6
    for expected in (merged, torch.from_numpy(pooled.coef_.reshape(3, 4))):
        expected = torch.nn.functional.normalize(expected[seen], dim=1)
        torch.testing.assert_close(found[seen], expected, rtol=0, atol=1e-4)


def test_second_moments_change_the_head():
    # Else the test above could pass without them.
    sums, moment = masked("head", normal(1, 3, 4, seed=0).double())[0], torch.diag(torch.tensor([1.0, 90, 5, 9]))
    told = replace(sums, second=masked("second", pack(moment)[None])[0].second)
    plain, found = (merge_heads([up], torch.ones(3)) for up in (sums, told))
    assert (found - plain).abs().max() > 0.1


def test_sums_of_different_shapes_name_the_nodes():
    with pytest.raises(MessageError, match="'node0' and 'node1' sent counts"):
        merge_counts([update("node0", counts=torch.zeros(2).long()), update("node1", counts=torch.zeros(3).long())])


@given(seed=SEEDS)
def test_mean_embeddings_are_taken_per_anchor_over_the_nodes_that_hold_it(seed):
    rng = np.random.default_rng(seed)
    held = [np.arange(6), *(np.sort(rng.choice(6, rng.integers(1, 6), replace=False)) for _ in range(3))]
    first = int(rng.integers(0, 2))  # in half of the cases nobody holds everything
    ups = [
        update(f"n{n}", embeddings=normal(len(at), 3, seed=seed + n), index=torch.from_numpy(at).int() if n else None)
        for n, at in list(enumerate(held))[first:]
    ]
    expected = torch.zeros(6, 3, dtype=torch.float64)
    for anchor in range(6):
        rows = [
            up.embeddings[at.tolist().index(anchor)] for up, at in zip(ups, held[first:], strict=True) if anchor in at
        ]
        if rows:
            expected[anchor] = torch.stack(rows).double().mean(0)
    torch.testing.assert_close(mean_embeddings([*ups, update("silent")], 6), expected)


def test_sketches_add_up_per_layer_over_the_nodes_that_sent_them():
    values = {node: normal(2, 3, seed=n) for n, node in enumerate("abc")}
    ups = [
        update(node, sketches={"first": value} | ({"last": value} if node != "a" else {}))
        for node, value in values.items()
    ]
    found = sum_sketches(ups)
    torch.testing.assert_close(found["first"], sum(v.double() for v in values.values()))
    torch.testing.assert_close(found["last"], values["b"].double() + values["c"].double())
    torch.testing.assert_close(sum_sketches(ups[::-1]), found, rtol=0, atol=0)


@pytest.mark.parametrize("sketch", [torch.ones(3, 2), torch.full((2, 3), torch.nan)])
def test_a_sketch_that_cannot_be_added_is_refused_with_node_and_layer(sketch):
    ups = [update("a", sketches={"first": torch.ones(2, 3)}), update("b", sketches={"first": sketch})]
    with pytest.raises(MessageError, match="'b'.*'first'"):
        sum_sketches(ups)


# Residuals and precisions.

RHO, RANK, POWER = 0.1, 4, 1.0


def latents(n_anchors, seed=0):
    return normal(n_anchors, 3, seed=seed).double()


def sees(node, modality, latent, seed, index=None, noise=0.1):
    """A node that sees the latent rows of some anchors through a random map, with noise."""
    rows = latent if index is None else latent[index]
    features = rows @ normal(3, 20, seed=seed).double() + noise * normal(len(rows), 20, seed=seed + 1).double()
    packed = pack(shrink(gram(features), RHO))
    return features, update(node, modality, gram=packed, index=None if index is None else index.int())


def left_out(features, target, i):
    """Squared error at row i of ridge onto the target, refitted without row i."""
    ridge = float(RHO * gram(features).trace() / len(features))
    rest = [j for j in range(len(features)) if j != i]
    model = Ridge(alpha=ridge, solver="svd").fit(features[rest].numpy(), target[rest].numpy())
    error = target[i].numpy() - model.predict(features[[i]].numpy())[0]
    return float(error @ error)


def test_residuals_are_those_of_predicting_the_other_modalities_frame_with_each_anchor_left_out():
    latent = latents(12)
    features, ups = zip(
        sees("c", "rna", latent, 10, noise=1.0),
        sees("a", "rna", latent, 20, noise=1.0),
        sees("d", "meth", latent, 30, noise=1.0),
        sees("b", "mirna", latent, 40, noise=1.0),
        strict=True,
    )
    means, precision = node_residuals(ups, 12, RANK, POWER)
    assert list(means) == list("abcd")
    expected = {}
    for x, up in zip(features, ups, strict=True):
        others = [
            unpacked
            for y, other in zip(features, ups, strict=True)
            if other.modality != up.modality
            for unpacked in [shrink(gram(y), RHO)]
        ]
        target = canonical_frame(sum(others) / len(others), RANK, POWER)
        scale = float((target - target.mean(0)).square().sum(1).mean())
        expected[up.node] = torch.tensor([left_out(x, target, i) / scale for i in range(12)], dtype=torch.float64)
        assert means[up.node] == pytest.approx(float(expected[up.node].mean()), rel=1e-8)
    variance = {node: (value + value.mean()) / 2 for node, value in expected.items()}
    smallest = min(float(value.min()) for value in variance.values())
    for node, value in variance.items():
        torch.testing.assert_close(precision[node], smallest / value, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("step", "times"), [(2, 1.3), (10, 2.5)])
def test_a_node_with_some_of_its_anchors_wrong_is_found_and_so_are_these(step, times):
    latent, wrong = latents(60), torch.arange(60) % step == 0
    mixed = latent.clone()
    mixed[wrong] = latent[wrong].roll(1, 0)

    def judge(seen):
        """Residuals and precisions when node rna0 sees these rows and the others see the true ones."""
        ups = [
            sees(f"{m}{n}", m, seen if (m, n) == ("rna", 0) else latent, 10 * n + len(m), noise=0.3)[1]
            for m in ("rna", "meth", "mirna")
            for n in range(2)
        ]
        return node_residuals(ups, 60, 3, POWER)

    means, precision = judge(mixed)
    assert means["rna0"] > 2 * max(value for node, value in means.items() if node != "rna0")
    own = precision.pop("rna0")
    assert own.max() < min(float(other.median()) for other in precision.values())
    # Some anchors are harder than others anyhow, so what counts is how much harder the mix-up makes them.
    clean = judge(latent)[1]["rna0"]
    assert times * own[wrong].median() / own[~wrong].median() < clean[wrong].median() / clean[~wrong].median()


def test_precision_moves_the_consensus_away_from_wrong_anchors():
    latent = latents(60)
    mixed = latent.clone()
    mixed[:30] = latent[:30].roll(1, 0)
    ups = [sees(f"{m}0", m, mixed if m == "rna" else latent, len(m))[1] for m in ("rna", "meth", "mirna", "protein")]
    truth = merge_grams([up for up in ups if up.modality != "rna"], 60)
    _, precision = node_residuals(ups, 60, RANK, POWER)
    plain, weighted = merge_grams(ups, 60), merge_grams(ups, 60, precision=precision)
    assert (weighted - truth).norm() < 0.5 * (plain - truth).norm()


def test_precision_multiplies_the_anchors_quality():
    quality = torch.tensor([1.0, 0.5, 0.25, 1.0, 0.1])
    index = torch.tensor([0, 1, 2, 5, 7])
    matrices, ups = zip(
        with_gram("b", "rna", torch.arange(8), seed=0),
        with_gram("a", "meth", index, seed=1, quality=quality),
        strict=True,
    )
    precision = {"a": torch.linspace(0.1, 1, 5).double(), "b": torch.linspace(1, 0.2, 8).double()}
    expected = consensus(matrices, [torch.arange(8), index], 8, [precision["b"], quality * precision["a"]])
    torch.testing.assert_close(merge_grams(ups, 8, precision=precision), expected)


def test_anchors_that_no_other_modality_holds_are_not_judged():
    latent = latents(20)
    half = torch.arange(10)
    ups = [sees("a", "rna", latent, 1)[1], sees("b", "meth", latent, 2, index=half)[1]]
    means, precision = node_residuals(ups, 20, RANK, POWER)
    torch.testing.assert_close(precision["a"][10:], precision["a"][10].expand(10), rtol=0, atol=0)
    assert len(precision["a"][:10].unique()) == 10
    # Judged on the shared half alone: had the target's absent rows been taken as places, residuals would be far larger.
    assert means["a"] < 0.2
    assert max(float(value.max()) for value in precision.values()) == 1
    assert min(float(value.min()) for value in precision.values()) >= PRECISION_FLOOR


def test_a_node_that_shares_no_anchor_counts_as_predicting_nothing():
    latent = latents(20)
    ups = [
        sees("a", "rna", latent, 1, index=torch.arange(10))[1],
        sees("b", "meth", latent, 2, index=torch.arange(8, 20))[1],
    ]
    means, precision = node_residuals(ups, 20, RANK, POWER)
    assert means == {"a": 1.0, "b": 1.0} and set(precision) == {"a", "b"}


def test_residuals_need_two_modalities():
    latent = latents(10)
    with pytest.raises(MessageError, match="'rna'.*average.rule"):
        node_residuals([sees(node, "rna", latent, n)[1] for n, node in enumerate("ab")], 10, RANK, POWER)
