"""Exports a run's ResNet as a .pkl for detectron2, with MoCo's detection recipe.

Key names as https://github.com/facebookresearch/moco, detection/convert-pretrain-to-detectron2.py:

    conv1, bn1          stem.conv1, stem.conv1.norm
    layerN.B.convC      resN+1.B.convC
    layerN.B.bnC        resN+1.B.convC.norm
    ....downsample.0/1  resN+1.B.shortcut, .shortcut.norm
"""

import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from jssl import files
from jssl.augment._pixels import in_words, mean_and_std, statistics_of
from jssl.convert.network import Network, read_network
from jssl.convert.torchvision import torchvision_resnet
from jssl.errors import UserError, nearest
from jssl.methods._common import channels_of
from jssl.models.resnet import DEPTHS
from jssl.types import PyTree

NETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")  # detectron2's depths


def detectron2_name(name: str) -> str:
    """Returns detectron2's name of a tensor of torchvision's ResNet.

    Example:
        >>> detectron2_name('layer1.0.downsample.1.weight'), detectron2_name('bn1.bias')
        ('res2.0.shortcut.norm.weight', 'stem.conv1.norm.bias')
    """
    group = re.match(r"layer(\d)\.", name)
    prefix, rest = "stem.", name
    if group is not None:
        prefix, rest = f"res{int(group[1]) + 1}.", name[group.end() :]
    rest = rest.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    return prefix + re.sub(r"\bbn(\d)", r"conv\1.norm", rest)


def detectron2_model(params: PyTree, batch_stats: PyTree) -> dict[str, np.ndarray]:
    """Converts an encoder to detectron2's names.

    Args:
        params, batch_stats: see `torchvision_resnet`.

    Returns:
        Name -> float32, kernels [out,in,h,w].

    Example:
        >>> params = {'conv_init': {'kernel': np.zeros((7, 7, 3, 64))}}
        >>> list(detectron2_model(params, {}))
        ['stem.conv1.weight']

    Reference: the script at the top of this file.
    """
    tensors = torchvision_resnet(params, batch_stats)
    return {detectron2_name(name): x for name, x in tensors.items()}


def export_detectron2(
    folder: str | Path, output: str | Path, *, which: str | None = None, step: int | None = None
) -> Path:
    """Writes a run's ResNet for detectron2, and MoCo's recipe as FILE.md in the same folder.

    Args:
        folder: workdir of the run.
        output: the file; ends with .pkl.
        which: 'online' or 'averaged'; by default those that the run's own evaluation uses.
        step: of the checkpoint; the newest by default.

    Returns:
        The path of the recipe.

    Raises:
        UserError: another ending, no workdir or checkpoint, a network that detectron2 lacks, or an
            unwritable folder.
    """
    return write_detectron2(read_network(folder, which=which, step=step), output)[1]


def write_detectron2(network: Network, output: str | Path) -> list[Path]:
    """Writes a network for detectron2, see `export_detectron2`: the file and its recipe."""
    output = Path(output)
    if output.suffix != ".pkl":
        raise UserError(f"Detectron2 reads .pkl, found '{output}'. Type --output={output}.pkl.")
    files.check_output(output, ending=".pkl")
    config, params, batch_stats = network.config, network.params, network.batch_stats
    check(config)
    if "encoder" not in params:
        raise UserError(
            f"The run in '{network.folder}' is of method '{config.method}', whose parameters "
            f"{sorted(params)} have no 'encoder'. Type another --workdir."
        )
    model = detectron2_model(params["encoder"], batch_stats["encoder"])
    content = {"model": model, "__author__": "jssl", "matching_heuristics": True}
    recipe_path = output.with_suffix(".md")
    _write(output, _pickled(content))
    _write(recipe_path, recipe(config, output.name, len(model), network.about).encode())
    return [output, recipe_path]


def check(config: Any) -> None:
    """Raises UserError for a network that detectron2 lacks."""
    model = config.model
    if channels_of(config) != 3:
        raise UserError(
            "--format=detectron2 is for pictures of three channels, found data.channels="
            f"{channels_of(config)}. Type --format=safetensors or --format=onnx."
        )
    if model.name not in NETS:
        raise UserError(f"Detectron2 has no '{model.name}': {nearest(model.name, NETS)}.")
    basic = not DEPTHS[model.name][0]
    expected = {
        "stem": ("imagenet",),
        "norm": ("bn",),
        "sobel": (False,),
        "stage_sizes": ((),),
        "stem_width_fixed": (False, True),
        # Detectron2's basic block has no projection if the shape is unchanged.
        "shortcut": ("when_needed",) if basic else ("when_needed", "always"),
    }
    for key, values in expected.items():
        value = tuple(model[key]) if key == "stage_sizes" else model[key]
        if value not in values:
            raise UserError(
                f"Detectron2's {model.name} has another form: found model.{key}={value!r}, "
                f"expected {values[0]!r}. Export a run with --config.model.{key}={values[0]!r}."
            )


