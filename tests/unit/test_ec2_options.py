# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""The module's options: a bad one is named with its value, before any call."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_instances import (
    VALUES_PER_CALL,
    Ec2Error,
    checked_regions,
    describe_filters,
    interface_filters,
    query_from,
)

DEFAULTS: dict[str, Any] = {
    "security_groups": ["webheads"],
    "regions": None,
    "vpc_id": None,
    "filters": None,
    "exclude_filters": None,
    "states": ["running"],
    "address": "private_ipv4",
    "address_rank": "primary",
    "interface": None,
    "port_tag": None,
    "weight_tag": None,
    "backup_tag": None,
    "maxconn_tag": None,
    "min_age": 0,
    "minimum_instances": 1,
    "retries": 5,
    "timeout": 30,
    "endpoint_url": None,
}


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("security_groups", [], "empty"),
        ("security_groups", [""], "empty"),
        ("security_groups", ["  "], "empty"),
        ("security_groups", ["webheads", ""], "empty"),
        ("security_groups", ["sg-"], "sg-0123456789abcdef0"),
        ("security_groups", ["sg-webheads"], "sg-0123456789abcdef0"),
        ("security_groups", ["sg-0123456789ABCDEF0"], "sg-0123456789abcdef0"),
        ("security_groups", ["sg-0123456789abcdef0\n"], "sg-0123456789abcdef0"),
        ("security_groups", ["webheads "], "space at an end"),
        ("security_groups", ["web?eads"], "character"),
        ("security_groups", ["web\\heads"], "character"),
        ("security_groups", ["web\nheads"], "character"),
        ("security_groups", ["wébheads"], "character"),
        ("security_groups", ["w" * 256], "255"),
        ("vpc_id", "vpc", "vpc-0123456789abcdef0"),
        ("vpc_id", "vpc-0000001*", "vpc-0123456789abcdef0"),
        ("min_age", -1, "negative"),
        ("minimum_instances", -1, "negative"),
        ("retries", -1, "negative"),
        ("timeout", 0, "at least 1"),
        ("min_age", 100_000_000_000, "100 years"),
        ("min_age", 10**15, "100 years"),
        ("timeout", 86_401, "one day"),
        ("timeout", 10**15, "one day"),
        ("retries", 101, "100 times"),
        ("retries", 10**15, "100 times"),
        ("states", [], "empty"),
        ("endpoint_url", "ec2.example.com", "https://"),
        ("endpoint_url", "file:///etc/passwd", "https://"),
        ("endpoint_url", "http://", "https://"),
        ("endpoint_url", "http://:5000", "https://"),
        ("endpoint_url", "http://ec2.example.com/a b", "https://"),
        ("endpoint_url", "http://127.0.0.1:99999", "port"),
        ("endpoint_url", "http://127.0.0.1:0", "port"),
        ("endpoint_url", "http://127.0.0.1:http", "port"),
        ("endpoint_url", "http://[::1", "https://"),
        ("filters", {"": "x"}, "name of a filter"),
        ("filters", {1: "x"}, "name of a filter"),
        ("filters", {"tag:A": []}, "no value"),
        ("filters", {"tag:A": {"B": "C"}}, "list"),
        ("filters", {"tag:A": 1.5}, "list"),
        ("filters", {"tag:A": [None]}, "list"),
        ("filters", {"tag:A": "x" * 256}, "255"),
        ("filters", {"tag:A": [str(number) for number in range(101)]}, "100"),
        ("filters", {"instance.group-name": "web"}, "security_groups"),
        ("filters", {"instance.group-id": "sg-00000001"}, "security_groups"),
        ("filters", {"instance-state-name": "running"}, "states"),
        ("filters", {"vpc-id": "vpc-00000001"}, "vpc_id"),
        ("exclude_filters", {"tag:A": []}, "no value"),
        ("interface", {"device_index": -1}, "negative"),
        ("interface", {"subnet_ids": ["subnet-1"]}, "subnet-0123456789abcdef0"),
        ("interface", {"subnet_ids": ["subnet-0000000*"]}, "subnet-0123456789abcdef0"),
        ("interface", {"tags": {"Role": ["a", "b"]}}, "list"),
        ("interface", {"tags": {"Role": None}}, "list"),
        ("interface", {"tags": {"Role": "x" * 256}}, "255"),
        ("interface", {"tags": {"r" * 129: "x"}}, "128"),
        ("port_tag", "p" * 129, "128"),
        ("backup_tag", "a\nb", "name of a tag"),
    ],
)
def test_a_bad_option_is_named_with_the_reason(option: str, value: object, why: str) -> None:
    with pytest.raises(Ec2Error) as refused:
        query_from({**DEFAULTS, option: value})
    assert str(refused.value).startswith(f"{option}: ")
    assert why in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("before", ["http://user:hunter2@", "https://hunter2@", "user:hunter2@", "http://user:hunter2/x@", "http://[hunter2@"])
