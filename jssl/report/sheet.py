"""The sections of a report as pictures, for trackers that take no page."""

import base64
import binascii
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from jssl.data.walk import printable

CELL = 104  # width of a picture with its frame, in pixels
FRAME, LINE, GAP = 4, 14, 6
MOST_LETTERS = 17  # of the text below a picture
COLOURS = {"query": "#555555", "right": "#2b8a4b", "wrong": "#c0392b", "": "white"}


def pictures_of(sections: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields a name and one picture uint8 [H,W,3] of each section that has pictures.

    Args:
        sections: see `jssl.report.sections`.

    Example:
        >>> [name for name, _ in pictures_of([{'title': 'A table', 'table': {}}])]
        []
    """
    for section in sections:
        name = re.sub(r"\W+", "_", section["title"].lower()).strip("_")
        if section.get("figure"):
            yield name, np.asarray(_read(section["figure"]))
        elif section.get("groups"):
            yield name, np.asarray(_sheet(section["groups"]))


def _read(uri: str) -> Image.Image:
    """Returns the picture in a data URI; a grey one if it is damaged."""
    try:
        content = base64.b64decode(uri.partition(",")[2], validate=True)
        return Image.open(io.BytesIO(content)).convert("RGB")
    except (OSError, binascii.Error):
        return Image.new("RGB", (CELL, CELL), (190, 190, 190))


def _sheet(groups: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Returns groups as rows of pictures with their frames and texts, as on the page."""
    font = ImageFont.load_default(11)
    columns = max(len(group["pictures"]) for group in groups)
    width, height = columns * (CELL + GAP) + GAP, CELL + LINE + GAP
    sheet = Image.new("RGB", (width, len(groups) * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for row, group in enumerate(groups):
        for column, picture in enumerate(group["pictures"]):
            x, y = GAP + column * (CELL + GAP), GAP + row * height
            side = CELL - 2 * FRAME
            framed = ImageOps.expand(
                ImageOps.pad(_read(picture["src"]), (side, side), color="white"),
                border=FRAME,
                fill=COLOURS.get(picture["mark"], "white"),
            )
            sheet.paste(framed, (x, y))
            draw.text(
                (x + FRAME, y + CELL), printable(picture["text"])[:MOST_LETTERS], "black", font
            )
    return sheet
