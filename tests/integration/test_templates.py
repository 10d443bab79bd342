# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the templates make of instances, judged by every HAProxy at hand: backends by tag, the macros, the old script's examples, the gallery."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gallery
import pytest
from ansible.errors import AnsibleError
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale.haproxy_ids import of_name
from balancer import ROOT
from haproxy_binaries import binaries
from rendering import judged, render
from server_ids import without_ids
from test_documents import SPECIFICATION, assert_default
from test_templating import HOSTILE

Instance = dict[str, Any]
Render = Callable[..., str]


def one(number: int, *, address: str = "", **tags: str) -> Instance:
    """An instance as the discovery gives it; launched in the order of the numbers."""
    return {
        "instance_id": f"i-{number:017x}",
        "address": address or f"10.0.0.{number}",
        "launch_time": f"2026-01-31T06:00:{number:02d}Z",
        "tags": tags,
    }


def app(number: int, name: str = "shop", port: str = "8080", **more: str) -> Instance:
    return one(number, AppName=name, AppPort=port, **more)


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, Any]:
    """What keeps a text from being about this machine."""
    # It is there from the first apply on; 2.6 warns of a missing one.
    (tmp_path / "haproxy.server-state").write_text("1\n")
    empty = dict.fromkeys(("haproxy_autoscale_user", "haproxy_autoscale_group", "haproxy_autoscale_chroot", "haproxy_autoscale_log"), "")
    return {**empty, "haproxy_autoscale_state_dir": str(tmp_path)}


@pytest.fixture
def by_tag(surroundings: dict[str, Any]) -> Render:
    """The text of the template for these instances, which every HAProxy takes without a word."""

    def made(*instances: Instance, more: dict[str, Any] | None = None, **keys: Any) -> str:
        variables = {**surroundings, "haproxy_autoscale_by_tag": {"domain": "example.com", **keys}, **(more or {})}
        text = render(ROOT / "templates" / "haproxy-by-tag.cfg.j2", {"webheads": instances}, **variables)
        assert_no_complaint(text)
        return text

    return made


def assert_no_complaint(text: str) -> None:
    assert {version: judged(binary, text) for version, binary in binaries().items()} == dict.fromkeys(binaries(), (0, "")), text


def backends(text: str) -> dict[str, list[str]]:
    """The backends with their server lines, without the word in front and the id that the template made of the name."""
    found: dict[str, list[str]] = {}
    section: list[str] = []
    for line in without_ids(text).splitlines():
        words = line.split(None, 1)
        if words and not line.startswith(" "):
            section = found.setdefault(words[1], []) if words[0] == "backend" else []
        elif words[:1] == ["server"]:
            section.append(words[1])
    return found


def hosts(text: str) -> dict[str, str]:
    """Host name to backend."""
    return {host: name for name, host in re.findall(r"^    use_backend (\S+) if \{ req\.hdr\(host\),host_only -i (\S+) \}$", text, re.MULTILINE)}


def warnings(text: str) -> list[str]:
    return re.findall(r"^# WARNING: (.*)$", text, re.MULTILINE)


def named(number: int) -> str:
    return f"i-{number:017x}"


# Backends by tag.


def test_each_application_is_a_backend_with_a_host_of_its_own_and_the_ports_of_its_instances(by_tag: Render) -> None:
    text = by_tag(app(1), app(2, "search", "9000"), app(3))
    assert backends(text) == {"search": [f"{named(2)} 10.0.0.2:9000 check"], "shop": [f"{named(1)} 10.0.0.1:8080 check", f"{named(3)} 10.0.0.3:8080 check"]}
    assert hosts(text) == {"search.example.com": "search", "shop.example.com": "shop"}
    assert "left out" not in text
    assert warnings(text) == []


def test_prefixes_stand_before_the_application_in_their_order(by_tag: Render) -> None:
    text = by_tag(app(1, Environment="prd", AppVersion="42"), app(2, Environment="dev", AppVersion="42"), prefixes=["Environment", "AppVersion"])
    assert hosts(text) == {"dev-42-shop.example.com": "dev-42-shop", "prd-42-shop.example.com": "prd-42-shop"}


