"""Compiles the configs of a pod one after the other: `python launch/compile_records.py`.

Each record is written as it comes, to `--records`; what is there is kept, so that a second start
goes on where the first one ended. A compilation that takes longer than `--hours`, or that the
machine ends for its memory, is written to `unfinished.json` with what happened.

TPU compilers run with `--effort=-1`, which takes an eighth of the time; `launch/README.md` says
what differs. The tables: `python -m jssl.compile.table launch/records launch/README.md`.

`--scaling` compiles four methods for 8 to 512 chips, with a fixed batch a chip and with a fixed
global batch, to the folder `scaling` of the records.
"""

import argparse
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PODS = ("v5e:4x8", "h100:8", "v5e:16x16")


class Job(NamedTuple):
    """A config to compile.

    Attributes:
        name: of the record.
        config: file and switches, as `--config` takes them.
        topologies: what it is compiled for.
        flags: further flags of `jssl compile`.
    """

    name: str
    config: str
    topologies: tuple[str, ...] = PODS
    flags: tuple[str, ...] = ()


TEACHER = "--teacher=configs/supervised_imagenet.py"
FSDP = "--config.launch=fsdp"
MIX = "--config.deit.mix_groups={}"
JOBS = (
    # The main config of each method, on the three pods.
    Job("simclr_imagenet", "simclr_imagenet"),
    Job("moco_imagenet", "moco_imagenet"),
    Job("byol_imagenet", "byol_imagenet"),
    Job("cmc_imagenet", "cmc_imagenet", PODS[:2], ("--config.model.bn_groups=8",)),
    Job("cmc_imagenet", "cmc_imagenet:batch=256", PODS[2:], ("--config.model.bn_groups=8",)),
    Job("cpc_imagenet", "cpc_imagenet"),
    Job("deepcluster_imagenet", "deepcluster_imagenet"),
    Job("noisy_student_imagenet", "noisy_student_imagenet"),
    # Mixup's groups, of 128 images in the paper's runs, are no larger than a chip's batch.
    Job("deit_imagenet", "deit_imagenet:model=base", ("h100:8",)),
    Job("deit_imagenet", "deit_imagenet:model=base", ("v5e:4x8",), (MIX.format(32),)),
    Job("deit_imagenet", "deit_imagenet:model=base", ("v5e:16x16",), (MIX.format(256),)),
    Job("beit_imagenet", "beit_imagenet"),
    Job("dvae_imagenet", "dvae_imagenet"),
    # Their switches, on one slice.
    Job("deepcluster_v2_imagenet", "deepcluster_v2_imagenet", ("v5e:4x8", "h100:8")),
    Job("deit_distilled_imagenet", "deit_imagenet:distill=hard", ("v5e:4x8",),
        (TEACHER, MIX.format(32))),
    Job("beit_large_imagenet", "beit_imagenet:model=vit_large", ("v5e:4x8",)),
    Job("beit_large_fsdp_imagenet", "beit_imagenet:model=vit_large", ("v5e:4x8",), (FSDP,)),
    Job("moco_v1_imagenet", "moco_imagenet:preset=v1", ("v5e:4x8",)),
    Job("moco_v3_imagenet", "moco_imagenet:preset=v3", ("v5e:4x8",)),
    Job("moco_v3_vit_imagenet", "moco_imagenet:preset=v3_vit,arch=vit_base", ("v5e:4x8",)),
    Job("noisy_student_b7_imagenet", "noisy_student_imagenet:student=b7", ("v5e:4x8",)),
    Job("noisy_student_b7_remat_imagenet", "noisy_student_imagenet:student=b7", ("v5e:4x8",),
        ("--config.model.remat=True",)),
    Job("noisy_student_l2_imagenet", "noisy_student_imagenet:student=l2", ("v5e:16x16",)),
    Job("noisy_student_l2_fsdp_imagenet", "noisy_student_imagenet:student=l2", ("v5e:16x16",),
        (FSDP, "--config.model.remat=True")),
    # Its last stage, FixRes.
    Job("noisy_student_l2_800px_fsdp_imagenet", "noisy_student_imagenet:student=l2", PODS[2:],
        (FSDP, "--config.model.remat=True", "--config.augment.size=800", "--batch=2",
         "--config.epochs=1.5", "--config.optim.warmup_epochs=0.0",
         "--config.noisy_student.unlabeled_ratio=0", "--config.noisy_student.frozen_blocks=0")),
    Job("simclr_4x_imagenet", "simclr_imagenet:width=4.0", ("v5e:16x16",)),
    Job("supervised_imagenet", "supervised_imagenet", ("v5e:4x8", "h100:8")),
    Job("deepcluster_vgg16_imagenet", "deepcluster_imagenet:arch=vgg16", ("v5e:4x8",)),
    Job("beit_finetune_imagenet", "beit_finetune_imagenet", ("v5e:4x8",),
        ("--config.supervised.mix_groups=32",)),
    Job("faster_rcnn_voc", "faster_rcnn_voc", ("v5e:2x4", "h100:8")),
    Job("fcn_voc", "fcn_voc", ("v5e:2x4", "h100:8")),
    Job("webscale_moco", "webscale:method=moco", ("v5e:8x8",)),
)  # fmt: skip

