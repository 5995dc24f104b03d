"""What each section of a run's page shows, or None where its files are not there yet."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from markupsafe import Markup

from isogram.doctor import LEVELS
from isogram.report import audit_tables, figures, words
from isogram.report.record import Json, Record
from isogram.report.tables import Results, probability, short, size

MOST_POINTS, MOST_EXAMPLES, MOST_ENTRIES = 400, 12, 20
"""Points of a panel of the map, queries, and lines of one of the doctor's tables: the page shows no more."""


def table(identity: str, caption: str, columns: Mapping[str, bool], rows: Iterable[Sequence[str]]) -> Json:
    """A plain table: column -> whether it holds numbers; rows start with their own name."""
    return {"id": identity, "caption": caption, "columns": list(columns.items()), "rows": list(rows)}


def panel(title: str, svg: Markup, what: str = "") -> Json:
    """One chart of a figure, with its heading."""
    return {"title": title, "svg": svg, "what": what}


def results(run: Record) -> Json | None:
    """Methods by metrics; the best of each column, the bounds aside, is marked. Below, who could not be run and why."""
    missing = [f"{method}: not run: {reason}" for method, reason in run.run.get("not_run", {}).items()]
    if not run.methods and not missing:
        return None
    columns: list[tuple[str, str, str | None]] = [("R@1", "r1", None), ("R@10", "r10", None)]
    for metric, name in (("pam50", "PAM50"), ("accuracy", "accuracy")):
        found = run.results.directions(run.dataset, metric)
        columns += [(f"{name} {way.replace(':elsewhere', ', labelled elsewhere')}", metric, way) for way in found]
    columns = [c for c in [*columns, ("CKA", "cka", None)] if run.results.directions(run.dataset, c[1])]
    best = []
    for _, metric, way in columns:
        rivals = [run.figure(m, metric, way) for m in run.methods if m.partition("@")[0] not in words.BOUNDS]
        best.append(max((value for value in rivals if value is not None), default=None))
    lines = []
    for method in run.methods:
        name = method.partition("@")[0]
        kind = "own" if method == run.own else "aside" if name in words.BOUNDS else ""
        cells = []
        for (_, metric, way), top in zip(columns, best, strict=True):
            text = decimals(run.figure(method, metric, way))
            cells.append({"text": text, "best": kind != "aside" and text == decimals(top) != "–"})
        sent = run.results.mean(run.dataset, method, run.anchors, "bytes_per_node")
        seconds = run.results.mean(run.dataset, method, run.anchors, "seconds")
        rest = {"sent": size(sent), "seconds": "–" if seconds is None else f"{seconds.mean:.1f}"}
        lines.append({"method": method, "what": words.METHODS.get(name, ""), "kind": kind, "cells": cells} | rest)
    ways = run.results.directions(run.dataset, "r1")
    by_way = [[method, *(decimals(run.figure(method, "r1", way)) for way in ways)] for method in run.methods]
    head = {"method": False} | {way.replace("->", " → "): True for way in ways}
    return {
        "columns": [name for name, _, _ in columns],
        "lines": lines,
        "measured": words.measured(run.scope, run.dataset),
        "chance": [decimals(run.scope.chance(metric, way)) for _, metric, way in columns],
        "by_way": table("by-way", "", head, by_way) if len(ways) > 1 else None,
        "paired": bool(ways),
        "notes": [*missing, *run.run.get("notes", [])],
    }


def audit(run: Record) -> Json | None:
    """What attacks make of the messages, and how that compares with sharing prototypes."""
    if not run.audit:
        return None
    attacked, dataset, anchors = Results(run.audit), run.audit[0].dataset, run.audit[0].anchors
    found = audit_tables.lines(attacked, dataset, anchors, audit_tables.with_interval)
    heads = {"what is attacked": False} | dict.fromkeys(audit_tables.COLUMNS, True)
    against = audit_tables.claims(attacked, dataset, anchors)
    return {
        "table": table("audit-table", "", heads, found),
        "columns": [(name, what) for name, (_, what) in audit_tables.COLUMNS.items()],
        "repeated": audit_tables.repeated(attacked, dataset, anchors),
        "stated": audit_tables.stated(attacked, dataset, anchors),
        "claims": table("audit-claims", "", audit_tables.AGAINST, against) if against else None,
    }


