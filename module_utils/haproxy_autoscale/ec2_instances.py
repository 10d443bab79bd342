# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""From EC2's answers to the instances of each security group, and the reasons for the rest.

Pure functions on plain data: nothing here talks to anything. What AWS answers is the DescribeInstances result as botocore parses it
(https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html), except that times and numbers are usually still text.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, NoReturn, Sequence
from urllib.parse import urlsplit

# "The maximum number of filter values specified on a single call is 200" (EC2's error FilterLimitExceeded): of a call, not of a filter.
VALUES_PER_CALL = 200
# What a caller's own filters may take of these, so that there is always room for the groups.
VALUES_OF_FILTERS = 100
FILTER_VALUE_LENGTH = 255
STATES = ("pending", "running", "shutting-down", "stopping", "stopped", "terminated")
ADDRESSES = {
    "private_ipv4": "private_ip_address",
    "public_ipv4": "public_ip_address",
    "ipv6": "ipv6_address",
    "private_dns": "private_dns_name",
    "public_dns": "public_dns_name",
}
# Far past any sense, and far before a number that a clock, a socket or a calendar cannot take.
_LIMITS = {
    "min_age": (100 * 365 * 86400, "100 years"),
    "timeout": (86400, "one day"),
    "retries": (100, "100 times"),
}
# What a tag can say of an instance's server, each by the option NAME_tag: the least and the most. HAProxy takes 0 for no maxconn.
_NUMBERS = {"port": (1, 65535), "weight": (0, 256), "maxconn": (0, 2147483647)}
_TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
SETTINGS = ("port", "weight", "backup", "maxconn")
_TAG_LENGTH = 128
# Filters that an option or the search itself already sets; a second one of the same name in a call has no documented meaning.
_OWN_FILTERS = {
    "instance.group-id": "security_groups",
    "instance.group-name": "security_groups",
    "instance-state-name": "states",
    "vpc-id": "vpc_id",
}

# Auto Scaling's own tag on each of its instances; nobody else may write one that begins so.
GROUP_TAG = "aws:autoscaling:groupName"

_GROUP_ID = re.compile(r"sg-[0-9a-f]{8,17}")
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSecurityGroup.html, GroupName
_GROUP_NAME = re.compile(r"[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}")
_INSTANCE_ID = re.compile(r"i-[0-9a-f]{8,17}")
_VPC_ID = re.compile(r"vpc-[0-9a-f]{8,17}")
_SUBNET_ID = re.compile(r"subnet-[0-9a-f]{8,17}")
_INTERFACE_ID = re.compile(r"eni-[0-9a-f]{8,17}")
_REGION = re.compile(r"[a-z]{2,8}(-[a-z]{2,16}){1,3}-[0-9]{1,2}")
_ZONE = re.compile(r"[a-z0-9-]{1,64}")
_LAUNCH_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z")
_DNS_NAME = re.compile(r"(?=.{1,253}\Z)[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*")
# What may not stand in the name of a server (HAProxy's Configuration Manual, 2.2), and what could begin a line of its own.
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_.:-]+")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_INDEX = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(r"[0-9]{1,10}")
_IPV6 = re.compile(r"[0-9a-fA-F:.]{2,45}")

# A failed module returns no facts, so its message carries the reasons; this many of them for a group, the rest as a count.
_REASONS_SHOWN = 10
# And this many of the instances that share one.
_INSTANCES_SHOWN = 3


class Ec2Error(Exception):
    """Why nothing can be returned. Its text is the module's error message."""


class FailedCall(Ec2Error):
    """A call failed, so that nothing is known; another try may succeed. Every other error is the same until somebody changes something."""


class MalformedAnswer(Ec2Error):
    """EC2 answered with success, yet not with what the operation answers."""


class _Unusable(Exception):
    """Why one instance is left out."""


class _Riddle(NamedTuple):
    """What of an instance fits an option more than once: nobody knows which is meant."""

    option: str
    why: str
    fits: str


class InterfaceRule(NamedTuple):
    """Which network interface of an instance gives its address; all that is not empty must hold."""

    device_index: int | None
    subnet_ids: tuple[str, ...]
    tags: dict[str, str]


