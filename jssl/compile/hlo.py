"""Reads collectives and bytes accessed from the HLO text of a compiled module."""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "token": 0, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b(pred|token|bf16|[fsuc]\d+[a-z0-9]*)\[([\d,<= ]*)\]")
_PLACED = re.compile(_ARRAY.pattern + r"(?:\{[^}]*\})?")  # with its layout
_LINE = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.$-]+) (?:\(.*)?\{$|^(ENTRY )?%?([\w.$-]+) \(.*-> .*\{$")
_CALLED = re.compile(r"\b(body|condition|calls|to_apply|true_computation|false_computation)=%?"
                     r"([\w.$-]+)")  # fmt: skip
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)"?\}')
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]*)\}|\[(\d+),(\d+)\])")
# These only name or re-arrange buffers and move no bytes.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
         "partition-id", "replica-id"}  # fmt: skip


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
        name: its identifier in later lines.
        shape: text of its type, a tuple's in parentheses.
        opcode: such as 'fusion'.
        rest: operands and attributes.
    """

    name: str
    shape: str
    opcode: str
    rest: str


@dataclasses.dataclass(frozen=True)
class Collective:
    """Totals of one kind of collective in a step.

    Attributes:
        count: how often it runs.
        bytes: total size of the reduced or gathered buffers on one device.
        payload: bytes that one device sends with an optimal algorithm: 2 (n-1)/n of the buffer
            for an all-reduce of n devices, (n-1)/n for all-gather, reduce-scatter and
            all-to-all, all of it for a permute.
    """

    count: int
    bytes: int
    payload: float


def shape_bytes(text: str) -> int:
    """Returns the bytes of a type; of a tuple, the sum of its parts.

    Example:
        >>> shape_bytes('(bf16[2,3]{1,0:T(8,128)}, f32[])')
        16
    """
    total = 0
    for kind, dims in _ARRAY.findall(text):
        digits = re.search(r"\d+", kind)
        bits = _BITS.get(kind) or (8 if kind.startswith("f8") else int(digits[0] if digits else 0))
        size = math.prod(int(d.strip("<= ")) for d in dims.split(",") if d.strip("<= "))
        total += -(-bits * size // 8)
    return total


def computations(text: str) -> tuple[str, dict[str, list[Instruction]]]:
    """Returns the entry computation's name, and the instructions of every computation."""
    entry, current = "", None
    comps: dict[str, list[Instruction]] = {}
    for line in text.splitlines():
        if line.startswith("}"):
            current = None
        elif current is None:
            head = _HEAD.match(line)
            if head and not line.startswith("HloModule"):
                current = head[2] or head[4]
                comps[current] = []
                if head[1] or head[3]:
                    entry = current
        elif match := _LINE.match(line):
            comps[current].append(_instruction(match[1], match[2]))
    return entry, comps


def _instruction(name: str, text: str) -> Instruction:
    depth = end = 0
    for end, letter in enumerate(text):  # noqa: B007 a tuple's type holds spaces
        depth += (letter in "([{") - (letter in ")]}")
        if letter == " " and depth == 0:
            break
    opcode, _, rest = text[end + 1 :].partition("(")
    return Instruction(name.lstrip("%"), text[:end], opcode.strip(), rest)


def _trips(line: Instruction, comps: dict[str, list[Instruction]]) -> int:
    """Returns a loop's trip count: from the compiler, or from the bound in its condition (the TPU
    compiler drops the count; `scan` counts from 0 by 1); 1 if neither is known."""
    if match := _TRIPS.search(line.rest):
        return int(match[1])
    called = dict(_CALLED.findall(line.rest))
    rows = comps.get(called.get("condition", ""), [])
    bounds = [re.match(r"(\d+)\)", r.rest) for r in rows if r.opcode == "constant"]
    counts = any(r.opcode == "compare" and "direction=LT" in r.rest for r in rows)
    return int(bounds[0][1]) if counts and len(bounds) == 1 and bounds[0] else 1


def _children(line: Instruction, comps: dict) -> Iterator[tuple[str, int]]:
    """Yields the computations that an instruction runs, and how often. Each branch of a
    conditional counts once: an upper bound."""
    times = _trips(line, comps) if line.opcode == "while" else 1
    for _, name in _CALLED.findall(line.rest):
        yield name, times
    if branches := _BRANCHES.search(line.rest):
        for name in branches[1].split(","):
            yield name.strip().lstrip("%"), 1


def _walk(name: str, times: int, comps: dict, inner: bool) -> Iterator[tuple[Instruction, int]]:
    for line in comps.get(name, ()):
        yield line, times
        if inner or line.opcode in ("while", "conditional", "call"):
            for child, again in _children(line, comps):
                yield from _walk(child, times * again, comps, inner)


