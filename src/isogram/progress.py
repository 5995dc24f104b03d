"""What is seen of long work: bars and a live table in a terminal, plain lines where the output is none."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from isogram.console import printable
from isogram.federation import Federation, Tick
from isogram.local import Node
from isogram.messages import Ledger


class Steps:
    """A progress bar for each step of a long job; where the output is no terminal, plain lines instead."""

    def __init__(self, console: Console, names: Sequence[str]) -> None:
        bar = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        column = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        note = TextColumn("{task.fields[note]}", style="dim", markup=False, table_column=column)
        self._console = console
        self._bars = Progress(*bar, note, console=console, expand=True, disable=not console.is_terminal)
        self._tasks = {name: self._bars.add_task(name, total=None, start=False, note="") for name in names}
        self._at: TaskID | None = None
        self._name = ""

    def __enter__(self) -> "Steps":
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def begin(self, name: str, total: int, note: str = "") -> None:
        """Start the step of this name; it ends after `total` calls of `advance`."""
        self._name, self._at = name, self._tasks[name]
        self._bars.start_task(self._at)
        self._bars.update(self._at, total=total)
        self.say(note)

    def say(self, note: str) -> None:
        """What the step is about to do."""
        assert self._at is not None, "begin a step first"
        self._bars.update(self._at, note=printable(note))
        if self._bars.disable and note:
            self._console.print(f"{self._name}: {note}", highlight=False)

    def advance(self, note: str) -> None:
        """One part done, and what it gave."""
        assert self._at is not None, "begin a step first"
        self._bars.advance(self._at)
        self.say(note)

    def end(self, note: str = "") -> None:
        """Stop the step's clock."""
        assert self._at is not None, "begin a step first"
        self.say(note)
        self._bars.stop_task(self._at)


class Parts:
    """Long work that comes in parts of known length, a bar each; a line as each begins where the output is none."""

    def __init__(self, console: Console) -> None:
        name = TextColumn("{task.description}", markup=False)
        columns = (name, BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
        self._console = console
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Parts":
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def tell(self, part: str, done: int, total: int) -> None:
        """So much of a part is done."""
        if part not in self._tasks:
            self._tasks[part] = self._bars.add_task(printable(part), total=total)
            if self._bars.disable:
                self._console.print(f"{part}: {total}", highlight=False)
        self._bars.update(self._tasks[part], completed=done)


class Watch:
    """A run as it goes on: a live table of nodes in a terminal; elsewhere a line a round."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._title, self._begun = "", time.monotonic()
        self._nodes: tuple[Node, ...] = ()
        self._ledger, self._counted = Ledger(), 0
        self._sent: Counter[str] = Counter()
        self._state: dict[str, str] = {}
        self._terms: dict[str, dict[str, float]] = {}
        self._done, self._rounds, self._first = 0, 0, 0
        self._parts: set[str] = set()

    def __enter__(self) -> "Watch":
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._drawn, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    @contextmanager
    def paused(self) -> Iterator[Console]:
        """The terminal for somebody else: what is drawn live would write over a question."""
        if self._live is not None:
            self._live.stop()
        try:
            yield self._console
        finally:
            if self._live is not None:
                self._live.start()

    def say(self, text: str) -> None:
        """What is being done now."""
        self._title = text
        if self._live is None:
            self._console.print(text, highlight=False, soft_wrap=True)

    def tell(self, text: str) -> None:
        """What has happened and stays to be read, above what is drawn live."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def part(self, name: str, done: int, total: int) -> None:
        """So many items of a part of the data are encoded; a line as each part begins where the output is none."""
        if done < total and (self._live is not None or name not in self._parts):
            self._parts.add(name)
            self.say(f"encoding {name}: {done:,} of {total:,} items")

    def begin(self, fed: Federation) -> None:
        """Rounds are about to start, or to go on."""
        self._nodes, self._ledger = fed.nodes, fed.ledger
        self._done = self._first = fed.round
        self._rounds, self._begun = fed.config.train.rounds, time.monotonic()
        self._state = dict.fromkeys((node.name for node in fed.nodes), "waiting")

    def tick(self, tick: Tick) -> None:
        """One step of the rounds."""
        if tick.node:
            self._state[tick.node] = "done" if tick.terms else "training"
            self._terms[tick.node] = tick.terms or self._terms.get(tick.node, {})
            self._title = f"round {tick.round} of {tick.rounds}"
            return
        for text in tick.refused:
            self.tell(f"left out of round {tick.round}: {text}")
        self._done = tick.round
        self._state = dict.fromkeys(self._state, "waiting" if tick.round < tick.rounds else "done")
        losses = ", ".join(f"{name} {value:.3f}" for name, value in tick.terms.items())
        self._count()
        sent = f"{self._sent.total() / 1000:,.0f} kB sent by all"
        if self._live is None:
            self.say(f"round {tick.round} of {tick.rounds}: {losses}; {sent}; {self._clock()}")

    def _count(self) -> None:
        for entry in self._ledger.entries[self._counted :]:
            if entry.direction == "up":
                self._sent[entry.node] += entry.bytes
        self._counted = len(self._ledger.entries)

    def _clock(self) -> str:
        spent = time.monotonic() - self._begun
        if not self._done > self._first or self._done == self._rounds:
            return f"{spent:.0f} s"
        left = spent / (self._done - self._first) * (self._rounds - self._done)
        return f"{spent:.0f} s, about {left:.0f} s left"

    def _drawn(self) -> Table:
        self._count()
        names = list(dict.fromkeys(name for terms in self._terms.values() for name in terms))
        clock = f" · {self._clock()} · {self._sent.total() / 1000:,.0f} kB sent" if self._nodes else ""
        table = Table(
            box=SIMPLE_HEAD, title=f"{self._title}{clock}", title_justify="left", show_header=bool(self._nodes)
        )
        if self._nodes:
            for name in ("node", "state", *names, "kB sent"):
                table.add_column(name, justify="left" if name in ("node", "state") else "right")
        for node in self._nodes:
            terms = self._terms.get(node.name, {})
            losses = [f"{terms[name]:.3f}" if name in terms else "–" for name in names]
            table.add_row(node.name, self._state[node.name], *losses, f"{self._sent[node.name] / 1000:,.1f}")
        return table
