"""One CSV as numbers, ids and labels, and everything that is wrong with it by itself."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isogram.data.base import FloatArray
from isogram.data.tokens import chunk_columns
from isogram.errors import DataError

TOKENS = 8
"""Chunks of columns that a row is cut into, in the order of the file; one per column if there are fewer columns."""

ID = "id"
_SHOWN, _LETTERS = 5, 40

_ESCAPED = re.compile("[\udc80-\udcff]")
"""What stands for a byte that is not UTF-8 where text is read with Python's surrogateescape."""


@dataclass(frozen=True)
class Sheet:
    """One CSV: values [n, F], names of their columns, row ids or None, labels as written or None.

    header: all of it; lines: where each row ends in the file. False if the table is unreadable.
    """

    path: Path
    values: NDArray[np.float64]
    columns: tuple[str, ...]
    ids: tuple[str, ...] | None
    labels: tuple[str, ...] | None
    header: tuple[str, ...] = ()
    lines: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.columns)

    def tokens(self) -> FloatArray:
        """[n, T, c], the columns cut in their order."""
        return chunk_columns(self.values, min(TOKENS, len(self.columns)))

    def line(self, row: int) -> str:
        """Where a row stands, as an editor shows it."""
        return f"{self.path}, line {self.lines[row]}"


class Problems(list[str]):
    """What is wrong so far; `stop` raises it all together.

    Args:
        lines: what is known already.
        each: whether each item has a problem of its own, however many there are.
        all_by: what command names them all otherwise, if one does.
    """

    def __init__(self, lines: Iterable[str] = (), *, each: bool = False, all_by: str = "") -> None:
        super().__init__(lines)
        self._each, self._all_by = each, all_by

    def some(self, where: str, items: Sequence[str], remedy: str) -> None:
        """One problem that several items have; the first few are named."""
        if self._each:
            self += [f"{where} {item}; {remedy}" for item in items]
        elif items:
            more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
            by = f" ({self._all_by} names all)" if more and self._all_by else ""
            self.append(f"{where} {', '.join(items[:_SHOWN])}{more}{by}; {remedy}")

    def stop(self) -> None:
        """Raises DataError if there is anything."""
        if self:
            raise DataError(*self)


