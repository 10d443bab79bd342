# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What a service's unit says of HAProxy's files and environment, in the units that distributions ship."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_process import parse_command_line
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_service import Launch, find_launch, parse_unit

DEBIAN = """[Unit]
Description=HAProxy Load Balancer

[Service]
EnvironmentFile=-/etc/default/haproxy
EnvironmentFile=-/etc/sysconfig/haproxy
Environment="CONFIG=/etc/haproxy/haproxy.cfg" "PIDFILE=/run/haproxy.pid" "EXTRAOPTS=-S /run/haproxy-master.sock"
ExecStart=/usr/sbin/haproxy -Ws -f $CONFIG -p $PIDFILE $EXTRAOPTS
ExecReload=/usr/sbin/haproxy -Ws -f $CONFIG -c -q $EXTRAOPTS
ExecReload=/bin/kill -USR2 $MAINPID

[Install]
WantedBy=multi-user.target
"""
RED_HAT = """[Service]
EnvironmentFile=-/etc/sysconfig/haproxy
Environment="CONFIG=/etc/haproxy/haproxy.cfg" "PIDFILE=/run/haproxy.pid" "CFGDIR=/etc/haproxy/conf.d"
ExecStartPre=/usr/sbin/haproxy -f $CONFIG -f $CFGDIR -c -q $OPTIONS
ExecStart=/usr/sbin/haproxy -Ws -f $CONFIG -f $CFGDIR -p $PIDFILE $OPTIONS
"""


def launch(*texts: str, **files: str) -> Launch:
    made = parse_unit(texts, lambda path: [files[path.strip("/").replace("/", "_")]] if path.strip("/").replace("/", "_") in files else [])
    assert made is not None
    return made


def test_debians_unit_gives_one_file_and_the_defaults_file_wins_over_the_unit() -> None:
    plain = launch(DEBIAN)
    assert parse_command_line(plain.arguments).config_files == ["/etc/haproxy/haproxy.cfg"]
    assert parse_command_line(plain.arguments).master_socket == "/run/haproxy-master.sock"
    text = "# a comment\nCONFIG=\"/etc/haproxy/main.cfg\"\nEXTRAOPTS='-f /etc/haproxy/conf.d -de'\nSITE=eu west\nexport ZONE=b\n"
    given = launch(DEBIAN, etc_default_haproxy=text)
    assert parse_command_line(given.arguments).config_files == ["/etc/haproxy/main.cfg", "/etc/haproxy/conf.d"]
    assert {name: given.environment[name] for name in ("SITE", "ZONE", "PIDFILE")} == {"SITE": "eu west", "ZONE": "b", "PIDFILE": "/run/haproxy.pid"}


def test_red_hats_unit_gives_the_file_and_the_folder() -> None:
    assert parse_command_line(launch(RED_HAT).arguments).config_files == ["/etc/haproxy/haproxy.cfg", "/etc/haproxy/conf.d"]


@pytest.mark.parametrize(
    ("drop_in", "files", "environment"),
    [
        ("[Service]\nEnvironment=A=1\n", ["/etc/haproxy/haproxy.cfg"], {"A": "1", "PIDFILE": "/run/haproxy.pid"}),
        ("[Service]\nEnvironment=\nEnvironment=CONFIG=/x.cfg\n", ["/x.cfg"], {"CONFIG": "/x.cfg"}),
        ("[Service]\nExecStart=\nExecStart=!/usr/sbin/haproxy -Ws \\\n  -f ${CONFIG}.d\n", ["/etc/haproxy/haproxy.cfg.d"], {}),
        ("[Unit]\nExecStart=/bin/false\n", ["/etc/haproxy/haproxy.cfg"], {}),
    ],
)
def test_a_drop_in_adds_to_the_unit_and_an_empty_setting_begins_anew(drop_in: str, files: list[str], environment: dict[str, str]) -> None:
    made = launch(DEBIAN, drop_in)
    assert parse_command_line(made.arguments).config_files == files
    assert environment.items() <= made.environment.items()


def test_a_unit_is_taken_from_the_first_place_and_its_drop_ins_from_all(tmp_path: Path) -> None:
    own, vendor = tmp_path / "etc", tmp_path / "lib"
    for folder in (own / "balancer.service.d", vendor / "balancer.service.d"):
        folder.mkdir(parents=True)
    (vendor / "balancer.service").write_text("[Service]\nExecStart=haproxy -f $CONFIG\nEnvironment=CONFIG=/vendor.cfg\n")
    (vendor / "balancer.service.d" / "50-a.conf").write_text("[Service]\nEnvironment=A=vendor B=vendor\n")
    (vendor / "balancer.service.d" / "60-b.conf").write_text("[Service]\nEnvironment=C=vendor\n")
    (own / "balancer.service.d" / "50-a.conf").write_text("[Service]\nEnvironment=A=own\n")
    found = find_launch("balancer", (str(own), str(vendor)))
    assert found == Launch(["haproxy", "-f", "/vendor.cfg"], {"CONFIG": "/vendor.cfg", "A": "own", "C": "vendor"})
    (own / "balancer.service").write_text("[Service]\nExecStart=haproxy -f /own.cfg\n")
    found = find_launch("balancer", (str(own), str(vendor)))
    assert found is not None
    assert found.arguments == ["haproxy", "-f", "/own.cfg"]
    assert find_launch("no-such-service", (str(own), str(vendor))) is None
