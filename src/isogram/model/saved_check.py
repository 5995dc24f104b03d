"""Whether the parts of a model file fit each other: a damaged one is told as it is read, not by what it is used for."""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from isogram.model.saved import SavedModel


def check(model: "SavedModel") -> None:
    """Shapes and values of what nodes compute with; what the header says by itself is `header.check_header`'s.

    Raises:
        ValueError: the first thing that is not as it should be.
    """
    _numbers("frame", model.frame, None, None)
    rank = model.frame.shape[1]
    for name, start in model.maps.items():
        _numbers(f"map of {name}", start.weight, None, rank)
        values = len(start.weight)
        _numbers(f"bias of {name}", start.bias, rank)
        _numbers(f"mean of {name}", start.standardize.mean, values)
        _numbers(f"scale of {name}", 1 / start.standardize.scale, values)  # infinite where a feature is constant
        if (waves := start.waves) is not None:
            _numbers(f"waves of {name}", waves.frequency, values, None)
            _numbers(f"waves of {name}", waves.phase, waves.frequency.shape[1])
            _numbers(f"waves of {name}", waves.weight, waves.frequency.shape[1], rank)
        if (curve := start.gaussians) is not None:
            _numbers(f"Gaussians of {name}", curve.scale, values)
            _numbers(f"Gaussians of {name}", curve.landmarks, None, values)
            _numbers(f"Gaussians of {name}", curve.width)
            _numbers(f"Gaussians of {name}", curve.weight, len(curve.landmarks), rank)
    for node, kept in model.kept.items():
        _numbers(f"kept of {node}", kept, rank, rank)
    for shared in (model.adapters or {}, *(model.homes or {}).values()):
        for name, value in shared.items():
            _numbers(f"adapter {name}", value, *value.shape)
    for head in ([] if model.head is None else [model.head]) + list(model.heads.values()):
        _shape("class directions", head, len(model.classes), rank)
    for node, modality in model.nodes.items():
        tokens, values = model.tokens[modality], len(model.map_of(node).weight)
        if values % tokens:
            raise ValueError(f"{tokens} tokens of {modality} do not divide {values} values")
        if model.changes is not None:
            _numbers(f"change of {node}", model.changes[node], rank, rank)


def _shape(name: str, value: Tensor, *sizes: int | None) -> None:
    found = tuple(value.shape)
    if len(found) != len(sizes) or any(size not in (None, own) for size, own in zip(sizes, found, strict=True)):
        wanted = " x ".join("any" if size is None else str(size) for size in sizes)
        raise ValueError(f"{name}: shape {list(found)}, not {wanted or 'one number'}")


def _numbers(name: str, value: Tensor, *sizes: int | None) -> None:
    _shape(name, value, *sizes)
    if not value.dtype.is_floating_point or not value.isfinite().all():
        raise ValueError(f"{name} holds what is no finite number")
