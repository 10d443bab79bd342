# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Where to look and as whom: the options that say it, checked. Pure functions; the sessions are made in ec2_client."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any, Iterable, Mapping, NamedTuple, NoReturn, Sequence

from .ec2_instances import Ec2Error, checked_regions, checked_vpc, shown

# Ansible's own words for it.
_HIDDEN = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"
ROLE_SESSION_NAME = "haproxy-autoscale"
# The options of both modules that talk to AWS.
CONNECTION_ARGUMENTS: dict[str, Any] = {
    "regions": {"type": "list", "elements": "str", "aliases": ["region", "aws_region", "ec2_region"]},
    "sources": {
        "type": "list",
        "elements": "dict",
        "options": {
            "profile": {"type": "str"},
            "assume_role_arn": {"type": "list", "elements": "str"},
            "external_id": {"type": "str", "no_log": True},
            "role_session_name": {"type": "str"},
            "regions": {"type": "list", "elements": "str"},
            "security_groups": {"type": "list", "elements": "str"},
            "vpc_id": {"type": "str"},
        },
    },
    "access_key": {"type": "str", "no_log": True, "aliases": ["aws_access_key_id", "aws_access_key"]},
    "secret_key": {"type": "str", "no_log": True, "aliases": ["aws_secret_access_key", "aws_secret_key"]},
    "session_token": {"type": "str", "no_log": True, "aliases": ["aws_session_token"]},
    "profile": {"type": "str", "aliases": ["aws_profile"]},
    "assume_role_arn": {"type": "list", "elements": "str"},
    "external_id": {"type": "str", "no_log": True},
    "role_session_name": {"type": "str"},
    "endpoint_url": {"type": "str", "aliases": ["aws_endpoint_url"]},
    "aws_ca_bundle": {"type": "path"},
    "validate_certs": {"type": "bool", "default": True},
    "retries": {"type": "int", "default": 5},
    "timeout": {"type": "int", "default": 30},
}
CONNECTION_RULES: dict[str, Any] = {
    "mutually_exclusive": [("profile", "access_key"), ("profile", "secret_key"), ("profile", "session_token")],
    "required_together": [("access_key", "secret_key")],
    "required_by": {"session_token": ["access_key"]},
}

# https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html and https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/([\x21-\x7e]{1,510}/)?[a-zA-Z0-9_+=,.@-]{1,64}")
_EXTERNAL_ID = re.compile(r"[a-zA-Z0-9_+=,.@:/-]{2,1224}")
_SESSION_NAME = re.compile(r"[a-zA-Z0-9_+=,.@-]{2,64}")


class Source(NamedTuple):
    """One account and set of regions to look in."""

    number: int
    """Its place in ``sources``; 0 without them."""
    where: str
    """What follows a region in a message: nothing without ``sources``."""
    with_keys: bool
    """Whether ``access_key`` is for it: when it is set, and the entry names no profile."""
    profile: str | None
    roles: tuple[str, ...]
    """The roles to assume, each with the credentials of the one before."""
    external_id: str | None
    """For the last of them."""
    session_name: str
    regions: tuple[str, ...]
    """Empty for the region of the environment, the profile or the host."""
    groups: tuple[str, ...]
    vpc_id: str | None


def taken(module: Any) -> dict[str, Any]:
    """The options to work with. What Ansible shows of them is from now on without external ids, and without a URL that may hold a password.

    An external id is no secret to AWS, but not everybody's business. By no_log alone it would be cut out of all that is returned, and it may well be a part
    of an instance's name.
    """
    options = deepcopy(module.params)
    for entry in (module.params, *(module.params["sources"] or [])):
        if entry.get("external_id"):
            module.no_log_values.discard(entry["external_id"])
            entry["external_id"] = _HIDDEN
    if "@" in (module.params.get("endpoint_url") or ""):
        module.params["endpoint_url"] = _HIDDEN
    return dict(options)


