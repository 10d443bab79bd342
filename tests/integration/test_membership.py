# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Who stays, who goes and why, over several runs: answers that lack somebody, an API that is out, and what a run says of it all."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.template import trust_as_template
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_inspect import Definition
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_report import Candidate, report
from ansible_collections.autoscale.haproxy.plugins.modules.ec2_complete_lifecycle_action import ARGUMENT_SPEC
from backends import Backends
from balancer import ROOT, Balancer, ask, run
from ec2_endpoint import Ec2Endpoint, error, instance, interface
from haproxy_binaries import binaries
from prometheus import Watch
from rendering import words
from stage import Stage, address, instance_id, names, one

NEWEST = list(binaries().values())[-1]


@pytest.fixture
def stage(tmp_path: Path, web: Backends, aws: Ec2Endpoint) -> Iterator[Stage]:
    made = Stage(tmp_path, NEWEST, web, aws)
    yield made
    made.balancer.stop()


def noted(stage: Stage, kind: str) -> Any:
    """What a note in the state folder says; None without one."""
    path = stage.balancer.state / f"haproxy.{kind}.json"
    if not path.exists():
        return None
    assert path.stat().st_mode & 0o7777 == 0o600
    return json.loads(path.read_text())


# Answers that lack somebody.


def members_noted(stage: Stage) -> list[str]:
    return [member["instance_id"] for member in noted(stage, "members")["instances"]["webheads"]]


def test_who_is_missing_from_an_answer_stays_until_enough_runs_in_a_row_have_missed_it(stage: Stage) -> None:
    stage.variables["haproxy_autoscale_confirm_missing_runs"] = 3
    stage.apply(1, 2, 3)
    assert members_noted(stage) == [instance_id(number) for number in (1, 2, 3)]
    same = stage.untouched()
    # Missing once, and back.
    once = stage.apply(1, 2)
    assert f"{instance_id(3)} is missing from AWS's answer in 1 of 3 runs that haproxy_autoscale_confirm_missing_runs asks for; it stays" in once.text
    assert noted(stage, "missing") == {instance_id(3): 1}
    stage.apply(1, 2, 3)
    assert noted(stage, "missing") is None
    # Missing in a row. A run that only looks does not count.
    stage.apply(1, 2)
    looked = stage.run("--check")
    assert "in 2 of 3 runs" in looked.text
    assert looked.recap["changed"] == 0
    assert same()
    # Who comes meanwhile comes in.
    assert "in 2 of 3 runs" in stage.apply(1, 2, 4).text
    assert stage.serves(1, 2, 3, 4)
    gone = stage.apply(1, 2, 4)
    assert f"removed {instance_id(3)} (no longer found)" in gone.text
    assert stage.serves(1, 2, 4)
    assert members_noted(stage) == [instance_id(number) for number in (1, 2, 4)]


def test_what_ec2_says_a_word_of_goes_at_once_and_each_is_told_with_its_reason(stage: Stage) -> None:
    stage.variables["haproxy_autoscale_confirm_missing_runs"] = 3
    stage.apply(1, 2, 3, 4, 5)
    # Another instance has the address of 5: it cannot be there any more.
    heir = instance(instance_id(6), interface(address=address(5)))
    stage.aws.regions["eu-west-1"] = [[one(1), one(2), one(4, state="stopping"), heir]]
    looked = stage.run("--check")
    assert f"would add {instance_id(6)} {address(5)} (launched " in looked.text
    assert f"; would remove {instance_id(4)} (its state is 'stopping')" in looked.text
    done = stage.run("-v")
    assert done.status == 0, done.output
    assert f"added {instance_id(6)} {address(5)} (launched " in done.text
    assert f"; removed {instance_id(4)} (its state is 'stopping'), {instance_id(5)} (no longer found)" in done.text
    assert f"{instance_id(3)} is missing" in done.text
    assert stage.serves(1, 2, 3, 5)
    # A line for each, the columns of one width; with -v alone.
    rows = [
        f"webheads  {instance_id(1)}  {address(1)}  in",
        f"webheads  {instance_id(3)}  {address(3)}  in   missing from AWS's answer in 1 of 3 runs",
        f"webheads  {instance_id(4)}  -          out  its state is 'stopping'",
    ]
    assert all(row in done.output and row not in looked.output for row in rows), done.output
    # An answer below the minimum is no answer, whoever would stay.
    same = stage.untouched()
    stage.members(1)
    refused = stage.run(haproxy_autoscale_minimum_instances=2)
    assert refused.status != 0
    assert "Too few usable instances" in refused.text
    assert same()


