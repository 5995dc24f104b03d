"""What a round costs on the engine: our link and worker beside a bare app of the engine with the same payload.

    python benchmarks/engine.py [--rounds 7] [--megabytes 10]

On this machine, with TLS and node keys: one server and six nodes, three of ours, and three that run a bare app, which
does nothing but send random bytes back. Rounds of both take turns, so that whatever else runs meets both; what is
reported are medians. Also timed is the worker alone: its reply over the socket, beside the start of a process that
first has to import what a local step needs. Rows of the data set "engine" go to results/engine.jsonl and replace older
ones. Five minutes.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np
import tomlkit
import typer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "deploy"))

from loopback import Loopback, node_key, until

from isogram.bench import Row, replace_rows
from isogram.engine.commands import environment, free_port, supernode
from isogram.engine.frames import call
from isogram.engine.worker import serve

PATH = Path("results/engine.jsonl")
REPETITIONS = 9

BARE = {
    "bare_client.py": """
from flwr.app import Message
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(message, context):
    record = message.content["payload"]
    record["bytes"] = record["bytes"][::-1]
    return Message(message.content, reply_to=message)
""",
    "bare_server.py": """
import json, os, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    folder, number = Path(str(context.run_config["orders"])), 0
    while not (folder / "end").exists():
        if not (folder / f"{number}.json").exists():
            time.sleep(0.02)
            continue
        nodes = [node.node_id for node in grid.get_nodes() if node.name.startswith("bare")]
        payload = os.urandom(json.loads((folder / f"{number}.json").read_text()))
        contents = [RecordDict({"payload": ConfigRecord({"bytes": payload})}) for _ in nodes]
        began = time.perf_counter()
        sent = [Message(content, node, "query") for content, node in zip(contents, nodes)]
        replies = list(grid.send_and_receive(sent, timeout=120))
        seconds = time.perf_counter() - began
        right = [reply.has_content() and reply.content["payload"]["bytes"] == payload[::-1] for reply in replies]
        assert right == [True] * 3, right
        (folder / "new").write_text(json.dumps(seconds))
        (folder / "new").rename(folder / f"{number}.answer")
        number += 1
""",
}


class Bare:
    """A bare app and its three nodes, beside ours."""

    def __init__(self, ours: Loopback) -> None:
        self.orders = ours.folder / "bare"
        (self.orders / "app").mkdir(parents=True)
        self._count = 0
        for name in ("bare-1", "bare-2", "bare-3"):
            private, public = node_key(ours.folder, name)
            ours.control.register(name, public)
            server = f"127.0.0.1:{ours.port}"
            command = supernode(server, ours.pem.authority, private, free_port(), {"name": name})
            ours.supervisor.start(name, command, environment(ours.folder / "home" / name))
        until(lambda: sum(node.status == "online" for node in ours.control.nodes()) == 6, 120, "six nodes")
        for name, text in BARE.items():
            (self.orders / "app" / name).write_text(text)
        app = {
            "publisher": "isogram",
            "components": {"serverapp": "bare_server:app", "clientapp": "bare_client:app"},
            "config": {"orders": str(self.orders)},
        }
        project = {"name": "bare", "version": "1.0.0", "license": "Apache-2.0"}
        table = {"project": project, "tool": {"flwr": {"app": app}}}
        (self.orders / "app" / "pyproject.toml").write_text(tomlkit.dumps(table))
        ours.control.submit(self.orders / "app")

    def ask(self, size: int) -> float:
        """Seconds of a round."""
        (self.orders / "order").write_text(str(size))
        (self.orders / "order").rename(self.orders / f"{self._count}.json")
        answer = self.orders / f"{self._count}.answer"
        self._count += 1
        until(answer.exists, 150, "the bare app's answer")
        return float(json.loads(answer.read_text()))


def rounds(count: int, size: int) -> dict[str, list[float]]:
    """Seconds of each round, by app; the first of each is left out."""
    seconds: dict[str, list[float]] = {"link": [], "bare": []}
    with tempfile.TemporaryDirectory(prefix="isogram-engine-") as folder:
        ours = Loopback(Path(folder))
        try:
            ours.start()
            bare = Bare(ours)
            for number in range(count + 1):
                answer = ours.ask(wait=120, size=size)
                assert set(answer["answers"].values()) == {"echo"}, answer
                pair = answer["seconds"], bare.ask(size)
                print(f"round {number}: link {pair[0]:.2f} s, bare {pair[1]:.2f} s")
                if number:
                    seconds["link"].append(pair[0])
                    seconds["bare"].append(pair[1])
        finally:
            ours.stop()
    return seconds


def worker(size: int) -> float:
    """Milliseconds until a warm worker's echo is back, after the first."""
    data, stop = np.random.default_rng(0).bytes(size), threading.Event()
    with tempfile.TemporaryDirectory(prefix="iso-") as folder:
        path = Path(folder) / "w"
        thread = threading.Thread(target=serve, args=(lambda request: request[::-1], path, stop))
        thread.start()
        until(path.exists, 10, "the worker")
        times = []
        for number in range(REPETITIONS + 1):
            request = number.to_bytes(1, "big") + data  # else the reply to the last one is given
            began = time.perf_counter()
            call(str(path), request, 60)
            times.append(1000 * (time.perf_counter() - began))
        stop.set()
        thread.join()
    return median(times[1:])


def start(modules: str) -> float:
    """Milliseconds of a process that imports these."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)
        times.append(1000 * (time.perf_counter() - began))
    return median(times)


def main(count: int = typer.Option(7, "--rounds"), megabytes: float = 10) -> None:
    """Measure and note."""
    size = round(megabytes * 1e6)
    label = f"{megabytes:g}-MB"
    figures = [("worker", "reply_ms", label, worker(size)), ("worker", "reply_ms", "0.1-MB", worker(100_000))]
    figures.append(("local step", "start_ms", "imports", start("isogram.local.training")))
    program = "isogram.engine.client_process, flwr.supernode.runtime.run_clientapp, isogram.engine.client_app"
    figures.append(("client process", "start_ms", "imports", start(program)))
    figures.append(("client process of the engine", "start_ms", "imports", start("flwr.supernode.cli")))
    for method, seconds in rounds(count, size).items():
        figures.append((method, "seconds_per_round", label, median(seconds)))
    for method, metric, direction, value in figures:
        print(f"{method:30} {metric:20} {direction:8} {value:.2f}")
    rows = [
        Row("engine", method, 0, 0, metric, direction, round(value, 3)) for method, metric, direction, value in figures
    ]
    replace_rows(PATH, rows)


if __name__ == "__main__":
    typer.run(main)
