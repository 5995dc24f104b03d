"""Tux Paint's stamps: pictures with names in many languages, and people saying these names.

Source: the Debian package `tuxpaint-stamps-default` 2022.06.04-1, by many hands (GPL-2).
"""

import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from isogram.data.fetch import cache_dir
from isogram.errors import DataError, StorageError
from isogram.files import make_folder, writing

PACKAGE, RELEASE = "tuxpaint-stamps-default", "2022.06.04-1"
LANGUAGES = ("fr", "es", "ru")

_CONTENT = "a20e432ccea1b1b76947db081083ff479d76612ccaf032c9dac08b7788806033"
_ROOT = PurePosixPath("usr/share/tuxpaint/stamps")
_KEPT = (".txt", ".png", ".svg", *(f"_desc_{language}.ogg" for language in LANGUAGES))


@dataclass(frozen=True)
class Stamp:
    """One stamp: its path without ending, English name, ending of its picture ("": none), languages it is spoken in."""

    path: str
    name: str
    picture: str
    spoken: tuple[str, ...]

    @property
    def symbol(self) -> bool:
        """Letters, digits, coins and the like."""
        return self.path.startswith("symbols/")


def stamps_folder() -> Path:
    """Where the stamps are kept, whether they are there or not."""
    return cache_dir() / f"{PACKAGE}-{RELEASE}"


def fetch_stamps(deb: Path | None = None) -> Path:
    """The folder of stamps, unpacked once: from `deb`, or from the package that apt downloads (no root needed).

    Raises:
        DataError: not that package, or damaged.
        StorageError: apt or the network fails, or the cache is not writable.
    """
    folder = stamps_folder()
    if folder.is_dir():
        return folder
    make_folder(folder.parent)
    with (
        writing(folder, "set ISOGRAM_CACHE to another folder"),
        tempfile.TemporaryDirectory(dir=folder.parent, prefix="stamps-") as temporary,
    ):
        unpacked = Path(temporary) / "stamps"
        content = _unpack(deb or _download(Path(temporary)), unpacked)
        if content != _CONTENT:
            raise DataError(f"{deb or PACKAGE}: not the stamps of {RELEASE} (sha256 of what is used: {content})")
        shutil.move(unpacked, folder)
    return folder


def read_stamps(folder: Path) -> list[Stamp]:
    """All stamps that have a name, by path."""
    stamps = []
    for text in sorted(folder.rglob("*.txt")):
        base = text.with_suffix("")
        name = " ".join(text.read_text(encoding="utf-8").split("\n")[0].split())
        pictures = [ending for ending in (".svg", ".png") if base.with_name(base.name + ending).is_file()]
        spoken = tuple(s for s in LANGUAGES if base.with_name(f"{base.name}_desc_{s}.ogg").is_file())
        if name:
            path = base.relative_to(folder).as_posix()
            stamps.append(Stamp(path, name, pictures[0] if pictures else "", spoken))
    return stamps


def _download(folder: Path) -> Path:
    remedy = (
        f"get the Debian package {PACKAGE} {RELEASE} by hand and name its file: isogram data fetch pictures --deb PATH"
    )
    command = ["apt-get", "download", "--quiet", f"{PACKAGE}={RELEASE}"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise StorageError(f"there is no apt-get here; {remedy}") from error
    found = list(folder.glob("*.deb"))
    if done.returncode or len(found) != 1:
        tail = "\n".join(done.stderr.strip().splitlines()[-4:])
        raise StorageError(f"apt-get could not download {PACKAGE} {RELEASE}; {remedy}. It said:\n{tail}")
    return found[0]


def _unpack(deb: Path, folder: Path) -> str:
    """Write what is used of the package below `folder`; sha256 over names and contents, in order of names."""
    digests = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(_data_member(deb))) as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if not (member.isfile() and path.is_relative_to(_ROOT) and path.name.endswith(_KEPT)):
                    continue
                reader = archive.extractfile(member)
                assert reader is not None
                data = reader.read()
                target = folder / path.relative_to(_ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
                digests[str(path)] = hashlib.sha256(data).hexdigest()
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{deb}: cannot be unpacked ({error}); take the package of Debian, packed by xz") from error
    return hashlib.sha256("".join(f"{name} {digests[name]}\n" for name in sorted(digests)).encode()).hexdigest()


def _data_member(deb: Path) -> bytes:
    """The archive of files inside a Debian package (deb(5)): the member data.tar.* of a Unix ar archive."""
    try:
        raw = deb.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {deb}: {error.strerror}; name the package's file") from error
    for name, data in _ar_members(raw):
        if name.startswith("data.tar"):
            return data
    raise DataError(f"{deb}: no Debian package, or cut short; get {PACKAGE} {RELEASE} again")


def _ar_members(raw: bytes) -> Iterator[tuple[str, bytes]]:
    at = 8 if raw.startswith(b"!<arch>\n") else len(raw)
    while at + 60 <= len(raw) and raw[at + 48 : at + 58].strip().isdigit():
        size = int(raw[at + 48 : at + 58])
        yield raw[at : at + 16].decode("ascii", "replace").strip(" /"), raw[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
