# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""The policies that are printed are enough, and no more: against an endpoint that refuses every call that they do not allow."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_policy import WHO_RUNS, policies
from ec2_endpoint import REGION, Ec2Endpoint, instance, page, role_key, security_group
from ec2_module import ROOT, Result, run_module
from iam import ACCOUNT, action_of, enforce
from policies import options_of

OWN_KEY = "AKIACANNEDCANNEDCANN"

# What each configuration needs besides ec2:DescribeInstances. The calls for an empty group are another test's.
CONFIGURATIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "plain": ({}, set()),
    "a region": ({"regions": [REGION]}, set()),
    "two regions": ({"regions": [REGION, "us-east-1"]}, set()),
    "all regions": ({"regions": ["all"]}, {"ec2:DescribeRegions"}),
    "in service": ({"lifecycle": "in_service"}, {"autoscaling:DescribeAutoScalingInstances"}),
    "an interface by index": ({"interface": {"device_index": 0}}, set()),
    "an interface by tag": ({"interface": {"tags": {"Role": "traffic"}}}, {"ec2:DescribeNetworkInterfaces"}),
    "status": ({"instance_status": "ok", "regions": [REGION]}, {"ec2:DescribeInstanceStatus"}),
}


@pytest.fixture
def ec2() -> Iterator[Ec2Endpoint]:
    with Ec2Endpoint() as endpoint:
        tags = {"aws:autoscaling:groupName": "web"}
        endpoint.regions = {REGION: [[instance("i-0000000a", tags=tags)]], "us-east-1": [[instance("i-0000000b", tags=tags)]]}
        found = "<networkInterfaceSet><item><networkInterfaceId>eni-00000000</networkInterfaceId></item></networkInterfaceSet>"
        endpoint.fault("DescribeNetworkInterfaces", page("DescribeNetworkInterfaces", found))
        endpoint.lifecycle_states = {"i-0000000a": "InService", "i-0000000b": "InService"}
        endpoint.groups = {REGION: [security_group("sg-00000001", "webheads")]}
        yield endpoint


def run(ec2: Ec2Endpoint, **options: Any) -> Result:
    return run_module(ec2.environment, **{"security_groups": ["webheads"], "retries": 0, "timeout": 10, **options})