def collectives(text: str) -> dict[str, Collective]:
    """Returns count, bytes and payload a step of each kind of collective in a compiled module.

    Args:
        text: `compiled.as_text()`. A loop body counts once a trip where the count is known; of
            an asynchronous pair only the start counts.

    Returns:
        kind -> `Collective`; only kinds that occur. A group of one device sends nothing.

    Example:
        >>> collectives('''ENTRY %main (p: f32[8]) -> f32[8] {
        ...   %p = f32[8]{0} parameter(0)
        ...   ROOT %r = f32[8]{0} all-reduce(%p), replica_groups={{0,1,2,3}}, to_apply=%add
        ... }''')
        {'all-reduce': Collective(count=1, bytes=32, payload=48.0)}
    """
    entry, comps = computations(text)
    devices = _devices(text)
    totals: dict[str, list[float]] = {}
    for line, times in _walk(entry, 1, comps, inner=True):
        kind = line.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        n, size = _group(line.rest, devices), _buffer(kind, line)
        share = (n - 1) / n if kind != "collective-permute" else 1.0
        share *= 2 if kind == "all-reduce" else 1
        if kind == "reduce-scatter":
            size *= n  # its result is a device's share
        row = totals.setdefault(kind, [0, 0, 0.0])
        for i, value in enumerate((1, size, size * share)):
            row[i] += times * value
    return {k: Collective(int(c), int(b), p) for k, (c, b, p) in sorted(totals.items())}


def _devices(text: str) -> int:
    head = text.split("\n", 1)[0]
    counts = [int(n) for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", head)]
    return math.prod(counts)


def _group(rest: str, devices: int) -> int:
    match = _GROUPS.search(rest)
    if match is None:
        return max(1, devices)
    return len(match[1].split(",")) if match[1] is not None else int(match[3])


def _buffer(kind: str, line: Instruction) -> int:
    """Returns the bytes of the result; some starts return (operands, results, flags)."""
    if not line.opcode.endswith("-start") or kind == "all-reduce":
        return shape_bytes(line.shape)
    parts = [shape_bytes(f"{k}[{d}]") for k, d in _ARRAY.findall(line.shape)]
    if kind == "collective-permute":
        return parts[0]
    return sum(parts[len(parts) // 2 :])


def touched_bytes(text: str) -> int:
    """Returns the bytes a module reads and writes in HBM: operands and results outside fusions.

    This counts every operand and result of each kernel once, with no cache between kernels: an
    upper bound of the memory traffic. What the TPU compiler has placed on the chip (memory space 1)
    does not count, only the copies to and from it. Compilers for GPUs report no bytes; that for
    TPUs reports what kernels touch in both memories.

    Example:
        >>> touched_bytes('''ENTRY %main (p: f32[8]) -> f32[8] {
        ...   %p = f32[8]{0} parameter(0)
        ...   %near = f32[8]{0:S(1)} fusion(%p), calls=%a
        ...   ROOT %far = f32[8]{0} fusion(%near), calls=%b
        ... }''')
        64
    """
    return sum(size for _, size in touched_by(text))


def touched_by(text: str) -> Iterator[tuple[Instruction, int]]:
    """Yields each kernel and the bytes that it touches in HBM in all its runs."""
    entry, comps = computations(text)
    sizes = {line.name: _hbm_bytes(line) for rows in comps.values() for line in rows}
    for line, times in _walk(entry, 1, comps, inner=False):
        if line.opcode in _FREE or line.opcode in ("while", "conditional", "call"):
            continue
        if line.opcode.endswith("-done"):
            continue
        operands = re.findall(r"%([\w.$-]+)", line.rest.partition(")")[0])
        read = sum(sizes.get(name, 0) for name in operands)
        if line.opcode in _SLICES:  # of its operand it reads what it returns
            read = min(read, shape_bytes(_destination(line)))
        yield line, times * (sizes[line.name] + read)


_SLICES = ("slice", "dynamic-slice", "slice-start", "dynamic-slice-start")


def _destination(line: Instruction) -> str:
    """Returns the type of a result; of an asynchronous copy or slice that of its destination."""
    arrays = [match[0] for match in _PLACED.finditer(line.shape)]
    if line.opcode == "copy-start":  # (destination, source, flags)
        return arrays[0]
    if line.opcode in _SLICES and line.opcode.endswith("-start"):  # ((source), destination, flags)
        return arrays[-2]
    return line.shape


def _hbm_bytes(line: Instruction) -> int:
    """Returns the bytes of a result that lie in HBM."""
    arrays = [match[0] for match in _PLACED.finditer(_destination(line))]
    return sum(shape_bytes(a) for a in arrays if "S(1)" not in a)
