#!/bin/sh
# Make .venv and install the pinned packages of the files named: tools/install.sh requirements.txt ...
# Says in one line what is in the way, if anything is.
set -eu
cd "$(dirname "$0")/.."

python=""
for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "No Python 3.11 to 3.13 with venv was found: install one, or name it: make run PYTHON=/path/to/python3" >&2
    exit 1
fi

needed_mb=4000
free_mb=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024) }')
if [ ! -d .venv ] && [ "$free_mb" -lt "$needed_mb" ]; then
    echo "Too little space: $free_mb MB are free here, and the packages need about $needed_mb MB." >&2
    exit 1
fi

echo "Installing $* into .venv with $("$python" --version); the first time takes some minutes ..."
[ -x .venv/bin/python ] || "$python" -m venv .venv
for file in "$@"; do
    shift
    set -- "$@" -r "$file"
done
.venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" -c constraints.txt
