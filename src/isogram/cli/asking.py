"""The question of `--ask`, in a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import typer

from isogram.cli.options import say
from isogram.errors import EgressError

if TYPE_CHECKING:
    from isogram.egress import Ask, Question
    from isogram.progress import Watch

_ANSWERS: dict[str, Literal["yes", "no", "all"]] = {"y": "yes", "n": "no", "a": "all"}


def asker(watch: Watch) -> Ask:
    """Asks on the terminal, while what is drawn live there stands still.

    Raises:
        EgressError: nobody is there to answer, at once or later.
    """
    if not sys.stdin.isatty():
        raise EgressError(
            "--ask needs a terminal to answer in, and standard input is none: leave out --ask, and list what may be "
            "sent in egress.allow"
        )

    def ask(question: Question) -> Literal["yes", "no", "all"]:
        with watch.paused():
            say(told(question), err=True)
            while True:
                try:
                    text = typer.prompt("send it? y: yes, n: no, a: all of this kind at all nodes", err=True)
                except typer.Abort:
                    return "no"
                if answer := _ANSWERS.get(text.strip().lower()[:1]):
                    return answer

    return ask


def told(question: Question) -> str:
    """What is asked, in words, with every array that would leave."""
    lines = [f"node {question.node!r} is about to send a first message {question.kind!r}: {question.words}"]
    for line in question.lines:
        shape = " x ".join(map(str, line.shape)) or "1"
        lines.append(f"  {line.field}: {shape} {line.dtype}, {line.bytes} bytes")
    return "\n".join(lines)
