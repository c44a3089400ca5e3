#!/bin/sh
# A long-lived development machine: `dev-box.sh` opens a shell in it, `dev-box.sh COMMAND...` runs one command. It is made at
# the first call, keeps its files, stops when nobody has used it for an hour, and is started again by the next call.
#
#   ROOT=./rootfs examples/dev-box.sh
set -eu
: "${ROOT:?names a folder with a root file system}"
name=${BOX:-dev}

if ! msb inspect "$name" >/dev/null 2>&1; then
    msb create --name "$name" --label kind=dev --cpus 2 --memory 1G --root-upper 20G --idle-timeout 1h \
        --volume .:/work --workdir /work "$ROOT" >/dev/null
elif ! msb ls -q --running | grep -Fqx -e "$name"; then
    msb start "$name" >/dev/null
fi
if [ $# -eq 0 ]; then
    exec msb shell "$name"
fi
exec msb exec -i "$name" "$@"
