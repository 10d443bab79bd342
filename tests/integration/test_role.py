# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""The role from end to end: an EC2 endpoint that the test controls, a real HAProxy, real requests."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_ids import of_name
from backends import Backends
from balancer import ROOT, Run, ask, free_port
from ec2_endpoint import Answer, Ec2Endpoint, error, instance, interface, query_error, security_group
from haproxy_binaries import binaries
from prometheus import Watch
from stage import Stage, address, instance_id, names, one

NEWEST = list(binaries().items())[-1:]


@pytest.fixture
def stage(tmp_path: Path, web: Backends, aws: Ec2Endpoint) -> Iterator[Stage]:
    made = Stage(tmp_path, NEWEST[0][1], web, aws)
    yield made
    made.balancer.stop()


# The oldest can do least at runtime, the newest most. What lies between differs below the role, where each version has its tests.
ENDS = {next(iter(binaries()), ""), *dict(NEWEST)}


@pytest.fixture(
    params=[pytest.param(item, marks=[] if item[0] in ENDS else [pytest.mark.full], id=item[0]) for item in binaries().items()],
)
def stage_of_each_version(request: pytest.FixtureRequest, tmp_path: Path, web: Backends, aws: Ec2Endpoint) -> Iterator[Stage]:
    made = Stage(tmp_path, request.param[1], web, aws)
    yield made
    made.balancer.stop()


# The main job.


def test_instances_come_and_go_and_nothing_happens_in_between(stage_of_each_version: Stage) -> None:
    stage = stage_of_each_version
    balancer = stage.balancer
    assert stage.apply(1, 2, 3).recap["changed"] > 0
    assert stage.serves(1, 2, 3)
    assert list(balancer.servers()) == [instance_id(1), instance_id(2), instance_id(3)]
    assert balancer.config.stat().st_mode & 0o7777 == 0o640

    worker, written = balancer.worker(), balancer.config.stat().st_mtime_ns
    stage.aws.requests.clear()
    again = stage.apply(3, 2, 1)
    assert again.recap["changed"] == 0
    assert (balancer.worker(), balancer.config.stat().st_mtime_ns, balancer.reloads()) == (worker, written, 0)
    assert [request.operation for request in stage.aws.requests] == ["DescribeInstances"]

    changed = stage.apply(2, 3, 4, 5)
    assert "webheads: 4 in service, +2 -1; by runtime, no reload: " in changed.text
    assert (balancer.worker(), balancer.reloads()) == (worker, 0)
    assert stage.serves(2, 3, 4, 5)
    assert set(balancer.servers()) == {instance_id(number) for number in (2, 3, 4, 5)}
    assert stage.apply(2, 3, 4, 5).recap["changed"] == 0


def test_check_mode_says_what_would_be_and_touches_nothing(stage: Stage) -> None:
    stage.members(1, 2)
    stage.variables.update(Watch(stage.balancer.folder).variables)
    fresh = stage.run("--check", "--diff")
    assert fresh.status == 0, fresh.output
    assert f"+ server {instance_id(1)} {address(1)}" in fresh.text
    assert "would be brought to it by start" in fresh.text
    assert names(stage.balancer.folder) == ["variables.json"]

    stage.apply(1, 2)
    marks = Watch(stage.balancer.folder).textfile.read_text()
    same = stage.untouched()
    stage.members(2, 3)
    done = stage.run("--check", "--diff")
    assert done.status == 0, done.output
    assert f"- server {instance_id(1)} {address(1)}" in done.text
    assert "webheads: 2 in service, +1 -1; would be brought to it by runtime" in done.text
    done = stage.run("--check", haproxy_autoscale_defaults_lines=["timeout queue 1s"])
    assert done.status == 0, done.output
    assert "would be brought to it by reload (not by runtime: defaults" in done.text
    assert same()
    assert Watch(stage.balancer.folder).textfile.read_text() == marks
    assert stage.balancer.reloads() == 0


@pytest.mark.full
def test_every_change_is_a_reload_where_that_is_asked_for(stage: Stage) -> None:
    stage.variables["haproxy_autoscale_apply_strategy"] = "reload"
    stage.apply(1, 2)
    stage.members(1, 2, 3)
    assert "would be brought to it by reload" in stage.run("--check").text
    done = stage.apply(1, 2, 3)
    assert "webheads: 3 in service, +1; by reload: " in done.text
    # What was asked for is not excused.
    assert "not by runtime" not in done.text
    assert stage.balancer.reloads() == 1
    assert stage.serves(1, 2, 3)


