# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Where to look and as whom: a bad option is named with its value, and an entry says what the module does not."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_instances import Ec2Error
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.ec2_sources import Source, merge, sources_from

DEFAULTS: dict[str, Any] = {
    "regions": None,
    "sources": None,
    "vpc_id": None,
    "access_key": None,
    "secret_key": None,
    "session_token": None,
    "profile": None,
    "assume_role_arn": None,
    "external_id": None,
    "role_session_name": None,
    "endpoint_url": None,
    "aws_ca_bundle": None,
    "validate_certs": True,
    "retries": 0,
    "timeout": 30,
}
HUB, FAR = "arn:aws:iam::111122223333:role/hub", "arn:aws:iam::444455556666:role/path/to/discovery"


def sources(*entries: dict[str, Any], groups: tuple[str, ...] = ("webheads", "db"), **options: Any) -> list[Source]:
    return sources_from({**DEFAULTS, "sources": list(entries) or None, **options}, groups)


def test_without_a_list_there_is_one_source_of_the_modules_own_options() -> None:
    (source,) = sources(profile="web", assume_role_arn=[HUB, FAR], external_id="agreed", regions=["us-east-1", "eu-west-1"], vpc_id="vpc-00000001")
    assert source == Source(0, "", False, "web", (HUB, FAR), "agreed", "haproxy-autoscale", ("eu-west-1", "us-east-1"), ("webheads", "db"), "vpc-00000001")


def test_an_entry_says_instead_of_the_module_and_what_it_does_not_say_the_module_does() -> None:
    options = {"profile": "web", "assume_role_arn": [HUB], "external_id": "agreed", "role_session_name": "lb"}
    options.update(regions=["eu-west-1"], vpc_id="vpc-00000001")
    own = {"profile": "far", "assume_role_arn": [FAR], "external_id": "other", "role_session_name": "far-lb"}
    own.update(regions=["us-east-1"], vpc_id="vpc-00000002")
    inherits, says = sources({}, {**own, "security_groups": ["db"]}, **options)
    assert inherits == Source(0, " (sources[0])", False, "web", (HUB,), "agreed", "lb", ("eu-west-1",), ("webheads", "db"), "vpc-00000001")
    assert says == Source(1, " (sources[1])", False, "far", (FAR,), "other", "far-lb", ("us-east-1",), ("db",), "vpc-00000002")


def test_the_modules_keys_are_not_for_an_entry_with_a_profile() -> None:
    here, there = sources({}, {"profile": "far"}, access_key="AKIA", secret_key="secret")
    assert (here.with_keys, here.profile, there.with_keys, there.profile) == (True, None, False, "far")


def test_an_entry_may_say_that_no_role_is_assumed() -> None:
    here, there = sources({"assume_role_arn": []}, {}, assume_role_arn=[FAR], external_id="agreed")
    assert (here.roles, here.external_id) == ((), None)
    assert (there.roles, there.external_id) == ((FAR,), "agreed")


@pytest.mark.parametrize(
    ("entries", "options", "message"),
    [
        ([], {"assume_role_arn": ["role/hub"]}, "assume_role_arn: 'role/hub' is not the ARN of a role"),
        ([], {"assume_role_arn": [HUB + "\n"]}, "assume_role_arn: "),
        ([], {"assume_role_arn": ["arn:aws:iam::1111:role/hub"]}, "assume_role_arn: 'arn:aws:iam::1111:role/hub'"),
        ([], {"assume_role_arn": ["arn:aws:iam::111122223333:user/hub"]}, "assume_role_arn: 'arn:aws:iam::111122223333:user/hub'"),
        ([{}, {"assume_role_arn": [HUB, "x"]}], {}, "sources[1].assume_role_arn: 'x'"),
        ([], {"external_id": "agreed"}, "external_id: it is for assuming a role"),
        ([{}, {"external_id": "agreed"}], {}, "sources[1].external_id: it is for assuming a role"),
        ([{"assume_role_arn": []}], {"assume_role_arn": [HUB], "external_id": "agreed"}, "external_id: it is for assuming a role"),
        ([], {"assume_role_arn": [HUB], "external_id": "a"}, "external_id: it is not 2 to 1224"),
        ([], {"assume_role_arn": [HUB], "external_id": "a b"}, "external_id: it is not 2 to 1224"),
        ([], {"assume_role_arn": [HUB], "role_session_name": "a/b"}, "role_session_name: 'a/b'"),
        ([], {"access_key": "AKIA", "secret_key": ""}, "access_key and secret_key: one is empty"),
        ([{"regions": ["Ireland"]}], {}, "sources[0].regions: 'Ireland'"),
        ([{}], {"regions": ["Ireland"]}, "regions: 'Ireland'"),
        ([{"vpc_id": "vpc"}], {}, "sources[0].vpc_id: 'vpc'"),
        ([{"security_groups": ["dbs"]}], {}, "sources[0].security_groups: 'dbs' is not one of security_groups"),
        ([{"security_groups": ["db"]}, {"security_groups": ["db"], "profile": "far"}], {}, "security_groups: 'webheads' is asked for by no entry of sources"),
        ([{"profile": "a"}, {}, {"profile": "a"}], {}, "sources: the entries 0 and 2 are the same"),
        ([{}, {"profile": "a"}], {"profile": "a"}, "sources: the entries 0 and 1 are the same"),
    ],
)
def test_a_bad_option_is_named_with_the_reason(entries: list[dict[str, Any]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(Ec2Error) as refused:
        sources(*entries, **options)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    "arn",
    [
        HUB,
        FAR,
        "arn:aws-cn:iam::111122223333:role/hub",
        "arn:aws-us-gov:iam::111122223333:role/hub",
        "arn:aws-iso-b:iam::111122223333:role/service-role/a+b=c,d.e@f-g_h",
    ],
)
def test_every_form_of_a_roles_arn_is_allowed(arn: str) -> None:
    assert sources(assume_role_arn=[arn])[0].roles == (arn,)


def fact(instance_id: str, launched: str) -> dict[str, Any]:
    return {"instance_id": instance_id, "launch_time": launched}


def test_what_several_sources_found_is_one_list_and_the_same_instance_is_in_it_once() -> None:
    first = (0, {"webheads": [fact("i-b", "2")], "db": []}, {"webheads": [{"instance_id": "i-x", "reason": "r"}], "db": []})
    second = (1, {"webheads": [fact("i-a", "1"), fact("i-b", "2"), fact("i-x", "0")]}, {"webheads": [{"instance_id": "i-c", "reason": "r"}]})
    chosen, excluded = merge(("webheads", "db"), [first, second])
    assert chosen == {"webheads": [{**fact("i-a", "1"), "source": 1}, {**fact("i-b", "2"), "source": 0}], "db": []}
    assert excluded == {"webheads": [{"instance_id": "i-c", "reason": "r"}, {"instance_id": "i-x", "reason": "r"}], "db": []}
