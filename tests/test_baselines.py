from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import planted
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge
from torch.testing import assert_close

from isogram import baselines
from isogram.baselines import anchor_labels, pairwise
from isogram.baselines.anchor_labels import Look, Setting
from isogram.config import AlignConfig, Config, ModelConfig, TrainConfig
from isogram.data import AnchorSet, HeldOut, evaluation
from isogram.data.base import AnchorItems, FederatedData, NodeData
from isogram.errors import ConfigError, HeldOutError
from isogram.evaluation import evaluate
from isogram.methods import solve

CONFIG = Config(data="machines", anchors=40, align=AlignConfig(rank=16))
NAMES = list(baselines.PAIRWISE)


@pytest.fixture(scope="module")
def data():
    return planted(noise=0.3)


def figures(solution, data):
    return {(s.metric, s.direction): s.value for s in solution.scores(data)}


def mean_r1(solution, data):
    return np.mean([value for (metric, _), value in figures(solution, data).items() if metric == "r1"])


def raw(k=25, seed=0):
    """Two views [k, 9] and [k, 6] of the same four latents, not centred, and seven rows more of each."""
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(k + 7, 4))
    x, y = (latents @ rng.normal(size=(4, n)) + 0.3 * rng.normal(size=(k + 7, n)) + rng.normal(size=n) for n in (9, 6))
    return torch.from_numpy(x), torch.from_numpy(y), k


def cosines(x, y):
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (np.asarray(x), np.asarray(y)))
    return x @ y.T


def found_cosines(fit, setting):
    x, y, k = raw()
    left, right = fit(x[:k], y[:k], setting)
    return cosines(pairwise.embed_side(x[k:], left), pairwise.embed_side(y[k:], right))


def test_ridge_is_the_mean_of_both_ways():
    x, y, k = (part.numpy() if isinstance(part, torch.Tensor) else part for part in raw())
    ways = []
    for a, b in ((x, y), (y, x)):
        centred = a[:k] - a[:k].mean(0)
        model = Ridge(alpha=0.3 * (centred**2).sum() / k, tol=1e-12, solver="cholesky").fit(a[:k], b[:k])
        ways.append(cosines(model.predict(a[k:]) - b[:k].mean(0), b[k:] - b[:k].mean(0)))
    np.testing.assert_allclose(found_cosines(pairwise.ridge, (0.3,)), (ways[0] + ways[1].T) / 2, atol=1e-10)


def test_cca_solves_the_regularised_eigenproblem():
    """With covariances C, damped on the diagonal, correlations are the roots of Cxx^-1 Cxy Cyy^-1 Cyx."""
    x, y, k = (part.numpy() if isinstance(part, torch.Tensor) else part for part in raw())
    rho, keep = 0.2, 3
    xc, yc = x[:k] - x[:k].mean(0), y[:k] - y[:k].mean(0)
    cxx, cyy = (z.T @ z + rho * (z**2).sum() / k * np.eye(z.shape[1]) for z in (xc, yc))
    values, vectors = np.linalg.eig(np.linalg.solve(cxx, xc.T @ yc) @ np.linalg.solve(cyy, yc.T @ xc))
    best = np.argsort(-values.real)[:keep]
    a = vectors[:, best].real
    a = a / np.sqrt((a * (cxx @ a)).sum(0))
    b = np.linalg.solve(cyy, yc.T @ xc @ a)
    b = b / np.sqrt((b * (cyy @ b)).sum(0))
    weight = values[best].real ** 0.25  # roots of correlations, each the root of an eigenvalue
    expected = cosines((x[k:] - x[:k].mean(0)) @ a * weight, (y[k:] - y[:k].mean(0)) @ b * weight)
    np.testing.assert_allclose(found_cosines(pairwise.cca, (rho, keep / 6)), expected, atol=1e-8)


def test_procrustes_is_the_best_rotation_of_principal_components():
    x, y, k = (part.numpy() if isinstance(part, torch.Tensor) else part for part in raw())
    parts = []
    for z in (x, y):
        centred = z - z[:k].mean(0)
        _, vectors = np.linalg.eigh(np.cov(z[:k].T))
        parts.append(centred @ vectors[:, ::-1][:, :3])
    rotation, _ = orthogonal_procrustes(parts[0][:k], parts[1][:k])
    expected = cosines(parts[0][k:] @ rotation, parts[1][k:])
    np.testing.assert_allclose(found_cosines(pairwise.procrustes, (3.0,)), expected, atol=1e-10)


