"""The header of a model file: what may stand where in it."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, StringConstraints, ValidationError

from isogram.config import PRINTED, ModalityConfig, ModelConfig

Name = Annotated[str, StringConstraints(pattern=PRINTED)]


class _Part(BaseModel):
    """Text is text and a number a number: nothing is made into what it should be. Other keys are for later versions."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class About(_Part):
    """Of the run, as the card and `inference.Model` take it; what a file lacks is not known.

    anchors: modality -> public items; encoder_files: modality -> see `Pretrained.files`; part_of: the whole model's
    identity, of a node's part.
    """

    data: str = ""
    goal: str = ""
    seed: int = 0
    rounds: int = 0
    concepts: int = 0
    anchors: dict[str, int] = {}
    labelling_nodes: list[str] = []
    notes: list[str] = []
    encoder_files: dict[str, str] = {}
    anchor_folder: str = ""
    part_of: str = ""


class Header(_Part):
    """What `SavedModel` is told in its file beside its tensors; clip: map -> bound on standardised features."""

    format: str
    model: ModelConfig
    nodes: dict[Name, Name] = Field(min_length=1)
    tokens: dict[str, PositiveInt]
    classes: list[str]
    anchor_hash: str
    clip: dict[str, PositiveFloat]
    trained: bool
    fingerprint: str
    privacy: dict[str, str | int | float | bool] = {}
    encoders: dict[str, ModalityConfig] = {}
    about: About = About()


def check_header(found: Any) -> Header:
    """A header as it should be.

    Raises:
        ValueError: the first thing in it that is not, in a few words.
    """
    try:
        return Header.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        told = f"it lacks {key!r}" if first["type"] == "missing" else f"in its header {key}: {first['msg']}"
        raise ValueError(told) from error
