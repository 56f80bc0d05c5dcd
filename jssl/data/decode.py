"""Encoded pictures to uint8 RGB, one stated rule for each kind, and no picture silently wrong.

    kind                 rule
    grey, bilevel        three equal channels
    grey with 16 bits    the high byte of each value (as libpng and Pillow do for colour)
    CMYK, YCCK           Pillow's conversion, without a colour profile
    palette              its colours
    alpha channel        dropped, as torchvision and TensorFlow do
    animated             the first frame
    EXIF orientation     ignored, as torchvision and TensorFlow do
    a side of 1 pixel    `PictureError`: it holds nothing to learn from
    32-bit, float        `PictureError`: their range is not known
    over 89 megapixels   `PictureError` before anything is decoded (a decompression bomb)
    damaged, truncated   `PictureError` with the decoder's own words

JPEG is read by libjpeg-turbo in strict mode (simplejpeg): what libjpeg would repair with a warning
and hand over in grey or black raises instead. Damage that leaves a valid JPEG cannot be seen.
Everything else is read by Pillow.
"""

import io
import math
from collections.abc import Sequence

import numpy as np
import simplejpeg
from PIL import Image

from jssl.errors import UserError

MAX_PIXELS = 89_478_485  # where Pillow starts to warn of a decompression bomb
MIN_SIDE = 2
JPEG_MAGIC = b"\xff\xd8\xff"
# A JPEG is decoded at 1/2, 1/4 or 1/8 only if the box then still has so many times the pixels a
# side that are asked for; the rest of the way is an antialiased resize. 2 is Pillow's advice.
REDUCING_GAP = 2.0

Box = tuple[float, float, float, float]  # (top, left, height, width) in pixels
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class PictureError(UserError):
    """One picture that cannot be used; `config.data.on_error` says what to do with it."""


class Picture:
    """An encoded picture that is decoded when its pixels are needed.

    Attributes:
        data: the bytes of the file.
        name: how to call it in a message.
        kind: after decoding, which rule of this file was used: '' for plain RGB, else 'grey',
            '16-bit', 'CMYK', 'palette', 'alpha' or 'animated'.
    """

    __slots__ = ("data", "kind", "name")

    def __init__(self, data: bytes, name: str):
        self.data = data
        self.name = name
        self.kind = ""

    def size(self) -> tuple[int, int]:
        """Height and width from the header; nothing is decoded.

        Raises:
            PictureError: not a picture, or one of a size that is refused.
        """
        with _named(self.name):
            if self.data.startswith(JPEG_MAGIC):
                height, width, _, _ = simplejpeg.decode_jpeg_header(self.data)
            else:
                with Image.open(io.BytesIO(self.data)) as image:
                    width, height = image.size
        _check_size(self.name, height, width)
        return height, width

    def pixels(self) -> np.ndarray:
        """Decodes the whole picture: uint8 [H,W,3]."""
        height, width = self.size()
        return self._decode(height, width)

    def crops(
        self, boxes: Sequence[Box], size: tuple[int, int], *, interpolation: str
    ) -> np.ndarray:
        """Decodes once, at the lowest sufficient resolution, and resizes only the boxes.

        A JPEG whose boxes are much larger than `size` is decoded at a half, a quarter or an eighth
        by its DCT, and the boxes are scaled with it. Against a full decode, crop and resize the
        mean absolute difference is below 4 of 255 grey levels on photographs full of edges
        and below 1 on smooth ones; it is 0 where the resolution is not reduced.

        Args:
            boxes: V boxes (top, left, height, width) in the pixels of the whole picture.
            size: (h, w) of the result.
            interpolation: 'nearest', 'bilinear' or 'bicubic', with antialiasing.

        Returns:
            uint8 [V,h,w,3].
        """
        height, width = self.size()
        need_y = max(size[0] / box[2] for box in boxes) * REDUCING_GAP * height
        need_x = max(size[1] / box[3] for box in boxes) * REDUCING_GAP * width
        pixels = self._decode(min(height, int(np.ceil(need_y))), min(width, int(np.ceil(need_x))))
        scale_y, scale_x = pixels.shape[0] / height, pixels.shape[1] / width
        return resize_boxes(
            pixels,
            [(y * scale_y, x * scale_x, h * scale_y, w * scale_x) for y, x, h, w in boxes],
            size,
            interpolation=interpolation,
        )

    def _decode(self, min_height: int, min_width: int) -> np.ndarray:
        """Pixels of the whole picture, of a JPEG at a reduced size that is not below the bounds."""
        with _named(self.name):
            if self.data.startswith(JPEG_MAGIC):
                colour = simplejpeg.decode_jpeg_header(self.data)[2]
                if colour not in ("CMYK", "YCCK"):
                    self.kind = "grey" if colour.lower() == "gray" else ""
                    return simplejpeg.decode_jpeg(
                        self.data,
                        "RGB",
                        min_height=min_height,
                        min_width=min_width,
                        min_factor=2,  # other factors than halves have no fast path
                        strict=True,
                    )
            with Image.open(io.BytesIO(self.data)) as image:
                animated = getattr(image, "is_animated", False)
                image.seek(0)
                image.load()
                array, kind = _to_rgb(image)
            self.kind = "animated" if animated else kind
            return array


