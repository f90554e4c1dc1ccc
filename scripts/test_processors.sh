#!/usr/bin/env bash
# The numeric tests as other processors would run them: fewer instructions for oneDNN and ATen, one thread and two.
#
#     scripts/test_processors.sh                        # all eight, one after the other; about an hour on two cores
#     scripts/test_processors.sh avx2-1 aten-2          # some of them
#     TESTS="tests/unit/backends" scripts/test_processors.sh
#
# A processor cannot be given what it lacks: `default` is all that this one has. AVX512_CORE and AVX2 are without AVX512-VNNI
# and AVX512-BF16, so that products of integers may saturate and bfloat16 is emulated. Logs go to $LOGS, a temporary folder by default.
set -uo pipefail
cd "$(dirname "$0")/.."

TESTS=${TESTS:-"tests/unit tests/parity tests/contract"}
LOGS=${LOGS:-$(mktemp -d)}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
declare -A SETTING=(
  [default]=""
  [avx512]="ONEDNN_MAX_CPU_ISA=AVX512_CORE"
  [avx2]="ONEDNN_MAX_CPU_ISA=AVX2"
  [aten]="ATEN_CPU_CAPABILITY=avx2"
)
[ $# -gt 0 ] || set -- {default,avx512,avx2,aten}-{1,2}

mkdir -p "$LOGS"
failed=0
for run in "$@"; do
  name=${run%-*} threads=${run##*-}
  if [ -z "${SETTING[$name]+known}" ]; then
    echo "a processor must be one of ${!SETTING[*]}, with -1 or -2 for its threads; got $run" >&2
    exit 2
  fi
  # shellcheck disable=SC2086 # both are lists of words
  env ${SETTING[$name]} OMP_NUM_THREADS="$threads" "$PYTHON" -m pytest -q $TESTS >"$LOGS/$run.log" 2>&1 || failed=1
  echo "$run: $(tail -n 1 "$LOGS/$run.log")"
done
echo "logs: $LOGS"
exit $failed
