"""A run's folder: what stands in it, who may write there, and whether a run belongs to it.

config.toml        every setting               messages.jsonl     every array that crossed a boundary
environment.json   versions, threads           metrics.jsonl      loss terms per node and round, seconds
doctor.json        the doctor's findings       results.jsonl      the table, as tidy rows
run.json           how far it has come         evaluation.json    what the page shows of held-out rows
egress.jsonl       what left each node, hashed model.safetensors  the final model
checkpoints/       one file a round            report.html        the page
audit.jsonl        what attacks found          audit/             its replays
noise.key          secret of the noise under differential privacy; removed when the run is complete
"""

import hashlib
import json
import os
import platform
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isogram.accountant import card
from isogram.config import Config
from isogram.config_file import read_config, to_toml
from isogram.data import FederatedData
from isogram.data.base import NodeData
from isogram.doctor import Diagnosis
from isogram.errors import RunError
from isogram.files import alone, temporary_files, write_atomic, writing
from isogram.model.saved import MODEL_FILE
from isogram.noise import secret_of

CONFIG, ENVIRONMENT, DOCTOR, STATE = "config.toml", "environment.json", "doctor.json", "run.json"
MESSAGES, METRICS, RESULTS, EVALUATION = "messages.jsonl", "metrics.jsonl", "results.jsonl", "evaluation.json"
EGRESS, CHECKPOINTS, MODEL, REPORT = "egress.jsonl", "checkpoints", MODEL_FILE, "report.html"
AUDIT, REPLAYS, NOISE = "audit.jsonl", "audit", "noise.key"

_PACKAGES = ("torch", "numpy", "scipy", "peft", "transformers", "safetensors", "scikit-learn", "pandas")


def check_folder(folder: Path, config: Config, resume: bool) -> None:
    """Whether a run of this configuration may begin here or, with `resume`, go on.

    Raises:
        RunError: it may not, and why.
    """
    if not (folder / CONFIG).exists():
        left = {*temporary_files(folder), *temporary_files(folder / CHECKPOINTS)}
        inside = [*folder.glob("*"), *(folder / CHECKPOINTS).glob("*")]
        strange = [p.name for p in sorted(inside) if p.name not in _OWN and p not in left]
        if strange:
            raise RunError(f"{folder} is no run folder but holds {strange[0]}; use another name or output.folder")
        return
    if not resume:
        raise RunError(
            f"{folder} holds a run already; go on with it by --resume, or use another name (--set name=NAME)"
        )
    # Folders of version 0.3 have every setting but the goal, and these are those of pairs.
    older = [] if re.search(r"^goal\b", (folder / CONFIG).read_text(encoding="utf-8"), re.M) else ["goal=pairs"]
    before, now = (_settings(c) for c in (read_config(folder / CONFIG, older), config))
    changed = [
        key for key in sorted(before | now, key=lambda key: (key != "goal", key)) if before.get(key) != now.get(key)
    ]
    if changed:
        told = ", ".join(f"{key} = {before.get(key)!r} there and {now.get(key)!r} now" for key in changed[:5])
        told += f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise RunError(f"{folder} is a run of another configuration: {told}; use another name, or the old settings")


_OWN = {CHECKPOINTS, ENVIRONMENT, DOCTOR, STATE, NOISE, ".lock"}
"""What may stand in a folder before its configuration: the traces of a run that was stopped while it began."""