@pytest.mark.full
def test_where_no_reload_may_be_made_what_takes_one_is_refused_before_the_file_is_touched(stage: Stage) -> None:
    runtime_only = {"haproxy_autoscale_apply_strategy": "runtime_only"}
    more = {"haproxy_autoscale_services": [{**stage.variables["haproxy_autoscale_services"][0], "frontend_lines": ["http-request set-header X-Site yes"]}]}
    # Who does not run is started.
    assert "by start" in stage.apply(1, 2, **runtime_only).text
    same = stage.untouched()
    for arguments in ([], ["--check"]):
        done = stage.run(*arguments, **runtime_only, **more)
        assert done.status != 0
        assert "Refused: haproxy_autoscale_apply_strategy is runtime_only, and it takes a reload to bring HAProxy to this configuration: " in done.text
        assert "frontend webheads-in: another line than a server's" in done.text
        assert "haproxy.cfg and the running HAProxy are untouched" in done.text
        assert done.recap["changed"] == 0
        assert same()
    followed = stage.apply(1, 2, 3, **runtime_only)
    assert "webheads: 3 in service, +1; by runtime, no reload: " in followed.text
    assert stage.serves(1, 2, 3)
    assert stage.balancer.reloads() == 0

    # As the message says, and with the reason in every other run that reloads.
    before = stage.balancer.config.read_bytes()
    allowed = stage.apply(1, 2, 3, **more, haproxy_autoscale_apply_strategy="auto")
    assert re.search(r"by reload: .* \(not by runtime: frontend webheads-in: another line than a server's", allowed.text)
    assert stage.balancer.reloads() == 1
    # There is nothing to write here, and the process is not at the file all the same.
    stage.balancer.config.write_bytes(before)
    same = stage.untouched()
    done = stage.run(**runtime_only)
    assert done.status != 0
    assert "frontend webheads-in: another line than a server's" in done.text
    assert same()


def test_what_was_changed_in_the_process_alone_is_mended_and_said(stage: Stage) -> None:
    stage.apply(1, 2, 3)
    balancer, watch = stage.balancer, Watch(stage.balancer.folder / "watch")
    worker, at_first = balancer.worker(), balancer.servers()
    moved = f"webheads/{instance_id(1)}"
    ask(balancer.stats_socket, f"set server {moved} addr {address(9)}")
    # HAProxy answers before it has done it.
    balancer.until(lambda: balancer.servers() != at_first)
    stage.members(1, 2, 3)
    assert moved in stage.run("--check").text
    assert balancer.servers() != at_first
    done = stage.apply(1, 2, 3, **watch.variables)
    assert "by runtime, no reload: " in done.text
    assert watch.metrics()[("drift_repairs_total",)] == watch.metrics()["changes_total", "runtime"] == 1
    assert [(line["applied_by"], moved in line["drift"][0]) for line in watch.lines()] == [("runtime", True)]
    assert f"before, its servers differed from its file: {moved}" in done.text
    assert (balancer.worker(), balancer.servers()) == (worker, at_first)
    quiet = stage.apply(1, 2, 3)
    assert quiet.recap["changed"] == 0
    assert moved not in quiet.text


def test_a_mode_that_was_changed_is_set_again_without_a_reload(stage: Stage) -> None:
    stage.apply(1, 2)
    stage.balancer.config.chmod(0o666)
    assert stage.apply(1, 2).recap["changed"] == 1
    assert stage.balancer.config.stat().st_mode & 0o7777 == 0o640
    assert stage.balancer.reloads() == 0


@pytest.mark.full
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_owner_that_is_asked_for_is_set_without_a_reload(stage: Stage) -> None:
    stage.apply(1, 2)
    assert stage.apply(1, 2, haproxy_autoscale_config_group="daemon").recap["changed"] == 1
    assert stage.balancer.config.group() == "daemon"
    assert stage.apply(1, 2, haproxy_autoscale_config_group="daemon").recap["changed"] == 0
    assert stage.balancer.reloads() == 0


def test_the_difference_is_shown_when_it_is_asked_for_and_not_otherwise(stage: Stage) -> None:
    stage.members(1)
    assert "+++" not in stage.run().output
    stage.members(1, 2)
    assert "+++" in stage.run("--diff").output


def test_a_file_that_the_role_did_not_make_is_kept_beside_the_new_one(stage: Stage, web: Backends) -> None:
    foreign = stage.balancer.text(f"old1 {address(1)}:{web.port}", f"old2 {address(2)}:{web.port}")
    stage.balancer.start(foreign)
    stage.apply(1, 2, haproxy_autoscale_maximum_removed_percent=100)
    kept = [path for path in stage.balancer.folder.iterdir() if path.name.startswith("haproxy.cfg.")]
    assert [path.read_text() for path in kept] == [foreign]
    # Our own are in the state folder: no heap of copies grows with the changes.
    stage.apply(2, 3)
    assert [path for path in stage.balancer.folder.iterdir() if path.name.startswith("haproxy.cfg.")] == kept


# The guard.


@pytest.mark.parametrize("minimum", [2, pytest.param(3, marks=pytest.mark.full)])
def test_a_group_below_the_minimum_is_refused_with_the_counts(stage: Stage, minimum: int) -> None:
    stage.apply(1, 2, 3)
    same = stage.untouched()
    stage.members(*range(1, minimum))
    done = stage.run(haproxy_autoscale_minimum_instances=minimum)
    assert done.status != 0
    assert f"'webheads' has {minimum - 1}, minimum_instances is {minimum}" in done.text
    assert same()


@pytest.mark.full
def test_a_stopped_haproxy_is_counted_by_its_last_good_file(stage: Stage) -> None:
    stage.apply(1, 2, 3, 4)
    stage.balancer.stop()
    stage.balancer.config.unlink()
    stage.members(4)
    done = stage.run()
    assert done.status != 0
    assert "would lose 3 of its 4 servers" in done.text
    assert "haproxy.last-good.cfg" in done.text
    assert not stage.balancer.config.exists()


