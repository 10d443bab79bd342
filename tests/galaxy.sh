#!/usr/bin/env bash
# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# What Galaxy does with a tarball that is uploaded (galaxy-importer), here before it is: tests/galaxy.sh <tarball>
# Its runs of ansible-lint, flake8 and ansible-test are left out, because tests/lint.sh and tests/sanity.sh have them with the project's own settings.
# A warning fails as well: nobody reads the log of an upload that succeeded.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: tests/galaxy.sh <tarball>" >&2; exit 2; }
tarball="$(realpath "$1")"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work="$PWD/.cache/galaxy"
bin="$PWD/.venv/bin"
mkdir -p "$work/home"
cd "$work"
# What it writes (importer_result.json) stays here, and so does what its ansible-doc keeps.
if ! HOME="$work/home" PATH="$bin:$PATH" GALAXY_IMPORTER_RUN_ANSIBLE_LINT=no GALAXY_IMPORTER_CHECK_REQUIRED_TAGS=yes \
    "$bin/python" -m galaxy_importer.main "$tarball" >log 2>&1 || grep -qE '^(WARNING|ERROR|CRITICAL)' log || ! grep -qx 'Importer processing completed successfully' log; then
    cat log
    exit 1
fi
