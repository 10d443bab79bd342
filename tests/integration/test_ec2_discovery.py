# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What the module finds, over HTTP: against moto, which filters as EC2 does, and against a canned endpoint for what moto cannot say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from ec2_endpoint import REGION, Answer, Ec2Endpoint, error, instance, interface, many, page, security_group
from ec2_module import ROOT, Result, run_module
from moto_aws import MotoAws


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoAws]:
    with MotoAws() as server:
        yield server


@pytest.fixture
def aws(moto: MotoAws) -> MotoAws:
    moto.reset()
    return moto


@pytest.fixture
def ec2() -> Iterator[Ec2Endpoint]:
    with Ec2Endpoint() as endpoint:
        yield endpoint


def run(server: MotoAws | Ec2Endpoint, environment: dict[str, str] | None = None, **options: Any) -> Result:
    return run_module({**server.environment, **(environment or {})}, **{"security_groups": ["webheads"], "retries": 0, "timeout": 5, **options})


# --- botocore's model of EC2 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("surprise", ["a shape has another name", "a shape is text", "there are no such operations"])
def test_a_model_that_is_not_as_expected_is_used_whole_and_finds_the_same(ec2: Ec2Endpoint, tmp_path: Path, surprise: str) -> None:
    """As a later botocore may have it, by botocore's own way to be given another model."""
    ec2.regions[REGION] = many(12)
    usual = run(ec2, min_age=60)
    loader = botocore.session.Session().get_component("data_loader")
    version = loader.determine_latest_version("ec2", "service-2")
    model = loader.load_service_model("ec2", "service-2", version)
    if surprise == "a shape has another name":
        model = json.loads(json.dumps(model).replace('"InstanceNetworkInterfaceAttachment"', '"AttachmentOfAnInterface"'))
    elif surprise == "a shape is text":
        model["shapes"]["InstanceStatusSummary"] = {"type": "string"}
    else:
        del model["operations"]["DescribeNetworkInterfaces"]
    folder = tmp_path / "ec2" / version
    folder.mkdir(parents=True)
    (folder / "service-2.json").write_text(json.dumps(model))
    found = run(ec2, {"AWS_DATA_PATH": str(tmp_path)}, min_age=60)
    assert found["ansible_facts"] == usual["ansible_facts"]
    assert len(found.ids("webheads")) == 12


# --- moto: groups, filters, states ------------------------------------------------------------------------------------


def test_the_running_instances_of_a_group_are_found_and_no_others(aws: MotoAws) -> None:
    web = [aws.launch("webheads", f"127.0.10.{number}", f"web-{number}") for number in (1, 2)]
    aws.launch("database", "127.0.10.9")
    stopped = aws.launch("webheads")
    aws.stop_instance(stopped)
    gone = aws.launch("webheads")
    aws.terminate(gone)
    result = run(aws)
    assert sorted(result.ids("webheads")) == sorted(web)
    states = {stopped: "its state is 'stopped'", gone: "its state is 'terminated'"}
    assert {entry["instance_id"]: entry["reason"] for entry in result.excluded["webheads"]} == states
    assert {fact["address"]: fact["name"] for fact in result.instances["webheads"]} == {"127.0.10.1": "web-1", "127.0.10.2": "web-2"}
    assert result["changed"] is False
    assert set(result) - {"invocation"} == {"ansible_facts", "changed"}


def test_groups_are_found_by_name_and_by_id_at_once(aws: MotoAws) -> None:
    both = aws.launch(["webheads", "ssh"])
    one = aws.launch("ssh")
    ssh = aws.group_id("ssh")
    result = run(aws, security_groups=["webheads", ssh, "ssh"])
    assert {group: sorted(result.ids(group)) for group in result.instances} == {"webheads": [both], ssh: sorted([both, one]), "ssh": sorted([both, one])}


