# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What a service can say: each field as HAProxy takes it on every version, as clients and servers see it, and refused where it is wrong."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from balancer import ROOT, Balancer, ask, free_port
from certificates import signed
from haproxy_binaries import binaries
from rendering import render
from server_ids import without_ids
from stage import address, instance_id

ROLE = ROOT / "roles" / "haproxy_autoscale"
SPECIFICATION = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
FIELDS = SPECIFICATION["haproxy_autoscale_services"]["options"]
README = (ROLE / "README.md").read_text()
VARIABLES = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
SEPARATOR = "<<<<between two texts>>>>"

# A value with all that means something in a line of HAProxy's.
NASTY = 'it\'s # a "q" \\ ${HOME} $HOME; \\n'


def instance(number: int) -> dict[str, Any]:
    return {"instance_id": instance_id(number), "address": address(number), "launch_time": f"2026-01-31T06:00:{number:02d}Z", "tags": {}}


# Instance 2 is in two groups; nobody listens at 9.
INSTANCES = {"web": [instance(1), instance(2)], "api": [instance(2), instance(3)], "dead": [instance(9)]}


def service(**fields: Any) -> dict[str, Any]:
    return {"name": "shop", "security_groups": ["web"], "bind": ["127.0.0.1:8080"], **fields}


# Certificates.


class Certificates(NamedTuple):
    """An authority, and what it signed: for the balancer, and for the instances."""

    folder: Path
    authority: Path
    front: Path
    back: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority = signed(folder, "authority")
    (folder / "front").mkdir()
    signed(folder / "front", "www.example.com", authority)
    signed(folder / "front", "api.example.com", authority)
    signed(folder, "inside.example.com", authority)
    return Certificates(folder, folder / "authority.pem", folder / "front", folder / "inside.example.com.pem")


