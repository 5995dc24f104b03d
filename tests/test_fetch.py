"""`fetch` with real pip and real wheels, from a folder in place of the network."""

import errno
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace

import pytest

from isogram.data.fetch import Package, cache_dir, fetch
from isogram.errors import DataError, StorageError

CONTENTS = {
    "isogram_sample/a.csv": b"1,2\n" * 400_000,  # more than one block of the copying loop
    "isogram_sample/data/b.csv": b"3,4\n",
    "../outside.csv": b"5,6\n",
}
A, B, OUTSIDE = CONTENTS


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """A wheel that pip can download, and nothing else that it can."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    info = "isogram_sample-1.0.dist-info"
    path = shelf / "isogram_sample-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in CONTENTS.items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: isogram-sample\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", shelf.as_uri())
    return Package("isogram-sample", "1.0", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache with a space"


@pytest.fixture
def unplug(tmp_path, monkeypatch):
    """Call it to take the wheel away from pip."""
    return lambda: monkeypatch.setenv("PIP_FIND_LINKS", (tmp_path / "shelf" / "nothing").as_uri())


def contents(paths):
    return {member: path.read_bytes() for member, path in paths.items()}


def files(folder):
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def test_downloads_once_then_reads_the_cache(sample, cache, unplug, monkeypatch):
    paths = fetch(sample, [A, B], cache)
    assert contents(paths) == {A: CONTENTS[A], B: CONTENTS[B]}
    assert files(cache) == sorted(paths.values())
    unplug()
    # Without the cache the same call fails, so what follows does read the cache.
    with pytest.raises(StorageError, match="could not download isogram-sample 1.0"):
        fetch(sample, [A, B], cache / "another")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a subprocess was started"))
    monkeypatch.setenv("PATH", "")
    assert fetch(sample, [A, B], cache) == paths
    assert contents(fetch(sample, [B], cache)) == {B: CONTENTS[B]}


def test_the_variable_names_the_cache(sample, cache, monkeypatch):
    monkeypatch.setenv("ISOGRAM_CACHE", str(cache))
    assert cache_dir() == cache
    assert fetch(sample, [B])[B].is_relative_to(cache)


def test_the_cache_defaults_to_the_users(monkeypatch):
    monkeypatch.setenv("ISOGRAM_CACHE", "")
    assert cache_dir().is_absolute() and "isogram" in cache_dir().parts


def test_another_sha256_is_refused_and_leaves_nothing(sample, cache):
    other = Package(sample.name, sample.version, "0" * 64)
    with pytest.raises(DataError, match=r"(?s)isogram-sample 1\.0.*(sha256|hash)"):
        fetch(other, [A], cache)
    assert files(cache) == []


def test_another_content_never_shares_a_folder(sample, cache):
    fetch(sample, [B], cache)
    with pytest.raises(DataError):
        fetch(Package(sample.name, sample.version, "0" * 64), [B], cache)


def test_an_unknown_release_is_refused(sample, cache):
    with pytest.raises(StorageError, match=r"isogram-sample 2\.0.*network"):
        fetch(Package(sample.name, "2.0", sample.sha256), [A], cache)
    assert files(cache) == []


def test_a_missing_member_is_named_and_leaves_nothing(sample, cache):
    with pytest.raises(DataError, match="holds no isogram_sample/c.csv;"):
        fetch(sample, [A, "isogram_sample/c.csv"], cache)
    assert files(cache) == []


@pytest.mark.parametrize("below", ["file", "file/folder"])
def test_a_cache_that_cannot_be_written_is_told(sample, tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write .*ISOGRAM_CACHE"):
        fetch(sample, [A], tmp_path / below)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_is_told(sample, cache):
    cache.mkdir(mode=0o500)
    with pytest.raises(StorageError, match="cannot write"):
        fetch(sample, [A], cache)


def test_a_full_disk_is_told_and_leaves_nothing(sample, cache, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left.*free some space"):
        fetch(sample, [A], cache)
    assert files(cache) == []


def test_members_are_named_by_us_not_by_the_archive(sample, cache):
    path = fetch(sample, [OUTSIDE], cache)[OUTSIDE]
    assert path.read_bytes() == CONTENTS[OUTSIDE]
    assert path.resolve().parent == (cache / sample.folder).resolve()
    assert {file.name for file in files(cache.parent)} == {path.name, "isogram_sample-1.0-py3-none-any.whl"}


def test_an_interruption_between_two_members_is_made_good(sample, cache, monkeypatch):
    calls = []

    def interrupt(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(sample, [A, B], cache)
    assert [path.read_bytes() for path in files(cache)] == [CONTENTS[A]]
    assert contents(fetch(sample, [A, B], cache)) == {A: CONTENTS[A], B: CONTENTS[B]}


def test_a_killed_process_leaves_nothing_that_is_read_later(sample, cache, unplug):
    script = (
        "import os, signal, sys, zipfile; from pathlib import Path; from isogram.data.fetch import Package, fetch\n"
        "read = zipfile.ZipExtFile.read\n"
        "def half(member, size=-1):\n"
        "    return read(member, size) if not member.tell() else os.kill(os.getpid(), signal.SIGKILL)\n"
        "zipfile.ZipExtFile.read = half\n"
        "fetch(Package(*sys.argv[2:]), ['isogram_sample/a.csv'], Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, str(cache), sample.name, sample.version, sample.sha256]
    assert subprocess.run(command, check=False).returncode == -9
    left = files(cache)
    sizes = [path.stat().st_size for path in left if path.name.endswith("a.csv")]
    assert len(sizes) == 1 and 0 < sizes[0] < len(CONTENTS[A]), "not killed half-way: the test means nothing"
    # What the dead process left does not count as fetched ...
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_FIND_LINKS", "")
        with pytest.raises(StorageError):
            fetch(sample, [A], cache)
    # ... nor does it stand in the way.
    path = fetch(sample, [A], cache)[A]
    assert path not in left and path.read_bytes() == CONTENTS[A]


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands in for npm")
def test_a_package_of_npm_is_read_in_the_same_way(cache, tmp_path, monkeypatch):
    archive = tmp_path / "shelf.tgz"
    with tarfile.open(archive, "w:gz") as writer:
        info = tarfile.TarInfo("package/a.json")
        info.size = 2
        writer.addfile(info, io.BytesIO(b"{}"))
    sample = Package("@some/sample", "1.0", hashlib.sha256(archive.read_bytes()).hexdigest(), npm=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StorageError, match="no npm here to download @some/sample 1.0; install Node.js"):
        fetch(sample, ["package/a.json"], cache)
    script = tmp_path / "npm"
    script.write_text(f'#!/bin/sh\n[ "$5" = @some/sample@1.0 ] && /bin/cp {archive} "$4/some-sample-1.0.tgz"\n')
    script.chmod(0o700)
    with pytest.raises(DataError, match="holds no package/b.json"):
        fetch(sample, ["package/b.json"], cache)
    assert contents(fetch(sample, ["package/a.json"], cache)) == {"package/a.json": b"{}"}
    assert sample.folder.startswith("some-sample-1.0-")
    with pytest.raises(DataError, match=r"@some/sample 1\.0: .*sha256"):
        fetch(replace(sample, sha256="0" * 64), ["package/a.json"], cache)
    with pytest.raises(StorageError, match="could not download @some/sample 2.0 with npm"):
        fetch(replace(sample, version="2.0"), ["package/a.json"], cache)
