# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several HAProxy processes on one host, by one list or by several inclusions of the role: a change in one reloads that one only."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ansible_cores
import pytest
import yaml
from backends import Backends
from balancer import ROOT, Balancer, Run, free_port
from ec2_endpoint import Ec2Endpoint, error, instance, interface, security_group
from haproxy_binaries import binaries
from prometheus import Watch
from rendering import words
from stage import address, instance_id

ROLE = ROOT / "roles" / "haproxy_autoscale"
# Each with its own group of instances, its own template and its own way to reload.
KINDS = {"public": ("sg-00000001", "webheads"), "internal": ("sg-00000002", "apis")}
OWN = """global
    stats socket {{ haproxy_autoscale_stats_socket }} level admin expose-fd listeners
    server-state-file {{ haproxy_autoscale_state_dir }}/{{ haproxy_autoscale_name }}.server-state
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
    load-server-state-from-file global
frontend in
    bind 127.0.0.1:{{ the_port_of_internal }}
    default_backend apis
backend apis
{% for instance in instances['apis'] %}
    server {{ instance.instance_id }} {{ instance.address }}:{{ the_port_of_apis }} check inter 200ms
{% endfor %}
    # It was given {{ instances | join(' and ') }}.
"""


class Host:
    """A host with the processes of KINDS."""

    def __init__(self, folder: Path, binary: str, web: Backends, aws: Ec2Endpoint) -> None:
        self.folder = folder
        self.aws = aws
        self.web = web
        self.members: dict[str, list[int]] = {kind: [] for kind in KINDS}
        self.processes: dict[str, Balancer] = {}
        for kind in KINDS:
            (folder / kind).mkdir()
            self.processes[kind] = Balancer(folder / kind, binary, aws.environment)
        aws.groups["eu-west-1"] = [security_group(*group) for group in KINDS.values()]
        public, internal = self.processes.values()
        (folder / "own.cfg.j2").write_text(OWN)
        every = public.variables(web.port)
        self.shared = {
            **{name: every[f"haproxy_autoscale_{name}"] for name in ("binary", "user", "group", "chroot", "log", "retries", "timeout")},
            "state_dir": str(folder / "state"),
            # A reload shows which process was touched.
            "apply_strategy": "reload",
        }
        self.entries: dict[str, dict[str, Any]] = {
            kind: {
                "name": kind,
                "config_path": str(process.config),
                "pid_file": str(process.pid_file),
                "master_socket": str(process.master_socket),
                "stats_socket": str(process.stats_socket),
            }
            for kind, process in self.processes.items()
        }
        self.entries["public"]["services"] = every["haproxy_autoscale_services"]
        # Without a master, as the old script's.
        self.entries["internal"].update(security_groups=["apis"], template=str(folder / "own.cfg.j2"), reload_method="pid", master_socket="")
        self.others = {"the_port_of_internal": internal.port, "the_port_of_apis": web.port}

    def launch(self, **members: list[int]) -> None:
        self.members.update(members)
        self.aws.regions["eu-west-1"] = [
            [
                instance(instance_id(number), interface(address=address(number), groups=[KINDS[kind]]))
                for kind, numbers in self.members.items()
                for number in numbers
            ]
        ]

    def play(self, way: Callable[[Host], dict[str, Any]], *arguments: str, ansible: str = "") -> Run:
        playbook = self.folder / "site.yml"
        shared = {f"haproxy_autoscale_{name}": value for name, value in self.shared.items()}
        play = {"name": "Theirs", "hosts": "localhost", "gather_facts": False, "vars": {**shared, **self.others}, **way(self)}
        playbook.write_text(json.dumps([play]))
        public = self.processes["public"]
        public.environment = {**self.aws.environment, "ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_LOCALHOST_WARNING": "false"}
        return public.run({}, *arguments, playbook=playbook, ansible=ansible)

    def worker(self, kind: str) -> int:
        return self.processes[kind].worker()

    def workers(self) -> dict[str, int]:
        return {kind: self.worker(kind) for kind in KINDS}

    def serves(self) -> bool:
        """Whether requests reach exactly the members, as soon as the new ones have passed their checks."""
        for _attempt in range(50):
            if all(process.reached() == {address(number) for number in self.members[kind]} for kind, process in self.processes.items()):
                return True
            time.sleep(0.2)
        return False

    def stop(self) -> None:
        for process in self.processes.values():
            process.stop()


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory, web: Backends, aws: Ec2Endpoint) -> Iterator[Host]:
    # A short name: the path of a socket has room for 97 characters.
    made = Host(tmp_path_factory.mktemp("h"), list(binaries().values())[-1], web, aws)
    yield made
    made.stop()


