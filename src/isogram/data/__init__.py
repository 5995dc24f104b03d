"""Data sets by name. A new one is one file here and one line in `DATASETS`."""

from collections.abc import Callable
from functools import partial

from isogram.data.base import AnchorItems, AnchorSet, FederatedData, HeldOut, NodeData, evaluation
from isogram.data.digits import load_digits
from isogram.data.machines import load_machines
from isogram.data.tcga import load_tcga
from isogram.errors import ConfigError

DATASETS: dict[str, Callable[..., FederatedData]] = {
    "tcga-brca": load_tcga,
    "tcga-brca-chain": partial(load_tcga, overlap=0.0),
    "tcga-brca-chain20": partial(load_tcga, overlap=0.2),
    "tcga-brca-tuning": partial(load_tcga, tuning=True),
    "digits": load_digits,
    "machines": load_machines,
}


def load(name: str, *, anchors: int, seed: int) -> FederatedData:
    """A data set by name, with `anchors` public anchors (per class on `digits`) and the splits of `seed`.

    Raises:
        ConfigError: no such data set.
        DataError: its files cannot be had, or are not what they should be.
    """
    if name not in DATASETS:
        raise ConfigError(f"no data set {name!r}; choose one of {', '.join(DATASETS)}")
    return DATASETS[name](anchors=anchors, seed=seed)


__all__ = ["DATASETS", "AnchorItems", "AnchorSet", "FederatedData", "HeldOut", "NodeData", "evaluation", "load"]
