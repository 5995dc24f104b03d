"""Commands that use a trained model: coordinates of new items, search among them, classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isogram.cli.options import Json, Quiet, consoles, explained, print_json
from isogram.errors import ConfigError

if TYPE_CHECKING:
    from isogram.data.base import FloatArray
    from isogram.inference import Model

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a run or an export, or a model file.")]
DataPath = Annotated[Path, typer.Argument(metavar="DATA", help="Folder or table, as a node's data; or one file.")]
NodeName = Annotated[str, typer.Option("--node", metavar="NAME", help="That the items are of, or its modality.")]
Column = Annotated[str, typer.Option(metavar="NAME", help="Of a table: column of paths, text or sequences.")]
Id = Annotated[str, typer.Option(metavar="NAME", help="Of a table: column of names of rows.")]
Label = Annotated[str, typer.Option(metavar="NAME", help="Column of classes; `folder`: subfolders are classes.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out items that cannot be read.")]
Replace = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]


def embed(
    model: ModelPath,
    data: DataPath,
    node: NodeName,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Parquet file to write.")],
    column: Column = "",
    id: Id = "",
    label: Label = "",
    skip_bad: SkipBad = False,
    force: Replace = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Embed items into a file that can be searched."""
    with explained():
        from isogram.inference import Bank, Model, read_source
        from isogram.progress import Parts

        _free(out, force)
        loaded, (_, progress) = Model.load(model), consoles(quiet, as_json)
        source = read_source(loaded, node, data, column=column, id=id, label=label, skip_bad=skip_bad)
        with Parts(progress) as parts:
            bank = Bank.of(
                loaded, node, source, skip_bad=skip_bad, told=lambda done, total: parts.tell("items", done, total)
            )
        bank.save(out)
        _tell_bad(bank.bad)
        if as_json:
            print_json({"file": str(out), "items": len(bank), "left_out": list(bank.bad), **bank.about})
        elif not quiet:
            left = f", {len(bank.bad)} left out" if bank.bad else ""
            typer.echo(f"wrote {out}: {len(bank)} items of node {bank.about['node']}{left}")


def search(
    model: ModelPath,
    bank: Annotated[Path, typer.Argument(metavar="BANK", help="File that `isogram embed` wrote.")],
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="Search by a text.")] = None,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Search by a file.")] = None,
    row: Annotated[str, typer.Option(metavar="ID", help="Which row, if the file is a table.")] = "",
    seen_by: Annotated[str, typer.Option("--from", metavar="NAME", help="Node or modality that sees the query.")] = "",
    hits: Annotated[int, typer.Option("-k", min=1, help="Hits.")] = 10,
    plain: Annotated[bool, typer.Option("--plain", help="By cosine, hubs not corrected.")] = False,
    as_json: Json = False,
) -> None:
    """Find the items nearest to a query of any modality."""
    with explained():
        from isogram.inference import Bank, Model
        from isogram.inference.source import node_for

        if (text is None) == (file is None):
            raise ConfigError("give a query: either --text or --file")
        loaded = Model.load(model)
        found = Bank.load(bank, loaded)
        node = loaded.node(seen_by) if seen_by else node_for(loaded, file)
        query = _query(loaded, node, text, file, row)
        best = [(found[hit.position], hit) for hit in found.search(query, hits, corrected=not plain)]
        if as_json:
            keys = [{**vars(entry), "score": hit.score, "cosine": hit.cosine} for entry, hit in best]
            print_json({"node": node, "hits": [{"rank": i, **one} for i, one in enumerate(keys, 1)]})
            return
        from isogram.report.terminal import hits_table

        consoles(False, False)[0].print(hits_table(best))


def classify(
    model: ModelPath,
    data: DataPath,
    node: NodeName,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="CSV; without it, print.")] = None,
    column: Column = "",
    id: Id = "",
    label: Label = "",
    skip_bad: SkipBad = False,
    force: Replace = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Name the class of each item."""
    with explained():
        import csv
        import io

        import numpy as np

        from isogram.files import write_atomic
        from isogram.inference import Model, read_source

        if out is not None:
            _free(out, force)
        loaded = Model.load(model)
        source = read_source(loaded, node, data, column=column, id=id, label=label, skip_bad=skip_bad)
        kept, bad, tokens = range(len(source)), source.bad, source.tokens
        if tokens is None:
            encoded = loaded.tokens(node, source.items, skip_bad=skip_bad)
            kept, bad, tokens = encoded.kept.tolist(), (*bad, *encoded.bad), encoded.tokens
        scores = np.nan_to_num(loaded.class_scores(node, tokens), nan=-np.inf)
        named = [
            {
                "id": source.ids[i],
                "where": source.items[i].where,
                "class": loaded.classes[best],
                "score": round(float(one[best]), 6),
            }
            for i, one, best in zip(kept, scores, scores.argmax(1).tolist(), strict=True)
        ]
        _tell_bad(bad)
        if as_json:
            print_json({"items": named, "left_out": list(bad)})
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, ("id", "where", "class", "score"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(named)
        if out is not None:
            write_atomic(out, buffer.getvalue().encode())
            if not quiet and not as_json:
                typer.echo(f"wrote {out}: classes of {len(named)} items")
        elif not as_json:
            typer.echo(buffer.getvalue(), nl=False)


def _query(model: Model, node: str, text: str | None, file: Path | None, row: str) -> FloatArray:
    """[r] coordinates of the query."""
    from isogram.inference.source import WRITTEN, read_source

    if text is not None:
        if model.encoder(node).kind not in WRITTEN:
            raise ConfigError(
                f"node {node!r} holds {model.nodes[node]}, no text; give a --file of it, or another --from"
            )
        return model.embed(node, [text])[0]
    assert file is not None
    source = read_source(model, node, file, one=True).only(row)
    return model.embed(node, list(source.items) if source.tokens is None else source.tokens)[0]


def _free(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise ConfigError(f"{path} exists already; name another file, or replace it by --force")


def _tell_bad(lines: tuple[str, ...]) -> None:
    for line in lines:
        typer.echo(f"left out: {line}", err=True)
