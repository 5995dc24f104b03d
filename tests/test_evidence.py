"""What anchors show: the statistics that the doctor rests on, against naive references."""

from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from planted import VIEWS, planted
from scipy.stats import binomtest
from torch.testing import assert_close

from isogram import federation
from isogram.alignment import Standardizer, cka_debiased, gram, one_shot, shrink
from isogram.alignment.evidence import TEST_RHO, Block, near, null_sd, partner_ranks, relation, suspicion, u_center
from isogram.config import AlignConfig, Config

CONFIG = Config(data="digits")  # the name alone: data are given
CLIP = CONFIG.align.clip


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("metric", [True, False])
@pytest.mark.parametrize("holds", [None, {"a": range(25), "b": range(15, 40)}])
def test_alignment_without_messages_gives_the_maps_of_the_federation(metric, holds):
    """Modality a has two nodes, so that one vote a modality instead of one a node would show."""
    data = planted(holds=holds, noise=0.3)
    items = data.anchors.items
    data = replace(
        data,
        anchors=replace(
            data.anchors, items={**items, "c": replace(items["c"], quality=np.linspace(0.2, 1, 40, dtype=np.float32))}
        ),
    )
    config = CONFIG.model_copy(
        update={"align": AlignConfig(metric=metric, rank=12, decorrelate=False, choose=False, propagate=False)}
    )
    fed = federation.align(data, config)
    names = sorted(VIEWS)
    found = one_shot(
        {m: torch.from_numpy(data.anchors.items[m].tokens).double().flatten(1) for m in names},
        {m: torch.from_numpy(data.anchors.items[m].index) for m in names},
        40,
        quality={m: torch.from_numpy(data.anchors.items[m].quality) for m in names},
        nodes={"a": 2, "b": 1, "c": 1},
        **config.align.model_dump(
            exclude={"outliers", "precision", "robust", "secure", "decorrelate", "choose", "propagate"}
        ),
    )
    assert_close(found.frame.abs(), fed.frame.abs(), rtol=1e-3, atol=1e-4)
    for node in fed.nodes:
        mine, its = found.maps[node.modality](node.anchors), node.map(node.anchors)
        assert_close(mine @ mine.T, its @ its.T, rtol=1e-3, atol=1e-4)  # float32 on the wire


@given(n=st.integers(4, 6), seed=st.integers(0, 2**32))
def test_mean_and_spread_of_the_null_are_those_of_all_permutations(n, seed):
    a, b = (u_center(gram(normal(n, 3, seed=seed + i))) for i in range(2))
    assume(min(a.norm(), b.norm()) > 1e-6)  # with 4 anchors few Grams leave anything once centred
    a, b = a / a.norm(), b / b.norm()
    every = torch.stack([(a * b[list(order)][:, list(order)]).sum() for order in permutations(range(n))])
    assert_close(every.mean(), torch.zeros((), dtype=torch.float64), atol=1e-9, rtol=0)
    assert_close(float(every.std(correction=0)), null_sd(n))


def test_the_statistic_is_the_debiased_cka_of_shrunk_grams():
    x, y = normal(30, 8, seed=1), normal(30, 5, seed=2)
    a, b = (shrink(gram(Standardizer.fit(z, CLIP)(z)), TEST_RHO) for z in (x, y))
    found = relation(x, y, CLIP, 9, torch.Generator())
    assert found.cka == pytest.approx(float(cka_debiased(a, b)))
    assert found.z == pytest.approx(found.cka / null_sd(30))


def test_p_is_the_share_of_permutations_that_reach_the_statistic():
    """Five anchors: few enough to count all orders; many draws come close."""
    x = normal(5, 4, seed=3)
    y = x + 0.8 * normal(5, 4, seed=4)
    a, b = (u_center(shrink(gram(Standardizer.fit(z, CLIP)(z)), TEST_RHO)) for z in (x, y))
    every = torch.stack([(a * b[list(order)][:, list(order)]).sum() for order in permutations(range(5))])
    exact = float((every >= (a * b).sum() - 1e-12).double().mean())
    found = relation(x, y, CLIP, 20000, torch.Generator().manual_seed(0)).p
    assert 0 < exact < 0.5 and found == pytest.approx(exact, abs=0.01)


def test_p_of_unrelated_features_is_uniform():
    draw = torch.Generator().manual_seed(0)
    p = np.array([relation(normal(15, 6, seed=i), normal(15, 4, seed=9999 - i), CLIP, 199, draw).p for i in range(300)])
    for level in (0.02, 0.1, 0.5):
        assert binomtest(int((p <= level).sum()), len(p), level).pvalue > 0.01


