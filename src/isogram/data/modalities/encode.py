"""Items to tokens: read ahead, encoded in batches, kept on disk by content."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isogram.config import ModalityConfig
from isogram.data.base import FloatArray, IntArray
from isogram.data.fetch import cache_dir
from isogram.data.modalities import kind_of
from isogram.data.modalities.base import BadItem, Columned, Encoder, Item, Kind, bytes_of
from isogram.data.modalities.encoders import encoder_of
from isogram.data.modalities.store import Store
from isogram.data.sheets import few
from isogram.errors import DataError

Told = Callable[[int, int], None]
"""Items done, items in all."""

_READING = "2"
"""Another one whenever a kind reads an item to something else than before."""

_AHEAD = 2
"""Threads that read while the others encode."""

_SLICE = 1000
"""Items that a thread hashes at a time."""

_Results = list[FloatArray | BadItem | None]
"""Of each item of a batch: its tokens, what is wrong, or None if it was only read."""

_turn = threading.Lock()


@dataclass(frozen=True)
class Encoded:
    """Tokens [n, T, c] of the items that could be encoded.

    kept [n]: their positions among the items given, ascending. bad: a line for each of the others: where, why, remedy.
    hashes: `content_hash` of each that was kept. from_cache: how many of them were on disk before.
    """

    tokens: FloatArray
    kept: IntArray
    bad: tuple[str, ...]
    hashes: tuple[str, ...]
    from_cache: int


def content_hash(item: Item) -> str:
    """The sha256, in hex, of a file's bytes, of a cell's UTF-8, or of names and numbers as JSON.

    Raises:
        BadItem: its file cannot be read.
    """
    if item.values is not None:
        return hashlib.sha256(json.dumps(item.values, separators=(",", ":")).encode()).hexdigest()
    if item.text is not None:
        return hashlib.sha256(item.text.encode("utf-8", "surrogatepass")).hexdigest()
    return hashlib.sha256(bytes_of(item)).hexdigest()


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


def encode(
    items: Sequence[Item],
    config: ModalityConfig,
    *,
    skip_bad: bool = False,
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
        told: is called as encoding goes on.
        cache: folder of tokens kept by content; if absent `features` in `fetch.cache_dir()`. Interrupted, what is
            done is kept.

    Raises:
        ConfigError: no such kind or encoder, or a library is missing.
        DataError: every item that cannot be read; with `skip_bad`, that none can.
        StorageError: the cache cannot be written.
    """
    if not items:
        raise DataError("there are no items to encode")
    kind, encoder = kind_of(config), encoder_of(config)
    exact = with_columns(config, items)
    if exact.rate is None and (rate := getattr(encoder, "rate", None)):
        exact = exact.model_copy(update={"rate": rate})
    reader = _Reader(kind, encoder, exact, alike=not config.columns)
    about = {"kind": kind.name, "encoder": encoder.fingerprint, "reading": _READING}
    about |= exact.model_dump(mode="json", include={"rate", "columns"})
    with Store(cache or cache_dir() / "features", about) if encoder.fingerprint else nullcontext() as store:
        return _Encoding(items, reader, store, told).run(skip_bad=skip_bad)


