"""One CSV as numbers, ids and labels, and everything that is wrong with it by itself."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
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
_SHOWN = 5


@dataclass(frozen=True)
class Sheet:
    """One CSV: values [n, F], column names, row ids or None, labels as written or None. False if it is unreadable."""

    path: Path
    values: NDArray[np.float64]
    columns: tuple[str, ...]
    ids: tuple[str, ...] | None
    labels: tuple[str, ...] | None

    def __bool__(self) -> bool:
        return bool(self.columns)

    def tokens(self) -> FloatArray:
        """[n, T, c], the columns cut in their order."""
        return chunk_columns(self.values, min(TOKENS, len(self.columns)))

    def line(self, row: int) -> str:
        """Where a row stands, as an editor shows it."""
        return f"{self.path}, line {row + 2}"


class Problems(list[str]):
    """What is wrong so far; `stop` raises it all together."""

    def some(self, where: str, items: Sequence[str], remedy: str) -> None:
        """One problem that several items have; the first few are named."""
        if items:
            more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
            self.append(f"{where} {', '.join(items[:_SHOWN])}{more}; {remedy}")

    def stop(self) -> None:
        """Raises DataError if there is anything."""
        if self:
            raise DataError(*self)


def read_sheet(path: Path, label: str, problems: Problems) -> Sheet:
    """A table; an empty one if its problems were noted."""
    before = len(problems)
    nothing = Sheet(path, np.empty((0, 0)), (), None, None)
    try:
        lines = csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig").rstrip() + "\n"), strict=True)
        header, *rows = lines
    except FileNotFoundError:
        problems.append(f"no file {path}; correct its path, which counts from the configuration file's folder")
        return nothing
    except UnicodeDecodeError as error:
        problems.append(f"cannot read {path} as UTF-8 text ({error.reason}); save it as a CSV file in UTF-8")
        return nothing
    except (OSError, csv.Error) as error:
        problems.append(f"cannot read {path} as CSV: {error}")
        return nothing
    ragged = [f"line {number} has {len(row)}" for number, row in enumerate(rows, 2) if len(row) != len(header)]
    problems.some(
        f"{path}: lines of another length than the header's {len(header)} cells:",
        ragged,
        "separate cells by commas, and quote those that hold one",
    )
    if len(header) == 1 and (other := next((sign for sign in ";\t|" if sign in header[0]), "")):
        problems.append(f"{path}: cells are separated by {other!r}; separate them by commas, decimals by points")
    twice = [name for name, count in Counter(header).items() if count > 1]
    problems.some(f"{path}: columns named twice:", twice, "rename them")
    if not any(header):
        problems.append(f"{path} is empty; give it a header and rows")
    elif "" in header:
        problems.append(f"{path}: column {header.index('') + 1} has no name; name it `id`, or leave it out")
    if len(problems) > before:
        return nothing
    frame = pd.DataFrame(rows, columns=header, dtype=str)
    ids = tuple(frame.pop(ID)) if ID in frame else None
    labels = tuple(frame.pop(label)) if label in frame else None
    if frame.empty:
        problems.append(f"{path} holds no {'rows' if len(frame.columns) else 'columns of numbers'}")
        return nothing
    if ids is not None:
        count = Counter(ids)
        empty = [f"line {row + 2}" for row, name in enumerate(ids) if not name]
        problems.some(f"{path}: rows without an id:", empty, "give each its own, or leave the column out")
        again = [name for name in count if name and count[name] > 1]
        problems.some(f"{path}: ids that stand twice:", again, "keep one line of each")
    values = frame.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32))
    words = [name for name, some in zip(frame.columns, finite.any(0), strict=True) if not some]
    problems.some(
        f"{path}: columns without a single number:",
        words,
        "encode them as numbers or leave them out; the column of classes is named by files.labels, that of ids is `id`",
    )
    bad = [
        f"line {row + 2}, column {frame.columns[column]!r}: {frame.iat[row, column] or 'empty'}"
        for row, column in np.argwhere(~finite & finite.any(0))
    ]
    problems.some(f"{path}: not a finite number:", bad, "impute or drop them; decimals are written with a point")
    count_lines = np.arange(len(values))[:, None]
    lines_counted = len(values) > 3 and ((values == count_lines) | (values == count_lines + 1)).all(0)
    index = [name for name, counted in zip(frame.columns, np.atleast_1d(lines_counted), strict=False) if counted]
    problems.some(f"{path}: columns that only count the lines:", index, "leave them out: an index is no feature")
    return nothing if len(problems) > before else Sheet(path, values, tuple(frame), ids, labels)


def few(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(map(repr, names[:_SHOWN])) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def read_tokens(path: Path, label: str = "") -> FloatArray:
    """[n, T, c] of a table's rows, cut as in a run on files: what `SavedModel.embed` takes.

    Args:
        path: CSV with the columns that the node's own table has; `id` is passed over.
        label: a column to pass over, too.

    Raises:
        DataError: all that is wrong with the table.
    """
    problems = Problems()
    sheet = read_sheet(path, label, problems)
    problems.stop()
    return sheet.tokens()
