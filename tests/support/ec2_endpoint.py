# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""An EC2 endpoint on loopback that says exactly what a test wants, faults included.

    with Ec2Endpoint() as ec2:
        ec2.regions["eu-west-1"] = [[instance("i-0000000a")], [instance("i-0000000b")]]    # two pages
        ec2.fault("DescribeInstances", error(503, "RequestLimitExceeded"), page=1)
        run(..., env=ec2.environment)
        assert ec2.count("DescribeInstances") == 2

It does not filter: what a page holds is what is answered, whatever was asked. What was asked is in ``requests``. moto_aws.py filters.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
REGION = "eu-west-1"
LAUNCHED = "2026-01-31T06:00:00.000Z"


class Answer(NamedTuple):
    """One HTTP answer, or what takes its place."""

    status: int = 200
    body: str = ""
    delay: float = 0.0
    """Seconds before it is sent."""
    cut_after: int | None = None
    """Bytes of the body after which the connection is reset."""


class Request(NamedTuple):
    """One call as it arrived."""

    operation: str
    region: str
    parameters: dict[str, str]
    session_token: str | None = None
    access_key: str = ""
    service: str = "ec2"

    def listed(self, name: str) -> list[str]:
        """The values of a parameter that is a list, in the order sent."""
        return [value for key, value in self.parameters.items() if re.fullmatch(re.escape(name) + r"\.\d+", key)]

    @property
    def filters(self) -> dict[str, list[str]]:
        """Filter name → values, in the order sent."""
        found: dict[str, list[str]] = {}
        for key, name in self.parameters.items():
            match = re.fullmatch(r"Filter\.(\d+)\.Name", key)
            if match:
                prefix = f"Filter.{match.group(1)}.Value."
                found[name] = [value for parameter, value in self.parameters.items() if parameter.startswith(prefix)]
        return found


def role_key(arn: str) -> str:
    """The access key that AssumeRole gives for a role."""
    return "ASIA" + hashlib.sha256(arn.encode()).hexdigest()[:16].upper()


def error(status: int, code: str, message: str = "as the test wants it") -> Answer:
    """EC2's way of saying that a call failed."""
    return Answer(
        status, f"<Response><Errors><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error></Errors><RequestID>r</RequestID></Response>"
    )


