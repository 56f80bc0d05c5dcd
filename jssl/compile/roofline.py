"""Roofline estimate of the step time, under stated assumptions; never a measurement."""

from typing import Any

from jssl.compile.hardware import CHIPS, Topology, latency, link_bandwidth
from jssl.compile.hlo import Collective

ASSUMPTIONS = (
    "every FLOP at the chip's peak",
    "every byte of memory at its full bandwidth",
    "every collective's payload at the full bandwidth of the slice's links, by an algorithm that "
    "sends the least; half the links of an axis whose ends are not joined",
    "every collective waits for its hops in addition, one after the other, over all devices",
    "arithmetic and memory traffic overlap wholly, collectives with neither",
    "the host and the network of the data centre are never waited for",
)


def estimate(
    topology: Topology,
    *,
    dtype: str,
    flops: float,
    bytes_accessed: float,
    collectives: dict[str, Collective],
    global_batch: int,
    steps: int,
) -> dict[str, Any]:
    """Estimates the step time with the roofline model, and the time of the run.

    step time = max(flops / peak, bytes / bandwidth) + payload / link + latencies

    Args:
        topology: chip and shape.
        dtype: of the products, 'bfloat16' or 'float32'.
        flops, bytes_accessed: of one device in one step.
        collectives: of one device in one step.
        global_batch: examples a step.
        steps: of the whole run.

    Returns:
        Seconds of each part and of the step, the part that bounds it, images/s and hours.

    Example:
        >>> from jssl.compile.hardware import parse_topology
        >>> r = estimate(parse_topology('v5e:4x8'), dtype='bfloat16', flops=197e12,
        ...              bytes_accessed=819e8, collectives={}, global_batch=64, steps=3600)
        >>> r['step_seconds'], r['bound'], r['images_per_second'], r['run_hours']
        (1.0, 'arithmetic', 64.0, 1.0)
    """
    peak, shape = CHIPS[topology.chip], topology.shape
    link = link_bandwidth(topology.chip, shape)
    waits = {kind: c.count * latency(topology.chip, shape, kind) for kind, c in collectives.items()}
    parts = {
        "arithmetic": flops / peak.flops[dtype],
        "memory": bytes_accessed / peak.bandwidth,
        "interconnect": sum(c.payload for c in collectives.values()) / link,
        "latency": float(sum(waits.values())),
    }
    overlapped = max(parts["arithmetic"], parts["memory"])
    step = overlapped + parts["interconnect"] + parts["latency"]
    return {
        "kind": "estimate, not a measurement",
        "assumptions": [*ASSUMPTIONS, peak.note],
        "peak_flops": peak.flops[dtype],
        "hbm_bandwidth": peak.bandwidth,
        "link_bandwidth": link,
        "source": peak.source,
        "seconds": parts,
        "bound": max(parts, key=lambda part: parts[part]),
        "step_seconds": step,
        "images_per_second": global_batch / step if step else 0.0,
        "run_steps": steps,
        "run_hours": steps * step / 3600,
    }


def memory(chip: str, stats: Any) -> dict[str, Any]:
    """Returns the bytes on a device: arguments, outputs, temporaries, aliased outputs, code.

    Args:
        chip: key of `CHIPS`.
        stats: `compiled.memory_analysis()`.

    Returns:
        The parts, their `total` (arguments + outputs - alias + temporaries + code), `usable`
        and `hbm`; `fits`, and `spare` bytes, negative if it does not fit.
    """
    parts = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "alias": stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    return judge(chip, sum(parts.values()) - 2 * parts["alias"], parts)


def judge(chip: str, total: int, parts: dict[str, int]) -> dict[str, Any]:
    """Returns the parts with whether `total` bytes fit on the chip."""
    spare = CHIPS[chip].usable - total
    return {
        **parts,
        "total": total,
        "hbm": CHIPS[chip].hbm,
        "usable": CHIPS[chip].usable,
        "fits": spare >= 0,
        "spare": spare,
    }
