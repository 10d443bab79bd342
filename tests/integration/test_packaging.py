# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One tree is a checkout, an ansible-pull repository, a collection and a role: each way does the whole job, on each ansible-core at hand.

The whole job is: instances of a security group on an EC2 endpoint, found, written to haproxy.cfg, and served by the HAProxy that the run starts; and a
second run that changes nothing. On the ansible-core of this environment a check run with another template follows. What the README says is taken from it.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ansible_cores
import pytest
import yaml
from backends import Backends
from balancer import ROOT, Balancer, Run, free_port
from haproxy_binaries import binaries
from moto_aws import REGION, MotoAws

NAME = "autoscale.haproxy"
README = (ROOT / "README.md").read_text()
# Where the README says that the collection is. The tests have a clone.
PUBLISHED = "git+https://github.com/haproxy-autoscale/haproxy-autoscale"
# The ansible-core of this environment comes first. It is the one that is there on every machine, and what need not be run on each runs on it.
OWN = next(iter(ansible_cores.cores()))
on_its_own_core = pytest.mark.parametrize("core", [OWN], indirect=True)
ADDRESSES = ("127.0.3.1", "127.0.3.2")
MODULES = sorted(path.stem for path in (ROOT / "library").glob("*.py"))
# What lies about in a used checkout. None of it may be published.
JUNK = (
    ".git",
    ".venv",
    ".cache",
    ".ansible",
    ".ci",
    ".github",
    ".hypothesis",
    "build",
    "tests",
    "molecule",
    "autoscale-haproxy-0.0.1.tar.gz",
    "library/__pycache__",
)


def call(words: Sequence[str | Path], cwd: Path, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240
    )


