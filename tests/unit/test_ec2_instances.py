# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""From an EC2 answer to the chosen instances and the reasons for the rest."""

from __future__ import annotations

import ipaddress
import random
import re
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_instances import (
    Ec2Error,
    InterfaceRule,
    MalformedAnswer,
    Query,
    choose,
    instances_in,
    keep_one_of_each_address,
    listed,
    merge,
    missing_groups,
    refuse_riddles,
    shortfall,
    shown,
    unseen,
)
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 2, 3, 12, 0, 0, tzinfo=timezone.utc)
WEB = {"GroupId": "sg-00000001", "GroupName": "webheads"}
SSH = {"GroupId": "sg-00000002", "GroupName": "ssh"}
REGION = "eu-west-1"


def query(*groups: str, **changes: Any) -> Query:
    return Query(groups or ("webheads",), None, {}, {}, ("running",), "private_ipv4", 0, 1)._replace(**changes)


def interface(address: str | None = "10.0.0.1", *groups: dict[str, str], device: int = 0, **members: Any) -> dict[str, Any]:
    return {
        "NetworkInterfaceId": f"eni-0000000{device}",
        "VpcId": "vpc-00000001",
        "Groups": list(groups or [WEB]),
        "Attachment": {"DeviceIndex": str(device)},
        "Ipv6Addresses": [],
        **({"PrivateIpAddress": address} if address is not None else {}),
        **members,
    }


def instance(instance_id: str = "i-00000001", *interfaces: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {
        "InstanceId": instance_id,
        "State": {"Name": "running"},
        "LaunchTime": "2026-02-01T06:00:00.000Z",
        "Placement": {"AvailabilityZone": "eu-west-1a"},
        "VpcId": "vpc-00000001",
        # An address of its own, because of two instances with the same one is left out.
        "NetworkInterfaces": list(interfaces or [interface(f"10.0.0.{int(instance_id[-1], 16)}")]),
        "Tags": [],
        **members,
    }


def chosen(*instances: dict[str, Any], wanted: Query | None = None, excluded_ids: frozenset[str] = frozenset()) -> Any:
    wanted = wanted or query()
    return settled(choose({REGION: instances}, {REGION: excluded_ids}, wanted, NOW))


def settled(found: tuple[Any, Any]) -> tuple[Any, Any]:
    refuse_riddles(found[0], {})
    return found


def only(*instances: dict[str, Any], wanted: Query | None = None) -> dict[str, Any]:
    facts, excluded = chosen(*instances, wanted=wanted)
    assert not any(excluded.values()), excluded
    ((fact,),) = facts.values()
    return dict(fact)


def reason(*instances: dict[str, Any], wanted: Query | None = None, excluded_ids: frozenset[str] = frozenset()) -> str:
    facts, excluded = chosen(*instances, wanted=wanted, excluded_ids=excluded_ids)
    assert not any(facts.values()), facts
    ((entry,),) = excluded.values()
    return str(entry["reason"])


def test_an_instance_becomes_the_facts_that_are_promised() -> None:
    full = instance(
        "i-0123456789abcdef0",
        interface(
            "10.0.0.1",
            PrivateDnsName="ip-10-0-0-1.eu-west-1.compute.internal",
            Association={"PublicIp": "203.0.113.1", "PublicDnsName": "ec2-203-0-113-1.eu-west-1.compute.amazonaws.com"},
            Ipv6Addresses=[{"Ipv6Address": "2001:DB8:0:0::1"}],
        ),
        Tags=[{"Key": "Name", "Value": "web-1"}, {"Key": "Empty", "Value": ""}],
    )
    assert only(full) == {
        "instance_id": "i-0123456789abcdef0",
        "name": "web-1",
        "address": "10.0.0.1",
        "private_ip_address": "10.0.0.1",
        "public_ip_address": "203.0.113.1",
        "ipv6_address": "2001:db8::1",
        "private_dns_name": "ip-10-0-0-1.eu-west-1.compute.internal",
        "public_dns_name": "ec2-203-0-113-1.eu-west-1.compute.amazonaws.com",
        "availability_zone": "eu-west-1a",
        "region": "eu-west-1",
        "vpc_id": "vpc-00000001",
        "launch_time": "2026-02-01T06:00:00Z",
        "lifecycle_state": None,
        "auto_scaling_group": None,
        "port": None,
        "weight": None,
        "backup": None,
        "maxconn": None,
        "tags": {"Name": "web-1", "Empty": ""},
    }


def test_what_an_instance_has_not_is_none() -> None:
    fact = only(instance())
    absent = {
        "lifecycle_state",
        "auto_scaling_group",
        "name",
        "public_ip_address",
        "ipv6_address",
        "private_dns_name",
        "public_dns_name",
        "port",
        "weight",
        "backup",
        "maxconn",
    }
    assert {key for key, value in fact.items() if value is None} == absent


def test_the_auto_scaling_group_is_that_of_its_tag() -> None:
    assert only(instance(Tags=[{"Key": "aws:autoscaling:groupName", "Value": "web"}]))["auto_scaling_group"] == "web"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("private_ipv4", "10.0.0.1"),
        ("public_ipv4", "203.0.113.1"),
        ("ipv6", "2001:db8::1"),
        ("private_dns", "a.internal"),
        ("public_dns", "a.example.com"),
    ],
)
def test_the_address_is_of_the_kind_asked_for_and_its_lack_is_a_reason(address: str, expected: str) -> None:
    full = interface(
        "10.0.0.1",
        PrivateDnsName="a.internal",
        Association={"PublicIp": "203.0.113.1", "PublicDnsName": "a.example.com"},
        Ipv6Addresses=[{"Ipv6Address": "2001:db8::1"}],
    )
    assert only(instance("i-00000001", full), wanted=query(address=address))["address"] == expected
    assert reason(instance("i-00000001", interface(None)), wanted=query(address=address)) == (
        f"no {address} on the network interface that carries the group (device index 0)"
    )


