#!/usr/bin/python
# Copyright (c) The haproxy-autoscale contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ec2_complete_lifecycle_action
short_description: Complete the lifecycle action of instances in Auto Scaling groups
version_added: 0.1.0
author:
  - The haproxy-autoscale contributors (@haproxy-autoscale)
description:
  - Tells Auto Scaling that the action of a lifecycle hook is done, so that the instances go on, as from C(Terminating:Wait) to their end.
  - An instance that waits for no such action (any more) is no error and no change. Auto Scaling does not tell one that never waited from one
    that was completed before.
  - When the action of one instance cannot be completed, those of the others are all the same, and the module fails afterwards.
requirements:
  - boto3 >= 1.26.0
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details: Asks nobody, and takes every instance for one that waits.
  diff_mode:
    support: none
    details: There is no difference to show.
  platform:
    platforms: posix
options:
  lifecycle_hook_name:
    description: Name of the hook.
    type: str
    required: true
  instances:
    description: The instances whose action is completed.
    type: list
    elements: dict
    required: true
    suboptions:
      instance_id:
        description: The instance's id.
        type: str
        required: true
      auto_scaling_group:
        description: Name of its Auto Scaling group.
        type: str
        required: true
      region:
        description: Its region.
        type: str
        required: true
      source:
        description: The entry of O(sources) that it was found by, counted from 0.
        type: int
        default: 0
  result:
    description:
      - What the group is told. V(CONTINUE) leaves the actions of other hooks to be completed.
      - V(ABANDON) ends them, and keeps an instance that terminates where the group has a policy to retain such.
    type: str
    choices: [CONTINUE, ABANDON]
    default: CONTINUE
  regions:
    description:
      - The roles are assumed in the first of these; when not set or empty, or V(all), in the first of the instances' own regions.
    type: list
    elements: str
    aliases: [region, aws_region, ec2_region]
  sources:
    description:
      - Several accounts, or several ways of asking, each an entry. What an entry does not say is what the option of the same name says.
      - The same list as for M(autoscale.haproxy.ec2_security_group_instance_facts).
    type: list
    elements: dict
    suboptions:
      profile:
        description: Instead of O(profile), and of O(access_key).
        type: str
      assume_role_arn:
        description: Instead of O(assume_role_arn). An empty list assumes no role.
        type: list
        elements: str
      external_id:
        description: Instead of O(external_id).
        type: str
      role_session_name:
        description: Instead of O(role_session_name).
        type: str
      regions:
        description: Instead of O(regions).
        type: list
        elements: str
      security_groups:
        description: Makes no difference here.
        type: list
        elements: str
      vpc_id:
        description: Makes no difference here.
        type: str
  access_key:
    description:
      - AWS access key id. Better not set, see the notes.
      - Mutually exclusive with O(profile).
    type: str
    aliases: [aws_access_key_id, aws_access_key]
  secret_key:
    description: AWS secret access key that belongs to O(access_key).
    type: str
    aliases: [aws_secret_access_key, aws_secret_key]
  session_token:
    description: AWS session token that belongs to a temporary O(access_key).
    type: str
    aliases: [aws_session_token]
  profile:
    description: Name of a profile in the AWS configuration files.
    type: str
    aliases: [aws_profile]
  assume_role_arn:
    description:
      - ARNs of roles to assume, each with the credentials of the one before, and the first with those that the other options lead to. The
        last one completes the actions.
      - They are assumed in the first of O(regions), by that region's own STS endpoint, and for an hour. Nothing of them is kept.
    type: list
    elements: str
  external_id:
    description:
      - The external id that the last of O(assume_role_arn) asks for. The roles before it get none, as they are usually of one's own account.
      - AWS does not take it for a secret. It is not shown all the same.
    type: str
  role_session_name:
    description:
      - The name under which the sessions of all O(assume_role_arn) stand in the accounts' logs.
      - When not set or empty, C(haproxy-autoscale).
    type: str
  endpoint_url:
    description:
      - URL to talk to instead of the region's own endpoint, without a user or password.
      - The environment variables E(AWS_ENDPOINT_URL_AUTO_SCALING) and E(AWS_ENDPOINT_URL_STS) go before it, and E(AWS_ENDPOINT_URL) is used when
        it is not set.
    type: str
    aliases: [aws_endpoint_url]
  aws_ca_bundle:
    description:
      - File with the certificates of the authorities to trust. When not set, E(AWS_CA_BUNDLE) and the AWS configuration decide.
    type: path
  validate_certs:
    description: Whether to verify the endpoint's certificate. Rather set O(aws_ca_bundle) than turn this off.
    type: bool
    default: true
  retries:
    description:
      - How often a call is tried again when it is throttled or fails for a passing reason, with a growing and random wait of at
        most 20 seconds before each. At most 100 times.
    type: int
    default: 5
  timeout:
    description: Seconds to wait for a connection, and then for each part of an answer. At most 86400, one day.
    type: int
    default: 30
notes:
  - Credentials are searched for as by M(autoscale.haproxy.ec2_security_group_instance_facts).
  - The one action needed is C(autoscaling:CompleteLifecycleAction). It can be limited to Auto Scaling groups.
seealso:
  - module: autoscale.haproxy.ec2_security_group_instance_facts
"""

EXAMPLES = r"""
- name: Let the instances go that have finished their last requests
  autoscale.haproxy.ec2_complete_lifecycle_action:
    lifecycle_hook_name: drain
    instances:
      - instance_id: i-0123456789abcdef0
        auto_scaling_group: web
        region: eu-west-1
"""

RETURN = r"""
completed:
  description: The ids of the instances whose action was completed, sorted; in check mode all.
  returned: when the instances were asked for, also when the module fails
  type: list
  elements: str
  sample: [i-0123456789abcdef0]
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ..module_utils.haproxy_autoscale.ec2_client import BOTOCORE_IMPORT_ERROR, complete
from ..module_utils.haproxy_autoscale.ec2_instances import Ec2Error
from ..module_utils.haproxy_autoscale.ec2_sources import CONNECTION_ARGUMENTS, CONNECTION_RULES, taken

ARGUMENT_SPEC = {
    "lifecycle_hook_name": {"type": "str", "required": True},
    "instances": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "instance_id": {"type": "str", "required": True},
            "auto_scaling_group": {"type": "str", "required": True},
            "region": {"type": "str", "required": True},
            "source": {"type": "int", "default": 0},
        },
    },
    "result": {"type": "str", "choices": ["CONTINUE", "ABANDON"], "default": "CONTINUE"},
    **CONNECTION_ARGUMENTS,
}

ERRORS_SHOWN = 10


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True, **CONNECTION_RULES)
    options = taken(module)
    if BOTOCORE_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("boto3"), exception=BOTOCORE_IMPORT_ERROR)
    try:
        completed, errors = complete(options, module.check_mode)
    except Ec2Error as error:
        module.fail_json(msg=str(error))
    if errors:
        more = [f"And {len(errors) - ERRORS_SHOWN} more failed."] if len(errors) > ERRORS_SHOWN else []
        module.fail_json(msg=" ".join([*map(str, errors[:ERRORS_SHOWN]), *more]), completed=completed, changed=bool(completed))
    module.exit_json(changed=bool(completed), completed=completed)


if __name__ == "__main__":
    main()
