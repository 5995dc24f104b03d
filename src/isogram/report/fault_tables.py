"""What becomes of a run that is harmed: a table from the rows of `benchmarks/faults.py`."""

from isogram.report.tables import Results, markdown

_FAULTS = {
    "node": "kill -9 of a node and its worker",
    "worker": "kill -9 of a worker alone",
    "client process": "kill -9 of the engine's process for one message",
    "process of the run": "kill -9 of the run's process at the server",
    "server": "kill -9 of the server",
    "server and nodes": "kill -9 of the server, all nodes and workers",
    "NaN": "a node answers NaN",
    "hang": "a node hangs",
}
_ENDED = {"model": "a model", "error": "an error", "hang": "nothing in time"}
"""Of `benchmarks/faults.py`, in words."""

_HARMED = "deployed"


def fault_blocks(results: Results) -> dict[str, str]:
    """The table of docs/deploy.md, by name."""
    lines = []
    for fault, title in _FAULTS.items():
        name = f"faults:{fault}"
        ended = {
            how: len(results.per_seed(name, _HARMED, 0, "ended", how)) for how in results.directions(name, "ended")
        }
        if not ended:
            continue
        found = {
            metric: results.per_seed(name, _HARMED, 0, metric, "")
            for metric in ("took", "bound", "rounds_lost", "absent", "same")
        }
        seconds, bound = found["took"].values(), max(found["bound"].values())
        full = [same for number, same in found["same"].items() if not found["absent"][number]]
        lines.append(
            [
                title,
                ", ".join(f"{_ENDED.get(how, how)} ({count})" for how, count in sorted(ended.items(), reverse=True)),
                f"{min(seconds):.0f}–{max(seconds):.0f} s of {bound:.0f} s",
                f"{sum(found['rounds_lost'].values()):.0f}",
                f"{sum(full):.0f} of {len(full)}" if full else "–",
            ]
        )
    header = [
        "in the second round",
        "ended with (runs)",
        "after, of at most",
        "complete rounds lost",
        "bits of a run unharmed",
    ]
    return {"faults": markdown(header, lines)}
