# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Auto Scaling groups and status checks, over HTTP: against moto, which has groups, and against a canned endpoint that has every state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import boto3
import pytest
from ec2_endpoint import REGION, Answer, Ec2Endpoint, error, instance, interface, page, query_error, query_page, role_key
from ec2_module import Result, run_module
from moto_aws import ACCESS_KEY, SECRET_KEY, MotoAws

TAG = "aws:autoscaling:groupName"
FAR = "arn:aws:iam::444455556666:role/far"


@pytest.fixture
def ec2() -> Iterator[Ec2Endpoint]:
    with Ec2Endpoint() as endpoint:
        yield endpoint


def run(server: MotoAws | Ec2Endpoint, **options: Any) -> Result:
    return run_module(server.environment, **{"security_groups": ["webheads"], "retries": 0, "timeout": 20, "lifecycle": "in_service", **options})


def one(number: int, group: str | None = "web", **more: Any) -> str:
    return instance(f"i-{number:08x}", interface(f"10.0.{number // 256}.{number % 256}"), tags={TAG: group} if group else {}, **more)


def ids(instances: list[dict[str, Any]]) -> list[str]:
    return [found["instance_id"] for found in instances]


def test_the_states_of_a_real_group_are_read() -> None:
    with MotoAws() as aws:
        standalone = aws.launch("webheads")
        group_id = aws.group_id("webheads")
        scaling = boto3.client("autoscaling", region_name=aws.region, endpoint_url=aws.url, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY)
        scaling.create_launch_configuration(LaunchConfigurationName="web", ImageId="ami-12345678", InstanceType="t3.micro", SecurityGroups=[group_id])
        subnet = aws.ec2().describe_subnets(Filters=[{"Name": "vpc-id", "Values": [aws.vpc()]}])["Subnets"][0]["SubnetId"]
        scaling.create_auto_scaling_group(
            AutoScalingGroupName="web", LaunchConfigurationName="web", MinSize=0, MaxSize=5, DesiredCapacity=3, VPCZoneIdentifier=subnet
        )
        members = [found["InstanceId"] for found in scaling.describe_auto_scaling_instances()["AutoScalingInstances"]]
        scaling.enter_standby(AutoScalingGroupName="web", InstanceIds=members[:1], ShouldDecrementDesiredCapacity=True)
        scaling.detach_instances(AutoScalingGroupName="web", InstanceIds=members[1:2], ShouldDecrementDesiredCapacity=True)
        result = run(aws, instance_status="ok")
        assert sorted(ids(result.draining["webheads"])) == members[:1]
        # A detached instance has no tag of the group any more.
        assert {found["instance_id"]: found["lifecycle_state"] for found in result.instances["webheads"]} == {
            standalone: None,
            members[1]: None,
            members[2]: "InService",
        }
        alone = run(aws, standalone_instances="exclude")
        assert ids(alone.instances["webheads"]) == [members[2]]
        assert {found["instance_id"] for found in alone.excluded["webheads"]} == {standalone, members[1]}


def test_instances_in_service_are_in_and_those_on_their_way_out_are_told_apart(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[one(1), one(2), one(3, "batch"), one(4), one(5, None), one(6, state="shutting-down"), one(7)]]
    ec2.lifecycle_states = dict(
        zip([f"i-{number:08x}" for number in range(1, 7)], ["InService", "Pending:Wait", "Standby", "Terminating:Wait", "x", "Terminating"])
    )
    result = run(ec2)
    assert [(found["instance_id"], found["lifecycle_state"], found["auto_scaling_group"]) for found in result.instances["webheads"]] == [
        ("i-00000001", "InService", "web"),
        ("i-00000005", None, None),
    ]
    assert [(found["instance_id"], found["lifecycle_state"], found["auto_scaling_group"]) for found in result.draining["webheads"]] == [
        ("i-00000003", "Standby", "batch"),
        ("i-00000004", "Terminating:Wait", "web"),
    ]
    assert {found["instance_id"]: found["reason"] for found in result.excluded["webheads"]} == {
        "i-00000002": "its lifecycle state is 'Pending:Wait'",
        "i-00000006": "its state is 'shutting-down'",
        "i-00000007": "it carries the tag of the Auto Scaling group 'web', and Auto Scaling does not list it",
    }
    # Only those that are usable otherwise, and in a group.
    (asked,) = (request.listed("InstanceIds.member") for request in ec2.requests if request.service == "autoscaling")
    assert asked == ["i-00000001", "i-00000002", "i-00000003", "i-00000004", "i-00000007"]


def test_the_minimum_does_not_count_those_on_their_way_out_and_the_message_names_them(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[one(1)]]
    ec2.lifecycle_states = {"i-00000001": "Terminating:Wait"}
    result = run(ec2)
    assert result.failed
    assert "'webheads' has 0, minimum_instances is 1 (1 excluded: i-00000001: it is draining (Terminating:Wait))" in result.message
    # The group is known to exist by its instance.
    assert ec2.count("DescribeSecurityGroups") == 0
    assert ids(run(ec2, minimum_instances=0).draining["webheads"]) == ["i-00000001"]