def verdict(found: Json) -> str:
    """The doctor's, in two words."""
    levels = [finding["level"] for finding in found.get("findings", [])]
    worst = next((level for level in ("error", "refusal", "warning") if level in levels), None)
    return "no objection" if worst is None else words.count(levels.count(worst), worst)


def doctor(run: Record) -> Json | None:
    """Findings, worst first, and the doctor's tables with the columns that they have."""
    if not run.doctor:
        return None
    worst = {level: place for place, level in enumerate(LEVELS)}
    findings = sorted(run.doctor.get("findings", []), key=lambda finding: worst.get(finding["level"], len(worst)))
    tables = []
    for name, (caption, headings) in words.DOCTOR.items():
        entries = [_entry(entry, headings) for entry in run.doctor.get(name) or []]
        if entries and not (name == "groups" and len(entries) == 1):
            told = f", the first {MOST_ENTRIES} of {len(entries)}" if len(entries) > MOST_ENTRIES else ""
            columns = {heading: any(_is_number(entry[key]) for entry in entries) for key, heading in headings.items()}
            rows = [[_cell(value) for value in entry.values()] for entry in entries[:MOST_ENTRIES]]
            tables.append(table(f"doctor-{name}", caption + told, columns, rows))
    return {
        "verdict": verdict(run.doctor),
        "findings": [finding | {"sign": LEVELS.get(finding["level"], "·")} for finding in findings],
        "tables": tables,
    }


def _entry(given: Json | list[object], keys: Iterable[str]) -> Json:
    """One of the doctor's entries under the keys of its table; figures of an untested pair say nothing."""
    entry = given if isinstance(given, dict) else dict(zip(keys, given, strict=False))
    if "a" in entry and "b" in entry:
        entry = entry | {"modalities": f"{entry['a']} – {entry['b']}"}
    untested = entry.get("verdict") == "untested"
    return {key: None if untested and isinstance(entry.get(key), float) else entry.get(key) for key in keys}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float) and 0 < value < 5e-4:
        return probability(value)
    if isinstance(value, float):
        return decimals(value, 1 if abs(value) > 1 else 3)
    return ", ".join(map(str, value)) if isinstance(value, list) else f"{value:,}" if _is_number(value) else str(value)


def cka(run: Record) -> Json | None:
    """A heat map a stage, and the means over the nodes of each pair of modalities."""
    given = run.evaluation.get("cka") or {}
    names, kind = given.get("nodes", []), run.modality
    order = sorted(range(len(names)), key=lambda i: list(kind).index(names[i]) if names[i] in kind else len(kind))
    kinds = [kind.get(names[i], "") for i in order]
    groups = {k: kinds.count(k) for k in dict.fromkeys(kinds)}
    stages = {stage: [[given[stage][i][j] for j in order] for i in order] for stage in words.STAGES if stage in given}
    if not names or not stages:
        return None
    pairs = [(a, b) for n, a in enumerate(groups) for b in list(groups)[n:]]

    def between(values: Sequence[Sequence[float | None]], a: str, b: str) -> str:
        cells = [values[i][j] for i in range(len(order)) for j in range(i) if {kinds[i], kinds[j]} == {a, b}]
        known = [cell for cell in cells if cell is not None]
        return decimals(fmean(known), 2) if known else "–"

    panels = []
    for stage, values in stages.items():
        told = ", ".join(f"{a} with {b} {between(values, a, b)}" for a, b in pairs)
        alt = f"CKA between {words.count(len(names), 'node')}, {words.STAGES[stage].lower()}. Means: {told}."
        svg = figures.heat_map(f"cka-{stage}", alt, [names[i] for i in order], groups, values)
        panels.append(panel(words.STAGES[stage], svg))
    rows = [[f"{a} – {b}", *(between(v, a, b) for v in stages.values())] for a, b in pairs]
    rows = [row for row in rows if set(row[1:]) != {"–"}]
    head = {"modalities": False} | {words.STAGES[stage].lower(): True for stage in stages}
    return {
        "panels": panels,
        "gradient": figures.gradient(),
        "pairs": table("cka-pairs", "Means over pairs of different nodes", head, rows) if rows else None,
        "on": given.get("on", run.evaluation.get("on", "held-out rows")),
    }


