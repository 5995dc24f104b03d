"""Every setting of a run. How the defaults were chosen: docs/log.md; the file they stand in: `config_file`."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from isogram import privacy
from isogram.goal import Goal, goal_of, with_defaults

DATASETS = {
    "tcga-brca": "769 breast cancer patients: RNA, methylation, miRNA at nine nodes",
    "tcga-brca-chain": "the same; RNA and methylation have no anchor in common, only miRNA holds all",
    "tcga-brca-chain20": "the same; RNA and methylation have a fifth of the anchors in common",
    "tcga-brca-tuning": "the same; held-out rows from the anchor pool, to choose settings on",
    "digits": "written, spoken and pen-drawn digits at three nodes (anchors: per digit, 1 to 20)",
    "digits-sites": "twelve nodes, four a modality, each with a sensor, 5 classes and labels of its own",
    "machines": "simulated pumps: a vibration sensor and the operators' shift log",
    "pictures": "pictures, their names spoken in French, Spanish and Russian, and in English text",
    "pictures-tuning": "the same; held-out concepts from the anchor pool, to choose settings on",
}
"""The built-in data sets and what they are; `isogram.data` has their loaders."""

FILES = "files"
"""Value of `data` for tables of numbers of your own."""

SILOS = "silos"
"""Value of `data` for folders and tables of your own, of any modality."""

BUILT_IN_TRUNKS = ("none", "small", "minilm", "minilm-random")

AdapterName = Literal["geolora", "geodora", "fedit", "ffa-lora", "rolora", "dora", "full"]


_PRINTED = r"^[^\x00-\x1f\x7f]+$"


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AlignConfig(_Settings):
    """One-shot alignment: symbols as in docs/method.md."""

    rho: float = Field(0.1, gt=0, description="ridge, relative to the mean eigenvalue of the anchors' Gram matrix")
    rank: int | None = Field(None, ge=1, description="frame coordinates, at most K - 1; if absent 96, or K - 1 if less")
    power: float = Field(2.0, gt=0, description="weight of a frame direction: consensus eigenvalue to this power")
    clip: float = Field(5.0, gt=0, description="bound on standardised features")
    metric: bool = Field(True, description="learn feature weights by HSIC with the other modalities' Grams")
    robust: bool = Field(False, description="weigh anchor items by whether the other modalities' Grams confirm them")
    outliers: bool = Field(False, description="leave out nodes whose Gram has nothing to do with the others'")
    precision: bool = Field(False, description="weigh nodes and anchors in the consensus by their residuals")
    decorrelate: bool = Field(
        True, description="make new rows' coordinates uncorrelated: by own rows, or under privacy by anchors"
    )
    choose: bool = Field(True, description="let left-out anchors overrule kernel, ridge, decorrelate where it is clear")
    propagate: bool = Field(True, description="spread classes from the frame over a node's own rows, and learn them")


class ModelConfig(_Settings):
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


class TermWeights(_Settings):
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


class TrainConfig(_Settings):
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


class AverageConfig(_Settings):
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
    head_within: bool = Field(False, description="each modality's class directions from its own labels alone")
    shuffle: int = Field(0, ge=0, description="the control: deal weights to other nodes, in the n-th way; 0: do not")

    @property
    def counts_rows(self) -> bool:
        """Whether the rule weighs nodes by their rows, so that their number has to be sent; `robust` weighs nobody."""
        return self.rule in ("samples", "node") and self.robust == "none"


class PrivacyConfig(_Settings):
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
    # fields beside those that are called as their kind
    "index", "quality", "head", "second", "block_start", "block_trained", "adapters", "precision", "sketches",
    "samples",
]  # fmt: skip
"""What `isogram.egress` has rows for."""


class EgressConfig(_Settings):
    """What may leave a node, see docs/privacy.md."""

    allow: tuple[Sendable, ...] = Field(
        (), description="kinds of messages, or fields, that may be sent; empty: what the settings need, and no more"
    )


class NodeFiles(_Settings):
    """One silo in tables of its own."""

    name: str = Field(pattern=_PRINTED, description="of the node, distinct")
    modality: str = Field(pattern=_PRINTED, description="nodes of one modality have the same columns and anchors")
    rows: Path = Field(description="CSV, one private row a line, one number a column")
    anchors: Path = Field(description="CSV of the public anchors in this modality, with a column `id`")


class FilesConfig(_Settings):
    """Tables of your own, for `data = "files"`. Paths are relative to the configuration file."""

    labels: str = Field("", description="column that has a row's class, in the tables that know it; empty: unknown")
    classes: tuple[str, ...] = Field((), description="every class that labels may name")
    nodes: tuple[NodeFiles, ...] = ()
    held_out: Mapping[str, Path] = Field({}, description="modality = CSV of test rows; paired by a column `id`")

    @field_validator("classes", mode="before")
    @classmethod
    def _as_text(cls, classes: Any) -> Any:
        # A table's labels are text: 0 and 1 are written without quotes by many.
        whole = isinstance(classes, list | tuple)
        return [str(c) if isinstance(c, int) and not isinstance(c, bool) else c for c in classes] if whole else classes

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) != len(classes):
            raise ValueError("classes must be distinct")
        return classes


class ModalityConfig(_Settings):
    """How items of one modality are read and encoded; the same at all nodes that hold it, and for the anchors."""

    kind: str = Field("", description="image, audio, text, series, table, sequence, or a package's; empty: its name")
    encoder: str = Field(
        "builtin", description="builtin, lite0, whisper-tiny, minilm, hf:ORGANISATION/MODEL or hf:./folder"
    )
    rate: int | None = Field(None, ge=1, description="audio, series: samples a second; if absent the kind's own")
    columns: tuple[str, ...] = Field(
        (), description="table, series: columns with numbers, in order; empty: all of the anchors"
    )


class SiloNode(_Settings):
    """One silo: a folder of files, or a CSV or Parquet with a column of paths, text or numbers.

    Nodes of several modalities are several entries with one name.
    """

    name: str = Field(pattern=_PRINTED, description="of the site, distinct but for its modalities")
    modality: str = Field(pattern=_PRINTED, description="a column of the anchor table")
    data: Path = Field(description="folder, CSV or Parquet, FASTA")
    column: str = Field("", description="of paths, text or sequences; empty: the modality's name, or the only one")
    id: str = Field("", description="column of distinct row ids; empty: file name or line")
    label: str = Field("", description="column of classes; of a folder, `folder`: its subfolders are classes")
    group: str = Field("", description="column of patients or the like, never split between training and held-out")


class SilosConfig(_Settings):
    """Folders and tables of your own, for `data = "silos"`. Paths are relative to the configuration file."""

    anchors: Path | None = Field(None, description="folder of an anchor set: anchors.csv and its files")
    classes: tuple[str, ...] = Field((), description="every class that labels may name; empty: all that occur")
    held_out: float = Field(0.2, ge=0, lt=1, description="share that is kept to measure on")
    measure: Literal["anchors", "rows"] = Field(
        "anchors", description="what is held out: anchors (are partners found?), rows (are classes?)"
    )
    skip_bad: bool = Field(False, description="leave out items that cannot be read, and count them")
    modalities: Mapping[str, ModalityConfig] = Field({}, description="modality = how it is read; absent: the defaults")
    nodes: tuple[SiloNode, ...] = ()

    def modality(self, name: str) -> ModalityConfig:
        """Settings of a modality, its kind filled in."""
        found = self.modalities.get(name, ModalityConfig())
        return found if found.kind else found.model_copy(update={"kind": name})


class OutputConfig(_Settings):
    """Where a run's folder goes."""

    folder: Path = Field(Path("runs"), description="a run writes to FOLDER/NAME")
    tensorboard: bool = Field(False, description="log there for TensorBoard, too (pip install isogram[tensorboard])")

    @field_validator("folder")
    @classmethod
    def _home(cls, folder: Path) -> Path:
        return folder.expanduser()


