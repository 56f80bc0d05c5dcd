"""The curves of a run as one SVG: a small plot for each kind of number."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jssl.report.facts import series
from jssl.third_party import unchanged

COLUMNS = 3
WIDTH, HEIGHT = 3.5, 2.3  # of a plot, in inches
MOST_POINTS = 1000  # of a line: more are thinned evenly
COLOURS = ("#1f5fa8", "#c8541b", "#2b8a4b", "#7a4fa3", "#8a6d1f", "#555555")
SMOOTHED = 0.05  # share of the points over which the mean of the loss is taken


class Plot(NamedTuple):
    """A plot: its title and unit, and the numbers in it.

    Attributes:
        title: in words.
        unit: of the vertical axis.
        lines: (name in the legend, key in the metrics).
        factor: by which the numbers are multiplied.
    """

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    factor: float = 1.0


def plots_of(keys: Sequence[str]) -> list[Plot]:
    """Returns the plots for the numbers that a run has logged.

    Args:
        keys: of its metrics.

    Example:
        >>> [plot.title for plot in plots_of(['loss', 'knn_top1', 'step'])]
        ['Loss', 'kNN accuracy']
    """
    both = (("backbone", "backbone"), ("projection", "projection"))

    def collapse(name: str) -> tuple[tuple[str, str], ...]:
        return tuple((word, f"collapse/{place}_{name}") for word, place in both)

    def ending(*ends: str) -> tuple[tuple[str, str], ...]:
        known = ("knn_top1", "held_out_top1")
        others = sorted(key for key in keys if key.endswith(ends) and key not in known)
        return tuple((key.replace("_", " "), key) for key in others[: len(COLOURS)])

    plots = [
        Plot("Loss", "loss", (("", "loss"),)),
        Plot("Learning rate", "learning rate", (("", "learning_rate"),)),
        Plot("kNN accuracy", "top-1, %", (("", "knn_top1"),), 100),
        Plot("Accuracy on held-out examples", "top-1, %", (("", "held_out_top1"),), 100),
        Plot("Accuracy in the training task", "%", ending("top1", "accuracy"), 100),
        Plot(
            "Agreement of the clusters",
            "NMI, 0 to 1",
            (
                ("with the labels", "cluster/nmi_labels"),
                ("with the clusters before", "cluster/nmi_previous"),
            ),
        ),
        Plot("Empty clusters", "clusters", (("", "cluster/empty"),)),
        Plot(
            "Error of the reconstruction",
            "over the best constant patches",
            (("", "reconstruction_mse_ratio"),),
        ),
        Plot("Codes in use", "perplexity", (("", "codes/perplexity"),)),
        Plot("Effective rank of the features", "dimensions", collapse("effective_rank")),
        Plot("Deviation of a feature", "mean over dimensions", collapse("std")),
        Plot("Uniformity (lower: more even)", "log of the mean", collapse("uniformity")),
        Plot("Distance of two views", "alignment", collapse("alignment")),
        Plot("Decay of the spectrum", "exponent alpha", collapse("alpha_req")),
        Plot("Norm of the gradient", "norm", (("", "grad_norm"),)),
        Plot("Speed", "images per second", (("", "images_per_second"),)),
    ]
    kept = [p._replace(lines=tuple(line for line in p.lines if line[1] in keys)) for p in plots]
    return [plot for plot in kept if plot.lines]


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Returns the mean of the `width` nearest values of each, fewer at both ends.

    Example:
        >>> smoothed(np.array([0.0, 3.0, 6.0, 0.0]), 3).tolist()
        [1.5, 3.0, 3.0, 3.0]
    """
    half = width // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, last = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def draw_curves(
    rows: Sequence[Mapping[str, Any]], *, steps_per_epoch: int, untrained: float | None = None
) -> tuple[str, list[str]]:
    """Draws the numbers of a run.

    Args:
        rows: of metrics.jsonl.
        steps_per_epoch: updates of an epoch; 0 if unknown: then the axis counts updates.
        untrained: kNN's top-1 of the untrained network by the table at the end, drawn at epoch 0
            for a run of an older version, which did not log it; None if unknown.

    Returns:
        The SVG, '' without numbers; and sentences to put below it.
    """
    plots = plots_of(sorted({key for row in rows for key in row} - {"step", "time", "epoch"}))
    if not plots:
        return "", []
    with unchanged():
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

    settings: Any = {
        "svg.hashsalt": "jssl", "svg.fonttype": "path", "font.size": 9, "axes.titlesize": 10,
        "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False,
        "axes.grid": True, "grid.color": "#e4e4e4", "axes.axisbelow": True,
    }  # fmt: skip
    count = -(-len(plots) // COLUMNS)
    notes: list[str] = []
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(COLUMNS * WIDTH, count * HEIGHT), layout="constrained")
        FigureCanvasSVG(figure)
        grid = figure.subplots(count, COLUMNS, squeeze=False).ravel()
        for axes, plot in zip(grid, plots, strict=False):
            _draw(axes, plot, rows, steps_per_epoch, untrained, notes)
        for axes in grid[len(plots) :]:
            axes.set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode(), list(dict.fromkeys(notes))


