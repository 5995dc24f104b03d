"""Emoji that two vendors draw, with their English names: pictures and names beyond the stamps.

Sources, as packages of the npm registry: drawings of Noto (Apache-2.0) and Fluent Emoji (MIT) by `@iconify-json`, names
by `unicode-emoji-json`, keywords of the Unicode Common Locale Data Repository by `cldr-annotations-full`.
"""

import json
from dataclasses import dataclass
from typing import Any

from isogram.data.fetch import Package, fetch

VENDORS = (
    Package(
        "@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad", npm=True
    ),
    Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        npm=True,
    ),
)
_NAMES = Package(
    "unicode-emoji-json", "0.9.0", "ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401", npm=True
)
_KEYWORDS = Package(
    "cldr-annotations-full", "48.2.0", "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1", npm=True
)
_LEFT_OUT = ("Flags", "Symbols")


@dataclass(frozen=True)
class Emoji:
    """One emoji: its characters, English name, keywords, and a drawing (SVG) of each of `VENDORS`."""

    characters: str
    name: str
    keywords: tuple[str, ...]
    drawings: tuple[str, ...]


def read_emoji() -> list[Emoji]:
    """Emoji of things and people, no flags or signs, that all vendors draw; in Unicode's order.

    Raises:
        DataError, StorageError: as `fetch.fetch`.
    """
    [named] = _json(_NAMES, "data-by-emoji")
    annotations = _json(_KEYWORDS, "annotations/en/annotations")[0]["annotations"]["annotations"]
    vendors = [_json(package, "icons", "chars") for package in VENDORS]
    found = []
    for characters, entry in named.items():
        drawings = [_drawing(icons, places, characters) for icons, places in vendors]
        if entry["group"] not in _LEFT_OUT and all(drawings):
            keywords = annotations.get(characters.replace("\ufe0f", ""), {}).get("default", ())
            found.append(Emoji(characters, entry["name"], tuple(keywords), tuple(drawings)))
    return found


def _json(package: Package, *names: str) -> list[Any]:
    paths = fetch(package, [f"package/{name}.json" for name in names])
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths.values()]


def _drawing(icons: dict[str, Any], places: dict[str, str], characters: str) -> str:
    """An SVG, or "" where this vendor has none. Vendors leave out the selector of emoji presentation, U+FE0F."""
    icon = icons["icons"].get(places.get("-".join(f"{ord(c):x}" for c in characters if c != "\ufe0f"), ""))
    if icon is None:
        return ""
    width, height = (icon.get(side, icons[side]) for side in ("width", "height"))
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