def test_the_address_is_that_of_the_interface_that_carries_the_group() -> None:
    two = instance("i-00000001", interface("10.0.0.1", SSH, device=0), interface("10.0.1.1", WEB, device=1))
    assert only(two)["address"] == "10.0.1.1"


def test_of_several_interfaces_with_the_group_the_lowest_device_index_wins() -> None:
    interfaces = [interface(f"10.0.{device}.1", WEB, device=device) for device in (10, 2, 9)]
    assert only(instance("i-00000001", *interfaces))["address"] == "10.0.2.1"


def test_an_interface_without_such_an_address_is_passed_over() -> None:
    second = interface("10.0.1.1", WEB, device=1, Association={"PublicIp": "203.0.113.1"})
    fact = only(instance("i-00000001", second, interface("10.0.0.1")), wanted=query(address="public_ipv4"))
    assert (fact["address"], fact["private_ip_address"]) == ("203.0.113.1", "10.0.1.1")


def test_an_address_on_an_interface_without_the_group_is_not_taken() -> None:
    other = interface("10.0.1.1", SSH, device=1, Association={"PublicIp": "203.0.113.1"})
    assert "device index 0" in reason(instance("i-00000001", interface(), other), wanted=query(address="public_ipv4"))


def test_the_first_interface_has_the_instances_private_name_when_it_has_none() -> None:
    assert only(instance(PrivateDnsName="ip-10-0-0-1.ec2.internal"))["private_dns_name"] == "ip-10-0-0-1.ec2.internal"
    second = instance("i-00000001", interface("10.0.0.1", device=1), PrivateDnsName="ip-10-0-0-9.ec2.internal")
    assert only(second)["private_dns_name"] is None


def ipv6(*addresses: str, primary: int | None = None) -> list[dict[str, Any]]:
    return [{"Ipv6Address": address, "IsPrimaryIpv6": number == primary} for number, address in enumerate(addresses)]


def of_ipv6(*addresses: str, primary: int | None = None, instance_id: str = "i-00000001") -> dict[str, Any]:
    return instance(instance_id, interface(Ipv6Addresses=ipv6(*addresses, primary=primary)))


def test_the_ipv6_address_is_the_primary_one_else_the_only_one() -> None:
    wanted = query(address="ipv6")
    assert only(of_ipv6("2001:db8::9"), wanted=wanted)["address"] == "2001:db8::9"
    fact = only(of_ipv6("2001:db8::9", "2001:db8::10", primary=1), wanted=wanted)
    assert (fact["address"], fact["ipv6_address"]) == ("2001:db8::10", "2001:db8::10")


def test_several_ipv6_addresses_of_which_none_is_primary_are_an_error_where_one_is_asked_for() -> None:
    two = [of_ipv6("2001:db8::1", "2001:db8::2", instance_id=f"i-{number:08x}") for number in range(12, 0, -1)]
    with pytest.raises(Ec2Error) as refused:
        chosen(*two, wanted=query(address="ipv6"))
    assert str(refused.value).startswith(
        "address: there are several ipv6 addresses and none is the primary one; make one of them primary: "
        "i-00000001 (2001:db8::1, 2001:db8::2), i-00000002 (2001:db8::1, 2001:db8::2), "
    )
    assert str(refused.value).endswith(", i-0000000a (2001:db8::1, 2001:db8::2), and 2 more.")
    # What is not asked for may be as it wants.
    assert only(of_ipv6("2001:db8::1", "2001:db8::2"))["ipv6_address"] is None
    # Nor does an instance matter that is left out in any case.
    facts, _excluded = chosen(of_ipv6("2001:db8::3"), two[0], wanted=query(address="ipv6"), excluded_ids=frozenset([two[0]["InstanceId"]]))
    assert [fact["address"] for fact in facts["webheads"]] == ["2001:db8::3"]


