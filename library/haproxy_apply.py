#!/usr/bin/python
# Copyright (c) The haproxy-autoscale contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: bring the running HAProxy to its configuration file, and prove it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: haproxy_apply
short_description: Bring the running HAProxy to its configuration file without dropping a request
version_added: 0.1.0
description:
  - Starts HAProxy, brings its servers to the file at runtime, or reloads it gracefully when it does not run the file on
    disk, and proves from HAProxy's own answers that it does afterwards. Does nothing when the process is at its file.
  - When the reload fails, the last good file is put back, the running process serves on, and the module fails with
    HAProxy's own words.
  - Runs of this module for one process never interleave; they wait for one another under a lock in O(state_dir).
author:
  - The haproxy-autoscale contributors (@haproxy-autoscale)
options:
  name:
    description: The name of the process, under which its state is kept.
    type: str
    default: haproxy
  config_path:
    description: The configuration file that the process runs.
    type: path
    default: /etc/haproxy/haproxy.cfg
  checksum:
    description:
      - The SHA-256 of the file that this run rendered. Another file on disk means that another run wrote it, and
        nothing is done.
      - Empty means whatever is on disk.
    type: str
    default: ''
  backup_file:
    description: A copy of the file that the new one replaced; put back after a failure when there is no last good file.
    type: path
    default: ''
  in_force_checksum:
    description:
      - The SHA-256 of the file that was in force before this run wrote (see M(autoscale.haproxy.haproxy_facts)).
      - Needed only for a process that another hand has started since the last apply; without it the first change there is a reload,
        because equal servers prove nothing of the other lines.
    type: str
    default: ''
  binary:
    description: The HAProxy program, a path or a name that is looked for in E(PATH) and the sbin folders.
    type: str
    default: haproxy
  pid_file:
    description: The pid file. It decides between several processes with the same configuration file.
    type: path
    default: /run/haproxy.pid
  stats_socket:
    description:
      - The statistics socket to ask when there is no master socket.
      - Empty means those that the configuration names with C(level admin).
    type: path
    default: ''
  master_socket:
    description:
      - Where a HAProxy that is started here gets its master socket. A running one's is read from its command line.
      - Empty starts it without one, except with O(reload_method=master_socket), where that is an error.
    type: path
    default: /run/haproxy-master.sock
  service_name:
    description:
      - The service of the process in systemd or the init scripts; empty when there is none.
      - While HAProxy does not run, its unit says which files it reads and with which environment.
    type: str
    default: haproxy
  config_files:
    description:
      - The files and folders that a HAProxy which is started here is given with C(-f), in their order, O(config_path) or its folder among them.
      - Empty means what the unit of O(service_name) says, else O(config_path) alone. A running process's own are read from its command line.
    type: list
    elements: path
    default: []
  apply_strategy:
    description:
      - V(auto) changes the running process by HAProxy's runtime API where that comes to exactly what a reload would, and reloads it
        gracefully where it does not.
      - V(reload) always reloads.
      - V(runtime_only) never reloads. A change that takes a reload fails with the reason, and nothing is touched.
      - A HAProxy that does not run is started with each of them.
    type: str
    choices: [auto, reload, runtime_only]
    default: auto
  force:
    description:
      - Reloads HAProxy also when it is at its file, for what it reads besides, a renewed certificate or a map, which the file does not show.
      - So the module reports a change each time. It belongs into a handler.
    type: bool
    default: false
  reload_method:
    description:
      - V(master_socket) asks the master, and has the strongest proof.
      - V(service) asks the service manager.
      - V(pid) signals the master (SIGUSR2), or starts a second process that takes over (C(-sf) with C(-x)).
      - V(auto) takes the master socket where there is one, then systemd, then V(pid). It starts a stopped HAProxy by
        its service where there is one, else in master-worker mode.
    type: str
    choices: [auto, master_socket, service, pid]
    default: auto
  reload_timeout:
    description:
      - How many seconds a start or reload may take until it is proven, and how long to wait for another run's lock.
    type: int
    default: 30
  drain_timeout:
    description:
      - How many seconds a server that goes may take to finish its running requests before it gets no more of any client.
      - Requests that run on are not cut, unless the server has C(on-marked-down shutdown-sessions). After a reload the old process finishes them.
    type: int
    default: 10
  check_timeout:
    description: How many seconds to wait for the first passed check of new servers where a backend has no other usable one.
    type: int
    default: 10
  start:
    description: Whether to start a HAProxy that does not run.
    type: bool
    default: true
  state_dir:
    description: The folder with the last good file and the record of what is in force. It is made when missing (0750).
    type: path
    default: /var/lib/haproxy-autoscale
attributes:
  check_mode:
    description: Says what would be done and touches nothing.
    support: full
  diff_mode:
    description: Changes a process, not a text.
    support: none
  platform:
    description: Reads C(/proc).
    platforms: linux
    support: full
