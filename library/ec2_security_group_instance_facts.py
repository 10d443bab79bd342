#!/usr/bin/python
# Copyright (c) The haproxy-autoscale contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ec2_security_group_instance_facts
short_description: Find the EC2 instances of security groups
version_added: 0.1.0
author:
  - The haproxy-autoscale contributors (@haproxy-autoscale)
description:
  - Returns the instances that carry one or more security groups as facts, ready to be written into a load balancer's configuration.
  - It returns everything or nothing. When one page, one region or one credential fails, the module fails with the AWS error code,
    the operation and the region, and returns no facts.
  - Every value that could reach a configuration file is checked. An instance with a value that is not what it should be is left
    out, with the reason in RV(ansible_facts.ec2_security_group_excluded_instances).
  - Tags are passed on with a space for each control character and line separator, and otherwise as they are.
  - Two instances with one address are one too many. Of all usable instances, of whatever group and region, that have the same C(address), the one that
    was launched last has it, and the others are left out.
  - The same instances give the same facts, in whatever order and pages EC2 lists them.
requirements:
  - boto3 >= 1.26.0
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.facts
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: The module changes nothing.
  facts:
    support: full
  platform:
    platforms: posix
options:
  security_groups:
    description:
      - Security groups, each by its name or its id (V(sg-0123456789abcdef0)).
      - Names are compared exactly and with their case. V(*), which EC2 allows in a name and takes for a wildcard in a search, stands
        for itself.
      - An instance carries a group when any of its network interfaces does.
      - A group that exists in none of the O(regions), of all O(sources) together, is an error.
      - A name that stands for groups of several VPCs of a region (of one account) is an error that names the VPCs, unless O(vpc_id) says which one.
        This shows only when instances of both are found.
    type: list
    elements: str
    required: true
  regions:
    description:
      - The regions to search. V(all) alone stands for every region that is enabled for the account.
      - When not set or empty, the region of the environment variables E(AWS_REGION) and E(AWS_DEFAULT_REGION), of the
        profile, or of the instance that the module runs on, in this order. The instance's region is asked for by IMDSv2 only;
        boto3 does not do this by itself.
      - For V(all) the regions are asked for in that same region, and in V(us-east-1) where there is none.
    type: list
    elements: str
    aliases: [region, aws_region, ec2_region]
  sources:
    description:
      - Several accounts, or several ways of asking, each an entry. What an entry does not say is what the option of the same name says.
      - Each entry is searched in each of its regions, side by side. When one fails, the module fails.
      - What they find is one list for each group, and O(minimum_instances) counts all. An instance that two entries find is listed once, for the
        first of them.
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
        description: Those of O(security_groups) that are searched here; when not set or empty, all. One that no entry searches is an error.
        type: list
        elements: str
      vpc_id:
        description: Instead of O(vpc_id).
        type: str
  vpc_id:
    description: Only groups and instances of this VPC.
    type: str
  filters:
    description:
      - Further filters of DescribeInstances, name to value or list of values. An instance must match one value of each.
      - The names are at U(https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html).
      - The filters C(instance.group-id), C(instance.group-name), C(instance-state-name) and C(vpc-id) are what O(security_groups),
        O(states) and O(vpc_id) are for.
      - At most 100 values together.
    type: dict
  exclude_filters:
    description:
      - Filters as in O(filters). An instance that matches all of them is left out, and listed with that reason.
      - Asked for in a call of its own, after the first. When it fails, the module fails.
    type: dict
  states:
    description:
      - The states that an instance may be in. One in another state is left out, with that reason.
      - Terminated instances carry no network interface, and EC2 finds most of them no more by a group.
    type: list
    elements: str
    choices: [pending, running, shutting-down, stopping, stopped, terminated]
    default: [running]
  address:
    description:
      - The kind of address to return as C(address).
      - It is an address of the network interface that carries the group, and of the one with the lowest device index that has such
        an address when several do.
      - For V(ipv6) it is the one that is flagged as primary, else the only one. Several of which none is flagged are an error that names the instances.
      - An instance without one is left out.
    type: str
    choices: [private_ipv4, public_ipv4, ipv6, private_dns, public_dns]
    default: private_ipv4
  address_rank:
    description:
      - Which address of the network interface C(address) is. With V(secondary) it is the private IPv4 address that is not the interface's primary one, its
        public address or its DNS names; for O(address=ipv6) the one that is not flagged as primary.
      - An instance without one is left out. Several are an error that names the instances. The other addresses in the facts stay those of the primary one.
    type: str
    choices: [primary, secondary]
    default: primary
  interface:
    description:
      - Which network interface of an instance gives its addresses, when it is not the one that carries the group. All that is given must hold for it.
      - An instance carries a group by any of its interfaces as before. The one that gives the address need not carry it, so make sure that its own
        groups let HAProxy in.
      - An instance where none matches is left out. Several are an error that names the instances and their interfaces.
    type: dict
    suboptions:
      device_index:
        description: Its device index, V(0) for the first.
        type: int
      subnet_ids:
        description: Its subnet, one of these.
        type: list
        elements: str
      tags:
        description:
          - Its own tags, name to value. The values are compared exactly.
          - Only these make DescribeNetworkInterfaces be asked, once in each region after the instances.
        type: dict
  port_tag:
    description:
      - The name of a tag that says the port of an instance, as C(port). When not set, and for an instance where the tag is missing or empty, that is V(null).
      - An instance whose tag is no whole number from 1 to 65535 is left out, with the tag and its value in the reason.
    type: str
  weight_tag:
    description: The same for C(weight), from 0 to 256. One with the weight 0 gets no new client of HAProxy's.
    type: str
  backup_tag:
    description: The same for C(backup). The tag is V(true), V(yes), V(on) or V(1), or V(false), V(no), V(off) or V(0), in whatever case.
    type: str
  maxconn_tag:
    description: The same for C(maxconn), from 0 to 2147483647. HAProxy takes 0 for no limit.
    type: str
  min_age:
    description:
      - Seconds that must have passed since an instance was launched. A stopped instance counts as launched when it is started again.
      - At most 100 years.
    type: int
    default: 0
  lifecycle:
    description:
      - V(in_service) asks Auto Scaling for the state of the instances that carry its tag C(aws:autoscaling:groupName), and are usable otherwise.
      - C(InService) is usable. C(Standby), C(EnteringStandby), C(Terminating), C(Detaching) and C(ReplacingRootVolume), with whatever is behind
        their colon, are on their way out and go to RV(ansible_facts.ec2_security_group_draining_instances). All others, such as C(Pending) and
        C(Warmed:Running), are left out with that reason.
      - An instance that carries the tag, and that Auto Scaling does not list, is left out. It is gone from its group, or so new that it is not in
        service either.
      - With V(any) nobody is asked.
    type: str
    choices: [any, in_service]
    default: any
  standalone_instances:
    description:
      - Whether instances in no Auto Scaling group are usable, detached ones among them.
      - V(exclude) is only for O(lifecycle=in_service).
    type: str
    choices: [include, exclude]
    default: include
  instance_status:
    description:
      - V(ok) leaves out instances whose instance status check or system status check is not C(ok), which takes some minutes from their start.
      - Asked for with DescribeInstanceStatus, for those that are usable otherwise.
    type: str
    choices: [any, ok]
    default: any
  minimum_instances:
    description:
      - The module fails when fewer usable instances of a group are found, all regions and sources together.
      - V(0) allows for an empty group.
    type: int
    default: 1
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
        last one asks for the instances.
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
      - The environment variables E(AWS_ENDPOINT_URL_EC2) and E(AWS_ENDPOINT_URL) are used when it is not set.
      - Auto Scaling and STS are talked to at E(AWS_ENDPOINT_URL_AUTO_SCALING) and E(AWS_ENDPOINT_URL_STS) where these are set, before this option.
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
  - Credentials are searched for in boto3's own order when O(access_key) and O(profile) are not set. This is the recommended way. On
    an instance it means the role of its instance profile, by IMDSv2.
    See U(https://docs.aws.amazon.com/boto3/latest/guide/credentials.html).
  - The environment and the configuration files are those of the host that the module runs on.
  - The actions needed are C(ec2:DescribeInstances), C(ec2:DescribeSecurityGroups) (asked for only when no instance carries a group),
    C(ec2:DescribeRegions) (only with O(regions=all)), C(ec2:DescribeNetworkInterfaces) (only with tags in O(interface)),
    C(autoscaling:DescribeAutoScalingInstances) (only with O(lifecycle=in_service)) and C(ec2:DescribeInstanceStatus) (only with
    O(instance_status=ok)). None of them can be limited to single resources.
  - With O(assume_role_arn) it is the last role that needs them. Whoever assumes a role needs C(sts:AssumeRole) for it.
  - One search is one sequence of DescribeInstances calls in each region for the groups given by name, and one for those given by id,
    with 1000 instances a page. Auto Scaling is asked for 50 instances a call, and for the status of instances 100 a call.
  - Up to eight calls are made side by side, when there is more than one region or source, or more than one such call.
  - EC2's answers are eventually consistent, see U(https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html). An
    instance may appear, or still be listed as running, some seconds late.
"""

EXAMPLES = r"""
- name: Find the running instances of a security group in this instance's region
  autoscale.haproxy.ec2_security_group_instance_facts:
    security_groups: [webheads]

- name: Show their addresses
  ansible.builtin.debug:
    msg: "{{ ansible_facts.ec2_security_group_instances.webheads | map(attribute='address') }}"

- name: Find those of two groups in every region, with none that is younger than two minutes or under maintenance
  autoscale.haproxy.ec2_security_group_instance_facts:
    security_groups: [webheads, sg-0123456789abcdef0]
    regions: [all]
    min_age: 120
    filters:
      tag:Environment: production
    exclude_filters:
      tag:Maintenance: ["true", "yes"]

- name: Allow for an empty group, by public address, in the VPC that is meant
  autoscale.haproxy.ec2_security_group_instance_facts:
    security_groups: [webheads]
    regions: [eu-west-1]
    vpc_id: vpc-0123456789abcdef0
    address: public_ipv4
    minimum_instances: 0

- name: Only instances in service, of this account and of another one, in which a role is assumed by way of a role of this one
  autoscale.haproxy.ec2_security_group_instance_facts:
    security_groups: [webheads]
    regions: [eu-west-1]
    lifecycle: in_service
    sources:
      - {}
      - assume_role_arn:
          - arn:aws:iam::111122223333:role/hub
          - arn:aws:iam::444455556666:role/haproxy-discovery
        external_id: the-id-that-we-agreed-on
        regions: [eu-west-1, eu-central-1]
"""

RETURN = r"""
ansible_facts:
  description: Facts to add to the host's. Absent when the module fails.
  returned: success
  type: complex
  contains:
    ec2_security_group_instances:
      description:
        - Security group as written in O(security_groups) to its usable instances, sorted by launch time, then id.
        - Addresses are those of the network interface that carries the group, or that O(interface) asks for.
      returned: success
      type: dict
      contains:
        "<security group>":
          description: The usable instances of this group.
          returned: success
          type: list
          elements: dict
          contains:
            instance_id:
              description: The instance's id.
              returned: success
              type: str
              sample: i-0123456789abcdef0
            name:
              description: The tag C(Name), every run of characters that HAProxy does not take in a name as one C(_); V(null) when there is none.
              returned: success
              type: str
              sample: web-1
            address:
              description: The address of the kind that O(address) says.
              returned: success
              type: str
              sample: 10.0.1.17
            private_ip_address:
              description: Primary private IPv4 address, or V(null).
              returned: success
              type: str
              sample: 10.0.1.17
            public_ip_address:
              description: Public or Elastic IPv4 address of the primary private address, or V(null).
              returned: success
              type: str
              sample: 203.0.113.17
            ipv6_address:
              description: Primary IPv6 address, else the only one, or V(null).
              returned: success
              type: str
              sample: 2001:db8::17
            private_dns_name:
              description: Private DNS name, or V(null).
              returned: success
              type: str
              sample: ip-10-0-1-17.eu-west-1.compute.internal
            public_dns_name:
              description: Public DNS name, or V(null).
              returned: success
              type: str
              sample: ec2-203-0-113-17.eu-west-1.compute.amazonaws.com
            availability_zone:
              description: Availability zone.
              returned: success
              type: str
              sample: eu-west-1a
            region:
              description: Region.
              returned: success
              type: str
              sample: eu-west-1
            vpc_id:
              description: VPC of the network interface.
              returned: success
              type: str
              sample: vpc-0123456789abcdef0
            launch_time:
              description: When the instance was last launched, in UTC, to the second (ISO 8601).
              returned: success
              type: str
              sample: '2026-01-31T06:00:00Z'
            lifecycle_state:
              description: The instance's state in its Auto Scaling group; V(null) without O(lifecycle=in_service), and for one in no group.
              returned: success
              type: str
              sample: InService
            auto_scaling_group:
              description: Name of the Auto Scaling group, by its tag, or V(null).
              returned: success
              type: str
              sample: web
            source:
              description: The entry of O(sources) that found it, counted from 0; V(0) without them.
              returned: success
              type: int
              sample: 0
            port:
              description: What the tag O(port_tag) says, or V(null).
              returned: success
              type: int
              sample: 8080
            weight:
              description: What the tag O(weight_tag) says, or V(null).
              returned: success
              type: int
              sample: 100
            backup:
              description: What the tag O(backup_tag) says, or V(null).
              returned: success
              type: bool
              sample: false
            maxconn:
              description: What the tag O(maxconn_tag) says, or V(null).
              returned: success
              type: int
              sample: 50
            tags:
              description:
                - Tags, key to value, with a space for each control character and line separator.
                - Whoever can tag an instance wrote them; check before use.
              returned: success
              type: dict
              sample: {Name: web-1, Environment: production}
      sample:
        webheads:
          - instance_id: i-0123456789abcdef0
            name: web-1
            address: 10.0.1.17
            private_ip_address: 10.0.1.17
            public_ip_address: null
            ipv6_address: null
            private_dns_name: ip-10-0-1-17.eu-west-1.compute.internal
            public_dns_name: null
            availability_zone: eu-west-1a
            region: eu-west-1
            vpc_id: vpc-0123456789abcdef0
            launch_time: '2026-01-31T06:00:00Z'
            lifecycle_state: InService
            auto_scaling_group: web
            source: 0
            port: null
            weight: null
            backup: null
            maxconn: null
            tags: {Name: web-1, Environment: production}
    ec2_security_group_draining_instances:
      description:
        - Security group as written in O(security_groups) to its instances that are on their way out, by their Auto Scaling group. Each list is
          empty without O(lifecycle=in_service).
        - They are usable otherwise, and look as in RV(ansible_facts.ec2_security_group_instances). O(minimum_instances) does not count them.
      returned: success
      type: dict
      sample:
        webheads: []
    ec2_security_group_excluded_instances:
      description:
        - Security group as written in O(security_groups) to the instances that EC2 listed and that are not usable, sorted by id.
      returned: success
      type: dict
      contains:
        "<security group>":
          description: The instances of this group that were left out.
          returned: success
          type: list
          elements: dict
          contains:
            instance_id:
              description: The instance's id; a quoted text when it is none.
              returned: success
              type: str
              sample: i-0123456789abcdef1
            reason:
              description: Why it was left out.
              returned: success
              type: str
              sample: it matches exclude_filters
            address:
              description: Its address, as of a usable one, where it was left out for its lifecycle state or its status; absent else.
              returned: when its lifecycle state or status is the reason
              type: str
              sample: 10.0.1.18
            unanswered:
              description:
                - V(true) when it was left out because Auto Scaling, or the status checks, did not list it in this answer. The answers are eventually
                  consistent, so that the next one may.
                - Absent else.
              returned: when nobody has said anything of it
              type: bool
              sample: true
      sample:
        webheads:
          - instance_id: i-0123456789abcdef1
            reason: it matches exclude_filters
failure:
  description:
    - V(api) when a call to AWS failed, so that nothing is known and another try may succeed.
    - V(options) when trying again changes nothing by itself, as for a wrong option, or a group that does not exist or has too few instances.
  returned: failure
  type: str
  sample: api
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ..module_utils.haproxy_autoscale.ec2_client import BOTOCORE_IMPORT_ERROR, discover
from ..module_utils.haproxy_autoscale.ec2_instances import ADDRESSES, STATES, Ec2Error, FailedCall
from ..module_utils.haproxy_autoscale.ec2_lifecycle import INSTANCE_STATUSES, LIFECYCLES, STANDALONE_INSTANCES
from ..module_utils.haproxy_autoscale.ec2_sources import CONNECTION_ARGUMENTS, CONNECTION_RULES, taken

ARGUMENT_SPEC = {
    "security_groups": {"type": "list", "elements": "str", "required": True},
    "vpc_id": {"type": "str"},
    "filters": {"type": "dict"},
    "exclude_filters": {"type": "dict"},
    "states": {"type": "list", "elements": "str", "choices": list(STATES), "default": ["running"]},
    "address": {"type": "str", "choices": list(ADDRESSES), "default": "private_ipv4"},
    "address_rank": {"type": "str", "choices": ["primary", "secondary"], "default": "primary"},
    "interface": {
        "type": "dict",
        "options": {
            "device_index": {"type": "int"},
            "subnet_ids": {"type": "list", "elements": "str"},
            "tags": {"type": "dict"},
        },
    },
    "port_tag": {"type": "str"},
    "weight_tag": {"type": "str"},
    "backup_tag": {"type": "str"},
    "maxconn_tag": {"type": "str"},
    "min_age": {"type": "int", "default": 0},
    "minimum_instances": {"type": "int", "default": 1},
    "lifecycle": {"type": "str", "choices": list(LIFECYCLES), "default": "any"},
    "standalone_instances": {"type": "str", "choices": list(STANDALONE_INSTANCES), "default": "include"},
    "instance_status": {"type": "str", "choices": list(INSTANCE_STATUSES), "default": "any"},
    **CONNECTION_ARGUMENTS,
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True, **CONNECTION_RULES)
    options = taken(module)
    if BOTOCORE_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("boto3"), exception=BOTOCORE_IMPORT_ERROR, failure="options")
    try:
        facts = discover(options)
    except Ec2Error as error:
        module.fail_json(msg=str(error), failure="api" if isinstance(error, FailedCall) else "options")
    module.exit_json(changed=False, ansible_facts=facts)


if __name__ == "__main__":
    main()
