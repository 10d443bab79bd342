# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One tree is a checkout, an ansible-pull repository, a collection and a role: each way does the whole job, on each ansible-core at hand.

The whole job is: instances of a security group on an EC2 endpoint, found, written to haproxy.cfg, and served by the HAProxy that the run starts; and a
second run that changes nothing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import ansible_cores
import pytest
from backends import Backends
from balancer import ROOT, Balancer, Run
from haproxy_binaries import binaries
from moto_aws import REGION, MotoAws

NAME = "autoscale.haproxy"
ADDRESSES = ("127.0.3.1", "127.0.3.2")
MODULES = sorted(path.stem for path in (ROOT / "library").glob("*.py"))
# What lies about in a used checkout. None of it may be published.
JUNK = (".git", ".venv", ".cache", ".ansible", ".ci", ".hypothesis", "build", "tests", "molecule", "autoscale-haproxy-0.0.1.tar.gz", "library/__pycache__")


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
    names = [name for name in listed.stdout.split("\0") if name and os.path.lexists(ROOT / name)]
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


@pytest.fixture(scope="module", params=["export", "links"])
def tarball(request: pytest.FixtureRequest, core: Path, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection as it is published (plain folders), and as it is built from the checkout by hand or from git (directory links)."""
    output = tmp_path_factory.mktemp("built")
    source = checkout
    if request.param == "export":
        succeed([checkout / "tests" / "support" / "export", output], checkout)
        source = output / "ansible_collections" / "autoscale" / "haproxy"
    succeed([core / "ansible-galaxy", "collection", "build", "--output-path", output, "."], source, private_home(output))
    (built,) = output.glob("*.tar.gz")
    return built


@pytest.fixture(scope="module")
def collections(core: Path, tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the collection installed in it, from the tarball and nothing else."""
    folder = tmp_path_factory.mktemp("collections")
    succeed([core / "ansible-galaxy", "collection", "install", "--offline", tarball, "-p", folder], folder, private_home(folder))
    return folder


def private_home(folder: Path) -> dict[str, str]:
    """Keeps a run away from what the user has in the home folder, collections and roles above all."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return {"HOME": str(home), "ANSIBLE_HOME": str(home / ".ansible"), "ANSIBLE_NOCOLOR": "1"}


# What the tarball holds.


def test_the_tarball_holds_the_modules_and_no_junk(tarball: Path, collections: Path) -> None:
    installed = collections / "ansible_collections" / "autoscale" / "haproxy"
    for module in MODULES:
        assert (installed / "plugins" / "modules" / f"{module}.py").is_file()
    for source in (ROOT / "module_utils").rglob("*.py"):
        assert (installed / "plugins" / "module_utils" / source.relative_to(ROOT / "module_utils")).is_file()
    for source in (ROOT / "templates").iterdir():
        assert (installed / "roles" / "haproxy_autoscale" / "templates" / source.name).is_file()
    assert (installed / "playbooks" / "update.yml").is_file()
    with tarfile.open(tarball) as archive:
        names = archive.getnames()
    assert [name for name in names if name in JUNK or name.startswith(tuple(f"{junk}/" for junk in JUNK)) or "junk" in name] == []


def test_the_documents_are_found_by_their_full_names(core: Path, collections: Path, tmp_path: Path) -> None:
    environment = {**private_home(tmp_path), "ANSIBLE_COLLECTIONS_PATH": str(collections)}
    listed = json.loads(succeed([core / "ansible-doc", "--list", "--json", NAME], tmp_path, environment))
    assert sorted(listed) == [f"{NAME}.{module}" for module in MODULES]
    for module in MODULES:
        document = json.loads(succeed([core / "ansible-doc", "--json", f"{NAME}.{module}"], tmp_path, environment))
        assert document[f"{NAME}.{module}"]["doc"]["short_description"]
    role = json.loads(succeed([core / "ansible-doc", "--type", "role", "--json", f"{NAME}.haproxy_autoscale"], tmp_path, environment))
    assert "haproxy_autoscale_security_groups" in role[f"{NAME}.haproxy_autoscale"]["entry_points"]["main"]["options"]


# The ways to run it. Each gives the command, and what it needs in the environment.


class Scene(NamedTuple):
    core: Path
    checkout: Path
    folder: Path
    extra: Path

    def project(self, role: str) -> Path:
        """Somebody else's project, whose playbook uses the role."""
        project = self.folder / "project"
        project.mkdir(exist_ok=True)
        playbook = project / "site.yml"
        playbook.write_text(json.dumps([{"name": "Theirs", "hosts": "localhost", "gather_facts": False, "roles": [role]}]))
        return playbook


Way = tuple[list["str | Path"], dict[str, str]]


def from_a_checkout(scene: Scene) -> Way:
    return [scene.core / "ansible-playbook", scene.checkout / "playbooks" / "update.yml"], {}


def with_the_checkouts_configuration(scene: Scene) -> Way:
    """As AWX runs it, and whoever stands in the checkout."""
    return [scene.core / "ansible-playbook", scene.checkout / "playbooks" / "update.yml"], {"ANSIBLE_CONFIG": str(scene.checkout / "ansible.cfg")}


def by_ansible_pull(scene: Scene) -> Way:
    repository = scene.folder / "repository.git"
    if not repository.exists():
        succeed(["git", "clone", "--quiet", "--bare", scene.checkout, repository], scene.folder)
    # ansible-pull calls the commands beside it, and takes the path apart at its spaces: this checkout may have one.
    commands = scene.folder / "bin"
    if not commands.exists():
        commands.symlink_to(scene.core)
    command: list[str | Path] = [commands / "ansible-pull", "--url", f"file://{repository}", "--checkout", "main", "--directory", scene.folder / "pulled"]
    # ansible-pull makes an inventory of its own, in which localhost gets whatever Python is found; boto3 is in this one.
    return [*command, "--extra-vars", "ansible_python_interpreter={{ ansible_playbook_python }}", "playbooks/update.yml"], {}


def by_roles_path(scene: Scene) -> Way:
    return [scene.core / "ansible-playbook", scene.project("haproxy_autoscale")], {"ANSIBLE_ROLES_PATH": str(scene.checkout / "roles")}


def by_the_collections_playbook(scene: Scene) -> Way:
    return [scene.core / "ansible-playbook", f"{NAME}.update"], {}


def by_the_collections_role(scene: Scene) -> Way:
    return [scene.core / "ansible-playbook", scene.project(f"{NAME}.haproxy_autoscale")], {}


# The job.

# The macros are the role's, wherever the template that imports them lies.
OWN = """{% import 'haproxy-macros.j2' as haproxy %}
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


def does_the_whole_job(way: Callable[[Scene], Way], core: Path, checkout: Path, balancer: Balancer, aws: MotoAws, web: Backends, **more: str) -> None:
    extra = balancer.folder / "variables.json"
    variables = balancer.variables(
        web.port, haproxy_autoscale_endpoint_url=aws.url, haproxy_autoscale_regions=[REGION], haproxy_autoscale_reload_method="master_socket"
    )
    extra.write_text(json.dumps(variables))
    elsewhere = balancer.folder / "some where else"
    elsewhere.mkdir()
    command, environment = way(Scene(core, checkout, balancer.folder, extra))
    # Region and endpoint are the role's variables here, so that the environment cannot stand in for them.
    credentials = {name: value for name, value in aws.environment.items() if name not in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")}
    environment = {**private_home(balancer.folder), **credentials, **environment, **more}

    succeed([*command, "--extra-vars", f"@{extra}"], elsewhere, environment)
    text = balancer.config.read_text()
    for address in ADDRESSES:
        assert f" {address}:{web.port} " in text
    assert balancer.reached() == set(ADDRESSES)

    again = succeed([*command, "--extra-vars", f"@{extra}"], elsewhere, environment)
    assert Run(0, again).recap["changed"] == 0, again
    assert balancer.config.read_text() == text

    own = balancer.folder / "own.cfg.j2"
    own.write_text(OWN)
    looked = succeed([*command, "--extra-vars", f"@{extra}", "--extra-vars", f"haproxy_autoscale_template={own}", "--check", "--diff"], elsewhere, environment)
    assert len(re.findall(r"^\+    server i-\S+ \S+ check weight 7$", looked, re.MULTILINE)) == len(ADDRESSES), looked


@pytest.mark.parametrize("way", [from_a_checkout, with_the_checkouts_configuration, by_ansible_pull, by_roles_path])
def test_the_checkout_does_the_whole_job(way: Callable[[Scene], Way], core: Path, checkout: Path, balancer: Balancer, aws: MotoAws, web: Backends) -> None:
    does_the_whole_job(way, core, checkout, balancer, aws, web)


@pytest.mark.parametrize("way", [by_the_collections_playbook, by_the_collections_role])
def test_the_installed_collection_does_the_whole_job(
    way: Callable[[Scene], Way], core: Path, collections: Path, checkout: Path, balancer: Balancer, aws: MotoAws, web: Backends
) -> None:
    does_the_whole_job(way, core, checkout, balancer, aws, web, ANSIBLE_COLLECTIONS_PATH=str(collections))


def test_the_installed_collections_module_runs_alone(core: Path, collections: Path, aws: MotoAws, tmp_path: Path) -> None:
    """With the endpoint set once for every AWS module, as meta/runtime.yml's action group allows."""
    playbook = tmp_path / "site.yml"
    play = {
        "name": "Theirs",
        "hosts": "localhost",
        "gather_facts": False,
        "module_defaults": {f"group/{NAME}.aws": {"endpoint_url": aws.url, "regions": [REGION]}},
        "tasks": [
            {"name": "Discover", f"{NAME}.ec2_security_group_instance_facts": {"security_groups": ["webheads"]}},
            {"name": "Show", "ansible.builtin.debug": {"msg": "{{ ansible_facts.ec2_security_group_instances.webheads | map(attribute='address') }}"}},
        ],
    }
    playbook.write_text(json.dumps([play]))
    credentials = {name: value for name, value in aws.environment.items() if name not in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")}
    environment = {**private_home(tmp_path), **credentials, "ANSIBLE_COLLECTIONS_PATH": str(collections)}
    output = succeed([core / "ansible-playbook", playbook], tmp_path, environment)
    for address in ADDRESSES:
        assert f'"{address}"' in output