def test_an_instance_of_two_groups_is_one_server_and_an_ipv6_address_has_brackets(surroundings: dict[str, Any]) -> None:
    both = one(1, address="2001:db8::1", AppName="shop", AppPort="80")
    text = render(ROOT / "templates" / "haproxy-by-tag.cfg.j2", {"a": [both], "b": [both]}, **surroundings, haproxy_autoscale_by_tag={"domain": "example.com"})
    assert_no_complaint(text)
    assert backends(text) == {"shop": [f"{named(1)} [2001:db8::1]:80 check"]}


def test_an_instance_without_the_applications_tag_is_listed_and_one_that_lacks_another_is_warned_of(by_tag: Render) -> None:
    text = by_tag(app(1, Environment="prd"), one(2, Name="bastion"), one(3, Appname="shop", AppPort="80"), app(4), prefixes=["Environment"])
    assert [server.split()[0] for server in backends(text)["prd-shop"]] == [named(1)]
    assert f"# left out: {named(2)}: no tags Environment, AppName, AppPort\n# left out: {named(3)}: no tags Environment, AppName\n" in text
    assert warnings(text) == [f"left out: {named(4)}: no tag Environment"]


@pytest.mark.parametrize("port", ["", "0", "65536", "http", "-1", "80 # x", "80\u0660", "80 weight 1", " 80"])
def test_a_port_that_is_none_leaves_out_one_instance_and_says_so(by_tag: Render, port: str) -> None:
    text = by_tag(app(1), app(2, port=port))
    assert backends(text) == {"shop": [f"{named(1)} 10.0.0.1:8080 check"]}
    (said,) = warnings(text)
    assert said.startswith(f"left out: {named(2)}: AppPort must be 1 to 65535, and is ")


def test_instances_that_disagree_on_the_port_keep_theirs_and_the_disagreement_is_said(by_tag: Render) -> None:
    text = by_tag(app(1), app(2, port="8081"), app(3), app(4, "search", "1"))
    assert [server.split()[1] for server in backends(text)["shop"]] == ["10.0.0.1:8080", "10.0.0.2:8081", "10.0.0.3:8080"]
    assert warnings(text) == [f"backend shop: its instances do not agree on AppPort: 8080 ({named(1)}, {named(3)}), 8081 ({named(2)})"]


def test_a_name_is_made_safe_and_one_of_which_nothing_is_left_leaves_out_its_instance(by_tag: Render) -> None:
    text = by_tag(app(1, "My shop: 2"), app(2, "日本"), app(3, ".."), app(4, "a_b.c-D"))
    assert hosts(text) == {"a_b.c-d.example.com": "a_b.c-D", "my-shop-2.example.com": "My-shop-2"}
    assert [said.partition(": no name can be made of AppName")[0] for said in warnings(text)] == [f"left out: {named(2)}", f"left out: {named(3)}"]


def test_two_spellings_of_one_name_are_never_mixed_and_the_older_instance_has_it(by_tag: Render) -> None:
    for first, second in [("my app", "my-app"), ("Shop", "shop"), ("shop", "Shop")]:
        text = by_tag(app(2, first), app(1, second), app(3, first), app(4, second))
        ((name, servers),) = backends(text).items()
        assert name == second
        assert [server.split()[0] for server in servers] == [named(1), named(4)]
        assert hosts(text) == {f"{second.lower()}.example.com": second}
        assert [said.split()[2] for said in warnings(text)] == [f"{named(2)}:", f"{named(3)}:"]
        assert all(f"of {named(1)}" in said for said in warnings(text))
    # The parts of a name can be cut in two ways.
    text = by_tag(app(1, "c", Environment="a-b"), app(2, "b-c", Environment="a"), prefixes=["Environment"])
    assert [server.split()[0] for server in backends(text)["a-b-c"]] == [named(1)]
    assert len(warnings(text)) == 1


