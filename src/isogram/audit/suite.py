"""The audit of a run: replays side by side, kept as they end, then figures of all attacks as tidy rows."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from isogram import federation
from isogram.audit import attributes, grams, membership
from isogram.audit.game import Game
from isogram.audit.protocols import check
from isogram.audit.replay import ISOGRAM, Played, play
from isogram.bench import Row, side_by_side
from isogram.config import Config
from isogram.config_file import read_config
from isogram.data import open_data
from isogram.egress import Oversight
from isogram.errors import RunError
from isogram.files import make_folder, write_atomic
from isogram.local.node import flat_rows
from isogram.run_folder import AUDIT, CONFIG, EGRESS, REPLAYS, STATE, fingerprint, left, locked, read_json, run_id
from isogram.tensor_file import read_tensors, write_tensors

EVERYTHING = f"{ISOGRAM}: all messages"
"""The attack on all that Isogram's nodes send, and get, together."""

GRAMS, PRIVATE_SCALES = f"{ISOGRAM}: Grams and frame", "Gram, private scales"
"""What a Gram tells, as it is sent; and as it would be, were features divided by a node's own spread."""

Told = Callable[[str], None]


def audit_run(folder: Path, replays: int, canaries: int, seed: int, jobs: int, told: Told | None = None) -> list[Row]:
    """The audit of a run by its folder: `audit` of its settings; its rows are written there, over older ones.

    Raises:
        RunError: the folder holds no run, an unfinished one, or one of other data than are there now.
        ConfigError, DataError, StorageError: as `audit`.
    """
    if not (folder / CONFIG).exists():
        raise RunError(f"{folder} holds no run: {CONFIG} is not there; name a run's folder")
    if not (folder / STATE).exists() or not read_json(folder / STATE)["complete"]:
        raise RunError(f"the run in {folder} is not complete: finish it by `isogram run ... --resume`, then audit it")
    config = read_config(folder / CONFIG)
    if read_json(folder / STATE)["fingerprint"] != fingerprint(open_data(config)):
        raise RunError(f"{folder} was made with other data than {config.data} holds now; run it again")
    with locked(folder):
        rows = audit(config, folder / REPLAYS, replays, canaries, seed, jobs, told)
        share = repeated(config, folder)
        if share is not None:
            rows.append(Row(rows[0].dataset, "the run itself", config.anchors, 0, "repeated", "", round(share, 6)))
        write_atomic(folder / AUDIT, "".join(json.dumps(asdict(row)) + "\n" for row in rows).encode())
    return rows


def repeated(config: Config, folder: Path) -> float | None:
    """Share of the arrays that left the run's nodes which the same settings give again, bit for bit, by `egress.jsonl`.

    Of 1, what the audit attacks is what the run sent, but for the rows left out. Masked arrays differ in every run and
    are passed over. None for a run without that log, or with noise: its secret is gone.
    """
    if config.privacy.epsilon or not (folder / EGRESS).exists():
        return None
    torch.set_num_threads(config.threads)
    oversight = Oversight()
    fed = federation.align(open_data(config), config, run_id(folder), oversight=oversight)
    if config.train.rounds:
        federation.train(fed)
    again = {(line.node, line.round, line.kind, line.field): line.sha256 for line in oversight.lines}
    same = [
        again.get((line["node"], line["round"], line["kind"], line["field"])) == line["sha256"]
        for line in left(folder)
        if not line["masked"]
    ]
    return sum(same) / max(1, len(same))


def audit(
    config: Config, folder: Path, replays: int, canaries: int, seed: int, jobs: int, told: Told | None = None
) -> list[Row]:
    """All figures of an audit of what a run with these settings sends.

    Args:
        config: of the run.
        folder: where replays are kept; one that is there already is not played again.
        replays: R, three or more.
        canaries: rows of noise added to each node's.
        seed: of coins, noise and attacks.
        jobs: processes.
        told: hears of every replay that is there.

    Raises:
        ConfigError: settings or data that the attacks cannot follow.
        DataError: a replay that was kept cannot be read.
        StorageError: one cannot be written.
    """
    check(config)
    config = config.model_copy(update={"train": config.train.model_copy(update={"device": "cpu"})})
    game = Game.of(open_data(config), canaries, seed)
    make_folder(folder)
    about = _about(config, canaries, seed)
    missing = [n for n in range(replays) if not _is_kept(folder, n, about)]
    kept, tell = [n for n in range(replays) if n not in missing], told or (lambda note: None)
    for place in range(len(kept)):
        tell(f"{place + 1} of {replays}, kept from before")

    def ended(number: int, result: None) -> None:
        kept.append(number)
        tell(f"{len(kept)} of {replays}")

    side_by_side(partial(_play_and_keep, config, canaries, seed, folder), missing, jobs, ended)
    return figures(game, [_kept(folder, n) for n in range(replays)], config)


