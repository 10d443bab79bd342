# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""The part that talks to AWS: accounts, regions, pages. All or nothing, and every failure says what was asked where."""

from __future__ import annotations

import gc
import os
import traceback
from collections import deque
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Callable, Iterator, Mapping, Sequence, TypeVar

from .ec2_instances import (
    CONTROL,
    VALUES_PER_CALL,
    Ec2Error,
    FailedCall,
    MalformedAnswer,
    Query,
    check_endpoint,
    check_limits,
    checked_regions,
    choose,
    describe_filters,
    instances_in,
    interface_filters,
    is_group_id,
    keep_one_of_each_address,
    listed,
    missing_groups,
    query_from,
    refuse_riddles,
    shortfall,
    unseen,
)
from .ec2_instances import (
    merge as merge_pages,
)
from .ec2_lifecycle import Place, Sorted, batches, by_lifecycle, by_place, by_status, instances_to_complete, reasons_of
from .ec2_sources import Source, merge, sources_from

# botocore is what boto3 calls for every operation used here. Loading it alone saves every run a tenth of a second of processor time.
BOTOCORE_IMPORT_ERROR: str | None
try:
    from botocore.awsrequest import AWSRequest
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError, MetadataRetrievalError, NoCredentialsError
    from botocore.httpsession import URLLib3Session
    from botocore.parsers import ResponseParserError
    from botocore.session import Session
except ImportError:
    BOTOCORE_IMPORT_ERROR = traceback.format_exc()
else:
    BOTOCORE_IMPORT_ERROR = None

PAGE_SIZE = 1000
# What is answered to a call that is wrong, and will always be: a filter that EC2 does not have, a region that is not enabled. What may pass, or what another
# has to mend (a right, a clock, an expired credential), is none of these.
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
_MISTAKES = (
    *("InvalidParameter", "InvalidFilter", "InvalidVpcID", "InvalidGroup", "InvalidSecurityGroup"),
    *("MissingParameter", "UnknownParameter", "FilterLimitExceeded", "ValidationError", "OptInRequired"),
)
# Where DescribeRegions is asked when nothing names a region; every region of a partition knows the others.
_REGION_THAT_LISTS = "us-east-1"
# How many calls are made side by side. Parsing the answers takes this process's one processor, so more would only wait for it.
_THREADS = 8
# The variables by which other SDKs, and boto3 from 1.28, know a service's own endpoint.
_ENDPOINT_VARIABLES = {"ec2": "AWS_ENDPOINT_URL_EC2", "autoscaling": "AWS_ENDPOINT_URL_AUTO_SCALING", "sts": "AWS_ENDPOINT_URL_STS"}
# What the facts need of the services' models. botocore parses only what a model has, and these are a tenth of what EC2 answers:
# at 10,000 instances 2.4 seconds instead of 8. And a client is made in half the time.
_OPERATIONS = {
    "ec2": ("DescribeInstances", "DescribeInstanceStatus", "DescribeNetworkInterfaces", "DescribeRegions", "DescribeSecurityGroups"),
    "autoscaling": ("CompleteLifecycleAction", "DescribeAutoScalingInstances"),
}
_MEMBERS: dict[str, dict[str, tuple[str, ...]]] = {
    "ec2": {
        "Instance": ("InstanceId", "LaunchTime", "NetworkInterfaces", "Placement", "PrivateDnsName", "SecurityGroups", "State", "Tags", "VpcId"),
        "InstanceNetworkInterface": (
            "Association",
            "Attachment",
            "Groups",
            "Ipv6Addresses",
            "NetworkInterfaceId",
            "PrivateDnsName",
            "PrivateIpAddress",
            "PrivateIpAddresses",
            "SubnetId",
            "VpcId",
        ),
        "InstanceNetworkInterfaceAttachment": ("DeviceIndex", "NetworkCardIndex"),
        "InstanceNetworkInterfaceAssociation": ("PublicDnsName", "PublicIp"),
        "InstanceState": ("Name",),
        "InstanceStatus": ("InstanceId", "InstanceStatus", "SystemStatus"),
        "InstanceStatusSummary": ("Status",),
        "NetworkInterface": ("NetworkInterfaceId",),
        "Placement": ("AvailabilityZone",),
        "Reservation": ("Instances",),
        "SecurityGroup": ("GroupId", "GroupName", "VpcId"),
    },
    "autoscaling": {"AutoScalingInstanceDetails": ("InstanceId", "LifecycleState")},
}
_AS_TEXT = (
    ("Instance", "LaunchTime"),
    ("InstanceNetworkInterfaceAttachment", "DeviceIndex"),
    ("InstanceNetworkInterfaceAttachment", "NetworkCardIndex"),
)
# "Array Members: Maximum number of 50 items", and "Maximum 100 explicitly specified instance IDs".
_INSTANCES_OF_AUTO_SCALING = 50
_INSTANCES_OF_STATUS = 100
_Answer = TypeVar("_Answer")


