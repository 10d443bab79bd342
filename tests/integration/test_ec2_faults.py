# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""All or nothing: one failed page, region or call, and the module fails with the code, the operation and the region, and without facts."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from ec2_endpoint import REGION, Answer, Ec2Endpoint, Request, error, instance, interface, page, security_group
from ec2_module import Result, run_module

GROUP = {"security_groups": ["webheads"]}
QUICK = {"retries": 0, "timeout": 5}


@pytest.fixture
def ec2() -> Iterator[Ec2Endpoint]:
    with Ec2Endpoint() as endpoint:
        endpoint.regions[REGION] = [[instance("i-0000000a")], [instance("i-0000000b")], [instance("i-0000000c")]]
        yield endpoint


def assert_failed(result: Result, *parts: str) -> None:
    assert result.failed, result
    assert "ansible_facts" not in result
    for part in parts:
        assert part in result.message
    assert len(result.message) < 1500 and "Traceback" not in result.message


def run(ec2: Ec2Endpoint, environment: dict[str, str] | None = None, **options: Any) -> Result:
    return run_module({**ec2.environment, **(environment or {})}, **{**GROUP, **QUICK, **options})


def test_the_endpoint_of_these_tests_works(ec2: Ec2Endpoint) -> None:
    assert run(ec2).ids("webheads") == ["i-0000000a", "i-0000000b", "i-0000000c"]
    assert [request.operation for request in ec2.requests] == ["DescribeInstances"] * 3
    assert {request.parameters["MaxResults"] for request in ec2.requests} == {"1000"}