class Query(NamedTuple):
    """What to look for: the module's options, checked."""

    groups: tuple[str, ...]
    vpc_id: str | None
    filters: dict[str, list[str]]
    exclude_filters: dict[str, list[str]]
    states: tuple[str, ...]
    address: str
    """A key of ADDRESSES."""
    min_age: int
    """Seconds."""
    minimum_instances: int
    address_rank: str = "primary"
    """Or secondary."""
    interface: InterfaceRule | None = None
    setting_tags: Mapping[str, str] = {}
    """A key of the fact (port, weight, backup, maxconn) → the tag that says it; only those that are asked for."""


# --- The options ------------------------------------------------------------------------------------------------------


def query_from(options: Mapping[str, Any]) -> Query:
    """Check the module's options and return what to look for.

    :raises Ec2Error: naming the option and the value.
    """
    vpc_id = checked_vpc(options["vpc_id"])
    check_limits(options)
    if not options["states"]:
        _refuse("states", [], "is empty; name at least one instance state, or leave it out for running")
    filters = _checked_filters("filters", options["filters"])
    for name, option in _OWN_FILTERS.items():
        if name in filters:
            _refuse("filters", name, f"is what the option {option} is for")
    exclude_filters = _checked_filters("exclude_filters", options["exclude_filters"])
    if exclude_filters and all(name in filters and set(filters[name]) <= set(values) for name, values in exclude_filters.items()):
        _refuse("exclude_filters", options["exclude_filters"], "excludes every instance that filters asks for")
    return Query(
        groups=_checked_groups(options["security_groups"]),
        vpc_id=vpc_id,
        filters=filters,
        exclude_filters=exclude_filters,
        states=tuple(sorted(set(options["states"]))),
        address=options["address"],
        min_age=options["min_age"],
        minimum_instances=options["minimum_instances"],
        address_rank=options["address_rank"],
        interface=_checked_interface(options["interface"] or {}),
        setting_tags={setting: _checked_tag(f"{setting}_tag", options[f"{setting}_tag"]) for setting in SETTINGS if options[f"{setting}_tag"]},
    )


def check_limits(options: Mapping[str, Any]) -> None:
    """Check the numbers, and the endpoint.

    :raises Ec2Error: naming the option and the value.
    """
    for option in ("min_age", "minimum_instances", "retries"):
        if options.get(option, 0) < 0:
            _refuse(option, options[option], "is negative")
    if options["timeout"] < 1:
        _refuse("timeout", options["timeout"], "is not a number of seconds of at least 1")
    for option, (limit, words) in _LIMITS.items():
        if options.get(option, 0) > limit:
            _refuse(option, options[option], f"is more than {words}")
    if options["endpoint_url"]:
        check_endpoint(options["endpoint_url"])


def is_group_id(group: str) -> bool:
    """Whether a security group is written by its id; "sg-" cannot begin a name."""
    return group.startswith("sg-")


def is_instance_id(text: str) -> bool:
    """Whether a text has the form of an instance's id."""
    return _INSTANCE_ID.fullmatch(text) is not None


def checked_vpc(vpc_id: str | None, option: str = "vpc_id") -> str | None:
    """Check the id of a VPC; None for an empty one.

    :raises Ec2Error: naming the option and the value.
    """
    if vpc_id and not _VPC_ID.fullmatch(vpc_id):
        _refuse(option, vpc_id, "is not the id of a VPC, which looks like vpc-0123456789abcdef0")
    return vpc_id or None


def checked_regions(regions: Sequence[str], option: str = "regions") -> tuple[str, ...]:
    """Check region names and return them sorted, each once; ("all",) as it is.

    :raises Ec2Error: naming the option and the value.
    """
    if "all" in regions and len(set(regions)) > 1:
        _refuse(option, list(regions), "mixes all with names of regions")
    for region in regions:
        if region != "all" and not _REGION.fullmatch(region):
            _refuse(option, region, "does not look like the name of a region, such as eu-west-1")
    return tuple(sorted(set(regions)))


def check_endpoint(url: str, option: str = "endpoint_url") -> None:
    """Check the URL of an endpoint.

    :param option: the option or the variable that says it.
    :raises Ec2Error: naming the option.
    """
    if "@" in url:
        # Not shown, wherever the @ is: what stands before it may be a password.
        raise Ec2Error(f"{option}: it has an @, and a URL with a user or password is not taken. Credentials have options of their own.")
    try:
        parts = urlsplit(url)
        if url.startswith(("https://", "http://")) and parts.hostname and parts.port != 0 and not re.search(r"\s", url):
            return
    except ValueError:
        pass  # A bracket without its other, or a port that is none.
    _refuse(option, url, "is not a URL that begins with https:// or http:// and has a host and, if any, a port from 1 to 65535")


