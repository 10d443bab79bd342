# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""HAProxy's answers, as 2.6, 3.0 and 3.2 give them; anything else is an error and never a guess."""

from __future__ import annotations

import pytest
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_config import Server
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_process import (
    parse_command_line,
    parse_version,
)
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_socket import (
    ServerState,
    SocketError,
    Worker,
    parse_servers_state,
    parse_show_info,
    parse_show_proc,
)

HEAD = "#<PID>          <type>          <reloads>       <uptime>        <version>      \n"


def test_show_proc_of_2_6() -> None:
    found = parse_show_proc(
        HEAD + "4183            master          2 [failed: 1]   0d00h00m03s     2.6.12-1+deb12u4\n"
        "# workers\n4274            worker          1               0d00h00m02s     2.6.12-1+deb12u4\n# programs\n\n"
    )
    assert (found.master_pid, found.reloads, found.failed_reloads) == (4183, 2, 1)
    assert found.serving == Worker(4274, "2.6.12-1+deb12u4")
    assert found.old == []


def test_show_proc_of_2_4_has_a_column_more() -> None:
    found = parse_show_proc(
        "#<PID>          <type>          <relative PID>  <reloads>       <uptime>        <version>      \n"
        "15939           master          0               2               0d00h00m06s     2.4.0-6cbbecf09\n"
        "# workers\n16289           worker          1               0               0d00h00m03s     2.4.0-6cbbecf09\n"
        "# old workers\n15945           worker          [was: 1]        1               0d00h00m06s     2.4.0-6cbbecf09\n# programs\n\n\n"
    )
    assert (found.master_pid, found.reloads, found.failed_reloads) == (15939, 2, 0)
    assert found.current == [Worker(16289, "2.4.0-6cbbecf09")]
    assert found.old == [Worker(15945, "2.4.0-6cbbecf09")]


def test_show_proc_with_an_old_worker() -> None:
    found = parse_show_proc(
        HEAD + "5432            master          2 [failed: 0]   0d00h00m03s     3.0.11-1+deb13u3\n"
        "# workers\n5608            worker          0               0d00h00m00s     3.0.11-1+deb13u3\n"
        "# old workers\n5434            worker          2               0d00h00m03s     3.0.11-1+deb13u3\n# programs\n\n"
    )
    assert found.serving is not None
    assert found.serving.pid == 5608
    assert [worker.pid for worker in found.old] == [5434]


def test_the_serving_worker_of_3_2_after_a_failed_reload_is_the_youngest_old_one() -> None:
    found = parse_show_proc(
        HEAD + "5836            master          3 [failed: 1]   0d00h00m04s     3.2.26-1       \n"
        "# workers\n# old workers\n"
        "6010            worker          1               0d00h00m01s     3.2.26-1       \n"
        "5837            worker          3               0d00h00m04s     3.2.26-1       \n\n"
    )
    assert found.serving is not None
    assert found.serving.pid == 6010


def test_a_program_of_the_master_is_no_worker() -> None:
    found = parse_show_proc(
        HEAD + "10              master          0 [failed: 0]   0d00h00m03s     2.6.12\n"
        "# workers\n# old workers\n# programs\n11              agent           0               0d00h00m03s     -\n\n"
    )
    assert found.serving is None


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Permission denied\n",
        HEAD + "# workers\n\n",
        HEAD + "4183            master          2 [failed: 1]   0d00h00m03s     2.6.12-1+deb12u4\n# workers\n",
    ],
)
def test_another_answer_to_show_proc_is_an_error(answer: str) -> None:
    with pytest.raises(SocketError, match="show proc"):
        parse_show_proc(answer)


def test_show_info() -> None:
    found = parse_show_info("Name: HAProxy\nVersion: 2.6.12-1+deb12u4\nPid: 4274\ndescription: a: b\n\n")
    assert (found["Pid"], found["Version"], found["description"]) == ("4274", "2.6.12-1+deb12u4", "a: b")


