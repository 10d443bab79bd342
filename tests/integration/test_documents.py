# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documents say what is so: links, variables and their defaults, make targets, messages, names of tests, and every block of code."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import jinja2
import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.autoscale.haproxy.plugins.module_utils.haproxy_autoscale import haproxy_metrics
from balancer import ROOT

ROLE = ROOT / "roles" / "haproxy_autoscale"
ROLE_README = ROLE / "README.md"
PREFIX = "haproxy_autoscale_"


def documents() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    # A document that git knows may be gone from the working tree; what lies behind a directory link is not listed twice.
    return sorted(ROOT / name for name in listed.split("\0") if name and (ROOT / name).exists())


DOCUMENTS = documents()
of_each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


class Block(NamedTuple):
    """A fenced block: its document and line, the words behind the fence, the text."""

    document: Path
    line: int
    info: list[str]
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> Iterator[Block]:
    lines = document.read_text().splitlines()
    start, info = 0, None
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            if info is None:
                start, info = number, line[3:].split()
            else:
                yield Block(document, start, info, "\n".join(lines[start : number - 1]) + "\n")
                info = None
    assert info is None, f"{document}:{start}: a block without an end"


BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]


def prose(document: Path) -> str:
    """The text without the fenced blocks."""
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def load_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


DEFAULTS: dict[str, Any] = load_yaml(ROLE / "defaults" / "main.yml")
SPECIFICATION: dict[str, Any] = load_yaml(ROLE / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]


# Links.


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@of_each_document
def test_each_link_leads_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _hash, anchor = target.partition("#")
        path = (document.parent / unquote(name)).resolve() if name else document
        if not path.exists() or not path.is_relative_to(ROOT.resolve()) or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


@of_each_document
def test_no_path_of_some_machine_and_nothing_outside_of_the_project(document: Path) -> None:
    assert re.findall(r"(?:/home/|/root/|/tmp/)\S*", document.read_text()) == []


# Variables.


@of_each_document
def test_each_variable_exists(document: Path) -> None:
    named = set(re.findall(rf"\b{PREFIX}[a-z0-9_]+\b", document.read_text()))
    of_playbooks = set(re.findall(rf"\b{PREFIX}[a-z0-9_]+\b", "".join(path.read_text() for path in (ROOT / "playbooks").glob("*.yml"))))
    metrics = {f"{PREFIX}{metric}" for metric, _kind, _text in haproxy_metrics.METRICS}
    assert named - set(DEFAULTS) - of_playbooks - metrics == set()


def test_the_page_about_monitoring_has_each_metric_with_its_type_and_each_word_of_its_labels() -> None:
    page = ROOT / "docs" / "monitoring.md"
    told = [(row[0].strip("`"), row[1]) for row in table_rows(page, rf"{PREFIX}[a-z_]+") if len(row) == 4]
    assert told == [(f"{PREFIX}{metric}", kind) for metric, kind, _text in haproxy_metrics.METRICS]
    words = {*haproxy_metrics.OUTCOMES, *haproxy_metrics.WAYS, *haproxy_metrics.REFUSALS, *haproxy_metrics.KINDS, "other"}
    assert words - set(re.findall(r"`(\w+)`", prose(page))) == set()
    alerts = load_yaml(ROOT / "docs" / "examples" / "alerts.yml")["groups"][0]["rules"]
    assert [row[0].strip("`") for row in table_rows(page, "Haproxy[A-Za-z]+")] == [rule["alert"] for rule in alerts]
    asked = set(re.findall(rf"{PREFIX}[a-z_]+", " ".join(rule["expr"] for rule in alerts)))
    assert asked <= {name for name, _kind in told}


def table_rows(document: Path, first_cell: str) -> list[list[str]]:
    """The rows of tables whose first cell is code that matches."""
    found = [re.split(r"(?<!\\)\s*\|\s*", line.strip("| ")) for line in prose(document).splitlines() if line.startswith("| `")]
    return [row for row in found if re.fullmatch(f"`{first_cell}`", row[0])]


def assert_default(name: str, cell: str, default: Any) -> None:
    """A default stands as code, as in YAML; one that is worked out has an empty cell, and words behind it."""
    if isinstance(default, str) and "{{" in default:
        assert cell == "", f"{name}: its default is worked out, and {cell} is written"
        return
    written = re.fullmatch(r"`(.+)`", cell)
    assert written, f"{name}: {cell} is no default"
    assert yaml.safe_load(written.group(1)) == default, f"{name}: the default is {default!r}, and {cell} is written"


def test_the_role_readme_has_each_variable_in_the_order_of_the_defaults_with_its_default() -> None:
    rows = table_rows(ROLE_README, rf"{PREFIX}[a-z0-9_]+")
    assert [row[0].strip("`") for row in rows] == list(DEFAULTS)
    for (name, default), row in zip(DEFAULTS.items(), rows):
        assert_default(name, row[1], default)
        assert row[2], f"{name} has no meaning"


