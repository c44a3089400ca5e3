#!/bin/sh
# A code interpreter for an AI agent: each line of standard input is a snippet, which runs in one sandbox with those before.
# Files that a snippet writes are there for the next one. Nothing that it does reaches the host, and nothing remains.
#
#   printf '%s\n' 'echo 21 >n' 'expr $(cat n) \* 2' | ROOT=./rootfs examples/code-interpreter.sh
set -eu
: "${ROOT:?names a folder with a root file system}"
interpreter=${INTERPRETER:-sh}
name=interpreter-$$

# It ends by itself if this program dies without a word.
msb create --name "$name" --rm --memory 256M --security restricted --root-upper tmpfs:64M \
    --idle-timeout 10m --max-duration 1h "$ROOT" >/dev/null
trap 'msb rm -f "$name" >/dev/null' EXIT
# Not every shell takes a signal for an exit.
trap 'exit 130' INT
trap 'exit 143' TERM

number=0
while IFS= read -r snippet; do
    number=$((number + 1))
    status=0
    # The time limit holds in the guest; so does the one for processes. Standard input is empty.
    output=$(msb exec --timeout 10s --rlimit nproc=64 -w /tmp "$name" "$interpreter" -c "$snippet" 2>&1) || status=$?
    printf '[%d] status %d\n%s\n' "$number" "$status" "$output"
done
