# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Whatever EC2 answers: the discovery finds what a plain statement of its rules finds, and raises nothing but its own errors.

The answers are made of botocore's own model of DescribeInstances, so that each optional member is sometimes missing, and of texts that
are sometimes hostile. The rules are stated here once more, one instance and one group at a time, without a look at the code.
"""

from __future__ import annotations

import ipaddress
import json
import random
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any
from xml.sax.saxutils import escape

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_client import _trim
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_instances import (
    Ec2Error,
    InterfaceRule,
    Query,
    choose,
    instances_in,
    keep_one_of_each_address,
    merge,
    refuse_riddles,
)
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_lifecycle import Place, Sorted, by_lifecycle
from botocore.model import ServiceModel, Shape
from botocore.parsers import create_parser
from botocore.session import Session
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = datetime(2026, 2, 3, 12, 0, 0, tzinfo=timezone.utc)
HOSTILE = [
    "",
    " ",
    "80\nlisten evil\n bind *:80",
    "10.0.0.1 weight 1 disabled",
    "10.0.0.1 # x",
    "a\x00b",
    "\x85\u2028\u2029\x1b[31m",
    'it\'s "quoted"',
    "${IFS}x%[env(PATH)]",
    "{{ lookup('pipe', 'id') }}",
    "日本\u00a0\u202e",
    "١٢",
    "::1%\nlisten evil",
    "fe80::1%eth0",
    "010.0.0.1",
    "-1",
    "x" * 300,
    "9" * 300,
]
# What stands there as a rule. Few, so that instances share groups, networks and addresses.
USUAL: dict[str, list[str]] = {
    "Instance.InstanceId": [f"i-0000000{number}" for number in range(1, 8)],
    "Instance.LaunchTime": ["2026-02-03T11:59:30.000Z", *["2026-02-01T06:00:00Z", "2025-12-31T23:59:59.500Z"] * 3],
    "Instance.PrivateDnsName": ["ip-10-0-0-1.internal"],
    "Instance.VpcId": ["vpc-00000001"],
    "InstanceState.Name": ["running"] * 12 + ["pending", "stopped", "terminated", "new-in-2030"],
    "Placement.AvailabilityZone": ["eu-west-1a", "us-west-2-lax-1a"],
    "GroupIdentifier.GroupName": ["webheads"] * 5 + ["ssh", "web*", "WEBHEADS"],
    "GroupIdentifier.GroupId": ["sg-00000001", "sg-00000002"],
    "InstanceNetworkInterface.NetworkInterfaceId": [f"eni-0000000{number}" for number in range(1, 4)],
    "InstanceNetworkInterface.PrivateDnsName": ["a.internal", "b.internal"],
    "InstanceNetworkInterface.PrivateIpAddress": [f"10.0.0.{number}" for number in range(1, 6)],
    "InstanceNetworkInterface.SubnetId": ["subnet-00000001", "subnet-00000002"],
    "InstanceNetworkInterface.VpcId": ["vpc-00000001"] * 30 + ["vpc-00000002"],
    "InstanceNetworkInterfaceAttachment.DeviceIndex": ["0", "1", "2", "10"],
    "InstanceNetworkInterfaceAttachment.NetworkCardIndex": ["0", "1"],
    "InstanceNetworkInterfaceAssociation.PublicDnsName": ["a.example.com", ""],
    "InstanceNetworkInterfaceAssociation.PublicIp": ["203.0.113.1", "203.0.113.2"],
    "InstancePrivateIpAddress.PrivateDnsName": ["a.internal", "c.internal"],
    "InstancePrivateIpAddress.PrivateIpAddress": [f"10.0.0.{number}" for number in range(1, 4)],
    "InstanceIpv6Address.Ipv6Address": ["2001:db8::1", "2001:DB8:0::2", "::ffff:10.0.0.1"],
    "Tag.Key": ["Name", "Port", "Weight", "Backup", "Maxconn", "aws:autoscaling:groupName"],
    "Tag.Value": ["1"] * 9 + ["", "0", "256", "65535", "true", "2147483648"],
}
# Without these an answer is none, and nothing else of it counts (MalformedAnswer).
NEVER_MISSING = {"DescribeInstancesResult.Reservations", "Reservation.Instances", "Instance.InstanceId"}
SETTING_TAGS = {"port": "Port", "weight": "Weight", "backup": "Backup", "maxconn": "Maxconn"}


@lru_cache(maxsize=None)
def answer_shape() -> Shape:
    """DescribeInstancesResult, of botocore's model as the discovery cuts it."""
    session = Session()
    loader = session.get_component("data_loader")
    model = loader.load_service_model("ec2", "service-2")
    _trim(model, "ec2")
    return ServiceModel(model, "ec2").operation_model("DescribeInstances").output_shape


