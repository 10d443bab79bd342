#!/usr/bin/python
# Copyright (c) The haproxy-autoscale contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: leave what a run did as metrics for Prometheus, and as a log of changes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: haproxy_run_metrics
short_description: Leave what a run did as Prometheus metrics and as a log of changes
version_added: 0.1.0
description:
  - Writes what a run of the role C(haproxy_autoscale) did where others watch it, a file for the textfile collector of Prometheus's node_exporter,
    and a line of JSON for each change. The role calls it at its end, whatever that is.
  - Counters go on from what the file says, so there is one writer for each file.
  - What cannot be written is a warning and no failure. HAProxy is where it is all the same, and metrics that are not renewed tell by their age.
author:
  - The haproxy-autoscale contributors (@haproxy-autoscale)
options:
  textfile:
    description:
      - The file for the textfile collector. It is replaced whole, with the mode 0644, because node_exporter runs as a user of its own.
      - Empty writes none.
    type: path
    default: ''
  change_log:
    description: The file that gets a line of JSON for each change. It is made with the mode 0640. Empty writes none.
    type: path
    default: ''
  duration:
    description: How many seconds the run took.
    type: float
    required: true
  runs:
    description: What the run did, one entry for each process.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The process's name, which is its label.
        type: str
        required: true
      outcome:
        description:
          - V(success) when HAProxy is at the instances that run.
          - V(waiting) when a change waits for checks or for its turn.
          - V(outage) when the instances could not be found, and that was borne.
          - V(refused) when the change was refused.
          - V(failed) else.
        type: str
        choices: [success, waiting, outage, refused, failed]
        required: true
      refusal:
        description: Why it was refused, in one word. Empty when it was not.
        type: str
        choices: ['', too_few_instances, not_accepted, bind, shared_bind, unwritable, failed_before, needs_reload, removes_too_much]
        default: ''
      instances:
        description: How many instances of each security group the configuration was made of. Empty when that is not known.
        type: dict
        default: {}
      left_out:
        description: Security group to the reasons for which the discovery left out its instances, one for each.
        type: dict
        default: {}
      servers:
        description: How many servers each backend of the configuration has.
        type: dict
        default: {}
      workers:
        description: How many worker processes there were, V(current) and V(old).
        type: dict
        default: {}
      change:
        description:
          - What was changed, or was to be when it failed. Empty when nothing was.
          - RV(ignore:outcome) is V(changed), V(waiting) or V(failed), RV(ignore:applied_by) as of M(autoscale.haproxy.haproxy_apply).
          - RV(ignore:servers) (numbers), RV(ignore:came) and RV(ignore:went) (names) are by backend. RV(ignore:drift) are the sentences of
            M(autoscale.haproxy.haproxy_facts). Further keys go into the log as they are.
        type: dict
        default: {}
attributes:
  check_mode:
    description: Writes nothing.
    support: full
  diff_mode:
    description: What it writes differs in each run.
    support: none
  platform:
    description: Any system with a POSIX file system.
    platforms: posix
    support: full
seealso:
  - module: autoscale.haproxy.haproxy_apply
  - module: autoscale.haproxy.haproxy_facts
"""

EXAMPLES = r"""
- name: Leave the mark of a run that found nothing to do
  autoscale.haproxy.haproxy_run_metrics:
    textfile: /var/lib/prometheus/node-exporter/haproxy-autoscale.prom
    duration: 2.5
    runs:
      - name: haproxy
        outcome: success
        instances: {webheads: 12}
        servers: {webheads: 12}
"""

RETURN = r"""
changed:
  description: Always V(false). What a run left of itself is no change of what the run is for.
  returned: always
  type: bool
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.haproxy_autoscale.haproxy_metrics import OUTCOMES, REFUSALS, append, change_lines, write_textfile
from ..module_utils.haproxy_autoscale.haproxy_state import StateError

RUN = {
    "name": {"type": "str", "required": True},
    "outcome": {"type": "str", "choices": list(OUTCOMES), "required": True},
    "refusal": {"type": "str", "choices": ["", *REFUSALS], "default": ""},
    "instances": {"type": "dict", "default": {}},
    "left_out": {"type": "dict", "default": {}},
    "servers": {"type": "dict", "default": {}},
    "workers": {"type": "dict", "default": {}},
    "change": {"type": "dict", "default": {}},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "textfile": {"type": "path", "default": ""},
            "change_log": {"type": "path", "default": ""},
            "duration": {"type": "float", "required": True},
            "runs": {"type": "list", "elements": "dict", "required": True, "options": RUN},
        },
        supports_check_mode=True,
    )
    textfile, change_log, runs = module.params["textfile"], module.params["change_log"], module.params["runs"]
    now = time.time()
    if textfile and not module.check_mode:
        try:
            problem = write_textfile(textfile, runs, module.params["duration"], now)
            if problem:
                module.warn(f"textfile: {problem}")
        except StateError as error:
            module.warn(f"textfile: the metrics of this run cannot be written: {error}")
    lines = change_lines(runs, now) if change_log else ""
    if lines and not module.check_mode:
        try:
            append(change_log, lines)
        except StateError as error:
            module.warn(f"change_log: the change cannot be logged: {error}")
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