seealso:
  - module: autoscale.haproxy.haproxy_facts
"""

EXAMPLES = r"""
- name: Bring HAProxy to its file
  autoscale.haproxy.haproxy_apply:

- name: Bring a second HAProxy to its file, the old script's way
  autoscale.haproxy.haproxy_apply:
    name: internal
    config_path: /etc/haproxy/internal.cfg
    pid_file: /run/haproxy-internal.pid
    service_name: ''
    reload_method: pid

- name: Let HAProxy read a renewed certificate (a handler)
  autoscale.haproxy.haproxy_apply:
    force: true
"""

RETURN = r"""
applied_by:
  description:
    - What was done (in check mode, would be), one of V(none), V(start), V(runtime) and V(reload).
    - In check mode, where the file of this run is not on disk, V(reload) stands for V(runtime), too. M(autoscale.haproxy.haproxy_facts)
      says for the text which of the two it would be.
  returned: success
  type: str
reason:
  description: Why.
  returned: success
  type: str
  sample: the file is newer than the process
proof:
  description: How it was proven, in words; empty when nothing was done.
  returned: success
  type: str
  sample: Success=1, worker 4274 answers
waiting:
  description: The backends in which no newcomer passes its check, so that nothing was done.
  returned: when the change waits for them
  type: list
  elements: str
added:
  description: The names of the servers that came, by backend.
  returned: when something was done, and in check mode when the file on disk is the one to apply
  type: dict
removed:
  description: The names of the servers that went, by backend.
  returned: when something was done, and in check mode when the file on disk is the one to apply
  type: dict
changed_servers:
  description: The names of the servers that got another address or port, by backend.
  returned: when something was done, and in check mode when the file on disk is the one to apply
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.haproxy_autoscale.haproxy_change import Wish, apply
from ..module_utils.haproxy_autoscale.haproxy_inspect import Definition
from ..module_utils.haproxy_autoscale.haproxy_process import find_binary, leave_aws_out
from ..module_utils.haproxy_autoscale.haproxy_reload import ApplyError, Plan, find_service_command, runner
from ..module_utils.haproxy_autoscale.haproxy_state import StateError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "default": "haproxy"},
            "config_path": {"type": "path", "default": "/etc/haproxy/haproxy.cfg"},
            "checksum": {"type": "str", "default": ""},
            "backup_file": {"type": "path", "default": ""},
            "in_force_checksum": {"type": "str", "default": ""},
            "binary": {"type": "str", "default": "haproxy"},
            "pid_file": {"type": "path", "default": "/run/haproxy.pid"},
            "stats_socket": {"type": "path", "default": ""},
            "master_socket": {"type": "path", "default": "/run/haproxy-master.sock"},
            "service_name": {"type": "str", "default": "haproxy"},
            "config_files": {"type": "list", "elements": "path", "default": []},
            "apply_strategy": {"type": "str", "choices": ["auto", "reload", "runtime_only"], "default": "auto"},
            "force": {"type": "bool", "default": False},
            "reload_method": {
                "type": "str",
                "choices": ["auto", "master_socket", "service", "pid"],
                "default": "auto",
            },
            "reload_timeout": {"type": "int", "default": 30},
            "drain_timeout": {"type": "int", "default": 10},
            "check_timeout": {"type": "int", "default": 10},
            "start": {"type": "bool", "default": True},
            "state_dir": {"type": "path", "default": "/var/lib/haproxy-autoscale"},
        },
        supports_check_mode=True,
    )
    params = module.params

    leave_aws_out()
    run = runner(module.run_command)
    for option, least in (("reload_timeout", 1), ("drain_timeout", 0), ("check_timeout", 0)):
        if params[option] < least:
            module.fail_json(msg=f"{option} must be at least {least} seconds, and is {params[option]}")
    binary = find_binary(params["binary"]) or ""
    if not binary:
        module.fail_json(msg=f"binary: no HAProxy program at {params['binary']}")
    service_command = [] if params["reload_method"] in ("master_socket", "pid") else find_service_command(params["service_name"], run)
    plan = Plan(
        params["reload_method"],
        binary,
        params["master_socket"],
        params["service_name"],
        service_command,
        params["reload_timeout"],
    )
    definition = Definition(*(params[field] for field in Definition._fields))
    wish = Wish(
        params["checksum"],
        params["start"],
        params["backup_file"],
        params["drain_timeout"],
        params["check_timeout"],
        params["apply_strategy"],
        params["in_force_checksum"],
        params["force"],
    )
    try:
        result = apply(definition, plan, wish, module.check_mode, run)
    except (ApplyError, StateError) as error:
        module.fail_json(msg=f"{params['name']}: {error}")
    for warning in result.pop("warnings", []):
        module.warn(f"{params['name']}: {warning}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
