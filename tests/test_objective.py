import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogram import objective
from isogram.alignment import gram
from isogram.config import TermWeights, TrainConfig
from isogram.objective import TERMS, Step, loss

NAMES = ["task", "cka", "frame", "teacher", "prototype", "inter", "intra", "muscle"]
NAN = float("nan")


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def told(*labels, classes=4):
    """Each row's class as probabilities, 0 of all where it is negative."""
    return torch.tensor([[float(c == label) for c in range(classes)] for label in labels])


def step(seed=0, **fields):
    """A step in which every term applies.

    The last class of the head is unknown, two rows have no label; of the last anchor but one the other modalities know
    nothing, and one of the three peers lacks two anchors, one of them live.
    """
    a, b, d = 6, 7, 4
    counterparts, peers = normal(a, d, seed=seed + 7), normal(3, a, d, seed=seed + 8)
    counterparts[4] = NAN
    peers[1, [0, 5]] = NAN
    head = torch.nn.functional.normalize(normal(4, d, seed=seed + 5), dim=1)
    head[3] = NAN
    whole = {
        "anchors": normal(a, d, seed=seed).requires_grad_(),
        "live": torch.tensor([4, 0, 3]),
        "rows": normal(b, d, seed=seed + 1).requires_grad_(),
        "teacher": normal(b, d, seed=seed + 2),
        "frame": normal(a, d, seed=seed + 3),
        "geometry": gram(normal(a, 3, seed=seed + 4)),
        "prototypes": normal(a, d, seed=seed + 6),
        "counterparts": counterparts,
        "siblings": normal(a, d, seed=seed + 9),
        "previous": normal(a, d, seed=seed + 10),
        "peers": peers,
        "labels": told(0, 2, -1, 3, 1, -1, 2),
        "head": head,
    }
    return Step(**{**whole, **fields})


def cosine(x, y):
    x, y = x.tolist(), y.tolist()
    return sum(map(math.prod, zip(x, y, strict=True))) / math.hypot(*x) / math.hypot(*y)


def surprise(logits, right):
    """-log softmax(logits)[right]."""
    return math.log(sum(math.exp(x - logits[right]) for x in logits))


def mean(values):
    listed = list(values)
    return sum(listed) / len(listed)


def naive_task(s, t):
    known = [c for c in range(len(s.head)) if not any(math.isnan(x) for x in s.head[c].tolist())]
    labels = [row.index(max(row)) if max(row) else -1 for row in s.labels.tolist()]
    return mean(
        surprise([cosine(s.rows[i], s.head[c]) / t for c in known], known.index(labels[i]))
        for i in range(len(s.rows))
        if labels[i] in known
    )


def naive_cka(s, t):
    def centred(matrix):
        k = len(matrix)
        rows = [sum(row) / k for row in matrix]
        return [[matrix[i][j] - rows[i] - rows[j] + sum(rows) / k for j in range(k)] for i in range(k)]

    def inner(a, b):
        return sum(x * y for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))

    a, b = centred((s.anchors @ s.anchors.T).tolist()), centred(s.geometry.tolist())
    return 1 - inner(a, b) / math.sqrt(inner(a, a) * inner(b, b))


def naive_frame(s, t):
    a = range(len(s.anchors))
    logits = [[cosine(s.anchors[i], s.frame[j]) / t for j in a] for i in a]
    finds = mean(surprise(logits[i], i) for i in s.live.tolist())
    found = mean(surprise([logits[j][i] for j in a], i) for i in s.live.tolist())
    return (finds + found) / 2


def naive_teacher(s, t):
    return 1 - mean(cosine(x, y) for x, y in zip(s.rows, s.teacher, strict=True))


def naive_prototype(s, t):
    return 1 - mean(cosine(s.anchors[i], s.prototypes[i]) for i in s.live.tolist())


def naive_inter(s, t):
    known = [0, 1, 2, 3, 5]
    return mean(
        surprise([cosine(s.anchors[i], s.counterparts[j]) / t for j in known], known.index(i))
        for i in s.live.tolist()
        if i in known
    )


def naive_intra(s, t):
    return mean(
        surprise([cosine(s.anchors[i], place[i]) / t for place in (s.siblings, s.previous)], 0) for i in s.live.tolist()
    )


def naive_muscle(s, t):
    there = [(p, j) for p in range(3) for j in range(6) if not (p == 1 and j in (0, 5))]
    return mean(
        mean(
            surprise([cosine(s.anchors[i], s.peers[at]) / t for at in there], there.index((p, i)))
            for p in range(3)
            if (p, i) in there
        )
        for i in s.live.tolist()
    )


NAIVE = dict(
    zip(
        NAMES,
        (
            naive_task,
            naive_cka,
            naive_frame,
            naive_teacher,
            naive_prototype,
            naive_inter,
            naive_intra,
            naive_muscle,
        ),
        strict=True,
    )
)


def test_every_term_has_a_weight_and_a_test():
    assert list(TERMS) == list(TermWeights.model_fields) == list(NAIVE) == NAMES


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32), temperature=st.floats(0.05, 2))
def test_each_term_against_plain_numbers(name, seed, temperature):
    s = step(seed)
    expected = torch.tensor(NAIVE[name](s, temperature), dtype=torch.float64)
    torch.testing.assert_close(TERMS[name](s, temperature), expected)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("task", "labels"),
        ("task", "head"),
        ("cka", "geometry"),
        ("frame", "frame"),
        ("prototype", "prototypes"),
        ("inter", "counterparts"),
        ("intra", "siblings"),
        ("intra", "previous"),
        ("muscle", "peers"),
    ],
)
def test_a_term_without_its_target_does_not_apply(name, missing):
    assert TERMS[name](step(**{missing: None}), 0.1) is None