def test_the_role_readme_has_each_key_of_a_service_with_its_default() -> None:
    keys: dict[str, Any] = {}
    for name, key in SPECIFICATION[f"{PREFIX}services"]["options"].items():
        keys[name] = key
        keys.update({f"{name}.{inner}": option for inner, option in key.get("options", {}).items()})
    # The same words stand first in rows of other tables.
    section = re.search(r"^### Services$.*?^## ", prose(ROLE_README), re.MULTILINE | re.DOTALL)
    assert section
    assert "An entry of `haproxy_autoscale_services`" in section.group()
    rows = [row for row in table_rows(ROLE_README, r"[a-z0-9_.]+") if f"| {' | '.join(row)} |" in section.group()]
    assert sorted(row[0].strip("`") for row in rows) == sorted(keys)
    for name, cell, meaning in ((row[0].strip("`"), row[1], row[2]) for row in rows):
        assert meaning, f"{name} has no meaning"
        if keys[name].get("required"):
            assert cell == "required", name
        elif "default" in keys[name]:
            assert_default(name, cell, keys[name]["default"])
        else:
            # Worked out by the template, or left to HAProxy.
            assert cell == "", name


def test_the_variables_of_defaults_and_of_the_specification_are_the_same() -> None:
    assert sorted(DEFAULTS) == sorted(SPECIFICATION)


# Blocks of code.


def of_language(*languages: str) -> Any:
    return pytest.mark.parametrize("block", [block for block in BLOCKS if block.info[:1] and block.info[0] in languages], ids=str)


def test_each_block_says_what_it_is() -> None:
    assert [str(block) for block in BLOCKS if not block.info or block.info[0] not in ("yaml", "shell", "json", "jinja", "text")] == []


def settings(data: Any) -> Iterator[tuple[str, Any]]:
    """Every variable of the role that is set anywhere in this YAML."""
    if isinstance(data, dict):
        for key, value in data.items():
            if isinstance(key, str) and key.startswith(PREFIX):
                yield key, value
            else:
                yield from settings(value)
    elif isinstance(data, list):
        for entry in data:
            yield from settings(entry)


@of_language("yaml")
def test_a_yaml_block_sets_what_the_role_takes(block: Block) -> None:
    data = yaml.safe_load(block.text)
    for name, value in settings(data):
        if name in SPECIFICATION:
            result = ArgumentSpecValidator({name: SPECIFICATION[name]}).validate({name: value})
            assert result.error_messages == []


@of_language("json")
def test_a_json_block_is_json(block: Block) -> None:
    json.loads(block.text)


@of_language("jinja")
def test_a_jinja_block_is_a_template(block: Block) -> None:
    # Ansible's own filters and tests are not known here, only the syntax is looked at.
    jinja2.Environment(autoescape=True).parse(block.text)


@of_language("shell")
def test_a_shell_block_is_one(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.text, check=True, capture_output=True, text=True)


def test_each_playbook_block_passes_the_syntax_check(tmp_path: Path) -> None:
    playbooks = []
    for block in BLOCKS:
        if block.info == ["yaml", "playbook"]:
            playbooks.append(tmp_path / f"{len(playbooks)}.yml")
            playbooks[-1].write_text(block.text)
    assert len(playbooks) >= 3
    collection = tmp_path / "ansible_collections" / "autoscale" / "haproxy"
    collection.parent.mkdir(parents=True)
    collection.symlink_to(ROOT)
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path), "ANSIBLE_HOME": str(tmp_path / "home"), "ANSIBLE_LOCALHOST_WARNING": "false"}
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", "balancers,", "--syntax-check", *playbooks]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schedule_is_locked_survives_git_and_never_waits_for_a_commit() -> None:
    lines = [line for block in BLOCKS for line in block.text.splitlines() if "ansible-pull" in line]
    assert lines
    for line in lines:
        words = line.split()
        assert "flock -n" in line
        assert "-f" in words
        assert not {"-o", "--only-if-changed"} & set(words)
        assert "playbooks/update.yml" in words


# Other names.


def test_each_make_target_exists_and_is_told() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)) - {"help"}
    for document in DOCUMENTS:
        code = "\n".join([*re.findall(r"`([^`\n]+)`", prose(document)), *(block.text for block in BLOCKS if block.document == document)])
        assert set(re.findall(r"(?:^|\s)make ([a-z][a-z-]*)", code, re.MULTILINE)) <= targets, document
    told = {row[0].strip("`").removeprefix("make ") for row in table_rows(ROOT / "CONTRIBUTING.md", "make [a-z-]+")}
    assert told == targets


@of_each_document
def test_each_test_that_is_named_exists(document: Path) -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", document.read_text()))
    assert {name for name in named if f"def {name}(" not in code} == set()


@of_each_document
def test_each_file_that_is_named_exists(document: Path) -> None:
    named = set(re.findall(r"`((?:tests|roles|playbooks|library|module_utils|templates|molecule|changelogs|docs)/[\w./-]+)`", prose(document)))
    # What `templates/` is in someone's project is theirs.
    missing = {name for name in named if not (ROOT / name).exists()}
    assert missing == set()


