#!/usr/bin/env bash
# All GPUs of this machine in one process, or those that GPUS names.
#
#   GPUS=0,1 bash launch/local_gpu.sh --config=configs/simclr_cifar.py --workdir=runs/simclr
set -euo pipefail
[ $# -gt 0 ] || { echo "local_gpu: needs the words of jssl train: --config=... --workdir=..." >&2; exit 2; }
[ -z "${GPUS:-}" ] || export CUDA_VISIBLE_DEVICES=$GPUS
export JAX_PLATFORMS=cuda # and not, without a word, the CPU
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
exec "${JSSL:-jssl}" train "$@"
