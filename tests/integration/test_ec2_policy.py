# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""The policies that are printed are enough, and no more: against an endpoint that refuses every call that they do not allow."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_policy import policies
from ec2_endpoint import REGION, Ec2Endpoint, instance, security_group
from ec2_module import Result, run_module
from iam import action_of, enforce

NOTHING: dict[str, Any] = {
    "regions": None,
    "lifecycle": "any",
    "instance_status": "any",
    "interface": None,
    "lifecycle_hook_name": "",
    "profile": None,
    "assume_role_arn": None,
    "sources": None,
}

# What each configuration needs besides ec2:DescribeInstances. The calls for an empty group are another test's.
CONFIGURATIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "plain": ({}, set()),
    "a region": ({"regions": [REGION]}, set()),
    "two regions": ({"regions": [REGION, "us-east-1"]}, set()),
    "all regions": ({"regions": ["all"]}, {"ec2:DescribeRegions"}),
}


@pytest.fixture
def ec2() -> Iterator[Ec2Endpoint]:
    with Ec2Endpoint() as endpoint:
        endpoint.regions = {REGION: [[instance("i-0000000a")]], "us-east-1": [[instance("i-0000000b")]]}
        endpoint.groups = {REGION: [security_group("sg-00000001", "webheads")]}
        yield endpoint


def run(ec2: Ec2Endpoint, **options: Any) -> Result:
    return run_module(ec2.environment, **{"security_groups": ["webheads"], "retries": 0, "timeout": 10, **options})


def policy_for(options: dict[str, Any]) -> dict[str, Any]:
    """The policy of the one identity."""
    (needed,) = policies({**NOTHING, **{name: value for name, value in options.items() if name in NOTHING}})
    policy: dict[str, Any] = needed["policy"]
    return policy


def without(policy: dict[str, Any], action: str) -> dict[str, Any]:
    less = copy.deepcopy(policy)
    for statement in less["Statement"]:
        statement["Action"] = [other for other in statement["Action"] if other != action]
    return less


def actions(policy: dict[str, Any]) -> set[str]:
    return {action for statement in policy["Statement"] for action in statement["Action"]}


def obey(ec2: Ec2Endpoint, policy: dict[str, Any]) -> None:
    ec2.requests.clear()
    ec2.refuses = enforce({ec2.environment["AWS_ACCESS_KEY_ID"]: policy})


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_policy_allows_what_the_discovery_calls_and_nothing_that_it_does_not(ec2: Ec2Endpoint, name: str) -> None:
    options, more = CONFIGURATIONS[name]
    policy = policy_for(options)
    needed = {"ec2:DescribeInstances", *more}
    assert actions(policy) == {*needed, "ec2:DescribeSecurityGroups"}
    obey(ec2, policy)
    result = run(ec2, **options)
    assert not result.failed, result
    assert {action_of(request) for request in ec2.requests} == needed
    for action in needed:
        obey(ec2, without(policy, action))
        refused = run(ec2, **options)
        assert refused.failed, action
        assert action.split(":")[1] in refused.message
        assert "ansible_facts" not in refused


def test_an_empty_group_needs_to_be_looked_up(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[]]
    policy = policy_for({})
    obey(ec2, policy)
    assert run(ec2, minimum_instances=0).instances == {"webheads": []}
    obey(ec2, without(policy, "ec2:DescribeSecurityGroups"))
    assert "DescribeSecurityGroups in eu-west-1 failed: UnauthorizedOperation" in run(ec2, minimum_instances=0).message


def test_the_policy_of_a_region_allows_nothing_in_another(ec2: Ec2Endpoint) -> None:
    obey(ec2, policy_for({"regions": [REGION]}))
    assert "DescribeInstances in us-east-1 failed: UnauthorizedOperation" in run(ec2, regions=[REGION, "us-east-1"]).message