def test_none_of_them_chooses_among_more_settings_than_another_may():
    assert {len(set(settings)) for _, settings in pairwise.METHODS.values()} == {pairwise.TRIALS}
    assert len(set(anchor_labels.SETTINGS)) <= pairwise.TRIALS


@pytest.mark.parametrize("name", NAMES)
def test_partners_are_found_and_labels_travel(data, name):
    solution = solve(name, data, CONFIG)
    assert mean_r1(solution, data) > 0.25  # chance is .02
    found = figures(solution, data)
    assert {d for metric, d in found if metric == "r1"} == {f"{a}->{b}" for a in "abc" for b in "abc" if a != b}
    assert {d for metric, d in found if metric == "cka"} == {"a->b", "a->c", "b->c"}
    assert found["accuracy", "b"] > 0.6 and found["accuracy", "c"] > 0.6  # chance is .33


@pytest.mark.parametrize("name", NAMES)
def test_with_permuted_anchors_nobody_finds_anybody(data, name):
    wrong = dict(data.anchors.items)
    for turn, modality in enumerate("bc"):
        items = wrong[modality]
        order = np.random.default_rng(turn).permutation(len(items.tokens))
        wrong[modality] = AnchorItems(items.index, items.tokens[order], items.quality)
    permuted = replace(data, anchors=AnchorSet(data.anchors.ids, wrong))
    assert mean_r1(solve(name, permuted, CONFIG), permuted) < 0.08


@pytest.mark.parametrize("name", NAMES)
def test_without_a_common_anchor_two_modalities_are_at_chance_and_the_others_are_not(name):
    chain = planted(noise=0.1, holds={"a": range(20), "b": range(20, 40)})
    found = figures(solve(name, chain, CONFIG), chain)
    assert max(found["r1", "a->b"], found["r1", "b->a"]) < 0.12
    assert min(found["r1", "a->c"], found["r1", "c->b"]) > 0.2


def test_anchor_features_are_sent_once_and_counted(data):
    sent = {name: solve(name, data, CONFIG).bytes_per_node for name in (*NAMES, "relative")}
    features = 4 * 40 * np.mean([4 * n for n in (10, 10, 7, 12)])  # float32, of the nodes a-1, a-2, b and c
    for name in NAMES:
        assert features < sent[name] < features + 6 * sent["relative"]
    fed = baselines.align_pairs(NAMES[0], data, CONFIG)["a", "b"]
    shapes = [entry.shape for entry in fed.ledger.entries if entry.field == "embeddings"]
    assert shapes == [(40, 40), (40, 40), (40, 28), (40, 48)]


def test_the_setting_is_the_one_that_finds_held_out_anchors():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(40, 6)))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    seen = []

    def fit(a, b, setting):
        seen.append(len(a))
        spoil = torch.eye(6, dtype=torch.float64) if setting[0] == 2 else torch.from_numpy(rng.normal(size=(6, 6)))
        return (pairwise._centred(x),), (pairwise._affine(x, spoil),)

    assert pairwise.choose(fit, x, x, [(1.0,), (2.0,), (3.0,)], order) == (2.0,)
    assert set(seen) == {32}  # four fifths
    assert pairwise.choose(fit, x, x, [(2.0,), (2.0, 0)], order) == (2.0,)  # the first of equals


def test_the_reciprocal_rank_against_a_loop():
    x, y = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = []
    for c in (cosines(x, y), cosines(y, x)):
        expected += [1 / (1 + sum(c[i, j] > c[i, i] for j in range(9))) for i in range(9)]
    assert pairwise._reciprocal_rank(x, y) == pytest.approx(np.mean(expected))


def test_centralised_is_training_with_an_average_after_every_step(data):
    config = CONFIG.model_copy(
        update={"model": ModelConfig(width=48, layers=1), "train": TrainConfig(rounds=2, steps=3)}
    )
    ticks = []
    fed, sent = baselines.centralised(data, config, ticks.append)
    assert [(n.name, len(n.data.tokens)) for n in fed.nodes] == [("a", 120), ("b", 60), ("c", 60)]
    assert fed.round == 6 and [(t.round, t.rounds) for t in ticks] == [(1, 2), (2, 2)]
    assert sent == np.mean([4 * 60 * 4 * 10 + 8 * 60] * 2 + [4 * 60 * 4 * 7, 4 * 60 * 4 * 12])
    np.testing.assert_array_equal(fed.nodes[0].data.labels, np.concatenate([n.labels for n in data.nodes[:2]]))
    solution = solve("centralised", data, config)
    for node, merged in zip(data.nodes, ("a", "a", "b", "c"), strict=True):
        of = next(n for n in fed.nodes if n.name == merged)
        assert_close(solution.embed[node.name](node.tokens), of.embed(node.tokens), rtol=0, atol=0)
    assert mean_r1(solution, data) > 0.25


