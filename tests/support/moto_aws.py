# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""An EC2 to talk to, on loopback: moto's server in a process of its own, and the few things that tests and the demo do with it.

    with MotoAws() as aws:
        aws.create_group("webheads")
        aws.launch("webheads", address="127.0.10.1", name="web-1")
        run(..., env=aws.environment)

An instance's private address may be one of 127.0.0.0/8, so that a small server there can answer for it.
From a shell: ``python tests/support/moto_aws.py PORT`` serves until it is stopped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

REGION = "eu-west-1"
# moto checks no credentials. Nothing that could stand in a fact: Ansible masks the text of secrets wherever it appears.
ACCESS_KEY = "AKIAMOTOMOTOMOTOMOTO"
SECRET_KEY = "moto-does-not-check-this-secret-key"
_IMAGE = "ami-12345678"


class MotoAws:
    """A running moto server. Starts at once; stop() or the end of a ``with`` block ends it."""

    def __init__(self, port: int = 0, region: str = REGION) -> None:
        """Start the server and wait until it answers.

        :param port: TCP port on 127.0.0.1; 0 for a free one.
        :raises RuntimeError: when it does not answer.
        """
        self.region = region
        self._subnets: dict[tuple[str, str], tuple[str, str]] = {}
        self._clients: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = ""
        for line in self._process.stdout:
            if line.startswith("http://"):
                self.url = line.strip()
                break
        if not self.url:
            self.stop()
            raise RuntimeError("moto's server did not start; is moto[ec2,server] installed?")

    def stop(self) -> None:
        """End the server."""
        self._process.terminate()
        self._process.wait(timeout=10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> MotoAws:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that bring any AWS SDK to this server, with no file of the user's."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }

    def ec2(self, region: str | None = None) -> Any:
        """A boto3 client, for what the methods below do not do."""
        import boto3

        region = region or self.region
        if region not in self._clients:
            self._clients[region] = boto3.client(
                "ec2", region_name=region, endpoint_url=self.url, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY
            )
        return self._clients[region]

    def reset(self) -> None:
        """Forget everything that was created."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/reset", method="POST"), timeout=10).close()
        self._subnets.clear()

    def vpc(self, name: str = "main", region: str | None = None) -> str:
        """The id of the VPC of this name, with one subnet over 127.0.0.0/16; created when it is first asked for."""
        return self._subnet(name, region)[0]

    def _subnet(self, vpc: str, region: str | None) -> tuple[str, str]:
        key = (vpc, region or self.region)
        if key not in self._subnets:
            ec2 = self.ec2(region)
            vpc_id = ec2.create_vpc(CidrBlock="127.0.0.0/16")["Vpc"]["VpcId"]
            self._subnets[key] = (vpc_id, ec2.create_subnet(VpcId=vpc_id, CidrBlock="127.0.0.0/16")["Subnet"]["SubnetId"])
        return self._subnets[key]

    def create_group(self, name: str, vpc: str = "main", region: str | None = None) -> str:
        """Create a security group and return its id."""
        answer = self.ec2(region).create_security_group(GroupName=name, Description=name, VpcId=self.vpc(vpc, region))
        return str(answer["GroupId"])

    def group_id(self, name: str, vpc: str = "main", region: str | None = None) -> str:
        """The id of a group, which is created when it does not exist."""
        filters = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [self.vpc(vpc, region)]}]
        groups = self.ec2(region).describe_security_groups(Filters=filters)["SecurityGroups"]
        return str(groups[0]["GroupId"]) if groups else self.create_group(name, vpc, region)

    def launch(
        self,
        group: str | Sequence[str],
        address: str | None = None,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        vpc: str = "main",
        region: str | None = None,
    ) -> str:
        """Launch an instance that carries a group, or several, and return its id. Groups that do not exist are created.

        :param address: its private address within 127.0.0.0/16; one is chosen when there is none.
        :param name: its tag Name.
        """
        groups = [group] if isinstance(group, str) else list(group)
        all_tags = {**({"Name": name} if name is not None else {}), **(tags or {})}
        arguments: dict[str, Any] = {}
        if address:
            arguments["PrivateIpAddress"] = address
        if all_tags:
            arguments["TagSpecifications"] = [{"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in all_tags.items()]}]
        answer = self.ec2(region).run_instances(
            ImageId=_IMAGE,
            MinCount=1,
            MaxCount=1,
            SubnetId=self._subnet(vpc, region)[1],
            SecurityGroupIds=[self.group_id(one, vpc, region) for one in groups],
            **arguments,
        )
        return str(answer["Instances"][0]["InstanceId"])

    def launch_many(self, group: str, addresses: Sequence[str], region: str | None = None) -> list[str]:
        """Launch one instance an address; named after it."""
        return [self.launch(group, address, f"web-{address.replace('.', '-')}", region=region) for address in addresses]

    def stop_instance(self, instance_id: str, region: str | None = None) -> None:
        """Stop an instance; it stays listed as stopped."""
        self.ec2(region).stop_instances(InstanceIds=[instance_id])

    def terminate(self, *instance_ids: str, region: str | None = None) -> None:
        """Terminate instances."""
        self.ec2(region).terminate_instances(InstanceIds=list(instance_ids))

    def tag(self, instance_id: str, region: str | None = None, **tags: str) -> None:
        """Set tags of an instance."""
        self.ec2(region).create_tags(Resources=[instance_id], Tags=[{"Key": key, "Value": value} for key, value in tags.items()])

    def instances(self, region: str | None = None) -> list[dict[str, Any]]:
        """All instances, as boto3 gives them."""
        return [instance for reservation in self.ec2(region).describe_instances()["Reservations"] for instance in reservation["Instances"]]


def start(port: int = 0, region: str = REGION) -> MotoAws:
    """Start a server; its stop() ends it."""
    return MotoAws(port, region)


def _serve(port: int) -> None:
    # moto logs each request to standard error and says where it runs on standard output, before it knows the port.
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    host, served = server.get_host_and_port()
    print(f"http://{host}:{served}", flush=True)
    try:
        # Ends with whoever started it, also when that was killed: its end of the pipe is closed then.
        if sys.stdin.isatty():
            while True:
                time.sleep(3600)
        sys.stdin.read()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(json.dumps({"usage": "moto_aws.py [PORT]"}))
    _serve(int(sys.argv[1]) if len(sys.argv) == 2 else 0)