def test_no_application_takes_the_name_of_another_section(by_tag: Render) -> None:
    extra = ["backend static", "    server fixed 127.0.0.1:1", "listen more\n    bind 127.0.0.1:9001"]
    names = ["static", "more", "by-tag", "http", "stats", "if", "unless", "global"]
    more = {"haproxy_autoscale_extra_lines": extra, "haproxy_autoscale_stats_bind": "127.0.0.1:9002"}
    text = by_tag(*(app(number, name) for number, name in enumerate(names, 1)), more=more)
    assert set(backends(text)) == {*names} - {"more"}
    assert backends(text)["static"] == ["fixed 127.0.0.1:1"]
    assert [said.partition(": a section of haproxy_autoscale_extra_lines has its name ")[2] for said in warnings(text)] == ["static", "more"]


def test_no_tag_whatever_brings_a_line_or_stops_the_rest(by_tag: Render) -> None:
    # As the discovery passes them on: without control characters.
    tags = [re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text) for text in HOSTILE]
    instances = [
        app(1),
        *(app(2 + 2 * place, tag, "80") for place, tag in enumerate(tags)),
        *(app(3 + 2 * place, "shop", tag) for place, tag in enumerate(tags)),
    ]
    text = by_tag(*instances)
    first = {line.split()[0] for line in text.splitlines() if line.split()}
    sections = {"global", "defaults", "frontend", "backend"}
    assert first <= {*sections, "#", "stats", "server-state-file", "hard-stop-after", "mode", "option", "timeout", "retries", "load-server-state-from-file"} | {
        "bind",
        "use_backend",
        "balance",
        "server",
    }
    assert all(len(line.split()) == 4 for line in without_ids(text).splitlines() if line.split()[:1] == ["server"])
    assert [server.split()[0] for server in backends(text)["shop"]] == [named(1)]
    assert len([line for line in text.splitlines() if line.startswith("backend ")]) == len(set(hosts(text).values()))


def test_what_is_asked_for_stands_in_every_backend(by_tag: Render) -> None:
    text = by_tag(
        app(1),
        app(2, "search"),
        bind=["127.0.0.1:80", "127.0.0.1:81"],
        balance="leastconn",
        cookie=True,
        check_path="/health",
        server_options="ssl verify required ca-file @system-ca",
        frontend_lines=["default_backend shop"],
        backend_lines=["timeout queue 1s"],
    )
    assert "    bind 127.0.0.1:80\n    bind 127.0.0.1:81\n" in text
    for name, number in [("shop", 1), ("search", 2)]:
        (section,) = re.findall(rf"^backend {name}\n(.*?)(?:\n\n|\Z)", without_ids(text), re.MULTILINE | re.DOTALL)
        assert section.strip().splitlines() == [
            line if line == "balance leastconn" else f"    {line}"
            for line in [
                "balance leastconn",
                "option httpchk GET /health",
                "cookie SERVERID insert indirect nocache",
                "timeout queue 1s",
                f"server {named(number)} 10.0.0.{number}:8080 check cookie {named(number)} ssl verify required ca-file @system-ca",
            ]
        ]


def test_global_and_defaults_are_those_of_the_default_template(surroundings: dict[str, Any]) -> None:
    more = {
        **surroundings,
        "haproxy_autoscale_log": "127.0.0.1 local0",
        "haproxy_autoscale_user": "haproxy",
        "haproxy_autoscale_group": "haproxy",
        "haproxy_autoscale_chroot": "/var/empty",
        "haproxy_autoscale_maxconn": 100,
        "haproxy_autoscale_global_lines": ["nbthread 1"],
        "haproxy_autoscale_defaults_lines": ["timeout queue 1s"],
        "haproxy_autoscale_stats_bind": "127.0.0.1:9001",
        "haproxy_autoscale_stats_user": "a b",
        "haproxy_autoscale_stats_password": "it's # secret",
        "haproxy_autoscale_metrics_bind": "127.0.0.1:9002",
        "haproxy_autoscale_peers": [{"name": "lb1", "address": "127.0.0.1", "port": 9003}, {"name": "lb2", "address": "::1"}],
        "haproxy_autoscale_local_peer": "lb1",
        "haproxy_autoscale_stats_lines": ["http-request deny unless { src 127.0.0.1 }"],
        "haproxy_autoscale_metrics_lines": "http-request deny unless { src 127.0.0.1 }",
        "haproxy_autoscale_peers_lines": ["table t type ip size 1k"],
        "haproxy_autoscale_by_tag": {"domain": "example.com", "bind": "127.0.0.1:9000"},
    }

    def head(name: str, first_of_services: str) -> list[str]:
        text = render(ROOT / "templates" / name, {"webheads": [app(1)]}, **more)
        assert_no_complaint(re.sub(r"^    (user|group|chroot) .*\n", "", text, flags=re.MULTILINE))
        lines = text[text.index("\nglobal\n") : text.index(f"\nfrontend {first_of_services}\n")].splitlines()
        # No backend can have the names that the frontends have there.
        return [line.replace("frontend by-tag:", "frontend ").replace("    mode http", "") for line in lines if line.strip() and line.strip()[0] != "#"]

    mine, usual = head("haproxy-by-tag.cfg.j2", "by-tag:http"), head("haproxy.cfg.j2", "webheads-in")
    assert [line for line in mine if line] == [line for line in usual if line]
    assert "    stats auth 'a b:it'\\''s # secret'" in mine


