# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""No secret is shown or left behind: each is a marker, and all that a run prints, writes and starts is searched for it.

What ANSIBLE_KEEP_REMOTE_FILES leaves is not searched. It keeps each module as it was sent, with its arguments: that is what it is for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backends import Backends
from balancer import Run, free_port
from ec2_endpoint import Ec2Endpoint, error, role_key
from haproxy_binaries import binaries
from stage import Stage

NEWEST = list(binaries().items())[-1]
OF_AWS = {"access_key": "AKIAMARKEROPTION", "secret_key": "marker-option-secret", "session_token": "marker-option-token"}
# These belong into the configuration, and nowhere else.
OF_HAPROXY = {"stats_password": "marker-stats-password", "dynamic_key": "marker-dynamic-key"}


class Watched:
    """A stage whose every run is looked at from outside."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage = stage
        self.traces = folder / "traces"
        self.inputs = folder / "inputs"
        for made in (self.traces, self.inputs):
            made.mkdir()
        self.stage.balancer.environment.update(
            {
                "ANSIBLE_HOME": str(self.traces / "home"),
                "ANSIBLE_LOCAL_TEMP": str(self.traces / "local"),
                "ANSIBLE_REMOTE_TEMP": str(self.traces / "remote"),
                "ANSIBLE_LOG_PATH": str(self.traces / "ansible.log"),
                "ANSIBLE_CACHE_PLUGIN": "jsonfile",
                "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(self.traces / "cache"),
                "ANSIBLE_RETRY_FILES_ENABLED": "true",
                "ANSIBLE_RETRY_FILES_SAVE_PATH": str(self.traces),
                "TMPDIR": str(self.traces),
            }
        )
        self.arguments: set[str] = set()

    def run(self, *arguments: str, **more: Any) -> Run:
        """A run with everything that makes Ansible talk."""
        with self._arguments_of_all_processes():
            done = self.stage.run("-vvv", "--diff", *arguments, **more)
        # What the test gave is no trace.
        (self.stage.balancer.folder / "variables.json").unlink()
        return done

    @contextlib.contextmanager
    def _arguments_of_all_processes(self) -> Iterator[None]:
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.01):
                for process in Path("/proc").iterdir():
                    if process.name.isdigit():
                        with contextlib.suppress(OSError):
                            self.arguments.add((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def found(self, done: Run, *markers: str) -> dict[str, list[str]]:
        """Marker → where it was found, but for the configuration and its copies."""
        balancer = self.stage.balancer
        files = [path for root in (balancer.folder, self.traces) for path in root.rglob("*") if path.is_file()]
        texts = {str(path): path.read_text(errors="replace") for path in files}
        # Each of these was there to be searched.
        assert any("/cache/" in name for name in texts) and any("/state/" in name for name in texts)
        assert "TASK [haproxy_autoscale : " in texts[str(self.traces / "ansible.log")]
        assert any("haproxy" in words and str(balancer.folder) in words for words in self.arguments)
        places = {**texts, "output": done.output, "arguments": "\n".join(self.arguments)}
        return {marker: where for marker in markers if (where := sorted(name for name, text in places.items() if marker in text))}


@pytest.fixture
def watched(tmp_path: Path, web: Backends, aws: Ec2Endpoint) -> Iterator[Watched]:
    (tmp_path / "balancer").mkdir()
    made = Stage(tmp_path / "balancer", NEWEST[1], web, aws)
    yield Watched(made, tmp_path)
    made.balancer.stop()


def test_what_the_variables_hold_is_in_the_configuration_only(watched: Watched) -> None:
    stage = watched.stage
    balancer = stage.balancer
    cookie = {"name": "ROUTE", "dynamic_key": OF_HAPROXY["dynamic_key"]}
    services = [{**stage.variables["haproxy_autoscale_services"][0], "cookie": cookie}]
    variables = {
        **{f"haproxy_autoscale_{name}": marker for name, marker in OF_AWS.items()},
        "haproxy_autoscale_stats_password": OF_HAPROXY["stats_password"],
        "haproxy_autoscale_stats_bind": f"127.0.0.1:{free_port()}",
        "haproxy_autoscale_services": services,
    }

    def hidden(done: Run) -> None:
        assert watched.found(done, *OF_AWS.values()) == {}
        in_its_place = [str(path) for path in (balancer.config, balancer.state / "haproxy.last-good.cfg")]
        assert watched.found(done, *OF_HAPROXY.values()) == dict.fromkeys(OF_HAPROXY.values(), sorted(in_its_place))
        for path in in_its_place:
            assert Path(path).stat().st_mode & 0o007 == 0

    stage.members(1, 2)
    first = watched.run(**variables)
    assert first.status == 0, first.output
    hidden(first)
    # Or nothing was kept from anybody.
    assert {(request.access_key, request.session_token) for request in stage.aws.requests} == {(OF_AWS["access_key"], OF_AWS["session_token"])}

    stage.members(1, 2, 3)
    checked = watched.run("--check", **variables)
    assert checked.status == 0, checked.output
    hidden(checked)
    refused = watched.run(**variables, haproxy_autoscale_global_lines=["no-such-keyword"])
    assert "no-such-keyword" in refused.text and refused.status != 0
    hidden(refused)
    # With a dynamic cookie alone, too.
    alone = {name: value for name, value in variables.items() if "stats" not in name}
    changed = watched.run(**alone)
    assert changed.status == 0, changed.output
    assert OF_HAPROXY["dynamic_key"] not in changed.output
    stage.aws.fault("DescribeInstances", error(403, "UnauthorizedOperation"))
    failed = watched.run(**variables)
    assert "UnauthorizedOperation" in failed.text and failed.status != 0
    assert watched.found(failed, *OF_AWS.values(), OF_HAPROXY["stats_password"]) == {}


def test_what_the_environment_a_profile_or_the_instance_has_is_nowhere(watched: Watched) -> None:
    stage = watched.stage
    aws, environment = stage.aws, stage.balancer.environment
    stage.members(1, 2)
    no_keys = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": ""}
    credentials = watched.inputs / "credentials"
    credentials.write_text(
        "[shop]\naws_access_key_id = AKIAMARKERPROFILE\naws_secret_access_key = marker-profile-secret\naws_session_token = marker-profile-token\n"
    )
    aws.metadata_region = "eu-west-1"
    aws.metadata_credentials = {
        "Code": "Success",
        "AccessKeyId": "ASIAMARKERINSTANCE",
        "SecretAccessKey": "marker-instance-secret",
        "Token": "marker-instance-token",
        "Expiration": "2126-01-31T06:00:00Z",
    }
    keys = {"AWS_ACCESS_KEY_ID": "AKIAMARKERENVIRONMENT", "AWS_SECRET_ACCESS_KEY": "marker-environment-secret", "AWS_SESSION_TOKEN": "marker-environment-token"}
    ways: list[tuple[str, dict[str, str], dict[str, Any]]] = [
        ("environment", keys, {}),
        ("profile", {**no_keys, "AWS_SHARED_CREDENTIALS_FILE": str(credentials)}, {"haproxy_autoscale_profile": "shop"}),
        ("instance", {**no_keys, "AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": aws.url, "AWS_DEFAULT_REGION": ""}, {}),
    ]
    for name, set_here, variables in ways:
        environment.update({**aws.environment, **set_here})
        aws.requests.clear()
        done = watched.run(**variables)
        assert done.status == 0, done.output
        assert {request.session_token for request in aws.requests} == {f"marker-{name}-token"}
        markers = [f"MARKER{name.upper()}", f"marker-{name}-secret", f"marker-{name}-token"]
        assert watched.found(done, *markers) == {}


def test_external_ids_and_the_credentials_of_roles_are_nowhere(watched: Watched) -> None:
    stage = watched.stage
    roles = ["arn:aws:iam::111122223333:role/hub", "arn:aws:iam::444455556666:role/discovery"]
    variables = {
        "haproxy_autoscale_external_id": "marker-external-id",
        "haproxy_autoscale_sources": [{"assume_role_arn": roles}, {"assume_role_arn": roles[:1], "external_id": "marker-of-an-entry"}],
    }
    stage.members(1, 2)
    markers = ["marker-external-id", "marker-of-an-entry"]
    for role in roles:
        markers += [role_key(role), f"secret-of-{role_key(role)}", f"token-of-{role_key(role)}"]
    for status in (0, 2):
        done = watched.run(**variables)
        assert done.status == status, done.output
        assert watched.found(done, *markers) == {}
        assert {request.parameters.get("ExternalId") for request in stage.aws.requests} == {None, *markers[:2]}
        assert {role_key(role) for role in roles} < {request.access_key for request in stage.aws.requests}
        stage.aws.fault("DescribeInstances", error(403, "UnauthorizedOperation"))


def test_a_password_in_the_endpoints_url_is_refused_and_not_shown(watched: Watched) -> None:
    stage = watched.stage
    stage.apply(1, 2)
    # As an option and from the environment, which is an option to the module.
    stage.balancer.environment["AWS_ENDPOINT_URL"] = url = "http://somebody:marker-url-password@127.0.0.1:1"
    for variables in ({"haproxy_autoscale_endpoint_url": url}, {}):
        done = watched.run(**variables)
        assert done.status != 0
        assert ("endpoint_url" if variables else "AWS_ENDPOINT_URL") + ": it has an @" in done.text
        assert watched.found(done, "marker-url-password") == {}
