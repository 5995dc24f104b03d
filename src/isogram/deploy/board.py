"""A run between machines as people see it: rounds, and where each node is."""

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

_STYLE = {"ready": "green", "training": "cyan", "late": "yellow", "lost": "red"}


def board(state: dict[str, Any], going: bool = True) -> Group:
    """Of what `runs.read_state` gives; nobody is training in a run that does not go on."""
    table = Table(box=None, pad_edge=False)
    for name in ("node", "modality", "is", "sent", "received", ""):
        table.add_column(name, justify="right" if name in ("sent", "received") else "left")
    for name, node in state["nodes"].items():
        how = node["is"] if going or node["is"] != "training" else "stopped"
        table.add_row(
            name,
            node["modality"],
            Text(how, _STYLE.get(how, "")),
            _size(node["sent"]),
            _size(node["got"]),
            node["why"][:200],
        )
    since = [Text("sent and received: since it was resumed")] if state.get("attempt", 0) > 0 and state["nodes"] else []
    return Group(Text(headline(state, going)), table, *since)


def headline(state: dict[str, Any], going: bool = True) -> str:
    """One line: the run, and how far it is."""
    if state["complete"]:
        how = "complete"
        if state["untold"]:
            how += f"; {', '.join(state['untold'])} were away at its end: bring them back, then `isogram deploy resume`"
    elif state["round"] is None:
        how = "aligning"
    else:
        how = f"round {state['round']} of {state['rounds']} done"
    if not going:
        how += ", stopped"
    times = state.get("attempt", 0)
    resumed = f", resumed {'once' if times == 1 else f'{times} times'}" if times > 0 else ""
    return f"run {state['run']}: {how}{resumed}"


def _size(n: int) -> str:
    return f"{n / 1000:,.1f} kB" if n < 1_000_000 else f"{n / 1e6:,.1f} MB"
