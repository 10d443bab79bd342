#!/usr/bin/python
# Copyright (c) The haproxy-autoscale contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what HAProxy is now, and what a candidate configuration would change."""

from __future__ import annotations

DOCUMENTATION = r"""
module: haproxy_facts
short_description: Report what HAProxy runs and what a candidate configuration would change
version_added: 0.1.0
description:
  - Reports the HAProxy process that runs a configuration file, whether it is at that file, and, for a candidate text,
    whether HAProxy accepts it, which servers would come and go, and whether that is more than may be removed at once.
  - Changes nothing, so it works the same in check mode. The candidate is checked from standard input and never written.
  - A process is found in C(/proc) by the configuration file on its command line, and asked over its master socket
    (C(-S)), or over a statistics socket with C(level admin).
author:
  - The haproxy-autoscale contributors (@haproxy-autoscale)
options:
  candidates:
    description:
      - The processes to report on, one entry each.
      - Without it, one process with every default.
    type: list
    elements: dict
    default: [{}]
    suboptions:
      name:
        description: The name of the process, under which the facts stand and the state is kept.
        type: str
        default: haproxy
      config_path:
        description: The configuration file that the process runs. It need not exist.
        type: path
        default: /etc/haproxy/haproxy.cfg
      text:
        description:
          - The candidate, the whole text that the file would have. Without it, only what is there is reported.
          - It may hold passwords, so Ansible never prints it.
        type: str
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
      service_name:
        description:
          - The service of the process in systemd or the init scripts; empty when there is none.
          - While HAProxy does not run, its unit says which files it reads and with which environment.
        type: str
        default: haproxy
      config_files:
        description:
          - The files and folders that HAProxy is given with C(-f), in their order, O(candidates[].config_path) or its folder among them. The candidate is
            judged in its place among them.
          - Empty means what the unit of O(candidates[].service_name) says, else O(candidates[].config_path) alone. A running process's own are read from
            its command line.
        type: list
        elements: path
        default: []
      state_dir:
        description: The folder with the last good file and the record of what is in force. It need not exist.
        type: path
        default: /var/lib/haproxy-autoscale
      start:
        description: Whether a HAProxy that does not run would be started; only the plan depends on it.
        type: bool
        default: true
      maximum_removed_percent:
        description:
          - How many percent of a backend's servers may go at once.
          - Removing a single one is always allowed, unless it leaves the backend empty. V(100) allows everything.
        type: int
        default: 50
      retry_failed:
        description: After how many seconds a text whose reload failed may be tried again.
        type: int
        default: 900
      reload_interval:
        description: How many seconds must lie between two reloads. V(0) means that none need to.
        type: int
        default: 0
      maximum_old_workers:
        description:
          - How many processes may still finish their connections when a reload is to add one more.
          - V(0) means any number.
        type: int
        default: 0
      confirm_runs:
        description:
          - How many runs in a row must see exactly the same servers for a change that removes too many to be confirmed. V(0) means never.
          - One that leaves a backend empty never is.
        type: int
        default: 0
      listed:
        description:
          - The ids of all instances that the caller has heard of in this run.
          - With it, RV(ignore:candidate.missing) names the members of the file on disk that are not among them.
        type: list
        elements: str
      sought:
        description: Names and addresses of servers, of which RV(ignore:candidate.held) says which are still there.
        type: list
        elements: str
        default: []
      apply_strategy:
        description: How M(autoscale.haproxy.haproxy_apply) is going to make the change, see its option of this name; only the plan depends on it.
        type: str
        choices: [auto, reload, runtime_only]
        default: auto
  gather_servers:
    description: Whether to return every server of the running process (about 60 bytes each).
    type: bool
    default: true
attributes:
  check_mode:
    description: Can run in check mode and return the same facts.
    support: full
  diff_mode:
    description: Returns facts, so there is nothing to show.
    support: none
  platform:
    description: Reads C(/proc).
    platforms: linux
    support: full
seealso:
  - module: autoscale.haproxy.haproxy_apply
  - module: autoscale.haproxy.ec2_security_group_instance_facts
"""

