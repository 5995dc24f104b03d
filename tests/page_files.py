"""Files of a run as its page reads them, and checks of the page's HTML."""

import html
import json
import re
from html.parser import HTMLParser

from isogram.methods import METHODS
from isogram.report import words
from isogram.report.page import write_page

NODES = {"rna-1": "rna", "meth-1": "meth", "rna-2": "rna", "mirna-1": "mirna"}
KINDS = ("rna", "meth", "mirna")
SECTIONS = ("results", "doctor", "cka", "map", "examples", "training", "traffic", "nodes", "settings")
TERMS = ("task", "cka", "frame", "teacher", "prototype")


def run_files(classes=("Normal", "Basal", "LumA"), nodes=NODES, rows=30, terms=("frame",)):
    """What a complete run leaves, by file name."""
    state = {"name": "try", "round": 2, "rounds": 2, "complete": True, "seconds": 12.3, "data": "tcga-brca"}
    state |= {"anchors": 100, "classes": list(classes), "notes": ["PAM50 meth. is contaminated"]}
    state["nodes"] = [{"name": n, "modality": m, "rows": 51, "classes": list(classes[:2])} for n, m in nodes.items()]
    message = {"round": 0, "shape": [5050], "bytes": 20200}
    messages = [message | {"direction": "up", "node": n, "field": "gram"} for n in nodes]
    messages += [message | {"direction": "down", "node": n, "field": "frame", "round": 1} for n in nodes]
    trained = [("up", "adapters/a.b"), ("down", "adapters/a.b"), ("up", "header"), ("down", "keys"), ("up", "new")]
    messages += [message | {"direction": d, "node": n, "field": f, "round": 3} for n in nodes for d, f in trained]
    metrics = [{"round": r, "node": "", "metric": "seconds", "value": 2.5} for r in (0, 1, 2)]
    for number, term in enumerate(terms):
        values = {"metric": f"loss/{term}", "value": 1 / (number + 1)}
        metrics += [{"round": r, "node": n} | values for r in (1, 2) for n in nodes]
    kinds = list(dict.fromkeys(nodes.values()))
    ways = [(a, b) for a in kinds for b in kinds if a != b]
    results = []
    for number, method in enumerate(METHODS):
        row = {"dataset": "tcga-brca", "method": method, "anchors": 100, "seed": 0}
        found = [("r1", f"{a}->{b}", number / 20) for a, b in ways] + [("pam50", kind, 0.5) for kind in kinds]
        found += [("cka", f"{a}->{b}", 0.4) for a, b in ways if a < b] + [("bytes_per_node", "", 42600.0)]
        results += [row | {"metric": m, "direction": d, "value": v} for m, d, v in [*found, ("seconds", "", 0.24)]]
    square = [[1.0 if a == b else 0.37 for b in nodes] for a in nodes]
    found = [{"row": r, "label": classes[0], "cosine": 0.9 - r / 10, "right": r == 1} for r in range(5)]
    evaluation = {
        "paired": True,
        "rows": rows,
        "on": "held-out rows",
        "classes": list(classes),
        "cka": {"nodes": list(nodes), "on": "held-out rows"} | dict.fromkeys(words.STAGES, square),
        "map": {
            kind: {
                "x": [i / 10 for i in range(rows)],
                "y": [(i * i) % 7 / 7 for i in range(rows)],
                "label": [i % len(classes) for i in range(rows)],
            }
            for kind in kinds
        },
        "examples": [{"from": a, "to": b, "query": 1, "label": classes[0], "found": found} for a, b in ways],
    }
    pair = {"a": "rna", "b": "meth", "anchors": 100, "cka": 0.4, "z": 26.6, "p": 0.0001, "auc": 0.97, "r1": 0.8}
    untested = pair | {"b": "mirna", "p": 1.0, "auc": 0.5, "r1": 0.0, "verdict": "untested", "chance": 0.0}
    cover = {"modality": "rna", "nodes": ["rna-1", "rna-2"], "anchors": 95, "of": 100, "synthetic": 0}
    doctor = {
        "pairs": [pair | {"chance": 0.05, "verdict": "aligned"}, untested],
        "coverage": [cover | {"features": 6000, "constant": 1}],
        "groups": [{"modalities": list(kinds), "anchors": 100}],
        "suspects": [{"modality": "rna", "anchor": f"anchor-{i}", "probability": 0.9} for i in range(30)],
        "duplicates": [["rna", "anchor-8", "anchor-9"]],
        "uninformative": [["meth", "anchor-7"]],
        "findings": [
            {"level": "note", "where": "labels", "what": "are at one modality only", "remedy": ""},
            {
                "level": "warning",
                "where": "modality rna",
                "what": "anchors do not go together",
                "remedy": "look at them",
            },
        ],
    }
    environment = {"isogram": "0.2.0", "python": "3.11.9", "started": "2026-11-25T01:20:00+00:00"}
    return {
        "config.toml": 'name = "try"\ndata = "tcga-brca"\n\n[align]\nmetric = true\n',
        "environment.json": environment | {"packages": {"torch": "2.13.0"}},
        "run.json": state,
        "doctor.json": doctor,
        "messages.jsonl": messages,
        "metrics.jsonl": metrics,
        "results.jsonl": results,
        "evaluation.json": evaluation,
    }


def make(folder, files):
    """The page of a folder with these files, as text."""
    folder.mkdir(exist_ok=True)
    for name, value in files.items():
        if name.endswith(".jsonl"):
            value = "".join(json.dumps(line) + "\n" for line in value)
        elif name.endswith(".json"):
            value = json.dumps(value)
        (folder / name).write_text(value, encoding="utf-8")
    path = write_page(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


VOID = {"meta", "br", "col"}
NAMING = ("aria-labelledby", "aria-describedby", "href")


class Outline(HTMLParser):
    """Fails on tags that do not nest; collects ids, what refers to them, and the elements that a reader cannot see."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.references, self.charts, self.tags = [], [], [], [], set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self._see(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert "svg" in self.open, f"<{tag}/> closes itself in a drawing only"
        self._see(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def _see(self, tag, attributes):
        found = dict(attributes)
        assert len(found) == len(attributes), f"an attribute of <{tag}> is there twice"
        self.tags.add(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.references += [(tag, found[name].removeprefix("#")) for name in NAMING if name in found]
        if tag == "svg":
            self.charts.append(found)


def visible(text):
    """What is read: no style, no markup."""
    text = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def sections(text):
    return tuple(re.findall(r'<section id="(\w+)"', text))


def check(text):
    """What holds of every page: it nests, its ids are unique and found, charts have words, nothing is fetched."""
    outline = Outline(text)
    assert len(set(outline.ids)) == len(outline.ids)
    assert {target for _, target in outline.references} <= set(outline.ids)
    assert [tag for tag, _ in outline.references if tag == "a"] == ["a"] * len(sections(text))
    for chart in outline.charts:
        assert chart.get("aria-hidden") == "true" or (chart["role"] == "img" and len(chart["aria-label"]) > 10)
    assert not outline.tags & {"script", "link", "img", "iframe", "object", "embed", "image"}
    assert not re.search(r"https?:|\bsrc=|url\(|@import|javascript:", text, re.IGNORECASE)
    return outline