def test_one_on_its_way_out_or_not_yet_in_service_takes_no_address_from_another(ec2: Ec2Endpoint) -> None:
    def at_one_address(number: int) -> str:
        return instance(f"i-{number:08x}", interface("10.0.0.1"), tags={TAG: "web"}, launched=f"2026-01-31T06:00:0{number}.000Z")

    ec2.regions[REGION] = [[at_one_address(number) for number in (1, 2, 3, 4)]]
    ec2.lifecycle_states = {"i-00000001": "InService", "i-00000002": "InService", "i-00000003": "Pending", "i-00000004": "Terminating"}
    result = run(ec2)
    assert ids(result.instances["webheads"]) == ["i-00000002"]
    assert ids(result.draining["webheads"]) == ["i-00000004"]
    assert [found["instance_id"] for found in result.excluded["webheads"]] == ["i-00000001", "i-00000003"]


def test_each_service_is_asked_for_as_many_instances_a_call_as_it_takes(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[one(number) for number in range(1, 121)]]
    ec2.lifecycle_states = {f"i-{number:08x}": "InService" for number in range(1, 121)}
    result = run(ec2, instance_status="ok")
    assert len(result.ids("webheads")) == 120
    for operation, name, sizes in (("DescribeAutoScalingInstances", "InstanceIds.member", [20, 50, 50]), ("DescribeInstanceStatus", "InstanceId", [20, 100])):
        asked = [request.listed(name) for request in ec2.requests if request.operation == operation]
        assert sorted(map(len, asked)) == sizes
        assert sorted(instance_id for call in asked for instance_id in call) == result.ids("webheads")


def test_nobody_is_asked_when_there_is_nothing_to_ask(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[one(1, None)]]
    run(ec2)
    run(ec2, lifecycle="any")
    ec2.regions[REGION] = [[one(1)]]
    result = run(ec2, lifecycle="any")
    assert (result.ids("webheads"), result.draining) == (["i-00000001"], {"webheads": []})
    assert {request.operation for request in ec2.requests} == {"DescribeInstances"}


def test_each_account_and_region_is_asked_for_its_own_instances(ec2: Ec2Endpoint) -> None:
    ec2.regions = {REGION: [[one(1)]], "us-east-1": [[one(2)]]}
    ec2.accounts = {role_key(FAR): {REGION: [[one(3)]]}}
    ec2.lifecycle_states = {"i-00000001": "InService", "i-00000002": "InService", "i-00000003": "Standby"}
    result = run(ec2, sources=[{"regions": [REGION, "us-east-1"]}, {"regions": [REGION], "assume_role_arn": [FAR]}])
    assert (ids(result.instances["webheads"]), ids(result.draining["webheads"])) == (["i-00000001", "i-00000002"], ["i-00000003"])
    own = ec2.environment["AWS_ACCESS_KEY_ID"]
    asked = sorted((one.region, one.access_key, one.listed("InstanceIds.member")) for one in ec2.requests if one.service == "autoscaling")
    assert asked == sorted([(REGION, own, ["i-00000001"]), ("us-east-1", own, ["i-00000002"]), (REGION, role_key(FAR), ["i-00000003"])])


def test_only_instances_with_both_checks_passed_are_in(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[one(1), one(2, None), one(3), one(4), one(5)]]
    ec2.lifecycle_states = {f"i-{number:08x}": "InService" for number in (1, 3, 5)} | {"i-00000004": "Terminating:Wait"}
    ec2.statuses = {"i-00000002": ("initializing", "ok"), "i-00000003": ("ok", "impaired"), "i-00000004": ("impaired", "impaired")}
    result = run(ec2, instance_status="ok")
    assert (ids(result.instances["webheads"]), ids(result.draining["webheads"])) == (["i-00000001", "i-00000005"], ["i-00000004"])
    assert {found["instance_id"]: found["reason"] for found in result.excluded["webheads"]} == {
        "i-00000002": "its instance status is 'initializing'",
        "i-00000003": "its system status is 'impaired'",
    }
    (asked,) = (request for request in ec2.requests if request.operation == "DescribeInstanceStatus")
    assert asked.listed("InstanceId") == ["i-00000001", "i-00000002", "i-00000003", "i-00000005"]
    assert asked.parameters["IncludeAllInstances"] == "true"


