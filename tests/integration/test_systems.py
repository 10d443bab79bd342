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

        # What is there before the role: a configuration by hand, another file, and the service.
        (folder / "haproxy.service").write_text(UNIT.format(folder=folder, binary=binary))
        self.balancer.config.write_text(self.balancer.text(f"old {address(8)}:{web.port}"))
        os.utime(self.balancer.config, (time.time() - 60, time.time() - 60))
        self.more = folder / "conf.d" / "more.cfg"
        self.more.write_text(MORE.format(port=free_port(), server=f"{address(7)}:{web.port}"))

    def start(self, options: str = "") -> None:
        """Start the service."""
        folder = self.balancer.folder
        (folder / "sysconfig").write_text(f'OPTIONS="{options}"\n')
        launch = find_launch("haproxy", (str(folder),))
        assert launch
        self.process = subprocess.Popen(launch.arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        self.balancer.until_it_serves()

    def stop(self) -> None:
        if self.process is not None:
            # The workers are of its session.
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=10)
            self.process = None


@pytest.fixture
def red_hat(tmp_path: Path, web: Backends, aws: Ec2Endpoint) -> Iterator[RedHat]:
    # The oldest is next to Red Hat's.
    made = RedHat(tmp_path, next(iter(binaries().values())), web, aws)
    yield made
    made.stop()


def test_a_haproxy_of_red_hats_unit_is_taken_over_and_followed(red_hat: RedHat) -> None:
    """One balancer, and what happens to it: at first without a master socket."""
    balancer = red_hat.balancer
    red_hat.start()
    assert red_hat.process
    master = red_hat.process.pid
    taken = red_hat.apply(1, 2, haproxy_autoscale_maximum_removed_percent=100)
    assert "by reload: " in taken.text
    assert red_hat.serves(1, 2)
    # The other file is still part of it, and the master is the service's.
    assert set(balancer.servers()) == {instance_id(1), instance_id(2), "m1"}
    assert (red_hat.process.pid, red_hat.process.poll()) == (master, None)

    worker = balancer.worker()
    followed = red_hat.apply(2, 3)
    assert "by runtime, no reload: " in followed.text
    assert red_hat.serves(2, 3)
    assert balancer.worker() == worker

    # A fault of the other file is found before anything is written.
    good = red_hat.more.read_text()
    red_hat.more.write_text(f"{good}    no-such-word\n")
    before = balancer.config.read_bytes()
    red_hat.members(3, 4)
    refused = red_hat.run()
    assert refused.status != 0
    assert "HAProxy does not accept the configuration" in refused.text
    assert "no-such-word" in refused.text
    assert balancer.config.read_bytes() == before
    red_hat.more.write_text(good)

    # The master socket that the unit's options give is found, and used.
    red_hat.stop()
    balancer.master_socket = balancer.folder / "var" / "master"
    red_hat.start(f"-S {balancer.master_socket}")
    assert red_hat.apply(2, 3).recap["changed"] == 0
    reloaded = red_hat.apply(2, 3, haproxy_autoscale_defaults_lines=["timeout queue 5s"])
    assert "the master counts reload 1" in reloaded.text or "Success=1" in reloaded.text
