"""What each operation of jax is in ONNX: `RULES`, by the name of the primitive."""

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from jssl.convert.export.onnx_graph import Graph, Name, Rule, is_number
from jssl.errors import UserError

# Numbers of onnx.TensorProto.
TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10,
         "float64": 11, "uint32": 12, "bfloat16": 16}  # fmt: skip
_SAME = ("copy", "copy_p", "stop_gradient", "optimization_barrier")
_ELEMENTWISE = {
    "add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max",
    "min": "Min", "pow": "Pow", "lt": "Less", "le": "LessOrEqual", "gt": "Greater",
    "ge": "GreaterOrEqual", "eq": "Equal", "and": "And", "or": "Or", "not": "Not", "neg": "Neg",
    "exp": "Exp", "log": "Log", "tanh": "Tanh", "logistic": "Sigmoid", "sqrt": "Sqrt",
    "abs": "Abs", "erf": "Erf", "floor": "Floor", "sign": "Sign",
}  # fmt: skip


def _integers(values: Sequence[Any]) -> np.ndarray:
    return np.array([int(v) for v in values], np.int64)


def _reshape(graph: Graph, x: Any, shape: Sequence[Any]) -> Any:
    """Reshapes to dimensions of which at most one depends on the batch."""
    sizes = [d if is_number(d) else -1 for d in shape]
    if sizes.count(-1) > 1:
        raise UserError(f"The shape {tuple(shape)} depends on the batch twice: no ONNX is written.")
    return graph.add("Reshape", x, _integers(sizes))


def _transpose(graph: Graph, x: Any, order: Sequence[int]) -> Any:
    order = [int(i) for i in order]
    return x if order == sorted(order) else graph.add("Transpose", x, perm=order)


def _out(equation: Any) -> Any:
    return equation.outvars[0].aval


def _shape_only(graph: Graph, equation: Any, given: list[Any]) -> Any:
    return _reshape(graph, given[0], _out(equation).shape)


def _broadcast(graph: Graph, equation: Any, given: list[Any]) -> Any:
    shape, places = _out(equation).shape, equation.params["broadcast_dimensions"]
    sizes = equation.invars[0].aval.shape
    spread: list[Any] = [1] * len(shape)
    for place, size in zip(places, sizes, strict=True):
        spread[place] = size
    x = given[0] if len(sizes) == len(shape) else _reshape(graph, given[0], spread)
    if all(is_number(a) == is_number(b) and a == b for a, b in zip(spread, shape, strict=True)):
        return x
    return graph.add("Expand", x, _target(graph, shape))


