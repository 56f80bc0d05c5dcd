"""Converts a jaxpr to a graph of ONNX: constants are folded, calls are inlined.

What one operation becomes is in `onnx_operations`. The package jax2onnx does the same for more of
jax, but asks for an orbax-checkpoint below 0.11.37, and jssl for a newer one. The graph has one
dimension of any size, the batch; in jax it is a symbol, and every other dimension is a number.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jssl.errors import UserError

OPSET = 18
IR_VERSION = 9  # older runtimes refuse newer ones
# A primitive that is inlined -> its parameter with the jaxpr.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


class Name(str):
    """The name of a value that is known only when the graph runs."""


class Graph:
    """The nodes and constants of a graph while it is built.

    Attributes:
        nodes: `(operator, inputs, outputs, attributes)`, in order.
        constants: name -> array.
        symbol: the size of the batch in jax.
        batch: the same as a value of the graph, int64 [1].
    """

    def __init__(self, images: str, symbol: Any) -> None:
        self.symbol = symbol
        self.nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = []
        self.constants: dict[str, np.ndarray] = {}
        self._names: dict[tuple[int, str], str] = {}
        self._kept: list[Any] = []  # so that no id is used twice
        self._count = 0
        shape = self.add("Shape", Name(images))
        self.batch = self.add("Slice", shape, *(np.array([i], np.int64) for i in (0, 1, 0)))

    def new(self, kind: str) -> Name:
        """A name that is not used yet."""
        self._count += 1
        return Name(f"{kind}_{self._count}")

    def name(self, value: Any) -> str:
        """The name of a value; an array becomes a constant of the graph."""
        if isinstance(value, Name):
            return value
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        if array.size <= 16:
            key = (0, f"{array.dtype}{array.shape}{array.tolist()}")
        else:
            key = (id(value), "")
            self._kept.append(value)
        if key not in self._names:
            self._names[key] = self.new("constant")
            self.constants[self._names[key]] = array
        return self._names[key]

    def add(self, operator: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node.

        Args:
            operator: of ONNX.
            *inputs: names, or arrays.
            outputs: their number.
            **attributes: of the operator.

        Returns:
            The name of the output, or a list of them.
        """
        names = [self.new(operator.lower()) for _ in range(outputs)]
        self.nodes.append((operator, [self.name(x) for x in inputs], list(names), attributes))
        return names[0] if outputs == 1 else names

    def prune(self, outputs: Sequence[Any]) -> None:
        """Removes the nodes and constants that no output depends on."""
        needed = {self.name(x) for x in outputs}
        kept = []
        for node in reversed(self.nodes):
            if needed & set(node[2]):
                kept.append(node)
                needed |= set(node[1])
        self.nodes = kept[::-1]
        self.constants = {name: x for name, x in self.constants.items() if name in needed}


Rule = Callable[[Graph, Any, list[Any]], Any]


def is_number(dimension: Any) -> bool:
    """Whether a dimension is a number, not the batch's."""
    return isinstance(dimension, (int, np.integer))


def convert(graph: Graph, closed: Any, inputs: Sequence[Any], rules: dict[str, Rule]) -> list[Any]:
    """Adds the operations of a closed jaxpr to a graph.

    Args:
        graph: in place.
        closed: the jaxpr with its constants.
        inputs: names or arrays, one for each of its inputs.
        rules: name of a primitive -> `(graph, equation, inputs) -> output or outputs`.

    Returns:
        A name or array for each output.

    Raises:
        UserError: an operation without a rule.
    """
    jaxpr, consts = closed.jaxpr, closed.consts
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))

    def read(var: Any) -> Any:
        return var.val if isinstance(var, core.Literal) else values[var]

    for equation in _needed(jaxpr):
        given = [read(var) for var in equation.invars]
        results = _one(graph, equation, given, rules)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _needed(jaxpr: Any) -> list[Any]:
    """The equations on which an output depends, in order."""
    needed = {var for var in jaxpr.outvars if not isinstance(var, core.Literal)}
    kept = []
    for equation in reversed(jaxpr.eqns):
        if needed & set(equation.outvars):
            kept.append(equation)
            needed |= {var for var in equation.invars if not isinstance(var, core.Literal)}
    return kept[::-1]


def _one(graph: Graph, equation: Any, given: list[Any], rules: dict[str, Rule]) -> list[Any]:
    name = equation.primitive.name
    if name in _CALLS:
        inner = equation.params[_CALLS[name]]
        closed = inner if hasattr(inner, "consts") else core.ClosedJaxpr(inner, ())
        return convert(graph, closed, given, rules)
    fixed = all(is_number(d) for var in equation.outvars for d in var.aval.shape)
    if fixed and not any(isinstance(value, Name) for value in given):
        return _folded(equation, given)
    if name not in rules:
        raise UserError(
            f"The network has the operation '{name}', which jssl does not write as ONNX. Type "
            "--format=safetensors or --format=timm."
        )
    results = rules[name](graph, equation, given)
    return results if isinstance(results, list) else [results]


def _folded(equation: Any, given: list[Any]) -> list[Any]:
    """The value of an operation on constants."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        results = equation.primitive.bind(*given, **equation.params)
    outputs = results if equation.primitive.multiple_results else [results]
    return [np.asarray(x) for x in outputs]
