#!/usr/bin/env bash
# The check of one GPU: at most eight minutes, one JSON record (device_check.json, or --out=FILE).
#
#   bash tests/device/run.sh [--wheels=DIR] [--out=FILE] [--limit=SECONDS]
#
# It needs Python 3.11 or newer with JAX for CUDA; PYTHON names another one than python3. With
# --wheels the wheels in DIR are installed beside that JAX, into a folder that is removed at the
# end, without internet; without it the packages of PYTHON are used. To fill DIR on a machine with
# internet, of the same Python version and processor, in this repository:
#
#   python3 -m pip wheel --wheel-dir=DIR . && rm -f DIR/jssl-* DIR/jax-* DIR/jaxlib-*
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3}
wheels=
words=()
for word in "$@"; do
  case $word in
    --wheels=*) wheels=${word#--wheels=} ;;
    *) words+=("$word") ;;
  esac
done
if [ -n "$wheels" ]; then
  files=("$wheels"/*.whl)
  [ -e "${files[0]}" ] || { echo "run.sh: --wheels=$wheels has no wheels: expected a folder of .whl files." >&2; exit 2; }
  # A folder on the path and no environment: that of an environment would not see its JAX.
  packages=$(mktemp -d)
  trap 'rm -rf "$packages"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --target="$packages" "${files[@]}"
  PYTHONPATH=$packages${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
"$python" "$root/tests/device/check.py" --used="$SECONDS" ${words[@]+"${words[@]}"}
