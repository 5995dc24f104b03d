"""Whether arrays fit the memory, asked before they are made: a process that takes too much is ended without a word."""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from isogram.errors import DataError

_ABOUT = Path("/proc/meminfo")
_FLOAT32 = 4


def free() -> int:
    """Bytes that can be had without swapping, as Linux estimates it; of other systems all the memory there is."""
    with suppress(OSError, ValueError, IndexError):
        for line in _ABOUT.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_room(shape: Sequence[int]) -> None:
    """Whether float32 tokens [n, T, c] fit what is free now.

    Raises:
        DataError: they do not.
    """
    size, there = _FLOAT32 * math.prod(shape), free()
    if size > there:
        n, tokens, width = shape
        raise DataError(
            f"{n:,} items of {tokens:,} tokens of {width:,} values take {size / 1e9:,.1f} GB of memory, and "
            f"{there / 1e9:,.1f} GB are free; give fewer rows, or choose an encoder of fewer tokens or values"
        )
