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

_CELL = 16
"""Bytes that a cell takes at least where it is text, however short."""

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
        self._remedy, self._file = remedy, file
        self._bound = max(UNPACKED, MOST_TIMES * path.stat().st_size)
        groups = [about.row_group(i) for i in range(about.num_row_groups)]
        cells = self.rows + sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
        self._check(max(_CELL * cells, sum(group.total_byte_size for group in groups)))

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Some columns, as record batches; text is of type string.

        Raises:
            DataError: they unpack to more than is read.
        """
        pa, _ = arrow()
        seen = 0
        for batch in self._file.iter_batches(batch_size=_ROWS, columns=list(columns)):
            seen += sum(map(_unpacked, batch.columns))
            self._check(seen)
            plain = [one.dictionary_decode() if pa.types.is_dictionary(one.type) else one for one in batch.columns]
            yield pa.RecordBatch.from_arrays(plain, names=batch.schema.names)

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
        DataError: by what it says of itself, it unpacks to more than `UNPACKED` and `MOST_TIMES` its size.
        ConfigError: a library is missing.
        OSError, pyarrow.ArrowException: it cannot be opened, or is no Parquet.
    """
    _, parquet = arrow()
    about = parquet.read_metadata(path)
    leaves = [about.schema.column(i) for i in range(about.num_columns)]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    # As dictionaries, cells that repeat take no memory before they are counted.
    with parquet.ParquetFile(path, metadata=about, read_dictionary=texts) as file:
        yield Bounded(path, remedy, about, file)


def _unpacked(column: Any) -> int:
    """Bytes of a column [n], each of its cells for itself."""
    pa, _ = arrow()
    import pyarrow.compute as pc

    least = _CELL * len(column)
    if not pa.types.is_dictionary(column.type):
        return max(least, column.nbytes)
    if not (pa.types.is_string(column.type.value_type) or pa.types.is_large_string(column.type.value_type)):
        return least
    return max(least, pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0)
