# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What cannot be listened on is known before the file is written; each case held against what a real HAProxy does."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_binds import impossible
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_config import Bind, parse
from balancer import Balancer, free_port


@pytest.fixture
def held() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


def test_what_we_say_of_a_bind_is_what_haproxy_does_with_it(balancer: Balancer, held: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    free = free_port()
    binds = {
        f"127.0.0.1:{free}": True,
        f"ipv4@127.0.0.1:{free}": True,
        f"127.0.0.1:{free},127.0.0.2:{free}": True,
        f"127.0.0.1:{held}": False,
        f"*:{held}": False,
        f":{held}": False,
        f"127.0.0.1:{free},127.0.0.1:{held}": False,
        f"192.0.2.1:{free}": False,
        f"{tmp_path}/new.sock": True,
        f"unix@{tmp_path}/new.sock mode 600": True,
        f"{tmp_path}/none/new.sock": False,
    }
    for bind, possible in binds.items():
        balancer.config.write_text(balancer.text(bind=bind))
        assert (not impossible(parse(balancer.config.read_text()).binds, None)) is possible, bind
        done = subprocess.run([balancer.binary, "-D", "-f", balancer.config, "-p", balancer.pid_file], capture_output=True, text=True, timeout=20, check=False)
        assert (done.returncode == 0) is possible, bind + done.stderr
        balancer.stop()


def test_what_haproxy_does_not_listen_on_is_no_reason_to_refuse(balancer: Balancer, held: int, tmp_path: Path) -> None:
    (tmp_path / "jail" / "run").mkdir(parents=True)
    prefix = f"global\n    unix-bind prefix {tmp_path}/jail\n    stats socket {tmp_path}/two.sock\n"
    more = {
        f"frontend other\n    bind 127.0.0.1:{held}\n": False,
        f".if defined(NOBODY_SETS_THIS)\nfrontend other\n    bind 127.0.0.1:{held}\n.endif\n": True,
        f".if !defined(NOBODY_SETS_THIS)\n.else\nfrontend other\n    bind 127.0.0.1:{held}\n.endif\n": True,
        f"frontend other\n    bind 127.0.0.1:{held}\n    disabled\n": True,
        f"defaults\n    mode http\n    disabled\nfrontend other\n    bind 127.0.0.1:{held}\n": True,
        "frontend other\n    bind /run/no-such-folder/web.sock\n": False,
        prefix + "frontend other\n    bind /run/web.sock\n    bind unix@/run/two.sock\n": True,
    }
    for text, possible in more.items():
        balancer.config.write_text(balancer.text() + text)
        done = subprocess.run([balancer.binary, "-D", "-f", balancer.config, "-p", balancer.pid_file], capture_output=True, text=True, timeout=20, check=False)
        assert (done.returncode == 0) is possible, text + done.stderr
        assert (not impossible(parse(balancer.config.read_text()).binds, None)) is possible, text
        balancer.stop()


def test_haproxys_own_listeners_are_not_in_its_way_and_get_all_connections(balancer: Balancer) -> None:
    balancer.start(balancer.text())
    for bind in (f"127.0.0.1:{balancer.port}", f"*:{balancer.port}", f":{balancer.port}-{balancer.port}"):
        assert impossible([Bind(bind, ())], None) == []
    balancer.stop()
    time.sleep(0.1)
    # And nothing of the trial is left.
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", balancer.port))


@pytest.mark.parametrize(
    "bind",
    [
        Bind("fd@3", ()),
        Bind("abns@name", ()),
        Bind("${HOST}:80", ()),
        Bind("192.0.2.1:80", ("transparent",)),
        Bind("192.0.2.1:80", ("interface", "eth9")),
        Bind("no-such-name.invalid:80", ()),
        Bind("nonsense", ()),
    ],
    ids=lambda bind: bind.address,
)
def test_what_cannot_be_tried_from_here_is_not_refused(bind: Bind) -> None:
    assert impossible([bind], None) == []


def test_a_file_in_the_place_of_a_socket_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "no socket" in impossible([Bind(f"{tmp_path}/file", ())], None)[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may bind any port")
def test_a_port_that_needs_privileges_is_refused_unless_haproxy_has_them() -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 7:
        pytest.skip("this host gives every port to everybody")
    assert impossible([Bind("127.0.0.1:7", ())], os.geteuid())
    assert impossible([Bind("127.0.0.1:7", ())], 0) == []
