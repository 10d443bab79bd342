# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What Auto Scaling and EC2's status checks say of instances that are usable otherwise. Pure functions on the facts of the discovery.

The states are at https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_AutoScalingInstanceDetails.html, and what they mean at
https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-lifecycle.html.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

from .ec2_instances import Ec2Error, checked_regions, is_instance_id, shown

LIFECYCLES = ("any", "in_service")
STANDALONE_INSTANCES = ("include", "exclude")
INSTANCE_STATUSES = ("any", "ok")

# On its way out, for good or (Standby, a new root volume) for a while.
_DRAINING = re.compile(r"Standby|EnteringStandby|Detaching|(Terminating|ReplacingRootVolume)(:[A-Za-z]{1,32})?")
# https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_LifecycleHook.html
_HOOK_NAME = re.compile(r"[A-Za-z0-9_/-]{1,255}")
_DETACHED = "Detached"
_IN_SERVICE = "InService"

Facts = Mapping[str, Sequence[Mapping[str, Any]]]
Reasons = Mapping[str, Sequence[Mapping[str, str]]]


class Place(NamedTuple):
    """Where an instance was found."""

    source: int
    region: str


class Sorted(NamedTuple):
    """The instances of each group: usable, on their way out, and left out."""

    chosen: dict[str, list[dict[str, Any]]]
    draining: dict[str, list[dict[str, Any]]]
    excluded: dict[str, list[dict[str, Any]]]


class _Unusable(Exception):
    """Why an instance is left out."""


class _Unanswered(_Unusable):
    """Nobody said anything of it, which another answer may do."""


def by_place(facts: Facts, wanted: Callable[[Mapping[str, Any]], object]) -> dict[Place, list[str]]:
    """The ids of those instances that are to be asked for, each once and sorted, by where they were found."""
    ids: dict[Place, set[str]] = {}
    for instances in facts.values():
        for fact in instances:
            if wanted(fact):
                ids.setdefault(Place(fact["source"], fact["region"]), set()).add(fact["instance_id"])
    return {place: sorted(ids[place]) for place in sorted(ids)}


def by_lifecycle(found: Sorted, states: Mapping[Place, Mapping[str, str]], standalone: str) -> Sorted:
    """Sort out by the state of each instance in its Auto Scaling group.

    :param states: what Auto Scaling answered, instance id → state.
    :param standalone: one of STANDALONE_INSTANCES, for those in no group.
    """

    def judged(fact: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        name = fact["auto_scaling_group"]
        if name is None:
            state = _DETACHED
        else:
            state = states.get(Place(fact["source"], fact["region"]), {}).get(fact["instance_id"], "")
        if not state:
            # Gone, or so new that Auto Scaling does not list it yet. Neither is in service.
            raise _Unanswered(f"it carries the tag of the Auto Scaling group {shown(name)}, and Auto Scaling does not list it")
        if state == _DETACHED:
            if standalone == "exclude":
                raise _Unusable("it is in no Auto Scaling group, and standalone_instances is exclude")
            return {**fact}, False
        if state == _IN_SERVICE or _DRAINING.fullmatch(state):
            return {**fact, "lifecycle_state": state}, state != _IN_SERVICE
        raise _Unusable(f"its lifecycle state is {shown(state)}")

    return _sorted_out(found, judged)


def by_status(found: Sorted, statuses: Mapping[Place, Mapping[str, Mapping[str, object]]]) -> Sorted:
    """Leave out whose status checks are not ok.

    :param statuses: what EC2 answered, instance id → name of the check → its status.
    """

    def judged(fact: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        checks = statuses.get(Place(fact["source"], fact["region"]), {}).get(fact["instance_id"])
        if checks is None:
            raise _Unanswered("EC2 has no status of it")
        failed = [f"its {check} status is {shown(status)}" for check, status in checks.items() if status != "ok"]
        if failed:
            raise _Unusable(", ".join(failed))
        return {**fact}, False

    return _sorted_out(found, judged)


def _sorted_out(found: Sorted, judged: Callable[[Mapping[str, Any]], tuple[dict[str, Any], bool]]) -> Sorted:
    """Judge each usable instance: the fact and whether it is draining, or why it is left out."""
    chosen: dict[str, list[dict[str, Any]]] = {group: [] for group in found.chosen}
    draining = {group: list(facts) for group, facts in found.draining.items()}
    excluded = {group: list(reasons) for group, reasons in found.excluded.items()}
    for group, facts in found.chosen.items():
        for fact in facts:
            try:
                new, drains = judged(fact)
                (draining if drains else chosen)[group].append(new)
            except _Unusable as unusable:
                entry: dict[str, Any] = {"instance_id": fact["instance_id"], "reason": str(unusable), "address": fact["address"]}
                if isinstance(unusable, _Unanswered):
                    entry["unanswered"] = True
                excluded[group].append(entry)
        excluded[group].sort(key=lambda entry: (entry["instance_id"], entry["reason"]))
    return Sorted(chosen, draining, excluded)


def reasons_of(found: Sorted) -> dict[str, list[dict[str, str]]]:
    """Why instances are not usable, those on their way out among them; for the message that there are too few."""
    return {
        group: [*({"instance_id": fact["instance_id"], "reason": f"it is draining ({fact['lifecycle_state']})"} for fact in found.draining[group]), *reasons]
        for group, reasons in found.excluded.items()
    }


def instances_to_complete(options: Mapping[str, Any], sources: int) -> list[Mapping[str, Any]]:
    """Check which instances' lifecycle actions are to be completed, and return each once.

    :param sources: how many there are.
    :raises Ec2Error: naming the option and the value.
    """
    hook = options["lifecycle_hook_name"]
    if not _HOOK_NAME.fullmatch(hook):
        raise Ec2Error(f"lifecycle_hook_name: {shown(hook)} is not 1 to 255 letters, digits and characters of -_/.")
    found: dict[tuple[int, str, str], Mapping[str, Any]] = {}
    for instance in options["instances"]:
        if not is_instance_id(instance["instance_id"]):
            raise Ec2Error(f"instances: {shown(instance['instance_id'])} is not the id of an instance, which looks like i-0123456789abcdef0.")
        if not instance["auto_scaling_group"]:
            raise Ec2Error(f"instances: the auto_scaling_group of {instance['instance_id']} is empty.")
        if instance["region"] == "all":
            raise Ec2Error("instances: 'all' does not look like the name of a region, such as eu-west-1.")
        checked_regions([instance["region"]], "instances")
        if not 0 <= instance["source"] < sources:
            raise Ec2Error(f"instances: the source of {instance['instance_id']} is {instance['source']}, and there are {sources} (counted from 0).")
        found[instance["source"], instance["region"], instance["instance_id"]] = instance
    return [found[key] for key in sorted(found)]


def batches(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """The ids in calls of as many as a service takes."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
