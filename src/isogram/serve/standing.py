"""How well a run's modalities are aligned, in the few figures that the page of a site shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isogram.config import ModalityConfig, called
from isogram.report.record import Record


def standing(run: Path, encoders: Mapping[str, ModalityConfig]) -> dict[str, Any]:
    """From a run's folder, of each modality and of each direction between two.

    Returns:
        modalities: name, nodes, anchors, encoder. metric: of `directions`, "R@10" on held-out rows or, without any,
        "AUC" of left-out anchors; chance: of it; from -> to -> value. concepts: anchors in all; rows: held out.

    Raises:
        RunError: the folder holds no run, or is damaged.
    """
    record = Record.read(run)
    cover = {entry["modality"]: entry for entry in record.doctor.get("coverage", [])}
    modalities = list(dict.fromkeys(record.modality.values()))
    directions: dict[str, dict[str, float]] = {}
    metric, chance = "R@10", record.scope.chance("r10")
    for a in modalities:
        for b in modalities:
            own = record.own
            value = None if own is None or a == b else record.figure(own, "r10", f"{a}->{b}")
            if value is not None:
                directions.setdefault(a, {})[b] = round(value, 4)
    if not directions:
        metric, chance = "AUC", 0.5
        for pair in record.doctor.get("pairs", []):
            for a, b in ((pair["a"], pair["b"]), (pair["b"], pair["a"])):
                directions.setdefault(a, {})[b] = round(pair["auc"], 4)
    return {
        "metric": metric,
        "chance": chance,
        "directions": directions,
        "rows": int(record.evaluation.get("rows") or 0),
        "concepts": int(record.run.get("anchors", 0)),
        "rounds": int(record.run.get("rounds", 0)),
        "modalities": [
            {
                "name": name,
                "nodes": [node for node, modality in record.modality.items() if modality == name],
                "anchors": cover.get(name, {}).get("anchors"),
                "encoder": called(encoders[name].encoder) if name in encoders else "",
                "kind": encoders[name].kind if name in encoders else "",
            }
            for name in modalities
        ],
    }
