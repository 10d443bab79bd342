#!/usr/bin/env bash
# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The documents as a site, in build/docs: the pages of the checkout as they are, and those of the modules and roles that antsibull-docs writes.
# Every warning is an error, and every link is followed in what was made. `make docs` calls it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="$PWD/.cache/venv-docs/bin:$PATH"
source="$PWD/.cache/docs"

rm -rf "$source" build/docs
# antsibull-docs writes only where nobody else can.
install -d -m 755 "$source" "$source/modules"
# The files, without the links to folders: a page may link to each of them.
git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' path; do if [ -f "$path" ] && [ ! -L "$path" ]; then printf '%s\0' "$path"; fi; done |
    tar --create --null --files-from=- | tar --extract --directory="$source"
cp tests/site/index.rst "$source/"

# Of the checkout itself antsibull-docs sees no module: it follows no links.
tests/support/export .cache/export
ANSIBLE_COLLECTIONS_PATH=.cache/export antsibull-docs --config-file tests/site/antsibull-docs.cfg \
    collection --use-current --squash-hierarchy --fail-on-error --dest-dir "$source/modules" autoscale.haproxy
# The theme has a table of contents beside each page, and shows an error in place of a second one.
sed -i '/^\.\. contents::/,/^$/d' "$source"/modules/*.rst
sphinx-build --quiet --fail-on-warning --keep-going --conf-dir tests/site --doctree-dir .cache/docs-doctrees --builder html "$source" build/docs
python tests/site/check_links.py build/docs
printf 'build/docs/index.html\n'
