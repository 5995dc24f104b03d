"""Items to tokens: read ahead, encoded in batches, kept on disk by content."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from isogram.config import ModalityConfig
from isogram.data.base import FloatArray, IntArray
from isogram.data.fetch import cache_dir
from isogram.data.modalities import kind_of
from isogram.data.modalities.base import BadItem, Columned, Item
from isogram.data.modalities.content import cache_key
from isogram.data.modalities.encoders import at_rate, encoder_of
from isogram.data.modalities.reader import Failed, Reader, Reading, Results, counted
from isogram.data.modalities.store import Kept, Store
from isogram.data.room import check_room
from isogram.errors import DataError

Told = Callable[[int, int], None]
"""Items done, items in all."""

_READING = "4"
"""Another one whenever a kind reads an item to something else than before, or more is kept of it."""

_AHEAD = 2
"""Threads that read while the others encode."""

_SLICE = 1000
"""Items that a thread hashes at a time."""

_turn = threading.Lock()


@dataclass(frozen=True)
class Encoded:
    """Tokens [n, T, c] of the items that could be encoded.

    kept [n]: their positions among the items given, ascending. bad: a line for each of the others: where, why, remedy.
    hashes: `content.seen_hash` of each that was kept. from_cache: how many of them were on disk before. notes: what was
    done to some of them that people have to know, such as resampling.
    """

    tokens: FloatArray
    kept: IntArray
    bad: tuple[str, ...]
    hashes: tuple[str, ...]
    from_cache: int
    notes: tuple[str, ...] = ()


def with_columns(config: ModalityConfig, items: Iterable[Item]) -> ModalityConfig:
    """The settings with the columns of the first readable item, where its kind has columns and none are named."""
    kind = kind_of(config)
    if config.columns or not isinstance(kind, Columned):
        return config
    for item in items:
        try:
            return config.model_copy(update={"columns": kind.columns(item)})
        except BadItem:
            continue
    return config


def reader_of(config: ModalityConfig, items: Iterable[Item], *, borrowed: bool = False) -> Reader:
    """What reads and encodes such items: by the settings, the columns of the first of them, and the encoder's rate.

    borrowed: see `Reading`.

    Raises:
        ConfigError: no such kind or encoder, or a library is missing.
    """
    kind, encoder = kind_of(config), encoder_of(config)
    exact = at_rate(with_columns(config, items), encoder)
    return Reader(Reading(kind, exact, alike=not config.columns, borrowed=borrowed), encoder)


def encode(
    items: Sequence[Item],
    config: ModalityConfig,
    *,
    skip_bad: bool = False,
    borrowed: bool = False,
    told: Told = lambda done, total: None,
    cache: Path | None = None,
) -> Encoded:
    """Tokens of items of one modality; what was encoded before is read from disk, to the same bits.

    Tokens depend on nothing but the item and the settings: not on the items beside it, nor on the number of threads,
    which is PyTorch's. On a GPU the last bits may differ before they are kept.

    Args:
        items: any number; they are read a few batches at a time.
        config: of the modality, its kind filled in. Without `columns`, all items have those of the first.
        skip_bad: leave out items that cannot be read, and say so in `Encoded.bad`.
        borrowed: whether nobody chose the columns of `config`, which are the anchors': `Encoded.notes` then counts
            items that have others.
        told: is called as encoding goes on.
        cache: folder of tokens kept by content; if absent `features` in `fetch.cache_dir()`. Interrupted, what is
            done is kept.

    Raises:
        ConfigError: no such kind or encoder, or a library is missing.
        DataError: every item that cannot be read, a `BadItem` if others can; with `skip_bad`, that none can; or tokens
            that do not fit the memory.
        StorageError: the cache cannot be written.
    """
    if not items:
        raise DataError("there are no items to encode")
    reader = reader_of(config, items, borrowed=borrowed)
    version = reader.encoder.fingerprint
    about = {"kind": reader.reading.kind.name, "encoder": version, "reading": _READING}
    about |= reader.reading.config.model_dump(mode="json", include={"rate", "columns"})
    with Store(cache or cache_dir() / "features", about) if version else nullcontext() as store:
        return _Encoding(items, reader, store, told).run(skip_bad=skip_bad)


class _Encoding:
    """One call of `encode`: what is known of each item so far."""

    def __init__(self, items: Sequence[Item], reader: Reader, store: Store | None, told: Told) -> None:
        self._items, self._reader, self._store, self._told = items, reader, store, told
        self._bad: dict[int, str] = {}
        self._keys: list[str] = []
        self._seen: dict[str, str] = {}
        self._said: dict[str, tuple[str, ...]] = {}
        self._places: dict[str, list[int]] = {}
        self._tokens: FloatArray | None = None
        self._done = np.zeros(len(items), bool)

    def run(self, *, skip_bad: bool) -> Encoded:
        with _one_thread_each() as threads, ThreadPoolExecutor(threads + _AHEAD, initializer=_one_thread) as pool:
            try:
                self._hash(pool)
                from_cache = self._from_store()
                self._compute(pool, threads, stop=not skip_bad)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        bad = tuple(self._bad[position] for position in sorted(self._bad))
        if bad and not (skip_bad and self._done.any()):
            raise (BadItem if len(bad) < len(self._items) else DataError)(*bad)
        assert self._tokens is not None
        kept = np.flatnonzero(self._done)
        tokens = self._tokens
        if len(kept) < len(self._items):
            check_room((len(kept), *tokens.shape[1:]))
            tokens = tokens[kept]
        at = kept.tolist()
        said = [(self._items[i].where, self._said[self._keys[i]]) for i in at if self._keys[i] in self._said]
        hashes = tuple(self._seen[self._keys[i]] for i in at)
        return Encoded(tokens, kept, bad, hashes, from_cache, counted(said, len(kept)))

    def _hash(self, pool: ThreadPoolExecutor) -> None:
        slices = [self._items[start : start + _SLICE] for start in range(0, len(self._items), _SLICE)]
        for position, found in enumerate(one for some in pool.map(_try_hashes, slices) for one in some):
            self._keys.append("" if isinstance(found, BadItem) else found)
            if isinstance(found, BadItem):
                self._bad[position] = str(found)
            else:
                self._places.setdefault(found, []).append(position)

    def _from_store(self) -> int:
        if self._store is not None:
            for name, kept in self._store.read(list(self._places)):
                position = self._places[name][0]
                try:
                    self._reader.reading.check(self._items[position], kept.others)
                except BadItem as error:
                    self._note(position, str(error))
                else:
                    self._fill(name, kept)
        return int(self._done.sum())

    def _compute(self, pool: ThreadPoolExecutor, threads: int, *, stop: bool) -> None:
        """Encode what is not done, once per content. With `stop`, once an item is bad others are only looked at."""
        first = [places[0] for places in self._places.values()]
        first = [position for position in first if not self._done[position] and position not in self._bad]
        # Encoders of text put those of one length together: so let them have many of it.
        first.sort(key=lambda position: len(self._items[position].text or ""))
        size = self._reader.encoder.batch
        batches = iter([first[start : start + size] for start in range(0, len(first), size)])
        permits = threading.Semaphore(threads)
        self._tell()

        def submit(batch: list[int]) -> tuple[list[int], Future[Results]]:
            items, keys = [self._items[i] for i in batch], [self._keys[i] for i in batch]
            return batch, pool.submit(self._reader, items, keys, permits, only_look=stop and bool(self._bad))

        waiting = [submit(batch) for batch in islice(batches, threads + _AHEAD)]
        while waiting:
            batch, future = waiting.pop(0)
            found = dict(zip(batch, future.result(), strict=True))
            waiting += [submit(batch) for batch in islice(batches, 1)]
            good = {self._keys[i]: one for i, one in found.items() if isinstance(one, Kept)}
            for name, kept in good.items():
                self._fill(name, kept)
            failed = [one for one in found.values() if isinstance(one, Failed)]
            if len(failed) == len(batch) > 1 and not self._done.any():
                raise DataError(*failed[0].problems)  # it is the encoder: others need not be tried one by one
            for position, one in found.items():
                if isinstance(one, BadItem):
                    self._note(position, str(one))
            if self._store is not None and good:
                self._store.write(good)
            self._tell()

    def _note(self, position: int, problem: str) -> None:
        for place in self._places[self._keys[position]]:
            same = f"{self._items[place].where}: has the content of {self._items[position].where}, which is wrong"
            self._bad[place] = problem if place == position else same

    def _fill(self, name: str, kept: Kept) -> None:
        tokens = kept.tokens
        if self._tokens is None:
            check_room((len(self._items), *tokens.shape))
            self._tokens = np.empty((len(self._items), *tokens.shape), np.float32)
        if tokens.shape != self._tokens.shape[1:]:
            raise DataError(
                f"{self._items[self._places[name][0]].where}: the encoder gives tokens of shape {tokens.shape}, and "
                f"{self._tokens.shape[1:]} for other items; it must give the same for all"
            )
        self._tokens[self._places[name]] = tokens
        self._done[self._places[name]] = True
        self._seen[name] = kept.seen
        if said := self._reader.reading.said(kept.others, kept.changes):
            self._said[name] = said

    def _tell(self) -> None:
        self._told(int(self._done.sum()) + len(self._bad), len(self._items))


def _try_hashes(items: Sequence[Item]) -> list[str | BadItem]:
    found: list[str | BadItem] = []
    for item in items:
        try:
            found.append(cache_key(item))
        except BadItem as error:
            found.append(error)
    return found


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """PyTorch's number of threads, which then encode an item each: so its bits do not depend on their number."""
    with _turn:  # the number is one of the process
        threads = torch.get_num_threads()
        try:
            yield threads
        finally:
            torch.set_num_threads(threads)


def _one_thread() -> None:
    torch.set_num_threads(1)