def test_a_name_in_two_vpcs_asks_for_the_vpc(aws: MotoAws) -> None:
    first, second = aws.launch("webheads", vpc="blue"), aws.launch("webheads", vpc="green")
    result = run(aws)
    assert result.failed
    assert aws.vpc("blue") in result.message
    assert aws.vpc("green") in result.message
    assert "ansible_facts" not in result
    assert run(aws, vpc_id=aws.vpc("green")).ids("webheads") == [second]
    assert run(aws, security_groups=[aws.group_id("webheads", vpc="blue")]).instances.popitem()[1][0]["instance_id"] == first


def test_filters_narrow_and_exclude_filters_leave_out_with_a_reason(aws: MotoAws) -> None:
    kept = aws.launch("webheads", tags={"Environment": "production"})
    out = aws.launch("webheads", tags={"Environment": "production", "Maintenance": "true"})
    aws.launch("webheads", tags={"Environment": "staging"})
    options = {"filters": {"tag:Environment": ["production", "canary"]}, "exclude_filters": {"tag:Maintenance": True}}
    result = run(aws, **options)
    assert result.ids("webheads") == [kept]
    assert result.excluded == {"webheads": [{"instance_id": out, "reason": "it matches exclude_filters"}]}


def test_an_exclusion_that_matches_nothing_excludes_nothing(aws: MotoAws) -> None:
    one = aws.launch("webheads")
    assert run(aws, exclude_filters={"tag:Maintenance": "true"}).ids("webheads") == [one]


def test_other_states_are_found_when_asked_for(aws: MotoAws) -> None:
    stopped = aws.launch("webheads")
    aws.stop_instance(stopped)
    assert run(aws, states=["stopped", "stopping"]).ids("webheads") == [stopped]


def test_what_is_too_young_waits_and_the_message_says_so(aws: MotoAws) -> None:
    one = aws.launch("webheads")
    result = run(aws, min_age=3600)
    assert result.failed
    assert f"'webheads' has 0, minimum_instances is 1 (1 excluded: {one}: launched at " in result.message
    assert run(aws, min_age=3600, minimum_instances=0).excluded["webheads"][0]["instance_id"] == one


def test_fewer_than_the_minimum_fails_with_the_count(aws: MotoAws) -> None:
    aws.launch("webheads")
    result = run(aws, minimum_instances=2)
    assert result.failed
    assert "'webheads' has 1, minimum_instances is 2" in result.message


def test_a_group_that_does_not_exist_is_an_error_with_the_near_misses(aws: MotoAws) -> None:
    aws.launch("webheads")
    result = run(aws, security_groups=["webheads", "webhead"], minimum_instances=0)
    assert result.failed
    assert "'webhead' does not exist in eu-west-1" in result.message
    assert f"'webheads' ({aws.group_id('webheads')} in {aws.vpc()})" in result.message


def test_an_empty_group_fails_unless_it_may_be_empty(aws: MotoAws) -> None:
    aws.create_group("webheads")
    assert "it exists" in run(aws).message
    assert run(aws, minimum_instances=0).instances == {"webheads": []}
    other = aws.create_group("other")
    assert run(aws, security_groups=[other], minimum_instances=0).instances == {other: []}
    assert "sg-00000000" in run(aws, security_groups=["sg-00000000"], minimum_instances=0).message


def test_several_regions_are_searched(aws: MotoAws) -> None:
    here, there = aws.launch("webheads", "127.0.10.1"), aws.launch("webheads", "127.0.10.2", region="us-east-1")
    result = run(aws, regions=["us-east-1", "eu-west-1"])
    assert {fact["instance_id"]: fact["region"] for fact in result.instances["webheads"]} == {here: "eu-west-1", there: "us-east-1"}
    assert run(aws, region="us-east-1").ids("webheads") == [there]


def test_credentials_may_be_options(aws: MotoAws) -> None:
    one = aws.launch("webheads")
    nowhere = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    options = {"aws_access_key": "AKIAOPTIONOPTIONOPTI", "aws_secret_key": "secret-given-as-an-option", "session_token": "token-given-as-an-option"}
    result = run(aws, nowhere, **options)
    assert result.ids("webheads") == [one]
    assert "given-as-an-option" not in json.dumps(result)
    assert "AKIAOPTION" not in json.dumps(result)


