"""One multimodal transformer across silos that share no modality and no sample."""

__version__ = "0.3.0"