def policies_for(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The policy of each access key, in the order of the identities."""
    given = {f"haproxy_autoscale_{name}": value for name, value in options.items()}
    return {OWN_KEY if entry["identity"] == WHO_RUNS else role_key(entry["identity"]): entry["policy"] for entry in policies(options_of(given))}


def policy_for(options: dict[str, Any]) -> dict[str, Any]:
    """The policy of the one identity."""
    (policy,) = policies_for(options).values()
    return policy


def without(policy: dict[str, Any], action: str) -> dict[str, Any]:
    less = copy.deepcopy(policy)
    for statement in less["Statement"]:
        statement["Action"] = [other for other in statement["Action"] if other != action]
    return less


def actions(policy: dict[str, Any]) -> set[str]:
    return {action for statement in policy["Statement"] for action in statement["Action"]}


def obey(ec2: Ec2Endpoint, policy: dict[str, Any]) -> None:
    obey_each(ec2, {OWN_KEY: policy})


def obey_each(ec2: Ec2Endpoint, of_keys: dict[str, dict[str, Any]]) -> None:
    ec2.requests.clear()
    ec2.refuses = enforce(of_keys)


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


def test_of_a_chain_and_a_source_beside_it_each_identity_may_do_its_own_and_no_more(ec2: Ec2Endpoint) -> None:
    hub, last = (f"arn:aws:iam::{ACCOUNT}:role/{name}" for name in ("hub", "discovery"))
    options = {"sources": [{"regions": [REGION]}, {"regions": ["us-east-1"], "assume_role_arn": [hub, last]}], "lifecycle": "in_service"}
    everyone = policies_for(options)
    assert list(everyone) == [OWN_KEY, role_key(hub), role_key(last)]
    obey_each(ec2, everyone)
    assert run(ec2, **options).ids("webheads") == ["i-0000000a", "i-0000000b"]
    search = {"ec2:DescribeInstances", "autoscaling:DescribeAutoScalingInstances"}
    expected = {OWN_KEY: {*search, "sts:AssumeRole"}, role_key(hub): {"sts:AssumeRole"}, role_key(last): search}
    assert {key: {action_of(request) for request in ec2.requests if request.access_key == key} for key in everyone} == expected
    for key, needed in expected.items():
        assert actions(everyone[key]) - {"ec2:DescribeSecurityGroups"} == needed
        for action in needed:
            obey_each(ec2, {**everyone, key: without(everyone[key], action)})
            refused = run(ec2, **options)
            assert refused.failed, f"{key}: {action}"
            assert action.split(":")[1] in refused.message
    # Its own role is not another's.
    obey_each(ec2, {**everyone, OWN_KEY: everyone[role_key(hub)]})
    assert f"AssumeRole of {hub}" in run(ec2, **options).message


def test_a_hook_is_completed_with_its_policy_and_in_no_other_region(ec2: Ec2Endpoint) -> None:
    options = {"regions": [REGION], "lifecycle": "in_service"}
    ec2.lifecycle_states = {"i-0000000a": "Terminating:Wait"}
    policy = policy_for({**options, "complete_lifecycle_action": "drain"})

    def complete(region: str) -> Result:
        waiting = [{"instance_id": "i-0000000a", "auto_scaling_group": "web", "region": region}]
        hook = {"module": "ec2_complete_lifecycle_action", "lifecycle_hook_name": "drain"}
        return run_module(ec2.environment, **hook, instances=waiting, retries=0, timeout=10)

    obey(ec2, policy)
    assert complete(REGION)["completed"] == ["i-0000000a"]
    assert [action_of(request) for request in ec2.requests] == ["autoscaling:CompleteLifecycleAction"]
    for refused in (complete("us-east-1"), (obey(ec2, policy_for(options)), complete(REGION))[1]):
        assert "CompleteLifecycleAction" in refused.message and "AccessDenied" in refused.message


@pytest.mark.parametrize("playbook", [str(ROOT / "playbooks" / "iam_policy.yml"), "autoscale.haproxy.iam_policy"], ids=["checkout", "collection"])
def test_one_command_prints_the_policies_of_the_roles_variables(tmp_path: Path, playbook: str) -> None:
    role = f"arn:aws:iam::{ACCOUNT}:role/discovery"
    variables = {
        "haproxy_autoscale_security_groups": ["webheads"],
        "haproxy_autoscale_regions": [REGION],
        "haproxy_autoscale_lifecycle": "in_service",
        "haproxy_autoscale_instance_status": "ok",
        "haproxy_autoscale_interface": {"tags": {"Role": "traffic"}},
        "haproxy_autoscale_complete_lifecycle_action": "drain",
        "haproxy_autoscale_sources": [{}, {"assume_role_arn": [role], "regions": ["all"]}],
    }
    (tmp_path / "my-variables.json").write_text(json.dumps({**variables, "ansible_python_interpreter": sys.executable}))
    collection = tmp_path / "ansible_collections" / "autoscale" / "haproxy"
    collection.parent.mkdir(parents=True)
    collection.symlink_to(ROOT)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "ANSIBLE_"))}
    environment.update({"ANSIBLE_COLLECTIONS_PATH": str(tmp_path), "ANSIBLE_HOME": str(tmp_path / "home"), "ANSIBLE_NOCOLOR": "1"})
    command = [str(Path(sys.executable).with_name("ansible-playbook")), playbook, "-e", "@my-variables.json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = re.findall(r"^ok: \[localhost\] => \(item=([^\n]*)\) => (\{.*?^\})", done.stdout, re.MULTILINE | re.DOTALL)
    expected = policies(options_of(variables))
    assert len(expected) == 2
    assert [{"identity": identity, "policy": json.loads(shown)["msg"]} for identity, shown in printed] == expected
