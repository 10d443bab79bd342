#!/usr/bin/env bash
# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# ansible-test sanity, on the export: in the checkout it walks no links, finds no plugin, and calls that a success. Arguments go to ansible-test.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export="$PWD/.cache/sanity"
# What it installs for itself. A checkout may have a link here to share it.
mkdir -p .cache/ansible-test
cache="$(realpath .cache/ansible-test)"
bin="$PWD/.venv/bin"

# It makes virtual environments, and fetches a script from the Internet to put pip into them. Here that script is a few lines that run the pip of a wheel
# from the usual package index, which is reachable wherever the set-up was.
python_requirements="$("$bin/python" -c 'import ansible_test, os; print(os.path.dirname(ansible_test.__file__))')/_internal/python_requirements.py"
pip_version="$(sed -nE "s/^ +pip='([0-9.]+)',.*/\1/p" "$python_requirements" | head -n 1)"
stand_in="$cache/home/.ansible/test/cache/get_pip_${pip_version//./_}.py"
if [ -n "$pip_version" ] && [ ! -e "$stand_in" ]; then
    mkdir -p "$(dirname "$stand_in")"
    "$bin/python" -m pip download -qq --disable-pip-version-check --no-deps --dest "$cache/pip" "pip==$pip_version"
    cat >"$stand_in" <<PYTHON
import os, runpy, sys
os.environ["PYTHONPATH"] = "$cache/pip/pip-$pip_version-py3-none-any.whl"
sys.path.insert(0, os.environ["PYTHONPATH"])
sys.argv[1:] = ["install"] + [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
runpy.run_module("pip", run_name="__main__")
PYTHON
fi

tests/support/export "$export"
cd "$export/ansible_collections/autoscale/haproxy"
# What the published collection does not hold is checked by `make lint`.
rm -rf tests/[!s]* tests/s[!a]* tests/sanity.sh .ci .github Makefile noxfile.py
# It checks the files that git knows, and this folder lies within a checkout whose git ignores it.
git init --quiet
git add --all
# PowerShell's linter has nothing to look at here and wants PowerShell.
HOME="$cache/home" PATH="$bin:$PATH" exec ansible-test sanity --local --python "$("$bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" --skip-test pslint "$@"