def discover(options: Mapping[str, Any]) -> dict[str, Any]:
    """Find the instances of the security groups.

    :param options: the module's options.
    :returns: the module's ``ansible_facts``.
    :raises Ec2Error: for a bad option, any failed call, and a group that does not exist or has too few instances.
    """
    # A short-lived process that only ever adds: at 10,000 instances the collector costs a quarter of the parsing and frees nothing.
    gc.disable()
    query = query_from(options)
    if options["standalone_instances"] == "exclude" and options["lifecycle"] != "in_service":
        raise Ec2Error("standalone_instances: 'exclude' is for lifecycle in_service alone, because nothing else asks which group an instance is in.")
    accounts = _accounts(sources_from(options, query.groups), options)
    searches = _searches(list(accounts.values()), query)
    found = _side_by_side([search.run for search in searches])
    now = datetime.now(timezone.utc)
    chosen, excluded = merge(
        query.groups,
        [
            (search.source.number, *choose({search.region: instances}, {search.region: excluded_ids}, search.query, now, {search.region: interface_ids}))
            for search, (instances, excluded_ids, interface_ids) in zip(searches, found)
        ],
    )
    _assert_existence(unseen(query, chosen, excluded), searches)
    every = Sorted(chosen, {group: [] for group in query.groups}, excluded)
    if options["lifecycle"] == "in_service":
        ids = by_place(every.chosen, lambda fact: fact["auto_scaling_group"])
        every = by_lifecycle(every, _ask(accounts, "autoscaling", ids, _INSTANCES_OF_AUTO_SCALING, _lifecycle_states), options["standalone_instances"])
    if options["instance_status"] == "ok":
        ids = by_place(every.chosen, lambda fact: True)
        every = by_status(every, _ask(accounts, "ec2", ids, _INSTANCES_OF_STATUS, _statuses))
    refuse_riddles(every.chosen, every.draining)
    # Of the usable ones of all sources: one that is on its way out, or not in service yet, takes no address from one that is.
    keep_one_of_each_address(every.chosen, every.excluded)
    too_few = shortfall(query, every.chosen, reasons_of(every))
    if too_few:
        raise Ec2Error(too_few)
    return {
        "ec2_security_group_instances": every.chosen,
        "ec2_security_group_draining_instances": every.draining,
        "ec2_security_group_excluded_instances": every.excluded,
    }


def complete(options: Mapping[str, Any], check_mode: bool) -> tuple[list[str], list[Ec2Error]]:
    """Complete the lifecycle action of instances.

    :param options: the module's options.
    :param check_mode: make no call, and say which would be completed.
    :returns: the ids of the instances whose action was completed, sorted, and why others failed. Whose action is over already is in neither.
    :raises Ec2Error: for a bad option, and when a role cannot be assumed.
    """
    check_limits(options)
    sources = sources_from(options)
    waiting = instances_to_complete(options, len(sources))
    if check_mode or not waiting:
        return sorted({instance["instance_id"] for instance in waiting}), []
    used = []
    for source in sources:
        regions = sorted({instance["region"] for instance in waiting if instance["source"] == source.number})
        if regions:
            used.append(source if source.regions not in ((), ("all",)) else source._replace(regions=tuple(regions)))
    accounts = _accounts(used, options)
    clients = {place: accounts[place[0]].client("autoscaling", place[1]) for place in {(instance["source"], instance["region"]) for instance in waiting}}
    calls = [
        partial(_complete_one, clients[instance["source"], instance["region"]], instance, options, instance["region"] + sources[instance["source"]].where)
        for instance in waiting
    ]
    outcomes = _side_by_side(calls)
    completed = {instance["instance_id"] for instance, outcome in zip(waiting, outcomes) if outcome is True}
    return sorted(completed), [outcome for outcome in outcomes if isinstance(outcome, Ec2Error)]