# The ways. Each gives what a play has of them.


def variables(host: Host, kind: str) -> dict[str, Any]:
    return {f"haproxy_autoscale_{name}": value for name, value in host.entries[kind].items()}


def a_list(host: Host) -> dict[str, Any]:
    return {"roles": [{"role": "haproxy_autoscale", "vars": {"haproxy_autoscale_processes": list(host.entries.values())}}]}


def roles_twice(host: Host) -> dict[str, Any]:
    return {"roles": [{"role": "haproxy_autoscale", "vars": variables(host, kind)} for kind in KINDS]}


def import_role_twice(host: Host) -> dict[str, Any]:
    return {"tasks": [{"ansible.builtin.import_role": {"name": "haproxy_autoscale"}, "vars": variables(host, kind)} for kind in KINDS]}


def include_role_twice(host: Host) -> dict[str, Any]:
    return {"tasks": [{"ansible.builtin.include_role": {"name": "haproxy_autoscale"}, "vars": variables(host, kind)} for kind in KINDS]}


def include_role_in_a_loop(host: Host) -> dict[str, Any]:
    # What only one of them says has to be said by both.
    names = sorted({name for entry in host.entries.values() for name in entry})
    defaults = {"services": [], "security_groups": [], "template": str(ROLE / "templates" / "haproxy.cfg.j2"), "reload_method": "auto"}
    task = {
        "ansible.builtin.include_role": {"name": "haproxy_autoscale"},
        "loop": [{**defaults, **entry} for entry in host.entries.values()],
        "loop_control": {"label": "{{ item.name }}"},
        "vars": {f"haproxy_autoscale_{name}": f"{{{{ item.{name} }}}}" for name in names},
    }
    return {"tasks": [task]}


def a_list_in_an_included_role(host: Host) -> dict[str, Any]:
    task = {"ansible.builtin.include_role": {"name": "haproxy_autoscale"}, "vars": {"haproxy_autoscale_processes": list(host.entries.values())}}
    return {"tasks": [task]}


def as_a_dependency(host: Host) -> dict[str, Any]:
    for kind in KINDS:
        meta = host.folder / "roles" / kind / "meta"
        meta.mkdir(parents=True, exist_ok=True)
        (meta / "main.yml").write_text(json.dumps({"dependencies": [{"role": "haproxy_autoscale", "vars": variables(host, kind)}]}))
    return {"roles": list(KINDS)}


WAYS = [a_list, roles_twice, import_role_twice, include_role_twice, include_role_in_a_loop, a_list_in_an_included_role, as_a_dependency]


# On the version between the two, all other tests of this file run. What differs between the versions is how handlers and variables are kept apart.
OLDEST, _, NEWEST = ansible_cores.WANTED
WAYS_OF_CORES = [
    pytest.param(OLDEST, [roles_twice, include_role_in_a_loop, as_a_dependency], id=OLDEST),
    pytest.param(NEWEST, [import_role_twice, include_role_twice], id=NEWEST),
    *(pytest.param(core, WAYS, marks=pytest.mark.full, id=f"{core}-all") for core in (OLDEST, NEWEST)),
]


