"""`report.html`: one self-contained page of a run, made from its folder alone, also while the run is unfinished.

Here is what stands on top; `sections` makes the rest, and the template lays it out and escapes all that comes from a
file.
"""

import shlex
import tomllib
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from isogram.config import FILES, SILOS
from isogram.files import write_atomic
from isogram.report import sections, words
from isogram.report.record import Json, Record
from isogram.run_folder import CONFIG, REPORT

_METRICS = {"r1": "R@1", "pam50": "PAM50 accuracy", "accuracy": "accuracy"}
"""What a run is judged by, first of all; the first of these that it has, or the last one if it is to classify."""


def write_page(folder: Path, *, live: bool = False) -> Path:
    """Write `report.html` into a run's folder, over an older one; a `live` one is loaded again by the browser.

    Raises:
        RunError, DataError: the folder holds no run, or a file of it is damaged.
        StorageError: it cannot be written.
    """
    path = folder / REPORT
    write_atomic(path, page(Record.read(folder), live=live).encode())
    return path


def page(run: Record, *, live: bool = False) -> str:
    """The page as HTML: the same record gives the same text."""
    templates = Environment(
        loader=PackageLoader("isogram.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["decimals"] = sections.decimals
    return templates.get_template("page.html.jinja").render(
        live=live,
        head=head(run),
        keys=keys(run),
        config=run.config,
        again=again(run),
        **{name: make(run) for name, make in sections.ALL.items()},
    )


def head(run: Record) -> Json:
    """Name, what the run is, how far it has come."""
    modality, rounds = run.modality, run.run.get("rounds", 0)
    who = words.count(len(modality), "node") + ("" if run.dataset in ("", FILES, SILOS) else f" of {run.dataset}")
    kinds = words.listed(list(dict.fromkeys(modality.values()))) if modality else ""
    how = f"through {words.count(run.run.get('anchors', 0), 'public anchor')}"
    goal = {"pairs": ", to find partners", "classes": ", to classify"}.get(run.run.get("goal", ""), "")
    how += f" and trains them for {words.count(rounds, 'round')}{goal}" if rounds else ", without training"
    if run.run.get("complete"):
        state = "complete"
    elif not run.messages:
        state = "unfinished: nothing is aligned yet"
    else:
        state = (
            f"unfinished: round {run.run.get('round', 0)} of {rounds}" if rounds else "unfinished: not evaluated yet"
        )
    started = str(run.environment.get("started", ""))
    return {
        "name": run.run.get("name") or run.dataset or "run",
        "what": f"This run aligns {who} with {kinds} {how}" if modality else "",
        "fit": run.run.get("fit", ""),
        "state": state,
        "complete": bool(run.run.get("complete")),
        "seconds": run.run.get("seconds"),
        "started": f"{started[:10]} {started[11:16]}{' UTC' if started.endswith('+00:00') else ''}".strip(),
        "version": run.environment.get("isogram", ""),
    }


def again(run: Record) -> str:
    """The command that makes the same run anew."""
    settings = tomllib.loads(run.config)
    name = run.run.get("name") or settings.get("name") or "NAME"
    path = Path(settings.get("output", {}).get("folder", "runs")) / name / CONFIG
    return shlex.join(["isogram", "run", str(path), "--set", f"name={name}-again"])


def keys(run: Record) -> list[Json]:
    """The strip under the headline: value, name, what to compare it with."""
    modality, out = run.modality, [*_judged(run)]
    if modality:
        beside = words.count(len(set(modality.values())), "modality", "modalities")
        if all(node["rows"] is not None for node in run.run["nodes"]):
            beside += f", {sum(node['rows'] for node in run.run['nodes']):,} private rows"
        out.append(_key(str(len(modality)), "node" if len(modality) == 1 else "nodes", beside))
    if "anchors" in run.run:
        beside = f"{len(run.doctor.get('suspects', [])) or 'none'} suspicious" if run.doctor else ""
        out.append(_key(f"{run.run['anchors']:,}", "public anchors", beside))
    if run.messages:
        sent = run.bytes("up")
        first = sum(entry["bytes"] for entry in run.messages if entry["direction"] == "up" and entry["round"] < 2)
        beside = f"{first / len(sent) / 1000:,.1f} kB of it for alignment"
        name = "sent by a node" if run.run.get("complete") else "sent by a node so far"
        out.append(_key(f"{sum(sent.values()) / len(sent) / 1000:,.0f} kB", name, beside))
    if privacy := run.run.get("privacy"):
        beside = f"at δ = {privacy['delta']:g}, for {privacy['unit']}; noise {privacy['noise']}"
        out.append(_key(f"{privacy['epsilon']:.2f}", "ε spent", beside))
    if run.doctor:
        out.append(_key(sections.verdict(run.doctor), "from the doctor", "before the run"))
    return out


def _judged(run: Record) -> list[Json]:
    own, start = run.own, run.start
    order = [*_METRICS][:: -1 if run.run.get("goal") == "classes" else 1]
    metric = next((m for m in order if own is not None and run.figure(own, m) is not None), None)
    if own is None or metric is None:
        return []
    beside = [] if start is None or start == own else [f"before rounds {sections.decimals(run.figure(start, metric))}"]
    chance = run.scope.chance(metric)
    beside += [] if chance is None else [f"chance {sections.decimals(chance)}"]
    name = f"{_METRICS[metric]} after {'one-shot alignment' if own == start else 'training'}"
    return [_key(sections.decimals(run.figure(own, metric)), name, ", ".join(beside))]


def _key(value: str, name: str, beside: str) -> Json:
    return {"value": value, "name": name, "beside": beside}
