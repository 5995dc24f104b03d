"""Every setting of a run: `Config`, its groups of settings, and data of your own."""

from isogram.config.own_data import (
    FILES,
    PRINTED,
    SILOS,
    FilesConfig,
    ModalityConfig,
    NodeFiles,
    SiloNode,
    SilosConfig,
)
from isogram.config.places import called, found_from, handed_on, is_folder
from isogram.config.run import DATASETS, Config
from isogram.config.settings import (
    BUILT_IN_TRUNKS,
    AdapterName,
    AlignConfig,
    AverageConfig,
    EgressConfig,
    ModelConfig,
    OutputConfig,
    PrivacyConfig,
    Sendable,
    TermWeights,
    TrainConfig,
)

__all__ = [
    "BUILT_IN_TRUNKS",
    "DATASETS",
    "FILES",
    "PRINTED",
    "SILOS",
    "AdapterName",
    "AlignConfig",
    "AverageConfig",
    "Config",
    "EgressConfig",
    "FilesConfig",
    "ModalityConfig",
    "ModelConfig",
    "NodeFiles",
    "OutputConfig",
    "PrivacyConfig",
    "Sendable",
    "SiloNode",
    "SilosConfig",
    "TermWeights",
    "TrainConfig",
    "called",
    "found_from",
    "handed_on",
    "is_folder",
]
