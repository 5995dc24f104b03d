"""Private rows rebuilt from messages: by matching gradients of an update, or from prototypes and class directions.

How near what was rebuilt comes to rows that were in, less how near to as many of the same node that were out: an attack
that learns the population alone has 0, whatever it knows of it. Nearness: cosine of coordinates off the pool's mean.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from isogram.audit.attacker import Attacker, sent
from isogram.audit.game import Bools
from isogram.messages import Down, Message

STEPS, RATE, GUESSES = 100, 0.05, 4


def gain(guesses: Tensor, rows: Tensor, members: Bools, draw: np.random.Generator) -> float | None:
    """Mean over guesses [g, d] of the best cosine among rows [n, d] that were in, less that among as many others.

    None where either kind is absent.
    """
    inside, outside = np.flatnonzero(members), np.flatnonzero(~members)
    n = min(len(inside), len(outside))
    if not n:
        return None
    chosen = [torch.from_numpy(draw.choice(of, n, replace=False)) for of in (inside, outside)]
    near = cosine_similarity(guesses.double()[:, None], rows.double()[None], dim=2)
    best = [near[:, of].max(1).values.mean() for of in chosen]
    return float(best[0] - best[1])


def likeness(guesses: Tensor, rows: Tensor, members: Bools, noise: torch.Generator) -> float | None:
    """Mean over guesses [g, d] of the best cosine with rows [n, d] that were in, less that of noise in their spread.

    What a guess tells of how a node's rows look, be it of single rows or of their kind; None where none was in.
    """
    inside = rows.double()[torch.from_numpy(members)]
    if not len(inside):
        return None
    blind = rows.double().std(0) * torch.randn(guesses.shape, generator=noise, dtype=torch.float64)
    near = [
        cosine_similarity(of[:, None], inside[None], dim=2).max(1).values.mean() for of in (guesses.double(), blind)
    ]
    return float(near[0] - near[1])


def invert_update(attacker: Attacker, messages: Sequence[Message], draw: torch.Generator) -> Tensor | None:
    """[g, d] coordinates of rows whose gradients explain a node's first update; None if it sent none.

    Matches the direction of what the update has beyond that of the attacker's own steps on its pool, by cosine (Geiping
    et al. 2020, "Inverting gradients"): anchors, which are public, make most of an update.
    """
    followed = next(attacker.follow(messages), None)
    if followed is None:
        return None
    update, head = followed.update, followed.head
    targets = next(m for m in messages if isinstance(m, Down) and m.round == update.round)
    attacker.node.shared.load(attacker.start)
    expected = sent(attacker.expected_update(targets), followed.before)
    attacker.node.shared.load(followed.before | followed.after)
    wanted = {name: expected[name] - value for name, value in followed.after.items()}
    return match_gradient(attacker, wanted, head, GUESSES, draw, update.round)


def one_row(attacker: Attacker, row: int, messages: Sequence[Message], draw: torch.Generator) -> float | None:
    """Cosine of one row's coordinates with what the attack makes of the bare gradient of this row alone.

    The easiest case there is: it shows whether the attack can work at all. None if no update was sent.
    """
    followed = next(attacker.follow(messages), None)
    if followed is None:
        return None
    update, head = followed.update, followed.head
    parameters = _trained(attacker, update.round)
    label = None if attacker.labels is None else attacker.labels[row : row + 1]
    with sdpa_kernel(SDPBackend.MATH):
        loss = _loss(
            attacker, attacker.node.base_rows[row : row + 1], attacker.node.teacher[row : row + 1], head, label
        )
        gradient = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    found = match_gradient(attacker, gradient, head, 1, draw, update.round)
    middle = attacker.coordinates.mean(0)
    return float(cosine_similarity(found[0].double(), attacker.coordinates[row] - middle, dim=0))


def match_gradient(
    attacker: Attacker, wanted: dict[str, Tensor], head: Tensor | None, guesses: int, draw: torch.Generator, round: int
) -> Tensor:
    """[g, d] coordinates, off the pool's mean, of rows whose mean loss has a gradient in the direction wanted."""
    base = attacker.node.base_rows
    noise = torch.randn(guesses, *base.shape[1:], generator=draw)
    rows = nn.Parameter(base.mean(0) + base.std(0) * noise)
    classes = 0 if head is None or attacker.labels is None else len(head)
    logits = nn.Parameter(torch.zeros(guesses, classes))
    optimiser = torch.optim.Adam([{"params": [rows], "lr": RATE * float(base.std())}, {"params": [logits], "lr": 0.1}])
    parameters = _trained(attacker, round)
    target = torch.cat([wanted[name].flatten() for name in parameters])
    model = attacker.model
    assert model is not None
    with sdpa_kernel(SDPBackend.MATH):
        for _ in range(STEPS):
            teacher = rows.sum(1) + model.bias
            soft = logits.softmax(1) if classes else None
            loss = _loss(attacker, rows, teacher, head, soft)
            gradient = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
            apart = 1 - cosine_similarity(torch.cat([g.flatten() for g in gradient]), target, dim=0)
            optimiser.zero_grad()
            apart.backward(inputs=[p for p in (rows, logits) if p.numel()])
            optimiser.step()
    with torch.no_grad():
        return (rows.sum(1) + model.bias).double() - attacker.coordinates.mean(0)


def _trained(attacker: Attacker, round: int) -> dict[str, nn.Parameter]:
    turn = attacker.node.shared.train_turn(round - 1)
    sent = attacker.node.shared.update(round - 1)
    return {name: parameter for name, parameter in turn.items() if name in sent}


def _loss(attacker: Attacker, base: Tensor, teacher: Tensor, head: Tensor | None, label: Tensor | None) -> Tensor:
    """A node's loss of rows: teacher and task terms with their weights; labels as classes [b] or shares [b, C]."""
    weights, temperature = attacker.node.config.train.weights, attacker.node.config.train.temperature
    z = attacker.embed(base)
    loss = weights.teacher * (1 - cosine_similarity(z, teacher, dim=1).mean())
    if head is not None and label is not None and weights.task:
        known = ~head.isnan().any(1)
        places = normalize(z, dim=1) @ head[known].float().T / temperature
        if label.ndim == 1:
            label = nn.functional.one_hot(label.clamp_min(0), len(head)).float() * (label >= 0)[:, None]
        label = label[:, known]
        if bool((label.sum(1) > 0).all()):
            loss = loss + weights.task * cross_entropy(places, normalize(label, p=1, dim=1))
    return loss