class Chance(random.Random):
    """A seed that Hypothesis chose. It would choose each of an answer's hundreds of values by itself, too, and then far more of the odd than
    of the usual ones, so that hardly an instance were usable."""

    def seldom(self) -> bool:
        return self.random() < 0.01

    def text(self) -> str:
        return self.choice([*HOSTILE, "".join(chr(self.randrange(1, 0xD800)) for _character in range(self.randrange(1, 300)))])


chances = st.integers(min_value=0).map(Chance)


def made(chance: Chance, shape: Shape, name: str = "") -> Any:
    """A value of this shape, which is the member ``name``."""
    if shape.type_name == "structure":
        return {
            member: made(chance, inner, f"{shape.name}.{member}")
            for member, inner in shape.members.items()
            if member != "NextToken" and (f"{shape.name}.{member}" in NEVER_MISSING or not chance.seldom())
        }
    if shape.type_name == "list":
        return [made(chance, shape.member, name) for _entry in range(chance.choice([1, 1, 1, 1, 2, 2, 3, 0]))]
    if shape.type_name == "boolean":
        return chance.random() < 0.5
    assert shape.type_name == "string", shape
    return chance.text() if chance.seldom() else chance.choice(USUAL[name])


def an_answer(chance: Chance) -> dict[str, Any]:
    shape = answer_shape().members["Reservations"]
    return {"Reservations": [made(chance, shape.member) for _reservation in range(chance.choice([0, 1, 2, 3, 4, 5, 6]))]}


def a_query(chance: Chance) -> Query:
    rule = InterfaceRule(chance.choice([None, 0, 1]), chance.choice([(), ("subnet-00000001",)]), chance.choice([{}, {"Role": "data"}]))
    return Query(
        groups=chance.choice([("webheads",), ("webheads", "ssh"), ("webheads", "ssh"), ("web*", "sg-00000001")]),
        vpc_id=chance.choice([None, "vpc-00000001"]),
        filters={},
        exclude_filters={},
        states=chance.choice([*[("running",)] * 6, ("pending", "running"), ("stopped", "terminated")]),
        address=chance.choice(["private_ipv4", "private_ipv4", "public_ipv4", "ipv6", "private_dns", "public_dns"]),
        min_age=chance.choice([0, 0, 60]),
        minimum_instances=0,
        address_rank=chance.choice(["primary", "primary", "primary", "secondary"]),
        interface=chance.choice([None, None, rule]) if rule != (None, (), {}) else None,
        setting_tags=chance.choice([{}, SETTING_TAGS, {"port": "Port"}]),
    )


def some(chance: Chance, values: list[str], share: float) -> frozenset[str]:
    return frozenset(value for value in values if chance.random() < share)


# --- The rules, once more ---------------------------------------------------------------------------------------------


class Out(Exception):
    """The instance is left out."""


class Riddle(Exception):
    """Nothing can be returned."""


def carries(holder: Mapping[str, Any], group: str, key: str) -> bool:
    return any(group in (one.get("GroupName"), one.get("GroupId")) for one in holder.get(key, []))


def in_vpc(interface: Mapping[str, Any], query: Query) -> bool:
    return query.vpc_id is None or interface.get("VpcId", query.vpc_id) == query.vpc_id


def belongs(instance: Mapping[str, Any], group: str, query: Query) -> bool:
    """An instance carries a group when any of its interfaces does; without interfaces, when it does itself."""
    interfaces = instance.get("NetworkInterfaces", [])
    return any(in_vpc(one, query) and carries(one, group, "Groups") for one in interfaces) if interfaces else carries(instance, group, "SecurityGroups")


def asked_state(instance: Mapping[str, Any], query: Query) -> bool:
    return instance.get("State", {}).get("Name") in query.states


def number(text: object) -> int:
    if not re.fullmatch("[0-9]{1,9}", str(text)):
        raise Out
    return int(str(text))


def place(interface: Mapping[str, Any]) -> tuple[int, int]:
    """Device index, then network card; one that says nothing is the first."""
    attachment = interface.get("Attachment", {})
    return number(attachment.get("DeviceIndex", "0")), number(attachment.get("NetworkCardIndex", "0"))