def _complete_one(client: Any, instance: Mapping[str, Any], options: Mapping[str, Any], where: str) -> bool | Ec2Error:
    """Whether there was an action to complete, or what went wrong, so that it keeps none of the others waiting."""
    try:
        with _reported(f"CompleteLifecycleAction of {instance['instance_id']} in {where}"):
            try:
                client.complete_lifecycle_action(
                    LifecycleHookName=options["lifecycle_hook_name"],
                    AutoScalingGroupName=instance["auto_scaling_group"],
                    InstanceId=instance["instance_id"],
                    LifecycleActionResult=options["result"],
                )
                return True
            except ClientError as error:
                # The code is ValidationError, as for everything else that Auto Scaling does not like.
                if "No active Lifecycle Action found" in str(error.response.get("Error", {}).get("Message")):
                    return False
                raise
    except Ec2Error as error:
        return error


def _side_by_side(calls: Sequence[Callable[[], _Answer]]) -> list[_Answer]:
    """Make calls side by side, a few at a time.

    Clients are made before, in the main thread: botocore's are safe to use in threads, and not to make there.
    https://docs.aws.amazon.com/boto3/latest/guide/clients.html#multithreading-or-multiprocessing-with-clients

    :returns: their answers, in the order of the calls.
    :raises Ec2Error: the first one that a call raises. The others are not waited for, and end with the process.
    """
    if len(calls) == 1:
        return [calls[0]()]
    waiting = deque(enumerate(calls))
    ended: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()

    def work() -> None:
        while True:
            try:
                number, call = waiting.popleft()
            except IndexError:
                return
            try:
                ended.put((number, call(), None))
            except BaseException as error:
                ended.put((number, None, error))

    for _thread in range(min(_THREADS, len(calls))):
        Thread(target=work, daemon=True).start()
    answers: dict[int, _Answer] = {}
    while len(answers) < len(calls):
        number, answer, error = ended.get()
        if error:
            waiting.clear()
            raise error
        answers[number] = answer
    return [answers[number] for number in range(len(calls))]


def _assert_existence(groups: Sequence[str], searches: Sequence[_Search]) -> None:
    """Fail for the groups that exist in none of the regions; an empty answer of DescribeInstances does not tell.

    :raises Ec2Error: naming the groups and similar ones.
    """
    if not groups:
        return
    asked = [search for search in searches if set(groups).intersection(search.query.groups)]
    found = _side_by_side([partial(search.groups, groups) for search in asked])
    existing = {value for entries in found for group in entries for value in (group["GroupId"], group["GroupName"])}
    missing = [group for group in groups if group not in existing]
    if missing:
        listings = _side_by_side([partial(search.pages_of, "describe_security_groups", "SecurityGroups", "GroupId") for search in asked])
        everything = [group for entries in listings for group in entries]
        vpcs = {search.query.vpc_id for search in asked}
        vpc_id = vpcs.pop() if len(vpcs) == 1 else None
        raise Ec2Error(missing_groups(missing, [search.region + search.source.where for search in asked], vpc_id, everything))


# --- Accounts ---------------------------------------------------------------------------------------------------------