def figures(game: Game, played: Sequence[Played], config: Config) -> list[Row]:
    """Rows of all attacks: the method is "PROTOCOL: FIELD", the seed the replay, the direction a modality or none."""
    rows: list[Row] = []

    def add(method: str, metric: str, direction: str, values: Sequence[float]) -> None:
        rows.extend(
            Row(f"audit:{config.data}", method, config.anchors, number, metric, direction, round(float(value), 6))
            for number, value in enumerate(values)
        )

    for method, of in _by_field(game, played).items():
        for metric, direction, values in _membership(game, played, of, config.privacy.delta):
            add(method, metric, direction, values)
        for metric, direction, values in _attributes(game, played, of, len(game.data.classes)):
            add(method, metric, direction, values)
    for name in sorted(set().union(*(p.figures for p in played))):
        metric, method, modality = name.split("/")
        add(method, metric, modality, [p.figures[name] for p in played if name in p.figures])
    if config.privacy.epsilon:
        add(EVERYTHING, "epsilon-stated", "", [config.privacy.epsilon] * len(played))
    varying = sum(len({p.digests[key] for p in played}) > 1 for key in played[0].digests)
    add(GRAMS, "varies", "", [varying / len(played[0].digests)] * len(played))
    for modality in game.data.modalities:
        for method, metric, value in _grams(game, modality, config):
            add(method, metric, modality, [value])
    return rows


def _by_field(game: Game, played: Sequence[Played]) -> dict[str, dict[str, np.ndarray]]:
    """Method -> node -> [R, n, f], n the pool of its modality."""
    out: dict[str, dict[str, np.ndarray]] = {}
    for name in played[0].statistics:
        method, _, node = name.rpartition("/")
        out.setdefault(method, {})[node] = np.stack([p.statistics[name].numpy() for p in played])
    everything: dict[str, list[np.ndarray]] = {}
    for method, of in out.items():
        for node, values in of.items() if method.startswith(ISOGRAM) else ():
            everything.setdefault(node, []).append(values)
    out[EVERYTHING] = {node: np.concatenate(values, 2) for node, values in everything.items()}
    return out


def _membership(
    game: Game, played: Sequence[Played], of: Mapping[str, np.ndarray], delta: float
) -> list[tuple[str, str, list[float]]]:
    modality = {node.name: node.modality for node in game.data.nodes}
    own = {node: values[:, game.places(modality[node])[node]] for node, values in of.items()}
    members = {node: np.stack([p.members[node].numpy() for p in played]) for node in of}
    score = membership.scores(own, members)
    real = {node: ~game.is_canary(node) for node in of}
    found = []
    for kind in dict.fromkeys(modality[node] for node in of):
        nodes = [node for node in of if modality[node] == kind]
        pairs = [_joined(score, members, nodes, real, r) for r in range(len(played))]
        found.append(("membership", kind, [membership.auc(s, m) for s, m in pairs]))
        found.append(("advantage", kind, [membership.advantage(s, m) for s, m in pairs]))
        found.append(("tpr", kind, [membership.at_false_positives(s, m, 0.01) for s, m in pairs]))
    for name, kept in (("rows", real), ("canaries", {node: ~real[node] for node in of})):
        pairs = [_joined(score, members, list(of), kept, r) for r in range(len(played))]
        if len(pairs[0][0]):
            found.append((f"epsilon-{name}", "", membership.epsilon_bounds(pairs, delta)))
            if name == "canaries":
                found.append(("canaries", "", [membership.auc(s, m) for s, m in pairs]))
    return found