def ip(text: str | None, version: int) -> str | None:
    if text is None or (version == 4 and text == ""):
        if version == 4:
            return None
        raise Out
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise Out from None
    if address.version != version or "%" in text:
        raise Out
    return str(address)


def host(text: str | None) -> str | None:
    if not text:
        return None
    labels = text.split(".")
    if len(text) > 253 or not all(re.fullmatch("[A-Za-z0-9-]{1,63}", label) and label[0] != "-" and label[-1] != "-" for label in labels):
        raise Out
    return text


def four(holder: Mapping[str, Any], private_name: str | None) -> dict[str, str | None]:
    association = holder.get("Association", {})
    return {
        "private_ipv4": ip(holder.get("PrivateIpAddress"), 4),
        "public_ipv4": ip(association.get("PublicIp"), 4),
        "private_dns": host(private_name),
        "public_dns": host(association.get("PublicDnsName")),
    }


def addresses(instance: Mapping[str, Any], interface: Mapping[str, Any], query: Query) -> set[str]:
    """All addresses of an interface that are of the kind and rank asked for. Any other wrong address of it leaves out the instance, too."""
    name = interface.get("PrivateDnsName") or (instance.get("PrivateDnsName") if place(interface)[0] == 0 else None)
    primary = four(interface, name)
    six = [(ip(one.get("Ipv6Address"), 6), one.get("IsPrimaryIpv6", False)) for one in interface.get("Ipv6Addresses", [])]
    flagged = {address for address, flag in six if flag}
    unflagged = {address for address, _flag in six} - flagged
    if query.address == "ipv6":
        found: Iterable[str | None] = (flagged or unflagged) if query.address_rank == "primary" else unflagged
    elif query.address_rank == "primary":
        found = {primary[query.address]}
    else:
        found = {four(one, one.get("PrivateDnsName"))[query.address] for one in interface.get("PrivateIpAddresses", []) if not one.get("Primary")}
    return {address for address in found if address}


def vpc(interface: Mapping[str, Any], instance: Mapping[str, Any]) -> str:
    return str(interface.get("VpcId") or instance.get("VpcId"))


def settled(instance: Mapping[str, Any], query: Query) -> dict[str, object]:
    """What the tags say; of two tags of one name, which EC2 does not have, the greater value."""
    tags: dict[str, str] = {}
    for tag in instance.get("Tags", []):
        key = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", str(tag.get("Key")))
        value = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", tag.get("Value") or "")
        tags[key] = max(value, tags.get(key, ""))
    found: dict[str, object] = {}
    for setting, least, most in (("port", 1, 65535), ("weight", 0, 256), ("maxconn", 0, 2**31 - 1)):
        text = tags.get(query.setting_tags.get(setting, "\n"), "")
        if text and not (re.fullmatch("[0-9]{1,10}", text) and least <= int(text) <= most):
            raise Out
        found[setting] = int(text) if text else None
    text = tags.get(query.setting_tags.get("backup", "\n"), "").lower()
    if text not in ("", "true", "yes", "on", "1", "false", "no", "off", "0"):
        raise Out
    found["backup"] = text in ("true", "yes", "on", "1") if text else None
    return found


def judged(instance: Mapping[str, Any], group: str, query: Query, excluded: frozenset[str], tagged: frozenset[str]) -> tuple[str, str, dict[str, object]]:
    """Launch time to the second, address and settings of a usable instance."""
    launched = instance.get("LaunchTime", "")
    if not re.fullmatch("i-[0-9a-f]{8,17}", instance["InstanceId"]) or not asked_state(instance, query) or instance["InstanceId"] in excluded:
        raise Out
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", launched, re.ASCII):
        raise Out
    if datetime.fromisoformat(launched[:19]).replace(tzinfo=timezone.utc) + timedelta(seconds=query.min_age) > NOW and query.min_age:
        raise Out
    if not re.fullmatch("[a-z0-9-]{1,64}", instance.get("Placement", {}).get("AvailabilityZone", "")):
        raise Out
    settings = settled(instance, query)
    interfaces = instance.get("NetworkInterfaces", [])
    if query.interface is None:
        candidates = [one for one in interfaces if in_vpc(one, query) and carries(one, group, "Groups")]
    else:
        # A wrong number in any of them, and nobody knows which is which.
        indexes = {id(one): place(one)[0] for one in interfaces}
        device, subnets, tags = query.interface
        candidates = [one for one in interfaces if in_vpc(one, query)]
        candidates = [one for one in candidates if device is None or indexes[id(one)] == device]
        candidates = [one for one in candidates if not subnets or one.get("SubnetId") in subnets]
        candidates = [one for one in candidates if not tags or one.get("NetworkInterfaceId") in tagged]
    for interface in sorted(candidates, key=lambda one: (place(one), str(one.get("NetworkInterfaceId")))):
        found = addresses(instance, interface, query)
        if found:
            if not re.fullmatch("vpc-[0-9a-f]{8,17}", vpc(interface, instance)):
                raise Out
            if len(found) > 1 or (query.interface is not None and len(candidates) > 1):
                raise Riddle
            return launched[:19], found.pop(), settings
    raise Out