def _draw(
    axes: Any, plot: Plot, rows: Any, per_epoch: int, untrained: float | None, notes: list[str]
) -> None:
    drawn = 0
    for (name, key), colour in zip(plot.lines, COLOURS, strict=False):
        steps, values = (np.array(part) for part in series(rows, key))
        keep = np.isfinite(values)
        if not keep.all():
            notes.append(f"{int((~keep).sum())} values of {key} are not finite, and not drawn.")
        if key == "images_per_second":
            keep &= values > 0  # 0 stands for the first update, which has no time yet
        x, y = steps[keep] / (per_epoch or 1), plot.factor * values[keep]
        if not len(y):
            continue
        if len(y) > MOST_POINTS:
            notes.append(f"Lines of more than {MOST_POINTS:,} points are thinned evenly.")
        few = np.unique(np.linspace(0, len(y) - 1, min(len(y), MOST_POINTS)).astype(int))
        dots = len(y) <= 30
        width = 2 * (math.ceil(SMOOTHED * len(y)) // 2) + 1
        if key == "loss" and width > 1:
            axes.plot(x[few], y[few], ".", color=colour, alpha=0.25, markersize=3)
            axes.plot(x[few], smoothed(y, width)[few], color=colour, linewidth=1.5)
            notes.append(
                f"Loss: points are updates that were logged, the line the mean of {width}."
            )
        else:
            mark = "o" if dots else ""
            axes.plot(x[few], y[few], color=colour, linewidth=1.3, marker=mark, markersize=3,
                      label=name)  # fmt: skip
        drawn += 1
        if key == "knn_top1" and x[0] == 0:
            notes.append("kNN: the point at 0 is the network before the first update.")
        elif key == "knn_top1" and untrained is not None:
            axes.plot([0, x[0]], [100 * untrained, y[0]], "--", color=colour, linewidth=1)
            axes.plot([0], [100 * untrained], "o", color=colour, markerfacecolor="white")
            notes.append(
                "kNN: the white point at 0 is the untrained network, by the protocol of the table; "
                "the others are the monitor's."
            )
    axes.set_title(plot.title, loc="left")
    axes.set_ylabel(plot.unit)
    axes.set_xlabel("epochs" if per_epoch else "updates")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.margins(x=0.03, y=0.1)
    axes.locator_params(axis="x", nbins=4)
    axes.locator_params(axis="y", nbins=5)
    if not drawn:
        axes.text(0.5, 0.5, "no finite value yet", ha="center", transform=axes.transAxes)
    if drawn and len(plot.lines) > 1:
        axes.legend(frameon=False, fontsize=8)
