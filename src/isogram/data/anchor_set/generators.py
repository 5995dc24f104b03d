"""What makes synthetic items: four programs, and those that other packages offer as `isogram.generators`.

A generator is made of options, all text, and then called once per item that is wanted.
"""

import io
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from isogram.config import ModalityConfig
from isogram.data.anchor_set.folder import cell_items, concepts_of
from isogram.data.anchor_set.layout import CONCEPT, LICENCE
from isogram.data.modalities.base import Item, bytes_of
from isogram.data.modalities.image import IMAGE
from isogram.data.sheets import Problems
from isogram.data.silos.tables import read_table
from isogram.errors import ConfigError, DataError

GROUP = "isogram.generators"
"""Entry points of packages: name -> what is called with the options and gives a `Generator`."""

SPEEDS = (85, 115)
"""Percent of its speed and pitch at which a sound is played again."""

_SECONDS = 60


@dataclass(frozen=True)
class Wanted:
    """The item that is to be made: of which concept, from what it has in other modalities, and the only randomness.

    columns: that the set has items in, whether this concept does or not.
    """

    concept: str
    items: Mapping[str, Item]
    licences: Mapping[str, str]
    draw: np.random.Generator
    columns: tuple[str, ...]

    def item(self, column: str, generator: str) -> Item | None:
        """What the concept has in a column that a generator was told to use.

        Raises:
            ConfigError: the set has no such column.
        """
        if column not in self.columns:
            there = ", ".join(map(repr, self.columns))
            raise ConfigError(f"{generator} is to use column {column!r}, and the set has none; there are {there}")
        return self.items.get(column)

    def text(self, column: str, generator: str) -> str | None:
        """The same of a column of texts, or the concept's own name.

        Raises:
            ConfigError: the set has no such column, or it holds something else.
        """
        if column == CONCEPT:
            return self.concept
        item = self.item(column, generator)
        if item is not None and item.text is None:
            raise ConfigError(f"{generator} is to use the text of column {column!r}, which holds none; name another")
        return None if item is None else item.text


@dataclass(frozen=True)
class Made:
    """Text for a cell, or the content of a file with its suffix; a licence, if it is another than the row's."""

    content: str | bytes
    suffix: str = ""
    licence: str = ""


class Generator(Protocol):
    """Makes items of one modality."""

    def __call__(self, wanted: Wanted) -> Made | None:
        """The item, or None where there is nothing to make it from.

        Raises:
            IsogramError: what it would be made from cannot be used, or a program is missing.
        """
        ...


class Template:
    """Text around the concept, or around the text that it has in another column, in braces."""

    def __init__(self, template: str = "a picture of {concept}") -> None:
        self.template = template
        if not re.search(r"\{[^{}]+\}", template):
            raise ConfigError(
                f"template = {template!r} would be the same for all; write {{concept}} in it, or a column"
            )

    def __call__(self, wanted: Wanted) -> Made | None:
        """The template, filled in."""
        known = {name: wanted.text(name, "template") for name in re.findall(r"\{([^{}]+)\}", self.template)}
        if None in known.values():
            return None
        return Made(re.sub(r"\{([^{}]+)\}", lambda found: str(known[found[1]]), self.template))


