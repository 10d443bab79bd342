# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What the states of Auto Scaling and of EC2's status checks do with instances that are usable otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_instances import Ec2Error
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_lifecycle import (
    Place,
    Sorted,
    by_lifecycle,
    by_place,
    by_status,
    instances_to_complete,
    reasons_of,
)
from botocore.session import Session

HERE = Place(0, "eu-west-1")
STATES = Session().get_service_model("autoscaling").shape_for("LifecycleState").enum


def fact(instance_id: str = "i-0000000a", group: str | None = "web", source: int = 0, region: str = "eu-west-1") -> dict[str, Any]:
    return {"instance_id": instance_id, "address": "10.0.0.1", "auto_scaling_group": group, "lifecycle_state": None, "source": source, "region": region}


def found(*facts: dict[str, Any]) -> Sorted:
    return Sorted({"webheads": list(facts)}, {"webheads": []}, {"webheads": []})


def where(state: str, standalone: str = "include") -> str:
    """Where an instance of an Auto Scaling group goes by its state: "in", "draining" or the reason that it is out."""
    after = by_lifecycle(found(fact()), {HERE: {"i-0000000a": state}}, standalone)
    (place,) = [
        *("in" for _fact in after.chosen["webheads"]),
        *("draining" for _fact in after.draining["webheads"]),
        *(entry["reason"] for entry in after.excluded["webheads"]),
    ]
    return place


IN = {"InService", "Detached"}
DRAINING = {
    *("Standby", "EnteringStandby", "Detaching", "Terminating", "Terminating:Wait", "Terminating:Proceed", "Terminating:Retained"),
    *("ReplacingRootVolume", "ReplacingRootVolume:Wait", "ReplacingRootVolume:Proceed"),
}


@pytest.mark.parametrize("state", sorted({*STATES, *IN, *DRAINING, "Dozing", "inservice", "Terminating:", "Standby:Wait", "InService\n", "a" * 1000}))
def test_each_state_is_in_or_draining_or_out_with_itself_as_the_reason(state: str) -> None:
    assert where(state) == ("in" if state in IN else "draining" if state in DRAINING else where(state))
    if state not in IN | DRAINING:
        assert where(state).startswith("its lifecycle state is '")
        assert len(where(state)) < 200 and "\n" not in where(state)


def test_the_state_stands_in_the_fact_of_whoever_has_one() -> None:
    facts = [fact("i-0000000a"), fact("i-0000000b"), fact("i-0000000c"), fact("i-0000000d", None)]
    states = {HERE: {"i-0000000a": "InService", "i-0000000b": "Terminating:Wait", "i-0000000c": "Detached"}}
    after = by_lifecycle(found(*facts), states, "include")
    lifecycle_states = {one["instance_id"]: one["lifecycle_state"] for one in after.chosen["webheads"]}
    assert lifecycle_states == {"i-0000000a": "InService", "i-0000000c": None, "i-0000000d": None}
    assert {one["instance_id"]: one["lifecycle_state"] for one in after.draining["webheads"]} == {"i-0000000b": "Terminating:Wait"}


def test_standalone_and_detached_instances_are_out_when_they_are_not_wanted() -> None:
    facts = [fact("i-0000000a"), fact("i-0000000b", None), fact("i-0000000c")]
    after = by_lifecycle(found(*facts), {HERE: {"i-0000000a": "Detached", "i-0000000c": "InService"}}, "exclude")
    reason = "it is in no Auto Scaling group, and standalone_instances is exclude"
    assert [one["instance_id"] for one in after.chosen["webheads"]] == ["i-0000000c"]
    assert after.excluded["webheads"] == [
        {"instance_id": "i-0000000a", "reason": reason, "address": "10.0.0.1"},
        {"instance_id": "i-0000000b", "reason": reason, "address": "10.0.0.1"},
    ]


def test_one_that_auto_scaling_does_not_list_is_out() -> None:
    after = by_lifecycle(found(fact()), {HERE: {}}, "include")
    reason = "it carries the tag of the Auto Scaling group 'web', and Auto Scaling does not list it"
    entry = {"instance_id": "i-0000000a", "reason": reason, "address": "10.0.0.1", "unanswered": True}
    assert after == Sorted({"webheads": []}, {"webheads": []}, {"webheads": [entry]})