@pytest.mark.full
def test_whom_auto_scaling_does_not_list_is_missing_as_well(stage: Stage) -> None:
    """It is listed by EC2 with the tag of its group, and its state is not known."""
    stage.variables.update(haproxy_autoscale_confirm_missing_runs=2, haproxy_autoscale_lifecycle="in_service")
    tagged = {"aws:autoscaling:groupName": "web"}
    stage.aws.regions["eu-west-1"] = [[one(number, tags=tagged) for number in (1, 2, 3)]]
    everybody = {instance_id(number): "InService" for number in (1, 2, 3)}
    stage.aws.lifecycle_states = everybody
    assert stage.run().status == 0
    assert stage.serves(1, 2, 3)
    stage.aws.lifecycle_states = {instance_id(1): "InService", instance_id(2): "InService"}
    missed = stage.run("-v")
    assert f"{instance_id(3)} is missing from AWS's answer in 1 of 2 runs" in missed.text
    rows = [line for line in missed.output.splitlines() if re.search(rf"webheads +{instance_id(3)} ", line)]
    assert len(rows) == 1 and " in " in rows[0], rows
    assert stage.serves(1, 2, 3)
    assert f"removed {instance_id(3)} (it carries the tag of the Auto Scaling group" in stage.run().text
    assert stage.serves(1, 2)


@pytest.mark.full
def test_who_the_members_are_is_believed_of_the_text_on_disk_alone(stage: Stage) -> None:
    """A run that dies between the file and the note leaves the note of another text. Whoever stands there may have left."""
    stage.variables["haproxy_autoscale_confirm_missing_runs"] = 2
    stage.apply(1, 2)
    path = stage.balancer.state / "haproxy.members.json"
    of_another_text = noted(stage, "members")
    of_another_text["checksum"] = "0" * 64
    of_another_text["instances"]["webheads"][0].update(instance_id=instance_id(3), address=address(3))
    path.write_text(json.dumps(of_another_text))
    assert "it stays" not in stage.apply(1, 2, 4).text
    assert stage.serves(1, 2, 4)
    # The next run without a change makes up for a note that was lost.
    path.write_text(json.dumps(of_another_text))
    stage.apply(1, 2, 4)
    assert members_noted(stage) == [instance_id(number) for number in (1, 2, 4)]
    # Whoever asks for it no longer leaves no count behind.
    (stage.balancer.state / "haproxy.missing.json").write_text(json.dumps({instance_id(4): 1}))
    stage.apply(1, 2, haproxy_autoscale_confirm_missing_runs=1)
    assert noted(stage, "missing") is None
    assert stage.serves(1, 2)


OWN = """global
    stats socket {{ haproxy_autoscale_stats_socket }} level admin
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend www
    bind {{ haproxy_autoscale_services[0].bind[0] }}
    acl ours dst{{ instances['webheads'] | map(attribute='address') | map('regex_replace', '^', ' ') | join }}
    default_backend servers
backend servers
{% for instance in instances['webheads'] %}
    server web-{{ loop.index }} {{ instance.address }}:{{ haproxy_autoscale_services[0].port }}
{% endfor %}
"""


@pytest.mark.full
def test_a_template_of_the_users_own_is_given_who_stays_in_its_place(stage: Stage) -> None:
    folder = stage.balancer.folder / "project"
    (folder / "templates").mkdir(parents=True)
    (folder / "templates" / "own.cfg.j2").write_text(OWN)
    (folder / "roles").symlink_to(ROOT / "roles")
    playbook = folder / "site.yml"
    playbook.write_text("- hosts: localhost\n  gather_facts: false\n  roles: [haproxy_autoscale]\n")
    variables = {**stage.variables, "haproxy_autoscale_template": "own.cfg.j2", "haproxy_autoscale_confirm_missing_runs": 2}
    stage.members(1, 2, 3)
    assert stage.balancer.run(variables, playbook=playbook).status == 0
    same = stage.untouched()
    stage.members(1, 3)
    done = stage.balancer.run(variables, playbook=playbook)
    assert done.status == 0, done.output
    assert f"{instance_id(2)} is missing from AWS's answer in 1 of 2 runs" in done.text
    # Nobody has moved up.
    assert same()


# An API that is out.


