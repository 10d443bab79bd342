# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/moving-over.md is followed step by step: its templates, its playbooks, its commands and its cron line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mako.template
import pytest
import yaml
from backends import Backends
from balancer import ROOT, Balancer
from ec2_endpoint import Ec2Endpoint, instance, interface, security_group
from haproxy_binaries import binaries
from rendering import render
from stage import address, instance_id
from test_documents import Block, blocks
from test_templates import app, assert_no_complaint, backends, hosts, named, one, warnings

PAGE = ROOT / "docs" / "moving-over.md"
EXAMPLES = ROOT / "docs" / "examples"
BLOCKS = list(blocks(PAGE))


def of(*info: str) -> list[Block]:
    return [block for block in BLOCKS if block.info == list(info)]


# The templates of the old repository.

# Such as its mock data had: without the tags, with a misspelt one, two stages, one instance that has them all.
INSTANCES = [
    one(1, Name="example-1"),
    one(2, Name="example-2", Appname="HelloWorld", AppPort="8080", AppVersion="42"),
    app(3, "HelloWorld", Environment="dev", AppVersion="42", RedirectURI="/example/login.html"),
    app(4, "Foobar", Environment="dev", AppVersion="42"),
    app(5, "Foobar", "8081", Environment="dev", AppVersion="42"),
    app(6, "HelloWorld", Environment="prd", AppVersion="42", BooBaz="LoremIpsum"),
]


@pytest.fixture
def judged_text(tmp_path: Path) -> Any:
    """A template's text on instances such as the old ones, which every HAProxy takes without a word."""
    (tmp_path / "haproxy.server-state").write_text("1\n")

    def made(template: Path, **variables: Any) -> str:
        surroundings = {"haproxy_autoscale_state_dir": str(tmp_path), "haproxy_autoscale_chroot": ""}
        text = render(template, {"webheads": INSTANCES, "tomcats": INSTANCES[:2]}, **surroundings, **variables)
        # The user haproxy need not be on this machine.
        assert_no_complaint(re.sub(r"^    (user|group) haproxy\n", "", text, flags=re.MULTILINE))
        return text

    return made


def test_the_examples_of_the_old_repository_say_the_same_in_jinja(judged_text: Any) -> None:
    assert {path.name for path in EXAMPLES.glob("*.j2")} == {"two-groups.cfg.j2", "simple.cfg.j2"}
    assert backends(judged_text(EXAMPLES / "two-groups.cfg.j2")) == {
        "servers": [f"{named(number)} 10.0.0.{number}:80 check" for number in range(1, 7)],
        "java_servers": [f"{named(number)} 10.0.0.{number}:8080 check" for number in (1, 2)],
    }
    simple = backends(judged_text(EXAMPLES / "simple.cfg.j2"))
    assert simple["simple_exampletpl"] == [f"{named(number)} 10.0.0.{number}:80 check cookie {named(number)}" for number in range(1, 7)]
    assert (simple["haproxyconfig"], simple["haproxytemplate"]) == ([], [])


def test_the_automatic_examples_give_the_backends_that_the_class_gave(judged_text: Any) -> None:
    (_own, automatic) = (yaml.safe_load(block.text)[0]["roles"][0] for block in of("yaml", "playbook"))
    variables = dict(automatic["vars"])
    template = ROOT / "templates" / variables.pop("haproxy_autoscale_template")
    one_prefix, three_prefixes = (yaml.safe_load(block.text) for block in of("yaml"))

    def made(**more: Any) -> str:
        return str(judged_text(template, **{**variables, **more}))

    text = made()
    found = backends(text)
    assert {name: [server.split()[:2] for server in servers] for name, servers in found.items() if servers} == {
        "HelloWorld": [[named(3), "10.0.0.3:8080"], [named(6), "10.0.0.6:8080"]],
        "Foobar": [[named(4), "10.0.0.4:8080"], [named(5), "10.0.0.5:8081"]],
    }
    assert all(f"cookie {server.split()[0]}" in server for servers in found.values() for server in servers)
    assert {"haproxyconfig", "haproxytemplate"} < set(found)
    assert hosts(text) == {"helloworld.example.com": "HelloWorld", "foobar.example.com": "Foobar"}
    assert len(warnings(text)) == 1
    assert "do not agree on AppPort" in warnings(text)[0]

    assert set(hosts(made(**one_prefix)).values()) == {"dev-HelloWorld", "dev-Foobar", "prd-HelloWorld"}
    text = made(**three_prefixes)
    assert hosts(text) == {"prd-42-loremipsum-helloworld.example.com": "prd-42-LoremIpsum-HelloWorld"}
    assert [said.split(": ", 1)[1] for said in warnings(text)] == [f"{named(number)}: no tag BooBaz" for number in (3, 4, 5)]


# From an old template's text, by the page's own tables.