def test_credentials_and_region_may_come_from_a_profile(aws: MotoAws, tmp_path: Path) -> None:
    one = aws.launch("webheads", region="us-east-2")
    (tmp_path / "config").write_text(
        "[profile web]\nregion = us-east-2\naws_access_key_id = AKIAPROFILEPROFILEPR\naws_secret_access_key = secret-of-a-profile\n"
    )
    unset = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_DEFAULT_REGION": "", "AWS_CONFIG_FILE": str(tmp_path / "config")}
    assert run(aws, unset, profile="web").ids("webheads") == [one]
    assert run(aws, {**unset, "AWS_PROFILE": "web"}).ids("webheads") == [one]


# --- the canned endpoint: calls, interfaces, order --------------------------------------------------------------------


def test_one_search_is_one_call_for_names_and_one_for_ids(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[instance("i-0000000a")]]
    run(ec2, security_groups=["webheads", "sg-00000001"], vpc_id="vpc-00000001", filters={"tag:A": "b"})
    common = {"vpc-id": ["vpc-00000001"], "tag:A": ["b"]}
    assert [(request.operation, request.filters) for request in ec2.requests] == [
        ("DescribeInstances", {**common, "instance.group-name": ["webheads"]}),
        ("DescribeInstances", {**common, "instance.group-id": ["sg-00000001"]}),
    ]
    assert not any(key.startswith("InstanceId") for request in ec2.requests for key in request.parameters)


def test_more_groups_than_a_call_takes_are_split_over_calls(ec2: Ec2Endpoint) -> None:
    names = [f"group-{number}" for number in range(250)]
    ec2.regions[REGION] = [[instance(f"i-{number:08x}", interface(f"10.0.0.{number}", [(f"sg-{number:08x}", name)])) for number, name in enumerate(names)]]
    result = run(ec2, security_groups=names)
    assert all(len(found) == 1 for found in result.instances.values())
    assert [len(request.filters["instance.group-name"]) for request in ec2.requests] == [200, 50]


def test_all_regions_are_those_that_ec2_lists(ec2: Ec2Endpoint) -> None:
    ec2.regions = {"us-east-1": [[instance("i-0000000b")]], "eu-west-1": [[instance("i-0000000a")]], "ap-south-1": [[]]}
    result = run(ec2, regions=["all"])
    assert [(fact["instance_id"], fact["region"]) for fact in result.instances["webheads"]] == [("i-0000000a", "eu-west-1"), ("i-0000000b", "us-east-1")]
    assert (ec2.requests[0].operation, ec2.requests[0].region) == ("DescribeRegions", "eu-west-1")
    assert sorted((request.operation, request.region) for request in ec2.requests[1:]) == [
        ("DescribeInstances", region) for region in ("ap-south-1", "eu-west-1", "us-east-1")
    ]


def test_all_regions_need_no_region_to_start_from(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[instance("i-0000000a")]]
    assert run(ec2, {"AWS_DEFAULT_REGION": ""}, regions=["all"]).ids("webheads") == ["i-0000000a"]
    assert ec2.requests[0].region == "us-east-1"


def test_a_wildcard_in_a_name_stands_for_itself(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[instance("i-0000000a"), instance("i-0000000b", interface("10.0.0.2", [("sg-00000002", "web*")]))]]
    assert run(ec2, security_groups=["web*"]).ids("web*") == ["i-0000000b"]


def test_the_address_is_that_of_the_interface_with_the_group(ec2: Ec2Endpoint) -> None:
    ssh = [("sg-00000002", "ssh")]
    ec2.regions[REGION] = [[instance("i-0000000a", interface("10.0.1.1", device=1), interface("10.0.0.1", ssh, device=0))]]
    assert run(ec2).instances["webheads"][0]["address"] == "10.0.1.1"