def private(*addresses: str, **members: Any) -> list[dict[str, Any]]:
    """The addresses of an interface, the first of them its primary one."""
    return [{"PrivateIpAddress": address, "Primary": number == 0, **(members if number else {})} for number, address in enumerate(addresses)]


SECONDARY = {
    "PrivateDnsName": "b.internal",
    "Association": {"PublicIp": "203.0.113.2", "PublicDnsName": "b.example.com"},
}


@pytest.mark.parametrize(
    ("address", "expected"),
    [("private_ipv4", "10.0.0.2"), ("public_ipv4", "203.0.113.2"), ("private_dns", "b.internal"), ("public_dns", "b.example.com"), ("ipv6", "2001:db8::2")],
)
def test_the_secondary_address_is_taken_where_it_is_asked_for_and_its_lack_is_a_reason(address: str, expected: str) -> None:
    wanted = query(address=address, address_rank="secondary")
    members = {"Ipv6Addresses": ipv6("2001:db8::1", "2001:db8::2", primary=0), "PrivateIpAddresses": private("10.0.0.1", "10.0.0.2", **SECONDARY)}
    fact = only(instance("i-00000001", interface("10.0.0.1", **members)), wanted=wanted)
    assert fact["address"] == expected
    # The rest is as ever.
    assert (fact["private_ip_address"], fact["ipv6_address"]) == ("10.0.0.1", "2001:db8::1")
    for none in ({}, {"Ipv6Addresses": ipv6("2001:db8::1", primary=0), "PrivateIpAddresses": private("10.0.0.1")}):
        said = reason(instance("i-00000001", interface("10.0.0.1", **none)), wanted=wanted)
        assert said == f"no secondary {address} on the network interface that carries the group (device index 0)"


def test_several_secondary_addresses_are_an_error_unless_one_is_of_the_kind_asked_for() -> None:
    addresses = private("10.0.0.1", "10.0.0.3", "10.0.0.2")
    addresses[1].update(SECONDARY)
    one = instance("i-00000001", interface("10.0.0.1", PrivateIpAddresses=addresses))
    assert only(one, wanted=query(address="public_ipv4", address_rank="secondary"))["address"] == "203.0.113.2"
    with pytest.raises(Ec2Error) as refused:
        chosen(one, wanted=query(address_rank="secondary"))
    assert str(refused.value) == "address_rank: several private_ipv4 addresses are secondary, and one must be: i-00000001 (10.0.0.2, 10.0.0.3)."


def test_a_bad_secondary_address_leaves_out_one_instance() -> None:
    bad = instance("i-00000001", interface("10.0.0.1", PrivateIpAddresses=private("10.0.0.1", "10.0.0.2 disabled")))
    assert reason(bad, wanted=query(address_rank="secondary")) == "its private address is not an IPv4 address: '10.0.0.2 disabled'"
    assert only(bad)["address"] == "10.0.0.1"


def rule(device_index: int | None = None, *subnet_ids: str, **tags: str) -> InterfaceRule:
    return InterfaceRule(device_index, subnet_ids, tags)


THREE = instance(
    "i-00000001",
    interface("10.0.0.1", WEB, device=0, SubnetId="subnet-00000001", NetworkInterfaceId="eni-0000000a"),
    interface("10.0.1.1", SSH, device=1, SubnetId="subnet-00000001", NetworkInterfaceId="eni-0000000b"),
    interface("10.0.2.1", SSH, device=2, SubnetId="subnet-00000002", NetworkInterfaceId="eni-0000000c"),
)


def by_rule(wanted: InterfaceRule, *tagged: str, **changes: Any) -> Any:
    return settled(choose({REGION: [THREE]}, {}, query(interface=wanted, **changes), NOW, {REGION: frozenset(tagged)}))


