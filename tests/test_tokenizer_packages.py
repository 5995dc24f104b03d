"""Kinds that other packages bring: real distributions on the path, with entry points; the documentation's example."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from items import cell

from isogram.config import ModalityConfig
from isogram.data.modalities import kind_of
from isogram.data.modalities.encode import encode
from isogram.errors import ConfigError, DataError

ROOT = Path(__file__).parents[1]
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "modalities.md").read_text(), re.S)
KIND = "class K:\n    name = 'k'\n    suffixes = frozenset()\n    read = describe = builtin = len\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Lays a distribution into a folder of the path, as pip would."""

    def into(package, points, code):
        folder = tmp_path / package
        about = folder / f"{package}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {package}_module:{value}" for name, value in points.items()]
        (about / "entry_points.txt").write_text("\n".join(["[isogram.tokenizers]", *lines, ""]))
        (folder / f"{package}_module.py").write_text(code)
        monkeypatch.syspath_prepend(folder)
        modules.append(f"{package}_module")

    modules = []
    yield into
    for name in modules:
        sys.modules.pop(name, None)


def test_the_example_of_the_documentation_is_a_kind(install, tmp_path):
    install("chemistry", {"smiles": "SMILES"}, EXAMPLE)
    config = ModalityConfig(kind="smiles")
    items = [cell(text) for text in ("CCO", "CCCO", "c1ccccc1")]
    found = encode(items, config, cache=tmp_path / "cache")
    assert found.tokens.shape == (3, 2, 128)
    ethanol, propanol, benzene = found.tokens.reshape(3, -1)
    assert ethanol @ propanol > ethanol @ benzene
    again = encode(items, config, cache=tmp_path / "cache")
    assert again.from_cache == 3
    np.testing.assert_array_equal(found.tokens, again.tokens)
    with pytest.raises(DataError, match=r"^notes.csv, line 7: 'C C' is no SMILES; correct it"):
        encode([cell("C C")], config, cache=tmp_path / "cache")


def test_without_the_package_the_kind_is_unknown():
    with pytest.raises(ConfigError, match="there is no kind of data 'smiles'; set `kind` of "):
        kind_of(ModalityConfig(kind="smiles"))


def test_a_kind_with_a_built_in_name_is_refused(install):
    install("better_images", {"image": "K"}, KIND)
    with pytest.raises(ConfigError, match="the package better_images brings a kind 'image', which is built in"):
        kind_of(ModalityConfig(kind="image"))
    assert kind_of(ModalityConfig(kind="text")).name == "text"


def test_two_packages_with_one_kind_are_refused(install):
    install("one", {"k": "K"}, KIND)
    install("two", {"k": "K"}, KIND)
    with pytest.raises(ConfigError, match=r"the package (one|two) and the package (one|two) both bring a kind 'k'"):
        kind_of(ModalityConfig(kind="k"))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import no_such_module\n", "cannot be loaded (ModuleNotFoundError: No module named 'no_such_module')"),
        ("1 / 0\n", "cannot be loaded (ZeroDivisionError: division by zero)"),
        ("K = None\n", "lacks read, describe, builtin, name, suffixes; see docs/modalities.md"),
        (KIND.replace("builtin = ", ""), "lacks builtin; see docs/modalities.md, or uninstall it"),
        (KIND.replace("'k'", "'other'"), "calls itself 'other'; its entry point must have the same name"),
    ],
)
def test_a_broken_package_is_named(code, why, install):
    install("broken", {"k": "K"}, code)
    with pytest.raises(ConfigError, match=r"^the package broken: its kind 'k' \(broken_module:K\) " + re.escape(why)):
        kind_of(ModalityConfig(kind="k"))
