"""Decodes pictures to uint8 RGB: one rule for each kind; what is not covered is refused.

    input                                 output                               counted as
    RGB of 8 bits                         its values
    grey: 1, 2, 4 or 8 bits               levels spread over 0..255, three     grey
                                          equal channels; white-is-0 turned
    PNM of up to 8 bits, largest M        round(255 v / M)                     grey if so
    16 bits: PNG, TIFF, grey or RGB       v >> 8, the high byte (as libpng)    16-bit
      none of them above 4095             the same: nearly black               dark 16-bit
      with data.bits=N, 9..16             v >> (N - 8); above 2^N - 1 refused  16-bit
      with data.range=(a, b)              round(255 (v-a)/(b-a)), alpha alike  range
        a level outside                   0 or 255                             clipped
    TIFF grey of 12 bits                  v >> 4                               16-bit, grey
    PNM of more than 8 bits, largest M    floor(256 v / (M + 1))               16-bit
    palette                               its colours                          palette
    CMYK, YCCK                            (255-c)(255-k)/255, without profile; CMYK
                                          a JPEG by Adobe is stored inverted
    YCbCr                                 RGB by ITU-R BT.601, full range
    Lab (TIFF)                            sRGB, by littleCMS                   LAB
    alpha, straight or premultiplied      dropped: the straight colours        alpha
    a transparent colour                  that colour                          alpha
    bands after RGB (near infrared, ...)  dropped                              extra band
      with data.channels=4                a straight alpha is the fourth channel
    several frames or pages, MPO          the first                            frames
    EXIF orientation, upright=True        applied
    the same, upright=False               ignored, as torchvision and          orientation
                                          TensorFlow do; of TIFF applied
    a profile or gamma not sRGB's         ignored                              profile
    no code or checksum (BMP, PNM, raw    its values                           black end
      TIFF), a tenth at the end is 0
    one side of 1 pixel                   refused: nothing to learn from
    32 bits, floating, signed             refused: their range is not known
    several bands that are not RGB        refused: which are red, green, blue?
    a level above the largest declared    refused
    over 89 megapixels, over 500 scans    refused before anything is decoded
    damaged, cut short, unwritten end     refused, with the decoder's message
    colours, with data.channels=1         luma, as Pillow's L                  colour
    .npy: uint8, or uint16 with a range   its values; C as data.channels says  range if so
    HEIC, with the extra heic             its values, turned as it says        16-bit if so
    another format (EPS, PSD, AVIF, ...)  refused; nothing is started for it

`KINDS` describes the third column; `jssl.data.fetch.Problems` counts them. JPEG is read by
libjpeg-turbo in strict mode (simplejpeg): damage that libjpeg would fill with grey or black raises
an error. Damage that leaves a valid JPEG is not detected. Everything else is read by Pillow, after
the checks of `jssl.data.whole` that Pillow lacks. PNG's sBIT and TIFF's MaxSampleValue do not
scale: by their standards they only describe the origin of the levels.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from jssl.data import jpeg, plain_npy
from jssl.data.channels import Range, grey_of, other_channels
from jssl.data.modes import exif_orientation, open_image, read_rgb
from jssl.errors import UserError
from jssl.regular import MAX_MEGABYTES, FileError, read_file

MAX_PIXELS = 89_478_485  # where Pillow starts to warn of a decompression bomb
MIN_SIDE = 2
BITS = (0, *range(9, 17))  # values of `config.data.bits`
# A JPEG is decoded at 1/2, 1/4 or 1/8 only if the sides of the box remain at least this factor
# above the requested size; an antialiased resize does the rest. At 4 the variance of a crop's
# Laplacian is within 2 % of that of a full decode; at 2, Pillow's advice, it loses up to 8 %.
REDUCING_GAP = 4.0

TRANSPOSED = 5  # EXIF orientations from this one up exchange height and width

Box = tuple[float, float, float, float]  # (top, left, height, width) in pixels
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# Message to the user for each conversion.
KINDS = {
    "grey": "grey became three equal channels",
    "colour": "colours became one grey channel",
    "range": "levels of more than 8 bits were scaled from data.range to 8 bits",
    "clipped": "levels outside data.range were clipped to it",
    "16-bit": "levels of more than 8 bits were cut to the upper 8",
    "dark 16-bit": "no level of 16 bits is above 4095, which makes it nearly black: if the largest "
    "possible is 2^N - 1, type --config.data.bits=N",
    "palette": "a palette was replaced by its colours",
    "CMYK": "CMYK was converted without its colour profile",
    "LAB": "Lab was converted to sRGB",
    "alpha": "transparency was dropped",
    "extra band": "bands after red, green and blue, such as near infrared, were dropped",
    "frames": "frames or pages after the first were passed over",
    "orientation": "the orientation of its EXIF data was ignored",
    "profile": "a colour profile or gamma that is not sRGB's was ignored",
    "black end": "it ends in black, or its end was never written",
}


class PictureError(UserError):
    """A picture that cannot be used; `config.data.on_error` decides what to do with it."""


class Picture:
    """An encoded picture, decoded on demand.

    Attributes:
        data: the bytes of the file.
        name: for messages.
        bits: 0, or N: the largest level of samples stored in 16 bits is 2^N - 1.
        upright: whether the orientation of its EXIF data is applied.
        channels: number C: 3; 1 for grey; another for .npy, or 4 for colours and alpha.
        levels: () or (low, high): the levels of more than 8 bits that become 0 and 255.
        kinds: after decoding, the conversions of `KINDS` that were made; () for plain RGB.
    """

    __slots__ = ("bits", "channels", "data", "kinds", "levels", "name", "upright")

    def __init__(
        self,
        data: bytes,
        name: str,
        *,
        bits: int = 0,
        upright: bool = False,
        channels: int = 3,
        levels: Range = (),
    ):
        self.data = data
        self.name = name
        self.bits = bits
        self.upright = upright
        self.channels = channels
        self.levels = levels
        self.kinds: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        max_megabytes: int = MAX_MEGABYTES,
        **reading: Any,
    ) -> "Picture":
        """Reads the file of a picture without decoding it.

        Args:
            path: of a regular file.
            max_megabytes: the largest size of a file, in units of 2^20 bytes.
            **reading: `bits`, `upright`, `channels` and `levels`, see the attributes.

        Raises:
            PictureError: it cannot be read, is no regular file, or is larger.
        """
        try:
            data = read_file(path, max_megabytes * 2**20)
        except FileError as error:
            hint = " To read larger ones type --config.data.max_megabytes=N." * error.large
            raise PictureError(f"Picture '{path}' {error}.{hint}") from error
        return cls(data, str(path), **reading)

    def size(self) -> tuple[int, int]:
        """Returns height and width from the header, without decoding; upright if it is decoded so.

        Raises:
            PictureError: not a picture, or a refused size.
        """
        with _named(self.name):
            if self.data.startswith(jpeg.MAGIC):
                height, width, _, _ = simplejpeg.decode_jpeg_header(self.data)
            elif self.data.startswith(plain_npy.MAGIC):
                height, width = plain_npy.size_of(self.data)
            else:
                with open_image(self.data) as image:
                    width, height = image.size
        _check_size(self.name, height, width)
        return (width, height) if self._orientation() >= TRANSPOSED else (height, width)

    def _orientation(self) -> int:
        """Returns the EXIF orientation that is applied, 1 to 8."""
        if not self.upright or self.data.startswith(plain_npy.MAGIC):
            return 1
        with _named(self.name):
            if self.data.startswith(jpeg.MAGIC):
                return jpeg.orientation(self.data)
            return exif_orientation(self.data)

    def pixels(self) -> np.ndarray:
        """Decodes the whole picture: uint8 [H,W,C]."""
        height, width = self.size()
        return self._decode(height, width)

    def crops(
        self, boxes: Sequence[Box], size: tuple[int, int], *, interpolation: str
    ) -> np.ndarray:
        """Decodes once, at the lowest sufficient resolution, and resizes the boxes.

        A JPEG whose boxes are much larger than `size` is decoded at a half, a quarter or an eighth
        by its DCT, and the boxes are scaled with it. Against a full decode, crop and resize the
        mean absolute difference is below 4 of 255 grey levels on photographs full of edges
        and below 1 on smooth ones; it is 0 at full resolution.

        Args:
            boxes: V boxes (top, left, height, width) in the pixels of the whole picture.
            size: (h, w) of the result.
            interpolation: 'nearest', 'bilinear' or 'bicubic', with antialiasing.

        Returns:
            uint8 [V,h,w,C].
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
        """Decodes the whole picture, a JPEG perhaps reduced, but not below the bounds."""
        orientation = self._orientation()
        if orientation >= TRANSPOSED:
            min_height, min_width = min_width, min_height
        stored = self.data.startswith(plain_npy.MAGIC)
        with _named(self.name):
            if stored:
                array, kinds = plain_npy.read_array(self.data, self.name, self.levels)
            elif self.data.startswith(jpeg.MAGIC):
                array, kinds = jpeg.read_rgb(self.data, min_height, min_width)
            else:
                alpha = self.channels == 4
                array, kinds = read_rgb(self.data, self.bits, self.levels, alpha=alpha)
        if self.channels == 1 and array.shape[2] == 3 and not stored:
            colours = bool((array != array[..., :1]).any())
            kinds = [*(["colour"] if colours else []), *(k for k in kinds if k != "grey")]
            array = grey_of(array)
        if array.shape[2] != self.channels:
            advice = "" if stored else " More channels than colours and alpha are read from .npy."
            what = other_channels(array.shape, self.channels)
            raise PictureError(f"Picture '{self.name}' {what}.{advice}")
        self.kinds = tuple(kind for kind in kinds if not self.upright or kind != "orientation")
        return turned(array, orientation)


