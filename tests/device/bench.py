"""Part `bench` of the check of one GPU: the steps of the paper nets, timed.

An image is one of the batch, of which a method may have several views. The batch lies on the
device, so that neither reading nor decoding is timed.
"""

import concurrent.futures
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.bench_bytes import plain_training
from helpers import get_config

from jssl import methods
from jssl.compile import flops as flops_lib
from jssl.compile import hlo, lengths, roofline
from jssl.compile import step as step_lib
from jssl.compile.hardware import CHIPS, parse_topology
from jssl.run import versions

# The paper nets in order of value: (name, config, updates). Those of a group compile side by side.
NETS = (
    (("flax_resnet50_supervised", "", {}),
     ("simclr", "simclr_imagenet", {}),
     ("moco_v3", "moco_imagenet:preset=v3_vit,arch=vit_base", {}),
     ("byol", "byol_imagenet", {})),
    (("supervised", "supervised_imagenet", {}),
     ("moco", "moco_imagenet", {}),
     ("deit", "deit_imagenet:model=base", {"deit.mix_groups": 1}),
     ("vicreg", "vicreg_imagenet", {})),
    (("beit", "beit_imagenet", {}),
     ("deepcluster_v2", "deepcluster_v2_imagenet", {}),
     ("cmc", "cmc_imagenet", {"model.bn_groups": 1}),
     ("cpc", "cpc_imagenet", {})),
    (("noisy_student", "noisy_student_imagenet", {}),
     ("deepcluster", "deepcluster_imagenet", {}),
     ("dvae", "dvae_imagenet", {}),
     ("fcn", "fcn_voc", {}),
     ("faster_rcnn", "faster_rcnn_voc", {})),
)  # fmt: skip
BATCHES = (256, 128, 64, 32, 16, 8)
# Of nets with large pictures or many patches: larger ones are not compiled in vain.
MOST = {"cpc": 64, "dvae": 128, "fcn": 64, "faster_rcnn": 16}


def memory():
    """Bytes of the device that JAX may use, and the most that this process has used so far."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return {"limit_bytes": stats.get("bytes_limit"), "peak_bytes": stats.get("peak_bytes_in_use")}


def send_row(send, name, make, *args):
    """Sends a row, or the error that making it gave."""
    try:
        row = make(*args)
    except Exception as error:  # whatever breaks is what the record is for
        text = versions.without_folders(str(error)[:600])
        row = {"error": f"{type(error).__name__}: {text}"}
    send({"row": {"name": name, **row, **memory()}})


def flax_step(batch, small):
    """Returns the supervised step of a plain Flax ResNet-50, and its arguments' shapes."""
    side = 32 if small else 224
    init, step = plain_training(side)
    images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.bfloat16)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return jax.jit(step, donate_argnums=0), (jax.eval_shape(init), images, labels)


def method_step(config, batch):
    """Returns the step of a config on one device, and its arguments' shapes."""
    config.batch_size, config.launch = batch, "jit"
    section = config[config.method]
    if section.get("num_classes") == 0:
        section.num_classes = 20 if methods.get(config.method).data.dense else 1000
    lengths.set_lengths(config, 1_281_167)
    _, step, arguments = step_lib.make(config, jax.devices()[:1])
    return step, arguments


def filled(shapes):
    """Arrays of such shapes: weights and pixels are noise, as zeros would draw less power."""
    rng = np.random.default_rng(0)

    def one(path, x):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if x.dtype == jnp.uint8:
            return rng.integers(0, 256, x.shape, np.uint8)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return np.zeros(x.shape, x.dtype)
        if len(x.shape) < 2:
            return np.ones(x.shape, x.dtype)
        noise = 0.02 * rng.standard_normal(x.shape, np.float32)
        if "opt_state" in jax.tree_util.keystr(path):  # second moments have a root
            noise = np.abs(noise)
        return noise.astype(x.dtype)

    return jax.device_put(jax.tree_util.tree_map_with_path(one, shapes), jax.devices()[0])