def by_the_rules(
    instances: list[dict[str, Any]], query: Query, excluded: frozenset[str], tagged: frozenset[str]
) -> tuple[dict[str, dict[str, tuple[str, str, dict[str, object]]]], dict[str, list[str]]]:
    """The usable instances of each group with what is told of them, and those that are left out; Riddle where it is an error."""
    usable: dict[str, dict[str, tuple[str, str, dict[str, object]]]] = {group: {} for group in query.groups}
    out: dict[str, list[str]] = {group: [] for group in query.groups}
    for group in query.groups:
        members = [one for one in instances if belongs(one, group, query)]
        carrying = [(one, nic) for one in members if asked_state(one, query) for nic in one.get("NetworkInterfaces", [])]
        if len({vpc(nic, one) for one, nic in carrying if in_vpc(nic, query) and carries(nic, group, "Groups")}) > 1:
            raise Riddle
        for one in members:
            try:
                usable[group][one["InstanceId"]] = judged(one, group, query, excluded, tagged)
            except Out:
                out[group].append(one["InstanceId"])
    # An address belongs to the newest that has it, in whatever group.
    everybody = [(launched, name, address) for found in usable.values() for name, (launched, address, _settings) in found.items()]
    for group, found in usable.items():
        for name, (launched, address, _settings) in list(found.items()):
            if any(other[2] == address and other[1] != name and other[:2] > (launched, name) for other in everybody):
                del found[name]
                out[group].append(name)
    return usable, out


# --- What is held against them ----------------------------------------------------------------------------------------


def discovered(instances: Iterable[dict[str, Any]], query: Query, excluded: frozenset[str], tagged: frozenset[str]) -> tuple[Any, Any]:
    facts, reasons = choose({"eu-west-1": instances}, {"eu-west-1": excluded}, query, NOW, {"eu-west-1": tagged})
    refuse_riddles(facts, {})
    keep_one_of_each_address(facts, reasons)
    return facts, reasons


def assert_by_the_rules(answer: dict[str, Any], chance: Chance) -> None:
    query = a_query(chance)
    excluded = some(chance, USUAL["Instance.InstanceId"], 0.1)
    tagged = some(chance, USUAL["InstanceNetworkInterface.NetworkInterfaceId"], 0.4)
    found: dict[str, dict[str, Any]] = {}
    merge(found, instances_in(answer))
    instances = list(found.values())
    for instance in instances:
        # No interface is there twice.
        instance["NetworkInterfaces"] = list({str(nic.get("NetworkInterfaceId")): nic for nic in instance.get("NetworkInterfaces", [])}.values())
    try:
        usable, out = by_the_rules(instances, query, excluded, tagged)
    except Riddle:
        with pytest.raises(Ec2Error) as refused:
            discovered(instances, query, excluded, tagged)
        assert len(str(refused.value)) < 3000 and len(str(refused.value).splitlines()) == 1
        return
    facts, reasons = discovered(instances, query, excluded, tagged)
    told = {
        group: {fact["instance_id"]: (fact["launch_time"][:19], fact["address"], {key: fact[key] for key in SETTING_TAGS}) for fact in list_}
        for group, list_ in facts.items()
    }
    assert told == usable
    # Each that carries the group is in or out, and once. An id that is none is shown as a quoted text.
    for group in query.groups:
        assert len(facts[group]) == len(usable[group])
        names = [entry["instance_id"] for entry in reasons[group]]
        assert sorted(name for name in names if name.startswith("i-")) == sorted(name for name in out[group] if re.fullmatch("i-[0-9a-f]{8,17}", name))
        assert len(names) == len(out[group])
    assert_harmless(facts, reasons)
    chance.shuffle(instances)
    for instance in instances:
        for key in ("NetworkInterfaces", "Tags"):
            chance.shuffle(instance.get(key, []))
    assert discovered(instances, query, excluded, tagged) == (facts, reasons)