def test_a_modality_labelled_at_one_node_keeps_these_labels(data):
    nodes = (data.nodes[0], replace(data.nodes[1], labels=None), *data.nodes[2:])
    config = CONFIG.model_copy(
        update={"model": ModelConfig(width=48, layers=1), "train": TrainConfig(rounds=1, steps=1)}
    )
    fed, _ = baselines.centralised(replace(data, nodes=nodes), config, None)
    labels = fed.nodes[0].data.labels
    np.testing.assert_array_equal(labels[:60], data.nodes[0].labels)
    assert (labels[60:] == -1).all() and fed.nodes[1].data.labels is None


def moons(*, anchors_per_class=10, seed=0):
    """One node of two arcs that no line parts; the anchors of a class sit at one end of its arc.

    Seen through 64 waves, whose cosines fall off as a Gaussian of the distance: on the plane they lose the radius.
    """
    rng, lift = np.random.default_rng(seed), np.random.default_rng(7)
    waves, phase = 2 * lift.normal(size=(2, 64)), lift.uniform(0, 2 * np.pi, 64)

    def draw(labels, angle):
        x = np.cos(angle) * (1 - 2 * labels) + labels
        y = np.sin(angle) * (1 - 2 * labels) + 0.4 * labels
        rows = np.stack([x, y], 1) + 0.06 * rng.normal(size=(len(labels), 2))
        return np.repeat(np.cos(rows @ waves + phase)[:, None], 2, 1).astype(np.float32)

    told = np.tile([0, 1], anchors_per_class)
    shared = draw(told, rng.uniform(0, 0.8, len(told)))
    own, test = (np.arange(n) % 2 for n in (200, 80))
    private, held_out = (draw(labels, rng.uniform(0, np.pi, len(labels))) for labels in (own, test))
    position = np.arange(len(told))
    anchors = AnchorSet(tuple(map(str, position)), {"m": AnchorItems(position, shared, np.ones(len(told), np.float32))})
    sealed = HeldOut({"m": held_out}, {"m": test}, paired=False, private={"m": own}, anchors=told)
    return FederatedData("moons", (NodeData("m", "m", private),), anchors, sealed, ("x", "y"))


def accuracy(data, embed, head):
    return next(s.value for s in evaluate(data, embed, head) if s.metric == "accuracy")


def test_told_anchors_reach_along_the_data_where_their_own_ridge_does_not():
    data = moons()
    found = accuracy(data, *baselines.told_anchors(data, CONFIG))
    with evaluation():
        told = data.held_out.anchor_labels()
    anchors = torch.from_numpy(data.anchors.items["m"].tokens).double()
    look = Look.fit(anchors, centred=False)
    alone = Ridge(alpha=1e-3).fit(look(anchors), 2 * told - 1)
    by_anchors = accuracy(
        data,
        {
            "m": lambda rows: (
                torch.from_numpy(alone.predict(look(torch.from_numpy(rows).double())))[:, None]
                * torch.tensor([-1.0, 1.0])
            )
        },
        torch.eye(2, dtype=torch.float64),
    )
    assert found > 0.95 > by_anchors + 0.1


def test_classes_come_from_what_is_told_and_not_from_the_truth():
    data = moons()
    with evaluation():
        told = data.held_out.anchor_labels()
    lied = replace(data, held_out=moons_with(data, 1 - told))
    assert accuracy(lied, *baselines.told_anchors(lied, CONFIG)) < 0.05


def moons_with(data, told):
    with evaluation():
        rows, labels, private = data.held_out.tokens("m"), data.held_out.labels("m"), data.held_out.private_labels("m")
    return HeldOut({"m": rows}, {"m": labels}, paired=False, private={"m": private}, anchors=told)


