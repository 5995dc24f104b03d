"""What the page of a run says of methods, findings, loss terms and messages: names in the code -> words."""

from isogram.config import SILOS
from isogram.evaluation import Scope

METHODS = {
    "local": "every modality in a basis of its own: nothing aligns them",
    "no-message": "coordinates are similarities to the anchors, fitted at each node alone",
    "relative": "coordinates are cosines to the anchors",
    "duration": "closeness of a number that means nothing: how long a name takes to say, or to write",
    "oneshot": "one-shot alignment: ridge regression onto the common frame, without training",
    "oneshot-hsic": "one-shot alignment with a feature metric learnt from the other modalities",
    "closed-form": "the start of isogram: one-shot alignment, the fit chosen by left-out anchors, own rows used as set",
    "pairwise-ridge": "ridge regression between the anchor features of every two modalities",
    "cca": "regularised canonical correlations of every two modalities' anchor features",
    "procrustes": "a rotation between the principal components of every two modalities",
    "local-trained": "every node trains alone, without a frame",
    "fedavg-lora": "federated averaging of LoRA adapters, without a frame",
    "fedcola": "the same, averaged over all nodes in attention alone, and within a modality in the rest",
    "cka": "CKA to the consensus as the loss; it does not see rotations",
    "cka-frame": "the run of cka, read through the frame",
    "prototypes": "nodes share anchor embeddings and pull theirs towards the mean",
    "creamfl": "contrast of anchor embeddings with those of the other modalities and with one's own past",
    "fedmuscle": "contrast of anchor embeddings with those of all other nodes at once",
    "isogram": "closed-form, then federated rounds of the shared trunk",
    "isogram+oneshot": "each node keeps the trained model or its one-shot start, as held-out anchors say",
    "centralised": "a bound, not a method: all private rows and labels at one place, an average after every step",
    "paired": "a bound, not a method: all other rows as anchors, which nobody may have",
    "anchor-labels+ssl": "a bound, not a method: anchors' classes told, and spread over private rows at home",
    "own-labels": "a reference, not a method: nodes of a modality pool their rows and are told all labels",
}

BOUNDS = ("duration", "centralised", "paired", "anchor-labels+ssl", "own-labels")
"""Methods that are compared with, but never called the best."""

DOCTOR = {
    "pairs": (
        "Held-out anchors: do they find their partners? AUC: how often the true partner ranks before a random other "
        "one (.5 is chance)",
        {
            "modalities": "modalities",
            "anchors": "anchors",
            "auc": "AUC",
            "r1": "R@1",
            "chance": "chance",
            "cka": "CKA",
            "z": "z",
            "p": "p",
            "verdict": "verdict",
        },
    ),
    "coverage": (
        "What each modality holds",
        {
            "modality": "modality",
            "anchors": "anchors",
            "of": "of all",
            "synthetic": "synthetic",
            "features": "columns",
            "constant": "constant",
            "nodes": "nodes",
        },
    ),
    "groups": (
        "Modalities that chains of common anchors connect",
        {"modalities": "modalities", "anchors": "anchors"},
    ),
    "suspects": (
        "Anchors that do not go with the others",
        {"modality": "modality", "anchor": "anchor", "probability": "probability"},
    ),
    "duplicates": (
        "Anchors that are the same item",
        {"modality": "modality", "anchor": "anchor", "other": "and"},
    ),
    "uninformative": (
        "Anchors that say nothing",
        {"modality": "modality", "anchor": "anchor"},
    ),
}
"""The doctor's tables: caption, and heading of each column."""

TERMS = {
    "task": "classes of labelled rows",
    "cka": "1 − CKA of the anchors with the frame",
    "frame": "each anchor finds its own place in the frame",
    "teacher": "private rows stay where the start put them",
    "prototype": "anchors move to their mean over the nodes",
    "inter": "each anchor finds itself among those of the other modalities",
    "intra": "anchors nearer to those of their modality than to their own past",
    "muscle": "each anchor finds itself at every other node",
}

STAGES = {"features": "Features", "aligned": "After alignment", "trained": "After training"}

PARTS = {
    "Gram matrices": "how alike a node finds the anchors; received: averages of these",
    "frame": "common coordinates of the anchors",
    "adapters": "weights of the shared trunk, their precisions, sketches of their gradients",
    "class sums": "counts, sums per class and second moments inside a secure sum; received: class directions",
    "anchor embeddings": "coordinates of the anchors; received: their means",
    "anchor lists": "which anchors a node has, and their weights",
    "other fields": "fields that this version does not know",
    "framing": "names and shapes around the numbers",
}
"""Of messages, in the order of their colours."""

FIELDS = {
    **dict.fromkeys(("gram", "others", "geometry", "block_start", "block_trained"), "Gram matrices"),
    **dict.fromkeys(("key", "keys", "counts", "evidence", "head", "second", "directions"), "class sums"),
    **dict.fromkeys(("embeddings", "prototypes", "counterparts", "siblings", "peers"), "anchor embeddings"),
    **dict.fromkeys(("index", "quality"), "anchor lists"),
    **dict.fromkeys(("adapters", "precision", "sketches"), "adapters"),
    **{"frame": "frame", "header": "framing"},
}
"""Field of a message -> part."""


def measured(scope: Scope, dataset: str) -> str:
    """What figures were measured on, such as "25 held-out concepts" or "held-out rows (8 of photo, 7 of text)"."""
    if not scope.rows:
        return "no held-out rows to measure on"
    if scope.paired:
        n = max(scope.rows.values())
        return count(n, "held-out concept" if dataset == SILOS else "held-out row")
    return f"held-out rows ({', '.join(f'{n:,} of {modality}' for modality, n in scope.rows.items())})"


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(names: list[str]) -> str:
    """Names as a sentence has them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
