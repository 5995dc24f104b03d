"""Groups of settings of a run: alignment, model, training, averaging, privacy, output."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

BUILT_IN_TRUNKS = ("none", "small", "minilm", "minilm-random")

AdapterName = Literal["geolora", "geodora", "fedit", "ffa-lora", "rolora", "dora", "full"]


class Settings(BaseModel):
    """A group of settings: no other names, no change, no infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AlignConfig(Settings):
    """One-shot alignment: symbols as in docs/method.md."""

    rho: float = Field(0.1, gt=0, description="ridge, relative to the mean eigenvalue of the anchors' Gram matrix")
    rank: int | None = Field(None, ge=1, description="frame coordinates, at most K - 1; if absent 96, or K - 1 if less")
    power: float = Field(2.0, gt=0, description="weight of a frame direction: consensus eigenvalue to this power")
    clip: float = Field(5.0, gt=0, description="bound on standardised features")
    metric: bool = Field(True, description="learn feature weights by HSIC with the other modalities' Grams")
    robust: bool = Field(False, description="weigh anchor items by whether the other modalities' Grams confirm them")
    outliers: bool = Field(False, description="leave out nodes whose Gram has nothing to do with the others'")
    secure: bool = Field(
        False, description="the server learns the sum of Grams over nodes, and no Gram; nodes may be lost on the way"
    )
    precision: bool = Field(False, description="weigh nodes and anchors in the consensus by their residuals")
    decorrelate: bool = Field(
        True, description="make new rows' coordinates uncorrelated: by own rows, or under privacy by anchors"
    )
    choose: bool = Field(True, description="let left-out anchors overrule kernel, ridge, decorrelate where it is clear")
    propagate: bool = Field(True, description="spread classes from the frame over a node's own rows, and learn them")


class ModelConfig(Settings):
    """The homogeneous trunk and its adapters."""

    trunk: str = Field(
        "small", description="none, small, minilm, minilm-random, or a Hugging Face model: ./its/folder, or org/name"
    )
    adapter: AdapterName = Field(
        "geolora", description="geolora, geodora, fedit, ffa-lora, rolora, dora, full: see docs/adapters.md"
    )
    rank: int = Field(8, ge=1, description="of the adapters")
    target: str | tuple[str, ...] = Field(
        "all-linear", description="layers with adapters, as in PEFT: all-linear, a pattern, or a list of endings"
    )
    start: str = Field("", description="folder of a PEFT LoRA checkpoint to start from")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the frozen base: float32 or bfloat16; adapters are float32"
    )
    gradient_checkpointing: bool = Field(False, description="compute activations again instead of keeping them")
    width: int = Field(128, ge=8, multiple_of=4, description="width of the small trunk; MiniLM has its own")
    layers: int = Field(2, ge=1, description="layers of the small trunk")

    @field_validator("trunk")
    @classmethod
    def _known(cls, trunk: str) -> str:
        if trunk not in BUILT_IN_TRUNKS and not re.search(r"[/\\]", trunk):
            near = get_close_matches(trunk, BUILT_IN_TRUNKS, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"no trunk {trunk!r}: choose one of {', '.join(BUILT_IN_TRUNKS)}, a folder (./NAME) or a model of the "
                f"Hugging Face hub (ORGANISATION/NAME){meant}"
            )
        return trunk


class TermWeights(Settings):
    """Weights of the loss terms in `isogram.objective`; a term of weight 0 is not computed."""

    task: float = Field(0.1, ge=0, description="cross-entropy of labelled rows, by cosines to class directions; 0: off")
    cka: float = Field(0.1, ge=0, description="1 - CKA of the anchors' Gram with the frame's")
    frame: float = Field(1.0, ge=0, description="each anchor finds its own place in the frame")
    teacher: float = Field(1.0, ge=0, description="private rows stay where the start puts them, in direction")
    prototype: float = Field(0.0, ge=0, description="of peers: anchors near their mean embedding over nodes, sent")
    inter: float = Field(0.0, ge=0, description="of peers: CreamFL's contrast between modalities, embeddings sent")
    intra: float = Field(0.0, ge=0, description="of peers: CreamFL's contrast within a modality, embeddings sent")
    muscle: float = Field(0.0, ge=0, description="of peers: FedMuscle's contrast with every node, embeddings sent")

    @property
    def of_peers(self) -> bool:
        """Whether a term looks at other nodes' anchor embeddings."""
        return bool(self.prototype or self.inter or self.intra or self.muscle)

    @classmethod
    def only(cls, **weights: float) -> Self:
        """These terms and no other."""
        return cls(**dict.fromkeys(cls.model_fields, 0.0) | weights)