def succeed(words: Sequence[str | Path], cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    done = call(words, cwd, environment)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# Where everything comes from.


@pytest.fixture(scope="module", params=ansible_cores.WANTED)
def core(request: pytest.FixtureRequest) -> Path:
    """The folder that holds one ansible-core's commands."""
    if request.param not in ansible_cores.cores():
        pytest.skip(f"ansible-core {request.param}: {ansible_cores.missing()[request.param]}")
    return ansible_cores.cores()[request.param]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this checkout with its uncommitted changes, in a folder with a space in its name, with junk in it."""
    folder = tmp_path_factory.mktemp("clone") / "a check out"
    folder.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    # .venv and .cache may be links, which the rules for folders do not ignore: the junk below would be written through them.
    names = [name for name in listed.stdout.split("\0") if name and name not in JUNK and os.path.lexists(ROOT / name)]
    packed = subprocess.run(["tar", "--create", "--null", "--files-from=-"], input="\0".join(names).encode(), cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "--extract"], input=packed.stdout, cwd=folder, check=True)
    succeed(["git", "init", "--quiet", "--initial-branch=main"], folder)
    succeed(["git", "add", "--all"], folder)
    succeed(["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "--message", "As it is"], folder)
    for name in JUNK:
        if not name.endswith(".tar.gz"):
            (folder / name).mkdir(exist_ok=True)
        junk = folder / name if name.endswith(".tar.gz") else folder / name / "junk.pyc"
        junk.write_text("junk")
    return folder


@pytest.fixture(scope="module")
def repository(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a git server has."""
    made = tmp_path_factory.mktemp("git") / "repository.git"
    succeed(["git", "clone", "--quiet", "--bare", checkout, made], made.parent)
    return made


def by_the_published_tarball(core: Path, checkout: Path, repository: Path, folder: Path) -> list[str | Path]:
    """Plain folders, as `make build` makes it."""
    made = succeed([core / "python", checkout / "tests" / "support" / "tarball.py", folder], checkout, private_home(folder))
    return [made.splitlines()[0]]


def by_a_tarball_of_the_checkout(core: Path, checkout: Path, repository: Path, folder: Path) -> list[str | Path]:
    """Directory links, as whoever builds it by hand."""
    return [build(core, checkout, folder)]


def by_git(core: Path, checkout: Path, repository: Path, folder: Path) -> list[str | Path]:
    """The README's command."""
    command = re.search(rf"^ansible-galaxy collection install ({re.escape(PUBLISHED)}\S*)$", README, re.MULTILINE)
    assert command
    return [command.group(1).replace(PUBLISHED, f"git+file://{repository}")]


def by_requirements(core: Path, checkout: Path, repository: Path, folder: Path) -> list[str | Path]:
    """The README's requirements.yml."""
    block = re.search(r"^```yaml\n(collections:\n.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert block and PUBLISHED in block.group(1)
    # Nothing but a repository's address: a requirement that names a folder can make ansible-galaxy delete what it must not.
    assert {key for entry in yaml.safe_load(block.group(1))["collections"] for key in entry} == {"name", "type", "version"}
    requirements = folder / "requirements.yml"
    requirements.write_text(block.group(1).replace(PUBLISHED, f"git+file://{repository}"))
    return ["-r", requirements]


def build(core: Path, source: Path, folder: Path) -> Path:
    succeed([core / "ansible-galaxy", "collection", "build", "--output-path", folder, "."], source, private_home(folder))
    (built,) = folder.glob("*.tar.gz")
    return built


Source = Callable[[Path, Path, Path, Path], list["str | Path"]]
Install = Callable[[Source], Path]


@pytest.fixture(scope="module")
def install(core: Path, checkout: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Gives a folder with the collection installed in it from one source and nothing else, once for each source."""

    @functools.cache
    def install_from(source: Source) -> Path:
        words = source(core, checkout, repository, tmp_path_factory.mktemp("source"))
        folder = tmp_path_factory.mktemp("collections")
        # Always into a folder of its own.
        succeed([core / "ansible-galaxy", "collection", "install", "--offline", *words, "-p", folder], folder, private_home(folder))
        return folder

    return install_from


def private_home(folder: Path) -> dict[str, str]:
    """Keeps a run away from what the user has in the home folder, collections and roles above all."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return {"HOME": str(home), "ANSIBLE_HOME": str(home / ".ansible"), "ANSIBLE_NOCOLOR": "1"}


# What is installed.


SOURCES = [
    pytest.param(source, core, marks=[] if source is by_the_published_tarball or core == OWN else [pytest.mark.full], id=f"{source.__name__}-{core}")
    for core in ansible_cores.WANTED
    for source in (by_the_published_tarball, by_a_tarball_of_the_checkout, by_git, by_requirements)
]


@pytest.mark.parametrize(("source", "core"), SOURCES, indirect=["core"])
def test_the_installed_collection_is_whole_and_listed_and_holds_no_junk(source: Source, core: Path, install: Install, tmp_path: Path) -> None:
    collections = install(source)
    installed = collections / "ansible_collections" / "autoscale" / "haproxy"
    for module in MODULES:
        assert (installed / "plugins" / "modules" / f"{module}.py").is_file()
    for file in (ROOT / "module_utils").rglob("*.py"):
        assert (installed / "plugins" / "module_utils" / file.relative_to(ROOT / "module_utils")).is_file()
    for file in (ROOT / "templates").iterdir():
        assert (installed / "roles" / "haproxy_autoscale" / "templates" / file.name).is_file()
    assert (installed / "playbooks" / "update.yml").is_file()
    names = [str(path.relative_to(installed)) for path in installed.rglob("*")]
    assert not {"Makefile", "noxfile.py", "pyproject.toml"} & set(names)
    assert [name for name in names if name in JUNK or name.startswith(tuple(f"{junk}/" for junk in JUNK)) or "junk" in name] == []

    environment = {**private_home(tmp_path), "ANSIBLE_COLLECTIONS_PATH": str(collections)}
    listed = succeed([core / "ansible-doc", "-l"], tmp_path, environment)
    assert re.findall(rf"^{re.escape(NAME)}\.(\w+) ", listed, re.MULTILINE) == MODULES


def test_a_changed_file_of_the_installed_collection_is_noticed(core: Path, install: Install, tmp_path: Path) -> None:
    folder = tmp_path / "collections"
    shutil.copytree(install(by_the_published_tarball), folder, symlinks=True)
    verify = [core / "ansible-galaxy", "collection", "verify", "--offline", NAME, "-p", folder]
    assert "Successfully verified" in succeed(verify, tmp_path, private_home(tmp_path))
    with (folder / "ansible_collections" / "autoscale" / "haproxy" / "playbooks" / "update.yml").open("a") as file:
        file.write("# changed\n")
    verified = call(verify, tmp_path, private_home(tmp_path))
    assert verified.returncode != 0
    assert "playbooks/update.yml" in verified.stdout + verified.stderr


def test_the_documents_are_found_by_their_full_names(core: Path, install: Install, tmp_path: Path) -> None:
    environment = {**private_home(tmp_path), "ANSIBLE_COLLECTIONS_PATH": str(install(by_the_published_tarball))}
    names = [f"{NAME}.{module}" for module in MODULES]
    documents = json.loads(succeed([core / "ansible-doc", "--json", *names], tmp_path, environment))
    assert sorted(documents) == names
    assert all(document["doc"]["short_description"] for document in documents.values())
    role = json.loads(succeed([core / "ansible-doc", "--type", "role", "--json", f"{NAME}.haproxy_autoscale"], tmp_path, environment))
    assert "haproxy_autoscale_security_groups" in role[f"{NAME}.haproxy_autoscale"]["entry_points"]["main"]["options"]


# The ways to run it.


class Way(NamedTuple):
    command: list[str | Path]
    environment: dict[str, str]
    # Ansible's own arguments are one word behind this option.
    arguments_behind: str = ""

    def words(self, *arguments: str) -> list[str | Path]:
        if self.arguments_behind and arguments:
            return [*self.command, self.arguments_behind, shlex.join(arguments)]
        return [*self.command, *arguments]


class Scene(NamedTuple):
    """What a way is given. The variables are in a file; home folder and credentials are in the environment."""

    core: Path
    checkout: Path
    repository: Path
    folder: Path
    variables: Path
    environment: dict[str, str]

    def way(self, *command: str | Path, **more: str) -> Way:
        return Way([*command, "--extra-vars", f"@{self.variables}"], {**self.environment, **more})

    def project(self, role: str) -> Path:
        """Somebody else's project, whose playbook uses the role."""
        project = self.folder / "project"
        project.mkdir()
        playbook = project / "site.yml"
        playbook.write_text(json.dumps([{"name": "Theirs", "hosts": "localhost", "gather_facts": False, "roles": [role]}]))
        return playbook


def from_a_checkout(scene: Scene) -> Way:
    return scene.way(scene.core / "ansible-playbook", scene.checkout / "playbooks" / "update.yml")


def with_the_checkouts_configuration(scene: Scene) -> Way:
    """As whoever stands in the checkout, which has a space in its name here."""
    return scene.way(scene.core / "ansible-playbook", scene.checkout / "playbooks" / "update.yml", ANSIBLE_CONFIG=str(scene.checkout / "ansible.cfg"))


def by_ansible_runner(scene: Scene) -> Way:
    """As AWX, whose engine it is: the checkout is the project and has its ansible.cfg, everything else is in files beside it."""
    folder = scene.folder / "runner"
    (folder / "env").mkdir(parents=True)
    (folder / "inventory").mkdir()
    succeed(["git", "clone", "--quiet", scene.repository, folder / "project"], scene.folder)
    variables = {**json.loads(scene.variables.read_text()), "haproxy_autoscale_hosts": "balancers"}
    (folder / "env" / "extravars").write_text(json.dumps(variables))
    (folder / "env" / "envvars").write_text(json.dumps(scene.environment))
    (folder / "inventory" / "hosts").write_text("[balancers]\nlocalhost ansible_connection=local ansible_python_interpreter='{{ ansible_playbook_python }}'\n")
    command: list[str | Path] = [Path(sys.executable).with_name("ansible-runner"), "run", folder, "-p", "playbooks/update.yml"]
    return Way(command, {"PATH": f"{scene.core}{os.pathsep}{os.environ['PATH']}"}, "--cmdline")


def by_ansible_pull(scene: Scene) -> Way:
    """The README's line for cron, with the test's places for those of a system; what it would write to its log is what the test reads."""
    line = re.search(r"^(?:\* ){5}root (flock .*) >>\S+ 2>&1$", README, re.MULTILINE)
    settings = re.search(r"^```yaml\n(haproxy_autoscale_security_groups: .*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert line and settings
    # ansible-pull calls the commands beside it, and takes the path apart at its spaces: this checkout may have one.
    commands = scene.folder / "bin"
    commands.symlink_to(scene.core)
    # ansible-pull makes an inventory of its own, in which localhost gets whatever Python is found. This file names one that has boto3.
    own = scene.folder / "own.yml"
    own.write_text(settings.group(1).replace("127.0.0.1:8404", f"127.0.0.1:{free_port()}"))
    places = {
        "/run/haproxy-autoscale.lock": scene.folder / "lock",
        "ansible-pull": commands / "ansible-pull",
        "https://git.example.com/haproxy-autoscale.git": f"file://{scene.repository}",
        "/var/cache/haproxy-autoscale": scene.folder / "pulled",
        "@/etc/haproxy-autoscale.yml": f"@{own}",
    }
    words = shlex.split(line.group(1))
    assert set(places) <= set(words)
    return scene.way(*(places.get(word, word) for word in words))


def by_roles_path(scene: Scene) -> Way:
    return scene.way(scene.core / "ansible-playbook", scene.project("haproxy_autoscale"), ANSIBLE_ROLES_PATH=str(scene.checkout / "roles"))


def by_a_link_to_the_role(scene: Scene) -> Way:
    """The role's own links lead on to the modules and their shared code."""
    playbook = scene.project("haproxy_autoscale")
    roles = playbook.parent / "roles"
    roles.mkdir()
    (roles / "haproxy_autoscale").symlink_to(scene.checkout / "roles" / "haproxy_autoscale")
    return scene.way(scene.core / "ansible-playbook", playbook)


def by_the_collections_playbook(scene: Scene) -> Way:
    return scene.way(scene.core / "ansible-playbook", f"{NAME}.update")


def by_the_collections_role(scene: Scene) -> Way:
    return scene.way(scene.core / "ansible-playbook", scene.project(f"{NAME}.haproxy_autoscale"))


# The job.

# The macros are the role's, wherever the template that imports them lies.
OWN_TEMPLATE = """{% import 'haproxy-macros.j2' as haproxy %}
defaults
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend webheads-in
    bind {{ haproxy_autoscale_services[0].bind[0] }}
    default_backend webheads
backend webheads
{{ haproxy.servers(instances['webheads'], port=haproxy_autoscale_services[0].port, weight=7) }}
"""


@pytest.fixture(scope="module")
def aws() -> Iterator[MotoAws]:
    with MotoAws() as made:
        made.launch_many("webheads", ADDRESSES)
        yield made


@pytest.fixture(scope="module")
def web() -> Iterator[Backends]:
    with Backends(*ADDRESSES) as made:
        yield made


@pytest.fixture
def balancer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    if not binaries():
        pytest.skip("no HAProxy at hand")
    # A short name: the path of a socket has room for 97 characters.
    made = Balancer(tmp_path_factory.mktemp("b"), next(iter(binaries().values())))
    yield made
    made.stop()


def without_place(aws: MotoAws) -> dict[str, str]:
    """Credentials only: region and endpoint are given as options, and the environment must not stand in for them."""
    return {name: value for name, value in aws.environment.items() if name not in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")}


class Job(NamedTuple):
    core: Path
    checkout: Path
    repository: Path
    balancer: Balancer
    aws: MotoAws
    web: Backends

    def do(self, find_way: Callable[[Scene], Way], **environment: str) -> None:
        balancer, web = self.balancer, self.web
        extra = balancer.folder / "variables.json"
        variables = balancer.variables(
            web.port, haproxy_autoscale_endpoint_url=self.aws.url, haproxy_autoscale_regions=[REGION], haproxy_autoscale_reload_method="master_socket"
        )
        extra.write_text(json.dumps(variables))
        elsewhere = balancer.folder / "some where else"
        elsewhere.mkdir()
        environment = {**private_home(balancer.folder), **without_place(self.aws), **environment}
        way = find_way(Scene(self.core, self.checkout, self.repository, balancer.folder, extra, environment))

        succeed(way.words(), elsewhere, way.environment)
        text = balancer.config.read_text()
        for address in ADDRESSES:
            assert f" {address}:{web.port} " in text
        assert balancer.reached() == set(ADDRESSES)

        again = succeed(way.words(), elsewhere, way.environment)
        assert Run(0, again).recap["changed"] == 0, again
        assert balancer.config.read_text() == text

        if self.core != ansible_cores.cores()[OWN]:
            return
        own = balancer.folder / "own.cfg.j2"
        own.write_text(OWN_TEMPLATE)
        looked = succeed(way.words("--extra-vars", f"haproxy_autoscale_template={own}", "--check", "--diff"), elsewhere, way.environment)
        assert len(re.findall(r"^\+    server i-\S+ \S+ id \d+ check weight 7\r?$", looked, re.MULTILINE)) == len(ADDRESSES), looked


@pytest.fixture
def job(core: Path, checkout: Path, repository: Path, balancer: Balancer, aws: MotoAws, web: Backends) -> Job:
    return Job(core, checkout, repository, balancer, aws, web)


# What differs between the versions is how they look for things. Each way is tried on the oldest or the newest, and with "full" on both.
OLDEST, NEWEST = ansible_cores.WANTED[0], ansible_cores.WANTED[-1]


def ways(ways_of_old: Sequence[Callable[[Scene], Way]], ways_of_new: Sequence[Callable[[Scene], Way]]) -> pytest.MarkDecorator:
    rows = [
        pytest.param(way, core, marks=[] if way in usual else [pytest.mark.full], id=f"{way.__name__}-{core}")
        for core, usual in ((OLDEST, ways_of_old), (NEWEST, ways_of_new))
        for way in (*ways_of_old, *ways_of_new)
    ]
    return pytest.mark.parametrize(("way", "core"), rows, indirect=["core"])


@ways([by_ansible_pull, by_a_link_to_the_role], [by_ansible_runner, by_roles_path])
def test_the_checkout_does_the_whole_job_in_every_way(way: Callable[[Scene], Way], job: Job) -> None:
    job.do(way)


@pytest.mark.full
def test_the_checkout_does_the_whole_job(job: Job) -> None:
    job.do(from_a_checkout)


@on_its_own_core
def test_the_checkout_does_the_whole_job_with_its_configuration(job: Job) -> None:
    job.do(with_the_checkouts_configuration)


@ways([by_the_collections_role], [by_the_collections_playbook])
def test_the_installed_collection_does_the_whole_job(way: Callable[[Scene], Way], install: Install, job: Job) -> None:
    job.do(way, ANSIBLE_COLLECTIONS_PATH=str(install(by_the_published_tarball)))


@pytest.mark.full
@on_its_own_core
def test_the_collection_installed_from_git_does_the_whole_job(install: Install, job: Job) -> None:
    """Its directory links are still there."""
    job.do(by_the_collections_role, ANSIBLE_COLLECTIONS_PATH=str(install(by_git)))


# The modules without the role.

TEMPLATE = """global
    stats socket {{ stats_socket }} mode 600 level admin expose-fd listeners
defaults
    timeout connect 1s
    timeout client 1s
    timeout server 1s
listen web
    mode http
    bind {{ bind }}
{% for instance in ansible_facts.ec2_security_group_instances.webheads %}
    server {{ instance.instance_id }} {{ instance.address }}:{{ web_port }}
{% endfor %}
"""


def the_readmes_play_without_the_role(balancer: Balancer) -> list[dict[str, Any]]:
    """With the places of the test for those of the README."""
    block = re.search(r"^```yaml playbook\n(- name: Discover, template and apply\n.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert block
    text = block.group(1).replace("/etc/haproxy/haproxy.cfg", str(balancer.config)).replace("validate: haproxy ", f"validate: {balancer.binary} ")
    (play,) = yaml.safe_load(text)
    # The tests are the user that they are.
    del play["become"]
    return [{**play, "hosts": "localhost"}]


MODULES_ALONE = [
    pytest.param(
        installed,
        core,
        marks=[] if installed != (core == OWN) and core != OLDEST else [pytest.mark.full],
        id=f"{'collection' if installed else 'checkout'}-{core}",
    )
    for core in ansible_cores.WANTED
    for installed in (False, True)
]


@pytest.mark.parametrize(("installed", "core"), MODULES_ALONE, indirect=["core"])
def test_the_modules_run_without_the_role(
    installed: bool, core: Path, checkout: Path, install: Install, balancer: Balancer, aws: MotoAws, web: Backends
) -> None:
    place = {"config_path": str(balancer.config), "pid_file": str(balancer.pid_file), "state_dir": str(balancer.state), "service_name": ""}
    place["binary"] = balancer.binary
    plays = the_readmes_play_without_the_role(balancer)
    plays[0]["vars"] = {"stats_socket": str(balancer.stats_socket), "bind": f"127.0.0.1:{balancer.port}", "web_port": web.port}
    plays[0]["module_defaults"] = {
        # The endpoint once for every AWS module, as meta/runtime.yml's action group allows; a checkout has no groups.
        (f"group/{NAME}.aws" if installed else f"{NAME}.ec2_security_group_instance_facts"): {"endpoint_url": aws.url, "regions": [REGION]},
        f"{NAME}.haproxy_apply": {**place, "master_socket": str(balancer.master_socket), "reload_method": "master_socket"},
    }
    alone = [
        {"name": "Look", f"{NAME}.haproxy_facts": {"candidates": [place]}},
        {"name": "Show", "ansible.builtin.debug": {"msg": "{{ ansible_facts['haproxy_processes']['haproxy']['servers']['web'] | map(attribute='address') }}"}},
    ]
    plays.append({"name": "Facts by themselves", "hosts": "localhost", "gather_facts": False, "tasks": alone})
    (balancer.folder / "haproxy.cfg.j2").write_text(TEMPLATE)
    playbook = balancer.folder / "site.yml"
    text = json.dumps(plays)
    playbook.write_text(text if installed else text.replace(f"{NAME}.", ""))
    environment = {**private_home(balancer.folder), **without_place(aws)}
    if installed:
        environment["ANSIBLE_COLLECTIONS_PATH"] = str(install(by_the_published_tarball))
    else:
        environment.update(ANSIBLE_LIBRARY=str(checkout / "library"), ANSIBLE_MODULE_UTILS=str(checkout / "module_utils"))

    first = succeed([core / "ansible-playbook", playbook], balancer.folder, environment)
    assert balancer.reached() == set(ADDRESSES)
    for address in ADDRESSES:
        assert f'"{address}"' in first
    again = succeed([core / "ansible-playbook", playbook], balancer.folder, environment)
    assert Run(0, again).recap["changed"] == 0, again
