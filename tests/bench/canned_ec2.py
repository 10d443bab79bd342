#!/usr/bin/env python3
# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An EC2 whose answers are made before they are asked for, as a process of its own: what is measured against it is the client.

The URL says what it lists: `http://127.0.0.1:PORT/1000/0` is a group of 1,000 instances, and `/1000/1` the same group with its last instance replaced by
another. An instance has what EC2 says of one that a launch template of an Auto Scaling group made: one interface, one volume, five tags
(https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html), some five kilobytes. Pages have 1,000, EC2's largest.
"""

from __future__ import annotations

import re
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE_SIZE = 1000
REGION = "eu-west-1"

_INSTANCE = """<item><reservationId>r-{id}</reservationId><ownerId>123456789012</ownerId><requesterId>111122223333</requesterId><groupSet/><instancesSet>
<item><instanceId>i-{id}</instanceId><imageId>ami-0bff25b43a4479334</imageId><instanceState><code>16</code><name>running</name></instanceState>
<privateDnsName>{dns}</privateDnsName><dnsName/><reason/><keyName>operations</keyName><amiLaunchIndex>0</amiLaunchIndex><productCodes/>
<instanceType>t3.medium</instanceType><launchTime>{launched}</launchTime>
<placement><availabilityZone>eu-west-1a</availabilityZone><availabilityZoneId>euw1-az1</availabilityZoneId><groupName/><tenancy>default</tenancy></placement>
<monitoring><state>disabled</state></monitoring><subnetId>subnet-0e1b8cb11be9e14a2</subnetId><vpcId>vpc-0cbd2a4d4d4c1e5b9</vpcId>
<privateIpAddress>{address}</privateIpAddress><sourceDestCheck>true</sourceDestCheck>
<groupSet><item><groupId>sg-0123456789abcdef0</groupId><groupName>webheads</groupName></item></groupSet>
<architecture>x86_64</architecture><rootDeviceType>ebs</rootDeviceType><rootDeviceName>/dev/xvda</rootDeviceName>
<blockDeviceMapping><item><deviceName>/dev/xvda</deviceName><ebs><volumeId>vol-{id}</volumeId><status>attached</status><attachTime>{launched}</attachTime>
<deleteOnTermination>true</deleteOnTermination></ebs></item></blockDeviceMapping>
<virtualizationType>hvm</virtualizationType><clientToken>fleet-2d5bfd7c-e3a5-4b4a-8d2f-{id}</clientToken>
<tagSet><item><key>Name</key><value>web</value></item><item><key>Environment</key><value>production</value></item>
<item><key>aws:autoscaling:groupName</key><value>web</value></item><item><key>aws:ec2launchtemplate:id</key><value>lt-0a1b2c3d4e5f60718</value></item>
<item><key>aws:ec2launchtemplate:version</key><value>7</value></item></tagSet>
<hypervisor>xen</hypervisor><networkInterfaceSet><item><networkInterfaceId>eni-{id}</networkInterfaceId><subnetId>subnet-0e1b8cb11be9e14a2</subnetId>
<vpcId>vpc-0cbd2a4d4d4c1e5b9</vpcId><description/><ownerId>123456789012</ownerId><status>in-use</status><macAddress>06:1f:5e:c6:6b:2d</macAddress>
<privateIpAddress>{address}</privateIpAddress><privateDnsName>{dns}</privateDnsName><sourceDestCheck>true</sourceDestCheck>
<groupSet><item><groupId>sg-0123456789abcdef0</groupId><groupName>webheads</groupName></item></groupSet>
<attachment><attachmentId>eni-attach-{id}</attachmentId><deviceIndex>0</deviceIndex><networkCardIndex>0</networkCardIndex><status>attached</status>
<attachTime>{launched}</attachTime><deleteOnTermination>true</deleteOnTermination></attachment>
<privateIpAddressesSet><item><privateIpAddress>{address}</privateIpAddress><privateDnsName>{dns}</privateDnsName><primary>true</primary></item>
</privateIpAddressesSet><ipv6AddressesSet/><interfaceType>interface</interfaceType><operator><managed>false</managed></operator></item></networkInterfaceSet>
<iamInstanceProfile><arn>arn:aws:iam::123456789012:instance-profile/web</arn><id>AIPAJ2UCCR6DPCEXAMPLE</id></iamInstanceProfile><ebsOptimized>true</ebsOptimized>
<enaSupport>true</enaSupport><cpuOptions><coreCount>1</coreCount><threadsPerCore>2</threadsPerCore></cpuOptions>
<capacityReservationSpecification><capacityReservationPreference>open</capacityReservationPreference></capacityReservationSpecification>
<hibernationOptions><configured>false</configured></hibernationOptions><enclaveOptions><enabled>false</enabled></enclaveOptions>
<metadataOptions><state>applied</state><httpTokens>required</httpTokens><httpPutResponseHopLimit>2</httpPutResponseHopLimit>
<httpEndpoint>enabled</httpEndpoint><httpProtocolIpv6>disabled</httpProtocolIpv6><instanceMetadataTags>disabled</instanceMetadataTags></metadataOptions>
<maintenanceOptions><autoRecovery>default</autoRecovery><rebootMigration>default</rebootMigration></maintenanceOptions>
<currentInstanceBootMode>uefi</currentInstanceBootMode><bootMode>uefi-preferred</bootMode><platformDetails>Linux/UNIX</platformDetails>
<usageOperation>RunInstances</usageOperation><usageOperationUpdateTime>{launched}</usageOperationUpdateTime>
<privateDnsNameOptions><hostnameType>ip-name</hostnameType><enableResourceNameDnsARecord>false</enableResourceNameDnsARecord>
<enableResourceNameDnsAAAARecord>false</enableResourceNameDnsAAAARecord></privateDnsNameOptions><operator><managed>false</managed></operator></item>
</instancesSet></item>"""


def _instance(number: int) -> str:
    """The instance with this number, at an address of its own in 10.0.0.0/8, launched in the order of the numbers."""
    place = f"{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return _INSTANCE.format(
        id=f"{number:017x}",
        address=f"10.{place}",
        dns=f"ip-10-{place.replace('.', '-')}.eu-west-1.compute.internal",
        launched=f"2026-01-{1 + number // 1440 % 28:02d}T{number // 60 % 24:02d}:{number % 60:02d}:00.000Z",
    )


@cache
def answers(count: int, changed: int) -> tuple[bytes, ...]:
    """The pages of a group of `count` instances, of which the last one is another for each `changed`."""
    numbers = [*range(1, count), count + changed]
    pages = []
    for start in range(0, count, PAGE_SIZE):
        token = f"<nextToken>{start + PAGE_SIZE}</nextToken>" if start + PAGE_SIZE < count else ""
        pages.append(
            '<?xml version="1.0" encoding="UTF-8"?>\n<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId>'
            f"<reservationSet>{''.join(map(_instance, numbers[start : start + PAGE_SIZE]))}</reservationSet>{token}</DescribeInstancesResponse>"
        )
    return tuple(page.encode() for page in pages)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        assert "Action=DescribeInstances&" in body, body
        token = re.search(r"NextToken=(\d+)", body)
        count, changed = (int(part) for part in self.path.strip("/").split("/"))
        page = answers(count, changed)[int(token.group(1)) // PAGE_SIZE if token else 0]
        self.send_response(200)
        self.send_header("Content-Type", "text/xml;charset=UTF-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