def test_a_balancer_that_is_taken_over_is_counted_by_the_file_on_disk(stage: Stage, web: Backends) -> None:
    lines = [f"web{number} {address(number)}:{web.port}" for number in (1, 2, 3, 4)]
    text = stage.balancer.text(*lines).replace("backend web\n", "backend webheads\n")
    stage.balancer.config.write_text(text.replace("default_backend web\n", "default_backend webheads\n"))
    stage.members(4)
    done = stage.run()
    assert done.status != 0
    assert "would lose 3 of its 4 servers" in done.text
    assert stage.balancer.config.read_text().count("server web") == 4
    # The same instances under other names are no loss.
    stage.apply(1, 2, 3, 4)
    assert stage.serves(1, 2, 3, 4)


def test_a_text_whose_reload_failed_is_not_tried_again_every_minute(stage: Stage) -> None:
    stage.apply(1, 2)
    good, reloads = stage.balancer.config.read_bytes(), stage.balancer.reloads()
    # What neither `haproxy -c` nor a look from outside can see.
    bad = {"haproxy_autoscale_stats_bind": "192.0.2.1:80 interface lo"}
    first = stage.run(**bad)
    assert first.status != 0
    assert "is the last good file again" in first.text
    tried = stage.balancer.reloads()
    assert tried > reloads
    for arguments in ([], ["--check"]):
        again = stage.run(*arguments, **bad)
        assert again.status != 0
        assert "Refused: the reload of this very configuration has failed, and it is not tried again until it or HAProxy changes, or" in again.text
        assert "192.0.2.1:80" in again.text
    assert (stage.balancer.config.read_bytes(), stage.balancer.reloads()) == (good, tried)
    assert stage.serves(1, 2)
    # When its time is over it is tried; and another text at once.
    assert "is the last good file again" in stage.run(**bad, haproxy_autoscale_retry_failed=0).text
    assert stage.balancer.reloads() > tried
    stage.apply(1, 2, 3)
    assert stage.serves(1, 2, 3)


# Faults of the API.

# What EC2 says.
ERRORS: dict[str, Callable[[Ec2Endpoint], None]] = {
    "forbidden": lambda aws: aws.fault("DescribeInstances", error(403, "UnauthorizedOperation")),
    "throttled": lambda aws: aws.fault("DescribeInstances", error(503, "RequestLimitExceeded")),
    "expired": lambda aws: aws.fault("DescribeInstances", error(400, "RequestExpired")),
    "unknown key": lambda aws: aws.fault("DescribeInstances", error(401, "AuthFailure")),
    "broken": lambda aws: aws.fault("DescribeInstances", error(500, "InternalError")),
    "last page": lambda aws: (
        aws.regions.update({"eu-west-1": [[one(1)], [one(2)], [one(3)]]}),
        aws.fault("DescribeInstances", error(500, "InternalError"), page=2),
    ),
    "group does not exist": lambda aws: (
        aws.regions.update({"eu-west-1": [[]]}),
        aws.groups.update({"eu-west-1": [security_group("sg-00000002", "webhead")]}),
    ),
}

# What is no answer of EC2's.
BROKEN: dict[str, Callable[[Ec2Endpoint], None]] = {
    "truncated": lambda aws: aws.fault("DescribeInstances", Answer(200, "<DescribeInstancesResponse><reservationSet>")),
    "cut": lambda aws: aws.fault("DescribeInstances", Answer(200, "<x>" * 1000, cut_after=100)),
    "slow": lambda aws: aws.fault("DescribeInstances", Answer(200, "", delay=4)),
    "not ec2": lambda aws: aws.fault("DescribeInstances", Answer(200, "<html>proxy login</html>")),
    # The last, because it does not come back.
    "gone": lambda aws: aws.stop(),
}


# What the operator gets wrong, or what fails before the API answers at all.
UNREACHABLE: dict[str, Callable[[Ec2Endpoint], dict[str, Any]]] = {
    "no such host": lambda aws: {"haproxy_autoscale_endpoint_url": "http://no-such-host.invalid"},
    "not TLS": lambda aws: {"haproxy_autoscale_endpoint_url": aws.url.replace("http:", "https:")},
    "no such profile": lambda aws: {"haproxy_autoscale_profile": "nobody"},
    "no such bundle": lambda aws: {"haproxy_autoscale_aws_ca_bundle": "/no/such/bundle.pem", "haproxy_autoscale_endpoint_url": "https://127.0.0.1:1"},
}


def fails_and_touches_nothing(stage: Stage, same: Callable[[], bool], fault: str, *said: str, **variables: Any) -> None:
    done = stage.run(**variables)
    assert done.status != 0, fault
    assert (done.recap["failed"], done.recap["changed"]) == (1, 0), f"{fault}: {done.output}"
    assert all(word in done.text for word in said), f"{fault}: {done.output}"
    assert same(), fault


