"""Sheets of pictures with their detections, or with their masks, to look at."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jssl.data.palette import voc_palette
from jssl.data.walk import printable
from jssl.evaluate.gallery import shown
from jssl.metrics.detection import IGNORED, Detections, Objects

MOST_PICTURES = 12
SIDE = 256  # the longer one of a picture on the sheet
MOST_DETECTIONS = 10  # of a picture; more cannot be told apart
GREY = (190, 190, 190)  # of ignored pixels: no colour of VOC's palette
FONT, LINE, GAP = 12, 17, 8  # size of text, height of a line, pixels between pictures
LONGEST_NAME = 150  # pixels of a class in the legend
DASH = 5  # pixels

Colour = tuple[int, int, int]


class _Cell(NamedTuple):
    """Panels side by side, each with a line of text below."""

    panels: list[Image.Image]
    texts: list[str]


class _Note(NamedTuple):
    """A text in a box: a name that may be cut, its end, and where it may stand."""

    name: str
    end: str
    colour: Colour
    left: int
    tops: list[int]


def detection_sheet(
    pictures: Sequence[np.ndarray],
    objects: Sequence[Objects],
    detections: Sequence[Detections],
    *,
    class_names: Sequence[str],
    min_score: float = 0.5,
) -> np.ndarray:
    """Draws pictures with their objects and detections.

    Objects are dashed and white, with the name of their class at the lower left. Detections have
    the colour of their class, its name and the score; where two overlap the better one is above.

    Args:
        pictures: uint8 [H,W,C] each, of any sizes; the first `MOST_PICTURES` are shown.
        objects: of each picture.
        detections: of each picture; the best `MOST_DETECTIONS` are drawn.
        class_names: of the K classes.
        min_score: of a detection that is drawn.

    Returns:
        uint8 [h,w,3]; at most 1064 pixels wide.

    Raises:
        ValueError: no picture, or not as many objects or detections.

    Example:
        >>> none = np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)
        >>> truth = [Objects(np.array([[2, 2, 9, 9]]), np.array([0]), np.array([False]))]
        >>> picture = np.zeros((20, 40, 3), np.uint8)
        >>> detection_sheet([picture], truth, [Detections(*none)], class_names=['cat']).shape
        (203, 272, 3)
    """
    _check_lengths(pictures, objects=objects, detections=detections)
    font = ImageFont.load_default(FONT)
    cells, used = [], set()
    for picture, truth, found in zip(pictures[:MOST_PICTURES], objects, detections, strict=False):
        best = _best(found, min_score)
        panel = _panel(picture)
        scale = panel.width / picture.shape[1], panel.height / picture.shape[0]
        notes = _draw_objects(panel, truth, scale, class_names)
        notes += _draw_detections(panel, best, scale, class_names)
        _draw_notes(panel, notes, font)
        used |= {int(k) for k in best.classes}
        more = np.sum(np.asarray(found.scores) >= min_score) - len(best.scores)
        text = f"objects: {len(truth.classes)}, detections: {len(best.scores)}"
        cells.append(_Cell([panel], [f"{text} and {more} more" if more else text]))
    legend = [((255, 255, 255), "objects, dashed")]
    legend += [(_colour(k), _name(k, class_names)) for k in sorted(used)]
    heading = f"{_count(len(pictures))}, scores from {min_score:g}"
    return _sheet(heading, legend, cells, columns=4, font=font)


def segmentation_sheet(
    pictures: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    *,
    class_names: Sequence[str],
) -> np.ndarray:
    """Draws each picture beside its true and its predicted mask, in VOC's colours.

    Args:
        pictures: uint8 [H,W,C] each, of any sizes; the first `MOST_PICTURES` are shown.
        labels: int [H,W] each: 0 background, 1 to K, 255 ignored, which is grey.
        predictions: int [H,W] each, likewise.
        class_names: of the K classes, without the background.

    Returns:
        uint8 [h,w,3]; at most 1624 pixels wide.

    Raises:
        ValueError: no picture, not as many masks, or a mask of another size than its picture.

    Example:
        >>> picture, mask = np.zeros((20, 40, 3), np.uint8), np.ones((20, 40), np.uint8)
        >>> segmentation_sheet([picture], [mask], [mask], class_names=['cat']).shape
        (203, 816, 3)
    """
    _check_lengths(pictures, labels=labels, predictions=predictions)
    cells, used = [], set()
    for picture, true, found in zip(pictures[:MOST_PICTURES], labels, predictions, strict=False):
        true, found = np.asarray(true), np.asarray(found)
        if not true.shape == found.shape == picture.shape[:2]:
            raise ValueError(
                f"segmentation_sheet expects masks of {picture.shape[:2]}, found {true.shape} and "
                f"{found.shape}."
            )
        counted = true != IGNORED
        share = f", {100 * np.mean((true == found)[counted]):.1f} % right" if counted.any() else ""
        panels = [_panel(picture), _mask_panel(true), _mask_panel(found)]
        cells.append(_Cell(panels, ["picture", "truth", f"prediction{share}"]))
        used |= {*np.unique(true).tolist(), *np.unique(found).tolist()}
    names = {0: "background", IGNORED: "ignored"}
    legend = [
        (GREY if i == IGNORED else _colour(i - 1), names.get(i) or _name(i - 1, class_names))
        for i in sorted(used)
    ]
    font = ImageFont.load_default(FONT)
    return _sheet(_count(len(pictures)), legend, cells, columns=2, font=font)


def _check_lengths(pictures: Sequence[np.ndarray], **others: Sequence[Any]) -> None:
    if not len(pictures):
        raise ValueError("A sheet needs at least one picture, found none.")
    for name, values in others.items():
        if len(values) != len(pictures):
            raise ValueError(
                f"A sheet of {len(pictures)} pictures needs as many {name}, found {len(values)}."
            )


def _count(number: int) -> str:
    first = f"First {MOST_PICTURES} of " if number > MOST_PICTURES else ""
    return f"{first}{number} picture{'s' if number > 1 else ''}"


def _colour(k: int) -> Colour:
    """That of class k, from 0; -1 is the background."""
    red, green, blue = voc_palette()[(k + 1) % 256].tolist()
    return red, green, blue


def _name(k: int, class_names: Sequence[str]) -> str:
    return printable(class_names[k]) if 0 <= k < len(class_names) else f"class {k}"


def _mask_panel(mask: np.ndarray) -> Image.Image:
    palette = voc_palette()
    palette[IGNORED] = GREY
    return _panel(palette[mask.astype(np.uint8)], Image.Resampling.NEAREST)  # no mixed colours


def _panel(pixels: np.ndarray, resampling: Any = Image.Resampling.BICUBIC) -> Image.Image:
    """A picture whose longer side is `SIDE`."""
    H, W = pixels.shape[:2]
    size = max(1, round(W * SIDE / max(H, W))), max(1, round(H * SIDE / max(H, W)))
    return Image.fromarray(shown(pixels)).resize(size, resampling)


def _best(found: Detections, min_score: float) -> Detections:
    """The detections that are drawn, the best first."""
    scores = np.asarray(found.scores)
    order = np.argsort(-scores, kind="stable")[:MOST_DETECTIONS]
    order = order[scores[order] >= min_score]
    return Detections(*(np.asarray(field)[order] for field in found))


def _corners(
    box: np.ndarray, scale: tuple[float, float], panel: Image.Image
) -> tuple[int, int, int, int]:
    """First and last pixels of a box on a panel."""
    x1, y1, x2, y2 = (round(float(v) * s) for v, s in zip(box, (*scale, *scale), strict=True))
    x1, y1 = min(max(x1, 0), panel.width - 1), min(max(y1, 0), panel.height - 1)
    return x1, y1, min(max(x2 - 1, x1), panel.width - 1), min(max(y2 - 1, y1), panel.height - 1)


def _draw_objects(
    panel: Image.Image, truth: Objects, scale: tuple[float, float], class_names: Sequence[str]
) -> list[_Note]:
    draw, notes = ImageDraw.Draw(panel), []
    for box, k, difficult in zip(*truth, strict=True):
        x1, y1, x2, y2 = _corners(box, scale, panel)
        draw.rectangle((x1, y1, x2, y2), outline="black")  # else white is lost on white
        for x in range(x1, x2 + 1, 2 * DASH):
            for y in (y1, y2):
                draw.line((x, y, min(x + DASH - 1, x2), y), "white")
        for y in range(y1, y2 + 1, 2 * DASH):
            for x in (x1, x2):
                draw.line((x, y, x, min(y + DASH - 1, y2)), "white")
        end = " (difficult)" if difficult else ""
        notes.append(_Note(_name(int(k), class_names), end, (0, 0, 0), x1 + 1, [y2 - LINE, y2 + 1]))
    return notes


def _draw_detections(
    panel: Image.Image, found: Detections, scale: tuple[float, float], class_names: Sequence[str]
) -> list[_Note]:
    draw, notes = ImageDraw.Draw(panel), []
    for box, score, k in zip(*found, strict=True):
        x1, y1, _, y2 = _corners(box, scale, panel)
        tops = [y1 - LINE, y1 + 1, y2 + 1, y1 + LINE + 1, y1 + 2 * LINE + 1]
        name, colour = _name(int(k), class_names), _colour(int(k))
        notes.append(_Note(name, f" {score:.2f}", colour, x1, tops))
    for box, k in reversed(list(zip(found.boxes, found.classes, strict=True))):
        draw.rectangle(_corners(box, scale, panel), outline=_colour(int(k)), width=2)
    return notes


def _draw_notes(panel: Image.Image, notes: list[_Note], font: Any) -> None:
    """Draws each note at the first of its places where no earlier one lies, or above those."""
    draw = ImageDraw.Draw(panel)
    taken: list[tuple[int, int, int, int]] = []
    for note in notes:
        room = panel.width - 4 - font.getlength(note.end)
        text = _fitting(note.name, font, room) + note.end
        places = [_inside((note.left, top), text, panel, font) for top in note.tops]
        free = [p for p in places if not any(_meet(p, other) for other in taken)]
        taken.append((free or places)[0])
        light = 0.299 * note.colour[0] + 0.587 * note.colour[1] + 0.114 * note.colour[2] > 140
        draw.rectangle(taken[-1], fill=note.colour)
        corner = taken[-1][0] + 2, taken[-1][1] + 1
        draw.text(corner, text, "black" if light else "white", font)


def _inside(
    corner: tuple[int, int], text: str, panel: Image.Image, font: Any
) -> tuple[int, int, int, int]:
    """The box of a text, moved into the panel."""
    width = int(font.getlength(text)) + 4
    x = max(0, min(corner[0], panel.width - width))
    y = max(0, min(corner[1], panel.height - LINE))
    return x, y, x + width - 1, y + LINE - 1


def _meet(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _fitting(text: str, font: Any, width: float) -> str:
    """The beginning of a text that fits."""
    cut, end = text, len(text)
    while end > 1 and font.getlength(cut) > width:
        end -= max(1, end // 16)
        cut = f"{text[:end]}…"
    return cut


def _sheet(
    heading: str, legend: list[tuple[Colour, str]], cells: list[_Cell], *, columns: int, font: Any
) -> np.ndarray:
    columns, panels = min(columns, len(cells)), len(cells[0].panels)
    step = panels * (SIDE + GAP) + (panels - 1) * GAP  # the gap between cells is the wider one
    width = GAP + columns * step
    swatches, top = [], GAP + LINE
    x = GAP
    for colour, name in legend:
        text = _fitting(name, font, LONGEST_NAME)
        length = LINE + int(font.getlength(text)) + 2 * GAP
        if x > GAP and x + length > width:
            x, top = GAP, top + LINE
        swatches.append((x, top, colour, text))
        x += length
    top += (LINE if legend else 0) + GAP
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(panel.height for cell in row for panel in cell.panels) for row in rows]
    sheet = Image.new("RGB", (width, top + sum(heights) + len(rows) * (LINE + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), _fitting(heading, font, width - 2 * GAP), "black", font)
    for x, y, colour, text in swatches:
        draw.rectangle((x, y + 2, x + LINE - 5, y + LINE - 3), fill=colour, outline="black")
        draw.text((x + LINE, y + 1), text, "black", font)
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            for i, (panel, text) in enumerate(zip(*cell, strict=True)):
                x = GAP + column * step + i * (SIDE + GAP)
                sheet.paste(panel, (x, top))
                draw.text((x, top + height + 1), _fitting(text, font, SIDE), "black", font)
        top += height + LINE + GAP
    return np.asarray(sheet)
