"""Pictures side by side, with texts: an HTML page that holds them, or one PNG."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jssl import data, files
from jssl.data.decode import Picture
from jssl.data.walk import printable
from jssl.errors import UserError

# Most pictures: a page of 1000 has about 8 MB, a sheet of 250 is less than 140 MB in memory.
MOST_PICTURES = {".html": 1000, ".png": 250}
SIDE = 160  # of a small picture, in pixels
COLUMNS = 10  # of the PNG
GAP, LINE = 8, 14  # pixels between pictures; height of a line of text
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 13px sans-serif; margin: 1em }} h2 {{ font-size: 14px; overflow-wrap: anywhere }}
div {{ display: flex; flex-wrap: wrap; gap: 8px }}
figure {{ margin: 0; width: {side}px }} figcaption {{ overflow-wrap: anywhere }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


class Row(NamedTuple):
    """Pictures that belong together: a text above them, and (path, text) of each."""

    text: str
    pictures: Sequence[tuple[str, str]]


def check_gallery(output: str | Path, gallery: str | Path | None) -> Path:
    """Returns the file of a gallery; checks that it can be written, before anything is computed.

    Args:
        output: the table beside which it is written by default, as an HTML page.
        gallery: the value of --gallery, or None.

    Raises:
        UserError: another ending than those of `MOST_PICTURES`, or as `jssl.files.check_output`.
    """
    path = Path(output).with_suffix(".html") if gallery is None else Path(gallery)
    if path.suffix not in MOST_PICTURES:
        raise UserError(
            f"--gallery must end with .html or .png, found '{path}'. Type --gallery={path}.html."
        )
    return files.check_output(path, ending=path.suffix, flag="--gallery")


def write_gallery(
    path: str | Path, rows: Sequence[Row], *, title: str, **reading: Any
) -> tuple[int, int]:
    """Writes pictures side by side, each with its text; the file needs no other one.

    Args:
        path: of the file, from `check_gallery`.
        rows: of pictures; the first ones are shown, at most `MOST_PICTURES` pictures altogether.
        title: of the page.
        **reading: the keys of `jssl.data.decode.Picture.read`.

    Returns:
        The numbers of rows and of pictures that are shown.

    Raises:
        OSError: it cannot be written; an old file is unchanged.
    """
    shown: list[Row] = []
    left = MOST_PICTURES[Path(path).suffix]
    for row in rows:
        if left <= 0:
            break
        shown.append(row._replace(pictures=row.pictures[:left]))
        left -= len(row.pictures)
    if Path(path).suffix == ".html":
        files.write_text(path, _page(shown, title, reading))
    else:
        files.write_picture(path, _sheet(shown, title, reading))
    return len(shown), sum(len(row.pictures) for row in shown)


def small(path: str, **reading: Any) -> Image.Image:
    """Reads a picture, its longer side reduced to `SIDE`; grey if it cannot be read any more."""
    try:
        picture = Picture.read(path, **reading)
        H, W = picture.size()
        share = min(1.0, SIDE / max(H, W))
        size = max(1, round(H * share)), max(1, round(W * share))
        pixels = picture.crops([(0, 0, H, W)], size, interpolation="bicubic")[0]
        return Image.fromarray(shown(pixels))
    except data.PictureError:
        return Image.new("RGB", (SIDE, SIDE), (190, 190, 190))


def shown(pixels: np.ndarray) -> np.ndarray:
    """Returns pixels of any channels as colours: the first three, or the first one as grey.

    Args:
        pixels: uint8 [H,W,C].

    Returns:
        uint8 [H,W,3].

    Example:
        >>> shown(np.array([[[7, 9]]], np.uint8))[0, 0].tolist()
        [7, 7, 7]
    """
    if pixels.shape[2] >= 3:
        return np.ascontiguousarray(pixels[..., :3])
    return np.repeat(pixels[..., :1], 3, axis=2)


def _page(rows: Sequence[Row], title: str, reading: dict[str, Any]) -> str:
    parts = []
    for row in rows:
        figures = [_figure(path, text, reading) for path, text in row.pictures]
        parts.append(f"<h2>{html.escape(printable(row.text))}</h2>\n<div>{''.join(figures)}</div>")
    return PAGE.format(title=html.escape(printable(title)), side=SIDE, body="\n".join(parts))


def _figure(path: str, text: str, reading: dict[str, Any]) -> str:
    buffer = io.BytesIO()
    small(path, **reading).save(buffer, "JPEG", quality=85)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    caption = f"{html.escape(text)}<br>{html.escape(printable(path))}"
    return (
        f'<figure><img alt="" src="data:image/jpeg;base64,{encoded}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _sheet(rows: Sequence[Row], title: str, reading: dict[str, Any]) -> Image.Image:
    font = ImageFont.load_default(11)
    cell = SIDE + GAP, SIDE + 2 * LINE + GAP
    columns = min(COLUMNS, max((len(row.pictures) for row in rows), default=1))
    lines = [-(-len(row.pictures) // COLUMNS) for row in rows]
    width = max(columns, 3) * cell[0] + GAP
    height = 2 * GAP + LINE + sum(n * cell[1] + LINE + GAP for n in lines)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), _fitting(title, font, width - 2 * GAP), "black", font)
    top = 2 * GAP + LINE
    for row, count in zip(rows, lines, strict=True):
        draw.text((GAP, top), _fitting(row.text, font, width - 2 * GAP), "black", font)
        for i, (path, text) in enumerate(row.pictures):
            x = GAP + i % COLUMNS * cell[0]
            y = top + LINE + i // COLUMNS * cell[1]
            sheet.paste(small(path, **reading), (x, y))
            draw.text((x, y + SIDE), _fitting(text, font, SIDE), "black", font)
            draw.text((x, y + SIDE + LINE), _fitting(path, font, SIDE), "black", font)
        top += count * cell[1] + LINE + GAP
    return sheet


def _fitting(text: str, font: Any, width: int) -> str:
    """Returns the end of a text that fits: of a path, the name of the file."""
    text = printable(text)
    start, cut = 0, text
    while font.getlength(cut) > width:
        start += max(1, (len(text) - start) // 16)
        cut = f"…{text[start:]}"
    return cut
