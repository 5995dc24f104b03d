"""Text: a cell of a table, or a .txt file."""

import codecs
import string
import unicodedata
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

from isogram.config import ModalityConfig
from isogram.data.base import FloatArray
from isogram.data.modalities.base import BadItem, Builtin, Encoder, Item, bytes_of

WIDTH = 256
"""Values per token of the built-in tokenizer."""

_HASHED = (("word", (1, 1)), ("word", (2, 2)), ("char_wb", (3, 3)), ("char_wb", (4, 5)))


class TextKind:
    """UTF-8, with a byte order mark or without; white space around it is not part of it.

    However its lines end and its letters are composed, it is the same text.
    """

    name = "text"
    suffixes = frozenset({".txt"})

    def read(self, item: Item, config: ModalityConfig) -> str:
        """The text; see `Kind.read`."""
        text = item.text if item.text is not None else _decoded(item)
        text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
        text = text.strip("\ufeff\x00" + string.whitespace).strip()
        if not text:
            raise BadItem(f"{item.where}: holds no text; fill it in or leave it out")
        return text

    def describe(self, read: str) -> str:
        """Its words."""
        words = len(read.split())
        return f"{words:,} word{'' if words == 1 else 's'}"

    def builtin(self, config: ModalityConfig) -> Encoder:
        """Hashed words, pairs of words, and character n-grams of 3 and of 4 to 5: [4, 256], each of unit length."""
        return Builtin("text", "1", _tokens)


def _decoded(item: Item) -> str:
    data = bytes_of(item)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BadItem(f"{item.where}: is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadItem(f"{item.where}: is not UTF-8 (line {line}, byte {error.start}); save it as UTF-8") from error


def _tokens(texts: Sequence[str]) -> FloatArray:
    parts = []
    for analyzer, span in _HASHED:
        vectorizer = HashingVectorizer(n_features=WIDTH, analyzer=analyzer, ngram_range=span, dtype=np.float32)
        parts.append(vectorizer.transform(texts).toarray())
    return np.stack(parts, axis=1)


TEXT = TextKind()
