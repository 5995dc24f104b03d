"""Drawings and photos as the picture encoder sees them: 224 x 224 pixels on white."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from isogram.data.pictures.encoders import SIDE
from isogram.errors import DataError

Picture = NDArray[np.uint8]


def draw_svg(text: str) -> Image.Image:
    """A vector drawing, its longer side about 448 pixels: twice what is needed, for a smooth reduction.

    Raises:
        DataError: no SVG.
    """
    import resvg_py

    try:
        png = resvg_py.svg_to_bytes(svg_string=text, width=2 * SIDE, dpi=96, skip_system_fonts=True)
    except ValueError as error:
        raise DataError(f"a drawing cannot be rendered ({error})") from error
    return Image.open(io.BytesIO(png))


def open_image(path: Path) -> Image.Image:
    """A photo or drawing of pixels.

    Raises:
        DataError: no picture.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGBA")
    except OSError as error:
        raise DataError(f"{path}: cannot be read as a picture ({error})") from error


def on_white(image: Image.Image) -> Picture:
    """[224, 224, 3]: transparent margins cut off, the longer side 200 pixels, the rest white."""
    image = image.convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    image = ImageOps.contain(image, (SIDE - 24, SIDE - 24), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (SIDE, SIDE), "white")
    canvas.alpha_composite(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return np.array(canvas.convert("RGB"))


def redrawn(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The same mirrored, turned by up to 15 degrees, in other colours and contrast."""
    image = ImageOps.mirror(image.convert("RGBA")).rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
    alpha, hue = image.getchannel("A"), int(rng.integers(-20, 21))
    h, s, v = image.convert("RGB").convert("HSV").split()
    turned = Image.merge("HSV", (h.point(lambda x: (x + hue) % 256), s, v)).convert("RGB")
    for change in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
        turned = change(turned).enhance(rng.uniform(0.7, 1.3))
    turned.putalpha(alpha)
    return turned