def test_a_password_in_the_endpoint_is_refused_and_not_shown(before: str) -> None:
    with pytest.raises(Ec2Error, match="^endpoint_url: .* user or password") as refused:
        query_from({**DEFAULTS, "endpoint_url": f"{before}ec2.example.com:99999"})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["https://ec2.example.com", "http://127.0.0.1:5000", "http://[::1]:5000/", "https://ec2.example.com:443/a/path", "", None])
def test_an_endpoint_may_have_a_port_and_a_path(url: str | None) -> None:
    assert query_from({**DEFAULTS, "endpoint_url": url}).groups == ("webheads",)


@pytest.mark.parametrize("group", ["webheads", "Web Heads/2 (a,b) [x]+=&;{}!$#@:", "a*", "sg", "default", "w" * 255, "sg-00000001", "sg-0123456789abcdef0"])
def test_every_group_that_ec2_allows_is_allowed(group: str) -> None:
    assert query_from({**DEFAULTS, "security_groups": [group]}).groups == (group,)


def test_a_group_given_twice_is_asked_for_once() -> None:
    assert query_from({**DEFAULTS, "security_groups": ["b", "a", "b"]}).groups == ("b", "a")


def test_filter_values_become_text_as_ec2_has_it() -> None:
    query = query_from({**DEFAULTS, "filters": {"tag:A": True, "tag:B": [8080, "x"], "tag:C": ""}})
    assert query.filters == {"tag:A": ["true"], "tag:B": ["8080", "x"], "tag:C": [""]}


def test_excluding_all_that_is_asked_for_is_refused() -> None:
    with pytest.raises(Ec2Error, match="^exclude_filters: .* excludes every instance"):
        query_from({**DEFAULTS, "filters": {"tag:A": ["x", "y"], "tag:B": "z"}, "exclude_filters": {"tag:A": ["y", "x"]}})


@pytest.mark.parametrize("exclude", [{"tag:A": ["x"]}, {"tag:A": ["x", "y"], "tag:C": "1"}, {"tag:D": "x"}])
def test_excluding_some_of_what_is_asked_for_is_allowed(exclude: dict[str, Any]) -> None:
    assert query_from({**DEFAULTS, "filters": {"tag:A": ["x", "y"]}, "exclude_filters": exclude}).exclude_filters


@pytest.mark.parametrize("region", ["us-east-1", "us-gov-west-1", "cn-northwest-1", "us-isob-east-1", "eusc-de-east-1", "ap-southeast-5"])
def test_every_form_of_region_name_is_allowed(region: str) -> None:
    assert checked_regions([region]) == (region,)


@pytest.mark.parametrize(
    "region", ["", "eu-west-1a", "eu_west_1", "EU-WEST-1", "eu-west", "eu-west-1.evil.example", "eu-west-1\n", "ALL", "eu-west-1,eu-west-2"]
)
def test_what_is_no_region_name_is_refused(region: str) -> None:
    with pytest.raises(Ec2Error, match="^regions: .* name of a region"):
        checked_regions([region])


