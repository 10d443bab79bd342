#!/usr/bin/env bash
# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# stop.sh PID_FILE WORDS: ends the process that the pid file names, and waits until it is gone. Its command line must hold the words:
# the id in an old pid file may be another program's by now.
set -euo pipefail

[ -e "$1" ] || exit 0
pid="$(cat "$1")"

runs() {
    # A zombie, which waits for its parent to look, has an empty command line.
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -e "$2"
}

for signal in TERM KILL; do
    runs "$@" || exit 0
    echo "$signal $pid"
    kill -s "$signal" "$pid" || true
    for _ in $(seq 100); do
        runs "$@" || exit 0
        sleep 0.1
    done
done
echo "process $pid does not end" >&2
exit 1
