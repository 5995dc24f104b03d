"""Commands that use a trained model: coordinates of new items, search among them, classes."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isogram.cli.options import Json, Quiet, SkipBad, consoles, explained, print_json, say
from isogram.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from isogram.config import SiloNode
    from isogram.data.base import FloatArray
    from isogram.inference import Model, Source

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a run or an export, or a model file.")]
DataPath = Annotated[Path, typer.Argument(metavar="DATA", help="Folder or table, as a node's data; or one file.")]
NodeName = Annotated[str, typer.Option("--node", metavar="NAME", help="That the items are of, or its modality.")]
Column = Annotated[str, typer.Option(metavar="NAME", help="Of a table: column of paths, text or sequences.")]
Id = Annotated[str, typer.Option(metavar="NAME", help="Of a table: column of names of rows.")]
Replace = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]


def embed(
    model: ModelPath,
    data: DataPath,
    node: NodeName,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Parquet file to write.")],
    column: Column = "",
    id: Id = "",
    label: Annotated[
        str, typer.Option(metavar="NAME", help="Column of classes; `folder`: subfolders are classes.")
    ] = "",
    skip_bad: SkipBad = False,
    force: Replace = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Embed items into a file that can be searched."""
    with explained(), _or_skipped():
        from dataclasses import replace

        from isogram.inference import Bank, Model, read_source

        _free(out, force)
        loaded, like = Model.load(model), _in_the_run(model)
        source = read_source(loaded, node, data, column=column, id=id, label=label, like=like)
        with _bar(quiet or as_json) as told:
            source, tokens = loaded.encoded(node, source, skip_bad=skip_bad, told=told)
            bank = Bank.of(loaded, node, replace(source, tokens=tokens))
        bank.save(out)
        _tell(source)
        if as_json:
            lines = {"left_out": list(source.bad), "notes": list(source.notes)}
            print_json({"file": str(out), "items": len(bank), **lines, **bank.about})
        elif not quiet:
            left = f", {len(bank.bad)} left out" if bank.bad else ""
            say(f"wrote {out}: {len(bank)} items of node {bank.about['node']}{left}")


def search(
    model: ModelPath,
    banks: Annotated[list[Path], typer.Argument(metavar="BANK...", help="Files that `isogram embed` wrote.")],
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="Search by a text.")] = None,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Search by a file.")] = None,
    row: Annotated[str, typer.Option(metavar="ID", help="Which row, if the file is a table.")] = "",
    seen_by: Annotated[str, typer.Option("--from", metavar="NAME", help="Node or modality that sees the query.")] = "",
    hits: Annotated[int, typer.Option("-k", min=1, help="Hits in each bank.")] = 10,
    plain: Annotated[bool, typer.Option("--plain", help="By cosine, hubs not corrected.")] = False,
    as_json: Json = False,
) -> None:
    """Find the items of each bank that are nearest to a query."""
    with explained():
        from isogram.inference import Bank, Model, read_source
        from isogram.inference.source import node_for

        if (text is None) == (file is None):
            raise ConfigError("give a query: either --text or --file")
        if row and file is None:
            raise ConfigError("--row says which row of a --file is meant; leave it out with --text")
        loaded = Model.load(model)
        found = Bank.load_all(banks, loaded)
        node = loaded.node(seen_by) if seen_by else node_for(loaded, file)
        if text is not None:
            query = _of_text(loaded, node, text)
        else:
            assert file is not None
            source = read_source(loaded, node, file, one=True, like=_in_the_run(model)).only(row)
            query = loaded.embed(node, loaded.encoded(node, source)[1])[0]
        best = [[(bank[hit.position], hit) for hit in bank.search(query, hits, corrected=not plain)] for bank in found]
        if as_json:
            keys = [
                {"rank": i, "bank": str(path), **vars(entry), "score": hit.score, "cosine": hit.cosine}
                for path, its in zip(banks, best, strict=True)
                for i, (entry, hit) in enumerate(its, 1)
            ]
            print_json({"node": node, "hits": keys})
            return
        from isogram.report.terminal import hits_table

        console, _ = consoles(False, False)
        for path, bank, its in zip(banks, found, best, strict=True):
            title = f"{path}: node {bank.about['node']}" if len(banks) > 1 else ""
            console.print(hits_table(its, title))


def classify(
    model: ModelPath,
    data: DataPath,
    node: NodeName,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="CSV; without it, print.")] = None,
    column: Column = "",
    id: Id = "",
    skip_bad: SkipBad = False,
    force: Replace = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Name the class of each item."""
    with explained(), _or_skipped():
        import csv
        import io

        from isogram.files import write_atomic
        from isogram.inference import Model, read_source

        if out is not None:
            _free(out, force)
        loaded, like = Model.load(model), _in_the_run(model)
        source = read_source(loaded, node, data, column=column, id=id, like=like)
        with _bar(quiet or as_json) as told:
            source, tokens = loaded.encoded(node, source, skip_bad=skip_bad, told=told)
        scores = loaded.class_scores(node, tokens)
        best = zip(source.ids, source.items, loaded.best(scores), scores, strict=True)
        named = [
            {"id": id, "where": item.where, "class": name, "score": round(float(one[loaded.classes.index(name)]), 6)}
            for id, item, name, one in best
        ]
        _tell(source)
        if as_json:
            print_json({"items": named, "left_out": list(source.bad), "notes": list(source.notes)})
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, ("id", "where", "class", "score"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(named)
        if out is not None:
            write_atomic(out, buffer.getvalue().encode())
            if not quiet and not as_json:
                say(f"wrote {out}: classes of {len(named)} items")
        elif not as_json:
            say(buffer.getvalue(), nl=False)


def _of_text(model: Model, node: str, text: str) -> FloatArray:
    """[r] coordinates."""
    from isogram.inference.source import WRITTEN

    if model.encoder(node).kind not in WRITTEN:
        raise ConfigError(f"node {node!r} holds {model.nodes[node]}, no text; give a --file of it, or another --from")
    return model.embed(node, [text])[0]


def _in_the_run(model: Path) -> Mapping[str, SiloNode]:
    """Where the model is a run's folder on silos, its nodes' settings: they say which column is which."""
    from isogram.config import SILOS
    from isogram.config_file import read_config
    from isogram.data.silos.sites import node_names
    from isogram.run_folder import CONFIG

    if not (model / CONFIG).is_file():
        return {}
    config = read_config(model / CONFIG)
    return node_names(config.silos.nodes) if config.data == SILOS else {}


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """How far the encoding of items is."""
    from isogram.progress import Parts

    with Parts(consoles(quiet, False)[1]) as parts:
        yield lambda done, total: parts.tell("items", done, total)


@contextmanager
def _or_skipped() -> Iterator[None]:
    """Of items that cannot be read, where others can, says how they are left out."""
    from isogram.data.modalities.base import BadItem

    try:
        yield
    except BadItem as error:
        *others, last = error.problems
        raise BadItem(*others, f"{last}; --skip-bad leaves such items out") from error


def _free(path: Path, force: bool) -> None:
    """Whether a file may be written there, before the work."""
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent}; make it, or name another file")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file")
    if path.exists() and not force:
        raise ConfigError(f"{path} exists already; name another file, or replace it by --force")


def _tell(source: Source) -> None:
    """What of it is left out, and what else to know."""
    for line in source.bad:
        say(f"left out: {line}", err=True)
    for line in source.notes:
        say(f"note: {line}", err=True)
