"""CSV, TSV and Parquet as columns of text, each row with its place in the file; numbers stay as they are written."""

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from isogram.data.base import IntArray
from isogram.data.parquet import arrow, bounded
from isogram.data.sheets import Problems, meant, not_utf8
from isogram.errors import DataError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
PARQUET = frozenset({".parquet", ".pq"})
SUFFIXES = PARQUET | SEPARATORS.keys()
"""Of files that are tables, in lower case."""

_CHUNK = 512
"""Rows that are lists at a time: of many more, the garbage collector takes as long as the reading."""

_UTF_16 = ("\udcff\udcfe", "\udcfe\udcff")
"""How files of UTF-16 begin there."""

_SAVE, _ANEW = "save it as CSV in UTF-8", "write it anew in UTF-8"

_LONGEST_CELL = 1 << 26
"""Characters: a chromosome's arm fits; Python's own bound of 131,072 does not even hold a long report."""


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are text without blanks around it; false if its problems were noted.

    cells: column -> [n] text, "" where nothing is. starts [n]: line that each row begins on, or its number in Parquet.
    unread: column -> its type, of those that are no text, number, truth value or time.
    bad: a line for each row that was left out, with its remedy.
    """

    path: Path
    columns: tuple[str, ...] = ()
    cells: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    starts: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    unread: Mapping[str, str] = field(default_factory=dict)
    bad: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.columns)

    def __len__(self) -> int:
        return len(self.starts)

    def column(self, name: str) -> list[str]:
        """[n] cells of one column."""
        found: list[str] = self.cells[name].tolist()
        return found

    def where(self, row: int) -> str:
        """Where a row stands, as an editor shows it."""
        return f"{self.path}, {self.place(row)}"

    def place(self, row: int) -> str:
        """The same without the file: "line 7", or "row 6" of Parquet."""
        return f"{self._unit} {self.starts[row]}"

    @cached_property
    def _unit(self) -> str:
        return "row" if self.path.suffix.lower() in PARQUET else "line"

    def has(self, name: str, problems: Problems, asked: str = "") -> bool:
        """Whether there is such a column; if not, that is noted, with the nearest name there is.

        asked: the setting that names it, for the message.
        """
        if name in self.cells:
            return True
        wanted = f"{asked} = {name!r}" if asked else repr(name)
        if name in self.unread:
            problems.append(
                f"{self.path}: column {wanted} holds {self.unread[name]}, which is no text; save text, numbers or paths"
            )
            return False
        problems.append(f"{self.path}: no column {wanted}; {meant(name, self.columns)}")
        return False


def number(cell: str) -> float:
    """A cell's number, NaN if it is none; 2024_01, which Python takes for one, is none."""
    try:
        return float(cell.replace("_", "x"))
    except ValueError:
        return math.nan


def is_table(path: Path) -> bool:
    """Whether the file's name is a table's."""
    return path.suffix.lower() in SUFFIXES


def read_table(path: Path, problems: Problems, *, skip: bool = False) -> TextTable:
    """A table by its file's suffix; an empty one if its problems were noted, each with its line.

    Args:
        path: of the file.
        problems: get what is wrong.
        skip: rows that are not UTF-8 are left out, see `TextTable.bad`, unless no other has any; else they are
            problems.

    Raises:
        ConfigError: Parquet needs a library that is missing.
    """
    suffix, before, nothing = path.suffix.lower(), len(problems), TextTable(path)
    if suffix not in SUFFIXES:
        problems.append(f"{path} is no table that can be read; save it as {', '.join(sorted(SUFFIXES))}")
        return nothing
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            problems.append(f"{path} is a device or pipe; save a table, and name that")
            return nothing
        path.open("rb").close()
        if suffix in PARQUET:
            table = _read_parquet(path, problems, skip)
        else:
            table = _read_csv(path, SEPARATORS[suffix], problems, skip)
    except FileNotFoundError:
        problems.append(f"no file {path}; correct its path")
    except OSError as error:
        problems.append(f"cannot read {path}: {error.strerror or error}; name a table")
    if len(problems) > before:
        return nothing
    if not len(table):
        problems.append(f"{path} holds no rows; fill it in")
        return nothing
    return table


def _read_csv(path: Path, separator: str, problems: Problems, skip: bool) -> TextTable:
    nothing, line = TextTable(path), 0
    broken: list[str] = []
    bad: list[str] = []
    chunks: dict[str, list[NDArray[Any]]] = {}
    starts: list[int] = []
    odd: list[tuple[int, int]] = []
    rows: list[list[str]] = []
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file, _long_cells():
            reader = csv.reader(_lines(file, broken), delimiter=separator, strict=True)
            header = tuple(cell.strip() for cell in next(reader, ()))
            if broken:
                problems.append(f"{path}, {broken[0]}; {_SAVE}")
                return nothing
            if not _check_header(path, header, separator, problems):
                return nothing
            chunks = {name: [] for name in header}
            line = reader.line_num
            for row in reader:
                bad += broken[:1]
                if len(row) != len(header):
                    odd.append((line + 1, len(row)))
                elif not broken:
                    rows.append(row)
                    starts.append(line + 1)
                broken.clear()
                line = reader.line_num
                if len(rows) == _CHUNK:
                    _move(rows, chunks)
            _move(rows, chunks)
    except _Utf16Error:
        problems.append(f"{path} is UTF-16 text; {_SAVE}")
        return nothing
    except _NulError as error:
        problems.append(f"{path}, line {error}: a NUL byte, so this is no text; {_SAVE}")
        return nothing
    except csv.Error as error:
        problems.append(f"{path}: cannot read the row that begins on line {line + 1}: {error}; check its quotes")
        return nothing
    while odd and odd[-1][1] == 0 and odd[-1][0] == line:  # blank lines at the end
        odd.pop()
        line -= 1
    problems.some(
        f"{path}: rows of another length than the header's {len(header)} cells:",
        [f"line {at} {f'has {cells}' if cells else 'is blank'}" for at, cells in odd],
        "quote cells that hold a separator, and leave no line out",
    )
    if bad and not (skip and starts):
        problems.some(f"{path}:", bad, _SAVE)
        return nothing
    cells = {name: _joined(chunks.pop(name)) for name in header}  # one at a time: two of each need twice the memory
    left = tuple(f"{path}, {one}; {_SAVE}, or drop the row" for one in bad)
    return TextTable(path, header, cells, np.array(starts, np.int64), bad=left)