class _Encoding:
    """One call of `encode`: what is known of each item so far."""

    def __init__(self, items: Sequence[Item], reader: "_Reader", store: Store | None, told: Told) -> None:
        self._items, self._reader, self._store, self._told = items, reader, store, told
        self._bad: dict[int, str] = {}
        self._hashes: list[str] = []
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
            raise DataError(*bad)
        assert self._tokens is not None
        kept = np.flatnonzero(self._done)
        tokens = self._tokens[kept] if len(kept) < len(self._items) else self._tokens
        return Encoded(tokens, kept, bad, tuple(self._hashes[i] for i in kept), from_cache)

    def _hash(self, pool: ThreadPoolExecutor) -> None:
        slices = [self._items[start : start + _SLICE] for start in range(0, len(self._items), _SLICE)]
        for position, found in enumerate(one for some in pool.map(_try_hashes, slices) for one in some):
            self._hashes.append("" if isinstance(found, BadItem) else found)
            if isinstance(found, BadItem):
                self._bad[position] = str(found)
            else:
                self._places.setdefault(found, []).append(position)

    def _from_store(self) -> int:
        if self._store is not None:
            for name, tokens in self._store.read(list(self._places)):
                self._fill(name, tokens)
        return int(self._done.sum())

    def _compute(self, pool: ThreadPoolExecutor, threads: int, *, stop: bool) -> None:
        """Encode what is not done, once per content. With `stop`, once an item is bad others are only looked at."""
        first = [places[0] for places in self._places.values() if not self._done[places[0]]]
        # Encoders of text put those of one length together: so let them have many of it.
        first.sort(key=lambda position: len(self._items[position].text or ""))
        size = self._reader.encoder.batch
        batches = iter([first[start : start + size] for start in range(0, len(first), size)])
        permits = threading.Semaphore(threads)
        self._tell()

        def submit(batch: list[int]) -> tuple[list[int], Future[_Results]]:
            items = [self._items[position] for position in batch]
            return batch, pool.submit(self._reader, items, permits, only_look=stop and bool(self._bad))

        waiting = [submit(batch) for batch in islice(batches, threads + _AHEAD)]
        while waiting:
            batch, future = waiting.pop(0)
            found = dict(zip(batch, future.result(), strict=True))
            waiting += [submit(batch) for batch in islice(batches, 1)]
            good = {self._hashes[i]: one for i, one in found.items() if isinstance(one, np.ndarray)}
            for name, tokens in good.items():
                self._fill(name, tokens)
            for position, one in found.items():
                if isinstance(one, BadItem):
                    self._note(position, str(one))
            if self._store is not None and good:
                self._store.write(good)
            self._tell()

    def _note(self, position: int, problem: str) -> None:
        for place in self._places[self._hashes[position]]:
            same = f"{self._items[place].where}: has the content of {self._items[position].where}, which is wrong"
            self._bad[place] = problem if place == position else same

    def _fill(self, name: str, tokens: FloatArray) -> None:
        if self._tokens is None:
            self._tokens = np.empty((len(self._items), *tokens.shape), np.float32)
        if tokens.shape != self._tokens.shape[1:]:
            raise DataError(
                f"{self._items[self._places[name][0]].where}: the encoder gives tokens of shape {tokens.shape}, and "
                f"{self._tokens.shape[1:]} for other items; it must give the same for all"
            )
        self._tokens[self._places[name]] = tokens
        self._done[self._places[name]] = True

    def _tell(self) -> None:
        self._told(int(self._done.sum()) + len(self._bad), len(self._items))


@dataclass(frozen=True)
class _Reader:
    """Items of one batch to tokens, or to what is wrong with them.

    alike: whether columns beside those of the settings are wrong.
    """

    kind: Kind
    encoder: Encoder
    config: ModalityConfig
    alike: bool

    def __call__(self, items: Sequence[Item], permits: threading.Semaphore, *, only_look: bool) -> _Results:
        found: _Results = []
        read = []
        for item in items:
            try:
                read.append(self._read(item))
                found.append(None)
            except BadItem as error:
                found.append(error)
        good = [place for place, one in enumerate(found) if one is None]
        if good and not only_look:
            with permits:
                tokens = self._encode(read, [items[place] for place in good])
            for place, one in zip(good, tokens, strict=True):
                found[place] = one
        return found

    def _read(self, item: Item) -> Any:
        read = self.kind.read(item, self.config)
        if self.alike and (others := getattr(read, "others", ())):
            raise BadItem(
                f"{item.where}: has columns {few(others)} beside {few(self.config.columns)}, which the first item has; "
                "name those to use in `columns` of the modality"
            )
        return read

    def _encode(self, read: Sequence[Any], items: Sequence[Item]) -> _Results:
        try:
            tokens = np.asarray(self.encoder(read), np.float32)
        except Exception as error:
            if len(read) > 1:  # which of them is it?
                return [one for pair in zip(read, items, strict=True) for one in self._encode([pair[0]], [pair[1]])]
            if isinstance(error, DataError):
                return [BadItem(f"{items[0].where}: {error}")]
            raise DataError(
                f"{items[0].where}: encoder {self.config.encoder!r} of {self.kind.name} fails "
                f"({type(error).__name__}: {error}); choose another one, or leave the item out"
            ) from error
        if tokens.ndim != 3 or len(tokens) != len(read):
            raise DataError(
                f"encoder {self.config.encoder!r} of {self.kind.name} gives {tokens.shape} for {len(read)} items; it "
                "must give [items, tokens, values]"
            )
        wrong = "the encoder gives numbers that are not finite; look at the item, or choose another encoder"
        return [
            one if np.isfinite(one).all() else BadItem(f"{item.where}: {wrong}")
            for one, item in zip(tokens, items, strict=True)
        ]


def _try_hashes(items: Sequence[Item]) -> list[str | BadItem]:
    found: list[str | BadItem] = []
    for item in items:
        try:
            found.append(content_hash(item))
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
