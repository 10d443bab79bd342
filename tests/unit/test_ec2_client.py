# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""How the client is set up, where no call shows it."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_client import _THREADS, _Account, _endpoint, _side_by_side
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_instances import Ec2Error
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_sources import sources_from
from test_ec2_sources import DEFAULTS

KEYS = {"access_key": "AKIAUNITUNITUNITUNIT", "secret_key": "secret"}


def test_the_timeout_is_that_of_a_connection_too() -> None:
    options = {**DEFAULTS, **KEYS, "regions": ["eu-west-1"], "timeout": 7}
    (source,) = sources_from(options)
    for service in ("ec2", "sts", "autoscaling"):
        config = _Account(source, options, None).client(service, "eu-west-1").meta.config
        assert (config.connect_timeout, config.read_timeout) == (7, 7)


@pytest.mark.parametrize("region", ["eu-west-1", "us-east-1", "cn-north-1"])
def test_roles_are_assumed_at_the_regions_own_endpoint(monkeypatch: pytest.MonkeyPatch, region: str) -> None:
    # What botocore before 1.40 does by itself.
    monkeypatch.setenv("AWS_STS_REGIONAL_ENDPOINTS", "legacy")
    options = {**DEFAULTS, **KEYS, "regions": [region]}
    (source,) = sources_from(options)
    suffix = ".cn" if region.startswith("cn-") else ""
    assert _Account(source, options, None).client("sts", region).meta.endpoint_url == f"https://sts.{region}.amazonaws.com{suffix}"


def test_the_option_is_ec2s_endpoint_and_that_of_the_others_unless_they_have_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all.example")
    assert {_endpoint(service, {"endpoint_url": None}) for service in ("ec2", "sts", "autoscaling")} == {"http://all.example"}
    assert {_endpoint(service, {"endpoint_url": "http://option.example"}) for service in ("ec2", "sts", "autoscaling")} == {"http://option.example"}
    monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", "http://ec2.example")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://sts.example")
    monkeypatch.setenv("AWS_ENDPOINT_URL_AUTO_SCALING", "http://autoscaling.example")
    for option, ec2 in ((None, "http://ec2.example"), ("http://option.example", "http://option.example")):
        urls = [_endpoint(service, {"endpoint_url": option}) for service in ("ec2", "sts", "autoscaling")]
        assert urls == [ec2, "http://sts.example", "http://autoscaling.example"]


def test_an_endpoint_of_the_environment_is_named_and_its_password_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://user:hunter2@sts.example")
    with pytest.raises(Ec2Error, match="^AWS_ENDPOINT_URL_STS: .* user or password") as refused:
        _endpoint("sts", {"endpoint_url": None})
    assert "hunter2" not in str(refused.value)


def test_calls_side_by_side_are_answered_in_their_order_and_a_few_at_a_time() -> None:
    running = []
    most = []
    barrier = threading.Barrier(_THREADS)

    def call(number: int) -> int:
        running.append(number)
        most.append(len(running))
        if number < _THREADS:
            # As many at once as are allowed, or the barrier breaks.
            barrier.wait(30)
            # Time for one too many to begin.
            time.sleep(0.3)
        running.remove(number)
        return number

    assert _side_by_side([partial(call, number) for number in range(50)]) == list(range(50))
    assert max(most) == _THREADS


def test_one_call_needs_no_thread() -> None:
    assert _side_by_side([threading.current_thread]) == [threading.current_thread()]


def test_the_first_failure_waits_for_no_other_call_and_begins_none() -> None:
    for_ever = threading.Event()
    begun = []

    def call(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise Ec2Error("the first")
        for_ever.wait(10)

    with pytest.raises(Ec2Error, match="the first"):
        _side_by_side([partial(call, number) for number in range(50)])
    assert len(begun) <= _THREADS + 1
    for_ever.set()
