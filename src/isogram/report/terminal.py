"""What the command prints: the table of a run or demo, and the doctor's findings."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from isogram.audit.suite import GRAMS
from isogram.bench import QUICK, Cell, Row
from isogram.console import printable
from isogram.doctor import LEVELS, Diagnosis, Finding
from isogram.evaluation import Scope
from isogram.inference import Entry, Hit
from isogram.methods import METHODS
from isogram.report import audit_tables
from isogram.report.tables import COLUMNS, Results, figure, probability, short, size
from isogram.report.words import count, measured


def summary(rows: Sequence[Row], scope: Scope, title: str, notes: Sequence[str]) -> Table:
    """One line a method, one column a metric that this data set has, bytes and seconds; notes below.

    Short headings, so that nothing is cut off in 80 columns; acc. is balanced accuracy. The title ends in what all is
    measured on, `scope`, and the last line is what guessing gives.
    """
    results, first = Results(rows), rows[0]
    columns = dict(COLUMNS)
    if not first.dataset.startswith("tcga"):
        found = {row.metric for row in rows}
        columns = {name: column for name, column in columns.items() if column[0] in found - {"pam50"}}
        ways = results.directions(first.dataset, "accuracy")
        columns |= {f"acc. {way.replace(':', ' ')}": ("accuracy", way) for way in ways}
    title = f"{title}: {measured(scope, first.dataset)}"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", collapse_padding=True, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for name in (*columns, "kB/node", "sec."):
        table.add_column(name, justify="right", overflow="fold")
    for method in results.methods(first.dataset):
        key = (first.dataset, method, first.anchors)
        cells = [figure(results.mean(*key, *column)) for column in columns.values()]
        sent, seconds = results.mean(*key, "bytes_per_node"), results.mean(*key, "seconds")
        table.add_row(method.partition("@")[0], *cells, size(sent), figure(seconds, 1))
    if scope.rows:
        chance = [scope.chance(*column) for column in columns.values()]
        table.add_row("chance", *("–" if value is None else short(value) for value in chance), "–", "–", style="dim")
    table.caption, table.caption_justify = "\n".join(notes), "left"
    return table


def print_audit(rows: Sequence[Row], console: Console) -> None:
    """The table of an audit, with what its columns are; and how much of it is below prototype sharing."""
    results, dataset, anchors = Results(rows), rows[0].dataset, rows[0].anchors
    title = f"{dataset}: what attacks make of the messages"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", collapse_padding=True, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in audit_tables.COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    told, group = [], ""
    for method, *cells in audit_tables.lines(results, dataset, anchors, figure):
        protocol, _, field = method.partition(": ")
        if method == GRAMS:
            told.append(f"{field}: {cells[0]} in every replay")
            continue
        if field and protocol != group:
            table.add_row(f"{protocol}:")
        group = protocol
        table.add_row(f"  {field}" if field else protocol, *cells)
    told += [f"{name}: {what}" for name, (_, what) in audit_tables.COLUMNS.items()]
    told.append(audit_tables.repeated(results, dataset, anchors))
    told += [text] if (text := audit_tables.stated(results, dataset, anchors)) else []
    against = audit_tables.claims(results, dataset, anchors)
    told += [audit_tables.verdicts(against)] if against else []
    table.caption, table.caption_justify = "\n".join(told), "left"
    console.print(table)


OVERVIEW = {
    "tcga\nR@1": ("tcga-brca", "r1", None),
    "tcga\nPAM50": ("tcga-brca", "pam50", "mirna"),
    "chain\nR@1": ("tcga-brca-chain", "r1", None),
    "digits\nacc.": ("digits", "accuracy", None),
    "sites\nacc.": ("digits-sites", "accuracy", None),
    "machines\nacc.": ("machines", "accuracy", "vibration"),
    "pictures\nR@10": ("pictures", "r10", None),
}
"""Column of the quick benchmark -> data set, metric and direction; None is the mean over all directions."""


def overview(rows: Sequence[Row]) -> Table:
    """Of the quick benchmark: one line a method, one column the main figure of a data set, mean over seeds."""
    results = Results(rows)
    here = {head: column for head, column in OVERVIEW.items() if column[0] in {row.dataset for row in rows}}
    title = "held-out rows, mean over seeds"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", collapse_padding=True, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for head in here:
        table.add_column(head, justify="right")
    for method in METHODS:
        means = [results.mean(name, method, QUICK[name], metric, way) for name, metric, way in here.values()]
        if any(mean is not None for mean in means):
            table.add_row(method, *(figure(mean) for mean in means))
    return table


def described(cell: Cell) -> str:
    """Which one it is."""
    config = cell.config
    return f"{config.data}, K = {config.anchors}, seed {config.seed}: {', '.join(cell.names)}"


def took(ended: Sequence[tuple[Cell, float]], seconds: float) -> str:
    """Total time of a benchmark, and how long its cells took."""
    if not ended:
        return f"no cell left to run; {seconds:.0f} s"
    cell, longest = max(ended, key=lambda pair: pair[1])
    spent = sum(each for _, each in ended)
    return (
        f"{seconds:.0f} s; {count(len(ended), 'cell')} of {spent:.0f} s in all, "
        f"the longest {longest:.1f} s ({described(cell)})"
    )


_COLOURS = {"error": "red", "refusal": "red", "warning": "yellow", "note": "dim"}


_LETTERS = 120
"""Of an item's text, as a search shows it."""


