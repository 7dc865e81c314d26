#!/usr/bin/env bash
# Runs the native code under checks that are too slow for every day.
#
#     scripts/faults/sanitize.sh bounds      every index into an array, in all compiled kernels
#     scripts/faults/sanitize.sh memory      valgrind's memcheck over windows of the MuJoCo engine
#
# PYTHON names the interpreter of an environment with the library in it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# kernels that were compiled without the checks must not be taken from the cache
export NUMBA_CACHE_DIR="$scratch/cache"
case "${1:-}" in
  bounds)
    cd "$root"
    NUMBA_BOUNDSCHECK=1 "$python" -m pytest -q -p no:cacheprovider \
      tests/test_perturbations.py tests/test_gradient_sum.py tests/test_elementary.py \
      tests/test_estimators.py tests/test_policies.py tests/test_mujoco_exactness.py \
      tests/test_mujoco_engine.py tests/test_lorenz.py tests/test_influence_balancing.py
    ;;
  memory)
    # Python's own allocator hides what is freed; the interpreter's oddities before the engine
    # starts are none of ours, so only errors with MuJoCo or a kernel on the stack count. Compiling
    # under valgrind takes most of an hour: code for any processor is compiled before, and found
    export NUMBA_CPU_NAME=generic NUMBA_CPU_FEATURES=
    "$python" "$here/engine_windows.py"
    PYTHONMALLOC=malloc valgrind --error-limit=no --num-callers=20 --log-file="$scratch/log" \
      "$python" "$here/engine_windows.py"
    "$python" "$here/engine_windows.py" --judge "$scratch/log"
    ;;
  *)
    echo "usage: $0 bounds|memory" >&2
    exit 2
    ;;
esac