FACT = {
    "instance_id": "i-0000000a",
    "name": "web-1",
    "availability_zone": "eu-west-1a",
    "region": "eu-west-1",
    "vpc_id": "vpc-00000001",
    "launch_time": "2026-01-31T06:00:00Z",
    "port": None,
    "weight": 20,
    "backup": None,
    "maxconn": None,
    "tags": {"Name": "web-1", "Role": "web", "Weight": "20"},
    "lifecycle_state": None,
    "auto_scaling_group": None,
    "source": 0,
}
# By device index the first, which has no private name of its own and so has the instance's.
FIRST = {
    "private_ip_address": "10.0.0.1",
    "public_ip_address": "203.0.113.1",
    "ipv6_address": "2001:db8::1",
    "private_dns_name": "ip-10-0-0-1.internal",
    "public_dns_name": "ec2-1.example.com",
}
# By device index and then by network card the second.
SECOND = {
    "private_ip_address": "10.0.1.1",
    "public_ip_address": "203.0.113.2",
    "ipv6_address": "2001:db8::2",
    "private_dns_name": "ip-10-0-1-1.internal",
    "public_dns_name": "ec2-2.example.com",
}


@pytest.mark.parametrize(
    ("address", "member"),
    [
        ("private_ipv4", "private_ip_address"),
        ("public_ipv4", "public_ip_address"),
        ("ipv6", "ipv6_address"),
        ("private_dns", "private_dns_name"),
        ("public_dns", "public_dns_name"),
    ],
)
def test_every_field_comes_from_the_wire_and_of_the_right_interface(ec2: Ec2Endpoint, address: str, member: str) -> None:
    web, ssh = ("sg-00000001", "webheads"), ("sg-00000002", "ssh")
    # Neither the order nor the ids of the interfaces are those of their indexes.
    interfaces = [
        interface("10.0.2.1", [web, ssh], 1, "vpc-00000001", "203.0.113.3", ["2001:db8::3"], "ec2-3.example.com", "ip-10-0-2-1.internal", 1, "eni-1"),
        interface("10.0.1.1", [web, ssh], 1, "vpc-00000001", "203.0.113.2", ["2001:db8::2"], "ec2-2.example.com", "ip-10-0-1-1.internal", 0, "eni-2"),
        interface("10.0.0.1", [web], 0, "vpc-00000001", "203.0.113.1", ["2001:db8::1"], "ec2-1.example.com", "", 0, "eni-3"),
    ]
    ec2.regions[REGION] = [[instance("i-0000000a", *interfaces, tags=FACT["tags"], vpc="vpc-00000009", private_dns="ip-10-0-0-1.internal")]]
    result = run(ec2, security_groups=["webheads", "ssh"], address=address, weight_tag="Weight", port_tag="")
    assert result.instances == {"webheads": [{**FACT, **FIRST, "address": FIRST[member]}], "ssh": [{**FACT, **SECOND, "address": SECOND[member]}]}


def test_a_terminated_instance_is_known_by_its_own_groups(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[instance("i-0000000a", "", state="terminated", groups=[("sg-00000001", "webheads")])]]
    result = run(ec2, states=["terminated"], minimum_instances=0)
    assert result.excluded == {"webheads": [{"instance_id": "i-0000000a", "reason": "it has no network interface"}]}


def interfaces(*ids: str, token: str | None = None) -> Answer:
    items = "".join(f"<item><networkInterfaceId>{one}</networkInterfaceId></item>" for one in ids)
    return page("DescribeNetworkInterfaces", f"<networkInterfaceSet>{items}</networkInterfaceSet>", token)


def test_interfaces_are_asked_for_by_tags_after_the_instances_and_to_the_last_page(ec2: Ec2Endpoint) -> None:
    ssh = [("sg-00000002", "ssh")]
    data = interface("10.0.1.1", ssh, device=1, interface_id="eni-0000000b").replace("<vpcId>", "<subnetId>subnet-00000001</subnetId><vpcId>")
    ec2.regions[REGION] = [[instance("i-0000000a", interface("10.0.0.1"), data)], [instance("i-0000000b")]]
    ec2.fault("DescribeNetworkInterfaces", interfaces("eni-0000000a", token="1"), interfaces("eni-0000000b"))
    rule = {"subnet_ids": ["subnet-00000001"], "tags": {"Role": "data", "Use": "*"}}
    result = run(ec2, interface=rule, vpc_id="vpc-00000001")
    assert {fact["instance_id"]: fact["address"] for fact in result.instances["webheads"]} == {"i-0000000a": "10.0.1.1"}
    assert result.excluded["webheads"] == [{"instance_id": "i-0000000b", "reason": "it has no network interface that interface asks for"}]
    assert [request.operation for request in ec2.requests] == ["DescribeInstances"] * 2 + ["DescribeNetworkInterfaces"] * 2
    assert ec2.requests[-1].filters == {"tag:Role": ["data"], "tag:Use": ["\\*"], "vpc-id": ["vpc-00000001"]}
    # What DescribeInstances says by itself needs no other call.
    ec2.requests.clear()
    run(ec2, interface={"device_index": 0, "subnet_ids": []})
    assert {request.operation for request in ec2.requests} == {"DescribeInstances"}