def _default_anchors(found: dict[str, Any]) -> int:
    return {"digits": 5, "digits-sites": 5, "pictures": 200, FILES: 0, SILOS: 0}.get(found.get("data", ""), 100)


def _default_goal(found: dict[str, Any]) -> Goal:
    return goal_of(found.get("data", ""))


class Config(_Settings):
    """A run: data, anchors, seed, and the groups of settings.

    Of a file that isogram wrote, nothing is left to defaults: `isogram init` shows them all. What follows from `goal`
    does so when a configuration is made: a copy with another goal (`model_copy`) keeps its settings.
    """

    name: str = Field("", description="of the run's folder; if empty this file's own")
    data: str = Field("tcga-brca", description="a built-in set (see `isogram data list`), or your own: files, silos")
    anchors: int = Field(
        default_factory=_default_anchors,
        ge=0,
        description="K, public anchors; per digit on digits; with files and silos 0 takes all there are",
    )
    goal: Goal = Field(
        default_factory=_default_goal,
        description="pairs: rows find their partners; classes: rows are classified (every modality labels every class)",
    )
    seed: int = Field(0, ge=0, description="of the split and of everything random")
    threads: int = Field(1, ge=1, description="of the CPU; the same number gives the same bits")
    align: AlignConfig = AlignConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    average: AverageConfig = AverageConfig()
    egress: EgressConfig = EgressConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    output: OutputConfig = OutputConfig()
    files: FilesConfig = FilesConfig()
    silos: SilosConfig = SilosConfig()

    @model_validator(mode="before")
    @classmethod
    def _governed(cls, found: Any) -> Any:
        if not isinstance(found, Mapping):
            return found
        goal = found.get("goal", _default_goal(dict(found)))
        found = privacy.with_defaults(found)
        return with_defaults(found, goal) if goal in get_args(Goal) else found

    @field_validator("name")
    @classmethod
    def _a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"([A-Za-z0-9_-][A-Za-z0-9_.-]*)?", name):
            raise ValueError(f"{name!r} is to name a folder: use letters, digits, - and _, and dots inside")
        return name

    @field_validator("data")
    @classmethod
    def _exists(cls, data: str) -> str:
        known = (*DATASETS, FILES, SILOS)
        if data not in known:
            near = get_close_matches(data, known, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"no data set {data!r}: choose one of {', '.join(known)}{meant}")
        return data

    @model_validator(mode="after")
    def _agree(self) -> Self:
        problems = []
        for own, nodes in ((FILES, self.files.nodes), (SILOS, self.silos.nodes)):
            if self.data == own and not nodes:
                problems.append(f'data = "{own}" needs [[{own}.nodes]] tables: one per silo')
            if self.data != own and nodes:
                problems.append(f'[[{own}.nodes]] are given, but data = "{self.data}"; set data = "{own}"')
        if self.data == SILOS and self.silos.anchors is None:
            problems.append('data = "silos" needs silos.anchors, the folder of the anchor set')
        if self.data not in (FILES, SILOS) and self.anchors < 1:
            problems.append(f"anchors = {self.anchors}: {self.data} needs at least 1")
        if self.train.rounds and not any(weight for _, weight in self.train.weights):
            problems.append("train.weights are all 0: there is nothing to train; give one a weight, or set rounds = 0")
        if self.model.trunk == "none" and self.model.start:
            problems.append("model.start is a checkpoint of adapters, and trunk none has none; choose a trunk")
        if self.train.refresh and self.model.adapter not in ("geolora", "geodora"):
            problems.append(
                f"train.refresh renews an orthonormal basis, and {self.model.adapter} has none; set it to 0, or take "
                "geolora"
            )
        if self.model.dtype == "bfloat16" and (self.train.refresh or self.model.adapter == "full"):
            problems.append(
                "model.dtype = bfloat16 rounds away what train.refresh merges into a weight, or what adapter full "
                "trains of it; take float32"
            )
        if self.align.precision and self.train.frame_update:
            problems.append(
                "align.precision weighs the first consensus alone; set it to false, or train.frame_update to 0"
            )
        if self.average.across == "pooled" and self.average.rule == "parameter":
            problems.append(
                "average.across = pooled needs one weight per node, and average.rule = parameter gives one per number; "
                "choose another rule"
            )
        problems += self._not_robust()
        if self.average.across == "alone" and self.train.refresh and self.train.refresh_basis == "gradient":
            problems.append("train.refresh_basis = gradient needs all nodes' sketches; nodes alone have random")
        problems += privacy.refusals(self)
        if self.files.labels == "id":
            problems.append("files.labels = 'id': that column has the names of rows; name the one that has classes")
        if self.files.classes and not self.files.labels:
            problems.append("files.classes are given, but files.labels does not name the column that has them")
        names = [node.name for node in self.files.nodes]
        problems += [f"two nodes are named {name!r}" for name in sorted({n for n in names if names.count(n) > 1})]
        held = {node.modality for node in self.files.nodes}
        problems += [f"files.held_out names {m!r}, which no node holds" for m in self.files.held_out if m not in held]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _not_robust(self) -> list[str]:
        """What a hostile node would decide in spite of `average.robust`."""
        average, robust = self.average, f"average.robust = {self.average.robust}"
        if average.robust == "none":
            return []
        problems = []
        if average.rule in ("node", "parameter"):
            problems.append(f"{robust} counts all nodes alike: take average.rule = uniform, not {average.rule}")
        if average.across == "alone":
            problems.append(f"{robust} has nothing to protect where average.across = alone: set it to none")
        if average.across == "pooled":
            problems.append(
                f"{robust} does without variances, which one node can blow up: average.across = none or all"
            )
        if self.train.refresh and self.train.refresh_basis == "gradient":
            problems.append(f"{robust} cannot protect a sum of sketches: take train.refresh_basis = random")
        return problems