def decode(data: bytes, name: str) -> np.ndarray:
    """Decodes the bytes of a picture file to uint8 [H,W,3]; see the rules of this file.

    Args:
        data: the content of the file.
        name: how to call it in an error message.

    Raises:
        PictureError: naming the picture, what is wrong with it and what was expected.

    Example:
        >>> buffer = io.BytesIO()
        >>> Image.new('L', (3, 2), 200).save(buffer, 'PNG')
        >>> array = decode(buffer.getvalue(), 'grey.png')
        >>> array.shape, array[0, 0].tolist()
        ((2, 3, 3), [200, 200, 200])
    """
    return Picture(data, name).pixels()


def resize_boxes(
    pixels: np.ndarray,
    boxes: Sequence[Box],
    size: tuple[int, int],
    *,
    interpolation: str,
    inside: bool = True,
) -> np.ndarray:
    """Cuts V boxes out of decoded pixels [H,W,3] and resizes each: uint8 [V,h,w,3].

    Pillow's resize, antialiased; the edges of a box may be fractions of a pixel.

    Args:
        pixels: uint8 [H,W,3].
        boxes: V boxes (top, left, height, width) in pixels.
        size: (h, w) of the result.
        interpolation: 'nearest', 'bilinear' or 'bicubic'.
        inside: True as 'crop, then resize': no pixel beyond the box has weight. False as 'resize,
            then crop': the filter reaches over the edges of the box.

    Example:
        >>> resize_boxes(np.full((8, 8, 3), 7, np.uint8), [(0, 0, 4, 4), (2, 2, 6, 6)], (2, 2),
        ...              interpolation='bicubic').shape
        (2, 2, 2, 3)
    """
    crops = []
    for top, left, height, width in boxes:
        # A box that was scaled may end beyond the edge by a rounding error.
        right, bottom = min(left + width, pixels.shape[1]), min(top + height, pixels.shape[0])
        x, y, part = 0, 0, pixels
        if inside:
            x, y = math.floor(left), math.floor(top)
            part = np.ascontiguousarray(pixels[y : math.ceil(bottom), x : math.ceil(right)])
        box = (left - x, top - y, right - x, bottom - y)
        image = Image.fromarray(part)
        crops.append(np.asarray(image.resize(size[::-1], RESAMPLING[interpolation], box=box)))
    return np.stack(crops)


def _to_rgb(image: Image.Image) -> tuple[np.ndarray, str]:
    mode = image.mode
    if mode.startswith("I;16"):
        high_byte = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(high_byte[..., None], 3, axis=2), "16-bit"
    if mode in ("I", "F"):
        raise ValueError(f"its pixels are of mode '{mode}', 8 or 16 bits a channel were expected")
    if mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # otherwise Pillow warns; the alpha is dropped below
    kinds = {"L": "grey", "1": "grey", "CMYK": "CMYK", "P": "palette"}
    kind = kinds.get(mode, "alpha" if mode in ("RGBA", "LA", "PA", "RGBa", "La") else "")
    return np.asarray(image.convert("RGB")), kind


def _check_size(name: str, height: int, width: int) -> None:
    if min(height, width) < MIN_SIDE:
        raise PictureError(
            f"Picture '{name}' is {height} x {width} pixels (height x width); expected at least "
            f"{MIN_SIDE} a side."
        )
    if height * width > MAX_PIXELS:
        raise PictureError(
            f"Picture '{name}' is {height} x {width} pixels (height x width); expected at most "
            f"{MAX_PIXELS:,} pixels in all. Make it smaller before training."
        )


class _named:  # noqa: N801 (read as a word: `with _named(name)`)
    """Turns whatever a decoder raises into a `PictureError` with the picture's name.

    Decoders meet damage with many kinds of exceptions (OSError, SyntaxError, struct.error,
    MemoryError, ...), none of which tells which file it was.
    """

    def __init__(self, name: str):
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, Exception) and not isinstance(error, PictureError):
            what = str(error).replace(f" {hex(id(error))}", "").split("<_io")[0].strip()
            raise PictureError(
                f"Picture '{self.name}' cannot be decoded: {what or kind.__name__}. Expected a "
                "whole JPEG, PNG, GIF, BMP, WebP, TIFF or PPM file."
            ) from error
        return False