def test_a_failed_search_for_interfaces_fails_everything(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[instance("i-0000000a")]]
    ec2.fault("DescribeNetworkInterfaces", interfaces("eni-0000000a", token="1"), error(403, "UnauthorizedOperation"))
    result = run(ec2, interface={"tags": {"Role": "data"}})
    assert result.failed
    assert result.message.startswith("DescribeNetworkInterfaces in eu-west-1 failed: UnauthorizedOperation")
    ec2.fault("DescribeNetworkInterfaces", page("Login", "<html/>"))
    assert "the answer has no NetworkInterfaces" in run(ec2, interface={"tags": {"Role": "data"}}).message


def test_a_secondary_address_and_the_primary_ipv6_address_come_from_the_wire(ec2: Ec2Endpoint) -> None:
    entries = "".join(
        f"<item><privateIpAddress>10.0.0.{number}</privateIpAddress><primary>{primary}</primary>"
        f"<association><publicIp>203.0.113.{number}</publicIp></association></item>"
        for number, primary in ((1, "true"), (2, "false"))
    )
    six = interface("10.0.0.1", ipv6=["2001:db8::1", "2001:db8::2"]).replace("::2</ipv6Address>", "::2</ipv6Address><isPrimaryIpv6>true</isPrimaryIpv6>")
    secondary = six.replace("<ipv6AddressesSet>", f"<privateIpAddressesSet>{entries}</privateIpAddressesSet><ipv6AddressesSet>")
    ec2.regions[REGION] = [[instance("i-0000000a", secondary)]]
    found = {
        (kind, rank): run(ec2, address=kind, address_rank=rank).instances["webheads"][0]["address"]
        for kind in ("private_ipv4", "public_ipv4", "ipv6")
        for rank in ("primary", "secondary")
        if (kind, rank) != ("public_ipv4", "primary")
    }
    assert found == {
        ("private_ipv4", "primary"): "10.0.0.1",
        ("private_ipv4", "secondary"): "10.0.0.2",
        ("public_ipv4", "secondary"): "203.0.113.2",
        ("ipv6", "primary"): "2001:db8::2",
        ("ipv6", "secondary"): "2001:db8::1",
    }


def listing(*instances: str, token: str | None = None) -> Answer:
    return page("DescribeInstances", f"<reservationSet><item><instancesSet>{''.join(instances)}</instancesSet></item></reservationSet>", token)


def test_the_exclusion_is_read_to_its_last_page_for_names_and_for_ids(ec2: Ec2Endpoint) -> None:
    ssh = interface("10.0.0.2", [("sg-00000002", "ssh")])
    kept, by_name, by_id = instance("i-0000000a"), instance("i-0000000b"), instance("i-0000000c", ssh)
    search = [listing(kept, by_name), listing(by_id)]
    ec2.fault("DescribeInstances", *search, listing(token="1"), listing(by_name), listing(token="1"), listing(by_id))
    result = run(ec2, security_groups=["webheads", "sg-00000002"], exclude_filters={"tag:Out": "yes"}, minimum_instances=0)
    assert {group: [fact["instance_id"] for fact in found] for group, found in result.instances.items()} == {"webheads": ["i-0000000a"], "sg-00000002": []}
    assert {group: [entry["instance_id"] for entry in out] for group, out in result.excluded.items()} == {
        "webheads": ["i-0000000b"],
        "sg-00000002": ["i-0000000c"],
    }
    assert [request.filters.get("tag:Out") for request in ec2.requests] == [None, None, *[["yes"]] * 4]