def _settings(config: Config) -> dict[str, Any]:
    """Dotted settings that a run's results depend on."""

    def flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from flat(f"{prefix}{key}.", inner)
        else:
            yield prefix.rstrip("."), value

    return dict(flat("", config.model_dump(mode="json", exclude={"name", "output"})))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder for this process alone; a process that dies lets go of it.

    Raises:
        RunError: another one has it.
    """
    with alone(folder, f"another process works in {folder}; wait for it, or use another name"):
        for left in (*temporary_files(folder), *temporary_files(folder / CHECKPOINTS)):
            left.unlink(missing_ok=True)
        yield


def begin(folder: Path, config: Config, data: FederatedData, diagnosis: Diagnosis) -> None:
    """The files that say what the run is; the configuration last, as the sign that all others are there."""
    files = {ENVIRONMENT: _environment(config), DOCTOR: diagnosis.to_json(), STATE: state(config, data)}
    for name, value in files.items():
        write_json(folder / name, value)
    if config.privacy.epsilon:
        write_atomic(folder / NOISE, secret_of(config.privacy).hex().encode(), mode=0o600)
    write_atomic(folder / CONFIG, to_toml(config).encode())


def state(config: Config, data: FederatedData) -> dict[str, Any]:
    """What `run.json` says of a run before its first round; not rows and classes in numbers where these are private."""
    private = config.privacy.epsilon > 0
    return {
        "name": config.name,
        "round": 0,
        "rounds": config.train.rounds,
        "complete": False,
        "seconds": 0.0,
        "data": data.name if config.data == data.name else config.data,
        "anchors": len(data.anchors),
        "classes": list(data.classes),
        "nodes": [
            {
                "name": node.name,
                "modality": node.modality,
                "rows": None if private else len(node.tokens),
                "classes": _classes(data, node, private),
            }
            for node in data.nodes
        ],
        "notes": list(data.notes),
        "fingerprint": fingerprint(data),
        "sources": dict(data.sources),
    } | ({"privacy": card(config, 0)} if private else {})


def _classes(data: FederatedData, node: NodeData, private: bool) -> list[str]:
    if private:
        return [] if node.labels is None else list(data.classes)
    return [data.classes[c] for c in node.classes]


def _environment(config: Config) -> dict[str, Any]:
    packages = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "isogram": version("isogram"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "vector unit": torch.backends.cpu.get_cpu_capability(),
        "host cpus": os.cpu_count(),
        "threads": config.threads,
        "device": config.train.device,
        "run": secrets.token_hex(8),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "packages": packages,
    }


def run_id(folder: Path) -> str:
    """What no other run's messages say that they belong to; "" in a folder of a version before there was any.

    Raises:
        RunError: the folder is damaged.
    """
    return str(read_json(folder / ENVIRONMENT).get("run", ""))


def noise_secret(folder: Path) -> bytes | None:
    """The secret of the noise, or None where there is no more to be drawn or never was.

    Raises:
        RunError: the file is damaged, or is gone from a run that is not complete: drawn anew, noise would be another.
    """
    if not read_config(folder / CONFIG).privacy.epsilon or read_json(folder / STATE)["complete"]:
        return None
    try:
        return bytes.fromhex((folder / NOISE).read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {folder / NOISE}: {error}; the run cannot go on, use another name") from error


def forget_noise(folder: Path) -> None:
    """Remove the secret: with it and the messages somebody could take the noise away."""
    with writing(folder):
        (folder / NOISE).unlink(missing_ok=True)


def changes(folder: Path, config: Config) -> list[str]:
    """What of software and machine is not as it was when the run began, such as "torch 2.13.0, before 2.12.1"."""
    before, now = read_json(folder / ENVIRONMENT), _environment(config)
    pairs = {
        name: (before[name], now[name]) for name in ("isogram", "python", "platform", "vector unit") if name in before
    }
    pairs |= {name: (before["packages"].get(name), version) for name, version in now["packages"].items()}
    return [f"{name} {new}, before {old}" for name, (old, new) in pairs.items() if old != new]


def check_noise(folder: Path, config: Config) -> None:
    """Whether noise that a stopped run draws again is added to the very sums that it was added to before.

    Two sums that differ in their last bits under the same noise tell their difference bare.

    Raises:
        RunError: software or machine are others, or a device that does not repeat its sums had begun to send a round.
    """
    if not config.privacy.epsilon or read_json(folder / STATE)["complete"]:
        return
    why = ", ".join(changes(folder, config))
    if not why and config.train.device != "cpu" and (begun := _begun(folder)):
        why = f"{begun} had begun to send, and train.device = {config.train.device} does not repeat its sums to the bit"
    if why:
        raise RunError(
            f"{folder} cannot go on within its privacy.epsilon ({why}): the same noise would be under other sums; "
            "go on with what it began with, or use another name, which spends epsilon anew"
        )


def _begun(folder: Path) -> str:
    """What was being sent when the run was stopped, after its last checkpoint; "" if nothing was."""
    rounds = [int(path.stem.removeprefix("round-")) for path in (folder / CHECKPOINTS).glob("round-*.safetensors")]
    done = max(rounds, default=-1)
    # On the wire 0 and 1 are alignment, which is complete with checkpoint 0.
    if all(line["round"] <= done + 1 for line in left(folder)) and (rounds or not left(folder)):
        return ""
    return f"round {done + 1}" if rounds else "alignment"


def left(folder: Path) -> list[dict[str, Any]]:
    """What left the nodes, by `egress.jsonl`: of an array that left again, after an interruption, the last line.

    Raises:
        RunError: a line is damaged; half of one at the end is no line.
    """
    path, found = folder / EGRESS, {}
    try:
        for line in map(json.loads, path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else ()):
            if "resumed" not in line:
                found[line["node"], line["round"], line["kind"], line["field"]] = line
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"cannot read {path}: {error!r}; the run folder is damaged, use another name") from error
    return list(found.values())


def fingerprint(data: FederatedData) -> str:
    """Tells whether a run goes on with the data that it began with. It stays in the folder: no message carries it."""
    digest = hashlib.sha256(f"{data.anchors.hash}/{data.held_out.hash}".encode())
    for node in sorted(data.nodes, key=lambda node: node.name):
        digest.update(f"{node.name}/{node.modality}/{node.tokens.shape}".encode())
        digest.update(np.ascontiguousarray(node.tokens).tobytes())
        digest.update(b"" if node.labels is None else node.labels.tobytes())
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """A JSON file, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False).encode())


def read_json(path: Path) -> Any:
    """A JSON file of a run.

    Raises:
        RunError: it is absent or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}; the run folder is damaged, use another name") from error
