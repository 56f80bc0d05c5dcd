#!/usr/bin/env bash
# By hand: compiles configs for a topology that is not here, one after another, and keeps the
# records. Needs the extra fit-tpu (or fit-gpu); an ImageNet config takes 4 to 10 minutes a core.
#   bash tests/benchmarks/fit_tpu.sh launch/records v5e:4x8 simclr_imagenet moco_imagenet:preset=v3
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$1 topology=$2
shift 2
mkdir -p "$folder"
for name in "$@"; do
  switches=""
  case $name in *:*) switches=":${name#*:}" ;; esac
  out="$folder/$(printf '%s_%s' "$name" "$topology" | tr ':.,' '___').json"
  python -m jssl fit --config="configs/${name%%:*}.py$switches" --topology="$topology" --output="$out"
done
