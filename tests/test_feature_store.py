"""Tokens kept on disk: damaged files, other processes, who may read them."""

import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from isogram.data.modalities.store import Kept, Store
from isogram.errors import DataError, StorageError


def named(number):
    return f"{number:064x}"


def tokens(number):
    return Kept(np.full((2, 3), number, np.float32), named(number + 1))


def test_what_is_written_is_read_to_the_same_bits(tmp_path):
    values = np.random.default_rng(0).normal(size=(3000, 4, 384)).astype(np.float32)
    values[0, 0, :3] = np.nextafter(np.float32(1), 2), np.finfo(np.float32).tiny / 2, -0.0
    with Store(tmp_path, {"encoder": "x"}) as store:
        store.write({named(number): Kept(value, "seen", ("x", "y"), ("cut",)) for number, value in enumerate(values)})
    with Store(tmp_path, {"encoder": "x"}) as store:
        found = dict(store.read([named(number) for number in range(4000)]))
    assert len(found) == 3000
    for number, value in enumerate(values):
        kept, *about = found[named(number)]
        np.testing.assert_array_equal(kept.view(np.uint32), value.view(np.uint32))
        assert about == ["seen", ("x", "y"), ("cut",)]
    with Store(tmp_path, {"encoder": "y"}) as store:
        assert not dict(store.read([named(0)])), "another encoder has a file of its own"


def test_a_damaged_file_is_named_with_its_remedy(tmp_path):
    with Store(tmp_path, {}) as store:
        store.write({named(number): tokens(number) for number in range(400)})
    base = sqlite3.connect(store.path, isolation_level=None)
    base.execute("UPDATE tokens SET data = zeroblob(24) WHERE rowid = 7")
    base.execute("UPDATE tokens SET about = '[\"0\"]' WHERE rowid = 9")
    base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    base.close()
    remedy = rf"^{store.path} is damaged .*; delete it, and what it kept is computed again$"
    for number in (6, 8):
        with Store(tmp_path, {}) as again, pytest.raises(DataError, match=remedy):
            list(again.read([named(number)]))
    whole = store.path.read_bytes()
    for part in (whole[:5000] + b"\xff" * 9000, b"\xff" * 5000):
        store.path.write_bytes(part)
        with pytest.raises(DataError, match=remedy), Store(tmp_path, {}) as again:
            list(again.read([named(number) for number in range(400)]))
    store.path.unlink()
    with Store(tmp_path, {}) as again:
        assert not list(again.read([named(6)]))


def test_only_the_user_may_read_a_store(tmp_path):
    with Store(tmp_path / "new", {"encoder": "x"}) as store:
        store.write({named(1): tokens(1)})
        modes = {path.name.partition(".")[2]: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    assert set(modes.values()) == {0o600} and (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_store_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="set ISOGRAM_CACHE to a folder on a local disk"):
        Store(tmp_path / "file" / "features", {})


WRITER = """
import sys
from pathlib import Path
import numpy as np
from isogram.data.modalities.store import Kept, Store
from isogram.data.pictures import encoders
start = int(sys.argv[2])
with Store(Path(sys.argv[1]), {"encoder": "shared"}) as store:
    for number in range(start, start + 150):
        store.write({f"{number:064x}": Kept(np.full((2, 3), number, np.float32), f"{number:064x}")})
"""


def test_two_processes_share_a_store(tmp_path):
    """Their items overlap, too: the first to write one wins."""
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    running = [subprocess.Popen([*command, str(start)]) for start in (0, 100)]
    assert [process.wait() for process in running] == [0, 0]
    with Store(tmp_path, {"encoder": "shared"}) as store:
        found = dict(store.read([named(number) for number in range(300)]))
    assert len(found) == 250
    assert all((kept.tokens == int(name, 16)).all() and kept.seen == name for name, kept in found.items())