@pytest.mark.parametrize(
    ("wanted", "address"),
    [
        (rule(0), "10.0.0.1"),
        (rule(1), "10.0.1.1"),
        (rule(None, "subnet-00000002", "subnet-00000009"), "10.0.2.1"),
        (rule(1, "subnet-00000001"), "10.0.1.1"),
        (rule(Role="data"), "10.0.1.1"),
        (rule(1, "subnet-00000001", Role="data"), "10.0.1.1"),
        # Each of them must hold.
        (rule(0, "subnet-00000001", Role="data"), None),
        (rule(1, "subnet-00000002", Role="data"), None),
        (rule(7), None),
        (rule(None, "subnet-00000009"), None),
    ],
)
def test_the_address_is_that_of_the_interface_that_is_asked_for_which_need_not_carry_the_group(wanted: InterfaceRule, address: str | None) -> None:
    facts, excluded = by_rule(wanted, "eni-0000000b", "eni-0000000f")
    assert [fact["address"] for fact in facts["webheads"]] == [address] * bool(address)
    reasons = [] if address else [{"instance_id": "i-00000001", "reason": "it has no network interface that interface asks for"}]
    assert excluded["webheads"] == reasons


def test_several_interfaces_that_match_are_an_error_with_their_instances() -> None:
    with pytest.raises(Ec2Error) as refused:
        by_rule(rule(None, "subnet-00000001"))
    assert str(refused.value) == "interface: several network interfaces match it, and one must: i-00000001 (eni-0000000a, eni-0000000b)."
    many = [{**THREE, "InstanceId": f"i-{number:08x}"} for number in range(5000)]
    with pytest.raises(Ec2Error, match="and 4990 more") as refused:
        settled(choose({REGION: many}, {}, query(interface=rule(None, "subnet-00000001")), NOW))
    assert len(str(refused.value)) < 1000


def test_of_one_on_its_way_out_several_interfaces_may_match() -> None:
    facts, _excluded = choose({REGION: [THREE]}, {}, query(interface=rule(None, "subnet-00000001")), NOW)
    refuse_riddles({}, facts)
    (fact,) = facts["webheads"]
    assert fact["address"] == "10.0.0.1"
    assert fact.keys() == only(instance()).keys()


def test_an_interface_in_another_vpc_is_none_that_is_asked_for() -> None:
    other = interface("10.9.0.1", SSH, device=1, VpcId="vpc-00000002")
    wanted = query(vpc_id="vpc-00000001", interface=rule(1))
    assert reason(instance("i-00000001", interface(), other), wanted=wanted) == "it has no network interface that interface asks for"


def test_the_interface_that_is_asked_for_must_have_the_address() -> None:
    said = by_rule(rule(2), address="public_ipv4")[1]["webheads"][0]["reason"]
    assert said == "no public_ipv4 on the network interface that interface asks for (device index 2)"


def test_a_wildcard_match_of_ec2_is_no_match() -> None:
    star = instance("i-00000001", interface("10.0.0.1", {"GroupId": "sg-00000003", "GroupName": "web*"}))
    facts, excluded = chosen(star, instance("i-00000002"), instance("i-00000003", interface("10.0.0.3", {"GroupName": "WEB*"})), wanted=query("web*"))
    assert [fact["instance_id"] for fact in facts["web*"]] == ["i-00000001"]
    assert excluded == {"web*": []}


def test_a_group_may_be_asked_for_by_name_and_by_id_at_once() -> None:
    facts, _excluded = chosen(instance(), wanted=query("webheads", "sg-00000001", "sg-00000009"))
    assert {group: len(found) for group, found in facts.items()} == {"webheads": 1, "sg-00000001": 1, "sg-00000009": 0}


def test_an_instance_of_two_groups_is_in_both_each_with_the_address_of_its_interface() -> None:
    two = instance("i-00000001", interface("10.0.0.1", SSH), interface("10.0.1.1", WEB, device=1))
    facts, _excluded = chosen(two, wanted=query("webheads", "ssh"))
    assert {group: found[0]["address"] for group, found in facts.items()} == {"webheads": "10.0.1.1", "ssh": "10.0.0.1"}


def test_one_name_in_two_vpcs_is_an_error_that_names_both() -> None:
    other = interface("10.1.0.1", {"GroupId": "sg-00000009", "GroupName": "webheads"}, VpcId="vpc-00000002")
    with pytest.raises(Ec2Error, match=r"'webheads' .* eu-west-1: vpc-00000001, vpc-00000002\. Set vpc_id"):
        chosen(instance(), instance("i-00000002", other))
    fact = only(instance(), instance("i-00000002", other), wanted=query(vpc_id="vpc-00000002"))
    assert (fact["instance_id"], fact["vpc_id"]) == ("i-00000002", "vpc-00000002")


def test_one_name_in_two_vpcs_is_seen_even_when_one_of_the_instances_is_unusable() -> None:
    other = interface(None, {"GroupId": "sg-00000009", "GroupName": "webheads"}, VpcId="vpc-00000002")
    with pytest.raises(Ec2Error, match="several VPCs"):
        chosen(instance(), instance("i-00000002", other))