def test_a_line_that_is_no_list_is_one_line(by_tag: Render) -> None:
    more = {f"haproxy_autoscale_{name}_lines": line for name, line in [("global", "nbthread 1"), ("defaults", "timeout queue 1s"), ("extra", "backend more")]}
    text = by_tag(app(1), frontend_lines="no log", backend_lines="http-reuse safe", more=more)
    assert [
        line for line in ["    nbthread 1", "    timeout queue 1s", "backend more", "    no log", "    http-reuse safe"] if line not in text.splitlines()
    ] == []
    # And the name of a section in it is taken.
    assert warnings(by_tag(app(1), app(2, "more"), more=more)) == [f"left out: {named(2)}: a section of haproxy_autoscale_extra_lines has its name more"]


def test_other_tags_can_say_application_and_port(by_tag: Render) -> None:
    text = by_tag(one(1, service="shop", port="81"), app(2), app_tag="service", port_tag="port")
    assert backends(text) == {"shop": [f"{named(1)} 10.0.0.1:81 check"]}
    assert f"# left out: {named(2)}: no tags service, port\n" in text


def test_without_a_domain_or_a_usable_instance_there_is_no_text(by_tag: Render) -> None:
    for domain in ["", None, "example.com\n", "example.com }", "*.example.com"]:
        with pytest.raises(AnsibleError, match=r"haproxy_autoscale_by_tag\.domain must be a domain such as example\.com"):
            by_tag(app(1), domain=domain)
    with pytest.raises(AnsibleError, match=f"no instance has usable tags. left out: {named(1)}: AppPort must be .*; {named(2)}: no tags AppName, AppPort"):
        by_tag(app(1, port="x"), one(2))
    assert backends(by_tag(one(2), more={"haproxy_autoscale_minimum_instances": 0})) == {}
    with pytest.raises(AnsibleError, match=r"haproxy_autoscale_by_tag\.check_path must begin with / and have no spaces, and is "):
        by_tag(app(1), check_path="health")


def test_a_key_that_is_null_is_as_if_it_were_not_there(by_tag: Render) -> None:
    keys = [key for key in SPECIFICATION["haproxy_autoscale_by_tag"]["options"] if key != "domain"]
    assert by_tag(app(1), **dict.fromkeys(keys)) == by_tag(app(1))


