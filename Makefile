# `make run` trains a robot, `make test` proves that the code is right; both set up what they need. `make help` lists the rest.

PYTHON ?= python3
ENV   ?= Hopper-v5
STEPS ?= 100000
SEED  ?= 0
WORKERS ?= 2

# An environment of your own instead of .venv: `make lint PY=python`.
ifeq ($(origin PY),command line)
  READY :=
else
  PY    := .venv/bin/python
  READY := .venv/.complete
endif

SOURCES := sb3_trpo_ext tests scripts examples docs/conf.py docs/_ext
# One thread for each process: parallel tests do not fight over the cores, and sums are the same each time.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest

.DEFAULT_GOAL := help
.PHONY: setup setup-system test pytest pytest-slow pytest-install pytest-gpu type lint format check-codestyle imports docstrings commit-checks \
        docs docs-test benchmark run clean help

setup: $(READY)  ## make .venv with the pinned dependencies (again only if they changed)

# No stamp: the environment was never finished, so begin anew. An old stamp: bring it up to date.
# torch comes first, so that no other package's range picks its build.
.venv/.complete: pyproject.toml constraints.txt
	test -f $@ || $(PYTHON) -m venv --clear .venv
	rm -f $@
	.venv/bin/python -m pip install --quiet -c constraints.txt torch==2.13.0
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[zoo,wandb,doctor,envs,export,robotics,bench,dev,docs]"
	touch $@

# The doctor's page is tested in it; without it those tests are skipped, but not where CI=true. Needs root, and Debian or Ubuntu.
setup-system:  ## install headless Chromium for the tests of the doctor's page
	command -v chromium > /dev/null || { apt-get update -q && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium; }

run: $(READY)  ## the main job: ENV=Hopper-v5 STEPS=100000 SEED=0
	$(PY) scripts/main_job.py --env $(ENV) --steps $(STEPS) --seed $(SEED)

test: check-codestyle lint type imports docstrings  ## every fast check, then the tests with the coverage of core/
	$(PYTEST) -n $(WORKERS) -m "not slow and not gpu" --cov=sb3_trpo_ext/core --cov-report=term --cov-fail-under=95

pytest: $(READY)  ## the fast tests
	$(PYTEST) -n $(WORKERS) -m "not slow and not gpu"

# pytest calls "nothing collected" a failure (5).
pytest-slow: $(READY)  ## the slow tests: identity environments, determinism, short trainings
	@$(PYTEST) -m "slow and not gpu and not install" --collect-only -qq > /dev/null 2>&1; \
	if [ $$? -eq 5 ]; then echo "There are no slow tests yet."; \
	else $(PYTEST) -n $(WORKERS) -m "slow and not gpu and not install" --timeout=1800; fi

pytest-install: $(READY)  ## each documented install line in a new environment; needs the package registry
	$(PYTEST) -n $(WORKERS) -m install --timeout=1800

pytest-gpu: $(READY)  ## the tests that need a CUDA device (skipped without one)
	@$(PYTEST) -m gpu --collect-only -qq > /dev/null 2>&1; \
	if [ $$? -eq 5 ]; then echo "There are no GPU tests yet."; else $(PYTEST) -m gpu; fi

type: $(READY)  ## mypy, strict on core/ and monitoring/
	$(PY) -m mypy

lint: $(READY)  ## ruff
	$(PY) -m ruff check $(SOURCES)

format: $(READY)  ## sort the imports and format
	$(PY) -m ruff check --select I --fix $(SOURCES)
	$(PY) -m ruff format $(SOURCES)

check-codestyle: $(READY)  ## would `make format` change anything?
	$(PY) -m ruff check --select I $(SOURCES)
	$(PY) -m ruff format --check $(SOURCES)

imports: $(READY)  ## who may import whom (import-linter)
	$(PY) -c "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-logo'])"

docstrings: $(READY)  ## every argument documented, no other (pydoclint)
	$(PY) -m pydoclint.main --quiet sb3_trpo_ext

docs: $(READY)  ## the pages, in docs/_build/html; a warning is an error, and so is a reference that leads nowhere
	$(PY) -m sphinx -b html -W --keep-going -n -q docs docs/_build/html
	@echo "docs/_build/html/index.html"

docs-test: $(READY)  ## run the examples of the pages
	OMP_NUM_THREADS=1 $(PY) -m sphinx -b doctest -W -q docs docs/_build/doctest

commit-checks: format lint type imports docstrings  ## format, then all the fast checks

benchmark: $(READY)  ## one update of ours against one of sb3-contrib's
	OMP_NUM_THREADS=1 $(PY) scripts/benchmark_update.py

clean:  ## remove caches and builds; the environment and the runs stay
	rm -rf .cache .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis .coverage .coverage.* dist build

help:
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 18
