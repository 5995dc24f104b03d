"""One multimodal transformer across silos that share no modality and no sample."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isogram.inference.model import Model

__all__ = ["Model", "__version__"]

__version__ = "0.3.0"


def __getattr__(name: str) -> Any:
    # `import isogram` stays fast: PyTorch is read when somebody asks for the model.
    if name == "Model":
        from isogram.inference.model import Model

        return Model
    raise AttributeError(f"module 'isogram' has no attribute {name!r}")
