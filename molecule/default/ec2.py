# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Launch and terminate instances of the security group webheads in the emulated EC2: ec2.py URL launch|terminate ADDRESS ..."""

from __future__ import annotations

import sys

import boto3
from botocore.config import Config

GROUP = "webheads"


def main(url: str, action: str, *addresses: str) -> None:
    # A proxy is for other addresses than loopback's.
    config = Config(proxies={})
    # moto checks no credentials, but boto3 wants some.
    ec2 = boto3.client("ec2", "eu-west-1", endpoint_url=url, aws_access_key_id="any", aws_secret_access_key="any", config=config)  # noqa: S106
    if action == "terminate":
        found = ec2.describe_instances(Filters=[{"Name": "private-ip-address", "Values": list(addresses)}])
        ids = [instance["InstanceId"] for reservation in found["Reservations"] for instance in reservation["Instances"]]
        ec2.terminate_instances(InstanceIds=ids)
        return
    subnets = ec2.describe_subnets(Filters=[{"Name": "cidr-block", "Values": ["127.0.0.0/16"]}])["Subnets"]
    if not subnets:
        vpc = ec2.create_vpc(CidrBlock="127.0.0.0/16")["Vpc"]["VpcId"]
        subnets = [ec2.create_subnet(VpcId=vpc, CidrBlock="127.0.0.0/16")["Subnet"]]
        ec2.create_security_group(GroupName=GROUP, Description=GROUP, VpcId=vpc)
    group = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [GROUP]}])["SecurityGroups"][0]["GroupId"]
    for address in addresses:
        ec2.run_instances(ImageId="ami-12345678", MinCount=1, MaxCount=1, SubnetId=subnets[0]["SubnetId"], SecurityGroupIds=[group], PrivateIpAddress=address)


main(*sys.argv[1:])