@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_failed_page_of_three_fails_everything(ec2: Ec2Endpoint, at: int) -> None:
    ec2.fault("DescribeInstances", error(500, "InternalError"), page=at)
    assert_failed(run(ec2), "DescribeInstances in eu-west-1", "InternalError")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(403, "UnauthorizedOperation", "You are not authorized. Encoded message: " + "x" * 5000), "UnauthorizedOperation: You are not authorized."),
        # A wrong clock has three faces, and so have credentials that are over; this is the second page, so both come in mid-run.
        (error(401, "AuthFailure", "AWS was not able to validate the provided access credentials"), "AuthFailure: AWS was not able to validate"),
        (error(400, "RequestExpired", "Request has expired."), "RequestExpired: Request has expired."),
        (error(403, "SignatureDoesNotMatch", "Signature not yet current"), "SignatureDoesNotMatch: Signature not yet current"),
        (error(400, "ExpiredToken", "The security token included in the request is expired"), "ExpiredToken: The security token"),
        (error(500, "Internal\nError\x85", "two\nlines \u2028 and a \u009b31m colour"), "Internal Error: two lines and a 31m colour"),
        (error(503, "Unavailable"), "Unavailable"),
        (Answer(503, "<html><body>upstream connect error</body></html>"), "503"),
        (Answer(502, "<html><body>Bad Gateway</body></html>"), "502"),
        (Answer(502, "Bad Gateway"), "Bad Gateway"),
        (Answer(200, page("DescribeInstances", "<reservationSet><item></item></reservationSet>").body[:-20]), "ResponseParserError"),
        (Answer(200, ""), "ResponseParserError"),
        (Answer(200, "no XML at all"), "ResponseParserError"),
        (Answer(200, "<html><body>Sign in to the guest network</body></html>"), "MalformedAnswer"),
        (page("DescribeRegions", "<regionInfo/>"), "MalformedAnswer"),
        (page("DescribeInstances", "<reservationSet><item><reservationId>r-1</reservationId></item></reservationSet>"), "MalformedAnswer"),
        (page("DescribeInstances", "<reservationSet><item><instancesSet><item/></instancesSet></item></reservationSet>"), "MalformedAnswer"),
        (Answer(200, page("DescribeInstances", "<reservationSet/>").body, cut_after=40), "ConnectionClosedError"),
        (Answer(200, page("DescribeInstances", "<reservationSet/>").body, cut_after=0), "ConnectionClosedError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_bad_answer_fails_with_its_code_the_operation_and_the_region(ec2: Ec2Endpoint, answer: Answer, code: str) -> None:
    ec2.fault("DescribeInstances", answer, page=1)
    assert_failed(run(ec2), "DescribeInstances in eu-west-1 failed", code)


def test_a_slow_answer_fails_by_the_timeout(ec2: Ec2Endpoint) -> None:
    ec2.fault("DescribeInstances", Answer(200, "", delay=3), page=2)
    assert_failed(run(ec2, timeout=1), "DescribeInstances in eu-west-1", "ReadTimeoutError")


def test_a_token_that_leads_in_a_circle_fails(ec2: Ec2Endpoint) -> None:
    ec2.fault("DescribeInstances", page("DescribeInstances", "<reservationSet/>", token="1"), page=1)
    assert_failed(run(ec2), "DescribeInstances in eu-west-1", "PaginationError")


def test_another_namespace_gives_the_same_instances_and_no_empty_success(ec2: Ec2Endpoint) -> None:
    ec2.namespace = "https://ec2.example.com/another"
    assert run(ec2).ids("webheads") == ["i-0000000a", "i-0000000b", "i-0000000c"]


def test_throttling_is_retried(ec2: Ec2Endpoint) -> None:
    ec2.fault("DescribeInstances", error(503, "RequestLimitExceeded"), page("DescribeInstances", "<reservationSet/>"), page=2)
    assert run(ec2, retries=1).ids("webheads") == ["i-0000000a", "i-0000000b"]
    assert ec2.count("DescribeInstances") == 4


def test_throttling_past_the_retries_fails_with_the_number_of_attempts(ec2: Ec2Endpoint, tmp_path: Path) -> None:
    # The waits are a random part of up to 20 seconds each: none of them.
    (tmp_path / "sitecustomize.py").write_text("import random\nrandom.random = lambda: 0.0\n")
    ec2.fault("DescribeInstances", error(503, "RequestLimitExceeded"))
    assert_failed(run(ec2, {"PYTHONPATH": str(tmp_path)}, retries=9), "DescribeInstances in eu-west-1 failed after 10 attempts: RequestLimitExceeded")
    assert ec2.count("DescribeInstances") == 10


def test_an_unauthorized_call_is_not_retried(ec2: Ec2Endpoint) -> None:
    ec2.fault("DescribeInstances", error(403, "UnauthorizedOperation"))
    assert_failed(run(ec2, retries=3), "UnauthorizedOperation")
    assert ec2.count("DescribeInstances") == 1


def test_one_failed_region_of_two_fails_everything(ec2: Ec2Endpoint) -> None:
    ec2.regions["us-east-1"] = [[instance("i-0000000d")]]
    ec2.fault("DescribeInstances", error(403, "UnauthorizedOperation"), region="us-east-1")
    assert_failed(run(ec2, regions=["eu-west-1", "us-east-1"]), "DescribeInstances in us-east-1", "UnauthorizedOperation")


def test_a_failed_exclusion_fails_everything(ec2: Ec2Endpoint) -> None:
    calls = [page("DescribeInstances", f"<reservationSet><item><instancesSet>{instance('i-0000000a')}</instancesSet></item></reservationSet>")]
    ec2.fault("DescribeInstances", *calls, error(403, "UnauthorizedOperation"))
    assert_failed(run(ec2, exclude_filters={"tag:Maintenance": "true"}), "DescribeInstances in eu-west-1", "UnauthorizedOperation")
    assert ec2.requests[-1].filters["tag:Maintenance"] == ["true"]


def test_a_failed_list_of_regions_fails(ec2: Ec2Endpoint) -> None:
    ec2.fault("DescribeRegions", error(403, "UnauthorizedOperation"))
    assert_failed(run(ec2, regions=["all"]), "DescribeRegions in eu-west-1", "UnauthorizedOperation")


@pytest.mark.parametrize("content", ["<regionInfo/>", "", "<regionInfo><item><regionName>evil.example.com/</regionName></item></regionInfo>"])
def test_a_list_of_regions_that_is_none_fails(ec2: Ec2Endpoint, content: str) -> None:
    ec2.fault("DescribeRegions", page("DescribeRegions", content))
    assert_failed(run(ec2, regions=["all"]), "DescribeRegions in eu-west-1")
    assert ec2.count("DescribeInstances") == 0


def test_a_failed_question_for_the_groups_existence_fails(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[]]
    ec2.fault("DescribeSecurityGroups", error(403, "UnauthorizedOperation"))
    assert_failed(run(ec2, minimum_instances=0), "DescribeSecurityGroups in eu-west-1", "UnauthorizedOperation")


def test_an_empty_answer_to_that_question_must_be_one(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[]]
    ec2.fault("DescribeSecurityGroups", Answer(200, "<html/>"))
    assert_failed(run(ec2, minimum_instances=0), "DescribeSecurityGroups in eu-west-1", "MalformedAnswer")


def test_an_empty_first_page_with_a_token_is_not_the_end(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION].insert(0, [])
    assert len(run(ec2).ids("webheads")) == 3


def test_repeated_and_reordered_pages_give_the_same_facts(ec2: Ec2Endpoint) -> None:
    expected = run(ec2)["ansible_facts"]
    one, two, three = (page_[0] for page_ in ec2.regions[REGION])
    ec2.regions[REGION] = [[three, one], [two], [one, three, two]]
    assert run(ec2)["ansible_facts"] == expected


def test_reservations_that_are_repeated_and_reordered_give_the_same_facts(ec2: Ec2Endpoint) -> None:
    one, two, three = (page_[0] for page_ in ec2.regions[REGION])
    expected = run(ec2)["ansible_facts"]

    def reservations(*of: tuple[str, ...]) -> Answer:
        items = "".join(f"<item><reservationId>r-{number}</reservationId><instancesSet>{''.join(held)}</instancesSet></item>" for number, held in enumerate(of))
        return page("DescribeInstances", f"<reservationSet>{items}</reservationSet>")

    for answer in (reservations((three, one), (), (two,)), reservations((one, two, three), (three, two, one)), reservations((two, two, one), (three,))):
        ec2.heal()
        ec2.fault("DescribeInstances", answer)
        assert run(ec2)["ansible_facts"] == expected


def test_a_state_that_nobody_knows_leaves_out_that_instance(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION][1] = [instance("i-0000000b", state="dreaming")]
    result = run(ec2)
    assert result.ids("webheads") == ["i-0000000a", "i-0000000c"]
    assert result.excluded == {"webheads": [{"instance_id": "i-0000000b", "reason": "its state is 'dreaming'"}]}


HOSTILE = "\n  server evil 6.6.6.6:80 # \x85\u2028\u009b31m{{ lookup('pipe', 'id') }} <&>\"'"
# Each field of an instance that EC2 answers with as text, set to this.
FIELDS = {
    "id": lambda text: instance(f"i-0000000b{text}"),
    "state": lambda text: instance("i-0000000b", state=escape(text)),
    "launch time": lambda text: instance("i-0000000b", launched=text),
    "zone": lambda text: instance("i-0000000b", zone=f"eu-west-1a{text}"),
    "private address": lambda text: instance("i-0000000b", interface(f"10.0.0.1{text}")),
    "public address": lambda text: instance("i-0000000b", interface(public=f"192.0.2.1{text}")),
    "IPv6 address": lambda text: instance("i-0000000b", interface(ipv6=[f"2001:db8::1%{text}"])),
    "public name": lambda text: instance("i-0000000b", interface(public="192.0.2.1", public_dns=f"a.example{text}")),
    "private name": lambda text: instance("i-0000000b", interface(private_dns=f"a.example{text}")),
    "instance's name": lambda text: instance("i-0000000b", private_dns=f"a.example{text}"),
    "device index": lambda text: instance("i-0000000b").replace("<deviceIndex>0<", f"<deviceIndex>0{escape(text)}<"),
    "card index": lambda text: instance("i-0000000b").replace("<networkCardIndex>0<", f"<networkCardIndex>0{escape(text)}<"),
}
# These stay data, or are not looked at; the tags have a test of their own.
HARMLESS = {
    "tag": lambda text: instance("i-0000000b", tags={"Name": text, f"key{text}": "x"}),
    "interface": lambda text: instance("i-0000000b", interface(interface_id=escape(f"eni-00000001{text}"))),
    "another group": lambda text: instance("i-0000000b", interface(groups=[("sg-00000001", "webheads"), (f"sg-00000002{text}", f"x{text}")])),
}


def test_hostile_text_in_any_field_reaches_no_fact(ec2: Ec2Endpoint) -> None:
    fields = {**FIELDS, **HARMLESS}
    # An id and an address of its own for each.
    told = {f"i-{number:08x}": name for number, name in enumerate(fields, 0x100)}
    hostile = [
        re.sub("<privateIpAddress>[0-9.]+<", f"<privateIpAddress>10.0.1.{number}<", fields[name](HOSTILE).replace("i-0000000b", told_id))
        for number, (told_id, name) in enumerate(told.items())
    ]
    ec2.regions[REGION] = [[instance("i-0000000a", interface("10.0.2.1"))], hostile]
    result = run(ec2)
    assert {told.get(found, "good") for found in result.ids("webheads")} == {"good", *HARMLESS}
    out = result.excluded["webheads"]
    assert len(out) == len(FIELDS)
    # What is no id is shown as a quoted text; each other is named by its id.
    assert {told[entry["instance_id"]] for entry in out if entry["instance_id"] in told} == set(FIELDS) - {"id"}
    texts = [value for fact in result.instances["webheads"] for value in (*fact.values(), *fact["tags"], *fact["tags"].values())]
    # One line each, and nothing that a terminal obeys.
    shown = [str(text) for text in (*texts, *(entry[key] for entry in out for key in entry)) if not isinstance(text, dict)]
    assert [text for text in shown if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", text)] == []
    assert all(len(entry["reason"]) < 300 for entry in out)


def test_hostile_text_for_a_vpc_fails_in_one_line(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION][1] = [instance("i-0000000b", interface(vpc=f"vpc-00000001{HOSTILE}"))]
    result = run(ec2)
    assert_failed(result, "names a security group in each of several VPCs of eu-west-1: ")
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", result.message)


def test_credentials_of_the_instance_that_end_in_mid_run_are_renewed(ec2: Ec2Endpoint, tmp_path: Path) -> None:
    # botocore takes what is near its end for good for another 15 minutes and some by chance, and asks again from 15 minutes on. With these 5, at once.
    (tmp_path / "sitecustomize.py").write_text("import random\nrandom.randint = lambda least, most: -600\n")
    ec2.metadata_region = REGION

    def renew(token: str) -> None:
        end = (datetime.now(UTC) + timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
        ec2.metadata_credentials = {"Code": "Success", "AccessKeyId": "ASIAROLE", "SecretAccessKey": "secret", "Token": token, "Expiration": end}

    def first_only_once(request: Request) -> Answer | None:
        if len(ec2.requests) == 1:
            renew("the second")
            return None
        return error(400, "ExpiredToken") if request.session_token == "the first" else None

    renew("the first")
    ec2.refuses = first_only_once
    environment = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": ec2.url}
    result = run(ec2, {**environment, "PYTHONPATH": str(tmp_path)})
    assert [request.session_token for request in ec2.requests] == ["the first", "the second", "the second"]
    assert result.ids("webheads") == ["i-0000000a", "i-0000000b", "i-0000000c"]


def test_no_credentials_anywhere_fails(ec2: Ec2Endpoint) -> None:
    result = run(ec2, {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""})
    assert_failed(result, "DescribeInstances in eu-west-1", "NoCredentialsError")
    assert ec2.requests == []


def test_half_a_pair_of_credentials_fails(ec2: Ec2Endpoint) -> None:
    assert_failed(run(ec2, access_key="AKIAHALFHALFHALFHALF"), "required together")
    assert_failed(run(ec2, access_key="AKIAHALFHALFHALFHALF", secret_key=""), "one is empty")
    assert ec2.requests == []


def test_a_profile_that_does_not_exist_fails(ec2: Ec2Endpoint) -> None:
    for regions in ([], ["eu-west-1"]):
        result = run(ec2, profile="nowhere", regions=regions)
        assert_failed(result, "Reading the AWS configuration failed: ProfileNotFound", "nowhere")
        assert result["failure"] == "options"


def test_a_name_that_does_not_resolve_fails(ec2: Ec2Endpoint) -> None:
    result = run(ec2, endpoint_url="http://ec2.invalid")
    assert_failed(result, "DescribeInstances in eu-west-1", "EndpointConnectionError")


def test_a_port_where_nothing_listens_fails(ec2: Ec2Endpoint) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        result = run(ec2, endpoint_url=f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert_failed(result, "DescribeInstances in eu-west-1", "EndpointConnectionError")


def test_a_connection_that_does_not_come_about_fails_by_the_timeout(ec2: Ec2Endpoint) -> None:
    with socket.socket() as full, socket.socket() as first:
        # The kernel lets one wait for whoever is slow to accept, and drops what the next sends.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())
        result = run(ec2, endpoint_url=f"http://127.0.0.1:{full.getsockname()[1]}", timeout=1)
    assert_failed(result, "DescribeInstances in eu-west-1 failed: ConnectTimeoutError")


def test_without_boto3_its_name_and_this_python_are_said(ec2: Ec2Endpoint, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['botocore'] = None\n")
    assert_failed(run(ec2, {"PYTHONPATH": str(tmp_path)}), "Failed to import the required Python library (boto3)", sys.executable)


def make_certificate(folder: Path, name: str) -> Path:
    """A certificate that no authority has signed, with its key."""
    file = folder / "server.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", f"subjectAltName={name}"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names, "-keyout", file, "-out", f"{file}.crt"], check=True, capture_output=True
    )
    file.write_bytes(file.read_bytes() + Path(f"{file}.crt").read_bytes())
    return file


def served_with(certificate: Path) -> Ec2Endpoint:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    endpoint = Ec2Endpoint(tls=context)
    endpoint.regions[REGION] = [[instance("i-0000000a")]]
    return endpoint


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1")


@pytest.fixture
def tls(certificate: Path) -> Iterator[Ec2Endpoint]:
    with served_with(certificate) as endpoint:
        yield endpoint


def test_a_certificate_that_nobody_vouches_for_fails(tls: Ec2Endpoint) -> None:
    assert_failed(run(tls), "DescribeInstances in eu-west-1", "SSLError")
    assert tls.requests == []


def test_a_certificate_of_another_host_fails_though_its_authority_is_trusted(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "DNS:ec2.example.com")
    with served_with(certificate) as endpoint:
        assert_failed(run(endpoint, aws_ca_bundle=f"{certificate}.crt"), "DescribeInstances in eu-west-1", "SSLError", "127.0.0.1")
        assert endpoint.requests == []


def test_a_certificate_is_trusted_by_its_bundle_or_by_not_looking(tls: Ec2Endpoint, certificate: Path) -> None:
    assert run(tls, aws_ca_bundle=f"{certificate}.crt").ids("webheads") == ["i-0000000a"]
    assert run(tls, {"AWS_CA_BUNDLE": f"{certificate}.crt"}).ids("webheads") == ["i-0000000a"]
    assert run(tls, validate_certs=False).ids("webheads") == ["i-0000000a"]


def test_a_bundle_that_does_not_exist_fails(tls: Ec2Endpoint) -> None:
    assert_failed(run(tls, aws_ca_bundle="/does/not/exist.crt"), "eu-west-1")
    assert tls.requests == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"security_groups": ["sg-nonsense"]}, "security_groups: 'sg-nonsense'"),
        ({"regions": ["eu-west-1", "all"]}, "regions: "),
        ({"regions": ["Ireland"]}, "regions: 'Ireland'"),
        ({"states": ["up"]}, "states"),
        ({"filters": {"vpc-id": "vpc-00000001"}}, "filters: 'vpc-id'"),
        ({"profile": "a", "access_key": "b" * 20, "secret_key": "c" * 20}, "mutually exclusive"),
        ({"session_token": "a" * 20}, "session_token"),
    ],
)
def test_a_bad_option_fails_before_any_call(ec2: Ec2Endpoint, options: dict[str, Any], message: str) -> None:
    assert_failed(run(ec2, **options), message)
    assert ec2.requests == []


