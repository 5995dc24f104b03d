"""Pictures: files of pixels. They need pillow, of the extra `silos`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isogram.config import ModalityConfig
from isogram.data.base import UNPACKED, FloatArray
from isogram.data.modalities.base import BadItem, Builtin, Encoder, Item, path_of
from isogram.data.tokens import patches
from isogram.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE, PATCH = 56, 14
"""Pixels of what the built-in tokenizer sees, and of a patch's side: 4 x 4 patches."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""By content. Pillow reads more, some by programs that it starts: a file of others may be called .png, too."""

_LONGEST = 1024
"""Pixels; larger pictures are reduced to it as they are read, which is above what encoders see."""

_PIXELS = UNPACKED // 12
"""What a picture may unpack to, as three colours of four bytes: 89 million, which is pillow's own bound, too."""


@dataclass(frozen=True)
class Picture:
    """RGB, or RGBA without transparent margins, at most 1,024 pixels a side; width and height: of the file."""

    image: "Image"
    width: int
    height: int

    def on_white(self) -> "Image":
        """RGB, what is transparent white."""
        from PIL import Image

        if self.image.mode == "RGB":
            return self.image
        canvas = Image.new("RGBA", self.image.size, "white")
        canvas.alpha_composite(self.image)
        return canvas.convert("RGB")


class ImageKind:
    """A file of pixels: upright by its EXIF tag, transparency on white without transparent margins, first frame."""

    name = "image"
    suffixes = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

    def read(self, item: Item, config: ModalityConfig) -> Picture:
        """The picture; see `Kind.read`."""
        path = path_of(item)
        try:
            from PIL import Image, ImageOps, UnidentifiedImageError
        except ImportError as error:
            raise ConfigError(f"pictures need more: pip install -e '.[silos]' in the clone ({error})") from error
        bomb = (Image.DecompressionBombError, Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=FORMATS) as opened:
                width, height = opened.size
                if width * height > _PIXELS:
                    raise Image.DecompressionBombError(f"{width:,} x {height:,}")
                if opened.mode in ("I", "F"):
                    raise BadItem(f"{item.where}: pixels of 32 bits; save it with 8 or 16 bits a channel")
                opened.draft("RGB", (_LONGEST, _LONGEST))  # lets a JPEG be decoded at half or a quarter of its size
                image: Image.Image = opened
                if opened.mode.startswith("I;16"):
                    image = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8))
                image = ImageOps.exif_transpose(image)
                width, height = (height, width) if opened.getexif().get(0x0112, 1) >= 5 else (width, height)
                image = image.convert("RGBA" if image.has_transparency_data else "RGB")
                image.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
                return Picture(_cropped(image, item), width, height)
        except bomb as error:
            raise BadItem(
                f"{item.where}: {error or 'too large'}; a picture may have {_PIXELS // 10**6} million pixels: reduce it"
            ) from error
        except UnidentifiedImageError as error:
            raise BadItem(f"{item.where}: is no picture, or damaged; replace it or leave it out") from error
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
            # Pillow's readers of formats raise all of these for damaged files.
            raise BadItem(f"{item.where}: cannot be read as a picture ({error}); replace it or leave it out") from error

    def describe(self, read: Picture) -> str:
        """The size of the file's picture."""
        return f"{read.width:,} x {read.height:,} pixels"

    def content(self, read: Picture) -> bytes:
        """Its pixels on white."""
        seen = read.on_white()
        return f"{seen.size}\n".encode() + seen.tobytes()

    def builtin(self, config: ModalityConfig) -> Encoder:
        """16 patches of a picture of 56 x 56: [16, 588]."""
        return Builtin("image", "1", _tokens)


def _cropped(image: "Image", item: Item) -> "Image":
    if image.mode == "RGB":
        return image
    box = image.getchannel("A").getbbox()
    if box is None:
        raise BadItem(f"{item.where}: is transparent all over; replace it or leave it out")
    return image.crop(box)


def _tokens(pictures: Sequence[Picture]) -> FloatArray:
    from PIL import Image, ImageOps

    size = (SIDE, SIDE)
    padded = [ImageOps.pad(one.on_white(), size, Image.Resampling.LANCZOS, color="white") for one in pictures]
    small = np.stack([np.asarray(one) for one in padded])
    return np.concatenate([patches(small[..., channel] / 255, PATCH) for channel in range(3)], axis=2)


IMAGE = ImageKind()
