#!/usr/bin/env bash
# A TPU slice of a GKE cluster, by xpk (pip install xpk).
#
#   CLUSTER=jssl ZONE=us-west4-a TYPE=v5litepod-256 bash launch/gke_xpk.sh cluster
#   ... BUCKET=b gke_xpk.sh storage             the bucket, at /mnt/b of every job
#   ... NAME=simclr IMAGE=python:3.11 gke_xpk.sh start --config=... --workdir=/mnt/b/simclr  (or gs://b/simclr, without storage)
#   ... gke_xpk.sh status | stop | delete
#
# A worker that is preempted makes the job start again, RESTARTS times; the run then resumes. By itself
# xpk does so for status 42 and from 127 on: 75 is a run that saved and stopped, 3 a process that lost
# another one.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
CLUSTER=${CLUSTER:?set CLUSTER, such as CLUSTER=jssl}
ZONE=${ZONE:?set ZONE, such as ZONE=us-west4-a}
TYPE=${TYPE:-v5litepod-32}
NAME=${NAME:-jssl}
IMAGE=${IMAGE:-python:3.11}
RESTARTS=${RESTARTS:-50}
SPOT=${SPOT:-1}
where=(--cluster="$CLUSTER" --zone="$ZONE")
[ -z "${PROJECT:-}" ] || where+=(--project="$PROJECT")

start() {
  [ $# -gt 0 ] || { echo "gke_xpk: start needs --config=... --workdir=/mnt/BUCKET/..." >&2; exit 2; }
  local words
  words=$(printf ' %q' "$@")
  xpk workload create --workload="$NAME" "${where[@]}" --tpu-type="$TYPE" --num-slices=1 \
    --max-restarts="$RESTARTS" --restart-on-exit-codes=3,75 --base-docker-image="$IMAGE" --script-dir="$root" \
    --command="pip install --quiet '.[tpu,stores]' && jssl train --distributed$words"
}

cluster() {
  local capacity=--on-demand
  [ "$SPOT" = 0 ] || capacity=--spot
  xpk cluster create "${where[@]}" --tpu-type="$TYPE" --num-slices=1 "$capacity"
}

storage() {
  xpk storage attach "${BUCKET:?set BUCKET, such as BUCKET=b}" "${where[@]}" --type=gcsfuse \
    --bucket="$BUCKET" --mount-point="/mnt/$BUCKET" --readonly=false --size=1 --auto-mount=true
}

status() { xpk workload list "${where[@]}"; }

stop() { xpk workload delete --workload="$NAME" "${where[@]}" --force; }

delete() { xpk cluster delete "${where[@]}" --force; }

action=${1:-}
case $action in
  cluster | storage | start | status | stop | delete)
    shift
    "$action" "$@"
    ;;
  *)
    echo "gke_xpk: expected cluster, storage, start, status, stop or delete; found '$action'" >&2
    exit 2
    ;;
esac
