# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""The part that talks to AWS: region, credentials, pages. All or nothing, and every failure says what was asked where."""

from __future__ import annotations

import gc
import os
import traceback
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, Iterator, Mapping, Sequence

from .ec2_instances import (
    CONTROL,
    VALUES_PER_CALL,
    Ec2Error,
    FailedCall,
    MalformedAnswer,
    Query,
    checked_regions,
    choose,
    describe_filters,
    instances_in,
    is_group_id,
    listed,
    merge,
    missing_groups,
    query_from,
    shortfall,
    unseen,
)

# botocore is what boto3 calls for every operation used here. Loading it alone saves every run a tenth of a second of processor time.
BOTOCORE_IMPORT_ERROR: str | None
try:
    from botocore.awsrequest import AWSRequest
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    from botocore.httpsession import URLLib3Session
    from botocore.session import Session
except ImportError:
    BOTOCORE_IMPORT_ERROR = traceback.format_exc()
else:
    BOTOCORE_IMPORT_ERROR = None

PAGE_SIZE = 1000
# Where DescribeRegions is asked when nothing names a region; every region of a partition knows the others.
_REGION_THAT_LISTS = "us-east-1"
# What the facts need of EC2's model. botocore parses only what a model has, and these are a tenth of what EC2 answers:
# at 10,000 instances 2.4 seconds instead of 8.
_OPERATIONS = ("DescribeInstances", "DescribeRegions", "DescribeSecurityGroups")
_MEMBERS = {
    "Instance": ("InstanceId", "LaunchTime", "NetworkInterfaces", "Placement", "PrivateDnsName", "SecurityGroups", "State", "Tags", "VpcId"),
    "InstanceNetworkInterface": ("Association", "Attachment", "Groups", "Ipv6Addresses", "NetworkInterfaceId", "PrivateDnsName", "PrivateIpAddress", "VpcId"),
    "InstanceNetworkInterfaceAttachment": ("DeviceIndex", "NetworkCardIndex"),
    "InstanceNetworkInterfaceAssociation": ("PublicDnsName", "PublicIp"),
    "InstanceState": ("Name",),
    "Placement": ("AvailabilityZone",),
    "Reservation": ("Instances",),
    "SecurityGroup": ("GroupId", "GroupName", "VpcId"),
}
_AS_TEXT = (
    ("Instance", "LaunchTime"),
    ("InstanceNetworkInterfaceAttachment", "DeviceIndex"),
    ("InstanceNetworkInterfaceAttachment", "NetworkCardIndex"),
)


def discover(options: Mapping[str, Any]) -> dict[str, Any]:
    """Find the instances of the security groups.

    :param options: the module's options.
    :returns: the module's ``ansible_facts``.
    :raises Ec2Error: for a bad option, any failed call, and a group that does not exist or has too few instances.
    """
    # A short-lived process that only ever adds: at 10,000 instances the collector costs a quarter of the parsing and frees nothing.
    gc.disable()
    query = query_from(options)
    checked_regions(options["regions"] or [])
    session = _session(options)
    regions = _regions(session, options)
    clients = {region: _Ec2(session, region, options) for region in regions}
    answers = {}
    excluded_ids = {}
    for region, client in clients.items():
        found = client.instances(describe_filters(query, query.filters))
        answers[region] = found.values()
        # Asked after the instances, so that none can be listed that the exclusion did not yet see.
        if found and query.exclude_filters:
            excluded_ids[region] = frozenset(client.instances(describe_filters(query, query.exclude_filters)))
    chosen, excluded = choose(answers, excluded_ids, query, datetime.now(timezone.utc))
    _assert_existence(unseen(query, chosen, excluded), query, list(clients.values()))
    too_few = shortfall(query, chosen, excluded)
    if too_few:
        raise Ec2Error(too_few)
    return {"ec2_security_group_instances": chosen, "ec2_security_group_excluded_instances": excluded}


