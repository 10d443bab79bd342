#!/usr/bin/env bash
# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Gets a fresh Debian or Ubuntu machine ready: `tests/setup.sh demo` (the little that the demo needs), `tests/setup.sh test` (everything)
# `tests/setup.sh docs` (what makes the site of the documents) or `tests/setup.sh matrix` (what runs the matrix of versions).
# It says nothing and takes no time when everything is there, so each make target can call it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
what="${1:-test}"

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Pythons of this machine, by command and from pyenv (whose shims are found on the PATH too, but run only where that version is switched on).
pythons() {
    local path
    for path in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do command -v "$path" || true; done
    for path in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3; do [ ! -x "$path" ] || printf '%s\n' "$path"; done
}

# The first Python between two versions (as 3.11 3.13) that can make virtual environments. Debian splits that ability off into a package of its own.
find_python() {
    local python
    while read -r python; do
        if "$python" - "$1" "$2" 2>/dev/null <<'PYTHON'; then printf '%s\n' "$python"; return 0; fi
import sys
low, high = (tuple(int(part) for part in text.split(".")) for text in sys.argv[1:])
import ensurepip, venv
sys.exit(not low <= sys.version_info[:2] <= high)
PYTHON
    done < <(pythons)
    return 1
}

# Makes the virtual environment $1 with Python $2 and installs what follows, once: the stamp holds what was asked for, where (no virtual
# environment can be moved), and the text of every requirements file.
environment() {
    local folder="$1" python="$2" stamp="$1/.installed" wanted
    shift 2
    wanted="$(printf '%s\n' "$PWD" "$python" "$@"; cat requirements.txt tests/requirements*.txt)"
    if [ -x "$folder/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return 0; fi
    say "installing into $folder with $("$python" --version) ..."
    # One that was copied from elsewhere, was never finished, or whose Python is gone, is of no use.
    if [ ! -x "$folder/bin/python" ] || [ "$(head -n 1 "$stamp" 2>/dev/null)" != "$PWD" ]; then rm -rf "$folder"; fi
    [ -d "$folder" ] || "$python" -m venv "$folder"
    "$folder/bin/python" -m pip install -qq --disable-pip-version-check "$@" || return 1
    printf '%s\n' "$wanted" >"$stamp"
}

core_version() { "$1/bin/python" -c 'from ansible.release import __version__; print(".".join(__version__.split(".")[:2]))' 2>/dev/null; }

# An ansible-core other than the one in .venv, to test with as well: version, oldest and newest Python that it runs on.
further_core() {
    local python folder=".cache/venv-$1" reason=".cache/venv-$1.reason"
    rm -f "$reason"
    [ "$(core_version .venv)" != "$1" ] || return 0
    if ! python="$(find_python "$2" "$3")"; then
        printf 'no Python between %s and %s with its venv module was found\n' "$2" "$3" >"$reason"
    elif ! environment "$folder" "$python" "ansible-core~=$1.0" -r requirements.txt; then
        rm -rf "$folder"
        printf 'it could not be installed\n' >"$reason"
    else
        return 0
    fi
    say "the tests will NOT run on ansible-core $1: $(cat "$reason")."
}

# Installs a package of the system's. Says why not, and fails, where that needs rights that this user lacks.
apt_install() {
    local become=() attempt
    command -v apt-get >/dev/null || { say "this machine has no apt-get: install $1 with its own package manager."; return 1; }
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || { say "this user may not install $1. With rights: sudo apt-get install --yes $1"; return 1; }
        become=(sudo -n)
    fi
    say "installing $1 with apt-get ..."
    for attempt in "" update; do
        # A new machine may have no package lists yet, or old ones.
        if [ -n "$attempt" ]; then "${become[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq >>.cache/apt-install.log 2>&1 || true; fi
        if "${become[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >>.cache/apt-install.log 2>&1; then return 0; fi
    done
    # A package can be there although its service could not be started (there may be no systemd): whoever calls looks for what he needs.
    say "apt-get could not install $1: $(tail -n 1 .cache/apt-install.log)"
    return 1
}

haproxy_installed() { PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v haproxy >/dev/null; }

install_haproxy() {
    haproxy_installed || apt_install haproxy || haproxy_installed && return 0
    # The tests also run with an unpacked package, which tests/support/haproxy_versions fetches without rights.
    [ "$what" = test ] || fail "HAProxy is missing, and the demo needs it."
    say "HAProxy is not installed: the tests get unpacked packages only."
}

# promtool, which judges metrics and alert rules, out of the distribution's package of Prometheus, without installing a server.
fetch_promtool() {
    local folder=.cache/prometheus
    if command -v promtool >/dev/null || [ -x "$folder/promtool" ]; then return 0; fi
    say "getting promtool from the package prometheus ..."
    rm -rf "$folder"
    mkdir -p "$folder/package"
    if (cd "$folder" && apt-get download -qq prometheus && dpkg-deb -x prometheus_*.deb package) >>.cache/apt-install.log 2>&1; then
        mv "$folder/package/usr/bin/promtool" "$folder/promtool"
    else
        say "promtool could not be had: metrics and alert rules are NOT checked by it ($(tail -n 1 .cache/apt-install.log))."
    fi
    rm -rf "$folder/package" "$folder"/*.deb
}

case "$what" in
    demo | test | docs | matrix) ;;
    *) fail "usage: tests/setup.sh demo|test|docs|matrix" ;;
esac
mkdir -p .cache
# Two targets at once would install into one folder.
exec 9>.cache/setup.lock
flock 9

# A Python that is new enough but cannot make virtual environments lacks a package of Debian's.
install_venv() {
    local python
    while read -r python; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        say "$("$python" --version) is here, but cannot make virtual environments."
        apt_install "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
        return
    done < <(pythons)
    fail "no Python 3.11 or later was found. As root: apt-get install --yes python3 python3-venv (on Ubuntu 22.04: python3.11 python3.11-venv)"
}

if ! python="$(find_python 3.11 3.99)"; then
    install_venv || fail "without it there is no virtual environment."
    python="$(find_python 3.11 3.99)" || fail "still no Python that can make virtual environments."
fi

case "$what" in docs | matrix)
    environment ".cache/venv-$what" "$python" -r "tests/requirements-$what.txt" || fail "tests/requirements-$what.txt could not be installed, see above."
    exit 0 ;;
esac

install_haproxy
requirements=tests/requirements.txt
# The demo needs less; but where the tests' set-up is, it stays.
if [ "$what" = demo ] && ! grep -qsx "$requirements" .venv/.installed; then requirements=tests/requirements-demo.txt; fi
environment .venv "$python" -r "$requirements" || fail "$requirements could not be installed, see above."
if [ "$what" = test ]; then
    # Side by side, because each waits for its downloads most of the time.
    pending=()
    further_core 2.16 3.10 3.12 & pending+=($!)
    further_core 2.19 3.11 3.13 & pending+=($!)
    further_core 2.21 3.12 3.14 & pending+=($!)
    tests/support/haproxy_versions
    tests/support/cron_daemon
    tests/support/awx_collection
    fetch_promtool
    for job in "${pending[@]}"; do wait "$job"; done
fi
