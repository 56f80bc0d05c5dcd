"""Counts the FLOPs of a step from its jaxpr, for compilers that do not report them."""

import math
from typing import Any

import jax


def count(function: Any, *args: Any) -> int:
    """Counts the FLOPs of the matrix products and convolutions of a function, for one device.

    Two for each multiply-add; other operations (a few per cent of a network's step) are ignored.
    A scan's body counts once an iteration, a while loop's once, a conditional's largest branch.

    Args:
        function: of `args`; code mapped over devices is counted for one of them.
        *args: arrays or ShapeDtypeStructs.

    Example:
        >>> import jax.numpy as jnp
        >>> count(lambda a, b: a @ b, jnp.ones((2, 3)), jnp.ones((3, 5)))
        60
    """
    return _count_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def _count_jaxpr(jaxpr: Any) -> int:
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
            total += max(_count_jaxpr(branch.jaxpr) for branch in params["branches"])
        else:
            times = params.get("length", 1) if name == "scan" else 1
            total += times * sum(_count_jaxpr(body) for body in _sub_jaxprs(params))
    return total


def _convolution(eqn: Any) -> int:
    """Counts a multiply-add for each tap on a pixel, none on padding or a dilation hole."""
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


def _sub_jaxprs(params: dict[str, Any]) -> list[Any]:
    jaxprs = []
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                jaxprs.append(item)
    return jaxprs
