"""Data sets by name. A new one is one file here, one line in `LOADERS` and one in `config.DATASETS`."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from isogram.config import FILES, SILOS, Config
from isogram.data import digits, pictures, tcga
from isogram.data.base import AnchorItems, AnchorSet, FederatedData, HeldOut, NodeData, evaluation
from isogram.data.digits import load_digits
from isogram.data.fetch import WHEELS, cached, fetch
from isogram.data.files import load_files
from isogram.data.machines import load_machines
from isogram.data.pictures import load_pictures
from isogram.data.sheets import read_tokens
from isogram.data.silos.load import load_silos, look_at
from isogram.data.silos.rows import Told
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
    "pictures": load_pictures,
    "pictures-tuning": partial(load_pictures, tuning=True),
}

ENCODED = ("pictures", "pictures-tuning")
"""Those that frozen encoders make tokens of when they are fetched; loading them needs no source any more."""

SOURCES: dict[str, Mapping[str, tuple[str, ...]]] = {
    **{name: tcga.SOURCES for name in LOADERS if name.startswith("tcga")},
    "digits": digits.SOURCES,
    "digits-sites": digits.SOURCES,
    "machines": {},  # simulated
    **dict.fromkeys(ENCODED, pictures.SOURCES),
}
"""Data set -> wheel -> the files that are read from it."""


def is_here(name: str) -> bool:
    """Whether a built-in set can be loaded without a network."""
    if name in ENCODED:
        return pictures.encoded()
    paths = [path for wheel, files in SOURCES[name].items() for path in cached(WHEELS[wheel], files).values()]
    return all(path.is_file() for path in paths)


def fetch_all(
    name: str, *, deb: Path | None = None, told: Callable[[str, int, int], None] = lambda part, done, total: None
) -> None:
    """Download what a built-in set needs, and encode what has to be, if it is not here.

    Args:
        name: of the set.
        deb: the Debian package of the talking pictures' stamps, where apt cannot be used.
        told: is called as encoding goes on, with the part, items done and items in all.

    Raises:
        ConfigError: a library that encoding needs is missing.
        DataError, StorageError: as `fetch.fetch` does.
    """
    if name in ENCODED:
        from isogram.data.pictures.encode import encode_all  # loads PyTorch

        encode_all(deb, told)
        return
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


def open_data(config: Config, told: Told | None = None) -> FederatedData:
    """The data that a configuration names: a built-in set, or folders and tables of your own.

    Args:
        config: of a run.
        told: is called as items of silos are encoded, with what, how many are done, and how many there are.

    Raises:
        ConfigError: a kind or encoder that a silo needs does not exist, or its library is missing.
        DataError, StorageError: every problem found in them.
    """
    private = config.privacy.epsilon > 0
    if config.data == FILES:
        return load_files(config.files, anchors=config.anchors, seed=config.seed, private=private)
    if config.data == SILOS:
        return load_silos(config.silos, anchors=config.anchors, seed=config.seed, private=private, told=told)
    return load(config.data, anchors=config.anchors, seed=config.seed)


def check_data(config: Config) -> None:
    """Whether the data that a configuration names could be opened, as far as that is told before items are encoded.

    Raises:
        ConfigError, DataError, StorageError: as `open_data`.
    """
    if config.data == SILOS:
        look_at(config.silos, private=config.privacy.epsilon > 0)
    elif config.data == FILES or is_here(config.data):
        open_data(config)


__all__ = [
    "ENCODED",
    "LOADERS",
    "AnchorItems",
    "AnchorSet",
    "FederatedData",
    "HeldOut",
    "NodeData",
    "check_data",
    "evaluation",
    "fetch_all",
    "is_here",
    "load",
    "open_data",
    "read_tokens",
]