def test_the_task_moves_only_rows_whose_class_is_labelled_and_known():
    s = step()
    TERMS["task"](s, 0.1).backward()
    moved = (s.rows.grad != 0).any(1)
    assert moved.tolist() == [True, True, False, False, True, False, True]  # -1 is unlabelled, class 3 has a NaN row
    assert s.rows.grad.isfinite().all()
    assert s.anchors.grad is None


def test_an_unknown_class_is_as_good_as_absent():
    s = step()
    absent = step(head=s.head[:3], labels=s.labels[:, :3])
    torch.testing.assert_close(TERMS["task"](s, 0.1), TERMS["task"](absent, 0.1), rtol=0, atol=0)
    moved = step(head=s.head[[3, 0, 1, 2]], labels=s.labels[:, [3, 0, 1, 2]])
    torch.testing.assert_close(TERMS["task"](s, 0.1), TERMS["task"](moved, 0.1))


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": told(*[-1] * 7)},
        {"labels": told(*[3] * 7)},
        {"head": torch.full((4, 4), NAN, dtype=torch.float64)},
        # A softmax over one class is 0 whatever the rows are.
        {"head": torch.tensor([[1.0] * 4, *[[NAN] * 4] * 3], dtype=torch.float64)},
    ],
)
def test_the_task_does_not_apply_with_fewer_than_two_classes_or_no_row_of_them(fields):
    assert TERMS["task"](step(**fields), 0.1) is None


@pytest.mark.parametrize("name", ["inter", "muscle"])
def test_anchors_that_nobody_else_holds_are_left_out(name):
    s = step()
    live, other = torch.tensor([4]), {"inter": s.counterparts, "muscle": s.peers}[name].clone()
    other[..., 4, :] = NAN
    fields = {"inter": "counterparts", "muscle": "peers"}
    assert TERMS[name](step(live=live, **{fields[name]: other}), 0.1) is None
    together = step(live=torch.tensor([4, 3]), **{fields[name]: other})
    TERMS[name](together, 0.1).backward()
    assert together.anchors.grad.isfinite().all() and (together.anchors.grad != 0).any(1).tolist() == [
        i == 3 for i in range(6)
    ]


@pytest.mark.parametrize("name", ["frame", "teacher", "prototype", "cka", "inter"])
def test_a_term_falls_to_its_least_where_the_target_is_met(name):
    s = step()
    met = step(
        anchors=3 * s.frame, rows=2 * s.teacher, prototypes=s.frame, counterparts=s.frame, geometry=5 * gram(s.frame)
    )
    assert TERMS[name](met, 0.01) < 1e-3 < 0.1 < TERMS[name](s, 0.01)


@given(weights=st.tuples(*[st.sampled_from([0.0, 0.1, 2.5])] * len(NAMES)), temperature=st.sampled_from([0.1, 1.0]))
def test_the_loss_adds_up(weights, temperature):
    config = TrainConfig(weights=TermWeights.only(**dict(zip(NAMES, weights, strict=True))), temperature=temperature)
    s = step()
    total, values = loss(s, config)
    used = {name: weight for name, weight in zip(NAMES, weights, strict=True) if weight}
    assert list(values) == list(used)
    for name, value in values.items():
        assert value == pytest.approx(NAIVE[name](s, temperature))
    assert total.item() == pytest.approx(sum(weight * values[name] for name, weight in used.items()))


def test_the_gradient_of_the_loss_is_the_weighted_sum_of_the_terms():
    weights = dict(zip(NAMES, (0.3, 0.7, 1.1, 1.3, 1.7, 0.9, 0.4, 2.1), strict=True))
    s = step()
    total, _ = loss(s, TrainConfig(weights=TermWeights.only(**weights), temperature=0.5))
    found = torch.autograd.grad(total, (s.anchors, s.rows))
    expected = [torch.zeros_like(s.anchors), torch.zeros_like(s.rows)]
    for name, weight in weights.items():
        parts = torch.autograd.grad(TERMS[name](s, 0.5), (s.anchors, s.rows), allow_unused=True)
        expected = [
            whole if part is None else whole + weight * part for whole, part in zip(expected, parts, strict=True)
        ]
    torch.testing.assert_close(list(found), expected)


@pytest.mark.parametrize("idle", NAMES)
def test_a_term_of_weight_0_is_not_computed(idle, monkeypatch):
    def costly(step, temperature):
        raise RuntimeError("computed")

    monkeypatch.setitem(objective.TERMS, idle, costly)
    weights = {name: float(name != idle) for name in NAMES}
    assert list(loss(step(), TrainConfig(weights=TermWeights.only(**weights)))[1]) == [
        name for name in NAMES if name != idle
    ]
    with pytest.raises(RuntimeError, match="computed"):
        loss(step(), TrainConfig(weights=TermWeights.only(**{**weights, idle: 1e-9})))


def test_terms_that_do_not_apply_leave_the_others_alone():
    config = TrainConfig(weights=TermWeights.only(**dict.fromkeys(NAMES, 1)))
    s = step(labels=None, geometry=None, frame=None, prototypes=None, counterparts=None, siblings=None, peers=None)
    total, values = loss(s, config)
    assert list(values) == ["teacher"]
    torch.testing.assert_close(total, TERMS["teacher"](s, 0.1))
