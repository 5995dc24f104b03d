"""One replay: the federation run on the rows that a coin let in, under each protocol, and what attacks make of it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from isogram.audit import inversion
from isogram.audit.attacker import Attacker
from isogram.audit.game import Game
from isogram.audit.protocols import PROTOCOLS, Recording
from isogram.audit.statistics import statistics
from isogram.config import Config
from isogram.local import stream
from isogram.messages import Down, Up

ISOGRAM, PROTOTYPES = "isogram", "prototypes"

CONTROLS = 5
"""Replays in which the attack on updates is tried on its easiest case, too."""


@dataclass
class Played:
    """What a replay left for the analysis.

    statistics: "PROTOCOL: FIELD/NODE" -> [n, f], n the pool of the node's modality; members: node -> [n]; figures:
    "METRIC/PROTOCOL: FIELD/MODALITY" -> value; digests: what was sent, of messages that should not vary.
    """

    statistics: dict[str, Tensor] = field(default_factory=dict)
    members: dict[str, Tensor] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


def play(game: Game, config: Config, number: int) -> Played:
    """Replay number `number` of a game."""
    # Draws of rows and anchors are seeded by a node's name, too: the same ones in all replays would tell nodes apart.
    config = config.model_copy(update={"seed": config.seed + 1000 * (number + 1)})
    if config.privacy.epsilon:  # other noise in each replay, and the same if it is played again
        noise = config.privacy.model_copy(update={"noise_seed": (game.seed << 16) + number})
        config = config.model_copy(update={"privacy": noise})
    coins = game.coins(number)
    data = game.played(coins)
    out = Played(members={node: torch.from_numpy(own) for node, own in coins.items()})
    for protocol, run in PROTOCOLS.items():
        if protocol != ISOGRAM and (config.privacy.epsilon or not config.train.rounds):
            continue  # they differ in what rounds send; and they have no noise to be compared with
        recording = run(data, config)
        attackers = _attackers(game, recording)
        for name, value in statistics(game, recording, attackers).items():
            if name.startswith(PROTOTYPES) and protocol == ISOGRAM:
                out.statistics[name] = value
            elif protocol == ISOGRAM or not name.startswith((PROTOTYPES, "class sums")):
                out.statistics[f"{protocol}: {name}"] = value  # what comes before rounds is the same there
        out.figures |= _rebuilt(game, recording, attackers, coins, protocol, number)
        if protocol == ISOGRAM:
            out.digests = _digests(recording)
    return out


def _attackers(game: Game, recording: Recording) -> dict[str, Attacker]:
    found = {}
    width = next((m.frame.shape[1] for m in recording.messages if isinstance(m, Down) and m.frame is not None), 0)
    if not width:  # nothing is sent before the first round: the map out of the trunk tells
        width = next(
            m.embeddings.shape[1] for m in recording.messages if isinstance(m, Up) and m.embeddings is not None
        )
    for modality in game.data.modalities:
        example = game.members(modality)[0].name
        items = game.data.anchors.items[modality]
        messages = recording.of(example)
        found[modality] = Attacker(game.pool(modality), items, len(game.data.anchors), recording, messages, width)
    return found


def _rebuilt(
    game: Game,
    recording: Recording,
    attackers: Mapping[str, Attacker],
    coins: Mapping[str, np.ndarray],
    protocol: str,
    number: int,
) -> dict[str, float]:
    """Reconstruction from what one node of each modality sent, and the control."""
    found: dict[str, float | None] = {}
    labelled = {m.modality for m in recording.messages if isinstance(m, Up) and m.head is not None}
    for modality, attacker in attackers.items():
        node = game.members(modality)[0].name
        place = game.places(modality)[node]
        real = ~game.is_canary(node)
        middle = attacker.coordinates.mean(0)
        rows, own = (attacker.coordinates - middle)[place][real], coins[node][real]
        messages = recording.of(node)
        draw = np.random.default_rng([game.seed, 3, number])
        noise = stream(game.seed, number, node, "inversion")
        guesses: dict[str, Tensor | None] = {}
        if recording.config.train.weights.teacher or attacker.labels is not None:  # else no term looks at rows
            guesses[f"{protocol}: updates"] = inversion.invert_update(attacker, messages, noise)
        if protocol == ISOGRAM:
            own_places = recording.prototypes[node]
            guesses[PROTOTYPES] = own_places[~own_places.isnan().any(1)] - middle
            sums = next(recording.class_sums(modality), None)
            if sums is not None and modality in labelled:
                guesses[f"{protocol}: class sums"] = sums.head[sums.head.any(1)]
        for name, value in guesses.items():
            if value is not None:
                found[f"rebuilt/{name}/{modality}"] = inversion.gain(value, rows, own, draw)
                found[f"likeness/{name}/{modality}"] = inversion.likeness(value, rows, own, noise)
        if protocol == ISOGRAM and number < CONTROLS:
            inside = place.start + int(np.flatnonzero(real & coins[node])[0])
            alone = inversion.one_row(attacker, inside, messages, noise)
            found[f"rebuilt-one-row/{protocol}: updates/{modality}"] = alone
    return {name: value for name, value in found.items() if value is not None}


def _digests(recording: Recording) -> dict[str, str]:
    """Of each node's Grams before training, and of all that the server makes of them."""
    found: dict[str, str] = {}
    for message in recording.messages:
        for name, value in message.arrays():
            public = name in ("gram", "others", "geometry") or (name == "frame" and message.round < 2)
            if public and (name == "geometry" or message.round < 2):
                key = f"{name}/{message.node}/{message.round}"
                found[key] = hashlib.sha256(value.numpy().tobytes()).hexdigest()[:16]
    return found