def test_a_stopped_instance_in_another_vpc_makes_a_name_no_error() -> None:
    other = interface("10.1.0.1", {"GroupId": "sg-00000009", "GroupName": "webheads"}, VpcId="vpc-00000002")
    facts, excluded = chosen(instance(), instance("i-00000002", other, State={"Name": "stopped"}))
    assert [fact["instance_id"] for fact in facts["webheads"]] == ["i-00000001"]
    assert excluded["webheads"] == [{"instance_id": "i-00000002", "reason": "its state is 'stopped'"}]


def test_one_name_in_two_regions_is_one_group() -> None:
    other = instance("i-00000002", interface("10.1.0.1", VpcId="vpc-00000002"))
    facts, _excluded = choose({"eu-west-1": [instance()], "us-east-1": [other]}, {}, query(), NOW)
    assert [(fact["instance_id"], fact["region"]) for fact in facts["webheads"]] == [("i-00000001", "eu-west-1"), ("i-00000002", "us-east-1")]


def test_newcomers_come_last_and_equals_are_ordered_by_id() -> None:
    times = {"i-00000003": "2026-02-01T06:00:00.000Z", "i-00000001": "2026-02-01T06:00:00.500Z", "i-00000002": "2025-12-31T23:59:59.000Z"}
    facts, _excluded = chosen(*(instance(one, LaunchTime=time) for one, time in times.items()))
    assert [fact["instance_id"] for fact in facts["webheads"]] == ["i-00000002", "i-00000001", "i-00000003"]


def test_of_two_instances_with_one_address_the_newer_has_it_in_every_group_and_region() -> None:
    old = instance("i-00000009", interface("10.0.0.1", WEB, SSH), LaunchTime="2026-01-01T00:00:00Z")
    new = instance("i-00000002", interface("10.0.0.1"), LaunchTime="2026-01-01T00:00:01Z")
    other = instance("i-00000003", interface("10.0.0.3"))
    reason = (
        "10.0.0.1 is the address of i-00000009 (launched at 2026-01-01T00:00:00Z) and of i-00000002 (launched at 2026-01-01T00:00:01Z); the newer one has it"
    )
    for answers in ({"a": [old, other], "b": [new]}, {"a": [new, other], "b": [old]}, {"a": [old, new, other]}, {"a": [new, old, other]}):
        facts, excluded = choose(answers, {}, query("ssh", "webheads"), NOW)
        keep_one_of_each_address(facts, excluded)
        assert {group: [fact["instance_id"] for fact in found] for group, found in facts.items()} == {"ssh": [], "webheads": ["i-00000002", "i-00000003"]}
        assert excluded == {group: [{"instance_id": "i-00000009", "reason": reason}] for group in ("ssh", "webheads")}


def test_of_two_instances_with_one_address_that_were_launched_in_one_second_the_higher_id_has_it() -> None:
    two = [instance(one, interface(), LaunchTime=f"2026-01-01T00:00:00.{fraction}Z") for one, fraction in (("i-00000001", "900"), ("i-00000002", "100"))]
    for order in (two, two[::-1]):
        facts, excluded = chosen(*order)
        keep_one_of_each_address(facts, excluded)
        assert [fact["instance_id"] for fact in facts["webheads"]] == ["i-00000002"]
        assert [entry["instance_id"] for entry in excluded["webheads"]] == ["i-00000001"]


def test_an_instance_that_is_not_usable_takes_no_address_from_another() -> None:
    stopped = instance("i-00000002", interface("10.0.0.1"), State={"Name": "stopped"}, LaunchTime="2026-02-02T00:00:00Z")
    facts, excluded = chosen(instance("i-00000001"), stopped)
    keep_one_of_each_address(facts, excluded)
    assert [fact["instance_id"] for fact in facts["webheads"]] == ["i-00000001"]
    assert [entry["reason"] for entry in excluded["webheads"]] == ["its state is 'stopped'"]


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_answer_changes_nothing(shuffled: random.Random) -> None:
    def answer() -> list[dict[str, Any]]:
        return [
            instance("i-00000001", interface("10.0.0.1", SSH), interface("10.0.1.1", WEB, SSH, device=1), interface("10.0.2.1", WEB, device=2)),
            instance("i-00000002", interface(Ipv6Addresses=[{"Ipv6Address": "2001:db8::2"}, {"Ipv6Address": "2001:db8::1"}])),
            instance("i-00000003", interface("10.0.0.1"), LaunchTime="2026-01-01T00:00:00Z"),
            instance("i-00000007", LaunchTime="2026-01-01T00:00:00Z"),
            instance("i-00000004", interface("nonsense")),
            instance("i-00000005", interface("10.0.0.5;", SSH)),
            instance("i-00000006", interface(Attachment={"DeviceIndex": "x"}), interface("10.0.1.6", device=1, Attachment={"DeviceIndex": "y"})),
        ]

    expected = chosen(*answer(), wanted=query("webheads", "ssh"))
    again = answer()
    shuffled.shuffle(again)
    for one in again:
        shuffled.shuffle(one["NetworkInterfaces"])
        for nic in one["NetworkInterfaces"]:
            shuffled.shuffle(nic["Groups"])
            shuffled.shuffle(nic["Ipv6Addresses"])
    assert chosen(*again, wanted=query("webheads", "ssh")) == expected