def test_an_outage_of_the_api_fails_no_run_for_as_long_as_is_said(stage: Stage) -> None:
    stage.apply(1, 2)
    stage.members(1, 2, 3)
    watch = Watch(stage.balancer.folder / "watch")
    same = stage.untouched()
    stage.variables["haproxy_autoscale_maximum_outage"] = 600
    stage.aws.fault("DescribeInstances", error(500, "InternalError"))
    looked = stage.run("--check")
    assert looked.status == 0, looked.output
    assert noted(stage, "outage") is None
    began = int(time.time())
    done = stage.run(**watch.variables)
    assert done.status == 0, done.output
    found = watch.metrics()
    assert found["runs_total", "outage"] == 1
    assert ("last_success_timestamp_seconds",) not in found
    assert found["workers", "current"] == 1
    assert "WARNING: DescribeInstances in eu-west-1 failed after 2 attempts: InternalError" in done.text
    since = noted(stage, "outage")["since"]
    assert began <= since <= time.time()
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since + 600))
    assert f"The last good state is kept, and no run fails, until {until} (haproxy_autoscale_maximum_outage is 600 seconds)" in done.text
    assert "haproxy.cfg is untouched, and so is the running HAProxy" in done.text
    assert same()
    # A stopped HAProxy is started all the same. And a clock that was wrong when it began makes the outage no longer.
    path = stage.balancer.state / "haproxy.outage.json"
    path.write_text(json.dumps({"since": since + 10**6}))
    stage.balancer.stop()
    done = stage.run(**watch.variables)
    assert done.status == 0, done.output
    assert "HAProxy did not run and was started on it" in done.text
    assert [(line["outcome"], line["applied_by"], line["added"]) for line in watch.lines()] == [("changed", "start", [])]
    assert stage.serves(1, 2)
    assert began <= noted(stage, "outage")["since"] <= time.time()
    path.write_text(json.dumps({"since": began - 600}))
    done = stage.run()
    assert done.status != 0
    assert "InternalError" in done.text
    began_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began - 600))
    longer = r"That is longer than is allowed \(haproxy_autoscale_maximum_outage is 600 seconds\)"
    assert re.search(rf"So it has been for \d+ seconds, since {began_at}\. {longer}", done.text)
    stage.aws.heal()
    stage.apply(1, 2, 3)
    assert noted(stage, "outage") is None


@pytest.mark.full
def test_what_is_no_outage_fails_at_once_whatever_is_borne(stage: Stage) -> None:
    stage.variables["haproxy_autoscale_maximum_outage"] = 600
    # Where nothing has ever worked there is no good state to keep.
    stage.aws.fault("DescribeInstances", error(500, "InternalError"))
    assert stage.run().status != 0
    assert not stage.balancer.state.exists()
    stage.aws.heal()
    stage.apply(1, 2)
    before = names(stage.balancer.state)
    done = stage.run(haproxy_autoscale_minimum_instances=3)
    assert done.status != 0
    assert "minimum_instances is 3" in done.text
    assert names(stage.balancer.state) == before


# Scale-in.


def test_the_lifecycle_action_is_completed_once_the_last_request_has_ended_and_not_before(stage: Stage) -> None:
    stage.variables.update(haproxy_autoscale_lifecycle="in_service", haproxy_autoscale_complete_lifecycle_action="drained")
    stage.variables.update(haproxy_autoscale_timeout_client="10m", haproxy_autoscale_timeout_server="10m", haproxy_autoscale_drain_timeout=0)
    tags = {"aws:autoscaling:groupName": "web"}
    stage.aws.regions["eu-west-1"] = [[one(number, tags=tags) for number in (1, 2, 3)]]
    stage.aws.lifecycle_states.update({instance_id(number): "InService" for number in (1, 2, 3)})
    done = stage.run()
    assert done.status == 0, done.output
    stage.balancer.until_all_serve({address(number) for number in (1, 2, 3)})
    # As many uploads as servers, so that each has one.
    uploads = [socket.create_connection(("127.0.0.1", stage.balancer.port)) for _server in range(3)]
    for upload in uploads:
        upload.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n0")
        time.sleep(0.1)
    stage.aws.lifecycle_states[instance_id(2)] = "Terminating:Wait"
    drained = stage.run()
    assert drained.status == 0, drained.output
    assert f"drained {instance_id(2)} (Terminating:Wait)" in drained.text
    assert stage.serves(1, 3)
    waits = stage.run()
    assert waits.status == 0, waits.output
    assert stage.aws.count("CompleteLifecycleAction") == 0
    for upload in uploads:
        upload.sendall(b"0" * 999)
    answers = [upload.recv(65536).decode() for upload in uploads]
    assert all(answer.startswith("HTTP/1.1 200") for answer in answers)
    assert {re.search(r"x-instance: (\S+)", answer.lower()).group(1) for answer in answers} == {address(number) for number in (1, 2, 3)}  # type: ignore[union-attr]
    for upload in uploads:
        upload.close()
    ended = stage.run("-v")
    assert ended.status == 0, ended.output
    assert f"Auto Scaling was told to go on with {instance_id(2)}" in ended.text
    assert f"{instance_id(2)}  {address(2)}  draining  Terminating:Wait" in ended.output
    (told,) = [request.parameters for request in stage.aws.requests if request.operation == "CompleteLifecycleAction"]
    assert told["InstanceId"] == instance_id(2)
    assert (told["AutoScalingGroupName"], told["LifecycleHookName"], told["LifecycleActionResult"]) == ("web", "drained", "CONTINUE")


