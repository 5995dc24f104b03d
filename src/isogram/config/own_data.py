"""Where your own data lie and how they are read: tables of numbers (`files`), any modality (`silos`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from isogram.config.settings import Settings

FILES = "files"
"""Value of `data` for tables of numbers of your own."""

SILOS = "silos"
"""Value of `data` for folders and tables of your own, of any modality."""

PRINTED = r"^[^\x00-\x1f\x7f]+$"
"""Of names of nodes and modalities."""


class NodeFiles(Settings):
    """One silo in tables of its own."""

    name: str = Field(pattern=PRINTED, description="of the node, distinct")
    modality: str = Field(pattern=PRINTED, description="nodes of one modality have the same columns and anchors")
    rows: Path = Field(description="CSV, one private row a line, one number a column")
    anchors: Path = Field(description="CSV of the public anchors in this modality, with a column `id`")


class FilesConfig(Settings):
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


class ModalityConfig(Settings):
    """How items of one modality are read and encoded; the same at all nodes that hold it, and for the anchors."""

    kind: str = Field("", description="image, audio, text, series, table, sequence, or a package's; empty: its name")
    encoder: str = Field(
        "builtin", description="builtin, lite0, whisper-tiny, minilm (English), hf:ORGANISATION/MODEL or hf:./folder"
    )
    rate: int | None = Field(None, ge=1, description="audio, series: samples a second; if absent the kind's own")
    columns: tuple[str, ...] = Field(
        (), description="table, series: columns with numbers, in order; empty: all of the anchors"
    )


class SiloNode(Settings):
    """One silo: a folder of files, or a CSV or Parquet with a column of paths, text or numbers.

    Nodes of several modalities are several entries with one name.
    """

    name: str = Field(pattern=PRINTED, description="of the site, distinct but for its modalities")
    modality: str = Field(pattern=PRINTED, description="what its items are, as the anchor set calls it")
    data: Path = Field(description="folder, CSV or Parquet, FASTA")
    column: str = Field("", description="of paths, text or sequences; empty: the modality's name, or the only one")
    id: str = Field("", description="column of distinct row ids; empty: file name or line")
    label: str = Field("", description="column of classes; of a folder, `folder`: its subfolders are classes")
    group: str = Field("", description="column of patients or the like, never split between training and held-out")


class SilosConfig(Settings):
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
