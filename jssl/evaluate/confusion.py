"""The confusion matrix of a classifier: its counts, a table and a picture."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jssl.data.walk import printable
from jssl.errors import UserError

MOST_CLASSES = 5000  # the table has K^2 cells: 50 MB
SIDE = 1000  # of the matrix in the picture, in pixels; from 501 classes on up to twice that
NAMED_CELL = 11  # smallest side of a cell beside which a name can be read
NAME_LENGTH = 24  # letters of a name in the picture
DARK = np.array([8, 48, 107])  # blue, of a share of 1
TEXT, FRAME, PAPER = (0, 0, 0), (120, 120, 120), (255, 255, 255)


def confusion_counts(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts the pairs of true and predicted class.

    Args:
        predicted: int [M] in [0,K).
        labels: int [M] in [0,K).
        num_classes: K.

    Returns:
        int64 [K,K]: rows are true classes, columns predicted ones.

    Raises:
        UserError: a class outside [0,K).

    Example:
        >>> confusion_counts(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    K = num_classes
    for what, values in (("label", labels), ("prediction", predicted)):
        low, high = np.min(values), np.max(values)
        if low < 0 or high >= K:
            raise UserError(
                f"The classifier has {K} classes, but a {what} is {low if low < 0 else high}: "
                f"expected 0 to {K - 1}. Type the --source that it was trained on."
            )
    pairs = np.asarray(labels, np.int64) * K + np.asarray(predicted, np.int64)
    return np.bincount(pairs, minlength=K * K).reshape(K, K)


def confusion_csv(counts: np.ndarray, names: Sequence[str]) -> bytes:
    """Returns the matrix as CSV: names in the first line and column, a row for each true class.

    Args:
        counts: int [K,K] from `confusion_counts`.
        names: of the K classes.

    Example:
        >>> confusion_csv(np.array([[2, 0], [1, 3]]), ['cat', 'dog'])
        b'true / predicted,cat,dog\\ncat,2,0\\ndog,1,3\\n'
    """
    shown = [printable(name) for name in names]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true / predicted", *shown])
    writer.writerows([name, *row.tolist()] for name, row in zip(shown, counts, strict=True))
    return text.getvalue().encode()


def confusion_picture(counts: np.ndarray, names: Sequence[str], *, title: str = "") -> Image.Image:
    """Draws the matrix: darker where a larger share of a true class is predicted as another.

    The colour is the square root of the share, so that rare confusions are seen. Names are written
    beside up to 90 classes, counts into the cells of up to 20; with more classes there are ticks
    by number. Above 1000 classes a cell is of several.

    Args:
        counts: int [K,K] from `confusion_counts`; rows are true classes.
        names: of the K classes.
        title: text above the matrix.

    Returns:
        A picture, RGB.

    Example:
        >>> confusion_picture(np.eye(2, dtype=int), ['cat', 'dog']).mode
        'RGB'
    """
    K = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    group = -(-K // SIDE)  # classes of a cell
    if group > 1:
        padded = np.pad(shares, (0, -K % group))
        shares = padded.reshape(len(padded) // group, group, -1, group).sum(axis=3).mean(axis=1)
    cell = int(np.clip(SIDE // len(shares), 2, 64))
    named = cell >= NAMED_CELL
    font = ImageFont.load_default(int(np.clip(cell * 0.6, 10, 16)) if named else 14)
    labels = [_short(name) for name in names] if named else []
    margin = max([int(font.getlength(text)) for text in labels], default=40) + 30
    side, top = cell * len(shares), 60 + margin
    width = max(margin + side + 20, int(font.getlength(title)) + 40, margin + 440)
    picture = Image.new("RGB", (width, top + side + 50), PAPER)
    colour = PAPER + np.sqrt(np.clip(shares, 0, 1))[..., None] * (DARK - PAPER)
    matrix = Image.fromarray(np.rint(colour).astype(np.uint8))
    picture.paste(matrix.resize((side, side), Image.Resampling.NEAREST), (margin, top))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((margin - 1, top - 1, margin + side, top + side), outline=FRAME)
    draw.text((20, 10), title, TEXT, font)
    draw.text((20, 32), "columns: predicted class; rows: true class", TEXT, font)
    ticks = _ticks(labels, K, cell / group)
    _label(picture, draw, font, ticks, margin, top)
    if named and cell >= 40:
        _write_counts(draw, counts, shares, cell, margin, top)
    _scale(draw, margin, top + side + 14, font)
    return picture


def _short(name: str) -> str:
    text = printable(name)
    return text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1] + "…"


def _ticks(labels: list[str], K: int, cell: float) -> list[tuple[float, str]]:
    """Returns positions in pixels and texts: every name, or round numbers 40 px apart or more."""
    if labels:
        return [((i + 0.5) * cell, text) for i, text in enumerate(labels)]
    steps = (unit * 10**power for power in range(9) for unit in (1, 2, 5))
    step = next(step for step in steps if step * cell >= 40)
    return [((i + 0.5) * cell, str(i)) for i in range(0, K, step)]


def _label(picture: Any, draw: Any, font: Any, ticks: Any, margin: int, top: int) -> None:
    for place, text in ticks:
        y, x = top + place, margin + place
        draw.text((margin - 8, y), text, TEXT, font, anchor="rm")
        draw.line((margin - 5, y, margin - 1, y), FRAME)
        draw.line((x, top - 5, x, top - 1), FRAME)
        # Text of the columns is turned: it is drawn on its own and then pasted.
        left, upper, right, lower = font.getbbox(text)
        strip = Image.new("L", (int(right) + 2, int(lower) + 2))
        ImageDraw.Draw(strip).text((0, 0), text, 255, font)
        strip = strip.transpose(Image.Transpose.ROTATE_90)
        place_of_strip = (int(x - strip.width / 2), top - 8 - strip.height)
        picture.paste(Image.new("RGB", strip.size, TEXT), place_of_strip, strip)


def _write_counts(draw: Any, counts: Any, shares: Any, cell: int, margin: int, top: int) -> None:
    font = ImageFont.load_default(12)
    for row, column in zip(*np.nonzero(counts), strict=True):
        place = margin + (column + 0.5) * cell, top + (row + 0.5) * cell
        light = shares[row, column] > 0.25
        draw.text(place, str(counts[row, column]), PAPER if light else TEXT, font, anchor="mm")


def _scale(draw: Any, x: int, y: int, font: Any) -> None:
    """Draws the colours of five shares, with the numbers."""
    draw.text((x, y + 8), "share of the true class:", TEXT, font, anchor="lm")
    x += int(font.getlength("share of the true class:")) + 12
    for share in (0.0, 0.01, 0.1, 0.5, 1.0):
        fill = tuple(np.rint(PAPER + np.sqrt(share) * (DARK - PAPER)).astype(int).tolist())
        draw.rectangle((x, y, x + 16, y + 16), fill=fill, outline=FRAME)
        draw.text((x + 20, y + 8), f"{share:g}", TEXT, font, anchor="lm")
        x += 30 + int(font.getlength(f"{share:g}"))