def test_the_gallery_has_each_key_with_its_default() -> None:
    (section,) = re.findall(r"^The keys of `haproxy_autoscale_by_tag`:\n(.*?)^Of the role", gallery.PAGE.read_text(), re.MULTILINE | re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| `")]
    keys = SPECIFICATION["haproxy_autoscale_by_tag"]["options"]
    assert [row[0] for row in rows] == [f"`{name}`" for name in keys]
    for (name, key), row in zip(keys.items(), rows):
        if name == "domain":
            assert row[1] == "required"
        else:
            assert_default(name, row[1], key["default"])


# Macros.

HEAD = """{% import 'haproxy-macros.j2' as haproxy %}
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend www
    bind 127.0.0.1:80
    default_backend web
backend web
    cookie SERVERID insert indirect nocache
"""


@pytest.fixture
def own(tmp_path: Path) -> Render:
    """The server lines of a template of the user's own, in a folder of their own."""

    def made(line: str, *instances: Instance) -> list[str]:
        template = tmp_path / "own.cfg.j2"
        template.write_text(HEAD + line + "\n")
        text = render(template, {"webheads": instances})
        assert_no_complaint(text)
        return without_ids(text).partition(" nocache\n")[2].splitlines()

    return made


def test_a_template_anywhere_gets_server_lines_from_the_macros(own: Render) -> None:
    lines = own("{{ haproxy.servers(instances['webheads'] + instances['webheads'], port=81) }}", one(2), one(1, address="2001:db8::1"))
    assert lines == [f"    server {named(1)} [2001:db8::1]:81 check", f"    server {named(2)} 10.0.0.2:81 check"]
    lines = own("{{ haproxy.server(instances.webheads[0], weight=0, cookie=true, check='no', options='maxconn 5') }}", one(1))
    assert lines == [f"    server {named(1)} 10.0.0.1:80 cookie {named(1)} weight 0 maxconn 5"]
    assert "".join(own("{{ haproxy.servers(instances['webheads']) }}")).strip() == ""


def test_what_an_instance_does_not_have_or_cannot_have_is_named(own: Render) -> None:
    with pytest.raises(AnsibleError, match=r"server\(\) of haproxy-macros\.j2: the port of \S+ must be 1 to 65535, and is \S*80 x"):
        own("{{ haproxy.servers(instances['webheads'], port='80 x') }}", one(1))
    with pytest.raises(AnsibleError, match=r"server\(\) of haproxy-macros\.j2: the weight of \S+ must be 0 to 256, and is \S*257"):
        own("{{ haproxy.servers(instances['webheads'], weight=257) }}", one(1))
    with pytest.raises(AnsibleError, match="'no_such_name' is undefined"):
        own("{{ no_such_name }}")
    with pytest.raises(AnsibleError, match="has no attribute 'Version'"):
        own("{{ instances['webheads'][0].tags.Version }}", one(1))


def test_each_server_line_of_our_templates_has_the_id_that_haproxy_facts_takes_for_a_templates_own() -> None:
    """The texts of the gallery: all templates, with backup servers and static ones."""
    lines = [line.split() for _name, text in gallery.results(gallery.PAGE.read_text()) for line in text.splitlines() if line.split()[:1] == ["server"]]
    assert len(lines) > 30
    assert [line for line in lines if line[3:5] != ["id", str(of_name(line[1]))]] == []


def test_the_macro_and_haproxy_facts_make_the_same_id_of_a_name(tmp_path: Path) -> None:
    template = tmp_path / "own.cfg.j2"
    template.write_text("{% import 'haproxy-macros.j2' as haproxy %}{% for name in names %}{{ haproxy.server_id(name) }} {% endfor %}")
    names = ["", "a", "ü日本", "x" * 300, *map(named, range(100))]
    assert render(template, {}, names=names).split() == [str(of_name(name)) for name in names]


def test_an_id_of_the_users_own_is_the_only_one(surroundings: dict[str, Any], own: Render) -> None:
    assert own("{{ haproxy.servers(instances['webheads'], options='maxconn 5 id 7') }}", one(1)) == [f"    server {named(1)} 10.0.0.1:80 check maxconn 5 id 7"]
    services = [
        {"name": "shop", "bind": ["127.0.0.1:80"], "security_groups": ["webheads"], "server_options": "id 5"},
        {
            "name": "api",
            "bind": ["127.0.0.1:81"],
            "server_options": "observe layer4",
            "servers": [{"name": "a", "address": "192.0.2.1", "options": "id 6"}, {"name": "b", "address": "192.0.2.2", "options": "backup"}],
        },
        {"name": "spare", "bind": ["127.0.0.1:82"], "backup_security_groups": ["webheads"], "server_options": "id 8"},
        {"name": "old", "bind": ["127.0.0.1:83"], "servers": [{"name": "c", "address": "192.0.2.3"}], "server_options": "id 9"},
    ]
    text = render(ROOT / "templates" / "haproxy.cfg.j2", {"webheads": [one(1)]}, **surroundings, haproxy_autoscale_services=services)
    assert_no_complaint(text)
    assert {name: found for name, line in re.findall(r"^    server (\S+) (.*)$", text, re.MULTILINE) for found in [re.findall(r"\bid (\d+)", line)]} == {
        named(1): ["8"],
        "a": ["6"],
        "b": [str(of_name("b"))],
        "c": ["9"],
    }
    assert re.findall(rf"^    server {named(1)} .*$", text, re.MULTILINE) == [
        f"    server {named(1)} 10.0.0.1:80 check id 5",
        f"    server {named(1)} 10.0.0.1:80 check id 8 backup",
    ]


def test_macros_of_the_users_own_beside_the_template_are_taken_first(own: Render, tmp_path: Path) -> None:
    (tmp_path / "haproxy-macros.j2").write_text("{% macro servers(instances) %}    server mine 127.0.0.1:1{% endmacro %}\n")
    assert own("{{ haproxy.servers(instances['webheads']) }}", one(1)) == ["    server mine 127.0.0.1:1"]


@pytest.mark.parametrize(
    ("argument", "value"), [("port", "80 weight 1"), ("port", "80\\nlisten evil"), ("port", "0"), ("port", ""), ("weight", "257"), ("weight", "1 disabled")]
)
def test_a_port_or_weight_that_is_none_gives_no_line(own: Render, argument: str, value: str) -> None:
    with pytest.raises(AnsibleError, match=f"the {argument} of {named(1)} must be"):
        own(f'{{{{ haproxy.servers(instances["webheads"], {argument}="{value}") }}}}', one(1))


# What tags say.

TAGS = {f"haproxy_autoscale_{name}_tag": name.title() for name in ("port", "weight", "backup", "maxconn")}


def told(number: int, **settings: Any) -> Instance:
    """An instance whose tags say this."""
    return {**one(number), **dict.fromkeys(("port", "weight", "backup", "maxconn")), **settings}


def test_what_tags_say_stands_on_the_servers_line_in_place_of_what_the_service_says(surroundings: dict[str, Any]) -> None:
    everything = told(1, port=8081, weight=0, backup=True, maxconn=0)
    instances = {"a": [everything, told(2, backup=False, weight=7), told(3)], "b": [told(4, backup=False), told(5, port=8085)]}
    shared = {"port": 80, "server_maxconn": 9, "server_options": "weight 100  backup maxconn 8 inter 1s weight 50"}
    services = [
        {"name": "plain", "bind": ["127.0.0.1:81"], "security_groups": ["a"], "port": 82},
        {"name": "all", "bind": ["127.0.0.1:80"], "security_groups": ["a"], "backup_security_groups": ["b"], **shared},
    ]
    text = render(ROOT / "templates" / "haproxy.cfg.j2", instances, **surroundings, **TAGS, haproxy_autoscale_services=services)
    assert_no_complaint(text)
    assert backends(text) == {
        "plain": [
            f"{named(1)} 10.0.0.1:8081 check weight 0 maxconn 0 backup",
            f"{named(2)} 10.0.0.2:82 check weight 7",
            f"{named(3)} 10.0.0.3:82 check",
        ],
        "all": [
            f"{named(1)} 10.0.0.1:8081 check inter 1s weight 0 maxconn 0 backup",
            f"{named(2)} 10.0.0.2:80 check maxconn 9 maxconn 8 inter 1s weight 7",
            # What no tag says is left as the service says it.
            f"{named(3)} 10.0.0.3:80 check maxconn 9 weight 100  backup maxconn 8 inter 1s weight 50",
            f"{named(4)} 10.0.0.4:80 check maxconn 9 weight 100  maxconn 8 inter 1s weight 50 backup",
            f"{named(5)} 10.0.0.5:8085 check maxconn 9 weight 100  maxconn 8 inter 1s weight 50 backup",
        ],
    }
    # All that stand by serve then, and not the first of them alone; whether one does is no change of the backend itself.
    assert text.count("    option allbackups\n") == 2
    without = render(ROOT / "templates" / "haproxy.cfg.j2", {"a": [told(1)]}, **surroundings, haproxy_autoscale_services=services[:1])
    assert "allbackups" not in without


def test_the_other_templates_and_the_macros_take_what_tags_say(own: Render, by_tag: Render, surroundings: dict[str, Any]) -> None:
    instances = [told(1, port=8081, weight=20, backup=True, maxconn=5), told(2)]
    lines = own("{{ haproxy.servers(instances['webheads'], port=80, weight=9, cookie=true, options='maxconn 3 backup inter 1s') }}", *instances)
    assert lines == [
        f"    server {named(1)} 10.0.0.1:8081 check cookie {named(1)} inter 1s weight 20 maxconn 5 backup",
        f"    server {named(2)} 10.0.0.2:80 check cookie {named(2)} weight 9 maxconn 3 backup inter 1s",
    ]
    text = render(ROOT / "templates" / "haproxy-minimal.cfg.j2", {"webheads": [*instances, {**told(3), "address": "2001:db8::3"}]}, **surroundings)
    assert backends(text)["servers"] == [f"{named(1)} 10.0.0.1:8081 weight 20 maxconn 5 backup", f"{named(2)} 10.0.0.2:80", f"{named(3)} [2001:db8::3]:80"]
    # Its own tag says the port there.
    text = by_tag(*({**instance, "tags": {"AppName": "shop", "AppPort": "9000"}} for instance in instances), more=TAGS)
    assert backends(text)["shop"] == [f"{named(1)} 10.0.0.1:9000 check weight 20 maxconn 5 backup", f"{named(2)} 10.0.0.2:9000 check"]
    assert "    option allbackups\n" in text


@pytest.mark.parametrize("name", sorted(str(path.relative_to(ROOT)) for folder in ("templates", "docs/examples") for path in (ROOT / folder).glob("*.cfg.j2")))
def test_every_template_of_ours_writes_ipv6_as_haproxy_reads_it(surroundings: dict[str, Any], name: str) -> None:
    instances = [app(1, address="2001:db8::1"), app(2, address="::ffff:10.0.0.2")]
    variables = {
        **surroundings,
        "haproxy_autoscale_by_tag": {"domain": "example.com"},
        "haproxy_autoscale_services": [
            {"name": "shop", "security_groups": ["webheads"]},
            {"name": "b", "bind": ["*:81"], "backup_security_groups": ["webheads"]},
        ],
    }
    text = render(ROOT / name, {"webheads": instances, "tomcats": []}, **variables)
    text = re.sub(r"^    (user|group|chroot|server-state-file) .*\n", "", text, flags=re.MULTILINE)
    assert {version: judged(binary, text)[0] for version, binary in binaries().items()} == dict.fromkeys(binaries(), 0), text
    places = {line.split()[2].rpartition(":")[0] for line in text.splitlines() if line.split()[:1] == ["server"]}
    assert places == {"[2001:db8::1]", "[::ffff:10.0.0.2]"}


# The gallery.


def test_the_gallery_is_what_the_templates_give() -> None:
    page = gallery.PAGE.read_text()
    assert page == gallery.rendered(page), "make gallery"
    shown = {name for name, _text in gallery.results(page)}
    assert {str(path.relative_to(ROOT)) for folder in ("templates", "docs/examples") for path in (ROOT / folder).glob("*.cfg.j2")} <= shown


def test_haproxy_takes_each_text_of_the_gallery(tmp_path: Path) -> None:
    (tmp_path / "haproxy.server-state").write_text("1\n")
    texts = [text for _name, text in gallery.results(gallery.PAGE.read_text())]
    assert len(texts) >= 4
    for text in texts:
        # What this machine may lack.
        assert_no_complaint(re.sub(r"^    (user|group|chroot) .*\n", "", text.replace("/var/lib/haproxy-autoscale", str(tmp_path)), flags=re.MULTILINE))
