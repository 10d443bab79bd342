# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Which identity needs which policy. That the policies are enough, and no more, is tested against an endpoint that enforces them."""

from __future__ import annotations

import json
import re
from typing import Any

import policies as page
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_policy import WHO_RUNS, policies

FIRST, SECOND = "arn:aws:iam::111122223333:role/first", "arn:aws:iam::444455556666:role/second"


def needed(**options: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """Identity → Sid → statement."""
    nothing = {"regions": None, "lifecycle": "any", "instance_status": "any", "interface": None, "lifecycle_hook_name": "", "profile": None}
    found = policies({**nothing, "assume_role_arn": None, "sources": None, **options})
    for entry in found:
        assert entry["policy"]["Version"] == "2012-10-17"
        assert all(re.fullmatch("[A-Za-z0-9]+", statement["Sid"]) and statement["Effect"] == "Allow" for statement in entry["policy"]["Statement"])
    return {entry["identity"]: {statement["Sid"]: statement for statement in entry["policy"]["Statement"]} for entry in found}


def test_the_plain_search_needs_two_actions_and_each_option_its_own() -> None:
    def actions(**options: Any) -> list[str]:
        statement = needed(**options)[WHO_RUNS]["FindInstances"]
        assert statement["Resource"] == "*"
        return list(statement["Action"])

    plain = ["ec2:DescribeInstances", "ec2:DescribeSecurityGroups"]
    assert actions() == plain
    assert set(actions(regions=["all"])) == {*plain, "ec2:DescribeRegions"}
    assert set(actions(instance_status="ok")) == {*plain, "ec2:DescribeInstanceStatus"}
    assert set(actions(interface={"tags": {"Role": "web"}})) == {*plain, "ec2:DescribeNetworkInterfaces"}
    assert actions(interface={"device_index": 1, "tags": {}}) == plain
    assert set(actions(lifecycle="in_service")) == {*plain, "autoscaling:DescribeAutoScalingInstances"}


def test_regions_that_are_named_limit_the_search_to_them() -> None:
    assert needed(regions=["eu-west-1", "eu-central-1"])[WHO_RUNS]["FindInstances"]["Condition"] == {
        "StringEquals": {"aws:RequestedRegion": ["eu-central-1", "eu-west-1"]}
    }
    for regions in (None, [], ["all"]):
        assert "Condition" not in needed(regions=regions)[WHO_RUNS]["FindInstances"]


def test_a_hook_is_completed_in_the_groups_of_the_regions_of_the_account_and_partition_as_far_as_they_are_known() -> None:
    def groups(identity: str = WHO_RUNS, **options: Any) -> list[str]:
        return list(needed(lifecycle="in_service", lifecycle_hook_name="drain", **options)[identity]["CompleteLifecycleActions"]["Resource"])

    assert groups() == groups(regions=["all"]) == ["arn:*:autoscaling:*:*:autoScalingGroup:*:autoScalingGroupName/*"]
    assert [arn.split(":")[1:5] for arn in groups(regions=["us-gov-west-1", "cn-north-1", "eusc-de-east-1"])] == [
        ["aws-cn", "autoscaling", "cn-north-1", "*"],
        ["aws-eusc", "autoscaling", "eusc-de-east-1", "*"],
        ["aws-us-gov", "autoscaling", "us-gov-west-1", "*"],
    ]
    assert groups(FIRST, assume_role_arn=[FIRST], regions=["eu-west-1"])[0].startswith("arn:aws:autoscaling:eu-west-1:111122223333:autoScalingGroup:")


def test_each_of_a_chain_assumes_the_next_and_the_last_searches() -> None:
    found = needed(assume_role_arn=[FIRST, SECOND])
    assert list(found) == [WHO_RUNS, FIRST, SECOND]
    assert [list(statements) for statements in found.values()] == [["AssumeRoles"], ["AssumeRoles"], ["FindInstances"]]
    assert [found[identity]["AssumeRoles"]["Resource"] for identity in (WHO_RUNS, FIRST)] == [[FIRST], [SECOND]]
    assert found[FIRST]["AssumeRoles"]["Action"] == ["sts:AssumeRole"]


def test_each_source_is_its_own_and_what_it_does_not_say_is_the_modules() -> None:
    sources = [
        {"profile": "shop", "regions": ["eu-west-1"]},
        {"profile": None, "assume_role_arn": None, "regions": None},
        {"assume_role_arn": [SECOND]},
        {"profile": "shop", "assume_role_arn": [SECOND], "regions": ["us-east-1"]},
        {"profile": "plain", "assume_role_arn": [], "regions": ["us-east-2"]},
    ]
    found = needed(sources=sources, assume_role_arn=[FIRST], regions=["eu-central-1"])
    regions = {
        identity: statements["FindInstances"]["Condition"]["StringEquals"]["aws:RequestedRegion"]
        for identity, statements in found.items()
        if "FindInstances" in statements
    }
    assert regions == {FIRST: ["eu-central-1", "eu-west-1"], SECOND: ["eu-central-1", "us-east-1"], "the profile plain": ["us-east-2"]}
    assert {identity: statements["AssumeRoles"]["Resource"] for identity, statements in found.items() if "AssumeRoles" in statements} == {
        "the profile shop": [FIRST, SECOND],
        WHO_RUNS: [FIRST, SECOND],
    }


def test_an_identity_that_searches_in_one_source_without_regions_is_not_limited() -> None:
    found = needed(sources=[{"regions": ["eu-west-1"]}, {"regions": ["all"]}, {"regions": ["us-east-1"]}])
    assert "Condition" not in found[WHO_RUNS]["FindInstances"]


def test_the_documents_have_the_policies_that_are_made() -> None:
    written = page.PAGE.read_text()
    assert len(page.POLICY.findall(written)) == 7
    assert page.page_with_policies(written) == written
    (plain,) = policies(page.options_of({"haproxy_autoscale_security_groups": ["webheads"]}))
    assert json.dumps(plain["policy"], indent=2) in (page.ROOT / "README.md").read_text()