@pytest.mark.parametrize(
    ("operation", "answer", "code"),
    [
        ("DescribeAutoScalingInstances", query_error(403, "AccessDenied", "not authorized"), "AccessDenied: not authorized"),
        ("DescribeAutoScalingInstances", Answer(body="<html><body>Sign in</body></html>"), "failed: "),
        ("DescribeAutoScalingInstances", query_page("autoscaling", "DescribeAutoScalingInstances", ""), "MalformedAnswer"),
        (
            "DescribeAutoScalingInstances",
            query_page(
                "autoscaling",
                "DescribeAutoScalingInstances",
                "<AutoScalingInstances><member><InstanceId>i-00000001</InstanceId></member></AutoScalingInstances>",
            ),
            "MalformedAnswer",
        ),
        ("DescribeInstanceStatus", error(403, "UnauthorizedOperation"), "UnauthorizedOperation"),
        ("DescribeInstanceStatus", page("DescribeInstanceStatus", ""), "MalformedAnswer"),
    ],
)
def test_a_failed_question_fails_everything(ec2: Ec2Endpoint, operation: str, answer: Answer, code: str) -> None:
    ec2.regions[REGION] = [[one(1)]]
    ec2.lifecycle_states = {"i-00000001": "InService"}
    ec2.fault(operation, answer)
    result = run(ec2, instance_status="ok")
    assert result.failed and "ansible_facts" not in result
    assert f"{operation} in eu-west-1 failed: " in result.message and code in result.message


def test_leaving_out_standalone_instances_takes_the_lifecycle(ec2: Ec2Endpoint) -> None:
    result = run(ec2, lifecycle="any", standalone_instances="exclude")
    assert result.message.startswith("standalone_instances: 'exclude' is for lifecycle in_service")
    assert ec2.requests == []


# --- The completion ---------------------------------------------------------------------------------------------------


def complete(ec2: Ec2Endpoint, *numbers: int, found_by: Mapping[int, int] | None = None, **options: Any) -> Result:
    """Complete the action of these instances.

    :param found_by: number → index of its source; 0 for those that are not in here.
    """
    instances = [
        {"instance_id": f"i-{number:08x}", "auto_scaling_group": "web", "region": REGION, "source": (found_by or {}).get(number, 0)} for number in numbers
    ]
    asked = {"lifecycle_hook_name": "drain", "instances": instances, "retries": 0, "timeout": 20, **options}
    return run_module(ec2.environment, module="ec2_complete_lifecycle_action", **asked)


def test_an_action_is_completed_and_one_that_is_over_is_no_error_and_no_change(ec2: Ec2Endpoint) -> None:
    ec2.lifecycle_states = {"i-00000001": "Terminating:Wait", "i-00000002": "Terminating:Proceed"}
    result = complete(ec2, 2, 1)
    assert (result["changed"], result["completed"]) == (True, ["i-00000001"])
    (request,) = (one for one in ec2.requests if one.parameters["InstanceId"] == "i-00000001")
    assert {key: value for key, value in request.parameters.items() if key not in ("Action", "Version")} == {
        "LifecycleHookName": "drain",
        "AutoScalingGroupName": "web",
        "InstanceId": "i-00000001",
        "LifecycleActionResult": "CONTINUE",
    }
    over = complete(ec2, 2, result="ABANDON")
    assert (over.failed, over["changed"], over["completed"]) == (False, False, [])
    assert ec2.requests[-1].parameters["LifecycleActionResult"] == "ABANDON"


def test_in_check_mode_nobody_is_asked(ec2: Ec2Endpoint) -> None:
    result = complete(ec2, 1, 2, _ansible_check_mode=True)
    assert (result["changed"], result["completed"]) == (True, ["i-00000001", "i-00000002"])
    assert (complete(ec2)["changed"], ec2.requests) == (False, [])


def test_an_action_is_completed_by_the_role_of_its_source_and_no_other_role_is_assumed(ec2: Ec2Endpoint) -> None:
    ec2.lifecycle_states = {"i-00000001": "Terminating:Wait", "i-00000002": "Terminating:Wait"}
    sources = [{}, {"assume_role_arn": [FAR], "external_id": "agreed"}, {"assume_role_arn": [FAR.replace("far", "unused")]}]
    result = complete(ec2, 1, 2, found_by={2: 1}, sources=sources)
    assert result["completed"] == ["i-00000001", "i-00000002"]
    own = ec2.environment["AWS_ACCESS_KEY_ID"]
    assert sorted((one.operation, one.access_key) for one in ec2.requests) == sorted(
        [("AssumeRole", own), ("CompleteLifecycleAction", own), ("CompleteLifecycleAction", role_key(FAR))]
    )


def test_one_that_fails_keeps_no_other_waiting(ec2: Ec2Endpoint) -> None:
    ec2.lifecycle_states = {"i-00000001": "Terminating:Wait", "i-00000002": "Terminating:Wait"}
    done = query_page("autoscaling", "CompleteLifecycleAction", "")
    ec2.fault("CompleteLifecycleAction", query_error(403, "AccessDenied", "not authorized"), done)
    result = complete(ec2, 1, 2)
    assert result.failed
    assert "CompleteLifecycleAction of i-0000000" in result.message and "in eu-west-1 failed: AccessDenied: not authorized" in result.message
    assert len(result["completed"]) == 1 and ec2.count("CompleteLifecycleAction") == 2
