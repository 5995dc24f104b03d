"""One hash of a whole anchor set, for organisations to compare before anything is computed. docs/anchor-sets.md."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from isogram.data.anchor_set.folder import guess_modalities, read_anchor_set
from isogram.data.modalities.base import BadItem, Item
from isogram.data.modalities.content import content_hash
from isogram.data.sheets import Problems


def hash_anchor_set(folder: Path) -> str:
    """sha256 over concepts, the content of their items, and quality: what has an effect on alignment.

    Another order of rows or columns, other names of files, line endings of the tables, provenance and licences leave it
    as it is. `AnchorSet.hash` is over tokens instead: equal folders have the same there if encoders are equal, too.

    Raises:
        DataError: the folder cannot be read as an anchor set; or some files of it cannot.
    """
    anchors = read_anchor_set(folder, guess_modalities(folder))
    lines, problems = [], Problems()
    for modality, held in anchors.items.items():
        for position, item, quality in zip(*held, strict=True):
            try:
                lines.append(json.dumps([anchors.concepts[position], modality, _content(item), float(quality).hex()]))
            except BadItem as error:
                problems += error.problems
    problems.stop()
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _content(item: Item) -> str:
    # Columns of a table may change places.
    return content_hash(item if item.values is None else replace(item, values=tuple(sorted(item.values))))