@pytest.mark.parametrize(("core", "ways"), WAYS_OF_CORES)
def test_a_change_in_one_reloads_that_one_only_in_every_way_of_including_the_role(host: Host, core: str, ways: list[Any]) -> None:
    if core not in ansible_cores.cores():
        pytest.skip(f"ansible-core {core}: {ansible_cores.missing()[core]}")
    ansible = str(ansible_cores.cores()[core] / "ansible-playbook")
    host.launch(public=[1], internal=[4])
    done = host.play(WAYS[0], ansible=ansible)
    assert done.status == 0, done.output
    assert host.serves()
    assert "It was given apis.\n" in host.processes["internal"].config.read_text()
    members = {"public": [1], "internal": [4]}
    for number, way in enumerate(ways):
        changes, stays = list(KINDS)[:: 1 if number % 2 else -1]
        members[changes] = [members[changes][0], 2 + 3 * (changes == "internal")] if len(members[changes]) == 1 else members[changes][:1]
        host.launch(**members)
        before = host.workers()
        done = host.play(way, ansible=ansible)
        assert done.status == 0, f"{way.__name__}: {done.output}"
        assert host.worker(changes) != before[changes], f"{way.__name__}: {done.output}"
        assert host.worker(stays) == before[stays], f"{way.__name__}: {done.output}"
        assert host.serves(), way.__name__
    before = host.workers()
    again = host.play(a_list, ansible=ansible)
    assert again.recap["changed"] == 0, again.output
    assert host.workers() == before


def test_each_process_follows_in_the_way_that_its_entry_says(host: Host) -> None:
    host.entries["public"]["apply_strategy"] = "runtime_only"
    host.launch(public=[1], internal=[4])
    assert host.play(a_list).status == 0
    before = host.workers()
    host.launch(public=[1, 2], internal=[4, 5])
    done = host.play(a_list)
    assert done.status == 0, done.output
    assert (host.worker("public"), host.processes["public"].reloads()) == (before["public"], 0)
    assert host.worker("internal") != before["internal"]
    assert host.serves()
    # Only the one that may not be reloaded refuses what takes a reload.
    host.entries["public"]["defaults_lines"] = ["timeout queue 1s"]
    host.launch(internal=[4])
    done = host.play(a_list)
    assert done.status != 0
    assert "public: Refused: haproxy_autoscale_apply_strategy is runtime_only" in last_words(done)
    assert host.worker("public") == before["public"]
    assert host.serves()


def last_words(done: Run) -> str:
    """What a run that failed says at its end."""
    return [line for line in done.output.splitlines() if line.startswith(("fatal:", "[ERROR]"))][-1]


def test_what_one_process_is_refused_for_holds_no_other_back(host: Host) -> None:
    host.launch(public=[1, 2, 3], internal=[4])
    assert host.play(a_list).status == 0
    before = host.workers()
    file = host.processes["public"].config.read_bytes()
    # The first of the list loses two of three, the second gains one.
    host.launch(public=[1], internal=[4, 5])
    looked = host.play(a_list, "--check")
    assert looked.status != 0
    assert "apis: 2 in service, +1; would be brought to it by reload" in looked.output
    assert host.workers() == before
    done = host.play(a_list)
    assert done.status != 0
    assert host.processes["public"].config.read_bytes() == file
    assert host.worker("public") == before["public"]
    assert host.worker("internal") != before["internal"]
    host.members["public"] = [1, 2, 3]
    assert host.serves()
    last = last_words(done)
    assert "public: Refused: backend webheads" in last
    assert "internal" not in last


def test_a_reload_that_fails_in_one_process_holds_no_other_back(host: Host) -> None:
    host.launch(public=[1], internal=[4])
    assert host.play(a_list).status == 0
    before = host.workers()
    # A chroot that is not there passes `haproxy -c` and fails the new worker.
    host.entries["public"]["chroot"] = str(host.folder / "nowhere")
    host.launch(public=[1, 2], internal=[4, 5])
    done = host.play(a_list)
    assert done.status != 0
    assert host.worker("internal") != before["internal"], done.output
    host.members["public"] = [1]
    assert host.serves()
    last = last_words(done)
    assert "public: " in last
    assert "internal" not in last


