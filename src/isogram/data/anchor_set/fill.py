"""Synthetic items for concepts that a modality lacks, marked as such. Real items stay as they are."""

import csv
import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from isogram.data.anchor_set.folder import AnchorTable, guess_modalities, open_table, read_anchor_set
from isogram.data.anchor_set.generators import Generator, Made, Wanted
from isogram.data.anchor_set.layout import (
    CONCEPT,
    FILE,
    LICENCE,
    PROVENANCE,
    QUALITY,
    SUFFIXES,
    SYNTHETIC,
    is_modality,
    own_tables,
)
from isogram.data.modalities.base import Item
from isogram.data.sheets import Problems
from isogram.data.silos.tables import TextTable, read_table
from isogram.errors import ConfigError, DataError
from isogram.files import make_folder, write_atomic, writing

QUALITY_OF_SYNTHETIC = 0.5


@dataclass(frozen=True)
class Filled:
    """What came of it: the folder, concepts that got an item, and those for which the generator could make none.

    unknown: concepts that the generator has something for, and the set does not know.
    real: how many concepts have an item of quality 1 in every modality of the set now.
    """

    folder: Path
    filled: tuple[str, ...]
    left: tuple[str, ...]
    unknown: tuple[str, ...]
    real: int


def fill_anchor_set(
    folder: Path,
    modality: str,
    name: str,
    generator: Generator,
    *,
    out: Path | None,
    quality: float = QUALITY_OF_SYNTHETIC,
    seed: int = 0,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> Filled:
    """Make the items that a modality lacks.

    Args:
        modality: a column, or a new one.
        name: of the generator, for the provenance "synthetic: NAME".
        out: folder to write, which is new or empty; None adds to `folder` itself. Killed at any moment, the one is not
            there, and the other has its old table or the new one.
        quality: of the new items, in (0, 1).
        seed: of the generator's draws; a concept's do not depend on which others are missing.
        told: called with how many items are done, of how many.

    Raises:
        DataError: the folder is no anchor set, or has no item that is missing; what the generator raises.
        ConfigError: the generator makes something else than the column holds; quality, or `out`.
    """
    if not 0 < quality < 1:
        raise ConfigError(f"quality = {quality:g}; of synthetic items it is above 0 and below 1")
    if out is not None and (out.exists() or out.is_symlink()) and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out} exists already; name a new folder")
    guessed = guess_modalities(folder)
    anchors = read_anchor_set(folder, guessed)
    problems = Problems()
    table = open_table(folder, problems)
    _check_name(modality, table, folder, problems)
    problems.stop()
    cells = table.column(modality) if modality in table.columns else [""] * len(table)
    column = None
    if any(cells):
        column = _Column(guessed[modality].kind, anchors.items[modality].items[0].path is not None)
    missing = [row for row, cell in enumerate(cells) if not cell]
    if not missing:
        raise DataError(f"{table.path}: no item of {modality!r} is missing; there is nothing to fill")
    made: dict[int, Made] = {}
    concepts, known, columns = table.column(CONCEPT), _known(anchors), (CONCEPT, *anchors.items)
    for done, row in enumerate(missing):
        told(done, len(missing))
        draw = hashlib.sha256(f"{seed}\n{modality}\n{concepts[row]}".encode()).digest()
        has = known.get(concepts[row], _Known({}, {}))
        one = generator(Wanted(concepts[row], *has, np.random.default_rng(int.from_bytes(draw)), columns))
        if one is not None:
            made[row] = _checked(one, concepts[row], modality, column, name)
    told(len(missing), len(missing))
    filled = Filled(
        out or folder,
        filled=tuple(concepts[row] for row in missing if row in made),
        left=tuple(concepts[row] for row in missing if row not in made),
        unknown=tuple(name for name in getattr(generator, "concepts", ()) if name not in known),
        real=_real(anchors, modality),
    )
    if not made:
        raise DataError(f"{name} can make none of the {len(missing)} items that {modality!r} lacks; see its options")
    with _adding(folder, out, table, anchors) as target:
        _write(target, table, modality, made, f"{SYNTHETIC}: {name}", f"{quality:g}")
    return filled


def _real(anchors: AnchorTable, modality: str) -> int:
    """Concepts that have a real item in every modality, of which what is made here is none."""
    real = [{*held.positions[held.quality == 1].tolist()} for held in anchors.items.values()]
    return len(set.intersection(*real)) if modality in anchors.items else 0


def _check_name(modality: str, table: TextTable, folder: Path, problems: Problems) -> None:
    if not is_modality(modality) or not modality or modality != modality.strip():
        problems.append(f"{modality!r} is no modality's name; choose another")
    if modality in [path.stem for path in own_tables(folder)]:
        problems.append(f"{modality!r} has a table of its own, {modality}.csv; add rows of numbers to that by yourself")
    if table.unread:
        problems.append(f"{table.path}: columns that are no text would be lost: {', '.join(table.unread)}; drop them")


class _Column(NamedTuple):
    kind: str
    files: bool


class _Known(NamedTuple):
    items: dict[str, Item]
    licences: dict[str, str]


def _known(anchors: AnchorTable) -> dict[str, _Known]:
    """What each concept has, by modality."""
    known = {concept: _Known({}, {}) for concept in anchors.concepts}
    for name, held in anchors.items.items():
        for position, item, licence in zip(held.positions, held.items, anchors.licence[name], strict=True):
            concept = anchors.concepts[position]
            known[concept].items[name], known[concept].licences[name] = item, licence
    return known


