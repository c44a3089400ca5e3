#!/bin/sh
# A batch: JOBS times COMMAND (which finds its number in $JOB), at most PARALLEL at a time, each in a machine of its own. Prints
# the status of each, and fails if one did.
#
#   ROOT=./rootfs examples/batch.sh 'echo $((JOB * JOB))'
set -eu
: "${ROOT:?names a folder with a root file system}"
export ROOT COMMAND="$1"

seq 1 "${JOBS:-20}" | xargs -P "${PARALLEL:-4}" -I {} sh -c '
    status=0
    output=$(msb run --memory 128M -e JOB={} "$ROOT" -- sh -c "$COMMAND" </dev/null) || status=$?
    printf "job %s: status %s: %s\n" {} "$status" "$output"
    exit $((status != 0))
'