class TrainConfig(Settings):
    """Federated rounds of local training."""

    device: str = Field("cpu", description="where nodes train: cpu, cuda, or another name that PyTorch knows")
    rounds: int = Field(4, ge=0, description="0 stops after one-shot alignment")
    steps: int = Field(8, ge=1, description="optimiser steps per node and round")
    batch: int = Field(32, ge=1, description="private rows per step")
    anchor_batch: int = Field(6, ge=1, description="anchors per step through the trunk; the others stand as last seen")
    folds: int = Field(10, ge=2, description="folds of the cross-fitted anchors that training sees")
    lr: float = Field(1e-4, gt=0, description="learning rate of adapters and output map")
    projector_lr: float = Field(0.0, ge=0, description="of a node's own projector; 0 leaves it at the one-shot map")
    frame_update: float = Field(0.0, ge=0, le=1, description="share of the trained Grams in each round's consensus")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    refresh: int = Field(0, ge=0, description="rounds between refreshes of a frozen basis; 0 keeps the first")
    refresh_basis: Literal["random", "gradient"] = Field(
        "random", description="what a refresh takes the new one from: random or gradient"
    )
    temperature: float = Field(0.1, gt=0, description="of the frame and task terms' softmax")
    weights: TermWeights = TermWeights()


class AverageConfig(Settings):
    """How the server averages what the nodes learn."""

    rule: Literal["uniform", "samples", "node", "parameter"] = Field(
        "samples",
        description="weights: uniform, samples (rows), node (rows / anchors' residual), parameter (rows x precision)",
    )
    across: Literal["all", "trunk", "pooled", "attention", "none", "alone"] = Field(
        "all",
        description="over modalities: all, trunk (all but the map out of it), pooled, attention, none; or alone",
    )
    robust: Literal["none", "median", "trimmed"] = Field(
        "none", description="against hostile nodes, by coordinate: none (means), median, trimmed (a third at each end)"
    )
    prior: float = Field(0.0, ge=0, description="weight of the previous value, as a share of all nodes' together")
    temper: float = Field(1.0, gt=0, le=1, description="precisions to this power")
    clip: float = Field(10.0, gt=1, description="bound on a precision, in means of its node and tensor")
    relative: bool = Field(False, description="divide a node's precisions by their mean: only their pattern counts")
    cap: float = Field(1.0, gt=0, le=1, description="bound on one node's share of the weights")
    head: Literal["anchors", "means", "laplace"] = Field(
        "anchors",
        description="class directions: anchors (scored by labelled nodes), means, laplace (second moments)",
    )
    secure: bool = Field(
        False, description="the server learns sums of updates over nodes, and no update; nodes may be lost on the way"
    )
    head_within: bool = Field(False, description="each modality's class directions from its own labels alone")
    shuffle: int = Field(0, ge=0, description="the control: deal weights to other nodes, in the n-th way; 0: do not")

    @property
    def counts_rows(self) -> bool:
        """Whether the rule weighs nodes by their rows, so that their number has to be sent; `robust` weighs nobody."""
        return self.rule in ("samples", "node") and self.robust == "none"


class PrivacyConfig(Settings):
    """Differential privacy of each private row; what is guaranteed, and what is refused: docs/privacy.md."""

    epsilon: float = Field(0.0, ge=0, description="bound for one row at one node, over all that is released; 0: off")
    delta: float = Field(
        1e-5,
        gt=0,
        lt=0.1,
        description="probability with which the bound may fail, below 1 / rows: to publish one row in ten keeps 0.1",
    )
    clip: float = Field(1.0, gt=0, description="bound on the L2 norm of one row's gradient")
    rate: float = Field(0.25, gt=0, le=1, description="probability with which a row is in a step; public")
    head_share: float = Field(0.5, gt=0, le=1, description="of epsilon for class directions; rounds have the rest")
    head_rank: int | None = Field(
        None, ge=1, description="frame coordinates in class directions; if absent as many as there are classes"
    )
    noise_seed: int | None = Field(
        None, ge=0, description="for experiments: whoever knows it can take the noise away; if absent it is secret"
    )


Sendable = Literal[
    # kinds of messages
    "gram", "trained_gram", "key", "counts", "sums", "directions", "embeddings", "blocks", "update",
    "pair", "parcels", "summand", "shares",
    # fields beside those that are called as their kind
    "index", "quality", "head", "second", "block_start", "block_trained", "adapters", "precision", "sketches",
    "samples",
]  # fmt: skip
"""What `isogram.egress` has rows for."""


class EgressConfig(Settings):
    """What may leave a node, see docs/privacy.md."""

    allow: tuple[Sendable, ...] = Field(
        (), description="kinds of messages, or fields, that may be sent; empty: what the settings need, and no more"
    )


class OutputConfig(Settings):
    """Where a run's folder goes."""

    folder: Path = Field(Path("runs"), description="a run writes to FOLDER/NAME")
    tensorboard: bool = Field(
        False, description="log there for TensorBoard, too (pip install -e '.[tensorboard]' in the clone)"
    )

    @field_validator("folder")
    @classmethod
    def _home(cls, folder: Path) -> Path:
        return folder.expanduser()