def recipe(config: Any, file: str, tensors: int, weights: str = "") -> str:
    """Returns MoCo's detection recipe for this network, in Markdown.

    Args:
        config: of the run.
        file: name of the .pkl.
        tensors: its number of tensors.
        weights: which weights these are.
    """
    model = config.model
    basic, depth = not DEPTHS[model.name][0], int(model.name.removeprefix("resnet"))
    numbers = mean_and_std(statistics_of(config.augment))
    mean, std = ([round(255 * x, 3) for x in part] for part in numbers)
    stem = 64 if model.stem_width_fixed else round(64 * model.width)
    notes = [
        f"* Of the run: method {config.method}, data {config.data.name}, images of "
        f"{config.augment.size} px normalised as '{in_words(config.augment)}', which is where "
        "PIXEL_MEAN and PIXEL_STD come from; channels RGB; the stride is in the 3x3 convolution.",
    ]
    if weights:
        notes.append(f"* Weights: {weights}.")
    if "same" in (model.padding, model.pool_padding):
        notes.append(
            "* It was trained with TensorFlow's padding (model.padding or pool_padding 'same'), "
            "detectron2 pads evenly: maps are shifted by up to a pixel at each strided layer."
        )
    if model.bn_epsilon != 1e-5:
        notes.append(f"* Its batch normalisation has epsilon {model.bn_epsilon:g}, not 1e-5.")
    if basic:
        notes.append("* Res5ROIHeads has bottleneck blocks: with this net take an FPN model.")
    return f"""# {file}: {model.name} for detectron2

{tensors} tensors under detectron2's names: `{{"model": ..., "__author__": "jssl",
"matching_heuristics": True}}`, arrays of numpy. Detectron2 has no TPU or JAX path: fine-tuning runs
there, on GPUs.

{chr(10).join(notes)}

## PASCAL VOC: Faster R-CNN, C4

As detection/ of https://github.com/facebookresearch/moco: train on 2007 and 2012 trainval, judged
on 2007 test by detectron2's evaluator of VOC 2007: its 11-point AP at ten thresholds of IoU, 0.5 to
0.95. AP is their mean, AP50 and AP75 those at 0.5 and 0.75; COCO's AP has 101 points and is another
number. The mean of five runs. `Res5ROIHeadsExtraNorm` is of
its `train_net.py`: one more batch normalisation after res5.

```yaml
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  WEIGHTS: "{file}"
  MASK_ON: False
  PIXEL_MEAN: {mean}
  PIXEL_STD: {std}
  RPN:
    PRE_NMS_TOPK_TEST: 6000
    POST_NMS_TOPK_TEST: 1000
  ROI_HEADS:
    NAME: "Res5ROIHeadsExtraNorm"
    NUM_CLASSES: 20
  BACKBONE:
    FREEZE_AT: 0
  RESNETS:
    DEPTH: {depth}
    NORM: "naiveSyncBN"
    STRIDE_IN_1X1: False
    STEM_OUT_CHANNELS: {stem}
    WIDTH_PER_GROUP: {round(64 * model.width)}
    RES2_OUT_CHANNELS: {round((64 if basic else 256) * model.width)}
INPUT:
  FORMAT: "RGB"
  MIN_SIZE_TRAIN: (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
  MIN_SIZE_TEST: 800
DATASETS:
  TRAIN: ("voc_2007_trainval", "voc_2012_trainval")
  TEST: ("voc_2007_test",)
TEST:
  PRECISE_BN:
    ENABLED: True
SOLVER:
  IMS_PER_BATCH: 16
  BASE_LR: 0.02
  STEPS: (18000, 22000)
  MAX_ITER: 24000
  WARMUP_ITERS: 100
```

Published with ResNet-50, AP50 / AP / AP75: supervised 81.3 / 53.5 / 58.8, MoCo v1 81.5 / 55.9 /
62.6, MoCo v2 (200 epochs) 82.4 / 57.0 / 63.6, MoCo v2 (800) 82.5 / 57.4 / 64.0.

## COCO

The same but `MASK_ON: True`, the default 80 classes, `coco_2017_train` and `coco_2017_val`,
`MIN_SIZE_TRAIN: (640, 672, 704, 736, 768, 800)`; 2x: `STEPS: (120000, 160000)`, `MAX_ITER: 180000`,
the default warm-up.
"""


class _Pickler(pickle.Pickler):
    """Pickles arrays readable by every version of numpy: numpy 2 has moved the functions of 1."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is np.ndarray:
            return np.ndarray, (value.shape, value.dtype.str, bytearray(value.tobytes()))
        return NotImplemented


def _pickled(content: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=4).dump(content)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    try:
        files.write_bytes(path, content)
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be written ({error.strerror}): expected a folder that exists and a "
            "disk with room. Type another --output."
        ) from error
