"""The card of a model file: what its reader, and whoever it is handed on to, has to know. Markdown, as on the hub."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from isogram.config import ModelConfig, called
from isogram.model.saved import MODEL_FILE, SavedModel

CARD = "README.md"

_GOALS = {
    "pairs": 'rows find their partners in other modalities (`goal = "pairs"`)',
    "classes": 'rows are classified (`goal = "classes"`)',
}

_LIMITS = (
    "Coordinates mean something between items embedded by this model, and by no other.",
    "Items unlike the public anchors and the nodes' rows get coordinates, too; nothing here says that they are unlike.",
    "It has been measured on the held-out rows of its run at most; the run's `report.html` has the figures.",
)


_NAMED = "Scores are cosines, not probabilities; a class is always named, also for an item of none."

_ITEMS = {"text": '["a sentence"]', "sequence": '["ACGTACGT"]', "table": "rows"}
"""Kind -> how items of it are given; those of all others are paths."""

_ROWS = "  # rows: mappings from each column of the node's table to a number, such as [{{{}: 1.0, ...}}]"


def card(model: SavedModel) -> str:
    """A model's card from its file alone; what only its owner knows is left to be filled in.

    Args:
        model: whole, or a node's part of it.
    """
    about = model.about
    parts = [
        f"---\nlibrary_name: isogram\nlicense: unknown  # to be filled in by the owner of the model\n---\n\n"
        f"# Isogram model {model.identity}\n\n{_summary(model)}\n",
        _section("Nodes", _table(("node", "modality", "labels"), _nodes(model))),
        _section("Modalities", _table(("modality", "kind", "encoder", "tokens", "public anchors"), _modalities(model))),
        _section("How it was made", _list(_facts(model))),
        _section("Classes", _classes(model)),
        _section("Privacy", _privacy(model.privacy)),
        _section("Limits", _list([*_LIMITS, *([_NAMED] if _heads(model) else []), *map(str, about.get("notes", ()))])),
        _section("Use", f"```python\n{python(model)}\n```"),
        _section(
            "Licence and contact",
            "To be filled in by the owner: the licence of this file, whom to ask, what the rows were and who allowed "
            "their use. Encoders and data have licences of their own.",
        ),
    ]
    return "\n".join(parts)


def python(model: SavedModel, folder: str = ".") -> str:
    """Lines that embed an item of the model's first node."""
    node = next(iter(model.nodes))
    encoder = model.encoders.get(model.nodes[node])
    item = "tokens" if encoder is None else _ITEMS.get(encoder.kind or model.nodes[node], '["file"]')
    told = f"  # {item}: an array [n, {model.tokens[model.nodes[node]]}, c]" if encoder is None else ""
    if encoder is not None and item == "rows":
        told = _ROWS.format(json.dumps(encoder.columns[0] if encoder.columns else "column"))
    return (
        f"from isogram import Model\nmodel = Model.load({folder!r})\ncoordinates = model.embed({node!r}, {item}){told}"
    )


def _summary(model: SavedModel) -> str:
    modalities, nodes = dict.fromkeys(model.nodes.values()), len(model.nodes)
    part = " It is one node's part of a model: other nodes' maps are not in it." if model.about.get("part_of") else ""
    return (
        f"It gives items of {_counted(len(modalities), 'modality', 'modalities')} ({', '.join(modalities)}) "
        f"coordinates in one space of {model.frame.shape[1]} dimensions, as {_counted(nodes, 'node')} that shared "
        f"no sample learnt them from {model.frame.shape[0]} public anchors.{part}"
    )


def _nodes(model: SavedModel) -> Iterable[tuple[str, ...]]:
    labelling = model.about.get("labelling_nodes", ())
    return ((node, modality, "yes" if node in labelling else "no") for node, modality in model.nodes.items())


def _modalities(model: SavedModel) -> Iterable[tuple[str, ...]]:
    anchors, files = model.about.get("anchors", {}), model.about.get("encoder_files", {})
    for modality in dict.fromkeys(model.nodes.values()):
        encoder = model.encoders.get(modality)
        how = ("numbers", "none: tokens are given")
        if encoder is not None:
            how = (encoder.kind or modality, called(encoder.encoder, files.get(modality, "")[:16]))
        yield modality, *how, str(model.tokens[modality]), str(anchors.get(modality, "not recorded"))


def _facts(model: SavedModel) -> list[str]:
    about = model.about
    facts = [f"Data: {about['data']}, seed {about.get('seed')}"] if "data" in about else []
    facts.append(f"Anchors: {model.frame.shape[0]} concepts, hash `{model.anchor_hash}`")
    if "anchor_folder" in about:
        facts.append(f"Drawn from an anchor set whose folder has the hash `{about['anchor_folder']}`")
    if about.get("goal") in _GOALS:
        facts.append(f"Goal: {_GOALS[about['goal']]}")
    if model.adapters is None:
        return [*facts, "Training: none; one-shot alignment, in closed form"]
    return [*facts, f"Training: {_counted(about.get('rounds', 0), 'federated round')}, {_trunk(model.config, model)}"]


def _trunk(config: ModelConfig, model: SavedModel) -> str:
    if config.trunk == "none":
        return "no trunk"
    return f"trunk {called(config.trunk, model.fingerprint)}, adapter {config.adapter} of rank {config.rank}"


def _heads(model: SavedModel) -> list[Tensor]:
    """Class directions, of all or of each node; none where nobody labelled rows."""
    return [*model.heads.values(), *([] if model.head is None else [model.head])] if model.classes else []


def _classes(model: SavedModel) -> str:
    heads = _heads(model)
    if not heads:
        return "None: nobody labelled rows."
    known = [c for i, c in enumerate(model.classes) if any(bool(head[i].isfinite().all()) for head in heads)]
    lines = [f"Named: {', '.join(known) or 'none'}"]
    if unknown := [name for name in model.classes if name not in known]:
        lines.append(f"Never named, for too few rows were labelled: {', '.join(unknown)}")
    if labelling := model.about.get("labelling_nodes"):
        lines.append(f"Labelled by: {', '.join(labelling)}")
    return _list(lines)


def _privacy(privacy: Mapping[str, Any]) -> str:
    if privacy:
        covered = (
            "It was trained under differential privacy, which covers every tensor in this file:"
            if privacy.get("noise") == "secret"
            else "**Its noise is of a known seed, as in experiments: nothing is guaranteed.** With a secret one:"
        )
        return f"{covered}\n\n{_list(f'{name}: {value}' for name, value in privacy.items())}"
    return (
        "**It was trained without differential privacy.** Nothing bounds what this file tells of the rows that it was "
        f"trained on. `{MODEL_FILE}` holds maps that nodes fitted to their private rows: treat it as private, and hand "
        "on one node's part (`isogram export --node`) where that is enough."
    )


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text.rstrip()}\n"


def _list(lines: Iterable[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _counted(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
