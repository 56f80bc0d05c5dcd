#!/usr/bin/env bash
# A TPU pod slice by queued resources: create, install, start on every worker, resume, delete.
#
#   NAME=simclr ZONE=us-west4-a TYPE=v5litepod-256 BUCKET=b bash launch/tpu_pod.sh create
#   ... tpu_pod.sh install                      the wheel onto every worker, the bucket at /mnt/b
#   ... tpu_pod.sh start --config=configs/simclr_imagenet.py --workdir=/mnt/b/simclr
#                                               or, without a mount, --workdir=gs://b/simclr
#   ... tpu_pod.sh watch --config=... --workdir=...   the same, and again after each preemption
#   ... tpu_pod.sh status | logs | stop | delete
#
# Settings: NAME ZONE TYPE as above; BUCKET that install mounts, without one the workdir is a URL
# (gs://...) or lies on another file system of all workers; VERSION of the VM's
# image; PROJECT; SPOT=0 for on-demand; REPO the checkout to install (this one); POLL seconds
# between two looks.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
NAME=${NAME:-jssl}
ZONE=${ZONE:?set ZONE, such as ZONE=us-west4-a}
TYPE=${TYPE:-v5litepod-32}
SPOT=${SPOT:-1}
POLL=${POLL:-60}
APT=https://packages.cloud.google.com/apt
REPO=${REPO:-$root}
case $TYPE in
  v5lite*) version=v2-alpha-tpuv5-lite ;;
  v5p*) version=v2-alpha-tpuv5 ;;
  v6e*) version=v2-alpha-tpuv6e ;;
  *) version=tpu-ubuntu2204-base ;;
esac
VERSION=${VERSION:-$version}
where=(--zone="$ZONE")
[ -z "${PROJECT:-}" ] || where+=(--project="$PROJECT")

say() { echo "tpu_pod: $*" >&2; }

queued() { gcloud compute tpus queued-resources "$1" "$NAME" "${where[@]}" "${@:2}"; }

on_all() { gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all --command="$1"; }

state() { queued describe --format='value(state.state)' 2>/dev/null || echo ABSENT; }

create() {
  local spot=()
  [ "$SPOT" = 0 ] || spot=(--spot)
  queued create --node-id="$NAME" --accelerator-type="$TYPE" --runtime-version="$VERSION" "${spot[@]}"
}

wait_active() {
  local now before=""
  while now=$(state); [ "$now" != ACTIVE ]; do
    case $now in
      FAILED | SUSPENDED | SUSPENDING | ABSENT)
        say "queued resource $NAME is $now"
        return 1
        ;;
    esac
    [ "$now" = "$before" ] || say "waiting: $now"
    before=$now
    sleep "$POLL"
  done
}

install() {
  wait_active
  local wheels
  wheels=$(mktemp -d)
  python3 -m pip wheel --quiet --no-deps --wheel-dir "$wheels" "$REPO"
  gcloud compute tpus tpu-vm scp "${where[@]}" --worker=all --recurse \
    "$wheels"/*.whl "$REPO/configs" "$NAME:"
  rm -r "$wheels"
  on_all "python3 -m venv venv && venv/bin/pip install --quiet \"\$(ls jssl-*.whl)[tpu,stores]\""
  [ -z "${BUCKET:-}" ] || mount_bucket
}

# Cloud Storage FUSE from Google's own packages, then the bucket as a folder of every worker.
mount_bucket() {
  local at=/mnt/$BUCKET
  on_all "set -e; command -v gcsfuse > /dev/null || {
    curl -fsS $APT/doc/apt-key.gpg | sudo tee /usr/share/keyrings/cloud.google.asc > /dev/null
    echo \"deb [signed-by=/usr/share/keyrings/cloud.google.asc] $APT gcsfuse-\$(lsb_release -cs) main\" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
    sudo apt-get -qq update && sudo apt-get -qq install -y gcsfuse
  }
  mountpoint -q $at || { sudo mkdir -p $at && sudo chown \"\$USER\" $at && gcsfuse --implicit-dirs $BUCKET $at; }"
}

# The workers' words are quoted once more, because a shell on the worker reads them again.
command_of() { printf 'venv/bin/jssl train --distributed'; printf ' %q' "$@"; }

# A run that was stopped by `stop` has ended, one that was asked by anything else has not.
start() {
  [ $# -gt 0 ] || { say "start needs the words of jssl train: --config=... --workdir=gs://BUCKET/..."; exit 2; }
  on_all "set -o pipefail; rm -f jssl.stop; $(command_of "$@") 2>&1 | tee -a jssl.log; status=\$?
    [ ! -e jssl.stop ] || exit 0; exit \$status"
}

stop() { on_all "touch jssl.stop; pkill -TERM -f '[v]env/bin/jssl train' || true"; }

# A spot slice that was taken leaves a suspended queued resource, which must be deleted and made
# again; the run resumes from the workdir in the bucket. Before it is taken the run may have had time
# to save, and says so by status 75: it has not ended, whether the slice is still there or not.
watch() {
  local status
  while true; do
    if [ "$(state)" = ABSENT ]; then
      create
    fi
    status=0
    { wait_active && install && start "$@"; } || status=$?
    if [ "$status" = 0 ]; then
      say "the run has ended"
      return 0
    fi
    sleep "$POLL" # a slice that is being taken is ACTIVE for a little while still
    if [ "$status" = 75 ]; then
      say "the run was asked to stop and has saved: it goes on"
      [ "$(state)" != ACTIVE ] || continue
    elif [ "$(state)" = ACTIVE ]; then
      say "the run failed on a slice that is still there: see jssl.log on the workers"
      return 1
    fi
    say "the slice was taken: it is made again"
    delete
  done
}

delete() { queued delete --force --quiet; }

status() { state; }

logs() { gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=0 --command="tail -n 50 jssl.log"; }

action=${1:-}
case $action in
  create | install | start | stop | watch | status | logs | delete)
    shift
    "$action" "$@"
    ;;
  *)
    say "expected create, install, start, watch, status, logs, stop or delete; found '$action'"
    exit 2
    ;;
esac
