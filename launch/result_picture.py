"""Draws the picture of README.md from the workdir of a run: its kNN curve, and neighbours.

python launch/result_picture.py --workdir=runs/simclr_photos --output=docs/result.png
"""

import argparse
import base64
import io
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

ROWS, COLUMNS = 5, 7
COLOURS = {"query": "#555555", "right": "#2b8a4b", "wrong": "#c0392b", "": "white"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    figure = plt.figure(figsize=(9, 3.4), dpi=100, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2, 3))
    curve(left.subplots(), given.workdir)
    neighbours(right, given.workdir)
    figure.savefig(given.output)


def curve(axes, workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    points = [(r["step"], 100 * r["knn_top1"]) for r in map(json.loads, lines) if "knn_top1" in r]
    axes.plot(*zip(*points, strict=True), "o-", color="#3f51b5")
    axes.set_xlabel("updates")
    axes.set_title("kNN top-1 on test tiles, %", fontsize=10, loc="left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def neighbours(figure, workdir):
    sections = json.loads((workdir / "report_pictures.json").read_text())["sections"]
    (section,) = [s for s in sections if s["title"].startswith("Neighbours")]
    # The queries with the most contrast: a black tile shows nothing.
    groups = sorted(section["groups"], key=lambda group: -contrast(group["pictures"][0]))
    chosen = groups[:ROWS]
    figure.suptitle("test tiles and their nearest training tiles", fontsize=10)
    for row, group in zip(figure.subplots(ROWS, COLUMNS), chosen, strict=True):
        for axis in row:
            axis.axis("off")
        for axis, picture in zip(row, group["pictures"], strict=False):
            axis.axis("on")
            axis.imshow(read(picture))
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set(color=COLOURS[picture.get("mark", "")], linewidth=2)


def read(picture):
    return Image.open(io.BytesIO(base64.b64decode(picture["src"].partition(",")[2])))


def contrast(picture):
    return np.asarray(read(picture).convert("L")).std()


if __name__ == "__main__":
    main()
