"""A number or some for each candidate row, out of the messages of one node: high or low where the row was in.

Each function is an attack on one field. Which way a number points, and how far, is learnt from replays (`membership`).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from isogram.audit.attacker import Attacker, last_head
from isogram.audit.game import Game
from isogram.audit.protocols import ClassSums, Recording
from isogram.messages import Message, Up

Statistics = dict[str, Tensor]
""""FIELD/NODE" -> [n, features], n all candidates of the node's modality."""


def statistics(game: Game, recording: Recording, attackers: dict[str, Attacker]) -> Statistics:
    """Of every field that has something to attack."""
    found: Statistics = {}
    for node in game.data.nodes:
        for field, value in _of_node(attackers[node.modality], recording, node.name):
            found[f"{field}/{node.name}"] = value.nan_to_num(0.0, 0.0, 0.0)
    return found


def _of_node(attacker: Attacker, recording: Recording, node: str) -> Iterator[tuple[str, Tensor]]:
    own = recording.of(node)
    labelled = attacker.labels is not None and any(isinstance(m, Up) and m.head is not None for m in own)
    sums = [_in_sums(attacker, of, at) for of, at in _sums(attacker, recording, own)] if labelled else []
    if sums:
        yield "class sums", torch.cat(sums, 1)
    votes = [message.directions for message in own if isinstance(message, Up) and message.directions is not None]
    if votes:
        yield "votes", _near(attacker, votes[0].double(), cosine=True)
    if node in recording.prototypes:
        yield "prototypes", _near(attacker, recording.prototypes[node], cosine=False)
    rounds = [attacker.along(seen) for seen in attacker.follow(own)]
    if rounds:
        yield "updates", torch.cat(rounds, 1)
        yield "final model", attacker.losses(last_head(own))
    seen = [message for message in own if isinstance(message, Up) and message.embeddings is not None]
    if len(seen) > 1:
        final = last_head(own)
        changes = [projector_change(attacker, up.embeddings) for up in seen[1:] if up.embeddings is not None]
        yield "anchor embeddings", torch.cat([attacker.losses(final, change) for change in changes], 1)


def _sums(attacker: Attacker, recording: Recording, own: Sequence[Message]) -> Iterator[tuple[ClassSums, Tensor]]:
    """Each secure sum, and the rows' coordinates as they were in it."""
    coordinates = attacker.at_sums(own)
    for of in recording.class_sums(attacker.node.modality):
        yield of, coordinates.get(of.round, attacker.coordinates)


def _in_sums(attacker: Attacker, sums: ClassSums, z: Tensor) -> Tensor:
    """[n, 4 or 5] inner products and cosines of a unit row with the sum of its class, and with the nearest one.

    Also, where there is one, with the second moment. Unit in as many leading coordinates as the sums have.
    """
    assert attacker.labels is not None
    width = int((sums.head != 0).any(0).nonzero().max()) + 1 if bool((sums.head != 0).any()) else z.shape[1]
    unit = normalize(z[:, :width], dim=1)
    found = []
    for places in (sums.head[:, :width], normalize(sums.head[:, :width], dim=1)):
        inner = unit @ places.T
        own = inner.gather(1, attacker.labels.clamp_min(0)[:, None])[:, 0] * (attacker.labels >= 0)
        found += [own, inner.max(1).values]
    if sums.second is not None:
        whole = normalize(z, dim=1)
        found.append(((whole @ sums.second) * whole).sum(1))
    return torch.stack(found, 1)


def _near(attacker: Attacker, places: Tensor, *, cosine: bool) -> Tensor:
    """[n, 2] how near a row is to the place of its class (where that is known) and to the nearest one."""
    z = attacker.coordinates
    known = ~places.isnan().any(1)
    filled = places.nan_to_num()
    near = cosine_similarity(z[:, None], filled[None], dim=2) if cosine else -torch.cdist(z, filled)
    near = torch.where(known, near, -torch.inf)
    best = near.max(1).values
    own = best.clone()
    if attacker.labels is not None:
        told = (attacker.labels >= 0) & known[attacker.labels.clamp_min(0)]
        own[told] = near[told].gather(1, attacker.labels[told][:, None])[:, 0]
    return torch.stack([own, best], 1)


def projector_change(attacker: Attacker, embeddings: Tensor) -> Tensor:
    """[d, d] that best explains a node's anchor embeddings [k, d], by ridge: its projector, inverted from public items.

    What the trunk adds is taken as it is without the change.
    """
    with torch.no_grad():
        base = attacker.node.base_anchors
        rest = embeddings.to(base) - attacker.embed(base)
        x = base.sum(1).double()
        ridge = 1e-6 * x.square().sum() / len(x) * torch.eye(x.shape[1], dtype=x.dtype)
        return torch.linalg.solve(x.T @ x + ridge, x.T @ rest.double()).float()
