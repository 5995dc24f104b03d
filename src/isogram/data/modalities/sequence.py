"""DNA and RNA: letters in a cell or of a FASTA record."""

import io
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from isogram.config import ModalityConfig
from isogram.data.base import FloatArray
from isogram.data.modalities.base import BadItem, Builtin, Encoder, Item, bytes_of
from isogram.data.modalities.fasta import SUFFIXES, read_records
from isogram.data.tokens import chunk_columns

_WRONG = re.compile("[^ACGTURYSWKMBDHVN]")
_PARTS, _SHORT, _LONG = 4, 3, 4


class SequenceKind:
    """Letters of bases and of the IUPAC codes for "one of several"; upper or lower case, U as good as T."""

    name = "sequence"
    suffixes = SUFFIXES

    def read(self, item: Item, config: ModalityConfig) -> str:
        """The letters in upper case; see `Kind.read`. A file holds one record."""
        text = item.text if item.text is not None else _record(item)
        letters = "".join(text.split()).upper()
        if not letters:
            raise BadItem(f"{item.where}: holds no sequence; fill it in or leave it out")
        if wrong := _WRONG.search(letters):
            raise BadItem(
                f"{item.where}: {wrong[0]!r} at position {wrong.start() + 1} is no base of DNA or RNA, nor an IUPAC "
                "code; correct it or leave the sequence out"
            )
        if not re.search("[ACGTU]", letters):
            raise BadItem(f"{item.where}: no base is known, all letters are codes; leave the sequence out")
        return letters

    def describe(self, read: str) -> str:
        """Its length, and how many letters are codes for several bases."""
        codes = sum(letter not in "ACGTU" for letter in read)
        return f"{len(read):,} bases" + (f", {codes:,} of them codes" if codes else "")

    def content(self, read: str) -> bytes:
        """Its bases, U as T."""
        return read.replace("U", "T").encode("ascii")

    def builtin(self, config: ModalityConfig) -> Encoder:
        """Roots of shares of k-mers, of the strand as given: [4, 148].

        A token is a quarter of the length: its own 1-, 2- and 3-mers (84), and of the 4-mers of the whole those that
        start with one of the bases (64). K-mers with a code in them do not count.
        """
        return Builtin(self.name, "1", _tokens)


def _record(item: Item) -> str:
    try:
        text = bytes_of(item).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadItem(f"{item.where}: is no FASTA (byte {error.start} is not UTF-8); replace it") from error
    records = list(read_records(io.StringIO(text, newline=None)))
    if len(records) > 1:
        raise BadItem(
            f"{item.where}: holds {len(records)} records, expected one; name the file as a silo's data to read all"
        )
    return records[0].letters if records else ""


_NUMBERS = np.full(256, -1, np.int64)
_NUMBERS[list(b"ACGTU")] = (0, 1, 2, 3, 3)


def _shares(bases: NDArray[np.int64], k: int, start: int, stop: int) -> NDArray[np.float64]:
    """[4**k] roots of the shares of k-mers that start from `start` to `stop`; zeros if there is none."""
    windows = np.lib.stride_tricks.sliding_window_view(bases, k)[start:stop] if len(bases) >= k else np.empty((0, k))
    known = windows[(windows >= 0).all(1)].astype(np.int64)
    counts = np.bincount(known @ 4 ** np.arange(k)[::-1], minlength=4**k)
    return np.sqrt(counts / max(1, len(known)))


def _tokens(sequences: Sequence[str]) -> FloatArray:
    rows = []
    for letters in sequences:
        bases = _NUMBERS[np.frombuffer(letters.encode("ascii"), np.uint8)]
        edges = np.linspace(0, len(bases), _PARTS + 1).astype(int)
        own = [
            np.concatenate([_shares(bases, k, start, stop) for k in range(1, _SHORT + 1)])
            for start, stop in pairwise(edges)
        ]
        whole = chunk_columns(_shares(bases, _LONG, 0, len(bases))[None], _PARTS)[0]
        rows.append(np.hstack([own, whole]))
    return np.stack(rows).astype(np.float32)


SEQUENCE = SequenceKind()
