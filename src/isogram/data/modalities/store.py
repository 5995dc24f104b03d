"""Tokens kept on disk by the item they were made of: one SQLite file per encoder and its settings."""

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from isogram.data.base import FloatArray
from isogram.errors import DataError, StorageError
from isogram.files import writing

_KEYS = 500
"""Keys a query; SQLite takes 999 at least."""

_WAIT = 60.0
"""Seconds until another process has finished a write of a few milliseconds."""

_REMEDY = "set ISOGRAM_CACHE to a folder on a local disk"


class Kept(NamedTuple):
    """Of one item: tokens [T, c]; `content.seen_hash`; columns beside those of the settings; `Changing.changes`."""

    tokens: FloatArray
    seen: str
    others: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()


class Store:
    """float32 tokens by sha256: what is read has the bits that were written. Several processes may share it.

    Only the user may read its files: they hold what encoders made of private items.
    """

    def __init__(self, folder: Path, about: Mapping[str, object]) -> None:
        """Open or make the file for `about`, which is all that tokens depend on beside the item.

        Raises:
            DataError: the file is damaged.
            StorageError: the folder cannot be written.
        """
        text = json.dumps(about, sort_keys=True)
        self.path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.sqlite"
        with writing(folder, _REMEDY):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.touch(mode=0o600)
        with self._explained():
            self._base = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None)
            # Readers go on while another process writes; a power cut may lose the last batches, never the file.
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._base.execute("CREATE TABLE IF NOT EXISTS about (text TEXT PRIMARY KEY)")
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS tokens "
                "(key BLOB PRIMARY KEY, count INTEGER, width INTEGER, crc INTEGER, data BLOB, about TEXT)"
            )
            self._base.execute("INSERT OR IGNORE INTO about VALUES (?)", (text,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()

    def read(self, hashes: Sequence[str]) -> Iterator[tuple[str, Kept]]:
        """Those that are kept, in any order.

        Raises:
            DataError: the file is damaged.
        """
        for start in range(0, len(hashes), _KEYS):
            keys = [bytes.fromhex(one) for one in hashes[start : start + _KEYS]]
            query = f"SELECT key, count, width, crc, data, about FROM tokens WHERE key IN ({','.join('?' * len(keys))})"
            with self._explained():
                rows = self._base.execute(query, keys).fetchall()
            for key, count, width, crc, data, about in rows:
                if len(data) != 4 * count * width or zlib.crc32(data + about.encode()) != crc:
                    raise self._damaged("tokens that are not those written")
                seen, others, changes = json.loads(about)
                tokens = np.frombuffer(data, "<f4").reshape(count, width)
                yield key.hex(), Kept(tokens, seen, tuple(others), tuple(changes))

    def write(self, items: Mapping[str, Kept]) -> None:
        """Keep items by hash, all or none of them; what is there already stays.

        Raises:
            DataError: the file is damaged.
            StorageError: it cannot be written.
        """
        rows = []
        for name, one in items.items():
            data, about = np.ascontiguousarray(one.tokens, "<f4").tobytes(), json.dumps(one[1:])
            rows.append((bytes.fromhex(name), *one.tokens.shape, zlib.crc32(data + about.encode()), data, about))
        with self._explained():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                self._base.executemany("INSERT OR IGNORE INTO tokens VALUES (?, ?, ?, ?, ?, ?)", rows)
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    def _damaged(self, why: object) -> DataError:
        return DataError(f"{self.path} is damaged ({why}); delete it, and what it kept is computed again")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            # Locked, full, not to be written: the machine, not the file.
            raise StorageError(
                f"cannot use {self.path}: {error}; free some space or get permission there, or {_REMEDY}"
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error