# Several on one balancer, since each would cost the start of it.
@pytest.mark.parametrize("faults", [pytest.param(ERRORS, id="errors"), pytest.param(BROKEN, id="no answers", marks=pytest.mark.full)])
def test_a_fault_of_the_api_harms_neither_file_nor_process_nor_traffic(stage: Stage, faults: dict[str, Callable[[Ec2Endpoint], None]]) -> None:
    stage.apply(1, 2, 3)
    same = stage.untouched()
    groups = dict(stage.aws.groups)
    for fault, set_it in faults.items():
        stage.aws.heal()
        stage.aws.groups.update(groups)
        # What it would bring in, if it did not fail.
        stage.members(1, 2, 3, 4)
        set_it(stage.aws)
        fails_and_touches_nothing(stage, same, fault, "eu-west-1")


def test_neither_an_api_out_of_reach_nor_one_failing_region_of_two_harms_anything(stage: Stage) -> None:
    stage.apply(1, 2, 3)
    same = stage.untouched()
    stage.members(1, 2, 3, 4)
    for fault, wrong in UNREACHABLE.items():
        # Without its profile there is no region either.
        said = "nobody" if fault == "no such profile" else "eu-west-1"
        fails_and_touches_nothing(stage, same, fault, said, **wrong(stage.aws))

    regions = {"haproxy_autoscale_regions": ["eu-west-1", "eu-central-1"]}
    stage.aws.fault("DescribeInstances", error(500, "InternalError"), region="eu-central-1")
    fails_and_touches_nothing(stage, same, "one of two regions", "InternalError", "DescribeInstances", "eu-central-1", **regions)


# What is asked beside the search, and with which variables.
QUESTIONS: dict[str, dict[str, Any]] = {
    "AssumeRole": {"haproxy_autoscale_assume_role_arn": ["arn:aws:iam::111122223333:role/discovery"]},
    "DescribeAutoScalingInstances": {"haproxy_autoscale_lifecycle": "in_service"},
    "DescribeInstanceStatus": {"haproxy_autoscale_instance_status": "ok"},
    "DescribeNetworkInterfaces": {"haproxy_autoscale_interface": {"tags": {"Role": "traffic"}}},
}


@pytest.mark.full
def test_a_question_beside_the_search_that_fails_harms_neither_file_nor_process_nor_traffic(stage: Stage) -> None:
    stage.apply(1, 2, 3)
    same = stage.untouched()
    stage.aws.regions["eu-west-1"] = [[one(number, tags={"aws:autoscaling:groupName": "web"}) for number in (1, 2, 3, 4)]]
    for operation, variables in QUESTIONS.items():
        stage.aws.heal()
        stage.aws.fault(operation, query_error(403, "AccessDenied") if operation in ("AssumeRole", "DescribeAutoScalingInstances") else error(403, "Denied"))
        fails_and_touches_nothing(stage, same, operation, operation, "Denied", "eu-west-1", **variables)


@pytest.mark.full
def test_on_an_instance_all_comes_by_imdsv2_and_nothing_by_imdsv1(stage: Stage) -> None:
    aws = stage.aws
    aws.metadata_region = "eu-west-1"
    aws.metadata_credentials = {
        "Code": "Success",
        "AccessKeyId": "ASIAROLEROLEROLEROLE",
        "SecretAccessKey": "secret-of-the-role",
        "Token": "token-of-the-role",
        "Expiration": "2126-01-31T06:00:00Z",
    }
    alone = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_DEFAULT_REGION": "", "AWS_EC2_METADATA_DISABLED": "false"}
    stage.balancer.environment.update({**alone, "AWS_EC2_METADATA_SERVICE_ENDPOINT": aws.url})
    aws.metadata_v1 = False
    stage.apply(1, 2, 3)
    assert stage.serves(1, 2, 3)
    assert {(request.region, request.session_token) for request in aws.requests} == {("eu-west-1", "token-of-the-role")}
    same = stage.untouched()

    aws.metadata_v1, aws.metadata_v2 = True, False
    stage.members(1, 2, 3, 4)
    aws.requests.clear()
    aws.metadata_requests.clear()
    fails_and_touches_nothing(stage, same, "no region", "no instance metadata service tells that of this host over IMDSv2")
    fails_and_touches_nothing(stage, same, "no credentials", "eu-west-1 failed: MetadataRetrievalError", "IMDSv2", haproxy_autoscale_regions=["eu-west-1"])
    assert aws.requests == []
    assert {(method, path) for method, path, _token in aws.metadata_requests} == {("PUT", "/latest/api/token")}


# Wrong options.


