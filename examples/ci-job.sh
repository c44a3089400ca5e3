#!/bin/sh
# A CI job: runs SCRIPT with the sources in /src (read-only), a cache in /cache that outlives jobs, and what the job leaves in
# /out copied to the directory OUT. The exit status is the job's.
#
#   ROOT=./rootfs examples/ci-job.sh SOURCES OUT 'cp -r /src /build && cd /build && make && cp prog /out'
set -eu
: "${ROOT:?names a folder with a root file system}"
sources=$(realpath "$1") out=$2 script=$3
name=job-$$

msb create --name "$name" --label kind=ci --cpus 2 --memory 512M --max-duration 1h \
    --volume "$sources:/src:ro" --volume ci-cache:/cache "$ROOT" >/dev/null
trap 'msb rm -f "$name" >/dev/null' EXIT
# Not every shell takes a signal for an exit.
trap 'exit 130' INT
trap 'exit 143' TERM

status=0
msb exec "$name" mkdir -p /out
msb exec --timeout 30m -e CI=true "$name" sh -euc "$script" || status=$?
mkdir -p "$out"
msb cp "$name:/out/." "$out"
exit "$status"
