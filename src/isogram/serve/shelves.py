"""Banks of all nodes of a run, under its folder: built once, read when they still are what the items would give."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from isogram.data.modalities.base import Item
from isogram.errors import DataError, RunError
from isogram.files import make_folder
from isogram.inference import Bank, Model
from isogram.run_folder import read_json, write_json

BANKS = "banks"
"""Folder below a run's."""

_INDEX = "banks.json"

Told = Callable[[str, int, int], None]
"""Node, items done, items in all."""


@dataclass(frozen=True)
class Shelf:
    """Items of one node; labels: one each, or none at all."""

    items: Sequence[Item]
    ids: Sequence[str]
    labels: Sequence[str] = ()

    def digest(self, model: Model) -> str:
        """Changes with the model, or with what of the items can be seen without reading their files."""
        found = hashlib.sha256(model.fingerprint.encode())
        for item, name in zip(self.items, self.ids, strict=True):
            state = item.path.stat() if item.path is not None and item.path.exists() else None
            seen = (name, item.where, item.text, item.values, state and (state.st_size, state.st_mtime_ns))
            found.update(repr(seen).encode())
        found.update(repr(tuple(self.labels)).encode())
        return found.hexdigest()


def banks(run: Path, model: Model, shelves: Mapping[str, Shelf], told: Told, said: Callable[[str], None]) -> list[Bank]:
    """A bank for each node, in order, below `run`: those that are there are read, others are built.

    Items that cannot be read are left out, see `Bank.bad`. What is damaged is built anew.

    Args:
        run: folder of the run.
        model: of the run.
        shelves: node -> its items.
        told: is called as a bank is built.
        said: is given a line about each file that was damaged.

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
        path, digest = folder / f"{quote(node, safe='')}.parquet", shelf.digest(model)
        if known.get(node) == digest and path.exists():
            try:
                found.append(Bank.load(path, model))
                continue
            except DataError as error:
                said(f"{error}: that is done now")

        def tell(done: int, total: int, node: str = node) -> None:
            told(node, done, total)

        bank = Bank.build(
            model,
            node,
            list(shelf.items),
            ids=shelf.ids,
            labels=shelf.labels or None,
            skip_bad=True,
            told=tell,
        )
        bank.save(path)
        known[node] = digest
        write_json(index, known)
        found.append(bank)
    return found


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