# Option, wrong value, and what the message must say besides the option's name.
Wrong = list[tuple[str, Any, str]]
# Options, a wrong value of each, and what is said of it. Those that are refused at one place are wrong at once: each has its sentence there.
WRONG_BY_SPECIFICATION: Wrong = [
    ("services", [{"name": "a", "security_groups": ["w"], "prot": 80}], "prot"),
    ("maximum_removed_percent", "half", "haproxy_autoscale_maximum_removed_percent"),
    ("apply_strategy", "never", "haproxy_autoscale_apply_strategy must be one of: auto, reload, runtime_only, got: never"),
    ("reload_method", "restart", "haproxy_autoscale_reload_method"),
    ("address", "public", "haproxy_autoscale_address"),
    ("interface", {"device": 1}, "haproxy_autoscale_interface"),
    ("address_rank", "third", "haproxy_autoscale_address_rank"),
    ("states", ["alive"], "haproxy_autoscale_states"),
    ("lifecycle", "healthy", "haproxy_autoscale_lifecycle"),
    ("instance_status", "good", "haproxy_autoscale_instance_status"),
    ("sources", [{"regoins": ["eu-west-1"]}], "regoins"),
]
WRONG_BY_PREFLIGHT: Wrong = [
    ("textfile", "/var/lib/metrics.txt", "haproxy_autoscale_textfile must be an absolute path without spaces that ends in .prom"),
    ("change_log", "changes.log", "haproxy_autoscale_change_log must be an absolute path"),
    ("confirm_runs", 1, "haproxy_autoscale_confirm_runs must be 0 (never) or at least 2"),
    ("reload_interval", -1, "haproxy_autoscale_reload_interval must"),
    ("maximum_old_workers", -1, "haproxy_autoscale_maximum_old_workers must"),
    ("stats_user", "ops:x", "haproxy_autoscale_stats_user must be one line, without the colon"),
    ("config_files", ["/etc/other.cfg"], "haproxy_autoscale_config_files must"),
    ("maximum_removed_percent", 101, "haproxy_autoscale_maximum_removed_percent must be 0 to 100, and is '101'"),
    ("minimum_instances", -1, "haproxy_autoscale_minimum_instances must"),
    ("confirm_missing_runs", 0, "haproxy_autoscale_confirm_missing_runs must be at least 1, and is '0'"),
    ("maximum_outage", -1, "haproxy_autoscale_maximum_outage must be 0 seconds or more"),
    ("complete_lifecycle_action", "a hook", "haproxy_autoscale_complete_lifecycle_action must be the name of a lifecycle hook"),
    ("drain_timeout", -1, "haproxy_autoscale_drain_timeout must"),
    ("check_timeout", -1, "haproxy_autoscale_check_timeout must"),
    ("retry_failed", -1, "haproxy_autoscale_retry_failed must"),
    ("reload_timeout", 0, "haproxy_autoscale_reload_timeout must"),
    ("name", "../evil", "haproxy_autoscale_name must"),
    ("config_path", "haproxy.cfg", "haproxy_autoscale_config_path must"),
    ("config_mode", "rw", "haproxy_autoscale_config_mode must"),
    ("state_dir", "state", "haproxy_autoscale_state_dir must"),
    ("hard_stop_after", "soon", "haproxy_autoscale_hard_stop_after must"),
    ("timeout_http_request", "soon", "haproxy_autoscale_timeout_http_request must"),
    ("timeout_client", "0", "haproxy_autoscale_timeout_client must"),
    ("maxconn", -5, "haproxy_autoscale_maxconn must"),
    ("template", "no-such.cfg.j2", "haproxy_autoscale_template must"),
]
WRONG_ALONE: Wrong = [
    ("security_groups", [], "haproxy_autoscale_security_groups"),
    ("security_groups", ["sg-xyz"], "sg-xyz"),
    ("services", [{"name": "a b", "security_groups": ["webheads"]}], "haproxy_autoscale_services"),
    ("services", [{"name": "web"}], "security_groups"),
    ("services", [{"name": "a", "security_groups": ["w"]}] * 2, "different names"),
    ("services", [{"name": "a", "security_groups": ["w"], "mode": "udp"}], "udp"),
    ("services", [{"name": "a", "security_groups": ["w"], "port": "http"}], "port"),
    ("services", [{"name": "a", "security_groups": ["w"], "port": 70000}], "haproxy_autoscale_services"),
    ("services", [{"name": "a", "security_groups": [], "port": 80}], "haproxy_autoscale_services"),
    ("services", [{"name": "a", "security_groups": ["w"], "bind": []}], "haproxy_autoscale_services"),
    ("maximum_removed_percent", -1, "haproxy_autoscale_maximum_removed_percent"),
    ("complete_lifecycle_action", "drain", "haproxy_autoscale_complete_lifecycle_action must have haproxy_autoscale_lifecycle 'in_service' with it"),
    ("min_age", -1, "min_age"),
    ("interface", {"device_index": -1}, "interface: 'device_index -1' is negative"),
    ("port_tag", "p" * 129, "port_tag: 'ppp"),
    ("standalone_instances", "exclude", "standalone_instances: 'exclude' is for lifecycle in_service"),
    ("assume_role_arn", ["role/far"], "assume_role_arn: 'role/far'"),
    ("external_id", "agreed", "external_id: it is for assuming a role"),
    ("role_session_name", "a/b", "role_session_name: 'a/b'"),
    ("regions", ["Ireland"], "Ireland"),
    ("binary", "/no/such/haproxy", "binary: no HAProxy program at /no/such/haproxy"),
    ("config_path", "/no/such/folder/haproxy.cfg", "there is no folder /no/such/folder"),
    ("endpoint_url", "ftp://example", "ftp://example"),
]


