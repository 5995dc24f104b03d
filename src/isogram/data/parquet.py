"""Parquet read with suspicion: a cell that all rows repeat stands once in the file, and small files fill memories.

What a file says that it holds is looked at before anything is read, and what comes is counted before it is unpacked.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isogram.data.base import UNPACKED
from isogram.errors import ConfigError, DataError

MOST_TIMES = 32
"""Of its own size a file may unpack to, if that is more than `UNPACKED`: text is packed to a tenth, hardly to less."""

_ROW = 8
"""Bytes that a row takes at least: its number."""

_CELL = 16
"""Bytes that a cell takes at least where it is text, however short."""

_WIDTHS = {"BOOLEAN": 4, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": _CELL}
"""Physical type -> bytes of a cell; a truth value is spelled."""

_ROWS = 1024
"""That are unpacked at a time."""


def arrow() -> tuple[Any, Any]:
    """The libraries pyarrow and pyarrow.parquet.

    Raises:
        ConfigError: they are missing.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(f"Parquet needs more: pip install -e '.[silos]' in the clone ({error})") from error
    return pyarrow, parquet


class Bounded:
    """An open file, whose columns come a few rows at a time; made by `bounded`.

    schema: of the file as it was written.
    """

    def __init__(self, path: Path, remedy: str, about: Any, file: Any) -> None:
        self.path, self.rows, self.schema = path, about.num_rows, about.schema.to_arrow_schema()
        self._remedy, self._about, self._file = remedy, about, file
        self._bound = max(UNPACKED, MOST_TIMES * path.stat().st_size)

    def batches(self, columns: Sequence[str], broken: dict[int, str] | None = None) -> Iterator[Any]:
        """Some columns, as record batches; text is of type string.

        Args:
            columns: names of the outermost.
            broken: gets rows with text that is not UTF-8, from 1, and what of it is not, in words; they are left out.

        Raises:
            DataError: they unpack to more than is read, by what the file says of them or indeed; or text is not UTF-8,
                without `broken`.
        """
        pa, _ = arrow()
        self._check(self._claimed(columns))
        rows = seen = 0
        for batch in self._file.iter_batches(batch_size=_ROWS, columns=list(columns)):
            seen += _ROW * len(batch) + sum(map(_unpacked, batch.columns))
            self._check(seen)
            plain = [one.dictionary_decode() if pa.types.is_dictionary(one.type) else one for one in batch.columns]
            made = pa.RecordBatch.from_arrays(plain, names=batch.schema.names)
            wrong: dict[int, str] = {}
            for name, column in zip(batch.schema.names, plain, strict=True):
                wrong = self._not_text(name, column, rows) | wrong
            if wrong:
                if broken is None:
                    raise DataError(f"{self.path}, {wrong[min(wrong)]}; write it anew in UTF-8")
                broken |= dict(sorted(wrong.items()))
                made = made.filter(pa.array([row not in wrong for row in range(rows + 1, rows + len(batch) + 1)]))
            rows += len(batch)
            yield made

    def _claimed(self, columns: Sequence[str]) -> int:
        """Bytes that some columns unpack to at least, by what the file says of itself."""
        begins = tuple(f"{name}." for name in columns)  # as a column that is nested goes on
        leaves = [(i, self._about.schema.column(i)) for i in range(self._about.num_columns)]
        held = [(i, _WIDTHS.get(leaf.physical_type, leaf.length)) for i, leaf in leaves if _in(leaf.path, begins)]
        groups = [self._about.row_group(i) for i in range(self._about.num_row_groups)]
        parts = [(width, group.column(i)) for group in groups for i, width in held]
        cells = sum(width * part.num_values for width, part in parts)
        return max(_ROW * self.rows + cells, sum(part.total_uncompressed_size for _, part in parts))

    def _not_text(self, name: str, column: Any, before: int) -> dict[int, str]:
        """Rows whose text is not UTF-8, which Arrow reads as it is; before: rows above this part of the column."""
        pa, _ = arrow()
        try:
            column.validate(full=_is_string(column.type))
        except pa.ArrowInvalid:
            found = {}
            for row, cell in enumerate(column, before + 1):
                try:
                    cell.as_py()
                except UnicodeDecodeError as error:
                    found[row] = f"row {row}, column {name!r}: byte 0x{error.object[error.start]:02x} is not UTF-8"
            if not found:
                raise
            return found
        return {}

    def _check(self, size: float) -> None:
        if size > self._bound:
            raise DataError(
                f"{self.path}: unpacks to {size / 2**30:,.1f} GiB, and at most {self._bound / 2**30:.3g} GiB are read "
                f"of a file of {self.path.stat().st_size / 2**20:,.1f} MiB; {self._remedy}"
            )


@contextmanager
def bounded(path: Path, remedy: str) -> Iterator[Bounded]:
    """A file to read, closed in the end.

    Raises:
        DataError: the name of a column is no text.
        ConfigError: a library is missing.
        OSError, pyarrow.ArrowException: it cannot be opened, or is no Parquet.
    """
    _, parquet = arrow()
    try:
        about = parquet.read_metadata(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the name of a column is not UTF-8; rename it") from error
    leaves = [about.schema.column(i) for i in range(about.num_columns)]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    # As dictionaries, cells that repeat take no memory before they are counted.
    with parquet.ParquetFile(path, metadata=about, read_dictionary=texts) as file:
        yield Bounded(path, remedy, about, file)


def _unpacked(column: Any) -> int:
    """Bytes of a column [n], each of its cells for itself."""
    pa, _ = arrow()
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    least = _CELL * len(column)
    if not _is_string(column.type.value_type):
        return least
    return max(least, pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0)


def _is_string(kind: Any) -> bool:
    pa, _ = arrow()
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _in(leaf: str, begins: tuple[str, ...]) -> bool:
    return f"{leaf}.".startswith(begins)
