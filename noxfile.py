# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make matrix`: the unit tests and some of the role on each ansible-core with each Python that it runs on, the modules on the oldest Python of a
balancer, and the tests of HAProxy on each version by itself. What is not at hand is skipped, with a word."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent / "tests" / "support"))

import haproxy_binaries

nox.options.error_on_missing_interpreters = False
# virtualenv no longer makes environments of Python 3.8.
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.envdir = ".cache/nox"

# The Pythons of a pyenv: its own commands on the PATH run only where that version is switched on.
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
os.environ["PATH"] = os.pathsep.join([*(str(path) for path in sorted(PYENV.glob("versions/3.*/bin"))), os.environ["PATH"]])

# The Pythons of a controller, as https://docs.ansible.com/ansible/latest/reference_appendices/release_and_maintenance.html has them.
CORES = {
    "2.16": ("3.10", "3.11", "3.12"),
    "2.17": ("3.10", "3.11", "3.12"),
    "2.18": ("3.11", "3.12", "3.13"),
    "2.19": ("3.11", "3.12", "3.13"),
    "2.20": ("3.12", "3.13", "3.14"),
    "2.21": ("3.12", "3.13", "3.14"),
}
# The oldest that the modules are made for. ansible-core 2.16 is the newest that all tests have and that still speaks to it; the unit tests import what
# the modules import, of the newest ansible-core that is installed on it.
MANAGED = "3.8"

# What has all that the tests need. nox has an environment of its own.
TESTS = str(Path(__file__).parent / ".venv" / "bin" / "python")

TOOLS = ("pytest", "pytest-timeout", "hypothesis", "prometheus-client", "PyYAML")
UNITS = ("tests/unit",)
ROLE = (
    "tests/integration/test_role.py::test_instances_come_and_go_and_nothing_happens_in_between",
    "tests/integration/test_role.py::test_check_mode_says_what_would_be_and_touches_nothing",
    "tests/integration/test_role.py::test_the_difference_is_shown_when_it_is_asked_for_and_not_otherwise",
    "tests/integration/test_role.py::test_a_text_whose_reload_failed_is_not_tried_again_every_minute",
)
HAPROXY = tuple(f"tests/integration/test_haproxy_{name}.py" for name in ("apply", "binds", "crash", "runtime", "surroundings", "transition"))


def pytest(session: nox.Session, python: str, *words: str, **environment: str) -> None:
    session.run(python, "-m", "pytest", *words, *session.posargs, env=environment, external=True)


@nox.session
@nox.parametrize(
    ("python", "core"), [nox.param(python, core, id=f"{core}-python{python}", tags=["cores"]) for core, pythons in CORES.items() for python in pythons]
)
def core(session: nox.Session, core: str) -> None:
    """The unit tests, and some of the role's, on one ansible-core with one Python."""
    session.install(f"ansible-core~={core}.0", "-r", "requirements.txt", *TOOLS)
    pytest(session, "python", *UNITS, *ROLE)


@nox.session(python=MANAGED, tags=["managed"])
def managed(session: nox.Session) -> None:
    """The modules on the oldest Python of a balancer: the unit tests run on it, and the role by an ansible-core of today that starts them with it."""
    session.install("ansible-core", "boto3", *TOOLS)
    pytest(session, "python", *UNITS)
    controller = Path(".cache/venv-2.16/bin/ansible-playbook").absolute()
    if not controller.exists():
        session.skip("ansible-core 2.16 is not at hand; 'make setup' says why")
    pytest(session, TESTS, *ROLE, MANAGED_PYTHON=f"{session.bin}/python", CONTROLLER=str(controller))


@nox.session(venv_backend="none", tags=["haproxy"])
@nox.parametrize("version", haproxy_binaries.WANTED, ids=haproxy_binaries.WANTED)
def haproxy(session: nox.Session, version: str) -> None:
    """The tests of HAProxy, and some of the role's, as if this version were the only one."""
    if version in haproxy_binaries.missing():
        session.skip(f"HAProxy {version} could not be had; 'make haproxy' says why")
    pytest(session, TESTS, *HAPROXY, *ROLE, HAPROXY_VERSION=version)
