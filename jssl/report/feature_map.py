"""The map of a report: features on a plane, by principal components or by UMAP."""

import io
import warnings
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np

from jssl.errors import UserError
from jssl.report.look import Network, Seen, class_name
from jssl.third_party import unchanged

MOST_PICTURES = 45  # small pictures on the map
MOST_COLOURS = 20
GREY = "#b5b5b5"  # of the classes without a colour, and of pictures without a label
APART = 0.085  # smallest distance of two small pictures, as a share of the map


def principal_plane(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Projects features on their two largest principal components.

    Args:
        features: float [M,D].

    Returns:
        float64 [M,2]; and the shares of the variance, [2]. The sign of a component is such that
        its largest weight is above 0, so that it is the same on every machine.

    Example:
        >>> plane, shares = principal_plane(np.array([[0.0, 0, 0], [2, 0, 0], [4, 0, 0]]))
        >>> plane[:, 0].round(6).tolist(), shares.round(3).tolist()
        ([-2.0, 0.0, 2.0], [1.0, 0.0])
    """
    x = np.asarray(features, np.float64)
    x = x - x.mean(axis=0)
    _, values, vectors = np.linalg.svd(x, full_matrices=False)
    vectors = np.pad(vectors[:2], ((0, max(0, 2 - len(vectors))), (0, 0)))  # of one picture
    values = np.pad(values[:2], (0, max(0, 2 - len(values)))) ** 2
    largest = np.abs(vectors).argmax(axis=1)
    signs = np.where(vectors[np.arange(2), largest] < 0, -1.0, 1.0)
    return x @ (vectors * signs[:, None]).T, values / max(float((x * x).sum()), 1e-30)


def check_map(settings: Any) -> None:
    """Checks that the map of a report can be made, before anything is computed.

    Args:
        settings: `report` of a config.

    Raises:
        UserError: the package of 'umap' is not installed.
    """
    if settings.enabled and settings.map == "umap":
        _import_umap()


def umap_plane(features: np.ndarray) -> np.ndarray:
    """Projects features by UMAP: cosine distance, 15 neighbours at most, seed 0.

    Args:
        features: float [M,D], of four pictures or more.

    Returns:
        float64 [M,2].

    Raises:
        UserError: the package is not installed, or there are fewer pictures.

    Reference: McInnes, Healy and Melville 2018, https://arxiv.org/abs/1802.03426.
    """
    if len(features) < 4:
        raise UserError(f"A map by UMAP needs four pictures, found {len(features)}.")
    umap = _import_umap()
    neighbours = min(15, len(features) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed turns its threads off, which it warns about
        model = umap.UMAP(
            n_neighbors=neighbours, metric="cosine", random_state=0, n_jobs=1, init="pca"
        )
        return np.asarray(model.fit_transform(np.asarray(features, np.float32)), np.float64)


def _import_umap() -> Any:
    try:
        with unchanged():
            import umap
    except ImportError:
        raise UserError(
            "A map by UMAP needs umap-learn, which is not installed. Type pip install "
            "'jssl[umap]', or --config.report.map=pca (`jssl report`: --map=pca)."
        ) from None
    return umap


def feature_map(network: Network, queries: Seen) -> dict[str, Any]:
    """Returns the section with the map, see `jssl.report.sections`."""
    kind = network.parts.config.report.map
    if kind == "umap":
        plane = umap_plane(queries.features)
        names = ["first coordinate", "second coordinate"]
        how = "by UMAP (cosine distance): near points are alike, large distances say little"
    else:
        plane, shares = principal_plane(queries.features)
        names = [
            f"{name} principal component ({100 * share:.0f} % of the variance)"
            for name, share in zip(("first", "second"), shares, strict=True)
        ]
        how = (
            "on their two largest principal components, which have "
            f"{100 * shares.sum():.0f} % of the variance"
        )
    colours, legend, notes = _colours(network, queries.labels)
    figure = _draw(plane, names, colours, queries.thumbs)
    what = "test" if network.tested else "training"
    first = (
        f"Backbone features of {len(plane):,} {what} pictures {how}. {MOST_PICTURES} "
        "pictures at most are drawn at the place of their point, where there is room."
    )
    way = "UMAP" if kind == "umap" else "principal components"
    return {
        "title": "Map of the features",
        "notes": [first, *notes],
        "legend": legend,
        "figure": figure,
        "alt": f"Map of {len(plane)} features by {way}",
    }


def _colours(network: Network, labels: np.ndarray) -> tuple[list[str], list[Any], list[str]]:
    """Returns the colour of each point, the legend, and sentences on what has no colour."""
    if not network.labelled:
        return [GREY] * len(labels), [], ["The data have no labels: all points have one colour."]
    with unchanged():
        import matplotlib

    present, counts = np.unique(labels[labels >= 0], return_counts=True)
    most = np.sort(present[np.argsort(-counts, kind="stable")][:MOST_COLOURS])
    palette = "tab10" if len(most) <= 10 else "tab20"
    colours: Any = matplotlib.colormaps[palette]
    table = [matplotlib.colors.to_hex(c) for c in colours.colors]
    colour = {int(label): table[i] for i, label in enumerate(most)}
    legend = [[colour[int(label)], class_name(network, int(label))] for label in most]
    notes = []
    if len(present) > len(most):
        notes = [f"The {len(most)} classes with the most pictures have a colour; others are grey."]
    return [colour.get(int(label), GREY) for label in labels], legend, notes


def _draw(plane: np.ndarray, names: Sequence[str], colours: list[str], thumbs: np.ndarray) -> str:
    with unchanged():
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    with matplotlib.rc_context({"font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(9.6, 6.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.scatter(plane[:, 0], plane[:, 1], s=14, c=colours, alpha=0.8, linewidths=0)
        for row in _spread(plane):
            # 28 px wide, whatever the side of the small picture is
            image = OffsetImage(thumbs[row], zoom=28 / thumbs.shape[1], resample=True)
            frame = {"edgecolor": colours[row], "linewidth": 1.6}
            axes.add_artist(AnnotationBbox(image, plane[row], pad=0.1, bboxprops=frame))
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.margins(0.06)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def _spread(plane: np.ndarray) -> list[int]:
    """Returns rows that lie apart from each other, at most `MOST_PICTURES`."""
    span = np.maximum(np.ptp(plane, axis=0), 1e-12)
    places = (plane - plane.min(axis=0)) / span
    kept: list[int] = []
    for row in np.random.default_rng(0).permutation(len(plane)):
        if all(np.abs(places[row] - places[other]).max() > APART for other in kept):
            kept.append(int(row))
        if len(kept) == MOST_PICTURES:
            break
    return kept