# As people had theirs: what the script's own example has, and each of the attributes that are still there.
OLD = """
global
    daemon
    maxconn 256

defaults
    mode http
    timeout connect 5000ms
    timeout client 5000ms
    timeout server 5000ms

frontend www *:80
    maxconn 50000
    default_backend servers

## The web servers.
backend servers
    balance roundrobin
    % for instance in instances['webheads']:
    # ${ instance.region.name } ${ instance.placement } ${ instance.vpc_id } ${ instance.private_dns_name } ${ instance.dns_name } ${ instance.ip_address }
    server ${ instance.id } ${ instance.private_ip_address }:80 weight ${ instance.tags['Weight'] }
    % endfor
    % if instances['tomcats']:
    server ${ instances['tomcats'][0].id } ${ instances['tomcats'][0].private_ip_address }:8080 backup
    % else:
    server none 127.0.0.1:1
    % endif
"""


def cells(heading: str) -> list[list[str]]:
    """The rows below a table's heading, each cell as the code in it."""
    (table,) = re.findall(rf"^\| {re.escape(heading)} \|\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE.read_text(), re.MULTILINE)
    return [[" … ".join(re.findall(r"`([^`]+)`", cell)) for cell in row.strip("|").split(" | ")] for row in table.splitlines()]


def rewritten(text: str) -> str:
    """What the page says to make of a Mako template."""
    patterns = {
        "% for x in y: … % endfor": [(r"^ *% for (.*):$", r"{% for \1 %}"), (r"^ *% endfor$", "{% endfor %}")],
        "% if x: … % endif": [(r"^ *% (if .*|else):$", r"{% \1 %}"), (r"^ *% endif$", "{% endif %}")],
        "${ x }": [(r"\$\{ (.*?) \}", r"{{ \1 }}")],
        "## a comment": [(r"^ *## (.*)$", r"{# \1 #}")],
    }
    attributes = {old: new.split(" … ")[0] for names, new in cells("boto | Here") for old in names.split(" … ") if new}
    for old, _new in cells("Mako | Jinja"):
        # Python within a template is not rewritten by rule.
        for pattern, replacement in patterns.pop(old, []):
            text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    assert patterns == {}
    text = re.sub(r"(?<=\.)(?:region\.name|[a-z_]+)\b", lambda found: attributes.get(found.group(), found.group()), text)
    return re.sub(r"^(frontend \S+) (\S+)$", r"\1\n    bind \2", text, flags=re.MULTILINE)


def test_an_old_template_rewritten_by_the_pages_tables_gives_the_same_servers(tmp_path: Path) -> None:
    (shortened,) = (block.text for block in of("text") if "% for" in block.text)
    groups: dict[str, list[dict[str, Any]]] = {"webheads": [], "tomcats": []}
    for number, group in ((1, "webheads"), (2, "webheads"), (3, "tomcats")):
        more = {
            "private_ip_address": f"10.0.0.{number}",
            "private_dns_name": f"ip-10-0-0-{number}.internal",
            "public_ip_address": f"192.0.2.{number}",
            "public_dns_name": f"ec2-{number}.example.com",
            "availability_zone": "eu-west-1a",
            "region": "eu-west-1",
            "vpc_id": "vpc-1",
        }
        groups[group].append({**one(number, Weight=str(number)), **more})
    new_names = {new.split(" … ")[0]: old.split(" … ")[0] for old, new in cells("boto | Here") if new}

    def of_boto(found: dict[str, Any]) -> SimpleNamespace:
        made = SimpleNamespace(tags=found["tags"], region=SimpleNamespace(name=found["region"]))
        for new, old in new_names.items():
            if new in found and "." not in old and "[" not in old:
                setattr(made, old, found[new])
        return made

    old_instances = {group: [of_boto(found) for found in members] for group, members in groups.items()}
    for text in (OLD.lstrip(), shortened):
        before = mako.template.Template(text).render(instances=old_instances)  # noqa: S702 - it makes no page
        template = tmp_path / "balancer.cfg.j2"
        template.write_text(rewritten(text))
        after = render(template, groups)
        assert [line.split() for line in after.splitlines() if "bind" not in line] == [line.replace("www *:80", "www").split() for line in before.splitlines()]
        assert "    server i-00000000000000001 " in after
        # A name would have to be resolved.
        if text != shortened:
            assert_no_complaint(after)


# The steps, on a balancer that the old script left.


@pytest.fixture(scope="module")
def web() -> Iterator[Backends]:
    with Backends(*(address(number) for number in range(1, 5))) as made:
        yield made


@pytest.fixture
def aws() -> Iterator[Ec2Endpoint]:
    with Ec2Endpoint() as made:
        groups = {"webheads": ("sg-00000001", "webheads"), "tomcats": ("sg-00000002", "tomcats")}
        made.groups["eu-west-1"] = [security_group(*group) for group in groups.values()]
        members = [("webheads", 1), ("webheads", 2), ("tomcats", 3), ("tomcats", 4)]
        made.regions["eu-west-1"] = [[instance(instance_id(number), interface(groups=[groups[group]], address=address(number))) for group, number in members]]
        yield made


@pytest.fixture
def balancer(tmp_path: Path, aws: Ec2Endpoint) -> Iterator[Balancer]:
    made = Balancer(tmp_path, list(binaries().values())[-1], aws.environment)
    yield made
    made.stop()


def the_old_scripts_file(balancer: Balancer, port: int) -> str:
    """What the old template gave, as far as HAProxy still takes it; its socket lets nobody administrate."""
    return (
        f"global\n    maxconn 256\n    stats socket {balancer.stats_socket}\n"
        "defaults\n    mode http\n    timeout connect 5000ms\n    timeout client 5000ms\n    timeout server 5000ms\n"
        f"frontend www\n    bind 127.0.0.1:{balancer.port}\n    maxconn 50000\n    default_backend servers\n"
        "backend servers\n    balance roundrobin\n"
        + "".join(f"    server {instance_id(number)} {address(number)}:{port}\n" for number in (1, 2))
        + "backend java_servers\n    balance roundrobin\n"
        + "".join(f"    server {instance_id(number)} {address(number)}:{port}\n" for number in (3, 4))
    )


def test_who_follows_the_page_has_a_balancer_in_step_and_every_command_on_it_works(balancer: Balancer, aws: Ec2Endpoint, web: Backends) -> None:
    # What the page has in /etc, /run and /var/log lies in one folder, with the ports that are free here.
    etc = balancer.folder / "etc"
    (etc / "templates").mkdir(parents=True)
    template = (EXAMPLES / "two-groups.cfg.j2").read_text()
    for old, new in [
        ("bind *:80\n", f"bind 127.0.0.1:{balancer.port}\n"),
        ("    bind *:8080\n    bind *:8443\n", f"    bind unix@{balancer.folder}/java.sock\n"),
        ("default(80, true)", f"default({web.port}, true)"),
        ("default(8080, true)", f"default({web.port}, true)"),
    ]:
        assert old in template
        template = template.replace(old, new)
    (etc / "templates" / "balancer.cfg.j2").write_text(template)
    (play,) = yaml.safe_load(of("yaml", "playbook")[0].text)
    ours = balancer.variables(web.port)
    ours.pop("haproxy_autoscale_services")
    play["roles"][0]["vars"] = {**ours, **play["roles"][0]["vars"]}
    play["become"] = False
    (etc / "site.yml").write_text(yaml.safe_dump([play]))
    collection = balancer.folder / "ansible_collections" / "autoscale" / "haproxy"
    collection.parent.mkdir(parents=True)
    collection.symlink_to(ROOT)
    commands = str(Path(sys.executable).parent)
    environment = {**os.environ, **aws.environment, "ANSIBLE_COLLECTIONS_PATH": str(balancer.folder), "ANSIBLE_NOCOLOR": "1"}

    def run(script: str, path: str) -> str:
        for there, here in [("/etc/haproxy-autoscale", etc), ("/run/", f"{balancer.folder}/"), ("/var/log/", f"{balancer.folder}/")]:
            script = script.replace(there, str(here))
        done = subprocess.run(
            ["/bin/sh", "-ec", script],
            cwd=balancer.folder,
            env={**environment, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    before = the_old_scripts_file(balancer, web.port)
    balancer.start(before, master=False)
    look, change = (block.text for block in of("shell"))
    path = f"{commands}:{os.environ['PATH']}"

    looked = run(look, path)
    assert "+    server-state-file" in looked
    assert "would be brought to it by reload" in " ".join(looked.split())
    assert balancer.config.read_text() == before

    changed = " ".join(run(change, path).split())
    assert "servers: 2 in service; java_servers: 2 in service; by reload" in changed
    # Ansible's own, about the inventory.
    assert set(re.findall(r"\[WARNING\]: (\w+ \w+)", changed)) == {"No inventory", "provided hosts"}
    assert balancer.reached() == {address(1), address(2)}
    assert [kept.read_text() for kept in balancer.folder.glob("haproxy.cfg.*~")] == [before]

    # The cron line, as cron runs it: by sh, with the variables of the lines before it.
    schedule = [block.text for block in of("text") if "flock" in block.text]
    assert len(schedule) == 1
    *settings, line = schedule[0].splitlines()
    minute, user, command = re.fullmatch(r"((?:\* ){5})(\w+) (.*)", line).groups()  # type: ignore[union-attr]
    assert (minute.split(), user) == (["*"] * 5, "root")
    environment.update(setting.split("=", 1) for setting in settings)
    environment.pop("ANSIBLE_NOCOLOR")
    assert run(command, f"{commands}:{environment['PATH']}") == ""
    log = (balancer.folder / "haproxy-autoscale.log").read_text()
    assert "WARNING" not in log
    assert "changed=0" in log


def test_each_option_of_the_old_scripts_is_in_the_table() -> None:
    (table,) = re.findall(r"^## Every option\n(.*?)^## ", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    old = "security-group access-key secret-key region output template servicename haproxy pid sleep safe-mode delay eip health-check-url"
    assert {f"--{name}" for name in old.split()} == set(re.findall(r"(?<=`)--[a-z-]+", table))