def _checked_groups(groups: Sequence[str]) -> tuple[str, ...]:
    if not groups:
        _refuse("security_groups", [], "is empty; name at least one security group")
    for group in groups:
        if not group.strip():
            _refuse("security_groups", group, "is empty")
        if is_group_id(group):
            if not _GROUP_ID.fullmatch(group):
                _refuse("security_groups", group, "begins like the id of a security group and is none; one looks like sg-0123456789abcdef0")
        elif group != group.strip():
            _refuse("security_groups", group, "has a space at an end, which EC2 cuts off from a name")
        elif len(group) > FILTER_VALUE_LENGTH:
            _refuse("security_groups", group, f"is longer than the {FILTER_VALUE_LENGTH} characters that EC2 allows")
        elif not _GROUP_NAME.fullmatch(group):
            _refuse("security_groups", group, "has a character that EC2 allows in no name: allowed are a-z A-Z 0-9, the space and ._-:/()#,@[]+=&;{}!$*")
    return tuple(dict.fromkeys(groups))


def _checked_filters(option: str, filters: Mapping[str, Any] | None) -> dict[str, list[str]]:
    checked = {}
    for name, given in (filters or {}).items():
        if not isinstance(name, str) or not name.strip():
            _refuse(option, name, "is not the name of a filter")
        values = given if isinstance(given, list) else [given]
        if not values:
            _refuse(option, name, "has no value")
        checked[name] = [_checked_filter_value(option, name, value) for value in values]
    if sum(len(values) for values in checked.values()) > VALUES_OF_FILTERS:
        _refuse(option, sorted(checked), f"has more than {VALUES_OF_FILTERS} values; EC2 takes {VALUES_PER_CALL} in a call, the groups included")
    return checked


def _checked_filter_value(option: str, name: str, value: Any) -> str:
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, int):
        value = str(value)
    if not isinstance(value, str):
        _refuse(option, f"{name}: {value!r}", "is not a text, a whole number or a boolean, nor a list of these")
    if len(value) > FILTER_VALUE_LENGTH:
        _refuse(option, f"{name}: {value}", f"is longer than the {FILTER_VALUE_LENGTH} characters that EC2 allows")
    text: str = value
    return text


def _checked_interface(given: Mapping[str, Any]) -> InterfaceRule | None:
    rule = InterfaceRule(
        given.get("device_index"),
        tuple(sorted(set(given.get("subnet_ids") or []))),
        {_checked_tag("interface", str(name)): _checked_filter_value("interface", str(name), value) for name, value in (given.get("tags") or {}).items()},
    )
    if rule.device_index is not None and rule.device_index < 0:
        _refuse("interface", f"device_index {rule.device_index}", "is negative")
    for subnet_id in rule.subnet_ids:
        if not _SUBNET_ID.fullmatch(subnet_id):
            _refuse("interface", subnet_id, "is not the id of a subnet, which looks like subnet-0123456789abcdef0")
    if len(rule.tags) > VALUES_OF_FILTERS:
        _refuse("interface", sorted(rule.tags), f"has more than {VALUES_OF_FILTERS} tags")
    return rule if rule != (None, (), {}) else None


def _checked_tag(option: str, tag: str) -> str:
    if len(tag) > _TAG_LENGTH:
        _refuse(option, tag, f"is longer than the {_TAG_LENGTH} characters that EC2 allows")
    if CONTROL.search(tag):
        _refuse(option, tag, "has a control character or a line's end, and is not the name of a tag")
    return tag


def _refuse(option: str, value: object, why: str) -> NoReturn:
    raise Ec2Error(f"{option}: {shown(value)} {why}.")


def shown(value: object) -> str:
    """A value of unknown origin for a message: quoted, escaped and short."""
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


# --- What to ask ------------------------------------------------------------------------------------------------------