def plane(run: Record) -> Json | None:
    """The map: a panel a modality on common axes, and one legend."""
    classes, given = run.evaluation.get("classes", []), run.evaluation.get("map") or {}
    points = {m: list(zip(at["x"], at["y"], at["label"], strict=True)) for m, at in given.items() if at["x"]}
    if not points:
        return None
    everything = [point for at in points.values() for point in at]
    limits = [(min(along), max(along)) for along in list(zip(*everything, strict=True))[:2]]
    panels = []
    for number, modality in enumerate(sorted(points, key=_order(run))):
        at = points[modality]
        thin = at[:: math.ceil(len(at) / MOST_POINTS)]
        known = len({kind for _, _, kind in at if kind >= 0})
        told = f"{len(thin):,} of {len(at):,} rows" if len(thin) < len(at) else words.count(len(at), "row")
        alt = f"Map of {modality}: {told}, {words.count(known, 'class', 'classes') if known else 'classes unknown'}."
        svg = figures.scatter(f"map-{number}", alt, thin, limits)
        panels.append(panel(modality, svg, told if known else f"{told}, classes unknown"))
    seen = sorted({max(kind, -1) for _, _, kind in everything}, key=lambda kind: (kind < 0, kind))
    legend = [(classes[kind] if 0 <= kind < len(classes) else "unknown", figures.class_key(kind)) for kind in seen]
    known = any(kind >= 0 for kind in seen)
    return {"panels": panels, "legend": legend, "known": known, "on": run.evaluation.get("on", "held-out rows")}


def _order(run: Record) -> Callable[[str], int]:
    place = {modality: i for i, modality in enumerate(dict.fromkeys(run.modality.values()))}
    return lambda modality: place.get(modality, len(place))


def examples(run: Record) -> Json | None:
    """Queries in one modality, and what is nearest to them in another."""
    given = run.evaluation.get("examples") or []
    paired = bool(run.evaluation.get("paired"))
    thin = given[:: math.ceil(len(given) / MOST_EXAMPLES)] if given else []
    return {"shown": thin, "right": "same row" if paired else "same class", "paired": paired} if thin else None


def curves(run: Record) -> Json | None:
    """One panel a loss term, with means over nodes and of each modality."""
    terms: dict[str, dict[str, dict[int, float]]] = {}
    seconds = [m["value"] for m in run.metrics if m["metric"] == "seconds" and m["round"]]
    for entry in run.metrics:
        kind, _, term = entry["metric"].partition("/")
        if kind == "loss":
            terms.setdefault(term, {}).setdefault(entry["node"], {})[entry["round"]] = entry["value"]
    kinds, known = list(dict.fromkeys(run.modality.values())), list(words.TERMS)
    panels: list[Json] = []
    for term in sorted(terms, key=lambda term: known.index(term) if term in known else len(known)):
        mean = _mean(terms[term].values())
        parts = [_mean(line for node, line in terms[term].items() if run.modality.get(node) == k) for k in kinds]
        (first, start), (last, end) = min(mean.items()), max(mean.items())
        alt = f"Loss term {term}, mean over nodes: {start:.3g} in round {first}, {end:.3g} in round {last}."
        svg = figures.curves(f"loss-{len(panels)}", alt, mean, parts)
        panels.append(panel(term, svg, words.TERMS.get(term, "")))
    legend = [("mean over nodes", figures.line_key(None)), *((k, figures.line_key(i)) for i, k in enumerate(kinds))]
    mean_seconds = fmean(seconds) if seconds else None
    return {"panels": panels, "legend": legend, "seconds": mean_seconds} if panels else None


