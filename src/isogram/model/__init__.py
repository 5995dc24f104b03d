"""The model of a node: projector, trunk with adapters, skip path."""

from isogram.model.node_model import NodeModel, Projector, SharedModel
from isogram.model.saved import SavedModel
from isogram.model.trunk import Trunk

__all__ = ["NodeModel", "Projector", "SavedModel", "SharedModel", "Trunk"]