# A TPU v5p has slices of 8 to 512 chips in one network, and memory for the large batches a chip.
SLICES = {8: "v5p:2x2x2", 32: "v5p:2x4x4", 128: "v5p:4x4x8", 512: "v5p:8x8x8"}
# Method: config, batch a chip, global batch. MoCo's groups of batch normalisation have 32 images.
SCALED = {
    "simclr": ("simclr_imagenet", 128, 4096),
    "byol": ("byol_imagenet", 128, 4096),
    "moco": ("moco_imagenet", 32, 256),
    "beit": ("beit_imagenet", 64, 2048),
}


def scaling() -> list[Job]:
    """The jobs of the scaling table; a global batch needs an example a chip at least."""
    jobs = {}
    for (chips, topology), (method, (config, a_chip, total)) in itertools.product(
        SLICES.items(), SCALED.items()
    ):
        for batch in {a_chip, total // chips} - {0}:
            groups = f"--config.model.bn_groups={chips * batch // 32}"
            flags = (f"--batch={batch}", *([groups] if method == "moco" else []))
            jobs[method, chips, batch] = Job(f"{method}_{batch}", config, (topology,), flags)
    return list(jobs.values())


def main() -> None:
    """Compiles what has no record yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, default=ROOT / "launch" / "records")
    parser.add_argument("--only", default="", help="names and topologies, joined by commas")
    parser.add_argument("--hours", type=float, default=2.0, help="longest time of one")
    parser.add_argument("--tpu", default=sys.executable, help="python with jssl[fit-tpu]")
    parser.add_argument("--gpu", default=sys.executable, help="python with jssl[fit-gpu]")
    parser.add_argument("--scaling", action="store_true", help="the scaling table's")
    args = parser.parse_args()
    jobs = scaling() if args.scaling else JOBS
    if args.scaling:
        args.records /= "scaling"
    args.records.mkdir(parents=True, exist_ok=True)
    for topology in dict.fromkeys(t for job in jobs for t in job.topologies):
        for job in jobs:
            chosen = {job.name, topology, f"{job.name}@{topology}"} & set(args.only.split(","))
            if topology in job.topologies and (chosen or not args.only):
                compile_job(job, topology, args)


def compile_job(job: Job, topology: str, args: argparse.Namespace) -> None:
    """Runs `jssl compile` in a process of its own, unless there is a record."""
    slug = topology.replace(":", "_")
    path = args.records / f"{job.name}_{slug}.json"
    unfinished = args.records / "unfinished.json"
    known = json.loads(unfinished.read_text()) if unfinished.exists() else {}
    if path.exists() or path.stem in known:
        return
    tpu = topology.startswith("v")
    command = [args.tpu if tpu else args.gpu, "-m", "jssl", "compile"]
    file, _, switches = job.config.partition(":")
    command += [f"--config=configs/{file}.py" + (f":{switches}" if switches else "")]
    command += [f"--topology={topology}", f"--output={path}", *job.flags]
    command += ["--effort=-1"] if tpu else []
    print(*command[1:], flush=True)
    started = time.monotonic()
    try:
        result = subprocess.run(
            command, cwd=ROOT, timeout=3600 * args.hours, stderr=subprocess.PIPE, text=True
        )
        outgrown = (
            "ended by SIGKILL, as out of memory" if result.returncode == -signal.SIGKILL else ""
        )
        said = outgrown or ("recorded" if result.returncode == 0 else result.stderr[-2000:])
    except subprocess.TimeoutExpired:
        said = outgrown = f"took longer than {args.hours:g} hours"
    print(f"{path.stem}: {said.strip()}, {time.monotonic() - started:.0f} s", flush=True)
    if outgrown:  # anything else is a mistake, and tried again when it is mended
        known[path.stem] = outgrown
        unfinished.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
