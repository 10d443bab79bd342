# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What the discovery's options need of IAM: for each identity that takes part the policy that it has to have. Pure functions.

Which action can be limited to which resource is said by the Service Authorization Reference: none of EC2's Describe actions and no
autoscaling:DescribeAutoScalingInstances (https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html), CompleteLifecycleAction to
Auto Scaling groups (https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2autoscaling.html), AssumeRole to roles
(https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssecuritytokenservice.html). Each takes aws:RequestedRegion
(https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html#condition-keys-requestedregion).
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from .ec2_sources import sources_from

WHO_RUNS = "the identity that the role runs with"
# By the beginnings of their regions' names; all others are aws.
_PARTITIONS = {"cn-": "aws-cn", "us-gov-": "aws-us-gov", "eusc-": "aws-eusc"}


class _Needs:
    """What one identity has to be allowed; several sources may use the same."""

    def __init__(self) -> None:
        self.actions: dict[str, None] = {}
        self.regions: set[str] | None = set()
        """Where; None for everywhere."""
        self.groups: set[str] = set()
        """ARNs of the Auto Scaling groups whose lifecycle actions are completed."""
        self.roles: dict[str, None] = {}
        """ARNs of the roles that it assumes."""


def policies(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The policies that these options need.

    :param options: the discovery's regions, lifecycle, instance_status, interface, profile, assume_role_arn and sources, and lifecycle_hook_name.
    :raises Ec2Error: for a bad option.
    :returns: ``{identity, policy}`` of each identity, in the order in which one assumes the next; the policy as AWS takes it.
    """
    needs: dict[str, _Needs] = {}
    # Who searches where is read as the discovery reads it. Neither keys nor ids make a difference here.
    for source in sources_from({**options, "access_key": None, "secret_key": None, "external_id": None}):
        identity = f"the profile {source.profile}" if source.profile else WHO_RUNS
        needed = needs.setdefault(identity, _Needs())
        for role in source.roles:
            needed.roles[role] = None
            identity = role
            needed = needs.setdefault(identity, _Needs())
        _search(needed, identity, source.regions, options)
    return [{"identity": identity, "policy": _policy(needed)} for identity, needed in needs.items()]


def _search(needed: _Needs, identity: str, regions: Sequence[str], options: Mapping[str, Any]) -> None:
    """Add what one search needs of the identity that makes it."""
    everywhere = "all" in regions
    # DescribeSecurityGroups is asked for when no instance carries a group: does it exist?
    needed.actions.update(dict.fromkeys(["ec2:DescribeInstances", "ec2:DescribeSecurityGroups"]))
    if everywhere:
        needed.actions["ec2:DescribeRegions"] = None
    if options["instance_status"] == "ok":
        needed.actions["ec2:DescribeInstanceStatus"] = None
    if (options["interface"] or {}).get("tags"):
        needed.actions["ec2:DescribeNetworkInterfaces"] = None
    if options["lifecycle"] == "in_service":
        needed.actions["autoscaling:DescribeAutoScalingInstances"] = None
    if needed.regions is not None:
        needed.regions = None if everywhere or not regions else needed.regions.union(regions)
    if options["lifecycle_hook_name"]:
        # An assumed role says the account and the partition, and a region's name its partition.
        _arn, partition, _service, _region, account = identity.split(":")[:5] if identity.startswith("arn:") else ("", "", "", "", "*")
        for region in ["*"] if everywhere or not regions else regions:
            # Where nothing says the partition it may be any; the identity itself is in one alone.
            where = partition or ("*" if region == "*" else _partition(region))
            needed.groups.add(f"arn:{where}:autoscaling:{region}:{account}:autoScalingGroup:*:autoScalingGroupName/*")


def _partition(region: str) -> str:
    return next((partition for prefix, partition in _PARTITIONS.items() if region.startswith(prefix)), "aws")


def _policy(needed: _Needs) -> dict[str, Any]:
    statements: list[dict[str, Any]] = []
    if needed.actions:
        statements.append({"Sid": "FindInstances", "Effect": "Allow", "Action": sorted(needed.actions), "Resource": "*"})
        if needed.regions:
            statements[0]["Condition"] = {"StringEquals": {"aws:RequestedRegion": sorted(needed.regions)}}
    if needed.groups:
        resources = sorted(needed.groups)
        statements.append({"Sid": "CompleteLifecycleActions", "Effect": "Allow", "Action": ["autoscaling:CompleteLifecycleAction"], "Resource": resources})
    if needed.roles:
        statements.append({"Sid": "AssumeRoles", "Effect": "Allow", "Action": ["sts:AssumeRole"], "Resource": list(needed.roles)})
    return {"Version": "2012-10-17", "Statement": statements}
