# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Several accounts: who asks for what, over HTTP, and that one that fails fails all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ec2_endpoint import REGION, Answer, Ec2Endpoint, error, instance, interface, query_error, query_page, role_key, security_group
from ec2_module import Result, run_module

HUB, FAR, OTHER = (f"arn:aws:iam::{account}:role/{name}" for account, name in ((111122223333, "hub"), (444455556666, "far"), (777788889999, "far")))


@pytest.fixture
def ec2() -> Iterator[Ec2Endpoint]:
    with Ec2Endpoint() as endpoint:
        endpoint.regions = {REGION: [[instance("i-0000000a")]]}
        endpoint.accounts = {
            role_key(FAR): {
                REGION: [[instance("i-0000000b", interface("10.1.0.1", vpc="vpc-00000002"))]],
                "us-east-1": [[instance("i-0000000c", interface("10.1.0.2", vpc="vpc-00000003"))]],
            },
            role_key(OTHER): {REGION: [[instance("i-0000000d", interface("10.2.0.1", [("sg-00000002", "db")]))]]},
        }
        yield endpoint


def run(ec2: Ec2Endpoint, *sources: dict[str, Any], environment: dict[str, str] | None = None, **options: Any) -> Result:
    asked = {"security_groups": ["webheads"], "regions": [REGION], "retries": 0, "timeout": 20, **options}
    return run_module({**ec2.environment, **(environment or {})}, **asked, **({"sources": list(sources)} if sources else {}))


def test_a_chain_of_roles_is_assumed_each_by_the_one_before(ec2: Ec2Endpoint) -> None:
    result = run(ec2, assume_role_arn=[HUB, FAR], external_id="agreed", role_session_name="lb-1", regions=["us-east-1", REGION])
    assert result.ids("webheads") == ["i-0000000b", "i-0000000c"]
    own, hub, far = ec2.environment["AWS_ACCESS_KEY_ID"], role_key(HUB), role_key(FAR)
    calls = [(one.operation, one.region, one.access_key, one.session_token) for one in ec2.requests]
    # In the first region by name; and the instances by the last role alone.
    assert calls[:2] == [("AssumeRole", REGION, own, None), ("AssumeRole", REGION, hub, f"token-of-{hub}")]
    assert sorted(calls[2:]) == [("DescribeInstances", region, far, f"token-of-{far}") for region in (REGION, "us-east-1")]
    first, second = (one.parameters for one in ec2.requests[:2])
    assert (first["RoleArn"], first["RoleSessionName"], first.get("ExternalId")) == (HUB, "lb-1", None)
    assert (second["RoleArn"], second["RoleSessionName"], second.get("ExternalId")) == (FAR, "lb-1", "agreed")
    assert "secret-of-" not in json.dumps(result) and "token-of-" not in json.dumps(result)


def test_a_group_of_several_accounts_is_one_list_and_each_instance_says_its_source(ec2: Ec2Endpoint) -> None:
    far = {"assume_role_arn": [FAR], "regions": ["all"]}
    result = run(ec2, {}, far, {"assume_role_arn": [OTHER], "security_groups": ["db"]}, security_groups=["webheads", "db"])
    assert {group: [(one["instance_id"], one["source"], one["region"]) for one in found] for group, found in result.instances.items()} == {
        "webheads": [("i-0000000a", 0, REGION), ("i-0000000b", 1, REGION), ("i-0000000c", 1, "us-east-1")],
        "db": [("i-0000000d", 2, REGION)],
    }
    assert {(one.operation, one.access_key) for one in ec2.requests if one.region == REGION and one.service == "ec2"} == {
        *(("DescribeInstances", key) for key in (ec2.environment["AWS_ACCESS_KEY_ID"], role_key(FAR), role_key(OTHER))),
        ("DescribeRegions", role_key(FAR)),
    }
    assert [one.filters["instance.group-name"] for one in ec2.requests if one.access_key == role_key(OTHER)] == [["db"]]


def test_the_minimum_counts_all_accounts_together(ec2: Ec2Endpoint) -> None:
    sources = [{}, {"assume_role_arn": [FAR], "regions": [REGION, "us-east-1"]}]
    assert len(run(ec2, *sources, minimum_instances=3).ids("webheads")) == 3
    assert "'webheads' has 3, minimum_instances is 4" in run(ec2, *sources, minimum_instances=4).message


def test_an_entry_may_have_a_profile_beside_one_with_the_keys_of_the_module(ec2: Ec2Endpoint, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile far]\naws_access_key_id = AKIAPROFILEPROFILEPR\naws_secret_access_key = secret-of-a-profile\n")
    ec2.accounts["AKIAPROFILEPROFILEPR"] = {REGION: [[instance("i-0000000e", interface("10.3.0.1"))]]}
    keys = {"access_key": "AKIAOPTIONOPTIONOPTI", "secret_key": "secret-of-an-option"}
    result = run(ec2, {}, {"profile": "far"}, environment={"AWS_CONFIG_FILE": str(tmp_path / "config")}, **keys)
    assert {one.access_key for one in ec2.requests} == {"AKIAPROFILEPROFILEPR", "AKIAOPTIONOPTIONOPTI"}
    assert result.ids("webheads") == ["i-0000000a", "i-0000000e"]


