# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""How the client is set up, where no call shows it."""

from __future__ import annotations

from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_client import _Ec2
from botocore.session import Session


def test_the_timeout_is_that_of_a_connection_too() -> None:
    options = {"endpoint_url": None, "aws_ca_bundle": None, "validate_certs": True, "timeout": 7, "retries": 0}
    config = _Ec2(Session(), "eu-west-1", options)._client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (7, 7)