@pytest.mark.full
def test_what_comes_after_the_role_reads_of_all_processes_what_was_found(host: Host) -> None:
    """Also of one that was refused, and where AWS did not answer."""
    plans = "{{ ansible_facts['haproxy_processes'] | dict2items | map(attribute='key') | zip(ansible_facts['haproxy_processes'] | dict2items"
    plans += " | map(attribute='value.candidate.plan', default='unknown')) | map('join', '=') | join(' ') }}"

    def and_then(_host: Host) -> dict[str, Any]:
        role = {"ansible.builtin.include_role": {"name": "haproxy_autoscale"}, "vars": {"haproxy_autoscale_processes": list(host.entries.values())}}
        return {"tasks": [{"block": [role], "always": [{"ansible.builtin.debug": {"msg": f"Plans: {plans} !"}}]}]}

    watch = Watch(host.folder / "watch")
    host.shared.update({name.removeprefix("haproxy_autoscale_"): value for name, value in watch.variables.items()})
    host.launch(public=[1, 2, 3], internal=[4])
    assert "Plans: public=start internal=start !" in host.play(and_then).text
    host.launch(public=[1], internal=[4])
    done = host.play(and_then)
    assert done.status != 0
    assert "Plans: public=reload internal=none !" in done.text
    host.aws.fault("DescribeInstances", *[error(503, "Unavailable")] * 9)
    assert "Plans: public=unknown internal=unknown !" in host.play(and_then).text

    # In one file, and each process by itself; also where the run came to none of them.
    host.entries["internal"]["drain_timeout"] = -1
    assert "drain_timeout" in host.play(and_then).text
    public, internal = watch.metrics("public"), watch.metrics("internal")
    assert [public["runs_total", outcome] for outcome in ("success", "refused", "failed")] == [1, 1, 2]
    assert [internal["runs_total", outcome] for outcome in ("success", "refused", "failed")] == [2, 0, 2]
    assert public["refusals_total", "removes_too_much"] == public["changes_total", "start"] == internal["changes_total", "start"] == 1
    assert [(line["name"], line["servers_after"]) for line in watch.lines()] == [("public", {"webheads": 3}), ("internal", {"apis": 1})]


def test_without_aws_each_is_left_as_it_is_or_started_on_its_last_good_file(host: Host) -> None:
    host.launch(public=[1], internal=[4])
    assert host.play(a_list).status == 0
    before = host.worker("internal")
    host.processes["public"].stop()
    host.aws.fault("DescribeInstances", *[error(503, "Unavailable")] * 9)
    done = host.play(a_list)
    assert done.status != 0
    assert host.serves()
    assert host.worker("internal") == before
    for kind in KINDS:
        assert re.search(rf"{kind}: .*Unavailable", done.output), done.output


def test_two_processes_never_share_a_port(host: Host) -> None:
    """HAProxy would take it, and each serve a part of the clients."""
    host.launch(public=[1], internal=[4])
    host.others["the_port_of_internal"] = host.processes["public"].port
    done = host.play(a_list)
    assert done.status != 0
    place = f"127.0.0.1:{host.processes['public'].port}"
    assert f"internal: Refused: it would listen on {place}, as another entry of haproxy_autoscale_processes does." in done.text
    assert not host.processes["internal"].config.exists()
    assert host.processes["public"].reached() == {address(1)}


@pytest.mark.full
def test_a_template_that_fails_once_brings_no_process_the_text_of_another(host: Host) -> None:
    host.launch(public=[1], internal=[4])
    again = host.folder / "again"
    once = f"{{{{ lookup('ansible.builtin.pipe', 'test -e {again} || {{ touch {again}; false; }}') }}}}"
    (host.folder / "own.cfg.j2").write_text(OWN + "# " + once)
    done = host.play(a_list)
    assert again.exists()
    assert done.status != 0
    assert "own.cfg.j2 failed, and did not when it was run once more. Nothing is changed." in done.text
    assert not host.processes["internal"].config.exists()
    assert host.processes["public"].reached() == {address(1)}


