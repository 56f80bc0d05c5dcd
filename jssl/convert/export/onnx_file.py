"""Exports a network with its preprocessing as ONNX: pictures in, features and logits out."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jssl import files
from jssl.convert.export import writing
from jssl.convert.export.card import card
from jssl.convert.export.onnx_graph import IR_VERSION, OPSET, Graph, Name, convert
from jssl.convert.export.onnx_operations import RULES, TYPES
from jssl.convert.network import Network
from jssl.errors import UserError, nearest
from jssl.methods._common import channels_of
from jssl.models.conv import plain_convolutions
from jssl.run import build

PIXELS = {"uint8": jnp.uint8, "float32": jnp.float32}
IMAGES, OUTPUTS, BATCH = "images", ("features", "logits"), "batch"
MAX_BYTES = 2**31 - 1  # of a protocol buffer


def traced(network: Network, pixels: str) -> tuple[Any, list[str]]:
    """The jaxpr of a network on a batch of any size, and the names of its outputs.

    It computes in float32, whatever the run did.
    """
    config = network.config.copy_and_resolve_references()
    config.dtype = "float32"
    method, _ = build.make_method(config, axis_name=None)
    names: list[str] = []

    def outputs(images: Any) -> list[Any]:
        features, named = method.embed(network.state, images)
        by_name = {"features": features, "logits": named.get("logits")}
        names[:] = [name for name in OUTPUTS if by_name[name] is not None]
        return [by_name[name] for name in names]

    (batch,) = jax.export.symbolic_shape("b")
    size = config.augment.size
    images = jax.ShapeDtypeStruct((batch, size, size, channels_of(config)), PIXELS[pixels])
    with plain_convolutions():
        return jax.make_jaxpr(outputs)(images), names


def make_graph(closed: Any) -> tuple[Graph, list[Any]]:
    """The graph of a jaxpr with one input, and the names of its outputs in it."""
    graph = Graph(IMAGES, closed.in_avals[0].shape[0])
    outputs = convert(graph, closed, [Name(IMAGES)], RULES)
    graph.prune(outputs)
    return graph, outputs


def onnx_bytes(network: Network, pixels: str) -> tuple[bytes, dict[str, np.ndarray]]:
    """The content of an ONNX file, and the constants in it.

    Raises:
        UserError: onnx is not installed; an operation that jssl does not write; a file of 2 GB.
    """
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ImportError:
        raise UserError(
            "An ONNX file is written with the package onnx, which is not installed: type pip "
            "install 'jssl[onnx]', or --format=safetensors."
        ) from None
    closed, names = traced(network, pixels)
    graph, outputs = make_graph(closed)
    total = sum(x.nbytes for x in graph.constants.values())
    if total > MAX_BYTES:
        raise UserError(
            f"The weights have {total:,} bytes, and an ONNX file holds {MAX_BYTES:,}. Type "
            "--format=safetensors."
        )
    # Each has a name: older runtimes fuse two nodes without into two of one name.
    nodes = [
        helper.make_node(op, a, b, name=f"node_{b[0]}", **attributes)
        for op, a, b, attributes in graph.nodes
    ]
    for name, output in zip(names, outputs, strict=True):
        nodes.append(helper.make_node("Identity", [graph.name(output)], [name]))
    size = network.config.augment.size
    given = helper.make_tensor_value_info(
        IMAGES, TYPES[pixels], [BATCH, size, size, channels_of(network.config)]
    )
    results = [
        helper.make_tensor_value_info(name, TYPES["float32"], [BATCH, *aval.shape[1:]])
        for name, aval in zip(names, closed.out_avals, strict=True)
    ]
    constants = [numpy_helper.from_array(x, name) for name, x in graph.constants.items()]
    made = helper.make_graph(nodes, network.config.model.name, [given], results, constants)
    model = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="jssl",
    )
    onnx.checker.check_model(model)
    return model.SerializeToString(), graph.constants


def export_onnx(network: Network, output: str | Path, pixels: str = "uint8") -> list[Path]:
    """Writes an ONNX file, weights and preprocessing in the graph, and its card.

    Args:
        network: of the run; of any method.
        output: ends with .onnx.
        pixels: type of the input, 'uint8' (0 to 255) or 'float32' (in [0, 1]).

    Returns:
        The paths of the file and of the card.

    Raises:
        UserError: another ending or type, an unwritable folder, or as `onnx_bytes`.
    """
    path = files.check_output(output, ending=".onnx")
    if pixels not in PIXELS:
        raise UserError(f"Unknown --pixels={pixels}: {nearest(pixels, PIXELS)}.")
    content, constants = onnx_bytes(network, pixels)
    size, channels = network.config.augment.size, channels_of(network.config)
    use = f"""
import onnxruntime
net = onnxruntime.InferenceSession("{path.name}")
features = net.run(["features"], {{"{IMAGES}": pictures}})[0]
"""
    notes = [
        f"input: {IMAGES} {pixels} [batch,{size},{size},{channels}], resized and cropped as below; "
        "the division by 255, the mean and the deviation are in the graph"
        if pixels == "uint8"
        else f"input: {IMAGES} float32 [batch,{size},{size},{channels}] in [0, 1], resized and "
        "cropped as below; the mean and the deviation are in the graph",
        f"ONNX opset {OPSET}; it computes in float32",
    ]
    text = card(network, path.name, constants, use=use, notes=notes)
    return writing.write_file(path, content, text)