def test_a_wrong_option_is_named_before_anything_is_touched(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Many in one run of Ansible, since each would cost the start of it."""
    calls: list[Wrong] = [WRONG_BY_SPECIFICATION, WRONG_BY_PREFLIGHT, *([case] for case in WRONG_ALONE)]
    folder = tmp_path_factory.mktemp("wrong")
    stage.members(1)
    stage.variables.pop("haproxy_autoscale_services")
    tasks: list[dict[str, Any]] = []
    for number, cases in enumerate(calls):
        values = {f"haproxy_autoscale_{option}": value for option, value, _said in cases}
        assert len(values) == len(cases)
        role = {"ansible.builtin.include_role": {"name": "haproxy_autoscale"}, "vars": {**stage.variables, **values}}
        message = f"call {number}: " + "{{ ansible_failed_result.msg | default(ansible_failed_result) }} :call"
        tasks.append({"block": [role], "rescue": [{"ansible.builtin.debug": {"msg": message}}]})
    playbook = folder / "site.yml"
    playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    (folder / "roles").symlink_to(ROOT / "roles")
    done = stage.balancer.run({}, playbook=playbook)
    assert done.status == 0, done.output
    answers = {int(number): text for number, text in re.findall(r"call (\d+): (.*?) :call", done.text)}
    unnamed = {str(case[:2]): answers.get(number) for number, cases in enumerate(calls) for case in cases if case[2] not in answers.get(number, "")}
    assert not unnamed
    assert names(stage.balancer.folder) == ["variables.json"]


# Templates.


def template(stage: Stage, name: str, text: str) -> Path:
    """A playbook of the user's own with a template beside it."""
    folder = stage.balancer.folder / "project"
    (folder / "templates").mkdir(parents=True)
    (folder / "templates" / name).write_text(text)
    (folder / "roles").symlink_to(ROOT / "roles")
    playbook = folder / "site.yml"
    playbook.write_text("- hosts: localhost\n  gather_facts: false\n  roles: [haproxy_autoscale]\n")
    return playbook


# What the old script's template looks like after the move: Mako's "% for" becomes "{% for %}", "${ }" becomes "{{ }}".
OWN = """global
    stats socket {{ haproxy_autoscale_stats_socket }} level admin
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend www
    bind {{ haproxy_autoscale_services[0].bind[0] }}
    default_backend servers
backend servers
{% for instance in instances['webheads'] %}
    server {{ instance.name | default(instance.instance_id, true) }} {{ instance.address }}:{{ haproxy_autoscale_services[0].port }}
{% endfor %}
"""


def test_a_template_of_the_users_own_beside_the_playbook_wins_over_ours_of_the_same_name(stage: Stage) -> None:
    stage.members(1, 2)
    playbook = template(stage, "haproxy.cfg.j2", OWN)
    done = stage.balancer.run({**stage.variables, "haproxy_autoscale_template": "haproxy.cfg.j2"}, playbook=playbook)
    assert done.status == 0, done.output
    assert "backend servers" in stage.balancer.config.read_text()
    assert stage.serves(1, 2)


def test_what_was_judged_is_what_is_written_even_when_the_template_never_says_the_same_twice(stage: Stage) -> None:
    stage.members(1, 2)
    restless = "# {{ 1000000000 | random }}\n" + OWN
    playbook = template(stage, "restless.j2", restless)
    done = stage.balancer.run({**stage.variables, "haproxy_autoscale_template": "restless.j2"}, playbook=playbook)
    assert done.status == 0, done.output
    assert stage.serves(1, 2)


def test_values_may_be_given_as_ansible_users_give_them(stage: Stage) -> None:
    stage.members(1, 2)
    stage.variables["haproxy_autoscale_services"][0]["check"] = "no"
    done = stage.run(
        haproxy_autoscale_security_groups="webheads",
        haproxy_autoscale_stats_bind=f"127.0.0.1:{free_port()}",
        haproxy_autoscale_stats_password=1234,
        haproxy_autoscale_textfile=None,
        haproxy_autoscale_change_log=None,
    )
    assert done.status == 0, done.output
    text = stage.balancer.config.read_text()
    assert not [line for line in text.splitlines() if "server i-" in line and " check" in line]
    assert "stats auth admin:1234" in text


def test_one_line_of_variables_is_enough(stage: Stage) -> None:
    stage.members(1, 2)
    stage.variables.pop("haproxy_autoscale_services")
    # Port 80 is not ours to take here, so HAProxy is not started; the file is what counts.
    done = stage.run(haproxy_autoscale_start=False)
    assert done.status == 0, done.output
    text = " ".join(stage.balancer.config.read_text().split())
    assert "frontend webheads-in bind *:80 mode http default_backend webheads" in text
    assert " ".join(f"server {instance_id(number)} {address(number)}:80 id {of_name(instance_id(number))} check" for number in (1, 2)) in text


def test_several_groups_are_several_backends_with_their_own_settings(stage: Stage, web: Backends) -> None:
    stage.aws.groups["eu-west-1"].append(security_group("sg-00000002", "apis"))
    stage.aws.regions["eu-west-1"] = [
        [
            # The youngest; two of the older ones are in the second group.
            one(1),
            instance(instance_id(7), interface(groups=[("sg-00000002", "apis")], address=address(7))),
            instance(
                instance_id(8),
                interface(groups=[("sg-00000001", "webheads"), ("sg-00000002", "apis")], address=address(8)),
            ),
        ]
    ]
    services = [
        {
            "name": "site",
            "security_groups": ["webheads", "apis"],
            "bind": [f"127.0.0.1:{stage.balancer.port}"],
            "port": web.port,
            "balance": "leastconn",
            "check_path": "/health",
            "frontend_lines": ["http-request set-header X-Site yes"],
            "backend_lines": ["default-server inter 1s"],
            "server_options": "weight 10",
        },
        {
            "name": "api",
            "frontend": "programs",
            "security_groups": ["apis"],
            "bind": ["127.0.0.1:9001"],
            "mode": "tcp",
            "port": 9000,
            "check": False,
        },
    ]
    done = stage.run(
        haproxy_autoscale_services=services,
        haproxy_autoscale_start=False,
        haproxy_autoscale_global_lines=["nbthread 1"],
        haproxy_autoscale_defaults_lines=["timeout queue 1s"],
        haproxy_autoscale_extra_lines=["backend more", "    server fixed 127.0.0.1:1"],
        haproxy_autoscale_stats_bind="127.0.0.1:9002",
        haproxy_autoscale_stats_password="marker-of-a-password",
    )
    assert done.status == 0, done.output
    text = " ".join(stage.balancer.config.read_text().split())
    assert (
        "backend site mode http balance leastconn option httpchk GET /health default-server inter 1s "
        + " ".join(f"server {instance_id(number)} {address(number)}:{web.port} id {of_name(instance_id(number))} check weight 10" for number in (7, 8, 1))
        + " frontend programs bind 127.0.0.1:9001 mode tcp no option idle-close-on-response no option http-ignore-probes"
        + " default_backend api backend api mode tcp balance roundrobin "
        + " ".join(f"server {instance_id(number)} {address(number)}:9000 id {of_name(instance_id(number))}" for number in (7, 8))
        + " backend more server fixed 127.0.0.1:1"
    ) in text
    assert "http-request set-header X-Site yes" in text
    assert "stats auth admin:marker-of-a-password" in text


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "templates").glob("*.cfg.j2")))
def test_every_template_of_ours_gives_what_haproxy_accepts_without_a_warning(stage: Stage, name: str) -> None:
    stage.aws.regions["eu-west-1"] = [[one(number, tags={"AppName": "shop", "AppPort": "8080"}) for number in (1, 2)]]
    done = stage.run(haproxy_autoscale_template=name, haproxy_autoscale_start=False, haproxy_autoscale_by_tag={"domain": "example.com"})
    assert done.status == 0, done.output
    # Made by the first apply; 2.6 warns of a missing one.
    stage.balancer.state.mkdir(exist_ok=True)
    (stage.balancer.state / "haproxy.server-state").write_text("1\n")
    for binary in binaries().values():
        checked = subprocess.run([binary, "-c", "-f", stage.balancer.config], capture_output=True, text=True)
        assert (checked.returncode, "WARNING" in checked.stdout + checked.stderr) == (0, False), checked
    text = stage.balancer.config.read_text()
    assert all(f"server {instance_id(number)} {address(number)}:" in text for number in (1, 2))


