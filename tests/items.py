"""Items of silos, and what their kinds make of them."""

from isogram.config import ModalityConfig
from isogram.data.modalities import KINDS
from isogram.data.modalities.base import Item


def read(kind, item, **settings):
    return KINDS[kind].read(item, ModalityConfig(kind=kind, **settings))


def tokens(kind, *items, **settings):
    config = ModalityConfig(kind=kind, **settings)
    return KINDS[kind].builtin(config)([KINDS[kind].read(item, config) for item in items])


def at(path):
    return Item(f"data/{path.name}", path=path)


def cell(text):
    return Item("notes.csv, line 7", text=text)


def told(kind, item, **settings):
    return KINDS[kind].describe(read(kind, item, **settings))
