"""The card of exported weights: what they are, how they were judged, how to prepare pictures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jssl.augment._pixels import mean_and_std, statistics_of
from jssl.convert.network import Network
from jssl.data.build import DEFAULTS
from jssl.data.channels import channels_in_words
from jssl.errors import UserError
from jssl.evaluate.run import FOLDER
from jssl.evaluate.table import table_lines
from jssl.models import DEFAULTS as MODEL
from jssl.run import versions, workdir

RECORD = "weights.json"  # of a workdir into which published weights were imported
LICENCE = "unspecified"
_HEAD = "| step | probe | features | metric | % | 95 % interval | protocol |\n" + "|---" * 7 + "|"


def preprocessing(config: Any) -> dict[str, Any]:
    """How pictures are prepared for a network.

    Args:
        config: of the run.

    Returns:
        `channels`, their number; `mean` and `std` of pixels in [0, 1]; `size` in pixels; `crop`,
        the share of the short side that is kept; `interpolation`.

    Example:
        >>> from ml_collections import ConfigDict
        >>> values = {'augment': {'normalize': 'half', 'size': 32}, 'data': {}}
        >>> preprocessing(ConfigDict(values))['mean']
        [0.5, 0.5, 0.5]
    """
    data = {**DEFAULTS, **config.data}
    channels = data["channels"]
    mean, std = mean_and_std(statistics_of(config.augment, channels), channels)
    return {
        "channels": int(channels),
        "mean": list(mean),
        "std": list(std),
        "size": int(config.augment.size),
        "crop": float(data["eval_crop"]),
        "interpolation": str(data["eval_interpolation"]),
    }


def pretrained_cfg(config: Any) -> dict[str, Any]:
    """The preprocessing under the keys of timm's config.json."""
    pixels = preprocessing(config)
    return {
        "input_size": [pixels["channels"], pixels["size"], pixels["size"]],
        "interpolation": pixels["interpolation"],
        "crop_pct": pixels["crop"],
        "mean": pixels["mean"],
        "std": pixels["std"],
    }


def licence(folder: Path) -> str:
    """The licence of a run's weights: that of imported weights, else 'unspecified'."""
    path = folder / RECORD
    return str(workdir.read_json(path).get("licence", LICENCE)) if path.exists() else LICENCE


def number_rows(folder: Path) -> list[str]:
    """The numbers that a workdir holds, a Markdown row each: of `result.json` and `evaluation/`."""
    rows: list[str] = []
    records = [folder / "result.json", *sorted((folder / FOLDER).glob("*.json"))]
    for path in records:
        if not path.exists():
            continue
        record = workdir.read_json(path)
        step = record.get("steps", record.get("checkpoint", {}).get("step", "?"))
        try:
            cells = [line for row in record["rows"] for line in table_lines(row)]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"'{path}' is no record of an evaluation ({error!r}): expected what `jssl "
                "evaluate` writes. Move it out of the workdir."
            ) from error
        rows += [f"| {step} | {' | '.join(line)} |" for line in cells]
    return list(dict.fromkeys(rows))


def card(
    network: Network,
    name: str,
    tensors: Mapping[str, np.ndarray],
    *,
    left_out: Sequence[str] = (),
    use: str,
    notes: Sequence[str] = (),
) -> str:
    """The card of an export, in Markdown.

    Args:
        network: of the run.
        name: of the file or folder.
        tensors: that were written.
        left_out: modules of the run that were not.
        use: code that loads the export.
        notes: further facts, a sentence each.
    """
    config, model = network.config, network.config.model
    values = sum(int(np.prod(x.shape)) for x in tensors.values())
    pixels = preprocessing(config)
    facts = [
        f"method: {config.method}",
        f"data: {config.data.name}",
        f"network: {model.name}, {len(tensors)} tensors, {values:,} values, float32",
        f"weights: {network.about}",
        f"licence: {licence(network.folder)}",
        f"written by: jssl {versions.jssl_version()} (commit {versions.jssl_commit()})",
    ]
    if left_out:
        facts.append(f"left out: {', '.join(left_out)}")
    if config.dtype != "float32":
        facts.append(f"the run computes in {config.dtype}, so its own outputs differ by rounding")
    own = {k: v for k, v in model.items() if k not in ("name", "remat") and v != MODEL.get(k)}
    numbers = number_rows(network.folder)
    lines = [
        f"# {name}",
        "",
        *(f"* {fact}" for fact in [*facts, *notes]),
        "",
        "## Preprocessing",
        "",
        f"* pictures of different sizes: short side to {int(pixels['size'] / pixels['crop'])} px "
        f"({pixels['interpolation']}), then the central {pixels['size']} x {pixels['size']} px "
        f"(crop {pixels['crop']:g}); pictures of one size are resized to it",
        f"* {channels_in_words(config.data)}, pixels divided by 255",
        f"* minus the mean {pixels['mean']}, divided by the deviation {pixels['std']}",
        "",
        "## Use",
        "",
        "```python",
        use.strip(),
        "```",
        "",
        "## Numbers",
        "",
        *([_HEAD, *numbers, ""] if numbers else ["The run has not been evaluated.", ""]),
    ]
    if numbers and not network.judged:
        lines += [f"These are numbers of other weights: here are {network.about}.", ""]
    return "\n".join(
        [*lines, "## Settings of the network", "", "```json", json.dumps(own), "```", ""]
    )
