# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup haproxy demo test test-full test-unit test-integration test-packaging test-molecule coverage matrix churn bench lint sanity format gallery docs pictures build release clean

bin := .venv/bin
# ARGS="-k reload" goes to pytest.
pytest := $(bin)/python -m pytest $(ARGS)

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

setup: ## A virtual environment in .venv, HAProxy if it is missing, further ansible-cores: all that the tests need
	@tests/setup.sh test

haproxy: setup ## Further HAProxy versions for the tests, in .cache/haproxy
	@$(bin)/python tests/support/haproxy_binaries.py

demo: ## The product at work on this machine, without AWS. KEEP=1 leaves it running
	@tests/setup.sh demo
	@$(bin)/python tests/demo/demo.py $(if $(filter 1 yes true,$(KEEP)),--keep)

test: setup ## Everything that a change must pass: lint, then unit, integration, packaging and molecule tests
	@# Five processes for two cores: a test waits for checks and reloads for half of its time. With worksteal neighbours stay together,
	@# and what they share is made once instead of five times.
	@# A line too long must not hide what the tests say: both run, and either fails it.
	@# Lint goes beside the tests and says all that it has to say at once.
	@status=0; { output=$$(tests/lint.sh 2>&1) && result=0 || result=1; printf '%s\n' "$$output"; exit $$result; } & lint=$$!; trap 'kill $$lint 2>/dev/null' INT TERM; \
	$(pytest) --numprocesses 5 --dist worksteal tests/unit tests/integration || status=1; wait $$lint || status=1; \
	[ $$status -eq 0 ] || { echo "make test: failed, see lint's or pytest's closing lines" >&2; exit 1; }

test-full: setup ## The same tests with all that the default run leaves out to stay short: each way on each ansible-core, each churn on each HAProxy
	@$(pytest) --numprocesses 5 --dist worksteal -m "" tests/unit tests/integration

test-unit: setup ## The tests without processes and network
	@$(pytest) tests/unit

test-integration: setup ## The tests with a real HAProxy and an EC2 endpoint on loopback
	@$(pytest) --numprocesses 5 --dist worksteal tests/integration

test-packaging: setup ## The ways to run it (checkout, ansible-pull, ansible-runner, roles_path, collection) on each ansible-core
	@$(pytest) tests/integration/test_packaging.py

test-molecule: setup ## The molecule scenarios
	@$(pytest) tests/integration/test_molecule.py

coverage: setup ## The share of the lines of library/ and module_utils/ that tests run through; it fails below the floor in pyproject.toml
	@mkdir -p .cache/coverage
	@$(pytest) --numprocesses 5 --dist worksteal --cov --cov-report=term tests/unit tests/integration

matrix: setup ## Each ansible-core with each Python, the modules on the oldest Python, each HAProxy by itself. ARGS="--tags haproxy" for a part of it
	@tests/setup.sh matrix
	@.cache/venv-matrix/bin/nox $(ARGS)

churn: setup ## Clients under load while the group changes, on each HAProxy: a table of what they noticed and of the reloads. ARGS="--versions 3.2" for one
	@$(bin)/python tests/bench/churn.py $(ARGS)

bench: setup ## What a run costs, beside what an Ansible user would write: docs/performance.md anew, in an hour. ARGS="--quick" only shows the whole runs
	@$(bin)/python -m pip install -qq --disable-pip-version-check -r tests/requirements-bench.txt
	@$(bin)/python tests/bench/bench.py $(ARGS)
	@$(if $(findstring --quick,$(ARGS)),,$(bin)/python tests/bench/document.py)

lint: setup ## ruff, mypy, shellcheck, yamllint, ansible-lint and antsibull's checks of the changelog and the documents
	@tests/lint.sh

sanity: setup ## ansible-test sanity, on the tree as it is published
	@tests/sanity.sh

format: setup ## Python code in the form that `make lint` wants
	@$(bin)/ruff format --quiet .
	@$(bin)/ruff check --quiet --fix .

gallery: setup ## The results in docs/templates.md and the policies in docs/iam.md, made anew
	@$(bin)/python tests/support/gallery.py
	@$(bin)/python tests/support/policies.py

docs: ## The documents as a site, in build/docs, with every link checked
	@tests/setup.sh docs
	@tests/docs.sh

pictures: ## The recorded run of the demo and the statistics pages in the documents, made anew
	@tests/setup.sh demo
	@$(bin)/python tests/support/pictures.py

build: ## The collection as a tarball, in build/; the same bytes from the same commit
	@tests/setup.sh demo
	@$(bin)/python tests/support/tarball.py build

release: setup ## The tarball to publish, in build/: only of what is committed, and of a version that the changelog has
	@$(bin)/python tests/support/tarball.py --release build
	@tests/galaxy.sh build/autoscale-haproxy-"$$(sed -n 's/^version: //p' galaxy.yml)".tar.gz

clean: ## Remove all that make created
	rm -rf .venv .cache .ansible build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