def assert_failed(result: Result, *parts: str) -> None:
    assert result.failed, result
    assert "ansible_facts" not in result
    for part in parts:
        assert part in result.message
    assert len(result.message) < 1500


def test_one_source_that_fails_fails_all_and_is_named_and_no_other_is_waited_for(ec2: Ec2Endpoint) -> None:
    ec2.accounts[role_key(OTHER)] = {}
    ec2.fault("DescribeInstances", error(403, "UnauthorizedOperation"), region="us-east-1")
    # For longer than the module is given by the test.
    ec2.fault("DescribeInstances", Answer(delay=90), region="eu-central-1")
    sources = [{"regions": ["eu-central-1"]}, {"assume_role_arn": [FAR], "regions": [REGION, "us-east-1"]}]
    assert_failed(run(ec2, *sources, timeout=120), "DescribeInstances in us-east-1 (sources[1]) failed: UnauthorizedOperation")


def test_a_role_that_cannot_be_assumed_fails_all_before_any_instance_is_asked_for(ec2: Ec2Endpoint) -> None:
    denied = query_error(403, "AccessDenied", "User: arn:aws:iam::111122223333:user/x is not authorized to perform: sts:AssumeRole")
    ec2.fault("AssumeRole", denied)
    assert_failed(run(ec2, {}, {"assume_role_arn": [FAR]}), f"AssumeRole of {FAR} in eu-west-1 (sources[1]) failed: AccessDenied: User: ")
    ec2.fault("AssumeRole", query_error(403, "RegionDisabledException", "STS is not activated in this region for account:111122223333."))
    assert_failed(run(ec2, {}, {"assume_role_arn": [FAR]}), f"AssumeRole of {FAR} in eu-west-1 (sources[1]) failed: RegionDisabledException: STS is not")
    assert ec2.count("DescribeInstances") == 0


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=query_page("sts", "AssumeRole", "<Credentials><SecretAccessKey>very-secret</SecretAccessKey><SessionToken>very-secret").body[:-30]),
        query_page("sts", "AssumeRole", "<Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>very-secret</SecretAccessKey></Credentials>"),
        query_page("sts", "AssumeRole", "very-secret"),
        Answer(body="<html><body>very-secret</body></html>"),
    ],
    ids=["cut", "without a token", "without credentials", "another page"],
)
def test_a_bad_answer_with_credentials_is_not_shown(ec2: Ec2Endpoint, answer: Answer) -> None:
    ec2.fault("AssumeRole", answer)
    result = run(ec2, assume_role_arn=[FAR])
    assert_failed(result, f"AssumeRole of {FAR} in eu-west-1 failed: MalformedAnswer: the answer has no credentials")
    assert "very-secret" not in json.dumps(result)


def test_a_group_need_exist_in_one_of_the_sources_that_ask_for_it(ec2: Ec2Endpoint) -> None:
    ec2.groups = {"us-east-1": [security_group("sg-00000009", "empty")]}
    far = {"assume_role_arn": [FAR], "regions": ["us-east-1"]}
    options = {"security_groups": ["webheads", "empty"], "minimum_instances": 0}
    assert run(ec2, {}, far, **options).instances["empty"] == []
    failed = run(ec2, {}, {**far, "security_groups": ["webheads"]}, **options)
    assert_failed(failed, "'empty' does not exist in eu-west-1 (sources[0]).")


def test_a_bad_option_of_an_entry_fails_before_any_call(ec2: Ec2Endpoint) -> None:
    assert_failed(run(ec2, {"assume_role": [FAR]}), "sources.assume_role")
    assert_failed(run(ec2, {}, {"assume_role_arn": ["far"]}), "sources[1].assume_role_arn: 'far' is not the ARN of a role")
    assert_failed(run(ec2, external_id="agreed"), "external_id: it is for assuming a role")
    assert ec2.requests == []


@pytest.mark.parametrize("of_entry", [False, True])
def test_an_external_id_is_not_shown_and_cut_out_of_nothing_else(ec2: Ec2Endpoint, of_entry: bool) -> None:
    ec2.accounts[role_key(FAR)] = {REGION: [[instance("i-0000000b", tags={"Name": "agreed-1"})]]}
    role = {"assume_role_arn": [FAR], "external_id": "agreed"}
    sources, options = ([role], {}) if of_entry else ([], role)
    result = run(ec2, *sources, **options)
    assert ec2.requests[0].parameters["ExternalId"] == "agreed"
    assert result.instances["webheads"][0]["name"] == "agreed-1"
    ec2.fault("DescribeInstances", error(403, "UnauthorizedOperation"))
    for shown in (result, run(ec2, *sources, **options)):
        assert FAR in str(shown["invocation"]) and "agreed" not in str(shown["invocation"])
    # The role's name is the id, and the policy is whole.
    needed = run_module({}, module="ec2_iam_policy", sources=[{**role, "external_id": "far"}])
    assert needed["policies"][1]["identity"] == FAR
    assert "'external_id': 'far'" not in str(needed["invocation"])
