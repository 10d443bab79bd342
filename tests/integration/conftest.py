# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What several of these files begin with. A file that needs it otherwise has its own under the same name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from backends import Backends
from balancer import Balancer
from crash import Driver
from ec2_endpoint import Ec2Endpoint, security_group
from haproxy_binaries import binaries
from stage import address


@pytest.fixture(params=list(binaries().items()), ids=lambda item: item[0])
def balancer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Balancer]:
    """A folder for a HAProxy of each version at hand."""
    made = Balancer(tmp_path, request.param[1])
    yield made
    made.stop()


@pytest.fixture(scope="module")
def web() -> Iterator[Backends]:
    """The instances of a stage."""
    with Backends(*(address(number) for number in range(1, 9))) as made:
        yield made


@pytest.fixture
def aws() -> Iterator[Ec2Endpoint]:
    """An EC2 with the group of a stage."""
    with Ec2Endpoint() as made:
        made.groups["eu-west-1"] = [security_group("sg-00000001", "webheads")]
        yield made


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    """Runs that can be killed at each of their steps."""
    with Driver() as made:
        yield made