class Espeak:
    """Speech by the program espeak-ng.

    Args:
        voice: as `espeak-ng --voices` lists them.
        text: column that has what is said; without it the concept is.
    """

    def __init__(self, voice: str = "en", text: str = CONCEPT) -> None:
        self.voice, self.text = voice, text
        found = shutil.which("espeak-ng")
        if found is None:
            raise ConfigError("the program espeak-ng is not installed; install the package espeak-ng of your system")
        self.program = found
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9+_-]*", voice) or not self._said("a"):
            raise ConfigError(f"espeak-ng has no voice {voice!r}; `espeak-ng --voices` lists them")

    def __call__(self, wanted: Wanted) -> Made | None:
        """One WAV."""
        text = wanted.text(self.text, "espeak")
        if not text:
            return None
        sound = self._said(text)
        if not sound:
            raise DataError(f"concept {wanted.concept!r}: espeak-ng says nothing of {text!r}; give it other words")
        return Made(sound, ".wav")

    def _said(self, text: str) -> bytes:
        """The sound, empty if there is none."""
        with tempfile.TemporaryDirectory(prefix="isogram-") as folder:
            path = Path(folder) / "said.wav"
            try:
                # On stdin, so that no text is taken for an option.
                subprocess.run(
                    [self.program, "-v", self.voice, "-w", str(path), "--stdin"],
                    input=text.encode(),
                    capture_output=True,
                    timeout=_SECONDS,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise DataError(f"espeak-ng failed at {text[:100]!r}: {error}; try it by itself") from error
            return path.read_bytes() if path.exists() else b""


class Augment:
    """Another column's picture mirrored, turned and in other colours, or its recording at another speed and pitch.

    It stands for the concept in a modality of the same kind, such as that of another site's camera. The changes are
    those whose worth docs/anchors.md measures.
    """

    def __init__(self, source: str = "") -> None:
        self.source = source
        if not source:
            raise ConfigError("augment needs source=COLUMN: of the pictures or recordings that it is to change")

    def __call__(self, wanted: Wanted) -> Made | None:
        """PNG or WAV."""
        item = wanted.item(self.source, "augment")
        if item is None:
            return None
        if item.path is None:
            raise ConfigError(f"augment changes pictures and recordings, and column {self.source!r} holds none")
        change = _picture if item.path.suffix.lower() in IMAGE.suffixes else _recording
        return Made(*change(item.path, wanted.draw), wanted.licences.get(self.source, ""))


class FromTable:
    """Items that another program made: a table with the columns `concept` and `value`, and `licence` if it says so.

    Values are text, or paths from the table's folder, as in the columns of an anchor set.

    Attributes:
        concepts: that it has an item of.
    """

    def __init__(self, file: str = "") -> None:
        if not file:
            raise ConfigError(f"table needs file=TABLE: with the columns {CONCEPT!r} and 'value'")
        problems = Problems()
        table = read_table(Path(file).expanduser(), problems)
        problems.stop()
        if table.has(CONCEPT, problems) & table.has("value", problems):
            self.concepts = concepts_of(table, problems)
            items = cell_items(table, "value", problems)
        problems.stop()
        licences = table.column(LICENCE) if LICENCE in table.columns else [""] * len(table)
        self._items = {self.concepts[row]: (item, licences[row]) for row, item in items.items()}

    def __call__(self, wanted: Wanted) -> Made | None:
        """The table's item."""
        if wanted.concept not in self._items:
            return None
        item, licence = self._items[wanted.concept]
        if item.path is None:
            return Made(item.text or "", "", licence)
        return Made(bytes_of(item), item.path.suffix, licence)


GENERATORS: dict[str, Callable[..., Generator]] = {
    "template": Template,
    "espeak": Espeak,
    "augment": Augment,
    "table": FromTable,
}
"""Those that come with isogram, by name."""


def make_generator(name: str, options: Mapping[str, str]) -> Generator:
    """A generator by its name.

    Raises:
        ConfigError: there is none of that name, or it has no such option, or needs one.
    """
    others = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in GENERATORS and name not in others:
        raise ConfigError(f"no generator {name!r}; choose one of {', '.join(sorted({*GENERATORS, *others}))}")
    made: Callable[..., Any]
    try:
        made = GENERATORS[name] if name in GENERATORS else others[name].load()
    except Exception as error:
        raise ConfigError(f"generator {name!r} of {others[name].value} cannot be loaded ({error}); mend it") from error
    takes = signature(made).parameters
    unknown = [option for option in options if option not in takes]
    if unknown and not any(one.kind is Parameter.VAR_KEYWORD for one in takes.values()):
        raise ConfigError(f"{name} has no option {unknown[0]!r}; it has {', '.join(takes) or 'none'}")
    needed = [
        option
        for option, one in takes.items()
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) and option not in options
    ]
    if needed:
        raise ConfigError(f"{name} needs {' '.join(f'--option {option}=...' for option in needed)}")
    found: Generator = made(**options)
    return found


def _picture(path: Path, draw: np.random.Generator) -> tuple[bytes, str]:
    try:
        from isogram.data.pictures.render import redrawn
    except ImportError as error:
        raise ConfigError(f"to change pictures needs more: pip install -e '.[silos]' in the clone ({error})") from error
    target = io.BytesIO()
    redrawn(IMAGE.read(Item(str(path), path=path), ModalityConfig()).image, draw).save(target, "PNG")
    return target.getvalue(), ".png"


def _recording(path: Path, draw: np.random.Generator) -> tuple[bytes, str]:
    try:
        import soundfile
    except ImportError as error:
        raise ConfigError(
            f"to change recordings needs more: pip install -e '.[silos]' in the clone ({error})"
        ) from error
    from isogram.data.pictures.sound import at_speed

    try:
        sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path}: neither a picture nor a recording that can be read ({error})") from error
    if not len(sound):
        raise DataError(f"{path}: holds no sound; replace it")
    changed = at_speed(sound, int(draw.choice(SPEEDS)))
    target = io.BytesIO()
    soundfile.write(target, np.clip(changed, -1, 1), rate, format="WAV", subtype="PCM_16")
    return target.getvalue(), ".wav"
