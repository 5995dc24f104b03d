"""Under pytest `isogram.alignment` checks shapes and types at run time, and every run sees the same examples."""

import sys

import torch
from hypothesis import settings
from jaxtyping import install_import_hook

assert "isogram" not in sys.modules, "too late: the hook sees only modules that are imported after it"
install_import_hook("isogram.alignment", "beartype.beartype")

torch.set_num_threads(1)
settings.register_profile("isogram", deadline=None, derandomize=True)
settings.load_profile("isogram")