@pytest.mark.parametrize(
    ("age", "min_age", "usable"),
    [
        (timedelta(seconds=59), 60, False),
        (timedelta(seconds=60), 60, True),
        (timedelta(days=1, seconds=1), 60, True),  # .seconds alone would be 1
        (timedelta(days=1), 86401, False),
        (timedelta(seconds=-30), 1, False),  # EC2's clock before ours
        (timedelta(seconds=-30), 0, True),
    ],
)
def test_the_age_is_reckoned_in_utc_over_days(age: timedelta, min_age: int, usable: bool) -> None:
    launched = (NOW - age).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    elsewhere = NOW.astimezone(timezone(timedelta(hours=-9)))
    facts, excluded = choose({REGION: [instance(LaunchTime=launched)]}, {}, query(min_age=min_age), elsewhere)
    assert (len(facts["webheads"]), len(excluded["webheads"])) == ((1, 0) if usable else (0, 1))


def test_too_young_says_when_it_was_launched() -> None:
    assert reason(instance(), wanted=query(min_age=999999)) == "launched at 2026-02-01T06:00:00Z, it is younger than min_age (999999 s)"


def test_what_the_exclusion_listed_is_left_out() -> None:
    assert reason(instance(), excluded_ids=frozenset({"i-00000001"})) == "it matches exclude_filters"


def test_a_state_that_was_not_asked_for_is_left_out() -> None:
    assert reason(instance(State={"Name": "shutting-down"})) == "its state is 'shutting-down'"
    assert reason(instance(State=None)) == "its state is None"


def test_a_terminated_instance_without_interfaces_is_listed_as_such() -> None:
    gone = instance(State={"Name": "terminated"}, SecurityGroups=[WEB], NetworkInterfaces=[])
    assert reason(gone, wanted=query(states=("terminated",))) == "it has no network interface"