@pytest.mark.full
def test_two_hosts_have_each_their_own_list(host: Host) -> None:
    """And from their variables, where ansible-core 2.16 does not look for what a static task needs."""
    host.launch(public=[1], internal=[4])
    lists = {"one": [host.entries["public"]], "two": [host.entries["internal"]]}
    inventory = host.folder / "two.yml"
    hosts = {name: {"mine": mine, "ansible_connection": "local"} for name, mine in lists.items()}
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))

    def mine(_host: Host) -> dict[str, Any]:
        return {"hosts": "one,two", "roles": [{"role": "haproxy_autoscale", "vars": {"haproxy_autoscale_processes": "{{ mine }}"}}]}

    core = min(ansible_cores.cores(), key=lambda version: [int(part) for part in version.split(".")])
    done = host.play(mine, "-i", str(inventory), ansible=str(ansible_cores.cores()[core] / "ansible-playbook"))
    assert done.status == 0, done.output
    assert host.serves()


def wrong(entries: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """A list, and what must be said of it."""
    one, other = (dict(entry) for entry in entries.values())
    yield [one, {**other, "name": "public"}], "haproxy_autoscale_processes: name must be different in each entry, and is 'public' more than once."
    for kind, path in [
        ("config_path", one["config_path"]),
        ("pid_file", one["pid_file"].replace("/", "//")),
        ("master_socket", one["master_socket"]),
        ("stats_socket", one["master_socket"]),
    ]:
        yield [one, {**other, kind: path}], f"{kind} of 'internal' must be different from every other path of these, and is '{path}'."
    both = [{**one, "service_name": "haproxy"}, {**other, "service_name": "haproxy"}]
    yield both, "haproxy_autoscale_processes: service_name must be different in each entry, and is 'haproxy' more than once."
    yield [one, {**other, "reload_timeout": 0}], "Process 'internal': haproxy_autoscale_reload_timeout must be at least 1 second, and is '0'."
    yield [one, {**other, "reload_methode": "pid"}], "reload_methode"
    yield [one, {**other, "apply_strategy": "never"}], "apply_strategy must be one of: auto, reload, runtime_only, got: never"
    yield [{**one, "services": [{"name": "webheads", "security_groups": ["webheads"], "port": 0}]}, other], "port of 'webheads' must be 1 to 65535"
    yield [one, {**other, "services": [{"nam": "x"}]}], "nam"
    yield [{key: value for key, value in one.items() if key != "name"}, other], "name"


def test_a_wrong_entry_is_named_before_anything_is_touched(host: Host) -> None:
    host.launch(public=[1], internal=[4])
    cases = list(wrong(host.entries))
    tasks: list[dict[str, Any]] = []
    for entries, _said in cases:
        role = {"ansible.builtin.include_role": {"name": "haproxy_autoscale"}, "vars": {"haproxy_autoscale_processes": entries}}
        tasks.append({"block": [role, {"ansible.builtin.debug": {"msg": "THE ROLE TOOK IT"}}], "rescue": [{"ansible.builtin.debug": {"msg": "Next"}}]})
    done = host.play(lambda _host: {"tasks": tasks})
    assert done.recap["rescued"] == len(cases), done.output
    assert "THE ROLE TOOK IT" not in done.output
    parts = done.output.split('"msg": "Next"')
    for (_entries, said), part in zip(cases, parts):
        assert said in part
    assert host.aws.count("DescribeInstances") == 0
    assert not (host.folder / "state").exists()


def test_no_password_of_a_process_is_shown(host: Host) -> None:
    host.launch(public=[1], internal=[4])
    host.entries["public"].update(stats_password="marker-stats-password", stats_bind=f"127.0.0.1:{free_port()}")
    done = host.play(a_list, "-vvv", "--diff")
    assert done.status == 0, done.output
    assert "marker-stats-password" in host.processes["public"].config.read_text()
    assert "marker-stats-password" not in done.output
    # The other one's difference is shown.
    assert "It was given apis." in done.output


# What the role's variables say where no entry does.
SHARED = {name.removeprefix("haproxy_autoscale_"): value for name, value in yaml.safe_load((ROLE / "defaults" / "main.yml").read_text()).items()}
SHARED |= {"service_name": "haproxy", "diff": True}


@pytest.mark.parametrize(
    ("entry", "paths"),
    [
        ({"name": "haproxy"}, ["/etc/haproxy/haproxy.cfg", "/run/haproxy.pid", "/run/haproxy-master.sock", "/run/haproxy/admin.sock", "haproxy"]),
        ({"name": 8080}, ["/etc/haproxy/8080.cfg", "/run/haproxy-8080.pid", "/run/haproxy-8080-master.sock", "/run/haproxy/8080.sock", ""]),
        (
            {"name": "a", "config_path": "/etc/haproxy/haproxy.cfg", "pid_file": None, "master_socket": ""},
            ["/etc/haproxy/haproxy.cfg", "/run/haproxy-a.pid", "", "/run/haproxy/a.sock", "haproxy"],
        ),
    ],
)
def test_what_an_entry_does_not_say_follows_from_its_name(entry: dict[str, Any], paths: list[str]) -> None:
    keys = ["config_path", "pid_file", "master_socket", "stats_socket", "service_name"]
    template = (
        "{{ __haproxy_autoscale_own.name }} {{ __haproxy_autoscale_own.name is string }} {{ "
        + " ~ ' ' ~ ".join(f"__haproxy_autoscale_own.{key}" for key in keys)
        + " }}"
    )
    said = words(template, __haproxy_autoscale_entry=entry, __haproxy_autoscale_shared=SHARED)
    assert said == " ".join([str(entry["name"]), "True", *paths])


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        ({}, "True"),
        ({"services": [{"name": "a"}, {"name": "b", "cookie": {"name": "c"}}, {"name": "c", "cookie": None}], "stats_password": ""}, "True"),
        ({"services": [{"name": "a"}, {"name": "b", "cookie": {"name": "c", "dynamic_key": "secret"}}]}, "False"),
        ({"stats_password": "secret"}, "False"),
        ({"stats_password": "secret", "diff": True}, "True"),
    ],
)
def test_the_difference_of_an_entry_with_a_secret_is_not_shown_unless_it_says_so(entry: dict[str, Any], shown: str) -> None:
    assert words("{{ __haproxy_autoscale_own.diff }}", __haproxy_autoscale_entry={"name": "haproxy", **entry}, __haproxy_autoscale_shared=SHARED) == shown
    # The same without a list.
    variables = {f"haproxy_autoscale_{name}": value for name, value in entry.items()}
    assert words("{{ haproxy_autoscale_diff }}", **variables) == shown


