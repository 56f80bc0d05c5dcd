"""`jssl compile`: compiles a run for absent hardware and reports memory, FLOPs and traffic."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import files
from jssl.compile import devices as devices_lib
from jssl.compile import lengths, roofline, search, step
from jssl.compile.hardware import CHIPS, GIB, Topology
from jssl.errors import NotWrittenError, UserError
from jssl.run import checks, versions
from jssl.run.writers import say


def fit(
    config: ConfigDict,
    *,
    name: str,
    topology: Topology,
    batch: str = "",
    examples: int = 0,
    teacher: ConfigDict | None = None,
    effort: float = 0.0,
    output: str | None = None,
) -> dict[str, Any]:
    """Compiles, prints and writes the record of a config on a topology.

    Args:
        config: the whole config.
        name: of the config in the record: file and switches.
        topology: from `devices.prepare`, which must come before any use of a device.
        batch: '' for the config's batch, a number of examples a device, or 'auto' for the largest
            that fits.
        examples: size of the train split, for absent data of unknown size; 0: from the data.
        teacher: config of the teacher of a distilled run, where its workdir is not here.
        effort: XLA's `exec_time_optimization_effort`, from -1 to 0, for TPUs. A run uses 0. With
            -1 a ResNet-50's step compiles in an eighth of the time, and its memory and bytes are
            some percent smaller than a run's (`launch/README.md`).
        output: the JSON file; by default `fit_NAME_TOPOLOGY.json` in the current folder.

    Returns:
        The record.

    Raises:
        UserError: a config that cannot be split over the topology, before compiling; data of
            unknown size; a batch that is neither a number nor 'auto'; no batch that fits; a
            teacher that is missing or not wanted; an effort out of range or not for a TPU.
    """
    checks.check(config)
    devices_lib.check_effort(effort, topology)
    default = f"fit_{_slug(name)}_{_slug(topology.text)}.json"
    path = files.check_output(output or default, ending="")
    devices = devices_lib.open_devices(topology)
    if batch not in ("", "auto") and not (batch.isdigit() and int(batch)):
        raise UserError(f"--batch={batch}: expected a number of examples a device, or auto.")

    def prepare() -> None:
        lengths.set_lengths(config, examples)
        step.set_other_runs(config, teacher)

    def compile_at(size: int) -> step.Compiled:
        config.batch_size = size * len(devices)
        prepare()
        say(f"compiling {name} for {topology.text}, {size} examples a device ...")
        return step.compile_step(config, topology, devices, effort=effort)

    if batch == "auto":
        compiled = _largest(compile_at, max(1, config.batch_size // len(devices)))
    elif batch:
        compiled = compile_at(int(batch))
    else:
        prepare()
        step.make(config, devices)  # refuses what cannot be split
        compiled = compile_at(config.batch_size // len(devices))
    result = record(config, name, topology, devices, compiled)
    if effort:
        result["effort"] = effort
    if batch == "auto":
        result["batch"]["auto"] = True
    print(report(result))
    try:
        files.write_json(path, result)
    except OSError as error:
        raise NotWrittenError([f"{path} ({error.strerror})"]) from None
    print(f"written to {path}")
    return result


def _largest(compile_at: Any, start: int) -> step.Compiled:
    tried: dict[int, step.Compiled] = {}

    def needed(size: int) -> tuple[int, int]:
        tried[size] = compile_at(size)
        memory = tried[size].memory
        say(f"  {size} a device: {memory['total'] / GIB:.2f} of {memory['usable'] / GIB:.2f} GiB")
        return memory["total"], memory["usable"]

    unit = 8 if start >= 8 else 1
    best = search.largest(needed, start=start, unit=unit)
    if best is None:
        raise UserError(f"Not even {unit} example(s) a device fit. A chip with more memory is "
                        "needed, or a smaller --config.augment.size.")  # fmt: skip
    if list(tried)[-1] != best:  # the config goes with the record
        return compile_at(best)
    return tried[best]


def record(
    config: ConfigDict, name: str, topology: Topology, devices: list[Any], compiled: step.Compiled
) -> dict[str, Any]:
    """Returns the record of a compiled step, as it is written to JSON."""
    chip, size = CHIPS[topology.chip], len(devices)
    result: dict[str, Any] = {
        "config": name,
        "method": config.method,
        "config_hash": config_lib.config_hash(config),
        "topology": topology.text,
        "chip": chip.label,
        "devices": size,
        "hosts": len({d.process_index for d in devices}),
        "launch": config.launch,
        "dtype": config.dtype,
        "batch": {"per_device": config.batch_size // size, "global": config.batch_size},
        "memory": compiled.memory,
        "compile_seconds": round(compiled.seconds, 1),
        "least": step.least_bytes(config, devices),
        "versions": versions.collect()["libraries"],
    }
    bytes_accessed = compiled.bytes_accessed
    if compiled.flops is None or bytes_accessed is None:
        return result
    return {
        **result,
        "flops": compiled.flops,
        "bytes_accessed": bytes_accessed,
        "intensity": compiled.flops / bytes_accessed if bytes_accessed else None,
        "collectives": {k: dataclasses.asdict(c) for k, c in compiled.collectives.items()},
        "roofline": roofline.estimate(
            topology,
            dtype=config.dtype,
            flops=compiled.flops,
            bytes_accessed=bytes_accessed,
            collectives=compiled.collectives,
            global_batch=config.batch_size,
            steps=config.run.total_steps,
        ),
    }


def report(result: dict[str, Any]) -> str:
    """Formats a record for the terminal."""
    memory, batch = result["memory"], result["batch"]
    parts = ("arguments", "temporaries", "outputs", "alias", "code")
    listed = ", ".join(f"{k} {memory[k] / GIB:.2f}" for k in parts if k in memory)
    verdict = (
        f"FITS, {memory['spare'] / GIB:.2f} GiB to spare"
        if memory["fits"]
        else f"DOES NOT FIT, {-memory['spare'] / GIB:.2f} GiB too much"
    )
    lines = [
        f"{result['config']} on {result['topology']}: {result['devices']} devices "
        f"({result['chip']}) in {result['hosts']} host(s), {result['launch']}, {result['dtype']}",
        f"batch         {batch['per_device']} a device, {batch['global']} in all",
        f"memory        {memory['total'] / GIB:.2f} GiB a device of {memory['usable'] / GIB:.2f} "
        f"usable ({memory['hbm'] / GIB:.2f} HBM): {verdict}",
    ]
    if listed:
        lines.append(f"              {listed} GiB")
    if "flops" in result:
        lines += _costs(result)
    effort = f" with effort {result['effort']:g}; a run has 0" if "effort" in result else ""
    lines.append(f"compile time  {result['compile_seconds']:.0f} s{effort}")
    return "\n".join(lines)


def _costs(result: dict[str, Any]) -> list[str]:
    roof = result["roofline"]
    seconds = ", ".join(f"{k} {1e3 * v:.2f} ms" for k, v in roof["seconds"].items())
    lines = [
        f"arithmetic    {result['flops'] / 1e12:.3f} TFLOP and "
        f"{result['bytes_accessed'] / 1e9:.2f} GB a device a step, "
        f"{result['intensity']:.1f} FLOP/byte",
    ]
    for kind, c in result["collectives"].items():
        lines.append(
            f"{kind:<13} {c['count']} a step, {c['bytes'] / 1e6:.3f} MB, "
            f"{c['payload'] / 1e6:.3f} MB sent by a device"
        )
    if not result["collectives"]:
        lines.append("collectives   none")
    lines += [
        f"gradients     {result['least']['gradient_bytes'] / 1e6:.3f} MB, once",
        f"ESTIMATE      {1e3 * roof['step_seconds']:.2f} ms a step ({seconds}; bound by "
        f"{roof['bound']}), {roof['images_per_second']:,.0f} images/s, "
        f"{roof['run_hours']:.2f} h for {roof['run_steps']:,} steps",
        f"  input       {roof['images_per_second'] / result['hosts']:,.0f} images/s on each of "
        f"{result['hosts']} host(s), to be read and decoded",
        f"  peaks       {roof['peak_flops'] / 1e12:g} TFLOP/s, {roof['hbm_bandwidth'] / 1e9:g} "
        f"GB/s memory, {roof['link_bandwidth'] / 1e9:g} GB/s links: {roof['source']}",
        *(f"  assumed     {line}" for line in roof["assumptions"]),
    ]
    return lines


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "=_" else "_" for c in text).strip("_")


def load(folder: str | Path) -> list[dict[str, Any]]:
    """Returns the records of this command in a folder, sorted by file name."""
    result = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    return [record for record in result if "topology" in record]