def test_each_application_is_reached_by_its_host_and_every_run_says_which_tags_it_doubts(stage: Stage) -> None:
    port = stage.web.port

    def tagged(name: str, number: int, app_port: object = port) -> str:
        return one(number, tags={"AppName": name, "AppPort": str(app_port)})

    stage.aws.regions["eu-west-1"] = [[tagged("shop", 1), tagged("search", 2), tagged("shop", 3, "80 # x"), one(4)]]
    by_tag = {"domain": "example.com", "bind": [f"127.0.0.1:{stage.balancer.port}"]}
    variables = {"haproxy_autoscale_template": "haproxy-by-tag.cfg.j2", "haproxy_autoscale_by_tag": by_tag}
    for _again in range(2):
        done = stage.run(**variables)
        assert done.status == 0, done.output
        assert f"WARNING: left out: {instance_id(3)}: AppPort must be 1 to 65535" in done.text
        assert instance_id(4) not in done.text
    assert done.recap["changed"] == 0

    def answer(host: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", stage.balancer.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/", headers={"Host": host})
            reply = connection.getresponse()
            return reply.read().decode().strip() if reply.status == 200 else f"status {reply.status}"

    assert [answer(host) for host in ("shop.example.com", "Shop.Example.com:8123")] == [address(1)] * 2
    assert answer("search.example.com") == address(2)
    assert [answer(host) for host in ("example.com", "shop.example.com.evil.org", "xshop.example.com")] == ["status 503"] * 3

    # Tags that are all gone are no reason to answer everybody with 503.
    same = stage.untouched()
    stage.members(1, 2, 3, 4)
    done = stage.run(**variables)
    assert done.status != 0
    assert "haproxy-by-tag.cfg.j2: no instance has usable tags" in done.text
    assert same()
    # Nor are those of one backend.
    stage.aws.regions["eu-west-1"] = [[tagged("shop", 1), tagged("find", 2)]]
    done = stage.run(**variables)
    assert done.status != 0
    assert "backend search would lose" in done.text
    assert same()


# What is said.
# What tags say, and addresses.