@pytest.fixture(scope="module")
def error_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("errors") / "503.http"
    path.write_bytes(b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 6\r\n\r\nsorry\n")
    return path


# Texts, all in one run of Ansible.


def ansible(folder: Path, playbook: Sequence[Mapping[str, Any]]) -> str:
    path = folder / "play.yml"
    path.write_text(json.dumps(playbook))
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local"]
    done = subprocess.run(
        [*command, "-e", f"ansible_python_interpreter={sys.executable}", str(path)],
        cwd=folder,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_DISPLAY_FAILED_STDERR": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def rendered(folder: Path, cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """The text of the default template for each set of variables."""
    own: dict[str, Any] = {f"haproxy_autoscale_{name}": "" for name in ("user", "group", "chroot", "log", "stats_socket")}
    own |= {"haproxy_autoscale_state_dir": str(folder), "instances": INSTANCES}
    (folder / "haproxy.server-state").write_text("1\n")
    return templated(folder, ROOT / "templates" / "haproxy.cfg.j2", [{**own, **case} for case in cases])


def templated(folder: Path, template: Path, cases: Sequence[Mapping[str, Any]], *more: Path) -> list[str]:
    """What the template gives for each set of variables, over the role's own and those of further files."""
    # Through a file, because the play's own variables would be taken for templates.
    (folder / "cases.json").write_text(json.dumps(cases))
    content = (
        f"{{% for case in lookup('ansible.builtin.file', '{folder}/cases.json') | from_json %}}"
        f"{{{{ lookup('ansible.builtin.template', '{template}', template_vars=case) }}}}{SEPARATOR}{{% endfor %}}"
    )
    files = [str(path) for path in (ROLE / "defaults" / "main.yml", ROLE / "vars" / "main.yml", *more)]
    task = {"ansible.builtin.copy": {"dest": str(folder / "texts"), "mode": "0600", "content": content}}
    ansible(folder, [{"hosts": "localhost", "gather_facts": False, "vars_files": files, "tasks": [task]}])
    texts = (folder / "texts").read_text().split(SEPARATOR)
    assert len(texts) == len(cases) + 1
    return texts[:-1]


def complaints(binary: str, text: str) -> str:
    """What HAProxy says against a text; nothing when it takes it without a warning."""
    done = subprocess.run([binary, "-c", "-f", "/dev/stdin"], input=text, capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    return "" if done.returncode == 0 and "WARNING" not in said else f"{done.returncode}: {said}\n{text}"


class Feature(NamedTuple):
    """Services, what their text must hold (white space folded), and further variables."""

    services: list[dict[str, Any]]
    lines: list[str]
    variables: dict[str, Any] = {}


TLS = {"certificates": ["CERTIFICATES/www.example.com.pem", "CERTIFICATES"], "bind": ["127.0.0.1:8443"]}
ALL_TIMEOUTS = dict.fromkeys(FIELDS["timeouts"]["options"], "3s")
BOTH_MODES = [service(), service(name="mail", mode="tcp", bind="127.0.0.1:8025", port=25)]

FEATURES: dict[str, Feature] = {
    "HTTP and TCP": Feature(BOTH_MODES, ["frontend mail-in bind 127.0.0.1:8025 mode tcp", f"server {instance_id(1)} {address(1)}:25 check"]),
    "HTTP and TCP with a log": Feature(BOTH_MODES, ["option tcplog"], {"haproxy_autoscale_log": "127.0.0.1:514 local0"}),
    "several binds": Feature([service(bind=["127.0.0.1:8080", "127.0.0.1:8081"])], ["bind 127.0.0.1:8080 bind 127.0.0.1:8081 mode http"]),
    "several groups, and an instance in two of them": Feature(
        [service(security_groups=["web", "api"])],
        ["balance roundrobin " + " ".join(f"server {instance_id(number)} {address(number)}:80 check" for number in (1, 2, 3))],
    ),
    "an instance that is also in a backup group is no backup": Feature(
        [service(backup_security_groups=["api"])],
        ["balance roundrobin option allbackups server", f"server {instance_id(2)} {address(2)}:80 check server {instance_id(3)} {address(3)}:80 check backup"],
    ),
    "TLS": Feature(
        [service(tls=TLS)],
        ["ssl crt CERTIFICATES/www.example.com.pem crt CERTIFICATES alpn h2,http/1.1 ssl-min-ver TLSv1.2 ciphers ECDHE-", "no-tls-tickets"],
    ),
    "TLS without HTTP/2, and with settings": Feature(
        [service(bind=[], tls={**TLS, "http2": False, "min_version": "TLSv1.3", "ciphers": "HIGH:!aNULL", "ciphersuites": "TLS_AES_256_GCM_SHA384"})],
        ["crt CERTIFICATES alpn http/1.1 ssl-min-ver TLSv1.3 ciphers 'HIGH:!aNULL' ciphersuites TLS_AES_256_GCM_SHA384"],
    ),
    "TLS before TCP": Feature([service(mode="tcp", bind=[], tls=TLS)], ["crt CERTIFICATES ssl-min-ver TLSv1.2"]),
    "TLS to the servers": Feature(
        [service(server_tls={"ca_file": "AUTHORITY", "sni": "inside.example.com", "verify_host": "inside.example.com"})],
        ["check ssl verify required ca-file AUTHORITY sni str(inside.example.com) check-sni inside.example.com verifyhost inside.example.com"],
    ),
    "TLS to servers with certificates of public authorities": Feature(
        [service(server_tls={"sni": "www.example.com"})], ["ssl verify required ca-file @system-ca sni"]
    ),
    "TLS to servers that are not verified": Feature([service(server_tls={"verify": False})], ["check ssl verify none"]),
    "rules": Feature(
        [
            service(rules=[{"hosts": ["*.example.com"], "paths": ["/api", "/v2/"], "service": "api"}]),
            {"name": "api", "security_groups": ["api"], "port": 9090},
        ],
        ["use_backend api if rule-1-host rule-1-path default_backend shop", "backend api"],
    ),
    "rules by the name that TLS asks for": Feature(
        [
            service(mode="tcp", bind=[], tls=TLS, rules=[{"hosts": ["a.example.com"], "service": "api"}]),
            service(name="pass", mode="tcp", rules=[{"hosts": ["a.example.com"], "service": "api"}]),
            {"name": "api", "mode": "tcp", "security_groups": ["api"]},
        ],
        ["acl rule-1-host ssl_fc_sni -i -m str a.example.com use_backend api", "accept if { req.ssl_hello_type 1 } acl rule-1-host req.ssl_sni -i"],
    ),
    "frontends alone": Feature(
        [
            {"name": "to-https", "bind": "127.0.0.1:8081", "redirect_to_https": True},
            {"name": "inner", "bind": "127.0.0.1:8082", "rules": [{"paths": "/x", "service": "api"}, {"service": "shop"}]},
            service(),
            {"name": "api", "security_groups": "api"},
        ],
        ["frontend to-https-in bind 127.0.0.1:8081 mode http http-request redirect scheme https code 301 unless { ssl_fc } frontend inner-in"],
    ),
    "redirects": Feature(
        [service(redirects=[{"location": "/a place", "paths": ["/old"]}, {"prefix": "https://b.example.com", "hosts": "c.example.com", "code": 308}])],
        ["redirect location '/a place' code 302 if redirect-1-path", "redirect prefix https://b.example.com code 308 if redirect-2-host"],
    ),
    "HTTP checks": Feature(
        [
            service(
                check_path="/up?from='lb'",
                check_method="HEAD",
                check_version="HTTP/1.1",
                check_host="www.example.com",
                check_expect="200-299,404",
                check_interval="1s",
                check_rise=1,
                check_fall=2,
                check_port=9000,
            )
        ],
        [
            r"option httpchk http-check send meth HEAD uri '/up?from='\''lb'\''' ver HTTP/1.1 hdr Host www.example.com http-check expect status 200-299,404",
            "check port 9000 inter 1s rise 1 fall 2",
        ],
    ),
    "HTTP checks of a TCP service": Feature([service(mode="tcp", check_path="/health")], ["option httpchk GET /health"]),
    "an agent": Feature([service(agent_port=9999, agent_interval="5s")], ["check agent-check agent-port 9999 agent-inter 5s"]),
    "a cookie": Feature(
        [service(cookie={"name": "SRV", "secure": True, "domain": ".example.com", "maxidle": "1h", "maxlife": "1d", "attributes": ["SameSite=Lax", "a b"]})],
        [
            "cookie SRV insert indirect nocache httponly secure domain .example.com maxidle 1h maxlife 1d attr SameSite=Lax attr 'a b'",
            f"server {instance_id(1)} {address(1)}:80 check cookie {instance_id(1)}",
        ],
    ),
    "cookies of the application": Feature(
        [
            service(cookie={"name": "JSESSIONID", "mode": "prefix", "preserve": False}),
            service(name="b", bind="127.0.0.1:8081", cookie={"name": "B", "mode": "rewrite", "httponly": False}),
        ],
        ["cookie JSESSIONID prefix httponly", "cookie B rewrite server"],
    ),
    "a cookie that is worked out": Feature(
        [service(cookie={"name": "SRV", "dynamic_key": "a word"})], ["httponly dynamic dynamic-cookie-key 'a word' server", f"{address(2)}:80 check"]
    ),
    "a cookie that a server may set": Feature([service(cookie={"name": "SRV", "preserve": True})], ["insert indirect nocache preserve httponly"]),
    **{
        f"balance {balance}": Feature(
            [service(balance=balance, hash_type="consistent sdbm avalanche")], [f"balance {balance} hash-type consistent sdbm avalanche"]
        )
        for balance in ("source", "uri whole", "url_param user", "hdr(X-User)", "random(2)", "leastconn")
    },
    "limits and timeouts": Feature(
        [service(maxconn=1000, server_maxconn=10, timeouts=ALL_TIMEOUTS)],
        ["mode http maxconn 1000 timeout client 3s timeout client-fin 3s", "timeout queue 3s", "check maxconn 10 server"],
    ),
    "limits and timeouts of TCP": Feature([service(mode="tcp", maxconn=1000, server_maxconn=10, timeouts=ALL_TIMEOUTS)], ["timeout tunnel 3s"]),
    "the PROXY protocol": Feature([service(accept_proxy=True, send_proxy="v1", tls=TLS)], ["8080 accept-proxy", "8443 accept-proxy ssl", "check send-proxy"]),
    "the PROXY protocol 2": Feature([service(send_proxy="v2")], ["check send-proxy-v2 server"]),
    "error files": Feature([service(error_files={503: "ERRORFILE", "421": "ERRORFILE"})], ["errorfile 421 ERRORFILE errorfile 503 ERRORFILE default_backend"]),
    "compression": Feature([service(compression=True, compression_types=["text/html", "text/css"])], ["compression type text/html text/css server"]),
    "headers": Feature(
        [
            service(
                forwardfor=True,
                request_headers=[{"name": "X-Nasty", "value": NASTY}, {"name": "X-Gone", "action": "del"}],
                response_headers=[{"name": "Vary", "action": "add", "value": "X-A"}],
            )
        ],
        ["option forwardfor http-request set-header X-Nasty 'it'", "http-request del-header X-Gone http-response add-header Vary X-A"],
    ),
    "a rate limit of TCP": Feature(
        [service(mode="tcp", rate_limit={"requests": 5})],
        [
            "stick-table type ipv6 size 100k expire 10s store conn_rate(10s) tcp-request content track-sc2 src",
            "tcp-request content reject if { sc_conn_rate(2) gt 5 } server",
        ],
    ),
    "a rate limit, peers, statistics and metrics": Feature(
        [service(rate_limit={"requests": 100, "period": "1m"})],
        [
            "stick-table type ipv6 size 100k expire 1m store http_req_rate(1m) peers balancers",
            "stats auth 'a b:c # d'",
            "auth 'a b:c # d' http-request deny unless { src 127.0.0.1 } frontend metrics",
            "return status 404 if { src 192.0.2.1 } http-request use-service",
            "peers balancers peer lb1 127.0.0.1:10240 peer lb2 [::1]:1024 table t type ip size 1k",
        ],
        {
            "haproxy_autoscale_local_peer": "lb1",
            "haproxy_autoscale_peers": [{"name": "lb1", "address": "127.0.0.1", "port": 10240}, {"name": "lb2", "address": "::1"}],
            "haproxy_autoscale_metrics_bind": "127.0.0.1:8405",
            "haproxy_autoscale_stats_bind": "127.0.0.1:8404",
            "haproxy_autoscale_stats_user": "a b",
            "haproxy_autoscale_stats_password": "c # d",
            "haproxy_autoscale_stats_lines": ["http-request deny unless { src 127.0.0.1 }"],
            "haproxy_autoscale_metrics_lines": ["http-request return status 404 if { src 192.0.2.1 }"],
            "haproxy_autoscale_peers_lines": ["table t type ip size 1k"],
        },
    ),
    "a line that is no list": Feature(
        [service(frontend_lines="no log", backend_lines="http-reuse safe", rules=[{"hosts": 10, "service": "api"}]), {"name": "api", "security_groups": "api"}],
        ["nbthread 1 defaults", "timeout queue 1s frontend", "no log acl rule-1-host", "-m str 10 use_backend", "http-reuse safe server", "backend more"],
        {
            "haproxy_autoscale_global_lines": "nbthread 1",
            "haproxy_autoscale_defaults_lines": "timeout queue 1s",
            "haproxy_autoscale_extra_lines": "backend more",
        },
    ),
    "numbers and truths that are texts, as from -e": Feature(
        [
            service(
                **dict.fromkeys(("check_port", "check_rise", "check_fall", "agent_port", "server_maxconn", "maxconn"), "0"),
                **dict.fromkeys(("redirect_to_https", "accept_proxy", "forwardfor", "compression"), "no"),
            )
        ],
        ["bind 127.0.0.1:8080 mode http default_backend shop", f"balance roundrobin server {instance_id(1)} {address(1)}:80 check server"],
    ),
    "raw lines": Feature(
        [service(frontend_lines=["http-request deny if { path /no }"], backend_lines=["http-reuse safe"], server_options="weight 7")],
        ["http-request deny if { path /no } default_backend", "http-reuse safe server", "check weight 7 server"],
        {
            "haproxy_autoscale_global_lines": ["nbthread 1"],
            "haproxy_autoscale_defaults_lines": ["timeout queue 1s"],
            "haproxy_autoscale_extra_lines": ["backend more", "    server one 127.0.0.1:1"],
        },
    ),
    "raw lines stand where HAProxy wants them": Feature(
        [
            service(
                redirect_to_https=True,
                redirects=[{"location": "/", "paths": "/old"}],
                rules=[{"paths": "/api", "service": "api"}],
                frontend_lines=["tcp-request connection reject if { src 192.0.2.1 }", "acl x path /x\nuse_backend api if x", "http-request deny if x"],
                request_headers=[{"name": "X-A", "value": "a"}],
                rate_limit={"requests": 5},
                backend_lines=["tcp-request content reject if { src 192.0.2.1 }", "use-server a if { path /a }", "http-request allow if { src 192.0.2.2 }"],
                servers=[{"name": "a", "address": "192.0.2.3"}],
            ),
            {"name": "api", "security_groups": ["api"]},
            {
                "name": "sealed",
                "mode": "tcp",
                "bind": "127.0.0.1:8443",
                "rules": [{"hosts": "a.example.com", "service": "inner"}],
                "frontend_lines": ["tcp-request connection reject if { src 192.0.2.1 }"],
            },
            {"name": "inner", "mode": "tcp", "security_groups": ["api"]},
        ],
        [
            "mode http tcp-request connection reject if { src 192.0.2.1 } acl x path /x http-request deny if x http-request redirect scheme",
            "if redirect-1-path use_backend api if x acl rule-1-path",
            "balance roundrobin tcp-request content reject if { src 192.0.2.1 } http-request allow if { src 192.0.2.2 } stick-table",
            "set-header X-A a use-server a if { path /a } server",
            "reject if { src 192.0.2.1 } # The name",
        ],
    ),
    "further servers": Feature(
        [
            service(
                servers=[
                    {"name": "old", "address": "192.0.2.1", "weight": 0},
                    {"name": "sorry", "address": "::1", "port": 81, "backup": True, "options": "disabled"},
                ]
            )
        ],
        ["server old 192.0.2.1:80 check weight 0 server sorry [::1]:81 check backup disabled"],
    ),
    "further servers that are spoken to in another way": Feature(
        [
            service(
                server_tls={"verify": False},
                send_proxy="v2",
                servers=[{"name": "sorry", "address": "192.0.2.1", "options": "no-check no-ssl no-send-proxy-v2"}],
            )
        ],
        ["server sorry 192.0.2.1:80 check ssl verify none send-proxy-v2 no-check no-ssl no-send-proxy-v2"],
    ),
    "certificates of clients": Feature(
        [service(tls={**TLS, "bind": "127.0.0.1:8443 ca-file AUTHORITY verify required"})], ["127.0.0.1:8443 ca-file AUTHORITY verify required ssl crt"]
    ),
    "nothing where a value is null": Feature([{**dict.fromkeys(FIELDS), **service()}], []),
}


def examples() -> dict[str, dict[str, Any]]:
    """The variables that the role's README sets, by the line of the block."""
    found = {}
    for block in re.finditer(r"^```yaml\n(haproxy_autoscale_services:.*?)^```$", README, re.MULTILINE | re.DOTALL):
        found[f"line {README[: block.start()].count(chr(10)) + 1}"] = yaml.safe_load(block.group(1))
    return found


class Made(NamedTuple):
    """The text of each feature and of each of the README's examples; for each version the ports and the text of what runs; what stands for what
    in the features."""

    features: dict[str, str]
    examples: dict[str, str]
    live: dict[str, tuple[dict[str, int], str]]
    places: dict[str, str]

    def placed(self, text: str) -> str:
        for word, path in self.places.items():
            text = text.replace(word, path)
        return text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates, error_file: Path, web: Web) -> Made:
    ports = {version: {name: free_port() for name in LISTENERS} for version in binaries()}
    result = Made({}, {}, {}, {"CERTIFICATES": str(certificates.front), "AUTHORITY": str(certificates.authority), "ERRORFILE": str(error_file)})
    cases: list[dict[str, Any]] = [{"haproxy_autoscale_services": feature.services, **feature.variables} for feature in FEATURES.values()]
    for numbers in ports.values():
        cases.append({**live(numbers, web), "haproxy_autoscale_stats_socket": str(tmp_path_factory.mktemp("lb") / "stats.sock")})
    cases = json.loads(result.placed(json.dumps(cases)))
    for example in examples().values():
        groups = [group for one in example["haproxy_autoscale_services"] for group in one.get("security_groups", [])]
        cases.append({**example, "instances": dict.fromkeys(groups, INSTANCES["web"])})
    texts = iter(rendered(tmp_path_factory.mktemp("rendered"), cases))
    result.features.update(zip(FEATURES, texts))
    result.live.update({version: (numbers, next(texts)) for version, numbers in ports.items()})
    result.examples.update(zip(examples(), texts))
    return result


@pytest.mark.parametrize("name", FEATURES)
def test_each_feature_is_what_haproxy_takes_without_a_warning(made: Made, name: str) -> None:
    text = made.features[name]
    folded = " ".join(without_ids(text).split())
    assert [line for line in FEATURES[name].lines if made.placed(line) not in folded] == [], text
    assert [said for binary in binaries().values() if (said := complaints(binary, text))] == []


@pytest.mark.parametrize("name", examples())
def test_each_example_of_the_readme_is_what_haproxy_takes_without_a_warning(made: Made, name: str) -> None:
    text = made.examples[name]
    assert text.count("    server ") >= 2
    # The files that it names are not on this machine.
    for named, path in [("/etc/haproxy/certs/", "CERTIFICATES"), ("/etc/haproxy/inside-ca.pem", "AUTHORITY"), ("/etc/haproxy/errors/503.http", "ERRORFILE")]:
        text = text.replace(named, made.places[path])
    assert "/etc/haproxy" not in text
    assert [said for binary in binaries().values() if (said := complaints(binary, text))] == []


def test_statuses_may_be_numbers_beside_texts(error_file: Path) -> None:
    """In this process, because JSON has no keys that are numbers."""
    error_files = {503: str(error_file), "429": str(error_file), 421: str(error_file)}
    text = render(ROOT / "templates" / "haproxy.cfg.j2", INSTANCES, haproxy_autoscale_services=[service(error_files=error_files)])
    assert re.findall(r"errorfile (\d+)", text) == ["421", "429", "503"] * 2


def test_a_service_that_says_nothing_is_what_it_always_was(made: Made) -> None:
    """Where values are null, too."""
    start = without_ids(made.features["nothing where a value is null"]).partition("frontend shop-in")[2]
    assert start == (
        "\n    bind 127.0.0.1:8080\n    mode http\n    default_backend shop\n"
        "\nbackend shop\n    mode http\n    balance roundrobin\n"
        + "".join(f"    server {instance_id(number)} {address(number)}:80 check\n" for number in (1, 2))
    )


def test_the_specification_has_the_defaults_that_the_template_takes() -> None:
    def defaults(options: Mapping[str, Any]) -> dict[str, Any]:
        return {name: option["default"] for name, option in options.items() if "default" in option}

    nothing = {name: value for name, value in VARIABLES["__haproxy_autoscale_service_defaults"].items() if name in defaults(FIELDS)}
    assert nothing == defaults(FIELDS)
    for field in ("tls", "server_tls", "cookie"):
        assert VARIABLES[f"__haproxy_autoscale_{field}_defaults"] == defaults(FIELDS[field]["options"])
    # None is left that the template would not know.
    assert sorted(VARIABLES["__haproxy_autoscale_service_defaults"]) == sorted(set(FIELDS) - {"name"})


# What runs: instances that say what reached them.


class Echo(BaseHTTPRequestHandler):
    """Answers with what it got, as JSON; reads a header of the PROXY protocol first, where one comes."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        self.proxy = ""
        try:
            if self.rfile.peek(6)[:6] == b"PROXY ":  # type: ignore[attr-defined]
                self.proxy = self.rfile.readline().decode().strip()
            super().handle()
        except OSError:
            # A check that hangs up.
            self.close_connection = True

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        here = self.connection.getsockname()[0]
        if url.path == "/slow":
            time.sleep(1)
        if url.path == "/health":
            # Instance 2 is ill, and the others want to be asked by name.
            good = here != address(2) and self.headers["Host"] == "checked.example.com"
            status = 200 if good else 404
        else:
            status = 200
        said = {"instance": here, "path": self.path, "proxy": self.proxy, "headers": {name.lower(): self.headers.get_all(name) for name in self.headers}}
        body = json.dumps(said).encode()
        if url.path == "/page":
            body = b"<p>word</p>" * 1000
        self.send_response(status)
        self.send_header("Content-Type", parse_qs(url.query).get("type", ["application/json"])[0])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Agent(socketserver.BaseRequestHandler):
    """What an instance thinks of itself: the second one wants no requests."""

    def handle(self) -> None:
        host = self.request.getsockname()[0]
        with contextlib.suppress(OSError):
            self.request.sendall(b"down\n" if host == address(2) else b"up\n")


class EchoServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        # A client that hangs up, or a handshake that is broken off, is no news.
        pass


class AgentServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True


class Web:
    """Three instances: each with HTTP, HTTPS and an agent, at the same ports."""

    def __init__(self, certificate: Path) -> None:
        self.servers: list[socketserver.TCPServer] = []
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        self.port = self.start(lambda place: EchoServer(place, Echo))
        self.tls_port = self.start(lambda place: self.sealed(EchoServer(place, Echo), context))
        self.agent_port = self.start(lambda place: AgentServer(place, Agent))

    @staticmethod
    def sealed(server: EchoServer, context: ssl.SSLContext) -> EchoServer:
        # The handshake in the connection's own thread, so that one that does not come holds nobody up.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        return server

    def start(self, make: Callable[[tuple[str, int]], socketserver.TCPServer]) -> int:
        port = 0
        for number in (1, 2, 3):
            server = make((address(number), port))
            port = server.socket.getsockname()[1]
            self.servers.append(server)
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return port

    def stop(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()


@pytest.fixture(scope="module")
def web(certificates: Certificates) -> Iterator[Web]:
    made = Web(certificates.back)
    yield made
    made.stop()


LISTENERS = [
    *(
        "site",
        "secure",
        "secure_tls",
        "modern_tls",
        "sealed",
        "forged",
        "unverified",
        "sticky",
        "proxied",
        "limited",
        "limited_tcp",
        "spare",
        "spares",
        "idle",
        "mixed",
    ),
    *("by_name", "hashed", "checked", "agent", "one", "hasty", "stats", "metrics", "peer"),
]


def live(ports: Mapping[str, int], web: Web) -> dict[str, Any]:
    """The variables of the HAProxy that the tests below talk to."""

    def on(name: str, **fields: Any) -> dict[str, Any]:
        return {
            "name": name,
            "security_groups": ["web"],
            "bind": [f"127.0.0.1:{ports[name]}"],
            "port": web.port,
            "response_headers": [{"name": "X-Backend", "value": "%[be_name]"}],
            **fields,
        }

    quick = {"check_interval": "100ms", "check_rise": 1, "check_fall": 1}
    sealed = {"port": web.tls_port, "check": False}
    services = [
        on(
            "site",
            security_groups=["web", "api"],
            forwardfor=True,
            compression=True,
            compression_types=["text/html"],
            request_headers=[{"name": "X-Nasty", "value": NASTY}, {"name": "X-Gone", "action": "del"}, {"name": "X-Twice", "action": "add", "value": "2"}],
            redirects=[{"location": "/new place", "paths": ["/old"]}, {"prefix": "https://www.example.com", "hosts": ["example.com"], "code": 308}],
            rules=[
                {"hosts": ["admin.example.com"], "paths": ["/in"], "service": "api"},
                {"hosts": ["api.example.com", "*.example.net"], "service": "api"},
                {"paths": ["/api"], "service": "api"},
            ],
        ),
        {**on("site"), "name": "api", "bind": None},
        on("secure", redirect_to_https=True, tls={"bind": [f"127.0.0.1:{ports['secure_tls']}"], "certificates": ["CERTIFICATES"]}),
        {
            **on("site"),
            "name": "modern",
            "bind": [],
            "tls": {"bind": f"127.0.0.1:{ports['modern_tls']}", "certificates": "CERTIFICATES", "http2": False, "min_version": "TLSv1.3"},
        },
        on("sealed", **{**sealed, "check": True}, server_tls={"ca_file": "AUTHORITY", "sni": "inside.example.com"}, **quick),
        on("forged", **sealed, server_tls={"ca_file": "AUTHORITY", "verify_host": "other.example.com"}, error_files={503: "ERRORFILE"}),
        on("unverified", **sealed, server_tls={"verify": False}),
        on("sticky", cookie={"name": "SRV", "attributes": ["SameSite=Lax"]}),
        on("proxied", accept_proxy=True, send_proxy="v1"),
        on("limited", rate_limit={"requests": 5, "period": "1h"}),
        {**on("limited_tcp", rate_limit={"requests": 5, "period": "1h"}), "mode": "tcp", "response_headers": []},
        on("spare", security_groups=["dead"], servers=[{"name": "spare", "address": address(3), "backup": True}], **quick),
        on("spares", security_groups=["dead"], backup_security_groups=["web"], **quick),
        on("idle", security_groups=["api"], servers=[{"name": "spare", "address": address(1), "backup": True}]),
        on("mixed", security_groups=["web"], servers=[{"name": "further", "address": address(3)}]),
        {
            "name": "by_name",
            "mode": "tcp",
            "security_groups": ["web"],
            "bind": [f"127.0.0.1:{ports['by_name']}"],
            "port": web.port,
            "rules": [{"hosts": ["inside.example.com"], "service": "inside"}],
        },
        {"name": "inside", "mode": "tcp", "security_groups": ["api"], "port": web.tls_port},
        on("hashed", balance="hdr(X-User)", hash_type="consistent"),
        on("checked", security_groups=["web", "api"], check_path="/health", check_host="checked.example.com", check_expect="200", **quick),
        on("agent", security_groups=["web", "api"], agent_port=web.agent_port, agent_interval="100ms"),
        on("one", security_groups=[], servers=[{"name": "one", "address": address(1)}], server_maxconn=1, timeouts={"queue": "100ms"}),
        on("hasty", timeouts={"server": "200ms"}),
    ]
    return {
        "haproxy_autoscale_services": services,
        "haproxy_autoscale_stats_bind": f"127.0.0.1:{ports['stats']}",
        "haproxy_autoscale_stats_password": "it's # secret",
        "haproxy_autoscale_metrics_bind": f"127.0.0.1:{ports['metrics']}",
        "haproxy_autoscale_local_peer": "lb",
        "haproxy_autoscale_peers": [{"name": "lb", "address": "127.0.0.1", "port": ports["peer"]}],
    }


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def said(self) -> Any:
        return json.loads(self.body)


class Lb:
    """A HAProxy of one version on what the role wrote."""

    def __init__(self, balancer: Balancer, ports: Mapping[str, int]) -> None:
        self.balancer = balancer
        self.ports = ports

    def get(self, listener: str, path: str = "/", proxy: str = "", tls: ssl.SSLContext | None = None, pause: float = 0, **headers: str) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[listener], timeout=10)
        connection.connect()
        assert connection.sock
        if proxy:
            connection.sock.sendall(proxy.encode() + b"\r\n")
        time.sleep(pause)
        if tls:
            connection.sock = tls.wrap_socket(connection.sock, server_hostname="inside.example.com" if listener == "by_name" else "www.example.com")
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def reached(self, listener: str, requests: int = 12) -> set[str]:
        return {self.get(listener).said["instance"] for _number in range(requests)}

    def until_reached(self, listener: str, *numbers: int) -> bool:
        """Whether it comes to these instances and no other, as the first checks say."""
        for _attempt in range(100):
            if {self.get(listener).status for _number in range(3)} == {200} and self.reached(listener) == {address(number) for number in numbers}:
                return True
            time.sleep(0.05)
        return False


@pytest.fixture(scope="module", params=list(binaries().items()), ids=lambda item: item[0])
def lb(request: pytest.FixtureRequest, made: Made) -> Iterator[Lb]:
    version, binary = request.param
    ports, text = made.live[version]
    found = re.search(r"stats socket (\S+)", text)
    assert found
    balancer = Balancer(Path(found.group(1)).parent, binary)
    balancer.port = ports["site"]
    balancer.start(text)
    yield Lb(balancer, ports)
    balancer.stop()


def trusting(certificates: Certificates, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates.authority))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


@pytest.mark.parametrize(
    ("host", "path", "backend"),
    [
        ("www.example.com", "/", "site"),
        ("api.example.com", "/", "api"),
        ("API.Example.com:8080", "/x", "api"),
        ("a.b.example.net", "/", "api"),
        ("example.net", "/", "site"),
        ("notexample.net", "/", "site"),
        ("www.example.com", "/api", "api"),
        ("www.example.com", "/api/1?x=2", "api"),
        ("www.example.com", "/apis", "site"),
        ("admin.example.com", "/in/x", "api"),
        ("admin.example.com", "/out", "site"),
        ("www.example.com", "/in", "site"),
    ],
)
def test_hosts_and_paths_lead_to_the_service_of_their_rule(lb: Lb, host: str, path: str, backend: str) -> None:
    assert lb.get("site", path, Host=host).headers["X-Backend"] == backend


def test_an_instance_of_two_groups_is_one_server(lb: Lb) -> None:
    rows = [row[3] for row in lb.balancer.rows() if row[1] == "site"]
    assert rows == [instance_id(1), instance_id(2), instance_id(3)]


def test_redirects_keep_what_they_are_to_keep(lb: Lb, certificates: Certificates) -> None:
    answer = lb.get("site", "/old/page")
    assert (answer.status, answer.headers["Location"]) == (302, "/new place")
    answer = lb.get("site", "/a/b?c=d", Host="example.com")
    assert (answer.status, answer.headers["Location"]) == (308, "https://www.example.com/a/b?c=d")
    answer = lb.get("secure", "/a?b=c", Host="www.example.com")
    assert (answer.status, answer.headers["Location"]) == (301, "https://www.example.com/a?b=c")
    assert lb.get("secure_tls", "/a", tls=trusting(certificates)).said["path"] == "/a"


def test_tls_ends_here_with_the_certificate_of_the_name_and_http2_is_offered(lb: Lb, certificates: Certificates) -> None:
    def hello(listener: str, name: str, context: ssl.SSLContext) -> tuple[str | None, str | None]:
        with socket.create_connection(("127.0.0.1", lb.ports[listener]), timeout=10) as plain, context.wrap_socket(plain, server_hostname=name) as connection:
            return connection.selected_alpn_protocol(), connection.version()

    # The context checks that the certificate has the name.
    for name in ("www.example.com", "api.example.com"):
        assert hello("secure_tls", name, trusting(certificates, "h2", "http/1.1")) == ("h2", "TLSv1.3")
    old = trusting(certificates, "http/1.1")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert hello("secure_tls", "www.example.com", old) == ("http/1.1", "TLSv1.2")
    # The service with min_version TLSv1.3, and without HTTP/2.
    assert hello("modern_tls", "www.example.com", trusting(certificates, "h2", "http/1.1")) == ("http/1.1", "TLSv1.3")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        hello("modern_tls", "www.example.com", old)


def test_servers_are_spoken_to_by_tls_and_a_wrong_certificate_is_refused(lb: Lb) -> None:
    # Its checks pass as well, or it would be down.
    assert lb.until_reached("sealed", 1, 2)
    assert lb.get("unverified").status == 200
    refused = lb.get("forged")
    assert (refused.status, refused.body) == (503, b"sorry\n")


def test_a_cookie_keeps_a_client_at_its_server(lb: Lb) -> None:
    assert len(lb.reached("sticky")) == 2
    first = lb.get("sticky")
    cookie = first.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    again = [lb.get("sticky", Cookie=cookie.partition(";")[0]) for _number in range(8)]
    assert {answer.said["instance"] for answer in again} == {first.said["instance"]}
    assert all("cookie" not in answer.said["headers"] for answer in again)


def test_the_proxy_protocol_is_taken_and_handed_on(lb: Lb) -> None:
    answer = lb.get("proxied", proxy="PROXY TCP4 192.0.2.7 192.0.2.8 1234 80")
    assert answer.said["proxy"] == "PROXY TCP4 192.0.2.7 192.0.2.8 1234 80"
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        lb.get("proxied")


def test_backup_servers_serve_when_the_others_are_down_and_not_before(lb: Lb) -> None:
    assert lb.until_reached("spare", 3)
    # All instances of a group, where HAProxy by itself takes the first backup server alone.
    assert lb.until_reached("spares", 1, 2)
    assert lb.reached("idle") == {address(2), address(3)}


def test_further_servers_stand_beside_the_instances(lb: Lb) -> None:
    assert lb.until_reached("mixed", 1, 2, 3)


def test_tcp_goes_by_the_name_that_tls_asks_for_and_is_not_opened(lb: Lb, certificates: Certificates) -> None:
    # The client's first word may come late.
    for pause in (0, 0.3):
        assert lb.get("by_name", tls=trusting(certificates), pause=pause).said["instance"] in (address(2), address(3))


def test_hashing_keeps_a_user_at_a_server(lb: Lb) -> None:
    users = {user: {lb.get("hashed", X_User=user).said["instance"] for _number in range(4)} for user in "abcdefgh"}
    assert {len(instances) for instances in users.values()} == {1}
    assert len(set.union(*users.values())) == 2


def test_an_http_check_asks_by_name_and_takes_out_who_answers_otherwise(lb: Lb) -> None:
    assert lb.until_reached("checked", 1, 3)


def test_an_agent_can_take_its_instance_out(lb: Lb) -> None:
    assert lb.until_reached("agent", 1, 3)


def test_a_request_waits_in_the_queue_only_so_long(lb: Lb) -> None:
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(lb.get("one", "/slow").status)) for _number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 503]


def test_timeouts_are_the_services_own(lb: Lb) -> None:
    assert lb.get("hasty").status == 200
    assert lb.get("hasty", "/slow").status == 504


def test_headers_arrive_as_they_were_written(lb: Lb) -> None:
    said = lb.get("site", X_Gone="x", X_Twice="1").said["headers"]
    assert said["x-nasty"] == [NASTY]
    assert said["x-forwarded-for"] == ["127.0.0.1"]
    assert "x-gone" not in said
    assert said["x-twice"] == ["1", "2"]


def test_answers_of_the_named_kinds_are_compressed(lb: Lb) -> None:
    page = lb.get("site", "/page?type=text/html", Accept_Encoding="gzip")
    assert (page.headers["Content-Encoding"], len(page.body) < 1000) == ("gzip", True)
    assert lb.get("site", "/page?type=text/html").headers["Content-Encoding"] is None
    assert lb.get("site", "/page?type=image/png", Accept_Encoding="gzip").headers["Content-Encoding"] is None


def test_statistics_want_the_password_and_metrics_are_for_prometheus(lb: Lb) -> None:
    assert lb.get("stats").status == 401
    word = base64.b64encode(b"admin:it's # secret").decode()
    assert lb.get("stats", "/;csv", Authorization=f"Basic {word}").status == 200
    metrics = lb.get("metrics", "/metrics")
    assert (metrics.status, b'haproxy_backend_status{proxy="site"' in metrics.body) == (200, True)
    assert lb.get("metrics", "/").status == 404


def test_who_connects_too_often_in_tcp_is_refused(lb: Lb) -> None:
    assert [lb.get("limited_tcp").status for _number in range(5)] == [200] * 5
    for _number in range(2):
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            lb.get("limited_tcp")


def test_who_asks_too_often_gets_429_and_a_reload_does_not_forget_it(lb: Lb) -> None:
    """The last of what runs, because it replaces the process."""
    assert [lb.get("limited").status for _number in range(7)] == [200] * 5 + [429] * 2

    def until(said: str, command: str, path: Path) -> bool:
        for _attempt in range(200):
            with contextlib.suppress(OSError):
                if re.search(said, ask(path, command)):
                    return True
            time.sleep(0.1)
        return False

    balancer = lb.balancer
    # For some seconds after its start 2.6 has nothing to hand on.
    assert until(r"Uptime_sec: ([6-9]|\d\d)", "show info", balancer.stats_socket)
    before = balancer.worker()
    ask(balancer.master_socket, "reload")
    assert until(rf"(?m)^Pid: (?!{before}$)", "show info", balancer.stats_socket)
    assert until(r"http_req_rate\(3600000\)=7", "show table limited", balancer.stats_socket)
    assert lb.get("limited").status == 429


# Wrong values.

# A field and its wrong value in a service that is right otherwise, what else is set in it, and what is said of the field.
WRONG: list[tuple[str, Any, dict[str, Any], str]] = [
    ("frontend", "www\n", {}, "be letters"),
    ("frontend", "stats", {}, "be a name that no other frontend and no backend has"),
    ("port", 0, {}, "be 1 to 65535, and is '0'"),
    ("port", 65536, {}, "be 1 to 65535, and is '65536'"),
    ("bind", [""], {}, "be one line, an address first"),
    ("bind", ["127.0.0.1:1\nlisten evil"], {}, "be one line, an address first, without '#', and is '127.0.0.1:1\\nlisten evil'"),
    ("bind", "127.0.0.1:8404", {}, "be where no other frontend listens, and is '127.0.0.1:8404'"),
    ("bind", "127.0.0.1:2", {"tls": {"certificates": "/a.pem", "bind": "127.0.0.1:2"}}, "be where no other frontend listens"),
    ("bind", ["127.0.0.1:1 # main"], {}, "be one line, an address first, without '#', and is '127.0.0.1:1 # main'"),
    ("maxconn", -1, {}, "be 0 or more"),
    ("server_maxconn", -1, {}, "be 0 or more"),
    ("server_options", "weight 1\nserver evil 192.0.2.66", {}, "be one line"),
    ("server_options", "weight 1 # light", {}, "be one line without '#'"),
    ("balance", "uri\n", {}, "be the words behind HAProxy's balance"),
    ("hash_type", "djb2", {}, "begin with consistent or map-based"),
    ("check_path", "health", {}, "begin with / and have no spaces"),
    ("check_path", "/health HTTP/1.1\r\nHost: x", {}, "begin with / and have no spaces"),
    ("check_host", "a b", {"check_path": "/"}, "be a host name"),
    ("check_host", "www.example.com", {}, "have a check_path with it"),
    ("check_version", "HTTP/1.1", {"check_path": "/"}, "have a check_host with it"),
    ("check_expect", "200,", {"check_path": "/"}, "be statuses, as 200-299,404"),
    ("check_port", 70000, {}, "be 0 to 65535"),
    ("check_interval", "1 s", {}, "be a time with its unit, such as"),
    ("check_interval", 2, {}, "be a time with its unit, such as 500ms, 30s or 15m, and is '2'"),
    ("check_rise", -1, {}, "be 0 or more"),
    ("check_fall", -1, {}, "be 0 or more"),
    ("agent_port", -1, {}, "be 0 to 65535"),
    ("agent_interval", "5s", {}, "have an agent_port with it"),
    ("agent_interval", "soon", {"agent_port": 1}, "be a time with its unit, such as"),
    ("compression_types", ["html"], {}, "be media types"),
    ("compression_types", [], {"compression": True}, "name a media type"),
    ("error_files", {"999": "/x.http"}, {}, "be absolute paths without spaces, of statuses that HAProxy answers with, and is '999: /x.http'"),
    ("error_files", {"503": "x.http"}, {}, "be absolute paths"),
    ("server_tls", {}, {}, "have a ca_file of your own, sni or verify_host"),
    ("redirects", [{"code": 301}], {}, "have either a location or a prefix"),
    ("redirects", [{"location": "/a", "prefix": "/b"}], {}, "have either a location or a prefix"),
    ("rules", [{"service": "more"}], {}, "have hosts or paths"),
    ("tls.certificates", "a.pem", {"bind": "127.0.0.1:3"}, "be absolute paths without spaces, and is 'a.pem'"),
    ("tls.certificates", [], {}, "name a file or folder"),
    ("tls.bind", "a\n", {"certificates": "/a"}, "be one line"),
    ("tls.bind", "127.0.0.1:7 # TLS", {"certificates": "/a"}, "be one line, an address first, without '#'"),
    ("tls.ciphers", "A B", {"certificates": "/a", "bind": "127.0.0.1:4"}, "be ciphers"),
    ("tls.ciphersuites", "A\n", {"certificates": "/a", "bind": "127.0.0.1:5"}, "be ciphers"),
    ("server_tls.ca_file", "ca.pem", {}, "be an absolute path"),
    ("server_tls.sni", "a b", {}, "be a host name"),
    ("server_tls.verify_host", "a)", {}, "be a host name"),
    ("cookie.name", "a b", {}, "be letters"),
    ("cookie.domain", "a b", {"name": "a"}, "be a domain"),
    ("cookie.maxidle", "long", {"name": "a"}, "be a time with its unit, such as"),
    ("cookie.maxlife", "long", {"name": "a"}, "be a time with its unit, such as"),
    ("cookie.attributes", ["a; b"], {"name": "a"}, "be one attribute each"),
    ("cookie.preserve", True, {"name": "a", "mode": "prefix"}, "not be there, because its mode is not insert"),
    ("cookie.dynamic_key", "secret-word\n", {"name": "a"}, "be one line."),
    ("rate_limit.requests", 0, {}, "be 1 or more"),
    ("rate_limit.period", "often", {"requests": 1}, "be a time with its unit, such as"),
    ("timeouts.client", "1 s", {}, "be a time with its unit, such as"),
    ("timeouts.server", 30, {}, "be a time with its unit, such as 500ms, 30s or 15m, and is '30'"),
    ("timeouts.queue", "0", {}, "be a time with its unit, such as"),
    ("servers[].name", "a b", {"address": "::1"}, "be letters"),
    ("servers[].name", "i-0123456789abcdef0", {"address": "::1"}, "be letters, digits, '-', '_', '.' and ':', and no instance's id"),
    ("servers[].address", "192.0.2.1 weight 1", {"name": "a"}, "be an address or a host name"),
    ("servers[].port", 0, {"name": "a", "address": "::1"}, "be 1 to 65535"),
    ("servers[].weight", 257, {"name": "a", "address": "::1"}, "be 0 to 256"),
    ("servers[].options", "a\n", {"name": "a", "address": "::1"}, "be one line"),
    ("redirects[].location", "/a\n", {}, "be one line"),
    ("redirects[].prefix", "/a\n", {}, "be one line"),
    ("redirects[].location", "/a%20b", {}, "be one line, with '%%' for a percent sign"),
    ("redirects[].prefix", "/100%", {}, "be one line, with '%%' for a percent sign"),
    ("redirects[].hosts", ["a b"], {"location": "/"}, "be host names"),
    ("redirects[].paths", ["a"], {"location": "/"}, "begin with /"),
    ("rules[].service", "nobody", {"paths": "/a"}, "be the name of a service, and is 'nobody'"),
    ("rules[].hosts", ["http://a"], {"service": "more"}, "be host names"),
    ("rules[].paths", ["a"], {"service": "more"}, "begin with /"),
    ("request_headers[].name", "X A", {"value": "a"}, "be the name of a header"),
    ("request_headers[].value", "a\r\nX-B: b", {"name": "X-A"}, "be one line, with '%%' for a percent sign, and is 'a\\r\\nX-B: b'"),
    ("request_headers[].value", "100% sure", {"name": "X-A"}, "be one line, with '%%' for a percent sign, and is '100% sure'"),
    ("response_headers[].name", "", {"value": "a"}, "be the name of a header"),
    ("response_headers[].value", "a\n", {"name": "X-A"}, "be one line"),
    # The specification takes a text "key=value" for a dict.
    *((field, "a=b", {}, "be a dict.") for field in ("tls", "server_tls", "cookie", "timeouts", "rate_limit", "error_files")),
    *((field, ["a=b"], {}, "be a list of dicts.") for field in ("servers", "redirects", "rules", "request_headers", "response_headers")),
    ("security_groups", [], {}, "name a group"),
    *(
        (field, value, {"mode": "tcp"}, "not be there, because its mode is tcp")
        for field, value in {
            "cookie": {"name": "a"},
            "forwardfor": True,
            "request_headers": [{"name": "a", "value": "b"}],
            "response_headers": [{"name": "a", "value": "b"}],
            "compression": True,
            "redirects": [{"location": "/"}],
            "redirect_to_https": True,
            "error_files": {"503": "/x"},
        }.items()
    ),
    ("balance", "hdr(X-A)", {"mode": "tcp"}, "be another, because its mode is tcp"),
    *(
        (field, value, {"security_groups": [], "redirect_to_https": True}, "not be there, because it has no servers")
        for field, value in {
            "cookie": {"name": "a"},
            "rate_limit": {"requests": 1},
            "forwardfor": True,
            "compression": True,
            "request_headers": [{"name": "a", "value": "b"}],
            "response_headers": [{"name": "a", "value": "b"}],
            "backend_lines": ["no log"],
            "send_proxy": "v1",
            "server_tls": {},
            "server_maxconn": 1,
            "server_options": "weight 1",
            "hash_type": "consistent",
            "check_path": "/",
            "agent_port": 1,
        }.items()
    ),
]

# Services that are wrong together.
AT_ODDS: list[tuple[list[dict[str, Any]], str]] = [
    ([service(name="a b")], "name of 'a b' must be letters"),
    ([service(name="shop\n")], "must be letters, digits, '-', '_', '.' and ':', and is 'shop\\n'"),
    ([service(), service(bind="127.0.0.1:1")], "must have different names, and two are 'shop'"),
    ([service(), service(name="b")], "bind of 'b' must be where no other frontend listens, and is '127.0.0.1:8080'"),
    ([service(bind="*:80"), service(name="b", bind=["127.0.0.1:1", ":80"])], "bind of 'b' must be where no other frontend listens, and is ':80'"),
    ([service(), service(name="b", bind="127.0.0.1:1", frontend="shop-in")], "frontend of 'b' must be a name that no other frontend and no backend has"),
    (
        [service(frontend="api"), {"name": "api", "security_groups": "api", "bind": "127.0.0.1:1"}],
        "frontend of 'shop' must be a name that no other frontend and no backend has, and is 'api'",
    ),
    ([service(name="stats")], "name of 'stats' must be another than that of the statistics' or metrics' frontend"),
    ([service(bind=[])], "must have a bind in one entry at least"),
    ([service(response_headers=[{"name": "X-A", "value": ""}])], "the header X-A of 'shop' must have a value, unless it is deleted"),
    ([service(request_headers=[{"name": "X-A"}])], "the header X-A of 'shop' must have a value, unless it is deleted"),
    ([service(servers=[{"name": "a", "address": "::1"}, {"name": "a", "address": "::2"}])], "servers.name of 'shop' must be different, and is 'a'"),
    (
        [service(mode="tcp", rules=[{"paths": "/a", "service": "b"}]), {"name": "b", "mode": "tcp", "security_groups": "web"}],
        "rules.paths of 'shop' must not be there, because its mode is tcp",
    ),
    (
        [service(rules=[{"paths": "/a", "service": "b"}]), {"name": "b", "mode": "tcp", "security_groups": "web"}],
        "rules.service of 'shop' must be a service of the same mode, and is 'b'",
    ),
    ([service(rules=[{"paths": "/a", "service": "b"}]), {"name": "b", "redirect_to_https": True}], "rules.service of 'shop' must be a service with servers"),
    (
        [service(security_groups=[], rules=[{"service": "b"}, {"service": "b", "paths": "/"}]), {"name": "b", "security_groups": "web"}],
        "rules of 'shop' must have hosts or paths, but for the last of a service without servers",
    ),
    *(
        (
            [service(rules=[{"paths": "/a", "service": "b"}]), {"name": "b", "security_groups": "web", field: value}],
            f"{field} of 'b' must not be there, because it listens nowhere",
        )
        for field, value in {
            "frontend": "b",
            "accept_proxy": True,
            "maxconn": 5,
            "redirects": [{"location": "/"}],
            "redirect_to_https": True,
            "rules": [{"paths": "/b", "service": "b"}],
            "frontend_lines": ["no log"],
        }.items()
    ),
]

# Variables of the role that go into the text as well.
WRONG_VARIABLES: list[tuple[str, Any, str]] = [
    ("name", "haproxy\n", "be letters"),
    ("config_path", "/etc/haproxy/haproxy.cfg\n", "be an absolute path"),
    ("hard_stop_after", "15m\n", "be a time"),
    ("user", "a b", "be a name"),
    ("group", "a\n", "be a name"),
    ("chroot", "var", "be an absolute path"),
    ("log", "/dev/log local0\ndaemon", "be one line"),
    ("stats_bind", "127.0.0.1:1\n", "be one line"),
    ("stats_user", "a\nb", "be one line"),
    ("stats_password", "secret-word\n", "be one line, and is 'not shown'"),
    ("metrics_bind", "127.0.0.1:1\n", "be one line"),
    ("metrics_bind", "127.0.0.1:8404", "be one line, and not haproxy_autoscale_stats_bind"),
    ("local_peer", "lb1", "be one of haproxy_autoscale_peers"),
    ("peers", [{"name": "a b", "address": "::1"}], "have different names"),
    ("peers", [{"name": "a", "address": "::1"}, {"name": "a", "address": "::1"}], "have different names"),
    ("peers", [{"name": "a", "address": "a b"}], "have an address each"),
    ("peers", [{"name": "a", "address": "::1", "port": 0}], "have an address each, and ports from 1 to 65535"),
]


def wrong_service(number: int, field: str, value: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    """A service with the value in the field; what else is set is beside it, in the same dict."""
    made = service(name=f"shop{number}", bind=f"127.0.0.1:{9000 + number}")
    outer, _dot, inner = field.partition(".")
    if not inner:
        return {**made, **more, outer: value}
    if "bind" in more and outer != "tls":
        made["bind"] = more["bind"]
    held = {**more, inner: value}
    return {**made, outer.removesuffix("[]"): [held] if outer.endswith("[]") else held}


def test_a_wrong_value_is_named_with_its_service_and_the_right_ones_are_not(tmp_path: Path) -> None:
    """All in one run of Ansible, and of the task only its sentences: that they end the run is shown with the role's other options."""
    # One text for all that are wrong alone, since each costs the translation of the whole.
    alone = [wrong_service(number, field, value, more) for number, (field, value, more, _must) in enumerate(WRONG)]
    cases = [
        [*alone, service(name="more", bind="127.0.0.1:6")],
        *(services for services, _said in AT_ODDS),
        *(feature.services for feature in FEATURES.values()),
    ]
    # Their paths are to be absolute.
    absolute = json.loads(re.sub("CERTIFICATES|AUTHORITY|ERRORFILE", r"/\g<0>", json.dumps(cases)))
    sets = [{"haproxy_autoscale_services": services, "part": "services"} for services in absolute]
    sets += [{f"haproxy_autoscale_{name}": value, "part": "role"} for name, value, _must in WRONG_VARIABLES]
    task = yaml.safe_load((ROLE / "tasks" / "preflight.yml").read_text())[0]
    usual = {"haproxy_autoscale_security_groups": ["web"], "haproxy_autoscale_stats_bind": "127.0.0.1:8404", "role_path": str(ROLE)}
    (tmp_path / "task.json").write_text(json.dumps({**task["vars"], **usual}))
    (tmp_path / "sentences.j2").write_text(
        "{% if part == 'services' %}{{ __haproxy_autoscale_wrong_services or '' }}{% else %}"
        "{% for check in __haproxy_autoscale_wrong %}{{ check.option }} must {{ check.must }}, and is '{{ check.value }}'. {% endfor %}{% endif %}"
    )
    of_alone, *of_others = [" ".join(text.split()) for text in templated(tmp_path, tmp_path / "sentences.j2", sets, tmp_path / "task.json")]
    expected = [f"{field.replace('[]', '')} of 'shop{number}' must {must}" for number, (field, _value, _more, must) in enumerate(WRONG)]
    assert [sentence for sentence in expected if sentence not in of_alone] == [], of_alone
    assert "'more'" not in re.sub("and is '.*?'", "", of_alone)
    assert "secret-word" not in " ".join([of_alone, *of_others])
    of_odds, of_features, of_variables = of_others[: len(AT_ODDS)], of_others[len(AT_ODDS) : -len(WRONG_VARIABLES)], of_others[-len(WRONG_VARIABLES) :]
    assert [(said, text) for (_services, said), text in zip(AT_ODDS, of_odds, strict=True) if said not in text] == []
    assert [text for text in of_features if text] == []
    # Each is the only one that is wrong.
    for (name, _value, must), text in zip(WRONG_VARIABLES, of_variables, strict=True):
        assert text.startswith(f"{name} must {must}"), text
        assert text.count(" must ") == 1, text


def test_when_the_sentences_cannot_be_made_nothing_passes(tmp_path: Path) -> None:
    task = yaml.safe_load((ROLE / "tasks" / "preflight.yml").read_text())[0]
    template = tmp_path / "task.j2"
    for text in (task["ansible.builtin.fail"]["msg"], f"{{{{ {task['when']} }}}}"):
        assert "__haproxy_autoscale_wrong_services" in text
        for sentences, raises in [("''", contextlib.nullcontext()), ("{}.missing", pytest.raises(AnsibleError))]:
            template.write_text(f"{{% set __haproxy_autoscale_wrong = [] %}}{{% set __haproxy_autoscale_wrong_services = {sentences} %}}{text}")
            with raises:
                render(template, {}, haproxy_autoscale_services=[service()])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prot": 80}, "prot"),
        ({"mode": "udp"}, "mode"),
        ({"port": "http"}, "port"),
        ({"check": "perhaps"}, "check"),
        ({"send_proxy": "v3"}, "send_proxy"),
        ({"check_method": "BREW"}, "check_method"),
        ({"check_version": "HTTP/3"}, "check_version"),
        ({"tls": {"bind": ["*:443"]}}, "certificates"),
        ({"tls": {"certificates": ["/a"], "min_version": "SSLv3"}}, "min_version"),
        ({"tls": {"certificates": ["/a"], "cipher": "A"}}, "cipher"),
        ({"server_tls": {"verify": "perhaps"}}, "verify"),
        ({"cookie": {}}, "name"),
        ({"cookie": {"name": "a", "mode": "passive"}}, "mode"),
        ({"timeouts": {"clients": "5s"}}, "clients"),
        ({"rate_limit": {}}, "requests"),
        ({"servers": [{"name": "a"}]}, "address"),
        ({"redirects": [{"location": "/", "code": 300}]}, "code"),
        ({"rules": [{"hosts": ["a"]}]}, "service"),
        ({"request_headers": [{"action": "set"}]}, "name"),
        ({"response_headers": [{"name": "a", "action": "append"}]}, "action"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_value_at_all_is_named_by_the_specification(fields: dict[str, Any], said: str) -> None:
    name = "haproxy_autoscale_services"
    validator = ArgumentSpecValidator({name: SPECIFICATION[name]})
    assert validator.validate({name: [service()]}).error_messages == []
    messages = validator.validate({name: [service(**fields)]}).error_messages
    assert any(re.search(rf"\b{said}\b", message) and name in message for message in messages), messages