def test_anchors_that_are_all_equally_far_apart_are_related_to_nothing():
    assert relation(torch.eye(9).double(), normal(9, 3, seed=0), CLIP, 99, torch.Generator())[::2] == (0.0, 1.0)


def naive_ranks(s):
    n, auc, first = len(s), [], []
    for i, j in [(i, j) for i in range(n) for j in range(n) if i != j]:
        for other in (s[i, j], s[j, i]):
            auc.append(1.0 if other < s[i, i] else 0.5 if other == s[i, i] else 0.0)
    for rows in (s, s.T):
        first += [all(rows[i, j] < rows[i, i] for j in range(n) if j != i) for i in range(n)]
    return np.mean(auc), np.mean(first)


def test_ranks_of_partners_against_a_loop_with_ties():
    s = torch.randint(0, 4, (7, 7), generator=torch.Generator().manual_seed(2)).double()
    auc, first, chance = partner_ranks([Block(torch.arange(7), s)])
    assert (auc, first) == pytest.approx(naive_ranks(s)) and chance == pytest.approx(1 / 7)
    assert partner_ranks([]) == (0.5, 0.0, 0.0)


def blocks_of(mean, off, n=40, seed=0):
    """Cosines of three modalities; where (anchor, modality) is in `off` the anchor's pairs are like strangers'."""
    blocks = {}
    for number, pair in enumerate(combinations("abc", 2)):
        s = normal(n, n, seed=seed + number)
        good = torch.tensor([not any((i, m) in off for m in pair) for i in range(n)])
        blocks[pair] = [Block(torch.arange(n), s + torch.diag(mean * good))]
    return blocks


def test_an_item_that_is_off_is_told_from_its_partners():
    posterior = suspicion(blocks_of(6.0, {(3, "a"), (17, "c")}), "abc", 40)
    assert_close(posterior.sum(1), torch.ones(40, dtype=torch.float64))
    assert torch.nonzero(posterior[:, 0] < 0.05).flatten().tolist() == [3, 17]
    assert posterior[3].argmax() == 1 and posterior[17].argmax() == 3


def test_with_two_modalities_the_blame_is_shared():
    blocks = {pair: found for pair, found in blocks_of(6.0, {(3, "a")}).items() if pair == ("a", "b")}
    posterior = suspicion(blocks, "ab", 40)
    assert posterior[3, 0] < 0.05 and float(posterior[3, 1]) == pytest.approx(float(posterior[3, 2]))


def test_where_partners_are_like_strangers_nobody_is_blamed():
    assert suspicion(blocks_of(0.0, set()), "abc", 40)[:, 0].min() > 0.5
    assert suspicion({}, [], 5)[:, 0].tolist() == [1.0] * 5


def test_p_is_never_zero_and_stops_early_where_nothing_is_related():
    x = normal(12, 5, seed=1)
    assert relation(x, x, CLIP, 99, torch.Generator().manual_seed(0)).p == 1 / 100
    draw = torch.Generator().manual_seed(0)
    p = relation(normal(12, 5, seed=2), normal(12, 5, seed=3), CLIP, 100_000, draw).p
    assert p > 0.05  # a hundred thousand draws would take half a minute


def test_similarity_above_the_centre_is_never_held_against_an_anchor():
    s = torch.eye(20, dtype=torch.float64) * 4 + 0.1 * normal(20, 20, seed=3)
    s[0, 0] = 40  # far from the others, on the right side
    blocks = {("a", "b"): [Block(torch.arange(20), s)], ("a", "c"): [Block(torch.arange(20), s)]}
    assert float(suspicion(blocks, ["a", "b", "c"], 20)[0, 0]) > 0.9


@given(st.integers(3, 12), st.integers(0, 10**6), st.floats(0.1, 0.9))
def test_near_pairs_are_each_others_nearest_and_far_from_any_third(k, seed, closer):
    rows = normal(k, 2, seed=seed)

    def third(i, j):
        return min(float((rows[i] - rows[m]).square().sum()) for m in range(k) if m not in (i, j))

    expected = [
        (i, j)
        for i, j in combinations(range(k), 2)
        if float((rows[i] - rows[j]).square().sum()) < closer * min(third(i, j), third(j, i))
    ]
    assert sorted(near(rows, closer)) == expected


def test_a_family_of_items_that_are_all_alike_has_no_near_pair():
    rows = torch.cat([normal(20, 5, seed=0), torch.tensor([[9.0] * 5]) + 1e-6 * torch.eye(5)]).double()
    assert not {20, 21, 22, 23, 24} & {i for pair in near(rows, 0.25) for i in pair}
    assert near(rows[:2], 0.25) == []