def assert_harmless(facts: Mapping[str, list[dict[str, Any]]], reasons: Mapping[str, list[dict[str, str]]]) -> None:
    """What is returned is JSON, and none of its values can leave its word in a configuration; but tags, which stay on their line."""
    assert json.loads(json.dumps([facts, reasons])) == [facts, reasons]
    for fact in (fact for list_ in facts.values() for fact in list_):
        for key, value in fact.items():
            texts = [*value, *value.values()] if key == "tags" else [value] if isinstance(value, str) else []
            # The name of an Auto Scaling group is a tag's value.
            word = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*" if key in ("tags", "auto_scaling_group") else r"[A-Za-z0-9_.:-]+"
            assert all(re.fullmatch(word, text) for text in texts), (key, value)
    for entry in (entry for list_ in reasons.values() for entry in list_):
        assert len(entry["reason"]) < 400 and len(entry["reason"].splitlines()) == 1
        assert len(entry["instance_id"]) <= 100 and len(entry["instance_id"].splitlines()) == 1


@settings(max_examples=600, deadline=None)
@given(chances)
def test_what_is_found_is_what_the_rules_say_whatever_ec2_answers(chance: Chance) -> None:
    assert_by_the_rules(an_answer(chance), chance)


def as_xml(shape: Shape, value: Any) -> str:
    """A value as EC2 writes it."""
    if shape.type_name == "structure":
        names = {member: inner.serialization.get("name", member) for member, inner in shape.members.items()}
        return "".join(f"<{names[member]}>{as_xml(shape.members[member], inner)}</{names[member]}>" for member, inner in value.items())
    if shape.type_name == "list":
        return "".join(f"<item>{as_xml(shape.member, inner)}</item>" for inner in value)
    if shape.type_name == "boolean":
        return "true" if value else "false"
    # What XML cannot have, no answer has.
    return escape(re.sub("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", value))


@settings(max_examples=100, deadline=None)
@given(chances)
def test_it_is_so_for_what_botocore_reads_of_an_answer_on_the_wire(chance: Chance) -> None:
    answer = an_answer(chance)
    body = f'<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">{as_xml(answer_shape(), answer)}</DescribeInstancesResponse>'
    parsed = create_parser("ec2").parse({"body": body.encode(), "headers": {}, "status_code": 200}, answer_shape())
    assert [len(one["Instances"]) for one in parsed["Reservations"]] == [len(one["Instances"]) for one in answer["Reservations"]]
    assert_by_the_rules(parsed, chance)


STATES = ["InService", "Pending:Wait", "Warmed:Running", "Standby", "EnteringStandby", "Terminating", "Terminating:Wait", "Detaching", "Detached", "New", ""]


@settings(max_examples=400, deadline=None)
@given(chances)
def test_each_instance_of_a_group_is_usable_or_on_its_way_out_or_left_out(chance: Chance) -> None:
    answer, query, standalone = an_answer(chance), a_query(chance), chance.choice(["include", "exclude"])
    found: dict[str, dict[str, Any]] = {}
    merge(found, instances_in(answer))
    try:
        facts, reasons = choose({"eu-west-1": found.values()}, {}, query, NOW, {})
    except Ec2Error:
        return
    facts = {group: [{**fact, "source": 0} for fact in list_] for group, list_ in facts.items()}
    refuse_riddles({}, facts)
    states = {name: chance.choice(STATES) for name in sorted(found)}
    every = by_lifecycle(Sorted(facts, {group: [] for group in query.groups}, reasons), {Place(0, "eu-west-1"): states}, standalone)
    keep_one_of_each_address(every.chosen, every.excluded)
    for group in query.groups:
        members = [name for name, one in found.items() if belongs(one, group, query)]
        places = [[fact["instance_id"] for fact in list_] for list_ in (every.chosen[group], every.draining[group], every.excluded[group])]
        assert sorted(name for names in places for name in names if name.startswith("i-")) == sorted(
            name for name in members if re.fullmatch("i-[0-9a-f]{8,17}", name)
        )
        assert sum(map(len, places)) == len(members)
        for fact in every.chosen[group]:
            assert fact["auto_scaling_group"] is None or states[fact["instance_id"]] in ("InService", "Detached")
        draining = {"Standby", "EnteringStandby", "Terminating", "Terminating:Wait", "Detaching"}
        assert all(states[fact["instance_id"]] in draining and fact["auto_scaling_group"] for fact in every.draining[group])
    assert_harmless(every.chosen, every.excluded)
    assert_harmless(every.draining, {})
