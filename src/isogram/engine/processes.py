"""Processes that are kept running: started again with growing pauses when they end, stopped as a whole."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from isogram.engine.endings import last_line
from isogram.errors import RunError
from isogram.files import make_folder, writing

FIRST_PAUSE, LONGEST_PAUSE, HEALTHY = 1.0, 10.0, 60.0
"""Seconds: before the first start anew, at most, and of life after which a process counts as healthy again.

The engine refuses a node that was killed until its lease has lapsed, about a minute: such a node is started again and
again until then.
"""

GRACE = 10.0
"""Seconds between asking a process to end and ending it."""


_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)

Explain = Callable[[str], str]
"""Given what a process has written since it was started: why it ended; an error of ours is raised to give up."""


@dataclass
class _Kept:
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    explain: Explain
    speaks: bool
    up: tuple[str, str] | None
    awaited: bool = False
    why: str = ""
    begin: int = 0
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = FIRST_PAUSE
    due: float = 0.0
    ended: list[int] = field(default_factory=list)


class Supervisor:
    """Keeps processes running until it is stopped; a context, so that none outlives an error."""

    def __init__(self, folder: Path, report: Callable[[str], None] = lambda line: None) -> None:
        """Where the log of each process goes, and who hears of starts and ends."""
        self._folder = folder
        self._report = report
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.RLock()  # whoever starts and whoever watches may be two threads
        self._stopping = threading.Event()
        make_folder(folder)

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        explain: Explain = last_line,
        *,
        speaks: bool = False,
        up: tuple[str, str] | None = None,
    ) -> None:
        """Start a process and keep it running.

        Args:
            name: of its own.
            command: with its arguments.
            environment: all of its variables.
            explain: why it ended, in words.
            speaks: what it prints is for whoever started us, and only its errors go to its log.
            up: what it writes to its log once it is up, and what is reported then.

        Raises:
            RunError: one of this name is kept already.
            StorageError: its log cannot be written.
        """
        with self._lock:
            if name in self._kept:
                raise RunError(f"{name} is running already")
            self._kept[name] = _Kept(command, environment, self._folder / f"{name}.log", explain, speaks, up)
            self._launch(name)

    def pid(self, name: str) -> int | None:
        """The process that has this name now; None while it waits to be started again."""
        process = self._kept[name].process
        return process.pid if process is not None and process.poll() is None else None

    def ends(self, name: str) -> list[int]:
        """Exit status of each time it ended by itself."""
        return list(self._kept[name].ended)

    def log(self, name: str) -> Path:
        """Where it writes to."""
        return self._kept[name].log

    def why(self, name: str) -> str:
        """Why it ended the last time, as far as that is known."""
        return self._kept[name].why

    def watch(self) -> None:
        """Start again what has ended and is due; call it several times a second: it also removes the dead.

        Helpers of the engine end themselves when their parent's number is gone, and a number stays until then.

        Raises:
            IsogramError: what ended gave a reason to give up.
        """
        with self._lock:
            for name, kept in self._kept.items():
                self._look(name, kept)

    def run(self) -> None:
        """Watch until SIGTERM or SIGINT, or `stop` from another thread; then everything is stopped."""
        before = {
            number: signal.signal(number, lambda *_: self._stopping.set()) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            while not self._stopping.wait(0.2):
                self.watch()
        finally:
            self.stop()
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """End all processes, the latest started first, and what they started."""
        self._stopping.set()
        with self._lock:
            self._end()

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _look(self, name: str, kept: _Kept) -> None:
        if kept.up is not None and kept.awaited and kept.up[0] in _read(kept.log, kept.begin):
            kept.awaited = False
            self._report(kept.up[1])
        if kept.process is not None and (status := kept.process.poll()) is not None:
            kept.process = None
            kept.ended.append(status)
            if time.monotonic() - kept.started > HEALTHY:
                kept.pause, kept.why = FIRST_PAUSE, ""
            kept.due = time.monotonic() + kept.pause
            before, kept.why = kept.why, kept.explain(_read(kept.log, kept.begin)) if status >= 0 else ""
            if not kept.why or kept.why != before:  # who fails again and again for one reason says so once
                how = f"{_status(status)}: {kept.why}" if kept.why else _status(status)
                self._report(f"{name} ended ({how}); starts again in {kept.pause:.0f} s; log: {kept.log}")
            kept.pause = min(2 * kept.pause, LONGEST_PAUSE)
        if kept.process is None and time.monotonic() >= kept.due and not self._stopping.is_set():
            self._launch(name)

    def _end(self) -> None:
        alive = [kept.process for kept in reversed(self._kept.values()) if kept.process is not None]
        for process in alive:
            with suppress(ProcessLookupError):
                process.terminate()
        until = time.monotonic() + GRACE
        for process in alive:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        for process in alive:
            # Also after a clean end: who is left in its group has no parent any more.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for kept in self._kept.values():
            kept.process = None

    def _launch(self, name: str) -> None:
        kept = self._kept[name]
        with writing(kept.log):
            log = os.open(kept.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            kept.begin = os.fstat(log).st_size
            kept.process = subprocess.Popen(
                kept.command,
                env=dict(kept.environment),
                stdin=subprocess.DEVNULL,
                stdout=None if kept.speaks else log,
                stderr=log,
                umask=0o077,  # the engine's database holds messages on their way
                start_new_session=True,  # Ctrl-C reaches us alone, and its group can be ended as a whole
                preexec_fn=_end_with_us if sys.platform == "linux" else None,
            )
        finally:
            os.close(log)
        kept.started, kept.awaited = time.monotonic(), kept.up is not None
        if not kept.why:
            self._report(f"{name} started")


def _end_with_us() -> None:
    """In the new process: the kernel kills it when we are killed, and could end nothing ourselves any more."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _read(log: Path, begin: int) -> str:
    """The last that was written after `begin`."""
    with writing(log), log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - 20_000))
        return file.read().decode(errors="replace")


def _status(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"