def _target(graph: Graph, shape: Sequence[Any]) -> Any:
    """A shape as a value of the graph, with the batch's size where it stands."""
    if all(is_number(d) for d in shape):
        return _integers(shape)
    parts = []
    for d in shape:
        factor = d if is_number(d) else d // graph.symbol
        if not is_number(factor) or not (is_number(d) or factor * graph.symbol == d):
            raise UserError(f"The shape {tuple(shape)} is no multiple of the batch: no ONNX of it.")
        size = _integers([factor])
        parts.append(size if is_number(d) else graph.add("Mul", graph.batch, size))
    return graph.add("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]


def _dot(graph: Graph, equation: Any, given: list[Any]) -> Any:
    (left, right), (left_batch, right_batch) = equation.params["dimension_numbers"]
    a, b = (var.aval for var in equation.invars)
    if len(b.shape) == 2 and not left_batch and left == (len(a.shape) - 1,) and right == (0,):
        return graph.add("MatMul", *given)
    letters = iter(string.ascii_lowercase)
    first = [next(letters) for _ in a.shape]
    second = [next(letters) for _ in b.shape]
    for i, j in zip((*left, *left_batch), (*right, *right_batch), strict=True):
        second[j] = first[i]
    result = [first[i] for i in left_batch]
    result += [x for i, x in enumerate(first) if i not in (*left, *left_batch)]
    result += [x for i, x in enumerate(second) if i not in (*right, *right_batch)]
    equation_text = f"{''.join(first)},{''.join(second)}->{''.join(result)}"
    return graph.add("Einsum", *given, equation=equation_text)


def _conv(graph: Graph, equation: Any, given: list[Any]) -> Any:
    params = equation.params
    numbers, padding = params["dimension_numbers"], params["padding"]
    if any(d != 1 for d in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise UserError("A transposed convolution: jssl writes no ONNX of it.")
    x = _transpose(graph, given[0], numbers.lhs_spec)
    kernel = given[1]
    if isinstance(kernel, Name):
        kernel = _transpose(graph, kernel, numbers.rhs_spec)
    else:
        kernel = np.ascontiguousarray(np.transpose(kernel, numbers.rhs_spec))
    y = graph.add(
        "Conv",
        x,
        kernel,
        strides=list(params["window_strides"]),
        pads=[low for low, _ in padding] + [high for _, high in padding],
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )
    return _transpose(graph, y, np.argsort(numbers.out_spec).tolist())


def _max_pool(graph: Graph, equation: Any, given: list[Any]) -> Any:
    params = equation.params
    window, strides, padding = (
        params[k] for k in ("window_dimensions", "window_strides", "padding")
    )
    flat = window[0] == window[3] == strides[0] == strides[3] == 1 and len(window) == 4
    if not flat or any(d != 1 for d in (*params["base_dilation"], *params["window_dilation"])):
        raise UserError(f"A pooling over a window of {window}: jssl writes no ONNX of it.")
    x = _transpose(graph, given[0], (0, 3, 1, 2))
    y = graph.add(
        "MaxPool",
        x,
        kernel_shape=list(window[1:3]),
        strides=list(strides[1:3]),
        pads=[low for low, _ in padding[1:3]] + [high for _, high in padding[1:3]],
    )
    return _transpose(graph, y, (0, 2, 3, 1))


def _reduce(operator: str) -> Rule:
    def rule(graph: Graph, equation: Any, given: list[Any]) -> Any:
        axes = _integers(equation.params["axes"])
        return graph.add(operator, given[0], axes, keepdims=0)

    return rule


def _slice(graph: Graph, equation: Any, given: list[Any]) -> Any:
    params, sizes = equation.params, equation.invars[0].aval.shape
    steps = params["strides"] or (1,) * len(sizes)
    rows = [
        (axis, low, high, step)
        for axis, (low, high, step, size) in enumerate(
            zip(params["start_indices"], params["limit_indices"], steps, sizes, strict=True)
        )
        if not (step == 1 and is_number(low) and low == 0 and str(high) == str(size))
    ]
    if not rows:
        return given[0]
    axes, low, high, step = map(_integers, zip(*rows, strict=True))
    return graph.add("Slice", given[0], low, high, axes, step)


def _gather(graph: Graph, equation: Any, given: list[Any]) -> Any:
    """A look-up at constant places: `x[:, 0]` as jax traces it with a symbol, or `x[:, rows]`."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    axes, places = numbers.start_index_map, given[1]
    if isinstance(places, Name) or numbers.operand_batching_dims:
        raise UserError("A look-up at places that the network computes: jssl writes no ONNX of it.")
    places = np.asarray(places, np.int64)
    if places.ndim == 1:
        high = places + _integers([sizes[axis] for axis in axes])
        x = graph.add("Slice", given[0], places, high, _integers(axes))
        return _reshape(graph, x, _out(equation).shape)
    first, shape = axes[0], equation.invars[0].aval.shape
    count = places.ndim - 1
    offsets = [i if i < first else i + count for i in range(len(shape) - len(axes))]
    adjacent = axes == numbers.collapsed_slice_dims == tuple(range(first, first + len(axes)))
    if not adjacent or list(numbers.offset_dims) != offsets:
        raise UserError(f"A look-up with {numbers}: jssl writes no ONNX of it.")
    looked_up = [shape[axis] for axis in axes]
    x = _reshape(graph, given[0], [*shape[:first], int(np.prod(looked_up)), *shape[axes[-1] + 1 :]])
    flat = np.ravel_multi_index(tuple(np.moveaxis(places, -1, 0)), looked_up)
    return graph.add("Gather", x, flat.astype(np.int64), axis=first)


def _split(graph: Graph, equation: Any, given: list[Any]) -> Any:
    sizes, axis = equation.params["sizes"], equation.params["axis"]
    results = graph.add("Split", given[0], _integers(sizes), axis=axis, outputs=len(sizes))
    return results if len(sizes) > 1 else [results]


def _pad(graph: Graph, equation: Any, given: list[Any]) -> Any:
    config = equation.params["padding_config"]
    if any(inside for _, _, inside in config):
        raise UserError("Padding between values: jssl writes no ONNX of it.")
    amounts = [low for low, _, _ in config] + [high for _, high, _ in config]
    return graph.add("Pad", given[0], _integers(amounts), given[1], mode="constant")


def _cast(graph: Graph, equation: Any, given: list[Any]) -> Any:
    old, new = equation.invars[0].aval.dtype, np.dtype(equation.params["new_dtype"])
    return given[0] if old == new else graph.add("Cast", given[0], to=TYPES[new.name])


def _stack(graph: Graph, equation: Any, given: list[Any]) -> Any:
    axis = equation.params["axis"]
    shape = list(_out(equation).shape)
    shape[axis] = 1
    return graph.add("Concat", *(_reshape(graph, x, shape) for x in given), axis=axis)


def _arg_max(graph: Graph, equation: Any, given: list[Any]) -> Any:
    (axis,) = equation.params["axes"]
    index = graph.add("ArgMax", given[0], axis=axis, keepdims=0)
    return graph.add("Cast", index, to=TYPES[np.dtype(equation.params["index_dtype"]).name])


def _cube_root(graph: Graph, equation: Any, given: list[Any]) -> Any:
    size = graph.add("Pow", graph.add("Abs", given[0]), np.float32(1 / 3))
    return graph.add("Mul", graph.add("Sign", given[0]), size)


def _power(graph: Graph, equation: Any, given: list[Any]) -> Any:
    return graph.add("Pow", given[0], np.array(equation.params["y"], np.float32))


def _elementwise(operator: str) -> Rule:
    return lambda graph, equation, given: graph.add(operator, *given)


def _same(graph: Graph, equation: Any, given: list[Any]) -> Any:
    return list(given)


RULES: dict[str, Rule] = {
    **{name: _same for name in _SAME},
    **{name: _elementwise(operator) for name, operator in _ELEMENTWISE.items()},
    "square": lambda graph, equation, given: graph.add("Mul", given[0], given[0]),
    "integer_pow": _power,
    "rsqrt": lambda graph, equation, given: graph.add("Reciprocal", graph.add("Sqrt", given[0])),
    "erfc": lambda graph, equation, given: graph.add(
        "Sub", np.float32(1), graph.add("Erf", given[0])
    ),
    "clamp": lambda graph, equation, given: graph.add(
        "Min", graph.add("Max", given[1], given[0]), given[2]
    ),
    "select_n": lambda graph, equation, given: graph.add("Where", given[0], given[2], given[1]),
    "convert_element_type": _cast,
    "reshape": _shape_only,
    "squeeze": _shape_only,
    "expand_dims": _shape_only,
    "transpose": lambda graph, equation, given: _transpose(
        graph, given[0], equation.params["permutation"]
    ),
    "broadcast_in_dim": _broadcast,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "reduce_window_max": _max_pool,
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "slice": _slice,
    "split": _split,
    "stack": _stack,
    "argmax": _arg_max,
    "cbrt": _cube_root,
    "gather": _gather,
    "concatenate": lambda graph, equation, given: graph.add(
        "Concat", *given, axis=equation.params["dimension"]
    ),
    "pad": _pad,
}
