"""Counts the FLOPs of a step from its jaxpr, where a compiler does not tell them."""

import math
from typing import Any

import jax


def count(function: Any, *args: Any) -> int:
    """FLOPs of the matrix products and convolutions of a function, for one device.

    Two for each multiply-add; the rest (a few per cent of a network's step) is left out. A scan's
    body counts as often as it runs, a while loop's once, of a conditional the dearest branch.

    Args:
        function: of `args`; what it maps over devices is counted for one of them.
        *args: arrays or ShapeDtypeStructs.

    Example:
        >>> import jax.numpy as jnp
        >>> count(lambda a, b: a @ b, jnp.ones((2, 3)), jnp.ones((3, 5)))
        60
    """
    return _of(jax.make_jaxpr(function)(*args).jaxpr)


def _of(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            (contract, _), _ = params["dimension_numbers"]
            lhs = eqn.invars[0].aval.shape
            depth = math.prod(lhs[i] for i in contract)
            total += 2 * depth * math.prod(eqn.outvars[0].aval.shape)
        elif name == "conv_general_dilated":
            total += _convolution(eqn)
        elif name == "cond":
            total += max(_of(branch.jaxpr) for branch in params["branches"])
        else:
            times = params.get("length", 1) if name == "scan" else 1
            total += times * sum(_of(inner) for inner in _inner(params))
    return total


def _convolution(eqn: Any) -> int:
    """Each tap that meets a picture, not padding or a hole of dilation, is a multiply-add."""
    p = eqn.params
    numbers, lhs, rhs = p["dimension_numbers"], *(v.aval.shape for v in eqn.invars[:2])
    out = eqn.outvars[0].aval.shape
    taps = 1
    for i, axis in enumerate(numbers.lhs_spec[2:]):
        size, kernel = lhs[axis], rhs[numbers.rhs_spec[2 + i]]
        result = out[numbers.out_spec[2 + i]]
        low, stride = p["padding"][i][0], p["window_strides"][i]
        hole, gap = p["lhs_dilation"][i], p["rhs_dilation"][i]
        places = (o * stride + k * gap - low for o in range(result) for k in range(kernel))
        taps *= sum(0 <= x <= (size - 1) * hole and x % hole == 0 for x in places)
    depth = rhs[numbers.rhs_spec[1]]  # input channels of one feature group
    images = lhs[numbers.lhs_spec[0]] // p["batch_group_count"]
    return 2 * taps * images * out[numbers.out_spec[1]] * depth


def _inner(params: dict[str, Any]) -> list[Any]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                found.append(item)
    return found