def test_a_weight_and_a_limit_by_tag_change_without_a_reload_and_the_port_is_the_instances(stage: Stage) -> None:
    balancer = stage.balancer
    stage.variables["haproxy_autoscale_services"][0]["port"] = 1
    stage.variables.update({f"haproxy_autoscale_{name}_tag": name.title() for name in ("port", "weight", "backup", "maxconn")})

    def apply(*tags: dict[str, str]) -> Run:
        stage.aws.regions["eu-west-1"] = [[one(number, tags={"Port": str(stage.web.port), **more}) for number, more in enumerate(tags, 1)]]
        done = stage.run()
        assert done.status == 0, done.output
        return done

    def said() -> list[tuple[str, str]]:
        """Weight and limit of each server, as HAProxy has them."""
        table = [line.split(",") for line in ask(balancer.stats_socket, "show stat").splitlines() if line]
        rows = [dict(zip(table[0], row)) for row in table[1:] if row[1].startswith("i-")]
        return [(row["weight"], row["slim"]) for row in rows]

    apply({"Weight": "20"}, {"Weight": "10", "Maxconn": "7"}, {"Backup": "yes"})
    assert stage.serves(1, 2)
    assert said() == [("20", ""), ("10", "7"), ("1", "")]
    assert "by runtime" in apply({"Weight": "30"}, {"Weight": "10", "Maxconn": "9"}, {"Backup": "yes"}).text
    assert said() == [("30", ""), ("10", "9"), ("1", "")]
    apply({"Weight": "30"}, {"Weight": "0", "Maxconn": "9"}, {"Backup": "yes"})
    assert stage.serves(1)
    assert balancer.reloads() == 0
    # One mistyped tag costs one instance, and a run with -v says which.
    done = apply({"Weight": "30"}, {"Weight": "ten"}, {"Backup": "yes"})
    assert "webheads: 2 in service, -1" in done.text
    assert "must be a whole number from 0 to 256, and is 'ten'" in stage.run("-v").text
    # Where all are backup, all serve.
    apply({"Backup": "on"}, {"Backup": "1"}, {"Backup": "yes"})
    assert stage.serves(1, 2, 3)


def test_a_weight_of_0_for_all_is_refused_as_an_empty_group_is(stage: Stage) -> None:
    stage.apply(1, 2)
    same = stage.untouched()
    stage.aws.regions["eu-west-1"] = [[one(number, tags={"Weight": "0"}) for number in (1, 2)]]
    done = stage.run(haproxy_autoscale_weight_tag="Weight")
    assert done.status != 0
    assert "backend webheads would serve nobody: each of its servers would have the weight 0" in done.text
    assert same()


def test_ipv6_from_the_instance_to_the_client(stage: Stage) -> None:
    try:
        web = Backends("::1")
    except OSError:
        pytest.skip("there is no IPv6 on loopback")
    port = stage.balancer.port
    with web:
        stage.aws.regions["eu-west-1"] = [[instance(instance_id(1), interface(ipv6=["::1"]))]]
        stage.variables["haproxy_autoscale_services"][0].update(bind=[f"127.0.0.1:{port}", f"[::1]:{port}"], port=web.port)
        done = stage.run(haproxy_autoscale_address="ipv6")
        assert done.status == 0, done.output
        connection = http.client.HTTPConnection("::1", port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"::1\n"
        assert stage.run(haproxy_autoscale_address="ipv6").recap["changed"] == 0


# Secrets.


def test_no_secret_is_shown_or_left_behind(stage: Stage) -> None:
    markers = {
        "haproxy_autoscale_access_key": "MARKERACCESSKEY",
        "haproxy_autoscale_secret_key": "marker-secret-key",
        "haproxy_autoscale_session_token": "marker-session-token",
        "haproxy_autoscale_stats_password": "marker-stats-password",
    }
    stage.members(1, 2)
    done = stage.run("-vvv", "--diff", **markers, haproxy_autoscale_stats_bind=f"127.0.0.1:{free_port()}")
    assert done.status == 0, done.output
    for option, marker in markers.items():
        assert marker not in done.output, option
    # The endpoint of the tests has its keys in the environment. HAProxy, which would show its own to whoever may ask its sockets, has none of them.
    assert any(name.startswith("AWS_") for name in stage.balancer.environment)
    for process in (stage.balancer.pid(), stage.balancer.worker()):
        assert b"AWS_" not in Path(f"/proc/{process}/environ").read_bytes()
    (stage.balancer.folder / "variables.json").unlink()
    for path in (path for path in stage.balancer.folder.rglob("*") if path.is_file()):
        content = path.read_text(errors="replace")
        # The statistics page's password has its place in the file, and nobody else may read that.
        if "marker-stats-password" in content:
            assert path.stat().st_mode & 0o007 == 0, path
        assert not re.search("MARKERACCESSKEY|marker-secret-key|marker-session-token", content), path


def test_a_run_reads_well(stage: Stage) -> None:
    stage.variables.update(haproxy_autoscale_confirm_missing_runs=3, haproxy_autoscale_maximum_outage=600)
    assert sum("WARNING" in line for line in stage.apply(1, 2).output.splitlines()) == 0
    quiet = stage.apply(1, 2).output
    # What looks closer, at whom an answer lacks for instance, is a process more.
    assert re.findall(r"^included: \S+/(\S+) for", quiet, re.MULTILINE) == ["process.yml", "discover.yml"]
    assert quiet.count("changed:") == 0
    assert len(quiet.splitlines()) < 50