def test_who_waits_for_another_hook_is_named_and_nobody_else() -> None:
    (task,) = [task for task in yaml.safe_load((ROOT / "roles/haproxy_autoscale/tasks/complete.yml").read_text()) if "nothing to complete" in task["name"]]

    def said(*completed: int) -> tuple[str, str]:
        of_run = {
            "haproxy_autoscale_complete_lifecycle_action": "drained",
            "__haproxy_autoscale_completed": [{"instance_id": instance_id(number)} for number in (1, 2)],
            "__haproxy_autoscale_told": {"completed": [instance_id(number) for number in completed]},
        }
        given = {**of_run, "__haproxy_autoscale_ids": trust_as_template(task["vars"]["__haproxy_autoscale_ids"])}
        given["__haproxy_autoscale_some"] = trust_as_template(task["vars"]["__haproxy_autoscale_some"])
        return words("{{ " + task["when"] + " }}", **given), words(task["ansible.builtin.debug"]["msg"], **given)

    assert said(1, 2)[0] == "False"
    assert said(1) == (
        "True",
        f"No process has {instance_id(2)} any more, and Auto Scaling waits for no hook drained of theirs: it waits for another one, or the name is wrong",
    )


def test_the_lifecycle_action_is_completed_with_what_the_instances_were_found_with() -> None:
    tasks = ROOT / "roles" / "haproxy_autoscale" / "tasks"
    given = yaml.safe_load((tasks / "discover.yml").read_text())[0]["ec2_security_group_instance_facts"]
    told = yaml.safe_load((tasks / "complete.yml").read_text())[0]["ec2_complete_lifecycle_action"]
    own = {"lifecycle_hook_name", "instances"}
    assert set(ARGUMENT_SPEC) - set(told) == {"result"}
    assert {option: value for option, value in told.items() if option not in own} == {option: given[option] for option in told if option not in own}


def test_what_a_process_may_still_have_is_never_taken_for_gone(tmp_path: Path, web: Backends) -> None:
    balancer = Balancer(tmp_path, NEWEST)
    lines = [f"s{number} {address(number)}:{web.port}" for number in (1, 2)]
    definition = Definition("haproxy", str(balancer.config), balancer.binary, str(balancer.pid_file), "", str(balancer.state))

    def held(*servers: str) -> list[str] | None:
        """Of the second server, with these in the candidate."""
        candidate = Candidate(balancer.text(*servers), True, 100, 0, 0, 0, 0, sought=["s2", address(2), "i-2"])
        found: list[str] | None = report(definition, candidate, False, run)["candidate"]["held"]
        return found

    try:
        balancer.start(balancer.text(*lines))
        assert held(lines[0]) == ["s2", address(2)]
        with socket.create_connection(("127.0.0.1", balancer.port)) as pinned:
            pinned.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n0")
            time.sleep(0.3)
            balancer.config.write_text(balancer.text(lines[0]))
            ask(balancer.master_socket, "reload")
            balancer.until(lambda: bool(balancer.old_workers()))
            # The text and the process have it no more, and the old process answers nobody.
            assert held(lines[0]) is None
        balancer.until(lambda: not balancer.old_workers())
        assert held(lines[0]) == []
        assert held(*lines) == ["s2", address(2)]
    finally:
        balancer.stop()
    assert held(lines[0]) == []


@pytest.mark.parametrize(
    ("holds", "ended"),
    [({"one": [], "two": []}, True), ({"one": [], "two": [instance_id(1)]}, False), ({"one": []}, False)],
    ids=["gone from both", "one has it", "one has not said"],
)
def test_of_several_processes_each_has_to_be_rid_of_it(holds: dict[str, list[str]], ended: bool) -> None:
    draining = [{"instance_id": instance_id(1), "lifecycle_state": "Terminating:Wait"}, {"instance_id": instance_id(2), "lifecycle_state": "Standby"}]
    said = words(
        "{{ __haproxy_autoscale_completable | map(attribute='instance_id') | list }}",
        haproxy_autoscale_processes=[{"name": "one"}, {"name": "two"}],
        haproxy_autoscale_complete_lifecycle_action="drained",
        __haproxy_autoscale_discovery={"ansible_facts": {"ec2_security_group_draining_instances": {"webheads": draining}}},
        __haproxy_autoscale_holds=holds,
    )
    assert said == str([instance_id(1)] if ended else [])