def test_anchor_classes_are_sealed_follow_a_subset_and_may_be_unknown(data):
    with pytest.raises(HeldOutError):
        data.held_out.anchor_labels()
    keep = np.array([3, 4, 8, 21])
    with evaluation():
        whole = data.held_out.anchor_labels()
        np.testing.assert_array_equal(data.subset_anchors(keep).held_out.anchor_labels(), whole[keep])
    nobody = replace(data, held_out=moons_with(moons(), None))
    assert not nobody.held_out.knows_anchors and not nobody.subset_anchors(keep).held_out.knows_anchors
    with pytest.raises(ConfigError, match=r"leave out what needs them: `anchor-labels\+ssl`"):
        solve("anchor-labels+ssl", nobody, CONFIG)


def test_settings_are_chosen_by_anchors_whose_label_was_left_out():
    """Every row has a level of its own: only with its mean token taken out does it tell its class."""
    rng = np.random.default_rng(0)
    labels = np.r_[np.arange(20) % 2, np.arange(100) % 2]
    tokens = rng.normal(size=(120, 1, 3)) * 20 + 0.1 * rng.normal(size=(120, 4, 3))
    tokens[:, 0] += 2 * labels[:, None]
    tokens, told = torch.from_numpy(tokens), torch.from_numpy(labels[:20])
    settings = [Setting(False, (False,)), Setting(False, (True,))]
    student = anchor_labels.learn(tokens, told, 2, 5.0, settings)
    assert student.setting == settings[1] and student.right == 2
    assert (student(tokens[20:]).argmax(1) == torch.from_numpy(labels[20:])).all()
    few = torch.cat([tokens[:2], tokens[20:]])  # an anchor a class: nothing to leave out
    assert anchor_labels.learn(few, told[:2], 2, 5.0, settings).setting == settings[0]


def test_a_row_is_named_alone_as_among_others_and_the_choice_reads_no_held_out_row():
    data = moons()
    [student] = baselines.told_anchors(data, CONFIG)[0].values()
    with evaluation():
        rows = data.held_out.tokens("m")
    assert_close(student(rows[:1]), student(rows)[:1])
    sealed = HeldOut({"m": rows[:0]}, {"m": np.zeros(0, int)}, paired=False, private={}, anchors=np.tile([0, 1], 10))
    [again] = baselines.told_anchors(replace(data, held_out=sealed), CONFIG)[0].values()
    assert again.setting == student.setting
    assert_close(again(rows), student(rows), rtol=0, atol=0)


def test_a_rare_class_is_named_as_readily_as_a_frequent_one():
    """Two clouds that overlap, one of them ten times as frequent: without the shares nearly all rows go to it."""
    rng = np.random.default_rng(0)

    def draw(labels):
        return torch.from_numpy(rng.normal(size=(len(labels), 1, 8)) + 0.8 * labels[:, None, None])

    told, own, test = np.r_[np.zeros(40, int), np.ones(4, int)], np.arange(220) % 11 // 10, np.arange(400) % 2
    tokens = torch.cat([draw(told), draw(own)])
    student = anchor_labels.learn(tokens, torch.from_numpy(told), 2, 5.0)
    guess = student(draw(test)).argmax(1).numpy()
    assert (guess == 0)[test == 0].mean() > 0.6 and (guess == 1)[test == 1].mean() > 0.6


def test_a_row_of_one_token_keeps_it():
    tokens = moons().nodes[0].tokens[:, :1]
    told = torch.arange(10) % 2
    student = anchor_labels.learn(torch.from_numpy(tokens).double(), told, 2, 5.0)
    assert student.setting.centred == (False,)


def test_nodes_that_record_the_anchors_share_their_modalitys_basis_and_rows_can_be_levelled():
    """Behind a gain and an offset of its own, a node starts where another of its modality does."""
    data = planted(noise=0.01)
    look = {"a-1": lambda x: 3 * x - 1, "a-2": lambda x: x / 2 + 4}
    items = data.anchors.items["a"]
    nodes = tuple(
        replace(
            node,
            tokens=look[node.name](node.tokens),
            anchors=replace(items, tokens=look[node.name](items.tokens)),
        )
        if node.name in look
        else node
        for node in data.nodes
    )
    behind = replace(data, nodes=nodes)
    fed = baselines.local(behind, CONFIG)
    places = [node.map(node.anchors) for node in fed.nodes if node.modality == "a"]
    assert_close(places[0], places[1], rtol=1e-4, atol=1e-4)
    alike, looks = baselines.level(behind)
    assert set(looks) == set(look) and all(node.anchors is None for node in alike.nodes)
    for given, found in zip(data.nodes, alike.nodes, strict=True):
        np.testing.assert_allclose(found.tokens, given.tokens, rtol=1e-4, atol=1e-4)
