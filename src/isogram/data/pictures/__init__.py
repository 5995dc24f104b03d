"""Talking pictures: what is seen, said in three languages, and written, at five silos."""

from isogram.data.pictures.features import MODALITIES, SOURCES, encoded
from isogram.data.pictures.protocol import load_pictures, variant_items

__all__ = ["MODALITIES", "SOURCES", "encoded", "load_pictures", "variant_items"]