def describe_filters(query: Query, further: Mapping[str, Sequence[str]]) -> list[list[dict[str, Any]]]:
    """The Filters of each DescribeInstances sequence that a region needs.

    EC2 combines the filters of a call by AND, so that groups by name and groups by id need a call each. ``further`` wins over what
    the query sets under the same name. The state is no filter: an instance in another one is to be left out with a reason.
    """
    calls = []
    kinds = {
        "instance.group-name": [group for group in query.groups if not is_group_id(group)],
        "instance.group-id": [group for group in query.groups if is_group_id(group)],
    }
    for kind, groups in kinds.items():
        filters: dict[str, Sequence[str]] = {"vpc-id": [query.vpc_id]} if query.vpc_id else {}
        filters.update(further)
        if kind in further:
            calls += [filters] if groups else []
            continue
        room = VALUES_PER_CALL - sum(len(values) for values in filters.values())
        calls += [{**filters, kind: groups[start : start + room]} for start in range(0, len(groups), room)]
    return [[{"Name": name, "Values": list(values)} for name, values in sorted(filters.items())] for filters in calls]


def interface_filters(query: Query) -> list[dict[str, Any]]:
    """The Filters of the DescribeNetworkInterfaces that finds the interfaces with the tags of ``interface``; empty where it needs none.

    What EC2 takes for a wildcard is written so that it stands for itself.
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html
    """
    if not query.interface or not query.interface.tags:
        return []
    filters = {f"tag:{name}": re.sub(r"([*?\\])", r"\\\1", value) for name, value in query.interface.tags.items()}
    if query.vpc_id:
        filters["vpc-id"] = query.vpc_id
    return [{"Name": name, "Values": [value]} for name, value in sorted(filters.items())]


# --- What EC2 answered ------------------------------------------------------------------------------------------------