def _checked(made: Made, concept: str, modality: str, column: _Column | None, name: str) -> Made:
    """What the generator made, if it is something that the column can hold, as far as anything stands in it."""
    if isinstance(made.content, str):
        if column is not None and column.files:
            raise ConfigError(f"{name} makes text, and column {modality!r} holds files; choose another generator")
        if not made.content.strip():
            raise DataError(f"{name} makes an empty text for concept {concept!r}; see its options")
        return made
    if column is not None and not column.files:
        raise ConfigError(f"{name} makes files, and column {modality!r} holds text; choose another generator")
    if not re.fullmatch(r"\.[A-Za-z0-9]{1,10}", made.suffix) or not made.content:
        raise DataError(f"{name} makes a file {made.suffix!r} of {len(made.content)} bytes for concept {concept!r}")
    if column is not None and column.kind not in (FILE, SUFFIXES.get(made.suffix.lower())):
        raise ConfigError(
            f"{name} makes {made.suffix} files, and column {modality!r} holds items of kind {column.kind}"
        )
    return made


@contextmanager
def _adding(folder: Path, out: Path | None, table: TextTable, anchors: AnchorTable) -> Iterator[Path]:
    """The folder to write into: itself, or a copy of it that gets its name when all is written."""
    if out is None:
        yield folder
        return
    make_folder(out.parent)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    with writing(out):
        try:
            root = folder.resolve()
            named = {item.path for held in anchors.items.values() for item in held.items if item.path is not None}
            for path in sorted(named | {path for path in folder.rglob("*") if path.is_file()}):
                if path.resolve().is_relative_to(root):  # a link elsewhere would carry somebody's file away
                    target = temporary / path.relative_to(folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)
            yield temporary
            if out.exists():
                out.rmdir()
            temporary.replace(out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write(
    target: Path, table: TextTable, modality: str, made: Mapping[int, Made], provenance: str, quality: str
) -> None:
    """The files first, then the table, which alone makes them part of the set."""
    columns = {name: table.column(name) for name in table.columns}
    says = {PROVENANCE: provenance, QUALITY: quality}
    licensed = any(one.licence for one in made.values())
    for name in (modality, *(f"{what}:{modality}" for what in (*says, *([LICENCE] if licensed else [])))):
        columns.setdefault(name, [""] * len(table))
    new: list[Path] = []
    try:
        for row, one in made.items():
            if isinstance(one.content, str):
                columns[modality][row] = one.content.strip()
            else:
                columns[modality][row] = _file(target, modality, columns[CONCEPT][row], one.content, one.suffix, new)
            for what, text in says.items():
                columns[f"{what}:{modality}"][row] = text
            if licensed:
                columns[f"{LICENCE}:{modality}"][row] = one.licence
        content = _table(columns, table.path.suffix)
        _read_back(target / table.path.name, content, modality, {columns[CONCEPT][row]: made[row] for row in made})
        write_atomic(target / table.path.name, content)
    except BaseException:
        for path in new:
            with suppress(OSError):
                path.unlink()
        raise


def _read_back(path: Path, content: bytes, modality: str, made: Mapping[str, Made]) -> None:
    """Whether the set can be read once its table has this content, and the new items are what they were made as.

    Raises:
        DataError: no.
    """
    problems = Problems()
    with TemporaryDirectory(prefix="isogram-") as elsewhere:
        there = Path(elsewhere) / path.name
        there.write_bytes(content)
        table = replace(read_table(there, problems), path=path)
    try:
        problems.stop()
        anchors = read_anchor_set(path.parent, guess_modalities(path.parent, table), table)
    except DataError as error:
        lines = [line.replace(f"{there}", path.name).replace(f"{path.parent}/", "") for line in error.problems]
        raise DataError(
            *(f"what was made is not kept, for the set could not be read: {line}" for line in lines)
        ) from error
    held = anchors.items[modality]
    for position, item in zip(held.positions, held.items, strict=True):
        concept = anchors.concepts[position]
        if concept in made and (item.path is None) != isinstance(made[concept].content, str):
            raise DataError(
                f"what was made is not kept: of concept {concept!r} {modality!r} would be read as "
                f"{'text' if item.path is None else 'a file'}; make all of its items text, or all files"
            )


def _file(target: Path, modality: str, concept: str, content: bytes, suffix: str, new: list[Path]) -> str:
    """Write it, unless it is there; gives back its path in the folder. The name tells people what it is."""
    about = re.sub(r"[^\w-]+", "-", concept)[:40].strip("-")
    short = hashlib.sha256(content).hexdigest()[:12]
    folder = target / SYNTHETIC / (re.sub(r"[^\w-]+", "-", modality).strip("-") or "items")
    if not folder.resolve().is_relative_to(target.resolve()):
        raise DataError(f"{folder} is a link that leads out of the folder; remove it")
    make_folder(folder)
    path = folder / f"{about}-{short}{suffix.lower()}".lstrip("-")
    if not path.exists():
        write_atomic(path, content)
        new.append(path)
    return path.relative_to(target).as_posix()


def _table(columns: Mapping[str, Sequence[str]], suffix: str) -> bytes:
    if suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        target = io.BytesIO()
        pq.write_table(pa.table({name: pa.array(cells, pa.string()) for name, cells in columns.items()}), target)
        return target.getvalue()
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()
