#!/usr/bin/env bash
# Create the virtual environment $1 with Python 3.11 or newer and install this checkout into it.
set -euo pipefail

venv=${1:?usage: make-venv.sh FOLDER}
cd "$(dirname "$0")/.."

is_usable() {
    command -v "$1" >/dev/null &&
        "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

if [ ! -x "$venv/bin/python" ]; then
    python=
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
        if is_usable "$candidate"; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "error: no Python 3.11 or newer with the venv module; on Debian and Ubuntu:" >&2
        echo "       sudo apt-get install python3-venv    (or set PYTHON=/path/to/python3)" >&2
        exit 1
    fi
    echo "creating $venv with $($python --version)"
    "$python" -m venv "$venv"
fi
install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
# An isolated build would fetch TVM, which is large, a second time for its headers. Here the build of
# the part that needs them follows when TVM is installed; it says so if it cannot be done.
install 'setuptools>=77'
install --no-build-isolation --editable '.[dev]'
"$venv/bin/python" setup.py --quiet build_ext --inplace
