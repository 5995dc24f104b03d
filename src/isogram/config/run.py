"""Every setting of a run. How the defaults were chosen: docs/log.md; the file they stand in: `config_file`."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Self, get_args

from pydantic import Field, field_validator, model_validator

from isogram import privacy
from isogram.config.own_data import FILES, SILOS, FilesConfig, SilosConfig
from isogram.config.settings import (
    AlignConfig,
    AverageConfig,
    EgressConfig,
    ModelConfig,
    OutputConfig,
    PrivacyConfig,
    Settings,
    TrainConfig,
)
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


def _default_anchors(found: dict[str, Any]) -> int:
    return {"digits": 5, "digits-sites": 5, "pictures": 200, FILES: 0, SILOS: 0}.get(found.get("data", ""), 100)


def _default_goal(found: dict[str, Any]) -> Goal:
    return goal_of(found.get("data", ""))


class Config(Settings):
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
        problems += self._not_robust() + self._not_summed()
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

    def _not_summed(self) -> list[str]:
        """What needs single Grams or updates, of which `align.secure` and `average.secure` show the server none."""
        align, average = self.align, self.average
        of_grams = {
            "average.rule": (average.rule, "uniform, samples or parameter", average.rule == "node"),
            "train.frame_update": (self.train.frame_update, "0", self.train.frame_update > 0),
        }
        for name in ("metric", "choose", "robust", "outliers", "precision"):
            of_grams[f"align.{name}"] = (True, "false", getattr(align, name))
        of_updates = {
            "average.robust": (average.robust, "none", average.robust != "none"),
            "average.rule": (average.rule, "uniform, samples or parameter", average.rule == "node"),
            "average.relative": (False, "true", average.rule == "parameter" and not average.relative),
            "average.across": (average.across, "all or none", average.across not in ("all", "none")),
            "average.cap": (average.cap, "1", average.cap < 1),
            "average.shuffle": (average.shuffle, "0", average.shuffle > 0),
            "train.refresh_basis": (
                self.train.refresh_basis,
                "random",
                self.train.refresh > 0 and self.train.refresh_basis == "gradient",
            ),
            "train.weights": ("those of peers", "those of the default", self.train.weights.of_peers),
        }
        sums = [("align", "Grams", of_grams)] * align.secure + [("average", "updates", of_updates)] * average.secure
        return [
            f"{section}.secure = true sums {what} that nobody sees, and {name} = {value} needs more: set {remedy}"
            for section, what, wrong in sums
            for name, (value, remedy, refused) in wrong.items()
            if refused
        ]
