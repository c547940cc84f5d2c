# Everything one does with this repository. Plain enough for GNU make 3.81, which macOS has.

PY := .venv/bin/python
SEEDS ?= 200
BENCH ?= tasks latency rebuild discovery heartbeats
ARGS ?=

.PHONY: help demo test check sim e2e bench compare faults check-install lock clean venv venv-dev

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: venv ## the whole system at work on this machine, real nats-server and all; under a minute
	@$(PY) -m coordinator.cli demo $(ARGS)

test: venv-dev ## every test, and the coverage it must reach; about a quarter of an hour
	@$(PY) -m coverage erase
	$(PY) -m coverage run -m pytest --session-timeout=3000 $(ARGS)
	@$(PY) -m coverage combine --quiet
	@echo "coverage of everything, branches included: at least 90 %"
	@$(PY) -m coverage report --fail-under=90
	@echo "coverage of what is pure: 100 %"
	@$(PY) -m coverage report --rcfile=tools/pure_coverage.toml --fail-under=100

check: venv-dev ## before each commit: lint, format, types, tidiness, unit tests; under a minute
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy --strict
	$(PY) -m pytest -q tests/test_tidy.py tests/unit

sim: venv-dev ## the simulation over seeds: make sim SEEDS=200
	$(PY) -m tests.simulation --seeds $(SEEDS) $(ARGS)

e2e: venv-dev ## the real thing: processes and nats-server
	$(PY) -m pytest tests/e2e $(ARGS)

bench: venv ## the benchmarks in turn, as JSON: make bench BENCH="latency rebuild"
	@for name in $(BENCH); do $(PY) -m coordinator.cli bench $$name $(ARGS) || exit 1; done

compare: venv ## is this tree slower than another commit: make compare BASE=main; eight minutes
	@$(PY) -m tools.compare $(BASE) $(ARGS)

faults: venv-dev ## break it in every way and see its promises kept, a line of JSON each; ARGS="kills --tasks 5000"
	@$(PY) -m tests.faults $(ARGS)

check-install: venv ## install in every way that users may: Pythons, pips, a wheel; some minutes, needs the network
	@$(PY) tools/check_install.py $(ARGS)

lock: ## renew both locks from pyproject.toml; ARGS=--upgrade for newer versions
	@sh tools/lock.sh $(ARGS)

clean: ## remove what these commands made, the venv too
	rm -rf .venv tests/javascript/node_modules .coverage .coverage.* htmlcov build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv:
	@sh tools/bootstrap.sh

venv-dev:
	@sh tools/bootstrap.sh --dev