def test_groups_without_instances_are_asked_for_in_calls_of_199_and_to_the_last_page(ec2: Ec2Endpoint) -> None:
    names = [f"group-{number}" for number in range(250)]
    existing = [security_group(f"sg-{number:08x}", name) for number, name in enumerate(names)]

    def some(start: int, end: int, token: str | None = None) -> Answer:
        return page("DescribeSecurityGroups", f"<securityGroupInfo>{''.join(existing[start:end])}</securityGroupInfo>", token)

    ec2.fault("DescribeSecurityGroups", some(0, 100, "1"), some(100, 199), some(199, 250))
    assert run(ec2, security_groups=names, vpc_id="vpc-00000001", minimum_instances=0).instances == {name: [] for name in names}
    asked = [request.filters for request in ec2.requests if request.operation == "DescribeSecurityGroups"]
    assert asked == [{"group-name": part, "vpc-id": ["vpc-00000001"]} for part in (names[:199], names[:199], names[199:])]


def test_a_session_token_is_sent(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[instance("i-0000000a")]]
    run(ec2, access_key="AKIAOPTIONOPTIONOPTI", secret_key="secret-given-as-an-option", session_token="token-given-as-an-option")
    assert [request.session_token for request in ec2.requests] == ["token-given-as-an-option"]


def test_a_hostile_tag_stays_data_and_a_hostile_address_leaves_the_instance_out(ec2: Ec2Endpoint) -> None:
    evil = "x\n  bind *:80\nlisten evil {{ lookup('pipe', 'id') }} <&>\"'"
    ec2.regions[REGION] = [[instance("i-0000000a", tags={"Name": evil}), instance("i-0000000b", interface("10.0.0.1 disabled"))]]
    result = run(ec2)
    # Data, without what could begin a line; and the name as HAProxy takes names.
    tags = {"Name": evil.replace("\n", " ")}
    assert [(fact["instance_id"], fact["name"], fact["tags"]) for fact in result.instances["webheads"]] == [
        ("i-0000000a", "x_bind_:80_listen_evil_lookup_pipe_id_", tags)
    ]
    assert result.excluded == {"webheads": [{"instance_id": "i-0000000b", "reason": "its private address is not an IPv4 address: '10.0.0.1 disabled'"}]}


def test_a_bad_launch_time_leaves_out_one_instance(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[instance("i-0000000a"), instance("i-0000000b", launched="yesterday")]]
    result = run(ec2)
    assert result.ids("webheads") == ["i-0000000a"]
    assert result.excluded["webheads"][0]["reason"] == "its launch time is not a time: 'yesterday'"


@pytest.mark.parametrize(
    ("index", "what"),
    [
        ("<deviceIndex>first</deviceIndex>", "device index of its network interface is not a number: 'first'"),
        ("<deviceIndex/>", "device index of its network interface is not a number: ''"),
        ("<deviceIndex>0</deviceIndex><networkCardIndex>x</networkCardIndex>", "network card index of its network interface is not a number: 'x'"),
    ],
)
def test_a_bad_index_leaves_out_one_instance(ec2: Ec2Endpoint, index: str, what: str) -> None:
    bad = instance("i-0000000b").replace("<deviceIndex>0</deviceIndex><networkCardIndex>0</networkCardIndex>", index)
    ec2.regions[REGION] = [[instance("i-0000000a"), bad]]
    result = run(ec2)
    assert result.ids("webheads") == ["i-0000000a"]
    assert result.excluded["webheads"] == [{"instance_id": "i-0000000b", "reason": f"the {what}"}]


def test_a_number_that_nothing_here_needs_may_be_none(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[instance("i-0000000a").replace("<code>16</code>", "<code>running</code>")]]
    assert run(ec2).ids("webheads") == ["i-0000000a"]