def hits_table(hits: Sequence[tuple[Entry, Hit]], title: str = "") -> Table:
    """What a search found, best first."""
    table = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left")
    for name in ("rank", "score", "cosine"):
        table.add_column(name, justify="right")
    texts = [" ".join(entry.text.split()) for entry, _ in hits]
    for name in ("where", *(["text"] if any(texts) else []), "label"):
        table.add_column(name, overflow="fold")
    for rank, ((entry, hit), text) in enumerate(zip(hits, texts, strict=True), 1):
        shown = [text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"] if any(texts) else []
        table.add_row(str(rank), short(hit.score), short(hit.cosine), entry.where, *shown, entry.label)
    return table


def print_findings(diagnosis: Diagnosis, console: Console) -> None:
    """Each of the doctor's findings."""
    for finding in diagnosis.findings:
        print_finding(finding, console)


def print_finding(finding: Finding, console: Console) -> None:
    """Where, what, and what to do."""
    remedy = f" → {finding.remedy}" if finding.remedy else ""
    text = Text(f"{LEVELS[finding.level]} {finding.level} ", style=_COLOURS[finding.level])
    said = Text(printable(f"{finding.where}: {finding.what}{remedy}"))
    console.print(text + said, soft_wrap=not console.is_terminal)


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Coverage, pairs of modalities, findings and the verdict."""
    held = _table("what each modality holds", "modality", "nodes")
    for name in ("anchors", "synthetic", "columns", "constant"):
        held.add_column(name, justify="right")
    for entry in diagnosis.coverage:
        numbers = (f"{entry.anchors} of {entry.of}", entry.synthetic, entry.features, entry.constant)
        held.add_row(entry.modality, ", ".join(entry.nodes), *map(str, numbers))
    console.print(held)
    pairs = _table("held-out anchors: do they find their partners?", "modalities")
    for name in ("anchors", "AUC", "R@1", "chance", "CKA", "p"):
        pairs.add_column(name, justify="right")
    pairs.add_column("verdict")
    for pair in diagnosis.pairs:
        untested = pair.verdict == "untested"
        figures = [*(short(v) for v in (pair.auc, pair.r1, pair.chance, pair.cka)), probability(pair.p)]
        pairs.add_row(f"{pair.a} – {pair.b}", str(pair.anchors), *(["–"] * 5 if untested else figures), pair.verdict)
    pairs.caption = "AUC: how often the true partner ranks before a random other one (.5 is chance)"
    pairs.caption_justify = "left"
    if diagnosis.pairs:
        console.print(pairs)
    print_findings(diagnosis, console)
    if diagnosis.errors:
        console.print("these silos cannot be aligned: see above", style="bold")
    else:
        console.print("these silos can be aligned" if diagnosis.ok else "refused: see above", style="bold")


def _table(title: str, *names: str) -> Table:
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    for name in names:
        table.add_column(name)
    return table
