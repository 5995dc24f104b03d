"""Tables of your own: one CSV of private rows per node, one of public anchors per modality, one of held-out rows.

Everything wrong with them is found before anything is computed, and said all at once, by file, line and column.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import numpy as np

from isogram.config import FilesConfig, NodeFiles
from isogram.data.base import UNLABELLED, AnchorItems, AnchorSet, FederatedData, HeldOut, IntArray, NodeData
from isogram.data.sheets import Problems, Sheet, few, read_sheet
from isogram.data.silos.apart import repeats


def load_files(files: FilesConfig, *, anchors: int, seed: int, private: bool = False) -> FederatedData:
    """The federation that the tables describe.

    Args:
        files: which node holds what.
        anchors: K, drawn from the public ids by `seed`; 0 takes all.
        seed: of that draw.
        private: whether no row may decide what a node says it has (differential privacy): a table with the column of
            classes has labels then, also where no row has one.

    Raises:
        DataError: every problem found in the files: absent or unreadable, no number or an infinite one, columns that
            differ within a modality, anchors that differ between its nodes, labels outside `classes`, rows that stand
            in two of private, anchor and held-out data.
    """
    problems = Problems()
    rows = {node.name: read_sheet(node.rows, files.labels, problems) for node in files.nodes}
    public = {path: read_sheet(path, files.labels, problems) for path in sorted({node.anchors for node in files.nodes})}
    held_out = {modality: read_sheet(path, files.labels, problems) for modality, path in files.held_out.items()}

    of = {node.modality: public[node.anchors] for node in files.nodes}
    _check_anchors(files.nodes, {node.name: public[node.anchors] for node in files.nodes}, problems)
    for node in files.nodes:
        _check_columns(rows[node.name], of[node.modality], problems)
    for modality, sheet in held_out.items():
        _check_columns(sheet, of[modality], problems)
    labels = {node.name: _labels(rows[node.name], files, problems, keep=private) for node in files.nodes}
    truth = {modality: _labels(sheet, files, problems) for modality, sheet in held_out.items()}
    _check_labelled(list(rows.values()), files, problems, private=private)
    _check_held_out(held_out, files.labels, problems)
    _check_apart(files.nodes, rows, of, held_out, problems)
    ids = sorted({name for sheet in of.values() for name in sheet.ids or ()})
    if anchors > len(ids) and all(of.values()):
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


def _check_anchors(nodes: Sequence[NodeFiles], sheets: Mapping[str, Sheet], problems: Problems) -> None:
    """Every anchor has an id, and nodes of one modality hold the same anchors."""
    problems.some(
        "anchor files without a column `id`:",
        sorted({str(sheet.path) for sheet in sheets.values() if sheet and sheet.ids is None}),
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
    if sheet.columns == anchors.columns or not (sheet and anchors):
        return
    where, remedy = f"{sheet.path} and {anchors.path}", "give both the same columns in the same order"
    difference = sorted(set(sheet.columns) ^ set(anchors.columns))
    if difference:
        problems.some(f"only one of {where} has the columns", difference, remedy)
    else:
        problems.append(f"{where} have their columns in different orders; {remedy}")


def _labels(sheet: Sheet, files: FilesConfig, problems: Problems, *, keep: bool = False) -> IntArray | None:
    """Of each row; None without the column and, but for `keep`, where no row has a class."""
    if sheet.labels is None:
        return None
    number = {name: position for position, name in enumerate(files.classes)}
    wrong = [
        f"line {sheet.lines[row]}: {text!r}" for row, text in enumerate(sheet.labels) if text and text not in number
    ]
    declared = f"files.classes declares {few(files.classes)}" if files.classes else "declare all in files.classes"
    problems.some(f"{sheet.path}, column {files.labels!r}: labels outside the declared classes:", wrong, declared)
    known = np.array([number.get(text, UNLABELLED) for text in sheet.labels], dtype=np.int64)
    return known if keep or (known != UNLABELLED).any() else None


def _check_labelled(tables: Sequence[Sheet], files: FilesConfig, problems: Problems, *, private: bool) -> None:
    """The column of classes is in some table of private rows; and some row has one, or where rows are private may."""
    label = files.labels
    if not label or not all(sheet.header for sheet in tables):
        return
    if not any(label in sheet.header for sheet in tables):
        near = get_close_matches(label, {name for sheet in tables for name in sheet.header}, n=1)
        meant = f"did you mean {near[0]!r}?" if near else "name the column that has the classes"
        problems.append(f"no table of private rows has the column files.labels = {label!r}; {meant}")
    elif private:
        if not files.classes:
            problems.append(
                f"files.classes is empty, and files.labels = {label!r}; declare all classes that rows may have"
            )
    elif all(tables) and not any(text for sheet in tables for text in sheet.labels or ()):
        problems.append(f"no private row has a class in the column files.labels = {label!r}; fill in those you know")


def _check_held_out(sheets: Mapping[str, Sheet], label: str, problems: Problems) -> None:
    """Pairs are pairs: tables with ids have the same ones, and one class for each."""
    for sheet in sheets.values():
        empty = [sheet.line(row) for row, text in enumerate(sheet.labels or ()) if not text]
        problems.some("held-out rows without a class:", empty, "give all of a table's rows one, or drop the column")
    with_ids = [sheet for sheet in sheets.values() if sheet.ids is not None]
    for sheet in with_ids[1:]:
        first, where = with_ids[0], f"{with_ids[0].path} and {sheet.path}"
        difference = sorted(set(first.ids or ()) ^ set(sheet.ids or ()))
        remedy = "pairs need the same ids in both; without pairs leave the column `id` out"
        problems.some(f"only one of {where} has the held-out ids", difference, remedy)
        if all((*(first.labels or [""]), *(sheet.labels or [""]))) and not difference:
            assert first.labels is not None and sheet.labels is not None
            other = dict(zip(first.ids or (), first.labels, strict=True))
            clash = [i for i, text in zip(sheet.ids or (), sheet.labels, strict=True) if other[i] != text]
            problems.some(f"{where} give different classes ({label}) to", clash, "correct one of them")


def _check_apart(
    nodes: Sequence[NodeFiles],
    rows: Mapping[str, Sheet],
    anchors: Mapping[str, Sheet],
    held_out: Mapping[str, Sheet],
    problems: Problems,
) -> None:
    """No row stands twice: not as the same numbers within a modality, nor under one id as two kinds of data."""
    kinds = [("private", node.modality, rows[node.name], node.name) for node in nodes]
    kinds += [("anchor", modality, sheet, "") for modality, sheet in anchors.items()]
    kinds += [("held-out", modality, sheet, "") for modality, sheet in held_out.items()]
    plain, repeated = repeats(
        [(modality, [value.tobytes() for value in sheet.values]) for _, modality, sheet, _ in kinds]
    )
    public = [(modality, sheet) for kind, modality, sheet, _ in kinds if kind != "private"]
    _, common = repeats([(modality, [value.tobytes() for value in sheet.values]) for modality, sheet in public])
    content: dict[tuple[str, bytes], tuple[str, str, str]] = {}
    named: dict[str, tuple[str, str, str]] = {}
    shared: list[str] = []
    for kind, modality, sheet, node in kinds:
        for row, value in enumerate(sheet.values):
            here = (kind, node, sheet.line(row))
            key = (modality, value.tobytes())
            first = content.setdefault(key, here)
            # Equal rows may be chance between nodes; with public and held-out rows, where these repeat one themselves.
            nodes_alone = first[0] == kind == "private" and (modality in plain or key in repeated)
            same = here if nodes_alone or key in common else first
            # Two silos may number their rows alike, so an id counts against public and held-out rows only.
            alike = here if sheet.ids is None else named.setdefault(sheet.ids[row], here)
            if same[:2] != here[:2] or alike[0] != kind:
                other = same if same[:2] != here[:2] else alike
                shared.append(f"{other[2]} ({other[0]}) = {here[2]} ({kind})")
    remedy = "a row is private to one node, a public anchor, or held out: leave it out of the others"
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
    return HeldOut(tokens, truth, paired=paired, private={}, ids=(order or ()) if paired else ())
