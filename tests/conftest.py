"""Under pytest `isogram.alignment` checks shapes and types at run time, and every run sees the same examples.

What several files of tests begin with is made here, once for each of them.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

assert "isogram" not in sys.modules, "too late: the hook sees only modules that are imported after it"
install_import_hook("isogram.alignment", "beartype.beartype")

torch.set_num_threads(1)
settings.register_profile("isogram", deadline=None, derandomize=True)
settings.load_profile("isogram")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Tables of a small federation, by the configuration that names them."""
    from tables import write_tables

    return write_tables(tmp_path_factory.mktemp("tables"), anchors=40)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where commands are given."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
    """An uninterrupted run on these tables."""
    from table_runs import QUIET, settings

    from isogram.run import run

    return run(settings(file, tmp_path_factory.mktemp("runs")), QUIET)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The folder of a small transformer."""
    from peft_models import BASES, save_base

    return save_base(BASES["bert"], tmp_path_factory.mktemp("only") / "base")


@pytest.fixture(scope="session")
def room(tmp_path_factory):
    """Folder of a model and its banks, see `showroom.make`."""
    import showroom

    return showroom.make(tmp_path_factory.mktemp("room"))


@pytest.fixture(scope="session")
def site(room):
    """The page's, not to be changed."""
    import showroom

    return showroom.open_site(room)


@pytest.fixture(scope="session")
def client(site):
    """Of that page, without a token."""
    import showroom
    from fastapi.testclient import TestClient

    from isogram.serve.app import create_app

    with TestClient(create_app(site), base_url=showroom.HERE) as client:
        yield client


@pytest.fixture(scope="module")
def written_silos(tmp_path_factory):
    """The folder of `silos.write_silos`, and a cache that lasts as long."""
    from silos import write_silos

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOGRAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield write_silos(tmp_path_factory.mktemp("silos")).parent


@pytest.fixture
def own_silos(written_silos, tmp_path):
    """The configuration of a copy that a test may change."""
    shutil.copytree(written_silos, tmp_path / "s")
    return tmp_path / "s" / "own.toml"


@pytest.fixture
def closed():
    """A folder that others may enter, unlike pytest's own; what is closed below may still be removed."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
        for path in Path(name).rglob("*"):
            if not path.is_symlink():
                path.chmod(0o755)