def _joined(
    score: Mapping[str, np.ndarray],
    members: Mapping[str, np.ndarray],
    nodes: Sequence[str],
    kept: Mapping[str, np.ndarray],
    replay: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and coins of the rows kept, of some nodes."""
    return (
        np.concatenate([score[node][replay][kept[node]] for node in nodes]),
        np.concatenate([members[node][replay][kept[node]] for node in nodes]),
    )


def _attributes(
    game: Game, played: Sequence[Played], of: Mapping[str, np.ndarray], classes: int
) -> list[tuple[str, str, list[float]]]:
    """Sites and mixes of each modality that has two nodes or more, by rows that were not in."""
    found = []
    for modality in game.data.modalities:
        nodes = [node.name for node in game.members(modality) if node.name in of]
        if len(nodes) < 2 or all(np.array_equal(of[nodes[0]], of[node]) for node in nodes):
            continue  # what is common to all nodes tells none from another
        sites, mixes, truth = [], [], []
        for r, p in enumerate(played):
            now = {node: of[node][r] for node in nodes}
            out = {n: _places_out(game, modality, n, p) for n in nodes}
            sites.append(attributes.table(now, list(out.values())))
            labels = np.concatenate([game.labels[n.name] for n in game.members(modality)])
            free = np.concatenate(list(out.values()))
            of_class = [free[labels[free] == c] for c in range(classes)]
            if all(len(rows) for rows in of_class) and classes > 1:
                mixes.append(attributes.table(now, of_class))
                kept = [i for i, node in enumerate(game.members(modality)) if node.name in nodes]
                now_in = {name: own.numpy() for name, own in p.members.items()}
                truth.append(attributes.truth(game, now_in, modality, classes)[kept])
        found.append(("site", modality, attributes.sites_named(sites)))
        if len(mixes) > 2:
            found.append(("mix", modality, attributes.mix_told(mixes, truth)))
    return found


def _places_out(game: Game, modality: str, node: str, played: Played) -> np.ndarray:
    free = ~played.members[node].numpy() & ~game.is_canary(node)
    return game.places(modality)[node].start + np.flatnonzero(free)


def _grams(game: Game, modality: str, config: Config) -> list[tuple[str, str, float]]:
    """What Grams of one modality's anchors give away, of one node's rows."""
    node = game.members(modality)[0]
    real = torch.from_numpy(~game.is_canary(node.name))
    anchors = flat_rows(game.data.anchors.items[modality].tokens)
    out = [(GRAMS, "up to rotation", grams.rotation_error(anchors, config))]
    found = grams.private_scale(anchors, flat_rows(node.tokens)[real], config.align.rho) or {}
    for name, (error, auc) in found.items():
        method = GRAMS if name == "anchors" else PRIVATE_SCALES
        out += [(method, f"scale error, by {name}", error), (method, f"scale membership, by {name}", auc)]
    return out


def _about(config: Config, canaries: int, seed: int) -> dict[str, object]:
    settings = config.model_dump(mode="json", exclude={"name", "output", "threads"})
    return {"settings": settings, "canaries": canaries, "seed": seed, "isogram": version("isogram")}


def _file(folder: Path, number: int) -> Path:
    return folder / f"replay-{number:03d}.safetensors"


def _is_kept(folder: Path, number: int, about: dict[str, object]) -> bool:
    path = _file(folder, number)
    return path.exists() and read_tensors(path)[1]["about"] == json.loads(json.dumps(about))


def _play_and_keep(config: Config, canaries: int, seed: int, folder: Path, number: int) -> None:
    torch.set_num_threads(1)
    found = play(Game.of(open_data(config), canaries, seed), config, number)
    tensors = {f"statistics|{k}": v for k, v in found.statistics.items()}
    tensors |= {f"members|{k}": v for k, v in found.members.items()}
    header = {"about": _about(config, canaries, seed), "figures": found.figures, "digests": found.digests}
    write_tensors(_file(folder, number), tensors, header)


def _kept(folder: Path, number: int) -> Played:
    tensors, header = read_tensors(_file(folder, number))
    out = Played(figures=header["figures"], digests=header["digests"])
    for name, value in tensors.items():
        kind, _, key = name.partition("|")
        (out.statistics if kind == "statistics" else out.members)[key] = value
    return out
