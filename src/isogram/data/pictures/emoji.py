"""Emoji that two vendors draw, with their English names: pictures and names beyond the stamps.

Sources, as packages of the npm registry: drawings of Noto (Apache-2.0) and Fluent Emoji (MIT) by `@iconify-json`, names
by `unicode-emoji-json`, keywords of the Unicode Common Locale Data Repository by `cldr-annotations-full`.
"""

import hashlib
import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isogram.data.fetch import cache_dir
from isogram.errors import DataError, StorageError
from isogram.files import make_folder, write_atomic


@dataclass(frozen=True)
class Package:
    """One release of one npm package, its sha256, and the files that are read from it."""

    name: str
    version: str
    sha256: str
    members: tuple[str, ...]

    def paths(self) -> dict[str, Path]:
        """Member -> its local path, whether it is there or not."""
        folder = cache_dir() / f"{self.name.replace('/', '-').lstrip('@')}-{self.version}-{self.sha256[:12]}"
        return {member: folder / member.replace("/", "__") for member in self.members}


_DRAWN = ("package/icons.json", "package/chars.json")
VENDORS = (
    Package("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad", _DRAWN),
    Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        _DRAWN,
    ),
)
_NAMES = Package(
    "unicode-emoji-json",
    "0.9.0",
    "ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401",
    ("package/data-by-emoji.json",),
)
_KEYWORDS = Package(
    "cldr-annotations-full",
    "48.2.0",
    "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
    ("package/annotations/en/annotations.json",),
)
_LEFT_OUT = ("Flags", "Symbols")


@dataclass(frozen=True)
class Emoji:
    """One emoji: its characters, English name, keywords, and a drawing (SVG) of each of `VENDORS`."""

    characters: str
    name: str
    keywords: tuple[str, ...]
    drawings: tuple[str, ...]


def fetch_package(package: Package) -> dict[str, Path]:
    """Local paths of a package's files; downloaded once, then read from the cache.

    Raises:
        DataError: another content than the pinned one.
        StorageError: npm or the network fails, or the cache is not writable.
    """
    paths = package.paths()
    if all(path.is_file() for path in paths.values()):
        return paths
    with tempfile.TemporaryDirectory() as temporary:
        archive = _download(package, Path(temporary))
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        if digest != package.sha256:
            raise DataError(
                f"{package.name} {package.version}: sha256 is {digest}, expected {package.sha256}; the registry serves "
                "another file"
            )
        with tarfile.open(archive) as source:
            for member, path in paths.items():
                reader = source.extractfile(member)
                assert reader is not None, "the pinned content has it"
                make_folder(path.parent)
                write_atomic(path, reader.read())
    return paths


def _download(package: Package, folder: Path) -> Path:
    what = f"{package.name} {package.version}"
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), f"{package.name}@{package.version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise StorageError(f"there is no npm here to download {what}; install Node.js") from error
    found = list(folder.glob("*.tgz"))
    if done.returncode or len(found) != 1:
        tail = "\n".join(done.stderr.strip().splitlines()[-4:])
        raise StorageError(
            f"could not download {what} with npm; check the network or your registry, then run the same command again. "
            f"npm said:\n{tail}"
        )
    return found[0]


def read_emoji() -> list[Emoji]:
    """Emoji of things and people, no flags or signs, that all vendors draw; in Unicode's order.

    Raises:
        DataError, StorageError: as `fetch_package`.
    """
    named = _json(_NAMES)[0]
    annotations = _json(_KEYWORDS)[0]["annotations"]["annotations"]
    vendors = [_json(package) for package in VENDORS]
    found = []
    for characters, entry in named.items():
        drawings = [_drawing(icons, places, characters) for icons, places in vendors]
        if entry["group"] not in _LEFT_OUT and all(drawings):
            keywords = annotations.get(characters.replace("\ufe0f", ""), {}).get("default", ())
            found.append(Emoji(characters, entry["name"], tuple(keywords), tuple(drawings)))
    return found


def _json(package: Package) -> list[Any]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in fetch_package(package).values()]


def _drawing(icons: dict[str, Any], places: dict[str, str], characters: str) -> str:
    """An SVG, or "" where this vendor has none. Vendors leave out the selector of emoji presentation, U+FE0F."""
    icon = icons["icons"].get(places.get("-".join(f"{ord(c):x}" for c in characters if c != "\ufe0f"), ""))
    if icon is None:
        return ""
    width, height = (icon.get(side, icons[side]) for side in ("width", "height"))
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