def messages() -> list[str]:
    return [row[0].strip("`") for row in table_rows(ROOT / "docs" / "troubleshooting.md", ".+")]


def test_the_messages_of_the_troubleshooting_page_are_in_the_code() -> None:
    sources = [
        *(ROOT / "module_utils").rglob("*.py"),
        *(ROOT / "library").glob("*.py"),
        *ROLE.rglob("tasks/*.yml"),
        *ROLE.rglob("vars/*.yml"),
        *(ROOT / "templates").glob("*.j2"),
    ]
    code = " ".join("\n".join(path.read_text() for path in sources).split())
    # Neighbouring pieces of a text are one text, and what is put into it stands as an ellipsis.
    code = re.sub(r'" f?"', "", code)
    # Said by others: HAProxy, Ansible, botocore and EC2.
    others = {"could not resolve address", "is undefined", "has no attribute", "Failed to import the required Python library (boto3)"}
    others |= {"failed:", "UnauthorizedOperation", "NoCredentialsError", "RequestLimitExceeded", "MetadataRetrievalError", "ProfileNotFound", "AuthFailure"}
    others |= {"AccessDenied", "RegionDisabledException"}
    others |= {"RequestExpired", "SignatureDoesNotMatch", "ExpiredToken", "ResponseParserError", "PaginationError", "ReadTimeoutError", "ConnectTimeoutError"}
    others |= {"EndpointConnectionError", "ConnectionClosedError", "SSLError"}
    found = messages()
    assert len(found) > 20
    for message in found:
        for piece in re.split(r"\s*…\s*|(?<=failed:) |(?<=attempts:) ", message):
            assert piece in others or piece.strip(" .:,") in code or not piece, f"{message}: {piece!r}"


def test_each_refusal_is_on_the_troubleshooting_page() -> None:
    said = re.findall(r"Refused: ([^{:]+)", " ".join((ROLE / "tasks" / "refuse.yml").read_text().split()))
    assert len(said) > 4
    for words in said:
        assert any(f"Refused: {words.split(', or ')[0].strip()}" in message for message in messages()), words


def strings(statement: ast.stmt) -> str:
    """The texts in a test's source, without those that are only said to the reader."""
    said = {id(node.value) for node in ast.walk(statement) if isinstance(node, ast.Expr)}
    found = [node.value for node in ast.walk(statement) if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said]
    # One that is a pattern has backslashes.
    return "\n".join(" ".join(text.replace("\\", "").split()) for text in found)


def test_each_message_of_the_troubleshooting_page_is_provoked_by_a_test() -> None:
    """As far as that can be seen without running them: all of its words stand in one test, or in what one is given."""
    paths = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    tests = [strings(statement) for path in paths for statement in ast.parse(path.read_text()).body]
    pieces = {message: [piece.strip(" .:,'") for piece in re.split(r"…|(?:failed|attempts): ", message)] for message in messages()}
    pieces = {message: [piece for piece in found if len(piece) > 3] for message, found in pieces.items()}

    def provokes(test: str, message: str) -> bool:
        return all(piece in test for piece in pieces[message])

    untold = []
    for message in pieces:
        # Where one message holds another's words, a test of the longer one says nothing of the shorter.
        longer = [other for other in pieces if other != message and provokes("\n".join(pieces[other]), message)]
        if not any(provokes(test, message) and not any(provokes(test, other) for other in longer) for test in tests):
            untold.append(message)
    assert untold == []


# The site.


def test_each_page_is_in_the_contents_of_the_site() -> None:
    contents = re.findall(r"^   (?:.*<)?([\w./-]+?)>?$", (ROOT / "tests" / "site" / "index.rst").read_text(), re.MULTILINE)
    assert [page for page in contents if contents.count(page) > 1] == []
    pages = {str(document.relative_to(ROOT).with_suffix("")) for document in DOCUMENTS}
    # What antsibull-docs writes, and what is no page.
    assert set(contents) - {"modules/index"} == {page for page in pages if not page.startswith(("changelogs/", ".github/"))}
    # And a reader of the repository finds it from the front page.
    (listed,) = re.findall(r"^## Documents\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= set(re.findall(r"\]\(([^)]+)\)", listed))


def test_each_picture_is_shown_and_is_one() -> None:
    folder = ROOT / "docs" / "images"
    shown = {(document.parent / path).resolve() for document in DOCUMENTS for path in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", document.read_text())}
    assert shown == {path.resolve() for path in folder.iterdir()}
    for path in shown:
        assert re.search(r"^<svg\b", path.read_text(), re.MULTILINE), path


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_site_is_made_without_a_warning_and_with_each_page() -> None:
    done = subprocess.run(["make", "docs"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    site = ROOT / "build" / "docs"
    for page in ("index", "README", "docs/troubleshooting", "modules/haproxy_apply_module", "modules/haproxy_autoscale_role"):
        assert (site / f"{page}.html").is_file(), page