@pytest.mark.parametrize("answer", ["", "Unknown command: 'show info'\n", "Name: HAProxy\n\n", "Pid: x\nVersion: 1\n\n", "Version: 1\nPid: 42"])
def test_another_answer_to_show_info_is_an_error(answer: str) -> None:
    with pytest.raises(SocketError, match="show info"):
        parse_show_info(answer)


COLUMNS = (
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state "
    "bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr "
    "srv_agent_addr srv_agent_port\n"
)


def test_servers_of_a_process() -> None:
    found = parse_servers_state(
        "1\n" + COLUMNS + "3 l 7 x ::1 2 0 1 1 1 1 0 2 0 0 0 0 - 90 - 1 0 - - 0\n"
        "4 b 2147483647 i-1 127.0.0.1 0 0 1 1 1 8 2 0 6 0 0 0 localhost 9 - -1 0 - - 0\n"
        "5 <HTTPCLIENT> 1 <HTTPCLIENT> - 2 0 1 1 1 1 0 2 0 0 0 0 - 0 - 0 0 - - 0\n\n"
    )
    assert found == {
        "l": [ServerState(Server("x", "::1", 90), 2, 0, 1, 1, 7, True)],
        "b": [ServerState(Server("i-1", "127.0.0.1", 9, (), "localhost", True), 0, 0, 1, 1, 2147483647)],
    }


def test_a_process_without_servers() -> None:
    assert parse_servers_state("1\n" + COLUMNS + "\n") == {}


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Permission denied\n",
        "2\n" + COLUMNS + "\n",
        "1\n# be_id be_name\n\n",
        "1\n" + COLUMNS + "3 l 1 x ::1 2 0 1\n\n",
        "1\n" + COLUMNS + "3 l 1 x ::1 2 0 1 1 1 1 0 2 0 0 0 0 - 90 - 0 0 - - 0\n",
        "1\n" + COLUMNS + "3 l 1 x ::1 2 0 1 1 1 1 0 2 0 0 0 0 - port - 0 0 - - 0\n\n",
    ],
)
def test_an_answer_cut_short_is_an_error_and_never_fewer_servers(answer: str) -> None:
    with pytest.raises(SocketError, match="show servers state"):
        parse_servers_state(answer)


def test_the_command_line_of_a_master_after_a_reload() -> None:
    words = ["haproxy", "-sf", "4184", "5", "-x", "sockpair@3", "-Ws", "-f", "/etc/a.cfg", "-f", "conf.d", "-p", "/run/a.pid", "-S", "/run/m.sock,mode,600"]
    found = parse_command_line(words, "/etc")
    assert found.config_files == ["/etc/a.cfg", "/etc/conf.d"]
    assert (found.pid_file, found.master_socket, found.has_master) == ("/run/a.pid", "/run/m.sock", True)
    assert not found.is_check


def test_the_command_line_of_the_old_script_and_of_a_check() -> None:
    found = parse_command_line(["/usr/sbin/haproxy", "-D", "-C", "/srv", "-f", "a.cfg", "-p", "/run/a.pid", "-sf", "12"])
    assert (found.config_files, found.master_socket, found.has_master) == (["/srv/a.cfg"], "", False)
    assert (found.folder, parse_command_line(["haproxy", "-f", "/a.cfg"]).folder) == ("/srv", "")
    assert parse_command_line(["haproxy", "-c", "-f", "/dev/stdin"]).is_check
    assert parse_command_line(["haproxy", "--", "/a.cfg", "/b.cfg"]).config_files == ["/a.cfg", "/b.cfg"]


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\n", "2.6.12"),
        ("HAProxy version 3.2.26-1 2026/10/14 - https://haproxy.org/\n", "3.2.26"),
        ("HAProxy version 3.3-dev4 2026/01/01\n", "3.3-dev4"),
        ("HA-Proxy version 1.8.30 2021/04/12\n", "1.8.30"),
        ("something else\n", ""),
    ],
)
def test_the_version_of_the_program(output: str, version: str) -> None:
    assert parse_version(output) == version
