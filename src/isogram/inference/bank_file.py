"""The file of a bank: Parquet, with what the whole bank is in its header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isogram.data.base import FloatArray
from isogram.data.parquet import arrow, bounded
from isogram.errors import DataError
from isogram.files import write_atomic

TEXTS = ("id", "where", "path", "text", "label")
"""Columns of text: the fields of an `Entry`."""

_FORMAT, _HEADER = "isogram-bank-1", b"isogram"
_COORDINATES, _HUBNESS, _LEFT_OUT = "coordinates", "hubness", "left_out"
_COLUMNS = (*TEXTS, _COORDINATES, _HUBNESS)
_ABOUT = ("model", "anchors", "node", "modality", "encoder")

Parts = tuple[FloatArray, FloatArray, Any, dict[str, str], tuple[str, ...]]
"""As `Bank` has them: coordinates, hubness, texts, about, bad."""


def texts_of(columns: Mapping[str, Any]) -> Any:
    """The table of `TEXTS`."""
    pa, _ = arrow()
    return pa.table(dict(columns), schema=pa.schema([(name, pa.string()) for name in TEXTS]))


def write(path: Path, parts: Parts) -> None:
    """The file, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    pa, parquet = arrow()
    coordinates, hubness, texts, about, bad = parts
    flat = pa.array(np.ascontiguousarray(coordinates).reshape(-1))
    rows = pa.FixedSizeListArray.from_arrays(flat, coordinates.shape[1])
    table = texts.append_column(_COORDINATES, rows).append_column(_HUBNESS, pa.array(hubness))
    header = json.dumps({"format": _FORMAT, _LEFT_OUT: list(bad), **about}, sort_keys=True)
    sink = pa.BufferOutputStream()
    parquet.write_table(table.replace_schema_metadata({_HEADER: header}), sink)
    write_atomic(path, sink.getvalue().to_pybytes())


def read(path: Path) -> Parts:
    """What `write` wrote.

    Raises:
        DataError: it is none, is damaged, or of another version.
    """
    pa, _ = arrow()
    remedy = "give a file that `isogram embed` wrote"
    if not path.is_file():  # opening a pipe would wait
        raise DataError(f"cannot read {path}: there is no such file; {remedy}")
    try:
        with bounded(path, remedy) as file:
            found = file.schema.metadata or {}
            if _HEADER not in found:
                raise DataError(f"{path} holds no embedded items; {remedy}")
            names = [name for name in file.schema.names if name in _COLUMNS]
            table = pa.Table.from_batches(file.batches(names), schema=pa.schema(map(file.schema.field, names)))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {str(error).partition(chr(10))[0]}; {remedy}") from error
    try:
        header = json.loads(found[_HEADER])
        if header["format"] == _FORMAT:
            return _parts(table, header)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise DataError(f"{path} is damaged ({why}); embed its items again") from error
    raise DataError(f"{path} is a bank of another version of isogram; embed its items again")


def _parts(table: Any, header: Mapping[str, Any]) -> Parts:
    pa, _ = arrow()
    about, bad = {name: header[name] for name in _ABOUT}, header.get(_LEFT_OUT, [])  # before 0.4 there was none
    if not isinstance(bad, list) or not all(isinstance(value, str) for value in (*about.values(), *bad)):
        raise ValueError("its header holds what is no text")
    for name in _COLUMNS:
        if table.column_names.count(name) != 1:
            raise ValueError(f"it has no column {name!r}")
        column = table.column(name)
        if name in TEXTS and column.type != pa.string():
            raise ValueError(f"column {name!r} is no text")
        if column.null_count:
            raise ValueError(f"column {name!r} has empty cells")
    rows = table.column(_COORDINATES).combine_chunks()
    coordinates = np.asarray(rows.flatten(), np.float32).reshape(len(table), rows.type.list_size)
    hubness = np.asarray(table.column(_HUBNESS), np.float32)
    if not (np.isfinite(coordinates).all() and np.isfinite(hubness).all()):
        raise ValueError("its coordinates or hubness are no finite numbers")
    return coordinates, hubness, table.select(TEXTS), about, tuple(bad)
