"""What the doctor says of a modality by its kind: pictures and texts have no sensors, and no columns."""

from collections.abc import Iterable
from typing import NamedTuple


class Words(NamedTuple):
    """Of one kind of data.

    column: what one number of an item is called. far, still, faint: where to look if rows lie far from the anchors, a
    number never changes at a node, or an item says next to nothing. independent: one item of each of these at most.
    """

    column: str
    far: str
    still: str
    faint: str
    independent: tuple[str, ...]


_NUMBERS = Words(
    "columns",
    "check for another unit, or a sensor that drifted",
    "check for a dead sensor, or a column left empty",
    "check whether they are empty, or imputed",
    ("patient", "site", "hour"),
)

_OTHERS = {
    "image": Words(
        "values of its tokens",
        "check for another camera, size or light",
        "check for a frame or stamp that all its pictures have",
        "check whether they are blank",
        ("scene",),
    ),
    "audio": Words(
        "values of its tokens",
        "check for another microphone, or loudness",
        "check for silence or a hum in all its recordings",
        "check whether they are silence, or noise",
        ("speaker", "recording"),
    ),
    "text": Words(
        "values of its tokens",
        "check for another language, or a form that all its texts fill in",
        "check for a line that all its texts have",
        "check whether they are phrases that fit anything",
        ("author", "document"),
    ),
    "sequence": Words(
        "values of its tokens",
        "check for another organism or region, or adapters left on",
        "check for sequences that are too short, or all alike",
        "check whether they are too short, or mostly unknown bases",
        ("organism",),
    ),
}


def words_of(kind: str) -> Words:
    """The words for a kind; those of numbers where none is known, and for kinds of packages."""
    return _OTHERS.get(kind, _NUMBERS)


def one_per(kinds: Iterable[str]) -> str:
    """Such as "scene, author or document": of what independent items of these kinds are one each."""
    *first, last = dict.fromkeys(name for kind in kinds for name in words_of(kind).independent)
    return f"{', '.join(first)} or {last}" if first else last
