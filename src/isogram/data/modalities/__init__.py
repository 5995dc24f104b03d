"""Kinds of data that a silo may hold, each one file here and one line in `KINDS`; more come with other packages."""

import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from isogram.config import ModalityConfig
from isogram.data.modalities.audio import AUDIO
from isogram.data.modalities.base import Kind
from isogram.data.modalities.image import IMAGE
from isogram.data.modalities.sequence import SEQUENCE
from isogram.data.modalities.series import SERIES
from isogram.data.modalities.table import TABLE
from isogram.data.modalities.text import TEXT
from isogram.data.sheets import nearest
from isogram.errors import ConfigError

KINDS: dict[str, Kind] = {kind.name: kind for kind in (IMAGE, AUDIO, TEXT, SERIES, TABLE, SEQUENCE)}

ENTRY_POINTS = "isogram.tokenizers"
"""Group of the entry points by which a package brings a kind: its name = an object that is a `Kind`."""


def kind_of(config: ModalityConfig) -> Kind:
    """The kind that a modality's settings name: one of `KINDS`, or an installed package's.

    Raises:
        ConfigError: there is none of this name, two packages bring it, or the package's is none.
    """
    name, brought = config.kind, _brought(tuple(sys.path))
    rivals = [f"the package {_package(one)}" for one in brought.get(name, ())]
    if name in KINDS and rivals:
        raise ConfigError(f"{rivals[0]} brings a kind {name!r}, which is built in; uninstall it, or rename its kind")
    if name in KINDS:
        return KINDS[name]
    if not rivals:
        known = [*KINDS, *brought]
        near = nearest(name, known)
        told = f"; did you mean {near!r}?" if near else ""
        # A kind whose package is missing may be called like another: so all are listed, too.
        raise ConfigError(
            f"there is no kind of data {name!r}; set `kind` of the modality to one of {', '.join(known)}{told}"
        )
    if len(rivals) > 1:
        raise ConfigError(f"{' and '.join(rivals)} both bring a kind {name!r}; uninstall one")
    return _loaded(brought[name][0])


@lru_cache(maxsize=1)
def _brought(path: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    """By name; packages are looked up once, or when the path changes."""
    found: dict[str, list[EntryPoint]] = {}
    for one in entry_points(group=ENTRY_POINTS):
        found.setdefault(one.name, []).append(one)
    return found


def _loaded(point: EntryPoint) -> Kind:
    where = f"the package {_package(point)}: its kind {point.name!r} ({point.value})"
    try:
        kind = point.load()
    except Exception as error:  # whatever its module raises
        raise ConfigError(
            f"{where} cannot be loaded ({type(error).__name__}: {error}); update or uninstall it"
        ) from error
    lacking = [part for part in ("read", "describe", "builtin") if not callable(getattr(kind, part, None))]
    lacking += [part for part in ("name", "suffixes") if not hasattr(kind, part)]
    if lacking:
        raise ConfigError(f"{where} lacks {', '.join(lacking)}; see docs/modalities.md, or uninstall it")
    if kind.name != point.name:
        raise ConfigError(f"{where} calls itself {kind.name!r}; its entry point must have the same name")
    return kind


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
