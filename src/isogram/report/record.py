"""What a run has left in its folder so far, for its page: whatever is not there yet is empty."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isogram.bench import Row, read_rows
from isogram.data.base import UNLABELLED
from isogram.errors import RunError
from isogram.evaluation import Scope
from isogram.report.tables import Results
from isogram.run_folder import (
    AUDIT,
    CONFIG,
    DOCTOR,
    ENVIRONMENT,
    EVALUATION,
    MESSAGES,
    METRICS,
    RESULTS,
    STATE,
    read_json,
)

Json = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """The files of a run's folder, read; dataset and anchors as the rows of the table name them."""

    config: str
    environment: Json
    run: Json
    doctor: Json
    evaluation: Json
    messages: list[Json]
    metrics: list[Json]
    results: Results
    audit: list[Row]
    dataset: str
    anchors: int

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """The files of one folder.

        Raises:
            RunError: it holds no run, or a file is damaged.
            DataError: a line of the table is.
        """
        if not any((folder / name).exists() for name in (CONFIG, STATE)):
            raise RunError(f"{folder} holds no run: neither {CONFIG} nor {STATE} is there; name a run's folder")
        config, run = _text(folder / CONFIG), _json(folder / STATE)
        try:
            tomllib.loads(config)
        except tomllib.TOMLDecodeError as error:
            raise RunError(f"{folder / CONFIG} is not TOML: {error}; the run folder is damaged") from error
        table = folder / RESULTS
        rows = read_rows([table]) if table.exists() else []
        audit = read_rows([folder / AUDIT]) if (folder / AUDIT).exists() else []
        return cls(
            config=config,
            environment=_json(folder / ENVIRONMENT),
            run=run,
            doctor=_json(folder / DOCTOR),
            evaluation=_json(folder / EVALUATION),
            messages=_lines(folder / MESSAGES),
            metrics=_lines(folder / METRICS),
            results=Results(rows),
            audit=audit,
            dataset=rows[0].dataset if rows else str(run.get("data", "")),
            anchors=rows[0].anchors if rows else int(run.get("anchors", 0)),
        )

    @property
    def modality(self) -> dict[str, str]:
        """Of each node, the nodes of one modality side by side."""
        found = {str(node["name"]): str(node["modality"]) for node in self.run.get("nodes", [])}
        order = list(dict.fromkeys(found.values()))
        return dict(sorted(found.items(), key=lambda entry: order.index(entry[1])))

    @property
    def methods(self) -> list[str]:
        """Those of the table."""
        return self.results.methods(self.dataset)

    @property
    def own(self) -> str | None:
        """The method that this run is; its start, the one-shot alignment, is `start`."""
        return self._first("isogram") or self.start

    @property
    def start(self) -> str | None:
        """What this run trains from, aligned as it is set to be; in folders of version 0.3, one-shot alignment."""
        learnt = tomllib.loads(self.config).get("align", {}).get("metric", True)
        return self._first("closed-form") or self._first("oneshot-hsic" if learnt else "oneshot")

    def _first(self, name: str) -> str | None:
        return next((method for method in self.methods if method.partition("@")[0] == name), None)

    def figure(self, method: str, metric: str, direction: str | None = None) -> float | None:
        """One of the table's; None is the mean over directions."""
        found = self.results.mean(self.dataset, method, self.anchors, metric, direction)
        return None if found is None else found.mean

    @property
    def scope(self) -> Scope:
        """What its figures are measured on."""
        held = self.evaluation if self.evaluation.get("on", "held-out rows") == "held-out rows" else {}
        paired, of = bool(held.get("paired")), {m: at["label"] for m, at in (held.get("map") or {}).items()}
        rows = {m: len(labels) for m, labels in of.items() if paired or max(labels, default=UNLABELLED) != UNLABELLED}
        classes = {name for node in self.run.get("nodes", []) for name in node.get("classes", [])}
        return Scope(rows, paired, len(classes))

    def bytes(self, direction: str) -> Mapping[str, int]:
        """Of each node, what went "up" from it or "down" to it."""
        total = dict.fromkeys(self.modality, 0)
        for entry in self.messages:
            if entry["direction"] == direction:
                total[entry["node"]] = total.get(entry["node"], 0) + entry["bytes"]
        return total


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read {path}: {error}; the run folder is damaged") from error


def _json(path: Path) -> Json:
    found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise RunError(f"{path} holds no JSON object; the run folder is damaged")
    return found


def _lines(path: Path) -> list[Json]:
    """One object a line; a last line that was cut off by an interruption is left out."""
    *whole, _ = _text(path).split("\n")
    found = []
    for number, line in enumerate(whole, 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise RunError(f"{path}, line {number}: {error}; the run folder is damaged") from error
    return found
