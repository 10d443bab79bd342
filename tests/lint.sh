#!/usr/bin/env bash
# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Every static check, each run even when an earlier one has failed. `make lint` calls it.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
# The tools call each other by name: ansible-lint wants ansible-config, antsibull-docs wants ansible-doc.
PATH="$PWD/.venv/bin:$PATH"
failed=()

check() {
    printf -- '--- %s\n' "$*"
    "$@" || failed+=("$1 ${2:-}")
}

check ruff check --quiet .
check ruff format --check --quiet .
check mypy
check shellcheck --exclude=SC2016 .ci/run tests/*.sh tests/support/awx_collection tests/support/cron_daemon tests/support/export tests/support/haproxy_versions
check yamllint --strict .
check ansible-lint --offline -q
check antsibull-changelog lint
# Of the checkout itself antsibull-docs sees no module: it follows no links.
check tests/support/export .cache/export
check antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs=self .cache/export/ansible_collections/autoscale/haproxy
# Left to `make sanity`: what the tools above, or the tests, do as well.
check tests/sanity.sh --skip-test pylint --skip-test yamllint --skip-test changelog --skip-test shellcheck --skip-test ansible-doc
rm -rf .cache/tarball
check python tests/support/tarball.py .cache/tarball
check tests/galaxy.sh .cache/tarball/autoscale-haproxy-*.tar.gz
check check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
# Actions that are not pinned, rights that are too wide, text from outside in a command.
check zizmor --offline --quiet --no-progress .github/workflows

if [ "${#failed[@]}" -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
printf 'all checks passed\n'