def left_out(run: Record) -> Json | None:
    """Why answers of nodes did not count, a line each, and how often."""
    times = Counter(str(text) for text in run.run.get("refused", []))
    lines = [f"{text} ({words.count(n, 'time')})" if n > 1 else text for text, n in times.items()]
    return {"lines": lines} if lines else None


def _mean(lines: Iterable[Mapping[int, float]]) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for line in lines:
        for round, value in line.items():
            found.setdefault(round, []).append(value)
    return {round: fmean(found[round]) for round in sorted(found)}


def traffic(run: Record) -> Json | None:
    """Bytes per node by part, direction and phase: rounds 0 and 1 of the protocol are alignment."""
    if not run.messages:
        return None
    among = len({entry["node"] for entry in run.messages})
    found: dict[str, dict[tuple[str, str], float]] = {}
    for entry in run.messages:
        cells = found.setdefault(words.FIELDS.get(entry["field"].partition("/")[0], "other fields"), {})
        key = ("alignment" if entry["round"] < 2 else "training", entry["direction"])
        cells[key] = cells.get(key, 0.0) + entry["bytes"] / among
    parts = [(number, part) for number, part in enumerate(words.PARTS) if part in found]
    ways, used = {"up": "sent", "down": "received"}, {phase for cells in found.values() for phase, _ in cells}
    phases = [phase for phase in ("alignment", "training") if phase in used]
    panels = []
    for phase in phases:
        bars = {told: {n: found[p].get((phase, way), 0.0) / 1000 for n, p in parts} for way, told in ways.items()}
        told = " and ".join(f"{sum(bar.values()):,.1f} {way}" for way, bar in bars.items())
        svg = figures.stacked(f"bytes-{phase}", f"kB per node in {phase}: {told}; by part in the table.", bars)
        panels.append(panel(phase.capitalize(), svg))
    keys = [(phase, way) for phase in phases for way in ways]
    return {
        "panels": panels,
        "heads": [f"{phase}, {ways[way]}" for phase, way in keys],
        "legend": [(part, figures.swatch(number)) for number, part in parts],
        "lines": [(part, words.PARTS[part], [kilobytes(found[part].get(key, 0)) for key in keys]) for _, part in parts],
        "total": [kilobytes(sum(cells.get(key, 0) for cells in found.values())) for key in keys],
    }


def nodes(run: Record) -> Json | None:
    """Who takes part, with what, and how much crossed each one's boundary."""
    sent, received, by_name = run.bytes("up"), run.bytes("down"), {n["name"]: n for n in run.run.get("nodes", [])}
    rows = []
    for name, modality in run.modality.items():
        node, sizes = by_name[name], [kilobytes(total[name]) for total in (sent, received)]
        count = "–" if node["rows"] is None else f"{node['rows']:,}"
        rows.append([name, modality, count, *sizes, ", ".join(node["classes"]) or "none"])
    numbers = {"private rows": True, "kB sent": True, "kB received": True}
    columns = {"node": False, "modality": False, **numbers, "classes that it labels": False}
    return table("who", "", columns, rows) if rows else None


def environment(run: Record) -> Json | None:
    """What the run ran on, packages last."""
    plain = [(key, str(value)) for key, value in run.environment.items() if key != "packages"]
    packages = [(name, str(version)) for name, version in run.environment.get("packages", {}).items()]
    return table("environment", "", {"name": False, "value": False}, plain + packages) if plain else None


def decimals(value: float | None, digits: int = 3) -> str:
    """A figure as all tables print it."""
    return "–" if value is None or math.isnan(value) else short(value, digits)


def kilobytes(value: float) -> str:
    """Bytes in kB; none at all is a dash."""
    return f"{value / 1000:,.1f}" if value else "–"


ALL: dict[str, Callable[[Record], Json | None]] = {
    "results": results,
    "audit": audit,
    "doctor": doctor,
    "cka": cka,
    "plane": plane,
    "examples": examples,
    "curves": curves,
    "left_out": left_out,
    "traffic": traffic,
    "nodes": nodes,
    "environment": environment,
}