EXAMPLES = r"""
- name: Look at the HAProxy of this host
  autoscale.haproxy.haproxy_facts:

- name: Say what a configuration would change, without touching anything
  autoscale.haproxy.haproxy_facts:
    candidates:
      - text: "{{ lookup('ansible.builtin.template', 'haproxy.cfg.j2') }}"
    gather_servers: false

- name: Show it
  ansible.builtin.debug:
    var: ansible_facts['haproxy_processes']['haproxy']['candidate']
"""

RETURN = r"""
ansible_facts:
  description: Facts only.
  returned: success
  type: dict
  contains:
    haproxy_processes:
      description: One entry for each process, by its name.
      type: dict
      returned: success
      contains:
        binary:
          description: The path of the HAProxy program, null when there is none.
          type: str
        version:
          description: The version of the program.
          type: str
          sample: 2.6.12
        running:
          description: Whether a process runs the configuration file. The keys from RV(ignore:pid) to RV(ignore:drift) are there only then.
          type: bool
        state_dir_exists:
          description: Whether the state folder is there.
          type: bool
        interrupted:
          description: Whether HAProxy runs, and a run of M(autoscale.haproxy.haproxy_apply) on it never came to its end. The next one heals what it left.
          type: bool
        refusal_file:
          description: Where RV(ignore:candidate.refusal) of the last refused run stands. It should be removed by a run that refuses nothing.
          type: str
        refusal_file_exists:
          description: Whether it is there.
          type: bool
        members_file:
          description:
            - Where whoever brings a text in should note who its servers are, as JSON. C(checksum) is the text's, and C(instances) is a dict of lists of
              instances, each with an C(instance_id).
          type: str
        missing_file:
          description: Where RV(ignore:candidate.missing) of the last run should stand, as JSON, RV(ignore:runs) by instance id.
          type: str
        missing_file_exists:
          description: Whether it is there. It should be removed by a run that misses nobody.
          type: bool
        outage_file:
          description: Where it should stand since when the instances cannot be found, as JSON with the key C(since), in seconds since 1970.
          type: str
        outage_since:
          description: What it says; null when it is not there.
          type: float
        last_good_file:
          description: Where the last file that was proven in force is kept.
          type: str
        has_last_good:
          description: Whether it is there.
          type: bool
        pid:
          description: The master, or the one process where there is no master.
          type: int
        has_master:
          description: Whether the process is in master-worker mode.
          type: bool
        worker_pid:
          description: The process that takes new connections, null when that cannot be said.
          type: int
        running_version:
          description: The version of that process; empty when it cannot be asked.
          type: str
        config_files:
          description: The files (or folders) given with C(-f).
          type: list
          elements: str
        pid_file:
          description: The pid file on the command line; empty when there is none.
          type: str
        master_socket:
          description: The master socket on the command line; empty when there is none.
          type: str
        stats_socket:
          description: The statistics socket that was asked because there is no master socket; else empty.
          type: str
        problem:
          description: Why the process cannot be asked; empty when it can.
          type: str
        reloads:
          description: How often the master was reloaded; only with a master socket.
          type: int
        failed_reloads:
          description: How many of them the master counts as failed; only with a master socket.
          type: int
        old_worker_pids:
          description: The processes that only finish their connections after a reload.
          type: list
          elements: int
        servers:
          description: The servers of the process (name, address, port) by backend; with O(gather_servers) only.
          type: dict
        drift:
          description:
            - In what the servers of the process differ from the file that it is at, a sentence for each difference; empty when they do not.
            - What a person set (maintenance, drain, weight) is no difference.
          type: list
          elements: str
          sample: [web/i-0abc is in the file and not in the process]
        config:
          description: The file on disk.
          type: dict
          contains:
            path:
              description: Where it is.
              type: str
            exists:
              description: Whether it is there. The keys from RV(ignore:checksum) on are there only then.
              type: bool
            in_force:
              description: Whether the process runs it. What is not known is not in force.
              type: bool
            in_force_reason:
              description: How that is known, or why not.
              type: str
            checksum:
              description: Its SHA-256.
              type: str
            mode:
              description: Its mode, four octal digits.
              type: str
            uid:
              description: Its owner's id.
              type: int
            gid:
              description: Its group's id.
              type: int
            owner:
              description: Its owner's name; empty when the id has none.
              type: str
            group:
              description: Its group's name; empty when the id has none.
              type: str
            is_last_good:
              description: Whether it is the file that was last proven in force.
              type: bool
        candidate:
          description: What the candidate would change; with RV(ignore:text) only.
          type: dict
          contains:
            accepted:
              description: Whether C(haproxy -c) accepts it. The other keys but C(messages) need a HAProxy program.
              type: bool
            messages:
              description: The first twenty warnings and errors that HAProxy gives for it.
              type: list
              elements: str
            check_command:
              description:
                - The words that have HAProxy judge it in its place, with C(%s) for a file that holds it, for C(validate) of a task that writes it.
                - Empty where the configuration takes values from the environment of HAProxy's process or service. They may be secret, and the
                  command line shows.
              type: list
              elements: str
            ids:
              description:
                - The C(id) of servers that has to be another one than its text says, by the number of the line, counted from 1 and at line feeds only.
                  All other keys are about the text with these.
                - Only ids that a template makes of the server's name are replaced, as the macro C(server_id) does. A server that stays keeps the
                  C(id) that it has in the file on disk, and one that comes gets the next that is free where its own is taken. So it is mostly empty.
              type: dict
              sample: {"57": 1204712}
            checksum:
              description: The SHA-256 of its text.
              type: str
            differs:
              description: Whether the file on disk has other bytes.
              type: bool
            counted_against:
              description: Where the servers are from that it is compared with.
              type: str
            servers:
              description: How many servers each of its backends has.
              type: dict
            added:
              description: The names of the servers that come, by backend.
              type: dict
            removed:
              description: The names of the servers that go, by backend.
              type: dict
            changed:
              description: The names of the servers that get another address or port, by backend.
              type: dict
            failed_before:
              description:
                - HAProxy's words when the reload of this very text failed before with this very program, less than O(candidates[].retry_failed) seconds ago.
                - Empty when it may be tried.
              type: str
            impossible_binds:
              description:
                - Why some of the places to listen at that are new cannot be had, a sentence for each; empty when all can.
                - C(haproxy -c) does not see it, and a reload that fails by it refuses connections for two seconds.
              type: list
              elements: str
            unwritable:
              description:
                - Why it could not be written, or what M(autoscale.haproxy.haproxy_apply) keeps of it, a sentence for each folder; empty when it can be,
                  and when there is nothing to write.
              type: list
              elements: str
            refusals:
              description: Why it removes too much, a sentence for each backend; empty when it does not.
              type: list
              elements: str
            confirmed:
              description:
                - Whether O(candidates[].confirm_runs) runs in a row, this one included, have seen exactly these servers, so that it may remove
                  too much.
              type: bool
            refusal:
              description:
                - What whoever refuses it should write to RV(ignore:refusal_file) for the next run to count on, as JSON; null when there is nothing to count.
                - RV(ignore:runs) is the number of runs in a row that have seen these servers, this one included.
              type: dict
            members_noted:
              description: Whether RV(ignore:members_file) is of this very text; false without O(candidates[].listed).
              type: bool
            missing:
              description:
                - The members of the file on disk that are not O(candidates[].listed), one entry for each group of each, with its RV(ignore:group), its
                  RV(ignore:instance) as it was noted, and in how many RV(ignore:runs) in a row it has been missing, this one included.
                - Empty when it was not noted for the file on disk who its members are.
              type: list
              elements: dict
            held:
              description:
                - Those O(candidates[].sought) that are the name or the address of a server of the candidate or of the running process, which may have it
                  until its last connection ends.
                - Null when that cannot be said, because the process does not answer, or an old one still finishes its connections after a reload.
              type: list
              elements: str
            plan:
              description: What brings the process to it, one of V(none), V(start), V(runtime) and V(reload).
              type: str
            plan_reason:
              description:
                - Why it takes a reload, or in short what is done at runtime.
                - Empty when RV(ignore:plan) is V(none) or V(start).
              type: str
              sample: "backend web: balance static-rr takes no servers at runtime"
            needs_reload:
              description: Why it takes a reload, when O(candidates[].apply_strategy=runtime_only) forbids one; empty otherwise.
              type: str
            postponed:
              description:
                - Why the reload should wait for a later run, by O(candidates[].reload_interval) or O(candidates[].maximum_old_workers).
                - Empty when there is none to make, or it may be made now. A change that a run was cut off in never waits.
              type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.haproxy_autoscale.haproxy_inspect import Definition
from ..module_utils.haproxy_autoscale.haproxy_process import leave_aws_out
from ..module_utils.haproxy_autoscale.haproxy_reload import runner
from ..module_utils.haproxy_autoscale.haproxy_report import Candidate, report
from ..module_utils.haproxy_autoscale.haproxy_state import StateError

CANDIDATE = {
    "name": {"type": "str", "default": "haproxy"},
    "config_path": {"type": "path", "default": "/etc/haproxy/haproxy.cfg"},
    "text": {"type": "str", "no_log": True},
    "binary": {"type": "str", "default": "haproxy"},
    "pid_file": {"type": "path", "default": "/run/haproxy.pid"},
    "stats_socket": {"type": "path", "default": ""},
    "service_name": {"type": "str", "default": "haproxy"},
    "config_files": {"type": "list", "elements": "path", "default": []},
    "state_dir": {"type": "path", "default": "/var/lib/haproxy-autoscale"},
    "start": {"type": "bool", "default": True},
    "maximum_removed_percent": {"type": "int", "default": 50},
    "retry_failed": {"type": "int", "default": 900},
    "reload_interval": {"type": "int", "default": 0},
    "maximum_old_workers": {"type": "int", "default": 0},
    "confirm_runs": {"type": "int", "default": 0},
    "listed": {"type": "list", "elements": "str"},
    "sought": {"type": "list", "elements": "str", "default": []},
    "apply_strategy": {"type": "str", "choices": ["auto", "reload", "runtime_only"], "default": "auto"},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "candidates": {"type": "list", "elements": "dict", "default": [{}], "options": CANDIDATE},
            "gather_servers": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )

    leave_aws_out()
    run = runner(module.run_command)
    processes = {}
    for entry in module.params["candidates"]:
        percent = entry["maximum_removed_percent"]
        if not 0 <= percent <= 100:
            module.fail_json(msg=f"maximum_removed_percent must be 0 to 100, and is {percent}")
        for option in ("retry_failed", "reload_interval", "maximum_old_workers", "confirm_runs"):
            if entry[option] < 0:
                module.fail_json(msg=f"{option} must be 0 or more, and is {entry[option]}")
        definition = Definition(*(entry[field] for field in Definition._fields))
        candidate = None
        if entry["text"] is not None:
            candidate = Candidate(*(entry["apply_strategy" if field == "strategy" else field] for field in Candidate._fields))
        try:
            processes[entry["name"]] = report(definition, candidate, module.params["gather_servers"], run)
        except StateError as error:
            module.fail_json(msg=f"{entry['name']}: {error}")
    for name, facts in processes.items():
        if facts.get("candidate", {}).get("postponed"):
            module.warn(f"{name}: {facts['candidate']['postponed']}")
    module.exit_json(ansible_facts={"haproxy_processes": processes})


if __name__ == "__main__":
    main()
