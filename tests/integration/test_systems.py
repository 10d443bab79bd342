# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A HAProxy that was set up otherwise than Debian's: started as Red Hat's unit starts it, and sockets that belong to somebody else."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_service import find_launch
from backends import Backends
from balancer import free_port
from ec2_endpoint import Ec2Endpoint
from haproxy_binaries import binaries
from stage import Stage, address, instance_id

# The unit of RHEL 9's haproxy 2.4, as far as it says how HAProxy is started; the folders are the test's.
UNIT = """[Service]
EnvironmentFile=-{folder}/sysconfig
Environment="CONFIG={folder}/haproxy.cfg" "PIDFILE={folder}/haproxy.pid" "CFGDIR={folder}/conf.d"
ExecStartPre={binary} -f $CONFIG -f $CFGDIR -c -q $OPTIONS
ExecStart={binary} -Ws -f $CONFIG -f $CFGDIR -p $PIDFILE $OPTIONS
ExecReload=/bin/kill -USR2 $MAINPID
KillMode=mixed
Type=notify
"""
MORE = "frontend more\n    bind 127.0.0.1:{port}\n    default_backend more\nbackend more\n    server m1 {server}\n"


class RedHat(Stage):
    """A balancer whose process has the command line of Red Hat's unit."""

    def __init__(self, folder: Path, binary: str, web: Backends, aws: Ec2Endpoint) -> None:
        super().__init__(folder, binary, web, aws)
        (folder / "conf.d").mkdir()
        (folder / "var").mkdir()
        self.balancer.stats_socket = folder / "var" / "stats"
        self.variables["haproxy_autoscale_stats_socket"] = str(self.balancer.stats_socket)
        # What the role would give one that it starts itself.
        self.variables["haproxy_autoscale_master_socket"] = ""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, options: str = "") -> None:
        """What is there before the role: a configuration by hand, and the service."""
        folder = self.balancer.folder
        (folder / "sysconfig").write_text(f'OPTIONS="{options}"\n')
        (folder / "haproxy.service").write_text(UNIT.format(folder=folder, binary=self.balancer.binary))
        self.balancer.config.write_text(self.balancer.text(f"old {address(8)}:{self.web.port}"))
        os.utime(self.balancer.config, (time.time() - 60, time.time() - 60))
        launch = find_launch("haproxy", (str(folder),))
        assert launch
        self.process = subprocess.Popen(launch.arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        self.balancer.until_it_serves()

    def stop(self) -> None:
        if self.process is not None:
            # The workers are of its session.
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=10)


@pytest.fixture(params=list(binaries().items()), ids=lambda item: item[0])
def red_hat(request: pytest.FixtureRequest, tmp_path: Path, web: Backends, aws: Ec2Endpoint) -> Iterator[RedHat]:
    made = RedHat(tmp_path, request.param[1], web, aws)
    yield made
    made.stop()


def test_a_haproxy_of_red_hats_unit_is_taken_over_and_followed_without_a_master_socket(red_hat: RedHat) -> None:
    port = free_port()
    (red_hat.balancer.folder / "conf.d" / "more.cfg").write_text(MORE.format(port=port, server=f"{address(7)}:{red_hat.web.port}"))
    red_hat.start()
    assert red_hat.process
    master = red_hat.process.pid
    taken = red_hat.apply(1, 2, haproxy_autoscale_maximum_removed_percent=100, haproxy_autoscale_minimum_instances=1)
    assert "by reload: " in taken.text
    assert red_hat.serves(1, 2)
    # The other file is still part of it, and the master is the service's.
    assert set(red_hat.balancer.servers()) == {instance_id(1), instance_id(2), "m1"}
    assert red_hat.process.poll() is None
    worker = red_hat.balancer.worker()
    followed = red_hat.apply(2, 3)
    assert "by runtime: " in followed.text
    assert red_hat.serves(2, 3)
    assert red_hat.balancer.worker() == worker
    assert red_hat.apply(2, 3).recap["changed"] == 0
    reloaded = red_hat.apply(2, 3, haproxy_autoscale_defaults_lines=["timeout queue 5s"])
    assert "by reload: " in reloaded.text
    assert red_hat.balancer.worker() != worker
    assert (red_hat.process.pid, red_hat.process.poll()) == (master, None)


def test_a_port_of_the_other_files_is_refused_before_anything_is_written(red_hat: RedHat) -> None:
    red_hat.start()
    more = red_hat.balancer.folder / "conf.d" / "more.cfg"
    more.write_text("frontend twice\n    bind 127.0.0.1:1\n    no-such-word\n")
    same = red_hat.balancer.config.read_bytes()
    red_hat.members(1, 2)
    done = red_hat.run(haproxy_autoscale_maximum_removed_percent=100)
    assert done.status != 0
    assert "HAProxy does not accept the configuration" in done.text
    assert "no-such-word" in done.text
    assert red_hat.balancer.config.read_bytes() == same


def test_the_master_socket_that_the_units_options_give_is_found(red_hat: RedHat) -> None:
    socket = red_hat.balancer.folder / "var" / "master"
    red_hat.start(f"-S {socket}")
    done = red_hat.apply(1, 2, haproxy_autoscale_maximum_removed_percent=100)
    assert "by reload: " in done.text
    assert red_hat.serves(1, 2)
    red_hat.balancer.master_socket = socket
    assert red_hat.balancer.reloads() == 1
