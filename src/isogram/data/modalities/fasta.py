"""FASTA: records of letters, each after a line that begins with ">"."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

SUFFIXES = frozenset({".fasta", ".fa", ".fna", ".faa", ".ffn"})
"""Of such files, in lower case."""


class Record(NamedTuple):
    """One sequence. line: that it begins on. name: first word after ">", None of letters before the first of these."""

    line: int
    name: str | None
    letters: str


def read_records(lines: Iterable[str]) -> Iterator[Record]:
    """Every record in its order; lines that begin with ";" are comments, blank ones mean nothing."""
    start, name, parts = 0, None, list[str]()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith(">"):
            if start:
                yield Record(start, name, "".join(parts))
            start, name, parts = number, (text[1:].split() or [f"line {number}"])[0], []
        elif text and not text.startswith(";"):
            start = start or number
            parts.append(text)
    if start:
        yield Record(start, name, "".join(parts))