def instances_in(page: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The instances of one page of DescribeInstances.

    :raises MalformedAnswer: when the page is no such answer. botocore reads any well-formed XML as a success with whatever it
        recognises, so a portal's login page would otherwise be an empty security group. An empty set is there, as an empty element.
    """
    for reservation in _listed(page, "Reservations"):
        for instance in _listed(reservation, "Instances"):
            if not isinstance(instance.get("InstanceId"), str):
                raise MalformedAnswer("the answer has an instance without an id")
            yield instance


def listed(page: Mapping[str, Any], member: str, key: str) -> list[dict[str, Any]]:
    """The entries of a list that an answer must have, each with the text ``key``.

    :raises MalformedAnswer: when the list or a key is missing.
    """
    entries = _listed(page, member)
    if not all(isinstance(entry.get(key), str) for entry in entries):
        raise MalformedAnswer(f"the answer has an entry in {member} without {key}")
    return entries


def _listed(parent: Mapping[str, Any], member: str) -> list[dict[str, Any]]:
    entries = parent.get(member)
    if not isinstance(entries, list):
        raise MalformedAnswer(f"the answer has no {member}")
    return entries


def merge(found: dict[str, dict[str, Any]], instances: Iterable[dict[str, Any]]) -> None:
    """Add instances to those found, by id: pages may repeat one, and so may the calls by name and by id.

    Two different descriptions of one instance mean that it changed between pages. The choice between them does not depend on their order.
    """
    for instance in instances:
        known = found.setdefault(instance["InstanceId"], instance)
        if known is not instance and known != instance:
            found[instance["InstanceId"]] = max(known, instance, key=repr)


# --- The choice -------------------------------------------------------------------------------------------------------


def choose(
    answers: Mapping[str, Iterable[Mapping[str, Any]]],
    excluded_ids: Mapping[str, frozenset[str]],
    query: Query,
    now: datetime,
    interface_ids: Mapping[str, frozenset[str]] | None = None,
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[dict[str, str]]]]:
    """Choose the usable instances of each group.

    :param answers: region → the instances that it listed, each once.
    :param excluded_ids: region → ids that match ``exclude_filters``.
    :param now: the time that ages are reckoned from, with its time zone.
    :param interface_ids: region → ids of the interfaces with the tags of ``interface``.
    :returns: group as written → instances by launch time and id, and group → ``{instance_id, reason}`` by id. An instance of which several
        interfaces or addresses fit has a ``riddle``, for refuse_riddles.
    :raises Ec2Error: when one name stands for groups of several VPCs of a region.
    """
    chosen: dict[str, list[dict[str, Any]]] = {group: [] for group in query.groups}
    excluded: dict[str, list[dict[str, str]]] = {group: [] for group in query.groups}
    wanted = frozenset(query.groups)
    youngest = now - timedelta(seconds=query.min_age)
    for region, instances in answers.items():
        vpcs: dict[str, set[str]] = {group: set() for group in query.groups}
        for instance in instances:
            for group, interfaces in _interfaces_by_group(instance, wanted, query.vpc_id).items():
                # An old instance that is stopped in another VPC makes a name no riddle.
                if _state(instance) in query.states:
                    vpcs[group].update(str(interface.get("VpcId") or instance.get("VpcId")) for interface in interfaces)
                try:
                    _check_instance(instance, query, excluded_ids.get(region, frozenset()), youngest)
                    chosen[group].append(_fact(instance, interfaces, region, query, (interface_ids or {}).get(region, frozenset())))
                except _Unusable as unusable:
                    instance_id = instance["InstanceId"]
                    excluded[group].append({"instance_id": instance_id if _INSTANCE_ID.fullmatch(instance_id) else shown(instance_id), "reason": str(unusable)})
        _refuse_union(region, vpcs)
    for facts in chosen.values():
        facts.sort(key=lambda fact: (fact["launch_time"], fact["instance_id"]))
    for reasons in excluded.values():
        reasons.sort(key=lambda entry: (entry["instance_id"], entry["reason"]))
    return chosen, excluded


def refuse_riddles(chosen: Mapping[str, Sequence[dict[str, Any]]], draining: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Refuse an address that could be one or another, once it is known who gets requests. Whoever is on the way out has the first that fits.

    :raises Ec2Error: naming the option, the instances and what fits.
    """
    riddles: dict[tuple[str, str], dict[str, str]] = {}
    for facts in chosen.values():
        for fact in facts:
            if "riddle" in fact:
                riddle: _Riddle = fact["riddle"]
                riddles.setdefault((riddle.option, riddle.why), {})[fact["instance_id"]] = riddle.fits
    for (option, why), instances in sorted(riddles.items()):
        names = [f"{instance_id} ({fits})" for instance_id, fits in sorted(instances.items())]
        raise Ec2Error(f"{option}: {why}: {_joined(names, ', ', _REASONS_SHOWN)}.")
    for facts in draining.values():
        for fact in facts:
            fact.pop("riddle", None)


def keep_one_of_each_address(chosen: dict[str, list[dict[str, Any]]], excluded: Mapping[str, list[dict[str, str]]]) -> None:
    """Leave an address that several instances have to the newest of them, in place. EC2 may still list the one that had it before, and two
    servers at one address would get twice the share of the others.

    :param chosen: group → all that is usable, of every region and account.
    """
    owners: dict[str, tuple[str, str]] = {}
    for facts in chosen.values():
        for fact in facts:
            this = (fact["launch_time"], fact["instance_id"])
            owners[fact["address"]] = max(this, owners.get(fact["address"], this))
    for group, facts in chosen.items():
        chosen[group] = []
        for fact in facts:
            launched, newest = owners[fact["address"]]
            if fact["instance_id"] == newest:
                chosen[group].append(fact)
            else:
                both = f"{fact['instance_id']} (launched at {fact['launch_time']}) and of {newest} (launched at {launched})"
                reason = f"{fact['address']} is the address of {both}; the newer one has it"
                excluded[group].append({"instance_id": fact["instance_id"], "reason": reason})
        excluded[group].sort(key=lambda entry: (entry["instance_id"], entry["reason"]))


def _interfaces_by_group(instance: Mapping[str, Any], wanted: frozenset[str], vpc_id: str | None) -> dict[str, list[Mapping[str, Any]]]:
    """The wanted groups that an instance carries → the interfaces that carry them.

    Exact on our side, because EC2 takes ``*`` in a filter's value for a wildcard and lists instances of further groups.
    """
    carried: dict[str, list[Mapping[str, Any]]] = {}
    interfaces = instance.get("NetworkInterfaces") or []
    for interface in interfaces:
        if vpc_id and interface.get("VpcId", vpc_id) != vpc_id:
            continue
        for group in interface.get("Groups") or []:
            # A group may be asked for by its name and by its id at once.
            for key in wanted.intersection((group.get("GroupName"), group.get("GroupId"))):
                carried.setdefault(key, []).append(interface)
    if not interfaces:
        # Terminated instances have none. Listed as excluded rather than passed over.
        for group in instance.get("SecurityGroups") or []:
            for key in wanted.intersection((group.get("GroupName"), group.get("GroupId"))):
                carried[key] = []
    return carried


def _position(interface: Mapping[str, Any]) -> tuple[int, int]:
    attachment = interface.get("Attachment") or {}
    return (_index(attachment.get("DeviceIndex", 0), "device index"), _index(attachment.get("NetworkCardIndex", 0), "network card index"))


def _index(value: object, what: str) -> int:
    if _INDEX.fullmatch(str(value)):
        return int(str(value))
    raise _Unusable(f"the {what} of its network interface is not a number: {shown(value)}")


def _refuse_union(region: str, vpcs: Mapping[str, set[str]]) -> None:
    for group, ids in vpcs.items():
        if len(ids) > 1:
            raise Ec2Error(
                f"security_groups: {shown(group)} names a security group in each of several VPCs of {region}: {', '.join(sorted(map(_plain, ids)))}. "
                "Set vpc_id to one of them, or give the group's id."
            )


def _plain(value: str, pattern: re.Pattern[str] = _VPC_ID) -> str:
    return value if pattern.fullmatch(value) else shown(value)


def _check_instance(instance: Mapping[str, Any], query: Query, excluded_ids: frozenset[str], youngest: datetime) -> None:
    if not _INSTANCE_ID.fullmatch(instance["InstanceId"]):
        raise _Unusable("its id is not that of an instance")
    if _state(instance) not in query.states:
        raise _Unusable(f"its state is {shown(_state(instance))}")
    if instance["InstanceId"] in excluded_ids:
        raise _Unusable("it matches exclude_filters")
    if query.min_age:
        launched = _launch_time(instance)
        if launched > youngest:
            raise _Unusable(f"launched at {launched.strftime('%Y-%m-%dT%H:%M:%SZ')}, it is younger than min_age ({query.min_age} s)")


def _state(instance: Mapping[str, Any]) -> object:
    return (instance.get("State") or {}).get("Name")


def _launch_time(instance: Mapping[str, Any]) -> datetime:
    value = instance.get("LaunchTime")
    if isinstance(value, datetime):
        # By a model that could not be cut botocore has parsed it.
        return value.astimezone(timezone.utc)
    try:
        if isinstance(value, str) and _LAUNCH_TIME.fullmatch(value):
            return datetime.fromisoformat(value[:19]).replace(tzinfo=timezone.utc)
    except ValueError:
        pass
    raise _Unusable(f"its launch time is not a time: {shown(value)}")


def _fact(instance: Mapping[str, Any], carrying: Sequence[Mapping[str, Any]], region: str, query: Query, interface_ids: frozenset[str]) -> dict[str, Any]:
    launch_time = _launch_time(instance).strftime("%Y-%m-%dT%H:%M:%SZ")
    zone = _matching(_ZONE, (instance.get("Placement") or {}).get("AvailabilityZone"), "its availability zone")
    # Whoever may tag an instance may write here. A template can print a tag, so that none may bring a line of its own.
    tags = dict(sorted((CONTROL.sub(" ", str(tag.get("Key"))), CONTROL.sub(" ", str(tag.get("Value") or ""))) for tag in instance.get("Tags") or []))
    settings = {setting: _setting(setting, query.setting_tags.get(setting), tags) for setting in SETTINGS}
    if not carrying:
        raise _Unusable("it has no network interface")
    interfaces = _in_order(carrying) if query.interface is None else _interfaces_asked_for(instance, query, query.interface, interface_ids)
    for interface in interfaces:
        addresses = _addresses(instance, interface)
        address, riddle = _address(interface, addresses, query)
        if query.interface is not None and len(interfaces) > 1:
            fits = [_plain(str(interface.get("NetworkInterfaceId")), _INTERFACE_ID) for interface in interfaces]
            riddle = _Riddle("interface", "several network interfaces match it, and one must", _joined(fits, ", ", _REASONS_SHOWN))
        if address:
            return {
                "instance_id": instance["InstanceId"],
                "name": _NOT_IN_A_NAME.sub("_", tags.get("Name", "")) or None,
                "address": address,
                **addresses,
                "availability_zone": zone,
                "region": region,
                "vpc_id": _matching(_VPC_ID, interface.get("VpcId") or instance.get("VpcId"), "its VPC"),
                "launch_time": launch_time,
                "lifecycle_state": None,
                "auto_scaling_group": tags.get(GROUP_TAG) or None,
                **settings,
                "tags": tags,
                **({"riddle": riddle} if riddle else {}),
            }
    devices = ", ".join(str(_position(interface)[0]) for interface in interfaces)
    kind = query.address if query.address_rank == "primary" else f"secondary {query.address}"
    which = "carries the group" if query.interface is None else "interface asks for"
    raise _Unusable(f"no {kind} on the network interface that {which} (device index {devices})")


def _in_order(interfaces: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    # By id first, so that the reason does not depend on the order of the answer when several have a bad index.
    return sorted(sorted(interfaces, key=lambda interface: str(interface.get("NetworkInterfaceId"))), key=_position)


def _interfaces_asked_for(instance: Mapping[str, Any], query: Query, rule: InterfaceRule, tagged: frozenset[str]) -> list[Mapping[str, Any]]:
    """The interfaces that the rule asks for, which need not carry the group. It should be one."""
    matching = [
        interface
        for interface in _in_order(instance.get("NetworkInterfaces") or [])
        if (not query.vpc_id or interface.get("VpcId", query.vpc_id) == query.vpc_id)
        and (rule.device_index is None or _position(interface)[0] == rule.device_index)
        and (not rule.subnet_ids or interface.get("SubnetId") in rule.subnet_ids)
        and (not rule.tags or interface.get("NetworkInterfaceId") in tagged)
    ]
    if not matching:
        raise _Unusable("it has no network interface that interface asks for")
    return matching


def _address(interface: Mapping[str, Any], addresses: Mapping[str, str | None], query: Query) -> tuple[str | None, _Riddle | None]:
    """The address of the kind and rank that are asked for, the first of them when several fit."""
    fits: list[str | None]
    option, why = "address_rank", f"several {query.address} addresses are {query.address_rank}, and one must be"
    if query.address == "ipv6":
        flagged, others = _ipv6_addresses(interface)
        fits = [*(flagged or others if query.address_rank == "primary" else others)]
        if query.address_rank == "primary" and not flagged:
            option, why = "address", "there are several ipv6 addresses and none is the primary one; make one of them primary"
    elif query.address_rank == "primary":
        fits = [addresses[ADDRESSES[query.address]]]
    else:
        secondary = [entry for entry in interface.get("PrivateIpAddresses") or [] if not entry.get("Primary")]
        fits = [*{_addresses_of_ipv4(entry, entry.get("PrivateDnsName"))[ADDRESSES[query.address]] for entry in secondary}]
    found = sorted(address for address in fits if address)
    riddle = _Riddle(option, why, _joined(found, ", ", _REASONS_SHOWN)) if len(found) > 1 else None
    return (found[0] if found else None), riddle


def _setting(setting: str, tag: str | None, tags: Mapping[str, str]) -> int | bool | None:
    """What a tag says; None where none is asked for, and where it is missing or empty."""
    value = tags.get(tag, "") if tag else ""
    if not value:
        return None
    if setting == "backup":
        if value.lower() in _TRUTHS:
            return _TRUTHS[value.lower()]
        raise _Unusable(f"its tag {shown(tag)} must be true or false, and is {shown(value)}")
    least, most = _NUMBERS[setting]
    if _NUMBER.fullmatch(value) and least <= int(value) <= most:
        return int(value)
    raise _Unusable(f"its tag {shown(tag)} must be a whole number from {least} to {most}, and is {shown(value)}")


def _addresses(instance: Mapping[str, Any], interface: Mapping[str, Any]) -> dict[str, str | None]:
    private_dns_name = interface.get("PrivateDnsName")
    if not private_dns_name and _position(interface)[0] == 0:
        # EC2 names an interface only in a VPC with DNS hostnames; the instance, whose first interface this is, has a name in any.
        private_dns_name = instance.get("PrivateDnsName")
    flagged, others = _ipv6_addresses(interface)
    ipv6 = flagged or others
    return {**_addresses_of_ipv4(interface, private_dns_name), "ipv6_address": ipv6[0] if len(ipv6) == 1 else None}


def _addresses_of_ipv4(holder: Mapping[str, Any], private_dns_name: object) -> dict[str, str | None]:
    """What an interface says of its primary address, or an entry of its PrivateIpAddresses of any."""
    association = holder.get("Association") or {}
    return {
        "private_ip_address": _ipv4(holder.get("PrivateIpAddress"), "its private address"),
        "public_ip_address": _ipv4(association.get("PublicIp"), "its public address"),
        "private_dns_name": _matching(_DNS_NAME, private_dns_name, "its private DNS name", optional=True),
        "public_dns_name": _matching(_DNS_NAME, association.get("PublicDnsName"), "its public DNS name", optional=True),
    }


def _ipv6_addresses(interface: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Those that are flagged as primary, and the others."""
    found: tuple[set[IPv6Address], set[IPv6Address]] = (set(), set())
    for entry in interface.get("Ipv6Addresses") or []:
        found[0 if entry.get("IsPrimaryIpv6") else 1].add(_ipv6(entry.get("Ipv6Address")))
    flagged, others = found
    return [str(address) for address in sorted(flagged)], [str(address) for address in sorted(others - flagged)]


def _ipv4(value: object, what: str) -> str | None:
    if not value:
        return None
    try:
        if isinstance(value, str):
            return str(IPv4Address(value))
    except ValueError:
        pass
    raise _Unusable(f"{what} is not an IPv4 address: {shown(value)}")


def _ipv6(value: object) -> IPv6Address:
    try:
        # The parser takes any text after a percent sign for a zone, and gives it back.
        if isinstance(value, str) and _IPV6.fullmatch(value):
            return IPv6Address(value)
    except ValueError:
        pass
    raise _Unusable(f"its IPv6 address is not one: {shown(value)}")


def _matching(pattern: re.Pattern[str], value: object, what: str, optional: bool = False) -> str | None:
    if optional and not value:
        return None
    if isinstance(value, str) and pattern.fullmatch(value):
        return value
    raise _Unusable(f"{what} is not one: {shown(value)}")


# --- What is missing --------------------------------------------------------------------------------------------------


def unseen(query: Query, chosen: Mapping[str, Sequence[object]], excluded: Mapping[str, Sequence[object]]) -> list[str]:
    """The groups that no listed instance carries, of which it is open whether they exist."""
    return [group for group in query.groups if not chosen[group] and not excluded[group]]


def missing_groups(missing: Sequence[str], regions: Iterable[str], vpc_id: str | None, existing: Sequence[Mapping[str, Any]]) -> str:
    """Say that groups do not exist, with those of a similar name or id.

    :param existing: all SecurityGroups of these regions, in whatever VPC.
    """
    # Only here, on the way to an error, because every run would pay for loading it.
    from difflib import get_close_matches

    where = "in " + ", ".join(sorted(regions)) + (f" in {vpc_id}" if vpc_id else "")
    sentences = []
    for group in missing:
        key = "GroupId" if is_group_id(group) else "GroupName"
        near: dict[str, set[str]] = {}
        for other in existing:
            near.setdefault(str(other.get(key)).lower(), set()).add(f"{shown(other.get('GroupName'))} ({other.get('GroupId')} in {other.get('VpcId')})")
        similar = [entry for match in get_close_matches(group.lower(), list(near), n=3) for entry in sorted(near[match])]
        sentence = f"security_groups: {shown(group)} does not exist {where}."
        if similar:
            sentence += f" Similar: {', '.join(similar[:5])}."
        sentences.append(sentence)
    return _joined(sentences, " ", _REASONS_SHOWN)


def shortfall(query: Query, chosen: Mapping[str, Sequence[object]], excluded: Mapping[str, Sequence[Mapping[str, str]]]) -> str | None:
    """Say which groups have fewer usable instances than ``minimum_instances``, and why; None when none has."""
    sentences = []
    for group in query.groups:
        if len(chosen[group]) >= query.minimum_instances:
            continue
        sentence = f"{shown(group)} has {len(chosen[group])}, minimum_instances is {query.minimum_instances}"
        if excluded[group]:
            sentence += f" ({len(excluded[group])} excluded: {_reasons(excluded[group])})"
        elif not chosen[group]:
            sentence += " (it exists, but no instance that fits the other options carries it)"
        sentences.append(sentence)
    return f"Too few usable instances: {_joined(sentences, '. ', _REASONS_SHOWN)}." if sentences else None


def _reasons(excluded: Sequence[Mapping[str, str]]) -> str:
    """Each reason once, with some of the instances that it holds for; what holds for the fewest, which tells most, comes first."""
    instances: dict[str, list[str]] = {}
    for entry in excluded:
        instances.setdefault(entry["reason"], []).append(entry["instance_id"])
    rarest = sorted(instances, key=lambda reason: len(instances[reason]))
    return _joined([f"{_joined(instances[reason], ', ', _INSTANCES_SHOWN)}: {reason}" for reason in rarest], "; ", _REASONS_SHOWN)


def _joined(texts: Sequence[str], separator: str, limit: int) -> str:
    more = [f"and {len(texts) - limit} more"] if len(texts) > limit else []
    return separator.join([*texts[:limit], *more])
