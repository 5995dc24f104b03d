"""A run between machines as people see it: rounds, and where each node is."""

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

_STYLE = {"ready": "green", "training": "cyan", "late": "yellow", "lost": "red"}


def board(state: dict[str, Any]) -> Group:
    """Of what `runs.read_state` gives."""
    table = Table(box=None, pad_edge=False)
    for name in ("node", "modality", "is", "sent", "received", ""):
        table.add_column(name, justify="right" if name in ("sent", "received") else "left")
    for name, node in state["nodes"].items():
        style = _STYLE.get(node["is"], "")
        table.add_row(
            name, node["modality"], Text(node["is"], style), _size(node["sent"]), _size(node["got"]), node["why"][:200]
        )
    return Group(Text(headline(state)), table)


def headline(state: dict[str, Any]) -> str:
    """One line: the run, and how far it is."""
    if state["complete"]:
        how = "complete"
        if state["untold"]:
            how += f"; {', '.join(state['untold'])} were away at its end: bring them back, then `isogram deploy resume`"
    elif state["round"] is None:
        how = "aligning"
    else:
        how = f"round {state['round']} of {state['rounds']} done"
    attempt = state.get("attempt", 0)
    return f"run {state['run']}: {how}" + (f", gone on with {attempt} times" if attempt else "")


def _size(n: int) -> str:
    return f"{n / 1000:,.1f} kB" if n < 1_000_000 else f"{n / 1e6:,.1f} MB"
