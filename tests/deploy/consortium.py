"""A consortium of three sites on this machine as its people run it: files, keys and commands; and who is killed.

Its anchors and private rows are planted (`tests/planted.py`), so that there is something to align.
"""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from loopback import until
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))

from planted import planted

from isogram import federation
from isogram.checkpoint import round_state
from isogram.data.anchor_set import hash_anchor_set
from isogram.data.silos.load import load_silos
from isogram.deploy.layout import ConsortiumFolder
from isogram.deploy.site import read_site
from isogram.engine.commands import free_port
from isogram.tensor_file import read_tensors

COMMAND = [sys.executable, "-c", "from isogram.cli import app; app()", "deploy"]

SITES = {"north": "a", "south": "b", "west": "c"}
OF = {"north": "a-1", "south": "b", "west": "c"}
"""Site -> what it holds of the planted federation; north has labels."""

NAME, CONSORTIUM = "three", "consortium.toml"

FILE = """
name = "{name}"
anchors = "{anchors}"
min_nodes = {min_nodes}
min_per_modality = 0

[server]
address = "localhost:{outside}"
listen = "127.0.0.1:{port}"

[waits]
join = {join}
answer = {answer}

[run]
seed = 3

[run.silos]
classes = ["x", "y", "z"]

[run.model]
width = 48
layers = 1

[run.train]
rounds = {rounds}
steps = 2
"""


def write_tables(folder: Path) -> None:
    """Rows of each site, and the anchor set: a table of numbers for each modality."""
    data = planted(n_anchors=30, private=40, seed=3)
    anchors = folder / "anchors"
    anchors.mkdir(parents=True)
    concepts = [f"c{number}" for number in range(len(data.anchors))]
    _write(anchors / "anchors.csv", ["concept"], [[one] for one in concepts])
    for modality, items in data.anchors.items.items():
        values = items.tokens.reshape(len(items.tokens), -1)
        names = [f"n{column}" for column in range(values.shape[1])]
        rows = [[one, *row] for one, row in zip(concepts, values.tolist(), strict=True)]
        _write(anchors / f"{modality}.csv", ["concept", *names], rows)
    for site, node in OF.items():
        own = next(one for one in data.nodes if one.name == node)
        rows = own.tokens.reshape(len(own.tokens), -1).tolist()
        names = [f"n{column}" for column in range(len(rows[0]))]
        if own.labels is not None:
            names.append("class")
            rows = [[*row, data.classes[label]] for row, label in zip(rows, own.labels, strict=True)]
        _write(folder / f"{site}.csv", names, rows)


