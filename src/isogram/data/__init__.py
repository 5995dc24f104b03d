"""Data sets by name. A new one is one file here, one line in `LOADERS` and one in `config.DATASETS`."""

from collections.abc import Callable, Mapping
from functools import partial

from isogram.config import FILES, Config
from isogram.data import digits, tcga
from isogram.data.base import AnchorItems, AnchorSet, FederatedData, HeldOut, NodeData, evaluation
from isogram.data.digits import load_digits
from isogram.data.fetch import WHEELS, cached, fetch
from isogram.data.files import load_files
from isogram.data.machines import load_machines
from isogram.data.sheets import read_tokens
from isogram.data.sites import load_digits_sites
from isogram.data.tcga import load_tcga
from isogram.errors import ConfigError

LOADERS: dict[str, Callable[..., FederatedData]] = {
    "tcga-brca": load_tcga,
    "tcga-brca-chain": partial(load_tcga, overlap=0.0),
    "tcga-brca-chain20": partial(load_tcga, overlap=0.2),
    "tcga-brca-tuning": partial(load_tcga, tuning=True),
    "digits": load_digits,
    "digits-sites": load_digits_sites,
    "machines": load_machines,
}


SOURCES: dict[str, Mapping[str, tuple[str, ...]]] = {
    **{name: tcga.SOURCES for name in LOADERS if name.startswith("tcga")},
    "digits": digits.SOURCES,
    "digits-sites": digits.SOURCES,
    "machines": {},  # simulated
}
"""Data set -> wheel -> the files that are read from it."""


def is_here(name: str) -> bool:
    """Whether a built-in set can be loaded without a network."""
    paths = [path for wheel, files in SOURCES[name].items() for path in cached(WHEELS[wheel], files).values()]
    return all(path.is_file() for path in paths)


def fetch_all(name: str) -> None:
    """Download what a built-in set needs, if it is not here.

    Raises:
        DataError, StorageError: as `fetch.fetch` does.
    """
    for wheel, files in SOURCES[name].items():
        fetch(WHEELS[wheel], files)


def load(name: str, *, anchors: int, seed: int) -> FederatedData:
    """A built-in data set by name, with `anchors` public anchors (per class of the digits) and the splits of `seed`.

    Raises:
        ConfigError: no such data set.
        DataError, StorageError: its files are not what they should be, or cannot be had.
    """
    if name not in LOADERS:
        raise ConfigError(f"no data set {name!r}; choose one of {', '.join(LOADERS)}")
    return LOADERS[name](anchors=anchors, seed=seed)


def open_data(config: Config) -> FederatedData:
    """The data that a configuration names: a built-in set, or tables of your own.

    Raises:
        DataError, StorageError: every problem found in them.
    """
    if config.data == FILES:
        return load_files(config.files, anchors=config.anchors, seed=config.seed)
    return load(config.data, anchors=config.anchors, seed=config.seed)


__all__ = [
    "LOADERS",
    "AnchorItems",
    "AnchorSet",
    "FederatedData",
    "HeldOut",
    "NodeData",
    "evaluation",
    "fetch_all",
    "is_here",
    "load",
    "open_data",
    "read_tokens",
]