def _check_header(path: Path, header: Sequence[str], separator: str, problems: Problems) -> bool:
    before = len(problems)
    if not any(header):
        problems.append(f"{path} is empty; give it a header and rows")
        return False
    other = next((sign for sign in ",;\t|" if sign != separator and sign in header[0]), "")
    if len(header) == 1 and other:
        problems.append(f"{path}: cells are separated by {other!r}; separate them by {separator!r}")
        return False
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    problems.some(f"{path}: columns named twice:", twice, "rename them")
    if "" in header:
        problems.append(
            f"{path}: column {header.index('') + 1} has no name; leave row numbers out (in pandas index=False), or "
            "name it"
        )
    return len(problems) == before


def _move(rows: list[list[str]], chunks: Mapping[str, list[NDArray[Any]]]) -> None:
    """Lists of cells become compact columns, so that a large table needs little more memory than its file."""
    for name, cells in zip(chunks, zip(*rows, strict=True), strict=False):
        chunks[name].append(_texts(list(map(str.strip, cells))))
    rows.clear()


def _texts(cells: Sequence[str]) -> NDArray[Any]:
    return np.array(cells, dtype=np.dtypes.StringDType())


def _joined(chunks: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(chunks) if chunks else _texts([])


class _NulError(Exception):
    pass


class _Utf16Error(Exception):
    pass


def _lines(file: TextIO, broken: list[str]) -> Iterator[str]:
    """Lines of a file; `broken` gets those that are not UTF-8, each with its first such byte."""
    for number, line in enumerate(file, 1):
        if number == 1 and line.startswith(_UTF_16):
            raise _Utf16Error
        if "\0" in line:
            raise _NulError(number)
        if wrong := not_utf8(line):
            broken.append(f"line {number}: {wrong}")
        yield line


@contextmanager
def _long_cells() -> Iterator[None]:
    """Cells of any sensible length: the bound is one for the whole process, and is put back."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_parquet(path: Path, problems: Problems, skip: bool) -> TextTable:
    pa, _ = arrow()
    broken: dict[int, str] = {}
    try:
        with bounded(path, "save it as several tables") as file:
            schema = file.schema
            header = tuple(name.strip() for name in schema.names)
            if not header:
                problems.append(f"{path} is empty; give it columns and rows")
                return TextTable(path)
            types = dict(zip(header, schema.types, strict=True))
            if not _check_header(path, header, "", problems):
                return TextTable(path)
            unread = {name: str(kind) for name, kind in types.items() if not _is_text(pa, kind)}
            chunks: dict[str, list[NDArray[Any]]] = {name: [] for name in header if name not in unread}
            names = [name for name in schema.names if name.strip() in chunks]
            if not names:
                typed = [f"{name!r} holds {kind}" for name, kind in unread.items()]
                problems.some(f"{path}: no column of text or numbers:", typed, "save text, numbers or paths")
                return TextTable(path)
            for batch in file.batches(names, broken):
                for name, column in zip(names, batch.columns, strict=True):
                    cells = column.cast(pa.string()).to_pylist()
                    if pa.types.is_floating(column.type):
                        cells = [_float(cell, value) for cell, value in zip(cells, column.to_pylist(), strict=True)]
                    chunks[name.strip()].append(_texts([(cell or "").strip() for cell in cells]))
            count = file.rows
    except DataError as error:
        problems += error.problems
        return TextTable(path)
    except pa.ArrowException as error:
        problems.append(f"cannot read {path} as Parquet: {str(error).splitlines()[0]}; write it anew")
        return TextTable(path)
    if broken and not (skip and len(broken) < count):
        problems.some(f"{path}:", list(broken.values()), _ANEW)
        return TextTable(path)
    cells = {name: _joined(chunks.pop(name)) for name in tuple(chunks)}
    starts = np.setdiff1d(np.arange(1, count + 1), list(broken))
    left = tuple(f"{path}, {one}; {_ANEW}, or drop the row" for one in broken.values())
    return TextTable(path, tuple(cells), cells, starts, unread, left)


def _float(cell: str | None, value: float | None) -> str:
    """As a column of whole numbers would have it: one that lacks a value is written as floats, with NaN for it."""
    if cell is None or value is None or value != value:
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else cell


def _is_text(pa: Any, kind: Any) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _is_text(pa, kind.value_type)
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_boolean(kind)
        or types.is_temporal(kind)
        or types.is_null(kind)
    )
