"""What becomes of a run when something of it is killed, hangs or lies: three sites and a server on this machine.

    python benchmarks/faults.py run [--repeat 10] [--only node --only hang]

Every repetition begins a run, waits until the nodes are at work on its second round, and does harm. It ends as `model`
(complete, where the server was killed after `isogram deploy resume`), `error` (in words, and nothing to go on with) or
`hang` (neither within the bound, which follows from the consortium's waits). Rows go to results/faults.jsonl; those
that are there are not made again, so that it can be interrupted. Two to four minutes a repetition.
"""

import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import torch
import typer
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "deploy"))

from consortium import SITES, Consortium, differences, kill
from loopback import until

from isogram.bench import Row, read_rows
from isogram.deploy import running, worker
from isogram.envelope import Reply, Request
from isogram.errors import IsogramError
from isogram.files import append_lines, make_folder
from isogram.messages import Up

HERE = Path(__file__).resolve()
PATH = Path("results/faults.jsonl")
ROUNDS, JOIN, ANSWER, AGAIN = 2, 180.0, 90.0, 120.0
"""Rounds of a run; seconds of the consortium's waits; and those within which a killed server has to be there again."""

VICTIM, LIAR = "south", "west"
ROUND = "round"
TRIES = 5
"""Of a repetition, until all nodes take part in its run."""


class Harmed(Consortium):
    """The worker of one site does harm while a file says so."""

    @property
    def order(self) -> Path:
        """The file: "nan" or "hang"."""
        return self.folder / "order"

    def start_site(self, site: str) -> None:
        """See `Consortium`; one site's worker is ours."""
        if site != LIAR:
            super().start_site(site)
            return
        command = [sys.executable, str(HERE), "node", str(self.order)]
        self.begin(site, self.paths.site(site).site, command=command)


def at_work(three: Harmed, run: str) -> bool:
    """Whether all nodes are at work on the second round."""
    return all(three.asked(run, ROUND, 1, site) for site in SITES)


def kill_client(three: Harmed) -> None:
    """The engine's client process lives for the time of one message; here it is caught."""
    program = "isogram.engine.client_process"
    kill(until(lambda: three.under(VICTIM, program), ANSWER, "a client process")[0])


def kill_all(three: Harmed) -> None:
    """Every process of the engine and every worker; the commands stay."""
    for site in SITES:
        for pid in three.under(site, ""):
            kill(pid)
    three.kill_server()


def kill_one(name: str, words: str) -> Callable[[Harmed], None]:
    """The first process below a command that has these words in its command line."""
    return lambda three: kill(three.under(name, words)[0])


def ordered(what: str) -> Callable[[Harmed], None]:
    """The liar's worker does it from now on."""
    return lambda three: three.order.write_text(what) and None


FAULTS: Mapping[str, Callable[[Harmed], None]] = {
    "node": lambda three: three.kill_site(VICTIM),
    "worker": kill_one(VICTIM, "isogram.deploy.worker"),
    "client process": kill_client,
    "process of the run": kill_one("server", "flwr-serverapp"),
    "server": kill_one("server", "flower-superlink"),
    "server and nodes": kill_all,
    "NaN": ordered("nan"),
    "hang": ordered("hang"),
}
BEFORE = ("NaN", "hang")
"""Done before the round is asked for: what answers has to know."""


class UnharmedError(Exception):
    """The run went on without a node that was not back from the last harm, and ended before any of its own."""


def whole(three: Harmed, fault: str, number: int, expected: Mapping[str, Tensor]) -> list[Row]:
    """A repetition in which all nodes take part."""
    for _ in range(TRIES - 1):
        with suppress(UnharmedError):
            return repetition(three, fault, number, expected)
        print(f"{fault}, {number}: begun again, for not all nodes were back", flush=True)
    return repetition(three, fault, number, expected)