def test_all_regions_cannot_be_mixed_with_names() -> None:
    with pytest.raises(Ec2Error, match="^regions: .* mixes all"):
        checked_regions(["all", "eu-west-1"])
    assert checked_regions(["all"]) == ("all",)


def test_regions_are_searched_once_each_in_a_fixed_order() -> None:
    assert checked_regions(["us-east-1", "eu-west-1", "us-east-1"]) == ("eu-west-1", "us-east-1")


def as_dict(filters: list[dict[str, Any]]) -> dict[str, list[str]]:
    return {one["Name"]: one["Values"] for one in filters}


def test_names_and_ids_are_asked_for_in_a_call_each() -> None:
    query = query_from({**DEFAULTS, "security_groups": ["a", "sg-00000001", "b"], "vpc_id": "vpc-00000001"})
    common = {"vpc-id": ["vpc-00000001"]}
    assert [as_dict(one) for one in describe_filters(query, {})] == [
        {**common, "instance.group-name": ["a", "b"]},
        {**common, "instance.group-id": ["sg-00000001"]},
    ]


def test_only_the_kinds_in_use_are_asked_for() -> None:
    assert [list(as_dict(one)) for one in describe_filters(query_from(DEFAULTS), {})] == [["instance.group-name"]]


@pytest.mark.parametrize("groups", [198, 199, 200, 401])
def test_no_call_has_more_values_than_ec2_takes_and_no_group_is_lost(groups: int) -> None:
    names = [f"group-{number}" for number in range(groups)]
    query = query_from({**DEFAULTS, "security_groups": names, "filters": {"tag:A": ["x", "y"]}})
    calls = describe_filters(query, query.filters)
    assert all(sum(len(one["Values"]) for one in call) <= VALUES_PER_CALL for call in calls)
    assert [name for call in calls for name in as_dict(call)["instance.group-name"]] == names


def test_the_exclusion_asks_within_the_groups_and_not_for_the_filters() -> None:
    query = query_from({**DEFAULTS, "filters": {"tag:A": "x"}, "exclude_filters": {"tag:B": "y"}})
    assert [as_dict(one) for one in describe_filters(query, query.exclude_filters)] == [{"instance.group-name": ["webheads"], "tag:B": ["y"]}]


def test_an_exclusion_by_another_group_is_not_lost_among_the_names() -> None:
    query = query_from({**DEFAULTS, "security_groups": ["a", "sg-00000001"], "exclude_filters": {"instance.group-name": "maintenance"}})
    assert [as_dict(one) for one in describe_filters(query, query.exclude_filters)] == [
        {"instance.group-name": ["maintenance"]},
        {"instance.group-name": ["maintenance"], "instance.group-id": ["sg-00000001"]},
    ]


@pytest.mark.parametrize("given", [None, {}, {"device_index": None, "subnet_ids": None, "tags": None}, {"subnet_ids": [], "tags": {}}])
def test_an_interface_of_which_nothing_is_said_is_as_none(given: dict[str, Any] | None) -> None:
    assert query_from({**DEFAULTS, "interface": given}).interface is None


def test_the_first_interface_can_be_asked_for() -> None:
    assert query_from({**DEFAULTS, "interface": {"device_index": 0}}).interface == (0, (), {})


def test_interfaces_are_asked_for_by_their_tags_only_and_no_wildcard_is_one() -> None:
    for given in (None, {"device_index": 1, "subnet_ids": ["subnet-00000001"]}):
        assert interface_filters(query_from({**DEFAULTS, "vpc_id": "vpc-00000001", "interface": given})) == []
    given = {"device_index": 1, "tags": {"Role": "da*ta?", "Main": True, "Path": "a\\b"}}
    assert as_dict(interface_filters(query_from({**DEFAULTS, "vpc_id": "vpc-00000001", "interface": given}))) == {
        "tag:Role": ["da\\*ta\\?"],
        "tag:Main": ["true"],
        "tag:Path": ["a\\\\b"],
        "vpc-id": ["vpc-00000001"],
    }