def query_error(status: int, code: str, message: str = "as the test wants it") -> Answer:
    """The other services' way of saying so."""
    return Answer(status, f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error></ErrorResponse>")


def query_page(service: str, operation: str, content: str) -> Answer:
    """A successful answer of the other services."""
    result = f"<{operation}Result>{content}</{operation}Result>"
    return Answer(body=f'<{operation}Response xmlns="https://{service}.amazonaws.com/doc/">{result}</{operation}Response>')


def tag_set(tags: Mapping[str, str]) -> str:
    """Tags as XML."""
    return "<tagSet>" + "".join(f"<item><key>{escape(key)}</key><value>{escape(value)}</value></item>" for key, value in tags.items()) + "</tagSet>"


def interface(
    address: str | None = "10.0.0.1",
    groups: Sequence[tuple[str, str]] = (("sg-00000001", "webheads"),),
    device: int = 0,
    vpc: str = "vpc-00000001",
    public: str | None = None,
    ipv6: Sequence[str] = (),
    public_dns: str = "",
    private_dns: str = "",
    card: int = 0,
    interface_id: str | None = None,
) -> str:
    """A network interface as XML. ``groups`` are pairs of id and name."""
    group_set = "".join(f"<item><groupId>{escape(one)}</groupId><groupName>{escape(name)}</groupName></item>" for one, name in groups)
    association = f"<association><publicIp>{escape(public)}</publicIp><publicDnsName>{escape(public_dns)}</publicDnsName></association>" if public else ""
    return (
        f"<item><networkInterfaceId>{interface_id or f'eni-0000000{device}'}</networkInterfaceId><vpcId>{escape(vpc)}</vpcId>"
        + (f"<privateIpAddress>{escape(address)}</privateIpAddress>" if address is not None else "")
        + (f"<privateDnsName>{escape(private_dns)}</privateDnsName>" if private_dns else "")
        + f"<groupSet>{group_set}</groupSet>{association}"
        + f"<attachment><deviceIndex>{device}</deviceIndex><networkCardIndex>{card}</networkCardIndex></attachment>"
        + "<ipv6AddressesSet>"
        + "".join(f"<item><ipv6Address>{escape(one)}</ipv6Address></item>" for one in ipv6)
        + "</ipv6AddressesSet></item>"
    )


def instance(
    instance_id: str,
    *interfaces: str,
    launched: str = LAUNCHED,
    tags: Mapping[str, str] | None = None,
    state: str = "running",
    zone: str = "eu-west-1a",
    vpc: str = "vpc-00000001",
    private_dns: str = "",
    groups: Sequence[tuple[str, str]] = (),
) -> str:
    """An instance as XML, with one interface in the group webheads, at an address of its own, unless others are given; an empty text for none."""
    number = zlib.crc32(instance_id.encode())
    interface_set = "".join(interfaces or [interface(f"10.0.{number >> 8 & 255}.{number & 255}")])
    group_set = "".join(f"<item><groupId>{escape(one)}</groupId><groupName>{escape(name)}</groupName></item>" for one, name in groups)
    return (
        f"<item><instanceId>{escape(instance_id)}</instanceId><instanceState><code>16</code><name>{state}</name></instanceState>"
        f"<launchTime>{escape(launched)}</launchTime><placement><availabilityZone>{escape(zone)}</availabilityZone></placement>"
        f"<privateDnsName>{escape(private_dns)}</privateDnsName><groupSet>{group_set}</groupSet>"
        f"<vpcId>{escape(vpc)}</vpcId><networkInterfaceSet>{interface_set}</networkInterfaceSet>{tag_set(tags or {})}</item>"
    )


def security_group(group_id: str, name: str, vpc: str = "vpc-00000001") -> str:
    """A security group as XML."""
    return f"<item><groupId>{group_id}</groupId><groupName>{escape(name)}</groupName><vpcId>{vpc}</vpcId></item>"


def page(operation: str, content: str, token: str | None = None, namespace: str = NAMESPACE) -> Answer:
    """A successful answer to ``operation``."""
    next_token = f"<nextToken>{token}</nextToken>" if token else ""
    opening, closing = f'<{operation}Response xmlns="{namespace}"><requestId>r</requestId>', f"</{operation}Response>"
    return Answer(body=f'<?xml version="1.0" encoding="UTF-8"?>\n{opening}{content}{next_token}{closing}')


class Ec2Endpoint:
    """The endpoint. Listens at once; stop() or the end of a ``with`` block ends it."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.regions: dict[str, list[list[str]]] = {REGION: [[]]}
        """Region → pages of instances. A region that is not in here lists none."""
        self.groups: dict[str, list[str]] = {}
        """Region → security groups."""
        self.accounts: dict[str, dict[str, list[list[str]]]] = {}
        """Access key → what ``regions`` is to it; a key that is not in here gets those. A role's key is the one that AssumeRole gave for it."""
        self.lifecycle_states: dict[str, str] = {}
        """Instance id → what Auto Scaling says of it; it does not list others."""
        self.statuses: dict[str, tuple[str, str]] = {}
        """Instance id → its instance status and its system status; ok where it is not in here."""
        self.metadata_region: str | None = None
        """What the instance metadata service says; None for its not being there."""
        self.metadata_v2 = True
        """Whether it gives tokens."""
        self.metadata_v1 = True
        """Whether it answers requests without one."""
        self.metadata_credentials: dict[str, str] | None = None
        """What it says of the role "web"; None for no role."""
        self.metadata_requests: list[tuple[str, str, bool]] = []
        """Method, path and whether a token came with it."""
        self.namespace = NAMESPACE
        self.requests: list[Request] = []
        self.refuses: Callable[[Request], Answer | None] = lambda request: None
        """What is answered to a call that is not allowed; None to one that is. iam.py has one by a policy."""
        self._faults: list[tuple[str, str | None, int | None, list[Answer]]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                endpoint._call(self)

            def do_PUT(self) -> None:
                endpoint._metadata(self)

            def do_GET(self) -> None:
                endpoint._metadata(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Ec2Endpoint:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that bring an AWS SDK to this endpoint."""
        return {
            "AWS_ACCESS_KEY_ID": "AKIACANNEDCANNEDCANN",
            "AWS_SECRET_ACCESS_KEY": "canned-secret-that-nobody-checks",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }

    def fault(self, operation: str, *answers: Answer, region: str | None = None, page: int | None = None) -> None:
        """Answer calls with these instead, one after the other, the last of them for ever.

        :param page: only calls for this page, from 0.
        """
        self._faults.insert(0, (operation, region, page, list(answers)))

    def heal(self) -> None:
        """End every fault."""
        self._faults.clear()

    def count(self, operation: str, region: str | None = None) -> int:
        """How often an operation was called."""
        return sum(request.operation == operation and region in (None, request.region) for request in self.requests)

    def _call(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0))).decode()
        parameters = {key: values[0] for key, values in parse_qs(body, keep_blank_values=True).items()}
        credential = re.search(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/", handler.headers.get("Authorization", ""))
        key, region, service = credential.groups() if credential else ("", "", "")
        request = Request(parameters["Action"], region, parameters, handler.headers.get("X-Amz-Security-Token"), key, service)
        self.requests.append(request)
        _send(handler, self.refuses(request) or self._answer(request))

    def _answer(self, request: Request) -> Answer:
        number = int(request.parameters.get("NextToken", "0"))
        all_regions = self.accounts.get(request.access_key, self.regions)
        for operation, region, at, answers in self._faults:
            if operation == request.operation and region in (None, request.region) and at in (None, number):
                return answers.pop(0) if len(answers) > 1 else answers[0]
        if request.operation == "DescribeInstances":
            pages = all_regions.get(request.region, [[]])
            reservations = "".join(f"<item><reservationId>r-1</reservationId><instancesSet>{one}</instancesSet></item>" for one in pages[number])
            token = str(number + 1) if number + 1 < len(pages) else None
            return page("DescribeInstances", f"<reservationSet>{reservations}</reservationSet>", token, self.namespace)
        if request.operation == "DescribeRegions":
            items = "".join(f"<item><regionName>{name}</regionName></item>" for name in all_regions)
            return page("DescribeRegions", f"<regionInfo>{items}</regionInfo>", None, self.namespace)
        if request.operation == "DescribeSecurityGroups":
            return page(
                "DescribeSecurityGroups", f"<securityGroupInfo>{''.join(self.groups.get(request.region, []))}</securityGroupInfo>", None, self.namespace
            )
        if request.operation == "DescribeInstanceStatus":
            return page("DescribeInstanceStatus", f"<instanceStatusSet>{''.join(map(self._status, request.listed('InstanceId')))}</instanceStatusSet>")
        if request.operation == "DescribeAutoScalingInstances":
            known = [one for one in request.listed("InstanceIds.member") if one in self.lifecycle_states]
            members = "".join(
                f"<member><InstanceId>{one}</InstanceId><LifecycleState>{escape(self.lifecycle_states[one])}</LifecycleState></member>" for one in known
            )
            return query_page("autoscaling", "DescribeAutoScalingInstances", f"<AutoScalingInstances>{members}</AutoScalingInstances>")
        if request.operation == "CompleteLifecycleAction":
            waits = self.lifecycle_states.get(request.parameters["InstanceId"]) == "Terminating:Wait"
            none = query_error(400, "ValidationError", f"No active Lifecycle Action found with instance ID {request.parameters['InstanceId']}")
            return query_page("autoscaling", "CompleteLifecycleAction", "") if waits else none
        if request.operation == "AssumeRole":
            key = role_key(request.parameters["RoleArn"])
            given = f"<AccessKeyId>{key}</AccessKeyId><SecretAccessKey>secret-of-{key}</SecretAccessKey><SessionToken>token-of-{key}</SessionToken>"
            return query_page("sts", "AssumeRole", f"<Credentials>{given}<Expiration>2126-01-31T06:00:00Z</Expiration></Credentials>")
        return error(400, "InvalidAction", request.operation)

    def _status(self, instance_id: str) -> str:
        of_instance, of_system = self.statuses.get(instance_id, ("ok", "ok"))
        status = f"<instanceStatus><status>{of_instance}</status></instanceStatus><systemStatus><status>{of_system}</status></systemStatus>"
        return f"<item><instanceId>{escape(instance_id)}</instanceId>{status}</item>"

    def _metadata(self, handler: BaseHTTPRequestHandler) -> None:
        token = handler.headers.get("X-aws-ec2-metadata-token")
        self.metadata_requests.append((handler.command, handler.path, token is not None))
        answers: dict[tuple[str, str], Callable[[], Answer]] = {
            ("PUT", "/latest/api/token"): lambda: Answer(200, "token") if self.metadata_v2 else Answer(403),
            ("GET", "/latest/meta-data/placement/region"): lambda: Answer(200, self.metadata_region or ""),
            ("GET", "/latest/meta-data/placement/availability-zone/"): lambda: Answer(200, f"{self.metadata_region}a"),
        }
        if self.metadata_credentials:
            role = "/latest/meta-data/iam/security-credentials/"
            answers["GET", role] = lambda: Answer(200, "web")
            answers["GET", role + "web"] = lambda: Answer(200, json.dumps(self.metadata_credentials))
        answer = answers.get((handler.command, handler.path))
        if handler.command == "GET" and token is None and not self.metadata_v1:
            answer = lambda: Answer(401)  # noqa: E731
        _send(handler, answer() if answer and self.metadata_region else Answer(404))


def _send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    time.sleep(answer.delay)
    body = answer.body.encode()
    try:
        handler.send_response(answer.status)
        handler.send_header("Content-Type", "text/xml")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: answer.cut_after])
        if answer.cut_after is not None:
            # A reset, as when a machine in between dies: no orderly end of the stream.
            handler.wfile.flush()
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
    except OSError:
        pass  # The caller's timeout came first, which is what the test is about.


def many(count: int, group: tuple[str, str] = ("sg-00000001", "webheads"), page_size: int = 1000) -> list[list[str]]:
    """Pages of that many instances, each with an address of its own in 10.0.0.0/8."""
    everything = [
        instance(f"i-{number:017x}", interface(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", [group]), tags={"Name": f"web-{number}"})
        for number in range(1, count + 1)
    ]
    return [everything[start : start + page_size] for start in range(0, count, page_size)] or [[]]


def _main() -> None:
    import sys

    with Ec2Endpoint() as endpoint:
        endpoint.regions[REGION] = many(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
        print(endpoint.url, flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    _main()