HOSTILE = [
    "80\nlisten evil\n bind *:80",
    "10.0.0.1 weight 1 disabled",
    "10.0.0.1 # x",
    "10.0.0.1;",
    "{{ 1 + 1 }}",
    "10.0.0.1\n",
    "x" * 5000,
    "::1%\nlisten evil",
    "fe80::1%eth0",
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("where", ["private", "public", "ipv6", "private_dns", "public_dns", "zone", "vpc", "launch_time", "device", "card", "id"])
def test_one_bad_value_leaves_out_one_instance_with_a_short_reason(where: str, hostile: str) -> None:
    interfaces = {
        "private": interface(hostile),
        "public": interface(Association={"PublicIp": hostile}),
        "ipv6": interface(Ipv6Addresses=[{"Ipv6Address": hostile}]),
        "private_dns": interface(PrivateDnsName=hostile),
        "public_dns": interface(Association={"PublicDnsName": hostile}),
        "vpc": interface(VpcId=hostile),
        "device": interface(Attachment={"DeviceIndex": hostile}),
        "card": interface(Attachment={"DeviceIndex": "0", "NetworkCardIndex": hostile}),
    }
    members = {"zone": {"Placement": {"AvailabilityZone": hostile}}, "launch_time": {"LaunchTime": hostile}, "vpc": {"VpcId": hostile}}
    bad = instance(hostile if where == "id" else "i-00000002", interfaces.get(where, interface()), **members.get(where, {}))
    # A group of its own, because a bad VPC beside a good one is one name in two VPCs.
    bad["NetworkInterfaces"][0]["Groups"] = [SSH]
    facts, excluded = chosen(instance(), bad, wanted=query("webheads", "ssh"))
    assert [fact["instance_id"] for fact in facts["webheads"]] == ["i-00000001"]
    assert facts["ssh"] == []
    (entry,) = excluded["ssh"]
    assert len(entry["reason"]) < 200 and len(entry["instance_id"]) < 200
    assert "\n" not in entry["reason"] + entry["instance_id"]


@given(st.text(), st.sampled_from(["private", "public", "ipv6", "private_dns", "public_dns", "zone", "id"]))
def test_no_text_whatever_reaches_an_address_unchecked(text: str, where: str) -> None:
    interfaces = {
        "private": interface(text),
        "public": interface(Association={"PublicIp": text}),
        "ipv6": interface(Ipv6Addresses=[{"Ipv6Address": text}]),
        "private_dns": interface(PrivateDnsName=text),
        "public_dns": interface(Association={"PublicDnsName": text}),
    }
    members = {"Placement": {"AvailabilityZone": text}} if where == "zone" else {}
    facts, _excluded = chosen(instance(text if where == "id" else "i-00000001", interfaces.get(where, interface()), **members))
    for fact in facts["webheads"]:
        ipaddress.IPv4Address(fact["private_ip_address"])
        assert all(re.fullmatch(r"[A-Za-z0-9.:-]+", str(value)) for key, value in fact.items() if key != "tags" and value is not None)


def test_tags_stay_data() -> None:
    tags = [{"Key": "Name", "Value": HOSTILE[0]}, {"Key": "a\nb", "Value": "{{ lookup('pipe', 'id') }}"}, {"Key": "c"}]
    fact = only(instance(Tags=tags))
    assert fact["name"] == "80_listen_evil_bind_:80"
    assert fact["tags"] == {"Name": HOSTILE[0].replace("\n", " "), "a b": "{{ lookup('pipe', 'id') }}", "c": ""}


SETTING_TAGS = {"port": "Port", "weight": "Weight", "backup": "Backup", "maxconn": "Maxconn"}


def tagged(**tags: str) -> dict[str, Any]:
    return instance(Tags=[{"Key": key, "Value": value} for key, value in tags.items()])


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        *(("port", value, int(value)) for value in ("1", "8080", "65535", "0080")),
        *(("weight", value, int(value)) for value in ("0", "256")),
        *(("maxconn", value, int(value)) for value in ("0", "2147483647")),
        *(("backup", value, True) for value in ("true", "YES", "On", "1")),
        *(("backup", value, False) for value in ("False", "no", "OFF", "0")),
    ],
)
def test_a_tag_says_what_its_server_is_like_and_only_where_it_is_asked(setting: str, value: str, said: object) -> None:
    one = tagged(**{SETTING_TAGS[setting]: value})
    found = only(one, wanted=query(setting_tags=SETTING_TAGS))
    assert {key: found[key] for key in SETTING_TAGS} == {**dict.fromkeys(SETTING_TAGS), setting: said}
    assert type(found[setting]) is type(said)
    assert only(one)[setting] is None
    for missing in (tagged(), tagged(**{SETTING_TAGS[setting]: ""}), tagged(**{SETTING_TAGS[setting].upper(): value})):
        assert only(missing, wanted=query(setting_tags=SETTING_TAGS))[setting] is None


@pytest.mark.parametrize(
    ("setting", "value", "must"),
    [
        *(
            ("port", value, "a whole number from 1 to 65535")
            for value in ("0", "65536", "http", "-1", "80 ", " ", "8080.0", "80\nlisten evil", "٨٠", "9" * 5000)
        ),
        *(("weight", value, "a whole number from 0 to 256") for value in ("257", "-0", "1e2", "0x10", "50%")),
        *(("maxconn", value, "a whole number from 0 to 2147483647") for value in ("2147483648", "none", "1_000")),
        *(("backup", value, "true or false") for value in ("2", "y", "backup", "true false", "true\n")),
    ],
)
def test_a_tag_that_says_nothing_that_can_be_leaves_out_one_instance_and_is_named(setting: str, value: str, must: str) -> None:
    said = reason(tagged(**{SETTING_TAGS[setting]: value}), wanted=query(setting_tags=SETTING_TAGS))
    assert said == f"its tag '{SETTING_TAGS[setting]}' must be {must}, and is {shown(value.replace(chr(10), ' '))}"


@pytest.mark.parametrize(
    "page",
    [
        {},
        {"ResponseMetadata": {}},
        {"Reservations": None},
        {"Reservations": [{}]},
        {"Reservations": [{"Instances": [{}]}]},
        {"Reservations": [{"Instances": [{"InstanceId": None}]}]},
    ],
)
def test_an_answer_of_another_shape_is_no_empty_group(page: dict[str, Any]) -> None:
    with pytest.raises(MalformedAnswer):
        list(instances_in(page))


def test_an_empty_page_is_an_answer() -> None:
    assert list(instances_in({"Reservations": []})) == []
    assert list(instances_in({"Reservations": [{"Instances": []}]})) == []