class _Account:
    """One source: whom its calls are made as, and how."""

    def __init__(self, source: Source, options: Mapping[str, Any], loader: Any) -> None:
        """Make its session.

        :param loader: that of another session, so that each model is read and cut once; None for an own one.
        """
        self.source = source
        self._options = options
        with _reported("Reading the AWS configuration" + source.where, Ec2Error):
            self._session = Session(profile=source.profile)
            # The role's credentials over IMDSv2 only. botocore before 1.33 does not know the switch: it prefers IMDSv2 and may fall back.
            self._session.set_config_variable("ec2_metadata_v1_disabled", True)
            # botocore before 1.40 asks one endpoint for all regions, in the United States.
            self._session.set_config_variable("sts_regional_endpoints", "regional")
            if source.with_keys:
                self._session.set_credentials(options["access_key"], options["secret_key"], options["session_token"] or None)
            if loader:
                self._session.register_component("data_loader", loader)
            # What reads the models. To ask for it is the first thing that reads the profile.
            self.loader = self._session.get_component("data_loader")
        self.regions = source.regions
        if source.regions in ((), ("all",)):
            home = self._own_region() or (_REGION_THAT_LISTS if source.regions else "")
            if not home:
                raise Ec2Error(
                    "regions: none is given, none is in AWS_REGION, AWS_DEFAULT_REGION or the profile, and no instance metadata service "
                    "tells that of this host over IMDSv2. Set regions, or [all] for every enabled region."
                )
            self.regions = checked_regions([home])

    def client(self, service: str, region: str) -> Any:
        """A client. To be made in the main thread."""
        with _reported(f"The client for {region}{self.source.where}", Ec2Error):
            if service in _OPERATIONS:
                _trim(self.loader.load_service_model(service, "service-2"), service)
            return self._session.create_client(
                service,
                region_name=region,
                endpoint_url=_endpoint(service, self._options),
                verify=(self._options["aws_ca_bundle"] or None) if self._options["validate_certs"] else False,
                config=Config(
                    connect_timeout=self._options["timeout"],
                    read_timeout=self._options["timeout"],
                    # botocore's standard mode waits with jitter, twice as long after each attempt, at most 20 seconds.
                    # https://docs.aws.amazon.com/boto3/latest/guide/retries.html
                    retries={"mode": "standard", "total_max_attempts": self._options["retries"] + 1},
                    user_agent_extra="autoscale.haproxy",
                ),
            )

    def assuming(self, depth: int) -> Callable[[], tuple[str, str, str]]:
        """A call that assumes one role of the chain with the credentials of the one before, and gives its own."""
        source = self.source
        region = self.regions[0]
        client = self.client("sts", region)
        arguments = {"RoleArn": source.roles[depth], "RoleSessionName": source.session_name}
        if source.external_id and depth == len(source.roles) - 1:
            arguments["ExternalId"] = source.external_id

        def assume() -> tuple[str, str, str]:
            with _reported(f"AssumeRole of {source.roles[depth]} in {region}{source.where}"):
                try:
                    credentials = client.assume_role(**arguments)["Credentials"]
                    return credentials["AccessKeyId"], credentials["SecretAccessKey"], credentials["SessionToken"]
                except (ResponseParserError, KeyError, TypeError):
                    pass
                # Not the parser's own words: they hold the answer, and that may hold a secret.
                raise MalformedAnswer("the answer has no credentials")

        return assume

    def become(self, credentials: tuple[str, str, str]) -> None:
        """Make every further client with these."""
        self._session.set_credentials(*credentials)

    def _own_region(self) -> str:
        with _reported("Reading the default region", Ec2Error):
            # AWS_REGION is the other SDKs' name, which botocore does not read; and to botocore an empty variable hides the profile's region.
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or self._session.get_scoped_config().get("region")
            return str(region or _own_region(self._session))


def _accounts(sources: Sequence[Source], options: Mapping[str, Any]) -> dict[int, _Account]:
    """The accounts of the sources, by number, with each role assumed."""
    accounts: dict[int, _Account] = {}
    loader = None
    for source in sources:
        accounts[source.number] = _Account(source, options, loader)
        loader = accounts[source.number].loader
    for depth in range(max(len(source.roles) for source in sources)):
        deep = [account for account in accounts.values() if len(account.source.roles) > depth]
        for account, credentials in zip(deep, _side_by_side([account.assuming(depth) for account in deep])):
            account.become(credentials)
    return accounts


def _endpoint(service: str, options: Mapping[str, Any]) -> str | None:
    """The URL of a service. The option goes before a variable for EC2, and behind another service's own: it may well be EC2's alone."""
    variable = _ENDPOINT_VARIABLES[service]
    places = {"endpoint_url": options["endpoint_url"], variable: os.environ.get(variable)}
    for place in (*(places if service == "ec2" else reversed(list(places))), "AWS_ENDPOINT_URL"):
        url = places.get(place, os.environ.get(place))
        if url:
            check_endpoint(url, place)
            return str(url)
    return None


