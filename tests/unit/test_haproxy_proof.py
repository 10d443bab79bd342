# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What proves a reload and what does not: each row a situation after it was asked for."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_inspect import Running
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_process import CommandLine, Identity, Process
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_reload import ApplyError, _proof_of_reload, choose_method
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_socket import Worker, Workers


def running(worker: int, reloads: int | None = None, failed: int = 0, old: tuple[int, ...] = (), answers: bool = True, main: int = 10) -> Running:
    """A process whose worker has this pid; with a master that counts reloads, or without one."""
    workers = None
    if reloads is not None:
        workers = Workers(main, reloads, failed, [Worker(worker, "2.6")] if worker else [], [Worker(pid, "2.6") for pid in old])
    states: Any = {} if answers else None
    process = Process(Identity(main, 1, "boot"), CommandLine([], "", "", reloads is not None, False, "", []), [], [])
    return Running(process, workers, Identity(worker, 1, "boot") if worker else None, "2.6", "", False, states, "")


@pytest.mark.parametrize(
    ("before", "now", "proven"),
    [
        (running(11, 0), running(12, 1), True),
        (running(11, 0), running(12, 1, old=(11,)), True),
        # The master has not begun, or the new worker is not there, or does not answer.
        (running(11, 0), running(11, 0), False),
        (running(11, 0), running(11, 1), False),
        (running(11, 0), running(0, 1, old=(11,)), False),
        (running(11, 0), running(12, 1, answers=False), False),
        # A worker that the master did not make by a reload is no proof of one.
        (running(11, 5), running(12, 5), False),
        # One that was old before is not new.
        (running(11, 1, old=(9,)), running(9, 2), False),
        # Without a master's word: another process under the same file, that answers.
        (running(11), running(12), True),
        (running(11), running(11), False),
        (running(11), running(12, answers=False), False),
        (running(11, answers=False), running(12, answers=False), True),
        (running(11), running(0), False),
    ],
)
def test_a_reload_is_proven_by_a_new_worker_that_answers_and_a_count_that_went_up(before: Running, now: Running, proven: bool) -> None:
    assert bool(_proof_of_reload(before, now, "")) is proven


def test_a_counted_failure_is_one_whatever_the_workers_say() -> None:
    with pytest.raises(ApplyError, match="^HAProxy's master counts a failed reload; the old worker goes on$"):
        _proof_of_reload(running(11, 0), running(12, 1, failed=1), "Success=1")


@pytest.mark.parametrize(
    ("method", "now", "service", "socket", "chosen"),
    [
        ("pid", running(11, 0), ["systemctl"], "/m", "pid"),
        ("auto", running(11, 0), ["systemctl"], "/m", "master_socket"),
        ("auto", running(11, main=11), ["systemctl"], "/m", "pid"),
        ("auto", None, ["systemctl"], "/m", "service"),
        ("auto", None, ["service"], "/m", "service"),
        ("auto", None, [], "/m", "master_socket"),
        ("auto", None, [], "", "pid"),
    ],
)
def test_auto_takes_the_way_with_the_strongest_proof(method: str, now: Running | None, service: list[str], socket: str, chosen: str) -> None:
    assert choose_method(method, now, service, socket) == chosen