def test_a_list_must_be_there_and_its_entries_must_have_their_key() -> None:
    assert listed({"Regions": []}, "Regions", "RegionName") == []
    for answer in ({}, {"Regions": [{}]}, {"Regions": [{"RegionName": None}]}):
        with pytest.raises(MalformedAnswer):
            listed(answer, "Regions", "RegionName")


def test_repeated_instances_are_merged_whichever_came_first() -> None:
    old, new, other = instance("i-00000001"), instance("i-00000001", interface("10.0.0.9")), instance("i-00000002")
    results = []
    for order in ([old, new, other, old], [other, new, old]):
        found: dict[str, dict[str, Any]] = {}
        merge(found, order[:2])
        merge(found, order[2:])
        results.append(found)
    assert results[0] == results[1]
    assert sorted(results[0]) == ["i-00000001", "i-00000002"]


def test_a_group_whose_every_instance_is_left_out_exists() -> None:
    facts, excluded = chosen(instance("i-00000001", interface("nonsense")), wanted=query("webheads", "ssh"))
    assert unseen(query("webheads", "ssh"), facts, excluded) == ["ssh"]


GROUPS = [
    {"GroupName": "webheads", "GroupId": "sg-00000001", "VpcId": "vpc-00000001"},
    {"GroupName": "webheads", "GroupId": "sg-00000002", "VpcId": "vpc-00000002"},
    {"GroupName": "Databases", "GroupId": "sg-0000abcd", "VpcId": "vpc-00000001"},
]


def test_a_missing_group_is_named_with_the_regions_and_the_near_misses() -> None:
    assert missing_groups(["webhaeds"], ["us-east-1", "eu-west-1"], None, GROUPS) == (
        "security_groups: 'webhaeds' does not exist in eu-west-1, us-east-1. "
        "Similar: 'webheads' (sg-00000001 in vpc-00000001), 'webheads' (sg-00000002 in vpc-00000002)."
    )


def test_the_near_miss_of_a_name_may_be_its_case_or_its_vpc() -> None:
    assert "'Databases'" in missing_groups(["databases"], [REGION], None, GROUPS)
    assert "does not exist in eu-west-1 in vpc-00000003. Similar: 'webheads'" in missing_groups(["webheads"], [REGION], "vpc-00000003", GROUPS)


def test_the_near_miss_of_an_id_is_an_id() -> None:
    assert "Similar: 'Databases' (sg-0000abcd" in missing_groups(["sg-0000abce"], [REGION], None, GROUPS)


def test_nothing_similar_is_not_mentioned() -> None:
    assert missing_groups(["zzz"], [REGION], None, GROUPS) == "security_groups: 'zzz' does not exist in eu-west-1."


def test_enough_instances_are_no_shortfall() -> None:
    assert shortfall(query(), {"webheads": [1]}, {"webheads": []}) is None
    assert shortfall(query(minimum_instances=0), {"webheads": []}, {"webheads": []}) is None


def test_a_shortfall_says_how_many_and_why() -> None:
    message = shortfall(
        query("webheads", "ssh", "db", minimum_instances=2),
        {"webheads": [1], "ssh": [], "db": [1, 2]},
        {"webheads": [{"instance_id": "i-00000002", "reason": "it matches exclude_filters"}], "ssh": [], "db": []},
    )
    assert message == (
        "Too few usable instances: 'webheads' has 1, minimum_instances is 2 (1 excluded: i-00000002: it matches exclude_filters). "
        "'ssh' has 0, minimum_instances is 2 (it exists, but no instance that fits the other options carries it)."
    )


def test_a_reason_that_ten_thousand_instances_share_is_said_once_behind_those_of_few() -> None:
    reasons = [{"instance_id": f"i-{number:08x}", "reason": "its state is 'stopped'"} for number in range(10000)]
    reasons.append({"instance_id": "i-00ffffff", "reason": "it has no network interface"})
    assert shortfall(query(), {"webheads": []}, {"webheads": reasons}) == (
        "Too few usable instances: 'webheads' has 0, minimum_instances is 1 (10001 excluded: i-00ffffff: it has no network interface; "
        "i-00000000, i-00000001, i-00000002, and 9997 more: its state is 'stopped')."
    )


def test_ten_thousand_different_reasons_are_cut_and_counted() -> None:
    reasons = [{"instance_id": f"i-{number:08x}", "reason": f"its private address is not an IPv4 address: '{number}'"} for number in range(10000)]
    message = shortfall(query(), {"webheads": []}, {"webheads": reasons})
    assert message is not None
    assert "10000 excluded" in message and "and 9990 more" in message and len(message) < 1000


@given(st.text() | st.binary() | st.none())
def test_a_shown_value_is_one_short_line(value: object) -> None:
    assert len(shown(value)) <= 100 and len(shown(value).splitlines()) == 1