def _write(path: Path, names: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


class Consortium:
    """A folder with data, keys and all that the consortium's machines have, and the commands that run.

    outside: port that sites connect to, where it is not the server's own.
    """

    def __init__(
        self,
        folder: Path,
        *,
        min_nodes: int = 3,
        rounds: int = 3,
        join: float = 180,
        answer: float = 120,
        outside: int | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:]), "COLUMNS": "300"}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        write_tables(folder)
        text = FILE.format(
            name=NAME,
            anchors=hash_anchor_set(folder / "anchors"),
            min_nodes=min_nodes,
            port=self.port,
            outside=outside or self.port,
            join=join,
            answer=answer,
            rounds=rounds,
        )
        for site, modality in SITES.items():
            text += f'\n[[sites]]\nname = "{site}"\nmodality = "{modality}"\n'
        for modality in SITES.values():
            text += f'\n[modalities.{modality}]\nkind = "table"\n'
        (folder / CONSORTIUM).write_text(text)
        self.paths = ConsortiumFolder(folder / NAME)
        self.command("init", folder / CONSORTIUM)
        for site in SITES:
            self.write_site(site)

    def write_site(self, site: str, **changes: str) -> Path:
        """A site's own file."""
        label = 'label = "class"\n' if site == "north" else ""
        data = changes.get("data", f"../../../{site}.csv")
        path = self.paths.site(site).site
        path.write_text(
            f'name = "{site}"\nanchors = "../../../anchors"\n\n[[nodes]]\nmodality = "{SITES[site]}"\n'
            f'data = "{data}"\n{label}'
        )
        return path

    # Commands.

    def ask(self, *words: Any, bound: float = 60) -> subprocess.CompletedProcess[str]:
        """A command that ends by itself, within the bound."""
        return subprocess.run(
            [*COMMAND, *map(str, words)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=bound,
            check=False,
        )

    def command(self, *words: Any, bound: float = 60) -> str:
        """The same, and it has to succeed."""
        done = self.ask(*words, bound=bound)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def begin(self, name: str, *words: Any, command: Sequence[str] = COMMAND) -> subprocess.Popen[bytes]:
        """A command that goes on; what it says is in `said(name)`."""
        with (self.folder / f"{name}.said").open("ab") as file:
            self.running[name] = subprocess.Popen(
                [*command, *map(str, words)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        return self.running[name]

    def said(self, name: str) -> str:
        """All that a command which goes on has said."""
        return (self.folder / f"{name}.said").read_text()

    def start_server(self) -> None:
        """And wait until it listens."""
        self.begin("server", "server", self.paths.server.path)
        until(lambda: "listening on" in self.said("server"), 90, "the server")

    def start_site(self, site: str) -> None:
        """Return at once."""
        self.begin(site, "node", self.paths.site(site).site)

    def start(self) -> None:
        """The server and all sites."""
        self.start_server()
        for site in SITES:
            self.start_site(site)

    def stop(self) -> None:
        """All that runs, and nothing is left of it."""
        for process in self.running.values():
            if process.poll() is None:
                process.terminate()
        for process in self.running.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                for child in psutil.Process(process.pid).children(recursive=True):
                    kill(child.pid)
                process.kill()
                process.wait()
        self.running.clear()

    # Processes.

    def under(self, name: str, words: str) -> list[int]:
        """Processes below a command that goes on, that have these words in their command line."""
        found = []
        for child in psutil.Process(self.running[name].pid).children(recursive=True):
            try:
                if words in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child.pid)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def kill_site(self, site: str) -> None:
        """Node and worker at once; the operator's command stays and starts them again."""
        for words in ("flower-supernode", "isogram.deploy.worker"):
            for pid in self.under(site, words):
                kill(pid)

    def kill_server(self) -> None:
        """The engine's server and all that it has started."""
        for pid in self.under("server", ""):
            kill(pid)

    # A run.

    def run_folder(self, run: str) -> Path:
        """Of a run at the server."""
        return self.paths.server.state / "runs" / run

    def state(self, run: str) -> dict[str, Any]:
        """How far it is; nothing before it has begun."""
        path = self.run_folder(run) / "run.json"
        return json.loads(path.read_text()) if path.exists() else {"round": None, "complete": False}

    def events(self, run: str) -> list[dict[str, Any]]:
        """What happened."""
        path = self.run_folder(run) / "events.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def asked(self, run: str, step: str, round: int, node: str) -> bool:
        """Whether a node is at work on a step after this many complete rounds."""
        mine = [event for event in self.events(run) if event["node"] == node and event["round"] == round]
        return bool(mine) and (mine[-1]["what"], mine[-1]["line"]) == ("asked", step)

    def model(self, run: str) -> dict[str, Tensor]:
        """What the server has at the end."""
        return read_tensors(self.run_folder(run) / "server.safetensors")[0]

    def absent(self, run: str) -> list[str]:
        """Nodes that were lost in a step that counts: that no later attempt did again."""
        found: list[str] = []
        lost: list[str] = []
        before = ""
        for event in self.events(run):
            if event["what"] == "lost":
                lost.append(event["node"])
            elif event["line"] == "hello" != before:  # an attempt begins: what was not complete is done again
                lost = []
            elif event["what"] in ("round", "complete"):
                found, lost = found + lost, []
            before = event["line"]
        return found

    def expected(self) -> dict[str, Any]:
        """What the same run in one process ends with."""
        nodes = [node for site in SITES for node in read_site(self.paths.site(site).site).nodes.values()]
        one = read_site(self.paths.site("north").site)
        silos = one.consortium.run.silos.model_copy(
            update={"nodes": tuple(nodes), "anchors": one.anchors, "held_out": 0.0}
        )
        config = one.config
        data = load_silos(silos, anchors=config.anchors, seed=config.seed)
        return round_state(federation.train(federation.align(data, config)))


def differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Names of what a server has at the end and a run in one process has not, to the bit, or the other way round."""
    at_home = {name for name in expected if name.startswith(("change/", "seen/"))}  # what only nodes know
    both = found.keys() & expected.keys()
    unlike = [name for name in both if not torch.equal(torch.nan_to_num(found[name]), torch.nan_to_num(expected[name]))]
    return sorted((found.keys() ^ (expected.keys() - at_home)) | set(unlike))


def kill(pid: int) -> None:
    """A process by its number, if it is there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