def read_sheet(path: Path, label: str, problems: Problems) -> Sheet:
    """A table; an empty one if its problems were noted."""
    before = len(problems)
    header: tuple[str, ...] = ()
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        reader = csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig").rstrip() + "\n"), strict=True)
        header = tuple(cell.strip() for cell in next(reader))
        for row in reader:
            rows.append(row)
            lines.append(reader.line_num)
    except FileNotFoundError:
        problems.append(f"no file {path}; correct its path, which counts from the configuration file's folder")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        wrong = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
        problems.append(f"{path}, line {line}: {wrong}; save it as a CSV file in UTF-8")
    except OSError as error:
        problems.append(f"cannot read {path}: {error.strerror}; name a CSV file")
    except csv.Error as error:
        problems.append(f"cannot read {path} as CSV: {error} at line {reader.line_num}; check its quotes")
    nothing = Sheet(path, np.empty((0, 0)), (), None, None, header)
    if len(problems) > before:
        return nothing
    if len(header) == 1 and (other := next((sign for sign in ";\t|" if sign in header[0]), "")):
        problems.append(f"{path}: cells are separated by {other!r}; separate them by commas, decimals by points")
        return nothing
    odd = [(line, len(row)) for line, row in zip(lines, rows, strict=True) if len(row) != len(header)]
    problems.some(
        f"{path}: lines of another length than the header's {len(header)} cells:",
        [f"line {line} {f'has {cells}' if cells else 'is blank'}" for line, cells in odd],
        "separate cells by commas, and quote those that hold one",
    )
    twice = [name for name, count in Counter(header).items() if count > 1]
    problems.some(f"{path}: columns named twice:", twice, "rename them")
    index = [name for name in header if not name or re.fullmatch(r"Unnamed: \d+", name)]
    if not any(header):
        problems.append(f"{path} is empty; give it a header and rows")
    elif index:
        which = f"column {header.index(index[0]) + 1} has no name" if not index[0] else f"column {index[0]!r}"
        remedy = "leave row numbers out (in pandas index=False); name it `id` if it names rows alike in every table"
        problems.append(f"{path}: {which}; {remedy}")
    if len(problems) > before:
        return nothing
    frame = pd.DataFrame([[cell.strip() for cell in row] for row in rows], columns=list(header), dtype=str)
    ids = tuple(frame.pop(ID)) if ID in frame else None
    labels = tuple(frame.pop(label)) if label in frame else None
    if frame.empty:
        problems.append(f"{path} holds no {'rows' if len(frame.columns) else 'columns of numbers'}")
        return nothing
    if ids is not None:
        count = Counter(ids)
        empty = [f"line {lines[row]}" for row, name in enumerate(ids) if not name]
        problems.some(f"{path}: rows without an id:", empty, "give each its own")
        again = [name for name in count if name and count[name] > 1]
        problems.some(f"{path}: ids that stand twice:", again, "keep one line of each")
    values = frame.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32))
    if close := [name for name in frame.columns if name.lower() == ID]:
        problems.append(f"{path}: column {close[0]!r}; names of rows stand in a column `id`: rename it")
        return nothing
    words = [name for name, some in zip(frame.columns, finite.any(0), strict=True) if not some]
    problems.some(
        f"{path}: columns without a single number:",
        words,
        "encode them as numbers or leave them out; the column of classes is named by files.labels, that of ids is `id`",
    )
    bad = [
        f"line {lines[row]}, column {frame.columns[column]!r}: {frame.iat[row, column] or 'empty'}"
        for row, column in np.argwhere(~finite & finite.any(0))
    ]
    problems.some(f"{path}: not a finite number:", bad, "impute or drop them; decimals are written with a point")
    count_lines = np.arange(len(values))[:, None]
    lines_counted = len(values) > 3 and ((values == count_lines) | (values == count_lines + 1)).all(0)
    index = [name for name, counted in zip(frame.columns, np.atleast_1d(lines_counted), strict=False) if counted]
    problems.some(f"{path}: columns that only count the lines:", index, "leave them out: an index is no feature")
    return nothing if len(problems) > before else Sheet(path, values, tuple(frame), ids, labels, header, tuple(lines))


def not_utf8(text: str) -> str:
    """Of text read with surrogateescape its first byte that is not UTF-8, in words; "" if all are."""
    found = None if text.isascii() else _ESCAPED.search(text)
    return f"byte 0x{ord(found[0]) - 0xDC00:02x} is not UTF-8" if found else ""


def few(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    found = list(names)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(repr(excerpt(name)) for name in found[:_SHOWN]) + more


def excerpt(value: str) -> str:
    """The beginning of a private value, of which a message is to show no more."""
    return value if len(value) <= _LETTERS else value[: _LETTERS - 1] + "…"


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of the names there are that was probably meant, case aside; "" if none is like it."""
    plain = {other.lower(): other for other in known}
    return next((plain[match] for match in get_close_matches(name.lower(), plain, n=1)), "")


def meant(name: str, known: Iterable[str], else_: str = "there are") -> str:
    """How a message ends about a name that does not exist: with the nearest one, or else the first of those there are.

    else_: what is said before these.
    """
    found = list(known)
    near = nearest(name, found)
    return f"did you mean {near!r}?" if near else f"{else_} {few(found)}"


def read_tokens(path: str | Path, label: str = "") -> FloatArray:
    """[n, T, c] of a table's rows, cut as in a run on files: what `SavedModel.embed` takes.

    Args:
        path: CSV with the columns that the node's own table has, in their order; `id` is passed over.
        label: a column to pass over, too.

    Raises:
        DataError: all that is wrong with the table.
    """
    problems = Problems()
    sheet = read_sheet(Path(path), label, problems)
    problems.stop()
    return sheet.tokens()
