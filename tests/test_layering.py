"""Imports inside the package point one way: a module may import from its own line of `LAYERS` and those above it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "isogram"

LAYERS = (
    "errors",
    "console",
    "files",
    "goal",
    "privacy",
    "config",
    "accountant",
    "noise",
    "config_file",
    "tensor_file",
    "wire",
    "messages",
    "envelope",
    "data",
    "alignment",
    "model",
    "objective",
    "robust",
    "secure_sum",
    "soundness",
    "validation",
    "releases",
    "private_rows",
    "egress",
    "local",
    "aggregation",
    "representations",
    "averaging",
    "sharing",
    "hostile",
    "evaluation",
    "view",
    "doctor",
    "federation",
    "checkpoint",
    "inference",
    "baselines",
    "methods",
    "bench",
    "run_folder",
    "audit",
    "report",
    "progress",
    "recorder",
    "run",
    "engine",
    "deploy",
    "serve",
    "demo",
    "cli",
    "__main__",
    "__init__",
)


def layer(module: str) -> str:
    """Layer of a path like `data/base.py` or of a dotted name like `isogram.data.base`."""
    parts = module.removesuffix(".py").replace("/", ".").removeprefix("isogram").lstrip(".").split(".")
    return parts[0] if parts[0] in LAYERS else f"{module}: not in LAYERS"


def imported(source: str) -> Iterator[str]:
    """Layer of every import of this package in the source, also of those inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (layer(alias.name) for alias in node.names if alias.name.split(".")[0] == "isogram")
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "a relative import: write isogram...."
            elif node.module == "isogram":
                yield from (layer(f"isogram.{alias.name}") for alias in node.names)
            elif node.module is not None and node.module.startswith("isogram."):
                yield layer(node.module)


def wrong_imports(path: str, source: str) -> list[str]:
    own = layer(path)
    allowed = LAYERS[: LAYERS.index(own) + 1] if own in LAYERS else ()
    return [f"{path} imports {name}" for name in imported(source) if name not in allowed]


def modules() -> list[str]:
    return sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def test_every_module_has_a_layer():
    assert "errors.py" in modules()
    assert [path for path in modules() if layer(path) not in LAYERS] == []


@pytest.mark.parametrize("path", modules())
def test_imports_point_up(path):
    assert wrong_imports(path, (PACKAGE / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from isogram.model import NodeModel",
        "import isogram.model.trunk as trunk",
        "from isogram import model",
        "def late():\n    from isogram.model import NodeModel",
        "from . import base",
        "from ..model import NodeModel",
        "from isogram import __version__",
        "from isogram.unheard_of import x",
    ],
)
def test_a_wrong_import_is_seen(source):
    assert len(wrong_imports("data/base.py", source)) == 1


@pytest.mark.parametrize(
    "source", ["from isogram.errors import DataError", "from isogram.data import base", "import isogramme"]
)
def test_a_right_import_is_let_through(source):
    assert wrong_imports("data/base.py", source) == []