def test_ten_thousand_instances_come_in_pages_and_none_is_lost(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = many(10_000)
    result = run(ec2)
    assert len(set(result.ids("webheads"))) == 10_000
    assert ec2.count("DescribeInstances") == 10


# --- the region of the instance ---------------------------------------------------------------------------------------


def on_an_instance(ec2: Ec2Endpoint) -> dict[str, str]:
    return {"AWS_DEFAULT_REGION": "", "AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": ec2.url}


def test_the_region_is_that_of_the_instance_by_imdsv2(ec2: Ec2Endpoint) -> None:
    ec2.metadata_region = "us-west-2"
    ec2.regions["us-west-2"] = [[instance("i-0000000a")]]
    assert run(ec2, on_an_instance(ec2)).instances["webheads"][0]["region"] == "us-west-2"
    assert ec2.metadata_requests == [("PUT", "/latest/api/token", False), ("GET", "/latest/meta-data/placement/region", True)]


def test_imdsv1_is_never_asked(ec2: Ec2Endpoint) -> None:
    ec2.metadata_region = "us-west-2"
    ec2.metadata_v2 = False
    result = run(ec2, on_an_instance(ec2))
    assert result.failed
    assert result.message.startswith("regions: ")
    assert ec2.metadata_requests == [("PUT", "/latest/api/token", False)]


def test_a_metadata_service_that_is_turned_off_is_not_asked(ec2: Ec2Endpoint) -> None:
    ec2.metadata_region = "us-west-2"
    assert run(ec2, {**on_an_instance(ec2), "AWS_EC2_METADATA_DISABLED": "true"}).message.startswith("regions: none is given")
    assert ec2.metadata_requests == []


@pytest.mark.parametrize("v2", [True, False])
def test_the_credentials_of_the_role_come_by_imdsv2_only(ec2: Ec2Endpoint, v2: bool) -> None:
    ec2.metadata_region, ec2.metadata_v2 = "us-west-2", v2
    ec2.metadata_credentials = {
        "Code": "Success",
        "AccessKeyId": "ASIAROLEROLEROLEROLE",
        "SecretAccessKey": "secret-of-the-role",
        "Token": "token-of-the-role",
        "Expiration": "2126-01-31T06:00:00Z",
    }
    ec2.regions[REGION] = [[instance("i-0000000a")]]
    result = run(ec2, {**on_an_instance(ec2), "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, regions=[REGION])
    assert result.failed is not v2
    assert [request.session_token for request in ec2.requests] == ["token-of-the-role"] * v2
    assert {method for method, _path, token in ec2.metadata_requests if not token} == {"PUT"}


@pytest.mark.parametrize("region", ["", "us-west-2.evil.example", "x" * 1000, "us-west-2\nx"])
def test_what_is_no_region_is_not_taken_from_there(ec2: Ec2Endpoint, region: str) -> None:
    ec2.metadata_region = region
    assert run(ec2, on_an_instance(ec2)).message.startswith("regions: ")
    assert ec2.requests == []


def test_a_host_that_is_no_instance_gets_an_error_that_names_the_option(ec2: Ec2Endpoint) -> None:
    for environment in (on_an_instance(ec2), {"AWS_DEFAULT_REGION": ""}):
        result = run(ec2, environment)
        assert result.failed
        assert result.message.startswith("regions: none is given, none is in AWS_REGION, AWS_DEFAULT_REGION or the profile")
    assert ec2.metadata_requests == [("PUT", "/latest/api/token", False)]


def test_the_environment_goes_before_the_instance_and_the_option_before_both(ec2: Ec2Endpoint) -> None:
    ec2.metadata_region = "us-west-2"
    for name in ("us-east-1", "us-east-2", "eu-west-1"):
        ec2.regions[name] = [[instance("i-0000000a")]]
    environment = {**on_an_instance(ec2), "AWS_DEFAULT_REGION": "us-east-1"}
    assert run(ec2, environment).instances["webheads"][0]["region"] == "us-east-1"
    environment["AWS_REGION"] = "us-east-2"
    assert run(ec2, environment).instances["webheads"][0]["region"] == "us-east-2"
    assert run(ec2, environment, regions=["eu-west-1"]).instances["webheads"][0]["region"] == "eu-west-1"
    assert ec2.metadata_requests == []


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_environment_goes_before_the_profile(ec2: Ec2Endpoint, tmp_path: Path, variable: str) -> None:
    (tmp_path / "config").write_text("[profile web]\nregion = us-east-2\n")
    for name in ("us-east-1", "us-east-2"):
        ec2.regions[name] = [[instance("i-0000000a")]]
    environment = {"AWS_DEFAULT_REGION": "", "AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_PROFILE": "web", variable: "us-east-1"}
    assert run(ec2, environment).instances["webheads"][0]["region"] == "us-east-1"


def test_the_endpoint_for_ec2_goes_before_the_one_for_all_and_the_option_before_both(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[instance("i-0000000a")]]
    nowhere = "http://127.0.0.1:9"
    assert run(ec2, {"AWS_ENDPOINT_URL": nowhere, "AWS_ENDPOINT_URL_EC2": ec2.url}).ids("webheads") == ["i-0000000a"]
    assert run(ec2, {"AWS_ENDPOINT_URL": nowhere, "AWS_ENDPOINT_URL_EC2": nowhere}, endpoint_url=ec2.url).ids("webheads") == ["i-0000000a"]


# --- as Ansible runs it -----------------------------------------------------------------------------------------------

PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  module_defaults:
    group/autoscale.haproxy.aws:
      secret_key: secret-from-the-group-of-defaults
  tasks:
    - autoscale.haproxy.ec2_security_group_instance_facts:
        security_groups: [webheads]
        access_key: AKIAPLAYPLAYPLAYPLAY
        exclude_filters: {tag:Maintenance: true}
    - ansible.builtin.copy:
        dest: "{{ target }}"
        content: "{{ ansible_facts.ec2_security_group_instances.webheads | map(attribute='address') | join(',') }}"
      check_mode: false
"""


def play(server: MotoAws | Ec2Endpoint, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "collections" / "ansible_collections" / "autoscale").mkdir(parents=True, exist_ok=True)
    link = folder / "collections" / "ansible_collections" / "autoscale" / "haproxy"
    if not link.is_symlink():
        link.symlink_to(ROOT)
    (folder / "play.yml").write_text(PLAY)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "ANSIBLE_"))},
        **server.environment,
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        "ANSIBLE_HOME": str(folder / "home"),
    }
    variables = json.dumps({"target": str(folder / "out"), "ansible_python_interpreter": sys.executable})
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-e", variables, *arguments, "play.yml"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("mode", [[], ["--check"]], ids=["run", "check"])
def test_a_playbook_gets_the_facts_in_check_mode_too_and_no_log_has_a_secret(aws: MotoAws, tmp_path: Path, mode: list[str]) -> None:
    aws.launch("webheads", "127.0.10.1")
    aws.launch("webheads", "127.0.10.2", tags={"Maintenance": "true"})
    done = play(aws, tmp_path, "-vvv", *mode)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out").read_text() == "127.0.10.1"
    assert "secret-from-the-group-of-defaults" not in done.stdout + done.stderr
    assert "AKIAPLAYPLAYPLAYPLAY" not in done.stdout + done.stderr


def test_a_playbook_that_fails_gets_no_facts(ec2: Ec2Endpoint, tmp_path: Path) -> None:
    ec2.groups[REGION] = [security_group("sg-00000001", "webheads")]
    done = play(ec2, tmp_path)
    assert done.returncode == 2
    assert "Too few usable instances" in done.stdout
    assert not (tmp_path / "out").exists()


def test_without_boto3_the_message_says_what_is_missing(ec2: Ec2Endpoint, tmp_path: Path) -> None:
    # A folder of the library's name that fails to load stands for its not being there.
    (tmp_path / "botocore").mkdir()
    (tmp_path / "botocore" / "__init__.py").write_text("raise ImportError('not installed')\n")
    result = run(ec2, {"PYTHONPATH": str(tmp_path)})
    assert result.failed
    assert "boto3" in result.message
    assert "Python" in result.message