def decode(
    data: bytes, name: str, *, bits: int = 0, channels: int = 3, levels: Range = ()
) -> np.ndarray:
    """Decodes the bytes of a picture file to uint8 [H,W,C]; see the rules of this file.

    Args:
        data: the content of the file.
        name: for error messages.
        bits: 0, or N: the largest level of samples stored in 16 bits is 2^N - 1.
        channels, levels: see `Picture`.

    Raises:
        PictureError: it cannot be used.

    Example:
        >>> import io
        >>> buffer = io.BytesIO()
        >>> Image.new('L', (3, 2), 200).save(buffer, 'PNG')
        >>> array = decode(buffer.getvalue(), 'grey.png')
        >>> array.shape, array[0, 0].tolist()
        ((2, 3, 3), [200, 200, 200])
    """
    return Picture(data, name, bits=bits, channels=channels, levels=levels).pixels()


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns decoded pixels as an EXIF orientation says.

    Args:
        pixels: [H,W,C], as stored.
        orientation: 1 to 8.

    Returns:
        [H,W,C], or [W,H,C] for orientations 5 to 8.

    Example:
        >>> turned(np.array([[[1], [2]]]), 6)[..., 0].tolist()
        [[1], [2]]
        >>> turned(np.array([[[1], [2]]]), 3)[..., 0].tolist()
        [[2, 1]]

    Reference: Exif 2.32 (CIPA DC-008), tag 274.
    """
    if orientation >= TRANSPOSED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def resize_boxes(
    pixels: np.ndarray,
    boxes: Sequence[Box],
    size: tuple[int, int],
    *,
    interpolation: str,
    inside: bool = True,
) -> np.ndarray:
    """Crops V boxes of decoded pixels [H,W,C] and resizes each: uint8 [V,h,w,C].

    Pillow's resize, antialiased, of each channel alone; the edges of a box may be fractions of a
    pixel.

    Args:
        pixels: uint8 [H,W,C].
        boxes: V boxes (top, left, height, width) in pixels.
        size: (h, w) of the result.
        interpolation: 'nearest', 'bilinear' or 'bicubic'.
        inside: True: crop, then resize; pixels outside the box have no weight. False: resize,
            then crop; the filter reads over the edges of the box.

    Example:
        >>> resize_boxes(np.full((8, 8, 3), 7, np.uint8), [(0, 0, 4, 4), (2, 2, 6, 6)], (2, 2),
        ...              interpolation='bicubic').shape
        (2, 2, 2, 3)
    """
    crops = []
    for top, left, height, width in boxes:
        # A scaled box may exceed the edge by a rounding error.
        right, bottom = min(left + width, pixels.shape[1]), min(top + height, pixels.shape[0])
        x, y, part = 0, 0, pixels
        if inside:
            x, y = math.floor(left), math.floor(top)
            part = np.ascontiguousarray(pixels[y : math.ceil(bottom), x : math.ceil(right)])
        box = (left - x, top - y, right - x, bottom - y)
        # Pillow resizes the channels of RGB alone; those of RGBA it would weight by the alpha.
        planes = [part] if part.shape[2] == 3 else [part[..., c] for c in range(part.shape[2])]
        resized = [
            np.asarray(
                Image.fromarray(plane).resize(size[::-1], RESAMPLING[interpolation], box=box)
            )
            for plane in planes
        ]
        crops.append(resized[0] if part.shape[2] == 3 else np.stack(resized, axis=-1))
    return np.stack(crops)


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


class _named:  # noqa: N801 (reads as `with _named(name)`)
    """Converts any exception of a decoder to a `PictureError` with the picture's name.

    Decoders raise many types on damage (OSError, SyntaxError, struct.error, MemoryError, ...),
    none of which names the file.
    """

    def __init__(self, name: str):
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, Exception) and not isinstance(error, UserError):
            what = str(error).replace(f" {hex(id(error))}", "").split("<_io")[0].strip()
            raise PictureError(
                f"Picture '{self.name}' cannot be decoded: {what or kind.__name__}. Expected a "
                "whole JPEG, PNG, GIF, BMP, WebP, TIFF, PPM or .npy file."
            ) from error
        return False
