#!/usr/bin/python
# Copyright (c) The haproxy-autoscale contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ec2_iam_policy
short_description: Say which IAM policies the discovery of instances needs
version_added: 0.1.0
author:
  - The haproxy-autoscale contributors (@haproxy-autoscale)
description:
  - Returns the IAM policies that M(autoscale.haproxy.ec2_security_group_instance_facts) needs with the same options, and
    M(autoscale.haproxy.ec2_complete_lifecycle_action) with the same hook.
  - It asks nobody and changes nothing. What is allowed is what these modules call, and no more.
  - EC2's descriptions cannot be limited to resources. They are limited to O(regions) where those are named.
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: The module changes nothing.
  platform:
    platforms: posix
options:
  regions:
    description: As in M(autoscale.haproxy.ec2_security_group_instance_facts).
    type: list
    elements: str
    aliases: [region, aws_region, ec2_region]
  lifecycle:
    description: As in M(autoscale.haproxy.ec2_security_group_instance_facts).
    type: str
    choices: [any, in_service]
    default: any
  instance_status:
    description: As in M(autoscale.haproxy.ec2_security_group_instance_facts).
    type: str
    choices: [any, ok]
    default: any
  interface:
    description: As in M(autoscale.haproxy.ec2_security_group_instance_facts). Only whether it has C(tags) makes a difference.
    type: dict
  lifecycle_hook_name:
    description: The hook that M(autoscale.haproxy.ec2_complete_lifecycle_action) completes; empty for none.
    type: str
    default: ""
  profile:
    description: As in M(autoscale.haproxy.ec2_security_group_instance_facts).
    type: str
    aliases: [aws_profile]
  assume_role_arn:
    description: As in M(autoscale.haproxy.ec2_security_group_instance_facts).
    type: list
    elements: str
  sources:
    description: As in M(autoscale.haproxy.ec2_security_group_instance_facts).
    type: list
    elements: dict
    suboptions:
      profile:
        description: Instead of O(profile).
        type: str
      assume_role_arn:
        description: Instead of O(assume_role_arn).
        type: list
        elements: str
      regions:
        description: Instead of O(regions).
        type: list
        elements: str
      external_id:
        description: Taken, and makes no difference here.
        type: str
      role_session_name:
        description: Taken, and makes no difference here.
        type: str
      security_groups:
        description: Taken, and makes no difference here.
        type: list
        elements: str
      vpc_id:
        description: Taken, and makes no difference here.
        type: str
"""

EXAMPLES = r"""
- name: Ask for the policies
  autoscale.haproxy.ec2_iam_policy:
    regions: [eu-west-1]
    lifecycle: in_service
    assume_role_arn: [arn:aws:iam::111122223333:role/discovery]
  register: needed

- name: Write each into a file of its own
  ansible.builtin.copy:
    dest: "policy-{{ index }}.json"
    content: "{{ item.policy | to_nice_json }}"
    mode: "0644"
  loop: "{{ needed.policies }}"
  loop_control:
    index_var: index
"""

RETURN = r"""
policies:
  description: The policies, the one of the identity that runs the discovery first.
  returned: success
  type: list
  elements: dict
  contains:
    identity:
      description: Whose policy it is; the ARN of a role that is assumed, or words for the identity that assumes none.
      returned: success
      type: str
      sample: arn:aws:iam::111122223333:role/discovery
    policy:
      description: The policy document.
      returned: success
      type: dict
      sample:
        Version: "2012-10-17"
        Statement:
          - Sid: FindInstances
            Effect: Allow
            Action: ["ec2:DescribeInstances", "ec2:DescribeSecurityGroups"]
            Resource: "*"
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.haproxy_autoscale.ec2_instances import Ec2Error
from ..module_utils.haproxy_autoscale.ec2_lifecycle import INSTANCE_STATUSES, LIFECYCLES
from ..module_utils.haproxy_autoscale.ec2_policy import policies
from ..module_utils.haproxy_autoscale.ec2_sources import CONNECTION_ARGUMENTS, taken

ARGUMENT_SPEC = {
    "regions": CONNECTION_ARGUMENTS["regions"],
    "lifecycle": {"type": "str", "choices": list(LIFECYCLES), "default": "any"},
    "instance_status": {"type": "str", "choices": list(INSTANCE_STATUSES), "default": "any"},
    "interface": {"type": "dict"},
    "lifecycle_hook_name": {"type": "str", "default": ""},
    "profile": CONNECTION_ARGUMENTS["profile"],
    "assume_role_arn": CONNECTION_ARGUMENTS["assume_role_arn"],
    "sources": CONNECTION_ARGUMENTS["sources"],
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    try:
        found = policies(taken(module))
    except Ec2Error as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, policies=found)


if __name__ == "__main__":
    main()