def repetition(three: Harmed, fault: str, number: int, expected: Mapping[str, Tensor]) -> list[Row]:
    """One run with one fault."""
    run = f"{re.sub('[^a-z]', '-', fault.lower())}-{number}-{time.strftime('%H%M%S')}"
    server = three.paths.server.path
    three.order.unlink(missing_ok=True)
    watching = three.begin("start", "start", server, "--run", run, "--json")

    def ready() -> bool:
        if watching.poll() is not None:
            raise UnharmedError(last_said(three))
        return three.state(run)["round"] == 1 if fault in BEFORE else at_work(three, run)

    until(ready, JOIN + 4 * ANSWER, "the second round")
    began, done = time.monotonic(), three.state(run)["round"]
    FAULTS[fault](three)
    bound = (ROUNDS + 1) * ANSWER
    message = ""
    if not ends(three, run, began + bound + AGAIN):
        how = "hang"
    elif three.state(run)["complete"]:
        how = "model"
    else:
        message, bound = last_said(three), bound + AGAIN + JOIN
        three.begin("start", "resume", server, "--run", run, "--json")
        ended = ends(three, run, began + bound)
        how = "hang" if not ended else "model" if three.state(run)["complete"] else "error"
        message = last_said(three) if how == "error" else message
    seconds = time.monotonic() - began
    lost = [event["line"] for event in three.events(run) if event["what"] == "lost"]
    message = message or (lost[0] if lost else "")
    resumed = [int(event["line"].split()[-1]) for event in three.events(run) if event["what"] == "resumed"]
    values = {"took": seconds, "bound": bound, "rounds_lost": max(0, done - min(resumed, default=done))}
    values["absent"] = float(len(three.absent(run)))
    if how == "model":
        values["same"] = float(not differences(three.model(run), expected))
    else:
        with suppress(AssertionError):
            three.command("stop", server, "--run", run)
    three.order.unlink(missing_ok=True)

    def row(metric: str, direction: str, value: float) -> Row:
        return Row(f"faults:{fault}", "deployed", 0, number, metric, direction, round(value, 1))

    rows = [row(metric, "", value) for metric, value in values.items()]
    return [*rows, row("message", message, 1.0), row("ended", how, 1.0)]


def ends(three: Harmed, run: str, until_then: float) -> bool:
    """Wait for the command that watches the run; whether it ended in time."""
    while three.running["start"].poll() is None:
        if time.monotonic() > until_then:
            three.running["start"].terminate()
            three.running["start"].wait(30)
            return False
        if three.order.exists() and any(event["what"] == "lost" for event in three.events(run)):
            three.order.unlink()  # whoever hangs has been missed, and may go on
        time.sleep(0.2)
    return True


def last_said(three: Harmed) -> str:
    """The last line of the command that watched, without the state that it tells."""
    lines = [line for line in three.said("start").splitlines() if not line.startswith("{")]
    return lines[-1].replace(str(three.folder), "...") if lines else ""


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(repeat: int = 10, only: list[str] | None = None) -> None:
    """Make the rows that are not there, fault by fault within each repetition."""
    make_folder(PATH.parent)
    there = {(row.dataset, row.seed) for row in (read_rows([PATH]) if PATH.exists() else ()) if row.metric == "ended"}
    left = [
        (number, fault)
        for number in range(repeat)
        for fault in FAULTS
        if fault in (only or FAULTS) and (f"faults:{fault}", number) not in there
    ]
    if not left:
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("interrupted: the same command goes on"))
    with tempfile.TemporaryDirectory(prefix="isogram-faults-") as folder:
        three = Harmed(Path(folder), min_nodes=2, rounds=ROUNDS, join=JOIN, answer=ANSWER)
        try:
            torch.set_num_threads(1)  # as the workers have it
            expected = three.expected()
            three.start()
            for number, fault in left:
                rows = whole(three, fault, number, expected)
                append_lines(PATH, [json.dumps(asdict(row)) for row in rows])
                told = {row.metric: row.direction if row.metric in ("ended", "message") else row.value for row in rows}
                print(f"{fault}, {number}: {told}", flush=True)
        finally:
            three.stop()


@app.command()
def node(order: Path, site: Path) -> None:
    """A site's node, as `isogram deploy node`, whose worker obeys the order."""
    running.WORKER[:] = [sys.executable, str(HERE), "worker", str(order)]
    running.run_node(site, typer.echo)


@app.command("worker")
def harmful(order: Path, site: str, name: str, socket: str) -> None:
    """The site's worker, but in rounds."""
    honest = worker.responder

    def responder(*arguments: object) -> Callable[[bytes], bytes]:
        respond = honest(*arguments)  # type: ignore[arg-type]

        def answer(request: bytes) -> bytes:
            reply = respond(request)
            if Request.read(request).parts[-1].step != ROUND or not order.exists():
                return reply
            if order.read_text() == "nan":
                return spoilt(reply)
            while order.exists():
                time.sleep(0.2)
            return reply

        return answer

    worker.responder = responder  # type: ignore[assignment]
    worker.main([site, name, socket])


def spoilt(reply: bytes) -> bytes:
    """The same with NaN in the place of every adapter's values."""
    parsed = Reply.read(reply)
    up = Up.from_bytes(parsed.message)
    adapters = {name: torch.full_like(value, float("nan")) for name, value in up.adapters.items()}
    return replace(parsed, message=replace(up, adapters=adapters).to_bytes()).to_bytes()


if __name__ == "__main__":
    try:
        app()
    except IsogramError as error:
        sys.exit(str(error))
