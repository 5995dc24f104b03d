"""Tables of your own: one CSV of private rows per node, one of public anchors per modality, one of held-out rows.

Everything wrong with them is found before anything is computed, and said all at once, by file, line and column.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isogram.config import FilesConfig, NodeFiles
from isogram.data.base import UNLABELLED, AnchorItems, AnchorSet, FederatedData, FloatArray, HeldOut, IntArray, NodeData
from isogram.data.tokens import chunk_columns
from isogram.errors import DataError

TOKENS = 8
"""Chunks of columns that a row is cut into, in the order of the file; one per column if there are fewer columns."""

ID = "id"
_SHOWN = 5


@dataclass(frozen=True)
class Sheet:
    """One CSV: values [n, F], column names, row ids or None, labels as written or None."""

    path: Path
    values: NDArray[np.float64]
    columns: tuple[str, ...]
    ids: tuple[str, ...] | None
    labels: tuple[str, ...] | None

    def tokens(self) -> FloatArray:
        """[n, T, c], the columns cut in their order."""
        return chunk_columns(self.values, min(TOKENS, len(self.columns)))

    def line(self, row: int) -> str:
        """Where a row stands, as an editor shows it."""
        return f"{self.path}, line {row + 2}"


class Problems(list[str]):
    """What is wrong so far; `stop` raises it all together."""

    def some(self, where: str, items: Sequence[str], remedy: str) -> None:
        """One problem that several items have; the first few are named."""
        if items:
            more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
            self.append(f"{where} {', '.join(items[:_SHOWN])}{more}; {remedy}")

    def stop(self) -> None:
        """Raises DataError if there is anything."""
        if self:
            raise DataError(*self)


def load_files(files: FilesConfig, *, anchors: int, seed: int) -> FederatedData:
    """The federation that the tables describe.

    Args:
        files: which node holds what.
        anchors: K, drawn from the public ids by `seed`; 0 takes all.
        seed: of that draw.

    Raises:
        DataError: every problem found in the files: absent or unreadable, no number or an infinite one, columns that
            differ within a modality, anchors that differ between its nodes, labels outside `classes`, rows that stand
            in two of private, anchor and held-out data.
    """
    problems = Problems()
    rows = {node.name: _read(node.rows, files.labels, problems) for node in files.nodes}
    public = {path: _read(path, files.labels, problems) for path in sorted({node.anchors for node in files.nodes})}
    held_out = {modality: _read(path, files.labels, problems) for modality, path in files.held_out.items()}
    problems.stop()  # further questions make sense on readable files only

    of = {node.modality: public[node.anchors] for node in files.nodes}
    _check_anchors(files.nodes, {node.name: public[node.anchors] for node in files.nodes}, problems)
    for node in files.nodes:
        _check_columns(rows[node.name], of[node.modality], problems)
    for modality, sheet in held_out.items():
        _check_columns(sheet, of[modality], problems)
    labels = {node.name: _labels(rows[node.name], files, problems) for node in files.nodes}
    truth = {modality: _labels(sheet, files, problems) for modality, sheet in held_out.items()}
    for sheet in held_out.values():
        lines = [sheet.line(row) for row, text in enumerate(sheet.labels or ()) if not text]
        problems.some("held-out rows without a class:", lines, "give all of a table's rows one, or drop the column")
    if files.labels and all(known is None for known in labels.values()):
        problems.append(f"no table of private rows has the column files.labels = {files.labels!r}")
    _check_apart(files.nodes, rows, of, held_out, problems)
    ids = sorted({name for sheet in of.values() for name in sheet.ids or ()})
    if anchors > len(ids):
        problems.append(f"anchors = {anchors}, but the anchor files hold {len(ids)}; lower it, or set 0 to take all")
    problems.stop()

    if anchors:
        ids = sorted(np.random.default_rng(seed).permutation(ids)[:anchors].tolist())
    return FederatedData(
        "files",
        tuple(NodeData(n.name, n.modality, rows[n.name].tokens(), labels[n.name]) for n in files.nodes),
        AnchorSet(tuple(ids), {modality: _items(sheet, ids) for modality, sheet in of.items()}),
        _held_out(held_out, {modality: known for modality, known in truth.items() if known is not None}),
        files.classes,
    )


def _read(path: Path, label: str, problems: Problems) -> Sheet:
    """A table; an empty one if its problems were noted."""
    before = len(problems)
    nothing = Sheet(path, np.empty((0, 0)), (), None, None)
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False)
    except FileNotFoundError:
        problems.append(f"no file {path}; correct its path, which counts from the configuration file's folder")
        return nothing
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        problems.append(f"cannot read {path} as CSV: {str(error).strip()}")
        return nothing
    problems.some(f"{path}: columns named twice:", [c for c in frame if _stem(c) in frame], "rename them")
    ids = tuple(frame.pop(ID)) if ID in frame else None
    labels = tuple(frame.pop(label)) if label in frame else None
    if frame.empty:
        problems.append(f"{path} holds no {'rows' if len(frame.columns) else 'columns of numbers'}")
        return nothing
    if ids is not None:
        count = Counter(ids)
        problems.some(f"{path}: ids that stand twice:", [i for i in count if count[i] > 1], "keep one line of each")
    values = frame.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32))
    bad = [
        f"line {row + 2}, column {frame.columns[column]!r}: {frame.iat[row, column] or 'empty'}"
        for row, column in np.argwhere(~finite)
    ]
    problems.some(f"{path}: not a finite number:", bad, "impute or drop them")
    return nothing if len(problems) > before else Sheet(path, values, tuple(frame), ids, labels)


def _stem(column: str) -> str:
    """The name that pandas made `column` from where a header repeats it: x.1 from x."""
    stem, dot, number = column.rpartition(".")
    return stem if dot and number.isdigit() else ""


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _check_anchors(nodes: Sequence[NodeFiles], sheets: Mapping[str, Sheet], problems: Problems) -> None:
    """Every anchor has an id, and nodes of one modality hold the same anchors."""
    problems.some(
        "anchor files without a column `id`:",
        sorted({str(sheet.path) for sheet in sheets.values() if sheet.ids is None}),
        "add it: the same id is the same public item in every modality",
    )
    first: dict[str, str] = {}
    for node in nodes:
        one, other = sheets[first.setdefault(node.modality, node.name)], sheets[node.name]
        if one is other or one.ids is None or other.ids is None:
            continue
        names = f"nodes {first[node.modality]!r} and {node.name!r} hold {node.modality!r} but different anchors"
        remedy = "give both the same file"
        difference = sorted(set(one.ids) ^ set(other.ids))
        if difference:
            problems.some(f"{names}: only one of {one.path} and {other.path} has the ids", difference, remedy)
        elif one.columns == other.columns:
            mine, theirs = dict(zip(one.ids, one.values, strict=True)), dict(zip(other.ids, other.values, strict=True))
            changed = [name for name in one.ids if not np.array_equal(mine[name], theirs[name])]
            problems.some(f"{names}: {one.path} and {other.path} differ at the ids", changed, remedy)


def _check_columns(sheet: Sheet, anchors: Sheet, problems: Problems) -> None:
    if sheet.columns == anchors.columns:
        return
    where, remedy = f"{sheet.path} and {anchors.path}", "give both the same columns in the same order"
    difference = sorted(set(sheet.columns) ^ set(anchors.columns))
    if difference:
        problems.some(f"only one of {where} has the columns", difference, remedy)
    else:
        problems.append(f"{where} have their columns in different orders; {remedy}")


def _labels(sheet: Sheet, files: FilesConfig, problems: Problems) -> IntArray | None:
    if sheet.labels is None:
        return None
    number = {name: position for position, name in enumerate(files.classes)}
    wrong = [f"line {row + 2}: {text!r}" for row, text in enumerate(sheet.labels) if text and text not in number]
    declared = f"files.classes declares {_few(files.classes)}" if files.classes else "declare all in files.classes"
    problems.some(f"{sheet.path}, column {files.labels!r}: labels outside the declared classes:", wrong, declared)
    return np.array([number.get(text, UNLABELLED) for text in sheet.labels], dtype=np.int64)


def _check_apart(
    nodes: Sequence[NodeFiles],
    rows: Mapping[str, Sheet],
    anchors: Mapping[str, Sheet],
    held_out: Mapping[str, Sheet],
    problems: Problems,
) -> None:
    """No row stands twice: not as the same numbers within a modality, nor under one id as two kinds of data."""
    kinds = [("private", node.modality, rows[node.name]) for node in nodes]
    kinds += [("anchor", modality, sheet) for modality, sheet in anchors.items()]
    kinds += [("held-out", modality, sheet) for modality, sheet in held_out.items()]
    first: dict[tuple[str, str | bytes], tuple[str, str]] = {}
    shared: list[str] = []
    for kind, modality, sheet in kinds:
        for row, value in enumerate(sheet.values):
            keys: list[tuple[str, str | bytes]] = [(modality, value.tobytes())]
            keys += [] if sheet.ids is None else [(ID, sheet.ids[row])]
            others = {first.setdefault(key, (kind, sheet.line(row))) for key in keys}
            shared += [f"{line} ({what}) and {sheet.line(row)} ({kind})" for what, line in others if what != kind]
    remedy = "a row may be private to one node, or a public anchor, or held out: leave it out of the others"
    problems.some("rows that stand twice:", shared, remedy)


def _items(sheet: Sheet, ids: Sequence[str]) -> AnchorItems:
    assert sheet.ids is not None
    line = {name: row for row, name in enumerate(sheet.ids)}
    held = [position for position, name in enumerate(ids) if name in line]
    tokens = sheet.tokens()[[line[ids[position]] for position in held]]
    return AnchorItems(np.array(held, dtype=np.int64), tokens, np.ones(len(held), np.float32))


def _held_out(sheets: Mapping[str, Sheet], labels: Mapping[str, IntArray]) -> HeldOut:
    """Paired, and in the order of the first file, where every file has the same ids."""
    order = next((sheet.ids for sheet in sheets.values()), None)
    paired = len(sheets) > 1 and all(s.ids is not None and set(s.ids) == set(order or ()) for s in sheets.values())
    tokens, truth = {}, dict(labels)
    for modality, sheet in sheets.items():
        tokens[modality] = sheet.tokens()
        if paired:
            line = {name: row for row, name in enumerate(sheet.ids or ())}
            take = [line[name] for name in order or ()]
            tokens[modality] = tokens[modality][take]
            if modality in truth:
                truth[modality] = truth[modality][take]
    if paired and truth:
        known = next(iter(truth.values()))
        truth = {modality: truth.get(modality, known) for modality in sheets}
    return HeldOut(tokens, truth, paired=paired, private={})