def _assert_existence(groups: Sequence[str], query: Query, clients: Sequence[_Ec2]) -> None:
    """Fail for the groups that exist in none of the regions; an empty answer of DescribeInstances does not tell.

    :raises Ec2Error: naming the groups and similar ones.
    """
    if not groups:
        return
    existing = {value for client in clients for group in client.groups(groups, query.vpc_id) for value in (group["GroupId"], group["GroupName"])}
    missing = [group for group in groups if group not in existing]
    if missing:
        everything = [group for client in clients for group in client.pages_of("describe_security_groups", "SecurityGroups", "GroupId")]
        raise Ec2Error(missing_groups(missing, [client.region for client in clients], query.vpc_id, everything))


class _Ec2:
    """EC2 in one region."""

    def __init__(self, session: Session, region: str, options: Mapping[str, Any]) -> None:
        self.region = region
        with _reported(f"The client for {region}", Ec2Error):
            self._client = session.create_client(
                "ec2",
                region_name=region,
                endpoint_url=options["endpoint_url"] or None,
                verify=(options["aws_ca_bundle"] or None) if options["validate_certs"] else False,
                config=Config(
                    connect_timeout=options["timeout"],
                    read_timeout=options["timeout"],
                    # botocore's standard mode waits with jitter, twice as long after each attempt, at most 20 seconds.
                    # https://docs.aws.amazon.com/boto3/latest/guide/retries.html
                    retries={"mode": "standard", "total_max_attempts": options["retries"] + 1},
                    user_agent_extra="autoscale.haproxy",
                ),
            )

    def instances(self, calls: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
        """All instances that match any of these filters, by id."""
        found: dict[str, dict[str, Any]] = {}
        with _reported(f"DescribeInstances in {self.region}"):
            pages = self._client.get_paginator("describe_instances")
            for filters in calls:
                for page in pages.paginate(Filters=filters, PaginationConfig={"PageSize": PAGE_SIZE}):
                    merge(found, instances_in(page))
        return found

    def groups(self, wanted: Sequence[str], vpc_id: str | None) -> list[dict[str, Any]]:
        """The security groups of these names and ids that exist here."""
        found = []
        kinds = {
            "group-name": [group for group in wanted if not is_group_id(group)],
            "group-id": [group for group in wanted if is_group_id(group)],
        }
        room = VALUES_PER_CALL - 1
        for kind, groups in kinds.items():
            for start in range(0, len(groups), room):
                filters = [{"Name": kind, "Values": groups[start : start + room]}]
                if vpc_id:
                    filters.append({"Name": "vpc-id", "Values": [vpc_id]})
                found += self.pages_of("describe_security_groups", "SecurityGroups", "GroupId", Filters=filters)
        return found

    def regions(self) -> list[str]:
        """The names of the regions that are enabled for the account."""
        with _reported(f"DescribeRegions in {self.region}"):
            regions = [region["RegionName"] for region in listed(self._client.describe_regions(), "Regions", "RegionName")]
            if not regions:
                raise MalformedAnswer("the answer has no region")
            return list(checked_regions(regions))

    def pages_of(self, operation: str, member: str, key: str, **arguments: Any) -> list[dict[str, Any]]:
        """All entries of a list, over all pages."""
        with _reported(f"{self._client.meta.method_to_api_mapping[operation]} in {self.region}"):
            pages = self._client.get_paginator(operation).paginate(PaginationConfig={"PageSize": PAGE_SIZE}, **arguments)
            return [entry for page in pages for entry in listed(page, member, key)]


@contextmanager
def _reported(what: str, kind: type[Ec2Error] = FailedCall) -> Iterator[None]:
    """Turn whatever goes wrong into an error with its code.

    :param what: the operation and the region.
    :param kind: the error, another one where nothing is called.
    """
    try:
        yield
    except ClientError as error:
        answer = error.response.get("Error", {})
        attempts = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) + 1
        tried = f" after {attempts} attempts" if attempts > 1 else ""
        if str(answer.get("Code")).startswith("InvalidParameter"):
            # A filter that EC2 does not have, say: it answers, and will always answer so.
            kind = Ec2Error
        raise kind(f"{what} failed{tried}: {_short(answer.get('Code'))}: {_short(answer.get('Message'))}") from error
    except NoCredentialsError as error:
        raise kind(
            f"{what} failed: NoCredentialsError: none are in the options, the environment or the AWS configuration of this user, and no instance metadata "
            "service gives those of a role over IMDSv2."
        ) from error
    # Besides its own exceptions botocore lets through those of the parsers and of the operating system. A run must fail on all alike.
    except Exception as error:
        raise kind(f"{what} failed: {type(error).__name__}: {_short(error)}") from error