# --- Searches ---------------------------------------------------------------------------------------------------------


def _searches(accounts: Sequence[_Account], query: Query) -> list[_Search]:
    """What is to be searched: each region of each account."""
    every = [account for account in accounts if account.source.regions == ("all",)]
    # Made here and used in threads.
    listing = [partial(_listed_regions, account.client("ec2", account.regions[0]), account.regions[0] + account.source.where) for account in every]
    for account, regions in zip(every, _side_by_side(listing)):
        account.regions = regions
    return [_Search(account, region, query) for account in accounts for region in account.regions]


def _listed_regions(client: Any, where: str) -> tuple[str, ...]:
    """The names of the regions that are enabled for the account."""
    with _reported(f"DescribeRegions in {where}"):
        regions = [region["RegionName"] for region in listed(client.describe_regions(), "Regions", "RegionName")]
        if not regions:
            raise MalformedAnswer("the answer has no region")
        return checked_regions(regions)


class _Search:
    """EC2 in one region of one account."""

    def __init__(self, account: _Account, region: str, query: Query) -> None:
        self.source = account.source
        self.region = region
        self.query = query._replace(groups=self.source.groups, vpc_id=self.source.vpc_id)
        self._where = region + self.source.where
        self._client = account.client("ec2", region)

    def run(self) -> tuple[list[dict[str, Any]], frozenset[str], frozenset[str]]:
        """The instances of the groups, the ids of those that match ``exclude_filters``, and those of the interfaces with the tags of ``interface``."""
        found = self.instances(describe_filters(self.query, self.query.filters))
        excluded: frozenset[str] = frozenset()
        # Asked after the instances, so that none can be listed that the exclusion did not yet see.
        if found and self.query.exclude_filters:
            excluded = frozenset(self.instances(describe_filters(self.query, self.query.exclude_filters)))
        return list(found.values()), excluded, self.interfaces(interface_filters(self.query)) if found else frozenset()

    def instances(self, calls: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
        """All instances that match any of these filters, by id."""
        found: dict[str, dict[str, Any]] = {}
        with _reported(f"DescribeInstances in {self._where}"):
            pages = self._client.get_paginator("describe_instances")
            for filters in calls:
                for page in pages.paginate(Filters=filters, PaginationConfig={"PageSize": PAGE_SIZE}):
                    merge_pages(found, instances_in(page))
        return found

    def interfaces(self, filters: Sequence[Mapping[str, Any]]) -> frozenset[str]:
        """The ids of the network interfaces that match; none where nothing is asked for, because DescribeInstances does not tell their tags."""
        found = self.pages_of("describe_network_interfaces", "NetworkInterfaces", "NetworkInterfaceId", Filters=filters) if filters else []
        return frozenset(interface["NetworkInterfaceId"] for interface in found)

    def groups(self, candidates: Sequence[str]) -> list[dict[str, Any]]:
        """The security groups of these names and ids that were asked for here, and exist here."""
        found = []
        wanted = [group for group in candidates if group in self.query.groups]
        kinds = {
            "group-name": [group for group in wanted if not is_group_id(group)],
            "group-id": [group for group in wanted if is_group_id(group)],
        }
        room = VALUES_PER_CALL - 1
        for kind, groups in kinds.items():
            for start in range(0, len(groups), room):
                filters = [{"Name": kind, "Values": groups[start : start + room]}]
                if self.query.vpc_id:
                    filters.append({"Name": "vpc-id", "Values": [self.query.vpc_id]})
                found += self.pages_of("describe_security_groups", "SecurityGroups", "GroupId", Filters=filters)
        return found

    def pages_of(self, operation: str, member: str, key: str, **arguments: Any) -> list[dict[str, Any]]:
        """All entries of a list, over all pages."""
        with _reported(f"{self._client.meta.method_to_api_mapping[operation]} in {self._where}"):
            pages = self._client.get_paginator(operation).paginate(PaginationConfig={"PageSize": PAGE_SIZE}, **arguments)
            return [entry for page in pages for entry in listed(page, member, key)]


# --- Instances that are usable otherwise ------------------------------------------------------------------------------


def _ask(
    accounts: Mapping[int, _Account], service: str, ids: Mapping[Place, Sequence[str]], size: int, ask: Callable[[Any, Sequence[str], str], dict[str, _Answer]]
) -> dict[Place, dict[str, _Answer]]:
    """Ask a service for instances, where they were found.

    :param size: how many ids a call takes.
    :param ask: makes one call, of a client, for these ids, with what a message says of the place; returns id → what is answered.
    """
    calls = []
    places = []
    for place, wanted in ids.items():
        account = accounts[place.source]
        client = account.client(service, place.region)
        for batch in batches(wanted, size):
            calls.append(partial(ask, client, batch, place.region + account.source.where))
            places.append(place)
    answers: dict[Place, dict[str, _Answer]] = {}
    for place, answer in zip(places, _side_by_side(calls)):
        answers.setdefault(place, {}).update(answer)
    return answers


def _lifecycle_states(client: Any, ids: Sequence[str], where: str) -> dict[str, str]:
    """The states of instances in their Auto Scaling groups. Those that Auto Scaling does not know are not in its answer."""
    with _reported(f"DescribeAutoScalingInstances in {where}"):
        pages = client.get_paginator("describe_auto_scaling_instances").paginate(InstanceIds=list(ids))
        details = [entry for page in pages for entry in listed(page, "AutoScalingInstances", "InstanceId")]
        if not all(isinstance(entry.get("LifecycleState"), str) for entry in details):
            raise MalformedAnswer("the answer has an instance without a state")
        return {entry["InstanceId"]: entry["LifecycleState"] for entry in details}


def _statuses(client: Any, ids: Sequence[str], where: str) -> dict[str, Mapping[str, object]]:
    """The statuses of instances, those that do not run included."""
    with _reported(f"DescribeInstanceStatus in {where}"):
        # With ids the answer has no pages.
        entries = listed(client.describe_instance_status(InstanceIds=list(ids), IncludeAllInstances=True), "InstanceStatuses", "InstanceId")
        return {
            entry["InstanceId"]: {
                "instance": (entry.get("InstanceStatus") or {}).get("Status"),
                "system": (entry.get("SystemStatus") or {}).get("Status"),
            }
            for entry in entries
        }


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
        if str(answer.get("Code")).startswith(_MISTAKES):
            kind = Ec2Error
        raise kind(f"{what} failed{tried}: {_short(answer.get('Code'))}: {_short(answer.get('Message'))}") from error
    except NoCredentialsError as error:
        raise kind(
            f"{what} failed: NoCredentialsError: none are in the options, the environment or the AWS configuration of this user, and no instance metadata "
            "service gives those of a role over IMDSv2."
        ) from error
    # Besides its own exceptions botocore lets through those of the parsers and of the operating system. A run must fail on all alike.
    except Exception as error:
        if isinstance(error, (CredentialRetrievalError, MetadataRetrievalError)):
            kind = FailedCall
        raise kind(f"{what} failed: {type(error).__name__}: {_short(error)}") from error


def _short(text: object) -> str:
    # A parser's error carries the whole answer.
    words = " ".join(CONTROL.sub(" ", str(text)).split())
    return words if len(words) <= 400 else words[:397] + "..."


def _trim(model: dict[str, Any], service: str) -> None:
    """Cut a service's model, which the loader gives to every client, to what is used here. Once more changes nothing.

    A model that is not as expected is left whole: then all is parsed, which takes longer and finds the same.
    """
    try:
        operations = {name: model["operations"][name] for name in _OPERATIONS[service]}
        cut = {shape: {name: member for name, member in model["shapes"][shape]["members"].items() if name in kept} for shape, kept in _MEMBERS[service].items()}
        # Text is checked and parsed here, so that a bad value excludes one instance and does not end the run; for times it is also ten times as fast.
        for shape, member in _AS_TEXT if service == "ec2" and model["shapes"]["String"]["type"] == "string" else ():
            cut[shape][member] = {**cut[shape][member], "shape": "String"}
    except (AttributeError, KeyError, TypeError):
        return
    model["operations"] = operations
    for shape, members in cut.items():
        model["shapes"][shape]["members"] = members


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
