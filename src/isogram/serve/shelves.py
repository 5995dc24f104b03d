"""Banks of all nodes of a run, under its folder: built once, read when they still are what the items would give."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from isogram.errors import DataError, RunError
from isogram.files import make_folder
from isogram.inference import Bank, Model, Source
from isogram.run_folder import read_json, write_json

BANKS = "banks"
"""Folder below a run's."""

_INDEX = "banks.json"

Told = Callable[[str, int, int], None]
"""Node, items done, items in all."""


def digest(source: Source, model: Model) -> str:
    """Changes with the model, or with what of the items can be seen without reading their files."""
    found = hashlib.sha256(model.fingerprint.encode())
    for item, name, label in zip(source.items, source.ids, source.labels, strict=True):
        state = item.path.stat() if item.path is not None and item.path.exists() else None
        seen = (name, label, item.where, item.text, item.values, state and (state.st_size, state.st_mtime_ns))
        found.update(repr(seen).encode())
    found.update(repr(source.bad).encode())
    return found.hexdigest()


def banks(
    run: Path, model: Model, shelves: Mapping[str, Source], told: Told, said: Callable[[str], None]
) -> list[Bank]:
    """A bank for each node, in order, below `run`: those that are there are read, others are built.

    Items that cannot be read are left out, see `Bank.bad`. What is damaged, or of another node, is built anew.

    Args:
        run: folder of the run.
        model: of the run.
        shelves: node -> its items.
        told: is called as a bank is built.
        said: is given a line about each file that was refused.

    Raises:
        DataError: no item of a node can be read.
        ConfigError: a library is missing.
        StorageError: the folder cannot be written.
    """
    folder = run / BANKS
    make_folder(folder)
    index = folder / _INDEX
    known, found = _known(index, said), []
    for node, shelf in shelves.items():
        path, now = folder / f"{quote(node, safe='')}.parquet", digest(shelf, model)
        if known.get(node) == now and path.exists():
            try:
                found.append(_read(path, model, node))
                continue
            except DataError as error:
                said(f"{error}: that is done now")

        def tell(done: int, total: int, node: str = node) -> None:
            told(node, done, total)

        bank = Bank.of(model, node, shelf, skip_bad=True, told=tell)
        bank.save(path)
        known[node] = now
        write_json(index, known)
        found.append(bank)
    return found


def _read(path: Path, model: Model, node: str) -> Bank:
    """The bank of a node.

    Raises:
        DataError: it is damaged, or of another model or node.
    """
    bank = Bank.load(path, model)
    if bank.about["node"] != node:
        raise DataError(f"{path} holds items of node {bank.about['node']!r}, not of {node!r}; embed its items again")
    return bank


def _known(index: Path, said: Callable[[str], None]) -> dict[str, str]:
    """Node -> digest of the items that its bank was built of."""
    try:
        known = read_json(index) if index.exists() else {}
    except RunError:
        known = None
    if isinstance(known, dict):
        return known
    said(f"{index} is damaged: all banks of this run are built anew")
    return {}
