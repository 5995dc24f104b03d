from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import planted
from resumed import put_back
from torch.nn.functional import normalize, one_hot
from torch.testing import assert_close

from isogram import federation
from isogram.alignment import LinearMap, Standardizer, classes
from isogram.config import Config, ModelConfig, TermWeights, TrainConfig
from isogram.data import evaluation
from isogram.federation import targets
from isogram.local import stream
from isogram.objective import loss


def blobs(n, seed, spread=0.3, width=6):
    """Three classes around the first three axes."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    return torch.eye(width)[labels].double() + spread * torch.randn(n, width, generator=draw).double(), labels


def test_scores_of_anchors_are_their_classes_and_absent_classes_have_none():
    x, y = blobs(60, 0)
    anchors, truth = blobs(30, 1)
    scores = classes.anchor_scores(x, y, anchors, 5)
    assert_close(scores.sum(1), torch.ones(30, dtype=torch.float64))
    assert (scores.argmax(1) == truth).double().mean() > 0.9
    assert (scores[:, 3:] == 0).all()


def test_the_head_hands_scores_on_through_the_places():
    x, y = blobs(30, 2)
    scores = one_hot(y, 3).double()
    head = classes.evidence_head(scores, x)
    assert (classes.anchor_classes(x, head).argmax(1) == y).all()
    unit = normalize(x, dim=1)
    ridge = classes.SMOOTH * (unit.T @ unit).trace() / 6
    naive = np.linalg.solve((unit.T @ unit).numpy() + float(ridge) * np.eye(6), (unit.T @ (scores - 1 / 3)).numpy())
    np.testing.assert_allclose(head.numpy(), naive.T, atol=1e-10)


def test_spreading_equals_its_series_and_leaves_an_anchors_own_evidence_out():
    x, y = blobs(33, 3)
    anchors, unknown = one_hot(y[:6], 3).double(), torch.zeros(27, 3, dtype=torch.float64)
    found, left = classes.propagate((x,), anchors, unknown)
    w = classes.neighbour_graph(x)
    s = w.sum(1).rsqrt()[:, None] * w * w.sum(1).rsqrt()

    def series(evidence):
        total, term = torch.zeros_like(evidence), evidence
        for _ in range(1500):
            total, term = total + term, classes.SPREAD * s @ term
        return total

    evidence = torch.cat([anchors, unknown]) / torch.cat([anchors, unknown]).sum(0)
    spread = series(evidence)
    mass = anchors.mean(0) / spread.mean(0)
    assert_close(found, normalize(spread[6:] * mass, p=1, dim=1), atol=1e-9, rtol=1e-6)
    without = evidence.clone()
    without[2] = 0
    assert_close(left[2], normalize(series(without)[2] * mass, p=1, dim=0), atol=1e-9, rtol=1e-6)
    assert (found.argmax(1) == y[6:]).double().mean() > 0.9


def test_ridge_predictions_of_rows_left_out_are_those_of_refits():
    x, y = blobs(12, 4)
    target = one_hot(y, 3).double()
    _, unseen = classes._ridge(x - x.mean(0), target - target.mean(0))
    fits = []
    for ridge in classes.RIDGES:
        penalty = ridge * float(((x - x.mean(0)).square().sum()) / 12)
        rows = []
        for i in range(12):
            keep = torch.arange(12) != i
            a, b = x[keep] - x[keep].mean(0), target[keep] - target[keep].mean(0)
            w = torch.linalg.solve(a.T @ a + penalty * torch.eye(6, dtype=torch.float64), a.T @ b)
            rows.append((x[i] - x[keep].mean(0)) @ w + target[keep].mean(0) - target.mean(0))
        fits.append(torch.stack(rows))
    errors = [float((target - target.mean(0) - fit).square().sum()) for fit in fits]
    assert_close(unseen, fits[int(np.argmin(errors))], atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("learnable", [True, False])
def test_the_class_part_is_learnt_only_where_it_pays(learnable):
    x, y = blobs(90, 5)
    y = y if learnable else y[torch.randperm(90, generator=torch.Generator().manual_seed(0))]
    draw = torch.Generator().manual_seed(1)
    start = LinearMap(
        Standardizer.none(6), torch.randn(6, 8, generator=draw).double(), torch.zeros(8, dtype=torch.float64)
    )
    head = normalize(torch.randn(3, 8, generator=draw).double(), dim=1)
    waves = classes.random_waves(start.standardize, draw)
    part = classes.class_part(start, x, one_hot(y, 3).double(), head, waves)
    assert (part is not None) == learnable
    if part is not None:
        after = classes.with_part(start, part)
        named = (normalize(after(x), dim=1) @ head.T).argmax(1)
        assert (named == y).double().mean() > 0.9
        outside = torch.eye(8, dtype=torch.float64) - torch.linalg.pinv(head) @ head
        assert_close(after(x) @ outside, start(x) @ outside, atol=1e-8, rtol=1e-6)


def start_of(x, width, seed=1):
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(x.shape[1], width, generator=draw).double()
    start = LinearMap(Standardizer.fit(x, 5.0), weight, torch.randn(width, generator=draw).double())
    return start, normalize(torch.randn(2, width, generator=draw).double(), dim=1), draw


@pytest.mark.parametrize("line", [True, False])
def test_the_class_part_has_waves_where_no_plane_tells_the_classes_apart(line):
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)).double()
    y = (x[:, 0] > 0).long() if line else (x[:, 0] * x[:, 1] > 0).long()
    start, head, draw = start_of(x[:300], 5)
    waves = classes.random_waves(start.standardize, draw)
    part = classes.class_part(start, x[:300], one_hot(y[:300], 2).double(), head, waves)
    after = classes.with_part(start, part)
    named = (normalize(after(x[300:]), dim=1) @ head.T).argmax(1)
    assert (named == y[300:]).double().mean() > 0.85
    outside = torch.eye(5, dtype=torch.float64) - torch.linalg.pinv(head) @ head
    assert_close(after(x) @ outside, start(x) @ outside, atol=1e-8, rtol=1e-6)
    if not line:
        flat = replace(after, waves=None)
        assert (((normalize(flat(x[300:]), dim=1) @ head.T).argmax(1)) == y[300:]).double().mean() < 0.7


def test_waves_are_the_kernel_that_they_stand_for():
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).double()
    x = torch.cat([x, torch.ones(30, 1)], 1).double()
    waves = classes.random_waves(Standardizer.fit(x, 5.0), torch.Generator().manual_seed(1))
    s = Standardizer.fit(x, 5.0)(x)
    both = classes.beside_waves(s, waves)
    expected = s @ s.T + 4 * (-torch.cdist(s, s).square() / 8).exp()
    assert_close(both @ both.T, expected, atol=1.0, rtol=0)
    assert (both @ both.T - expected).abs().mean() < 0.2
    assert not waves.frequency[4].any()


def test_a_student_finds_what_all_features_together_hide():
    x = torch.randn(416, 8, generator=torch.Generator().manual_seed(0)).double()
    y = torch.arange(416) % 2
    x[:, 0] = 2.5 * (2.0 * y - 1) + 0.5 * x[:, 0]
    x[:, 1:7] *= 4
    places, head = one_hot(y[:16], 2).double(), torch.eye(2, dtype=torch.float64)
    none = torch.zeros(400, 2, dtype=torch.float64)
    right = []
    for students in ((), (x,) * 3):
        found = classes.spread((x,), places, -places, none, head, students)
        right.append(float((found.argmax(1) == y[16:]).double().mean()))
    assert right[0] < 0.85 and right[1] > 0.95


@pytest.mark.parametrize("rows", [20, 320])
def test_spreading_may_be_the_worse_by_more_where_rows_are_many(rows, monkeypatch):
    x, y = blobs(40 + rows, 0)
    places, head = one_hot(y[:40], 3).double(), torch.eye(3, dtype=torch.float64)
    none = torch.zeros(rows, 3, dtype=torch.float64)
    monkeypatch.setattr(classes, "accuracy_gain", lambda *_: (torch.tensor(-0.1), torch.tensor(0.08)))
    assert (classes.spread((x,), places, places, none, head) is None) == (rows == 20)


def test_a_node_without_labels_learns_classes_from_the_frame_and_sends_nothing_for_it():
    config = Config(anchors=40)
    plain = config.model_copy(update={"align": config.align.model_copy(update={"propagate": False})})
    learnt, fed = federation.align(planted(), config), federation.align(planted(), plain)
    up = [[e for e in f.ledger.entries if e.direction == "up"] for f in (learnt, fed)]
    assert up[0] == up[1]


ROUNDS = Config(
    anchors=10,
    model=ModelConfig(width=48, layers=1),
    train=TrainConfig(rounds=3, steps=4, lr=1e-2, projector_lr=1e-2),
)


def one_labels_some(data):
    """a-1 knows two of the three classes, and so learns none of them."""
    nodes = [replace(n, labels=np.where(n.labels == 2, -1, n.labels)) if n.name == "a-1" else n for n in data.nodes]
    return replace(data, nodes=tuple(nodes))


def test_rounds_leave_what_a_node_has_learnt_of_the_classes_also_after_a_stop_and_in_a_file(tmp_path):
    data = one_labels_some(planted(n_anchors=10))
    start = federation.align(data, ROUNDS)
    learnt = {node.name for node in start.nodes if node.class_part is not None}
    assert 0 < len(learnt) < len(start.nodes)
    trained, again, model = put_back(tmp_path, data, ROUNDS)
    assert set(model.kept) == learnt
    with evaluation():
        for before, after, resumed in zip(start.nodes, trained.nodes, again.nodes, strict=True):
            rows = data.held_out.tokens(after.modality)
            z = after.embed(rows)
            assert_close(model.embed(after.name, rows), z, rtol=0, atol=0)
            assert_close(resumed.embed(rows), z, rtol=0, atol=0)
            moved = z - before.embed(rows)
            in_classes = (moved @ start.head.T).norm() / moved.norm()
            assert in_classes < 1e-4 if after.name in learnt else in_classes > 0.05, (after.name, in_classes)


def test_where_a_node_labels_some_classes_anchors_teach_it_nothing_in_the_directions_of_all():
    fed = federation.start_training(federation.align(one_labels_some(planted()), ROUNDS))

    def share(node, term):
        step = node._step(fed.deliver(node, "targets", targets(fed, node, 2)), None, node.last_seen, stream("draw"))
        node.shared.zero_grad()
        loss(step, TrainConfig(weights=TermWeights.only(**{term: 1})))[0].backward()
        grad = node.shared.out.weight.grad.double()
        return (fed.head.double() @ grad).norm() / grad.norm()

    one, two = (next(n for n in fed.nodes if n.name == name) for name in ("a-1", "a-2"))
    assert share(one, "frame") < 1e-4 < 0.05 < share(two, "frame")
    assert share(one, "task") > 0.05
