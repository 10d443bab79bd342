# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""All that a run of the role needs: a balancer, its instances on loopback, and an EC2 that says who they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends import Backends
from balancer import Balancer, Run
from ec2_endpoint import Ec2Endpoint, instance, interface


def instance_id(number: int) -> str:
    return f"i-{number:017x}"


def address(number: int) -> str:
    return f"127.0.3.{number}"


def one(number: int, **more: Any) -> str:
    """The instance with this number, in the group webheads; launched in the order of the numbers."""
    return instance(
        instance_id(number),
        interface(address=address(number)),
        launched=f"2026-01-31T06:{number // 60:02d}:{number % 60:02d}.000Z",
        **more,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Stage:
    """A balancer, its instances and its EC2, and the role's variables."""

    def __init__(self, folder: Path, binary: str, web: Backends, aws: Ec2Endpoint) -> None:
        self.balancer = Balancer(folder, binary, aws.environment)
        self.aws = aws
        self.web = web
        self.variables = self.balancer.variables(web.port)

    def members(self, *numbers: int) -> None:
        self.aws.regions["eu-west-1"] = [[one(number) for number in numbers]]

    def run(self, *arguments: str, **more: Any) -> Run:
        return self.balancer.run({**self.variables, **more}, *arguments)

    def apply(self, *numbers: int, **more: Any) -> Run:
        """A run that must succeed, with these members."""
        self.members(*numbers)
        done = self.run(**more)
        assert done.status == 0, done.output
        return done

    def serves(self, *numbers: int) -> bool:
        """Whether requests reach exactly these instances, as soon as the new ones have passed their checks."""
        for _attempt in range(50):
            if self.balancer.reached() == {address(number) for number in numbers}:
                return True
            time.sleep(0.2)
        return False

    def untouched(self) -> Callable[[], bool]:
        """A check that file, process and traffic are as they are now."""
        before = self._traces()

        def same() -> bool:
            return self._traces() == before

        return same

    def _traces(self) -> tuple[bytes, int, set[str], list[str]]:
        balancer = self.balancer
        # variables.json is the test's own.
        left = [name for name in names(balancer.folder) if name != "variables.json"]
        return balancer.config.read_bytes(), balancer.worker(), balancer.reached(), left
