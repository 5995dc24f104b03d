"""What is made of a trained model: coordinates of new items, search among them, classes, a card."""

from isogram.inference.bank import Bank, Entry, Hit
from isogram.inference.model import Model
from isogram.inference.source import Source, read_source

__all__ = ["Bank", "Entry", "Hit", "Model", "Source", "read_source"]