def chip():
    """The key of this device in the table of hardware, or None."""
    kind = jax.devices()[0].device_kind.lower()
    return next((name for name in CHIPS if name in kind), None)


def compile_largest(name, config, updates, small):
    """Compiles the step with the largest batch that fits, and returns (batch, step, ...)."""
    limit, skipped = memory()["limit_bytes"], []
    batches = [batch for batch in BATCHES if batch <= MOST.get(name, max(BATCHES))]
    for batch in (4,) if small else batches:
        if config is None:
            step, arguments = flax_step(batch, small)
        else:
            batch_config = config.copy_and_resolve_references()
            batch_config.update_from_flattened_dict(updates)
            if not small:
                batch_config.dtype = "bfloat16"  # whatever the paper's
            step, arguments = method_step(batch_config, batch)
        started = time.monotonic()
        module = step.lower(*arguments).compile()
        stats = module.memory_analysis()
        total = (stats.argument_size_in_bytes + stats.output_size_in_bytes
                 + stats.temp_size_in_bytes - stats.alias_size_in_bytes)  # fmt: skip
        if limit and total > 0.95 * limit:
            skipped.append(batch)
            continue
        row = {
            "batch": batch,
            "too_large": skipped,
            "dtype": "bfloat16" if config is None else batch_config.dtype,
            "program_bytes": total,
            "compile_seconds": round(time.monotonic() - started, 1),
        }
        return row, step, module, arguments
    raise MemoryError(f"{name} fits with none of the batches {batches}.")


def timed(row, step, module, arguments):
    """Times a compiled step, and sets it beside the roofline."""
    state, *rest = map(filled, arguments)
    seconds = []
    while len(seconds) < 3 or (len(seconds) < 22 and sum(seconds) < 4):
        started = time.perf_counter()
        state, metrics = module(state, *rest)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - started)
    median = float(np.median(seconds[2:]))  # two warm up
    flops = flops_lib.count(step, *arguments)
    accessed = hlo.touched_bytes(module.as_text())
    row |= {
        "steps": len(seconds),
        "step_ms": 1e3 * median,
        "images_per_second": row["batch"] / median,
        "loss": float(metrics["loss"]),  # of made-up weights
        "teraflop": flops / 1e12,
        "gigabytes": accessed / 1e9,  # an upper bound: operands and results of all kernels
        "gigabytes_an_image": accessed / 1e9 / row["batch"],
    }
    if chip() is None:
        return row
    estimate = roofline.estimate(
        parse_topology(f"{chip()}:1"),
        dtype=row["dtype"],
        flops=flops,
        bytes_accessed=accessed,
        collectives={},
        global_batch=row["batch"],
        steps=1,
    )
    return row | {
        "roofline_ms": 1e3 * estimate["step_seconds"],
        "bound": estimate["bound"],
        "share_of_roofline": estimate["step_seconds"] / median,
        "share_of_peak_flops": flops / median / estimate["peak_flops"],
    }


def measured(future):
    """Times what a thread has compiled."""
    return timed(*future.result())


def bench(args, send):
    """Images/s and bytes of the paper nets in bfloat16, beside the roofline; data on the device."""
    groups = NETS
    if args.small:
        groups = ((("flax_resnet50_supervised", "", {}), ("simclr", "simclr_photos:smoke", {})),)
    chosen = set(args.only.split(",")) if args.only else {n for g in groups for n, *_ in g}
    groups = [[job for job in group if job[0] in chosen] for group in groups]
    send({"planned": [job[0] for group in groups for job in group]})
    for group in groups:
        configs = {n: get_config(*f.partition(":")[::2]) if f else None for n, f, _ in group}
        # Nothing is timed while a step compiles, as the compiler tries kernels on the device.
        with concurrent.futures.ThreadPoolExecutor(min(5, os.cpu_count() or 1)) as pool:
            futures = {n: pool.submit(compile_largest, n, configs[n], updates, args.small)
                       for n, _, updates in group}  # fmt: skip
        for name in list(futures):  # a program is let go of before the next one runs
            send_row(send, name, measured, futures.pop(name))
