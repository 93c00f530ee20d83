#!/bin/sh
# usage: make_venv.sh FOLDER [PYTHON]
# Creates a virtual environment with Python 3.11 to 3.13, or keeps the one that is there.
set -eu
venv=$1
fits='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'

if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c "$fits" 2>/dev/null; then
    exit 0
fi
# The versions are tried, not only looked up: a pyenv shim exists for versions that are not active, too.
for python in ${2:-python3.11 python3.12 python3.13 python3 python}; do
    if "$python" -c "$fits" >/dev/null 2>&1; then
        echo "creating $venv with $("$python" --version)"
        exec "$python" -m venv --clear "$venv"
    fi
done
echo "make setup needs Python 3.11, 3.12 or 3.13 with its venv module, and found none${2:+ in PYTHON=$2}." >&2
echo "Install one (on Debian or Ubuntu: apt install python3 python3-venv) or name it: make setup PYTHON=/path/to/python3.12" >&2
exit 1