def sources_from(options: Mapping[str, Any], groups: Sequence[str] = ()) -> list[Source]:
    """Check the options that say where to look, and return the sources; one, of the module's own options, when none are listed.

    :param groups: the module's security groups, checked.
    :raises Ec2Error: naming the option and the value.
    """
    if bool(options["access_key"]) != bool(options["secret_key"]):
        raise Ec2Error("access_key and secret_key: one is empty and the other is not.")
    listed = options["sources"] or []
    entries: Sequence[Mapping[str, Any]] = listed or [{}]
    sources: list[Source] = []
    for index, entry in enumerate(entries):
        source = _source(options, index, entry, groups, f"sources[{index}]" if listed else "")
        for other in sources:
            if source == other._replace(number=source.number, where=source.where):
                raise Ec2Error(f"sources: the entries {other.number} and {index} are the same (counted from 0).")
        sources.append(source)
    if options["external_id"] and not any(source.roles for source in sources):
        raise Ec2Error("external_id: it is for assuming a role, and assume_role_arn names none.")
    unasked = [group for group in groups if not any(group in source.groups for source in sources)]
    if unasked:
        _refuse("security_groups", unasked[0], "is asked for by no entry of sources")
    return sources


def _source(options: Mapping[str, Any], index: int, entry: Mapping[str, Any], groups: Sequence[str], name: str) -> Source:
    def value(option: str) -> Any:
        """What the entry says, else the module; and an entry may say an empty list."""
        said = entry.get(option)
        return options.get(option) if said is None or said == "" else said

    def named(option: str) -> str:
        return f"{name}.{option}" if entry.get(option) else option

    roles = tuple(value("assume_role_arn") or ())
    for role in roles:
        if not _ROLE_ARN.fullmatch(role):
            _refuse(named("assume_role_arn"), role, "is not the ARN of a role, which looks like arn:aws:iam::123456789012:role/name")
    external_id = value("external_id") or None
    if external_id and not _EXTERNAL_ID.fullmatch(external_id):
        raise Ec2Error(f"{named('external_id')}: it is not 2 to 1224 letters, digits and characters of _+=,.@:/-.")
    if entry.get("external_id") and not roles:
        raise Ec2Error(f"{named('external_id')}: it is for assuming a role, and assume_role_arn names none.")
    session_name = value("role_session_name") or ROLE_SESSION_NAME
    if not _SESSION_NAME.fullmatch(session_name):
        _refuse(named("role_session_name"), session_name, "is not 2 to 64 letters, digits and characters of _+=,.@-")
    of_entry = entry.get("security_groups") or []
    for group in of_entry:
        if group not in groups and groups:
            _refuse(named("security_groups"), group, "is not one of security_groups")
    return Source(
        number=index,
        where=f" ({name})" if name else "",
        with_keys=bool(options["access_key"]) and not entry.get("profile"),
        profile=value("profile") or None,
        roles=roles,
        external_id=external_id if roles else None,
        session_name=session_name,
        regions=checked_regions(value("regions") or [], named("regions")),
        groups=tuple(group for group in groups if group in of_entry or not of_entry),
        vpc_id=checked_vpc(value("vpc_id"), named("vpc_id")),
    )


def merge(
    groups: Sequence[str],
    found: Iterable[tuple[int, Mapping[str, Sequence[Mapping[str, Any]]], Mapping[str, Sequence[dict[str, str]]]]],
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[dict[str, str]]]]:
    """Make one list for each group of what was found in each source and region.

    :param groups: all groups, in their order.
    :param found: index of the source, and the usable and the excluded instances by group.
    :returns: the same of all, by launch time and id, and by id. An instance that two sources found is that of the first.
    """
    chosen: dict[str, list[dict[str, Any]]] = {group: [] for group in groups}
    excluded: dict[str, list[dict[str, str]]] = {group: [] for group in groups}
    seen: set[tuple[str, str]] = set()
    for index, facts, reasons in found:
        for group in facts:
            new = [fact for fact in facts[group] if (group, fact["instance_id"]) not in seen]
            out = [entry for entry in reasons[group] if (group, entry["instance_id"]) not in seen]
            seen.update((group, one["instance_id"]) for one in (*new, *out))
            chosen[group] += [{**fact, "source": index} for fact in new]
            excluded[group] += out
    for group in groups:
        chosen[group].sort(key=lambda fact: (fact["launch_time"], fact["instance_id"]))
        excluded[group].sort(key=lambda entry: (entry["instance_id"], entry["reason"]))
    return chosen, excluded


def _refuse(option: str, value: object, why: str) -> NoReturn:
    raise Ec2Error(f"{option}: {shown(value)} {why}.")
