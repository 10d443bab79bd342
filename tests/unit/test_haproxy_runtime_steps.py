# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What no real process does on demand: 3.0 answers to a move a moment before the server is there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_inspect import Running
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_plan import Step
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_process import CommandLine, Identity, Process
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_runtime import carry_out
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_socket import Command
from test_haproxy_answers import COLUMNS


class Slow(Running):
    """A process whose server moves when it is looked at for the third time."""

    said: list[str] = []

    def carry_out(self, groups: Iterable[Sequence[Command]], buffer: int, timeout: float) -> list[str]:
        commands = [command.text for group in groups for command in group]
        self.said.extend(commands)
        return ["" for _command in commands]

    def ask(self, command: str, timeout: float) -> str:
        self.said.append(command)
        port = 81 if self.said.count(command) >= 3 else 80
        return "1\n" + COLUMNS + f"3 web 1 a 10.0.0.1 0 1 1 1 1 1 0 2 0 0 0 0 - {port} - 0 0 - - 0\n\n"


def test_a_server_is_brought_in_only_where_it_has_moved_to() -> None:
    process = Process(Identity(1, 1, "boot"), CommandLine([], "", "", False, False, "", []), [], [])
    running = Slow(process, None, None, "3.0", "", False, None, "")
    move = Step("move", "web", "a", (Command("set server web/a addr 10.0.0.1 port 81", ".*"),), ("10.0.0.1", 81))
    carry_out(running, [move, Step("enable", "web", "a", (Command("set server web/a state ready"),))], 1, 1, 16384)
    assert running.said == [move.commands[0].text, *["show servers state"] * 3, "set server web/a state ready"]
