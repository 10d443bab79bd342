# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""An IAM for the canned endpoint: what no statement of the caller's policy allows is refused, in the words of the service that was called.

ec2.refuses = enforce({"AKIA...": {"Version": "2012-10-17", "Statement": [...]}})
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ec2_endpoint import Answer, Request, error

ACCOUNT = "111122223333"


def enforce(policies: Mapping[str, Mapping[str, Any]]) -> Callable[[Request], Answer | None]:
    """Allow each access key what its policy allows.

    :param policies: access key → policy document. A key that is not in here may do nothing.
    """

    def refuses(request: Request) -> Answer | None:
        if any(_allows(statement, request) for statement in policies.get(request.access_key, {"Statement": []})["Statement"]):
            return None
        if request.service == "ec2":
            return error(403, "UnauthorizedOperation", f"not authorized to perform {action_of(request)}")
        message = f"<Code>AccessDenied</Code><Message>not authorized to perform {action_of(request)}</Message>"
        return Answer(403, f"<ErrorResponse><Error><Type>Sender</Type>{message}</Error></ErrorResponse>")

    return refuses


def action_of(request: Request) -> str:
    """The action as policies name it."""
    return f"{request.service}:{request.operation}"


def _allows(statement: Mapping[str, Any], request: Request) -> bool:
    assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}, statement
    assert statement["Effect"] == "Allow"
    resources = [statement["Resource"]] if isinstance(statement["Resource"], str) else statement["Resource"]
    condition = statement.get("Condition", {"StringEquals": {"aws:RequestedRegion": [request.region]}})
    assert list(condition) == ["StringEquals"] and list(condition["StringEquals"]) == ["aws:RequestedRegion"], condition
    return (
        action_of(request) in statement["Action"]
        and any(_matches(resource, _resource(request)) for resource in resources)
        and request.region in condition["StringEquals"]["aws:RequestedRegion"]
    )


def _resource(request: Request) -> str:
    if request.service == "sts":
        return request.parameters["RoleArn"]
    if "AutoScalingGroupName" in request.parameters:
        name = request.parameters["AutoScalingGroupName"]
        return f"arn:aws:autoscaling:{request.region}:{ACCOUNT}:autoScalingGroup:00000000-0000-0000-0000-000000000000:autoScalingGroupName/{name}"
    # As the descriptions, which have none: only a star allows them.
    return "*"


def _matches(pattern: str, resource: str) -> bool:
    return resource == pattern if resource == "*" else re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), resource) is not None
