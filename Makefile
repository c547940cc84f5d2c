# All development tasks of this repository. Works with GNU make 3.81, the version on macOS.

PY := .venv/bin/python
SEEDS ?= 200
BENCH ?= tasks latency rebuild discovery heartbeats packing
ARGS ?=

.PHONY: help demo test test-real check sim e2e bench compare faults check-install lock clean venv venv-dev

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: venv ## run the demo on this machine, with a real nats-server; under a minute
	@$(PY) -m coordinator.cli demo $(ARGS)

test: venv-dev ## run all tests and check the coverage; under 25 minutes on two cores
	@$(PY) -m coverage erase
	@$(PY) -m tools.all_tests $(ARGS)
	@$(PY) -m coverage combine --quiet
	@echo "coverage of all code, with branches: at least 90 %"
	@$(PY) -m coverage report --fail-under=90
	@echo "coverage of pure code: 100 %"
	@$(PY) -m coverage report --rcfile=tools/pure_coverage.toml --fail-under=100

test-real: venv-dev ## run the tests with Docker, runc and gVisor; as root on Debian it installs what is missing; 10 minutes
	@for one in dockerd runc runsc tini-static busybox; do command -v $$one >/dev/null || missing=1; done; \
	  [ -z "$$missing" ] || { command -v apt-get >/dev/null && apt-get update -qq && \
	    apt-get install -y -qq docker.io runc runsc tini busybox-static; } || \
	  { echo "make test-real: install Docker, runc, runsc, tini and busybox-static first" >&2; exit 2; }
	COORDINATOR_TEST_REQUIRE=docker,oci,gvisor $(PY) -m tools.all_tests real $(ARGS)

check: venv-dev ## run lint, format, types, tidiness and unit tests before each commit; under a minute
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy --strict
	$(PY) -m pytest -q tests/test_tidy.py tests/unit

sim: venv-dev ## run the simulation over many seeds: make sim SEEDS=200
	$(PY) -m tests.simulation --seeds $(SEEDS) $(ARGS)

e2e: venv-dev ## run the end-to-end tests with real processes and nats-server
	$(PY) -m pytest tests/e2e $(ARGS)

bench: venv ## run the benchmarks one after the other, print JSON: make bench BENCH="latency rebuild"
	@for name in $(BENCH); do $(PY) -m coordinator.cli bench $$name $(ARGS) || exit 1; done

compare: venv ## compare the speed with another commit: make compare BASE=main; 8 minutes
	@[ -n "$(BASE)" ] || { echo "make compare: name a commit, such as: make compare BASE=main" >&2; exit 2; }
	@$(PY) -m tools.compare $(BASE) $(ARGS)

faults: venv-dev ## inject faults and check the guarantees, one line of JSON each; ARGS="kills --tasks 5000"
	@$(PY) -m tests.faults $(ARGS)

check-install: venv ## test all ways to install: Python versions, pip versions, a wheel; some minutes, needs the network
	@$(PY) tools/check_install.py $(ARGS)

lock: ## update both lock files from pyproject.toml; ARGS=--upgrade for newer versions
	@sh tools/lock.sh $(ARGS)

clean: ## remove all generated files and the venv
	rm -rf .venv tests/javascript/node_modules .coverage .coverage.* htmlcov build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv:
	@sh tools/bootstrap.sh

venv-dev:
	@sh tools/bootstrap.sh --dev