def test_an_answer_counts_where_it_was_asked_for_only() -> None:
    facts = [fact("i-0000000a"), fact("i-0000000a", region="us-east-1"), fact("i-0000000a", source=1)]
    assert by_place({"webheads": facts, "db": facts[:1]}, lambda one: True) == {
        HERE: ["i-0000000a"],
        Place(0, "us-east-1"): ["i-0000000a"],
        Place(1, "eu-west-1"): ["i-0000000a"],
    }
    after = by_lifecycle(found(*facts), {Place(1, "eu-west-1"): {"i-0000000a": "InService"}}, "include")
    assert [one["source"] for one in after.chosen["webheads"]] == [1]
    statuses = {Place(0, "us-east-1"): {"i-0000000a": {"instance": "ok", "system": "ok"}}}
    assert [one["region"] for one in by_status(found(*facts), statuses).chosen["webheads"]] == ["us-east-1"]


@pytest.mark.parametrize(
    ("statuses", "reason"),
    [
        ({"instance": "ok", "system": "ok"}, None),
        ({"instance": "initializing", "system": "initializing"}, "its instance status is 'initializing', its system status is 'initializing'"),
        ({"instance": "impaired", "system": "ok"}, "its instance status is 'impaired'"),
        ({"instance": "ok", "system": "insufficient-data"}, "its system status is 'insufficient-data'"),
        ({"instance": None, "system": "ok"}, "its instance status is None"),
        (None, "EC2 has no status of it"),
    ],
)
def test_both_status_checks_must_be_ok(statuses: dict[str, object] | None, reason: str | None) -> None:
    after = by_status(found(fact()), {HERE: {"i-0000000a": statuses} if statuses else {}})
    assert [one["instance_id"] for one in after.chosen["webheads"]] == ([] if reason else ["i-0000000a"])
    entry = {"instance_id": "i-0000000a", "reason": reason, "address": "10.0.0.1", **({"unanswered": True} if statuses is None else {})}
    assert after.excluded["webheads"] == ([entry] if reason else [])


def test_the_reasons_for_too_few_name_those_that_drain() -> None:
    after = by_lifecycle(found(fact()), {HERE: {"i-0000000a": "Standby"}}, "include")
    assert reasons_of(after) == {"webheads": [{"instance_id": "i-0000000a", "reason": "it is draining (Standby)"}]}


def one(**more: Any) -> dict[str, Any]:
    return {"instance_id": "i-0000000a", "auto_scaling_group": "web", "region": "eu-west-1", "source": 0, **more}


@pytest.mark.parametrize(
    ("hook", "instance", "message"),
    [
        ("", one(), "lifecycle_hook_name: ''"),
        ("dr ain", one(), "lifecycle_hook_name: 'dr ain'"),
        ("drain", one(instance_id="web-1"), "instances: 'web-1' is not the id of an instance"),
        ("drain", one(auto_scaling_group=""), "instances: the auto_scaling_group of i-0000000a is empty"),
        ("drain", one(region="all "), "instances: 'all ' does not look like the name of a region"),
        ("drain", one(region="all"), "instances: 'all' does not look like the name of a region"),
        ("drain", one(source=1), "instances: the source of i-0000000a is 1, and there are 1"),
        ("drain", one(source=-1), "instances: the source of i-0000000a is -1"),
    ],
)
def test_a_bad_option_of_the_completion_is_named(hook: str, instance: dict[str, Any], message: str) -> None:
    with pytest.raises(Ec2Error) as refused:
        instances_to_complete({"lifecycle_hook_name": hook, "instances": [instance]}, 1)
    assert str(refused.value).startswith(message)


def test_an_instance_that_is_named_twice_is_completed_once() -> None:
    given = [one(instance_id="i-0000000b"), one(), one()]
    assert json.dumps(instances_to_complete({"lifecycle_hook_name": "drain", "instances": given}, 1)) == json.dumps([one(), one(instance_id="i-0000000b")])