def test_a_group_that_does_not_exist_is_another_error_than_an_empty_one(ec2: Ec2Endpoint) -> None:
    ec2.regions[REGION] = [[]]
    ec2.groups[REGION] = [security_group("sg-00000002", "webheads-old")]
    assert_failed(run(ec2), "'webheads' does not exist in eu-west-1", "'webheads-old'")
    assert_failed(run(ec2, minimum_instances=0), "'webheads' does not exist in eu-west-1")
    ec2.groups[REGION] = [security_group("sg-00000001", "webheads")]
    assert_failed(run(ec2), "Too few usable instances: 'webheads' has 0", "it exists")
    assert run(ec2, minimum_instances=0).instances == {"webheads": []}


def test_a_group_need_exist_in_one_of_the_regions_only(ec2: Ec2Endpoint) -> None:
    ec2.regions.update({"eu-west-1": [[]], "us-east-1": [[]]})
    ec2.groups["us-east-1"] = [security_group("sg-00000001", "webheads")]
    regions = ["eu-west-1", "us-east-1"]
    assert run(ec2, regions=regions, minimum_instances=0).instances == {"webheads": []}
    assert_failed(run(ec2, security_groups=["webheads", "db"], regions=regions, minimum_instances=0), "'db' does not exist in eu-west-1, us-east-1")


def test_a_failed_call_is_told_from_what_another_try_does_not_change(ec2: Ec2Endpoint) -> None:
    mistakes: list[dict[str, Any]] = [{"profile": "nobody"}, {"min_age": -1}, {"minimum_instances": 4}, {"security_groups": ["apis"]}]
    assert [run(ec2, **mistake)["failure"] for mistake in mistakes] == ["options"] * len(mistakes)
    for code in ("InvalidParameterValue", "InvalidVpcID.NotFound", "MissingParameter", "FilterLimitExceeded", "OptInRequired"):
        ec2.fault("DescribeInstances", error(400, code, "The filter 'colour' is invalid"))
        assert run(ec2, filters={"colour": "blue"})["failure"] == "options"
    for answer in (error(500, "InternalError"), error(403, "UnauthorizedOperation"), Answer(200, "no XML at all")):
        ec2.fault("DescribeInstances", answer)
        assert run(ec2)["failure"] == "api"
    assert run(ec2, endpoint_url="http://no-such-host.invalid")["failure"] == "api"