def test_an_entry_can_say_all_that_the_role_can_but_how_aws_is_asked() -> None:
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    options = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    taken = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())["__haproxy_autoscale_of_a_process"]
    credentials = {"access_key", "secret_key", "session_token", "profile", "assume_role_arn", "external_id", "role_session_name", "sources"}
    asked = {"regions", "vpc_id", "filters", "exclude_filters", "states", "address", "min_age", "minimum_instances", *credentials}
    asked |= {"interface", "address_rank", "port_tag", "weight_tag", "backup_tag", "maxconn_tag"}
    asked |= {"lifecycle", "standalone_instances", "instance_status"}
    asked |= {"endpoint_url", "aws_ca_bundle", "validate_certs", "retries", "timeout", "processes"}
    asked |= {"discover", "confirm_missing_runs", "maximum_outage", "complete_lifecycle_action"}
    # One run leaves one file.
    asked |= {"textfile", "change_log"}
    assert sorted(taken) == sorted({name.removeprefix("haproxy_autoscale_") for name in defaults} - asked)
    assert list(options["haproxy_autoscale_processes"]["options"]) == taken
    for name in taken:
        same = ("type", "elements", "choices", "options")
        entry, variable = options["haproxy_autoscale_processes"]["options"][name], options[f"haproxy_autoscale_{name}"]
        assert {key: entry.get(key) for key in same} == {key: variable.get(key) for key in same}
    for task in yaml.safe_load((ROLE / "tasks" / "processes.yml").read_text()):
        if "loop" in task:
            assert task["vars"] == {f"haproxy_autoscale_{name}": f"{{{{ __haproxy_autoscale_own.{name} }}}}" for name in taken}