def _short(text: object) -> str:
    # A parser's error carries the whole answer.
    words = " ".join(CONTROL.sub(" ", str(text)).split())
    return words if len(words) <= 400 else words[:397] + "..."


def _session(options: Mapping[str, Any]) -> Session:
    if bool(options["access_key"]) != bool(options["secret_key"]):
        raise Ec2Error("access_key and secret_key: one is empty and the other is not.")
    with _reported("Reading the AWS configuration", Ec2Error):
        session = Session(profile=options["profile"] or None)
        # The role's credentials over IMDSv2 only. botocore before 1.33 does not know the switch: it prefers IMDSv2 and may fall back.
        session.set_config_variable("ec2_metadata_v1_disabled", True)
        if options["access_key"]:
            session.set_credentials(options["access_key"], options["secret_key"], options["session_token"] or None)
        _trim(session.get_component("data_loader").load_service_model("ec2", "service-2"))
        return session


def _trim(model: dict[str, Any]) -> None:
    """Cut EC2's model, which the loader gives to every client of the session, to what is used here."""
    model["operations"] = {name: model["operations"][name] for name in _OPERATIONS}
    for shape, kept in _MEMBERS.items():
        members = model["shapes"][shape]["members"]
        model["shapes"][shape]["members"] = {name: member for name, member in members.items() if name in kept}
    # Text is checked and parsed here, so that a bad value excludes one instance and does not end the run; for times it is also ten times as fast.
    for shape, member in _AS_TEXT:
        model["shapes"][shape]["members"][member]["shape"] = "String"


def _regions(session: Session, options: Mapping[str, Any]) -> tuple[str, ...]:
    regions = checked_regions(options["regions"] or [])
    if regions and regions != ("all",):
        return regions
    with _reported("Reading the default region", Ec2Error):
        # AWS_REGION is the other SDKs' name, which botocore does not read; and to botocore an empty variable hides the profile's region.
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or session.get_scoped_config().get("region")
        region = region or _own_region(session)
    if regions:
        return tuple(_Ec2(session, region or _REGION_THAT_LISTS, options).regions())
    if not region:
        raise Ec2Error(
            "regions: none is given, none is in AWS_REGION, AWS_DEFAULT_REGION or the profile, and no instance metadata service "
            "tells that of this host over IMDSv2. Set regions, or [all] for every enabled region."
        )
    return checked_regions([region])


def _own_region(session: Session) -> str:
    """The region of the instance that this runs on, by IMDSv2, or nothing.

    Not by botocore's InstanceMetadataRegionFetcher: that falls back to IMDSv1 in older releases, and cuts the last letter off the
    availability zone, which gives no region in a Local Zone (us-west-2-lax-1a).
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
    """
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return ""
    ipv6 = str(session.get_config_variable("ec2_metadata_service_endpoint_mode")).lower() == "ipv6"
    base = session.get_config_variable("ec2_metadata_service_endpoint") or ("http://[fd00:ec2::254]" if ipv6 else "http://169.254.169.254")
    # Straight to the link-local address: no proxy, and no redirect is followed.
    http = URLLib3Session(timeout=session.get_config_variable("metadata_service_timeout"))

    def answer(method: str, path: str, headers: dict[str, str]) -> str:
        response = http.send(AWSRequest(method=method, url=base.rstrip("/") + path, headers=headers).prepare())
        return str(response.text).strip() if response.status_code == 200 else ""

    try:
        token = answer("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        return token and answer("GET", "/latest/meta-data/placement/region", {"X-aws-ec2-metadata-token": token})
    except (BotoCoreError, ValueError):
        # No instance, or its metadata service is off.
        return ""
