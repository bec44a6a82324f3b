# Every target sets up what it needs: a virtual environment in .venv with the versions of constraints.txt.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Without a GPU the CPU build of torch is enough, where its index can be reached; it saves gigabytes.
CPU_INDEX := https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow test-gpu chaos lint types contracts unit format bench ui pictures lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.ready ## the virtual environment alone

$(VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "sigmasweep needs Python 3.11 or newer"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv"; exit 2; }
	@echo "Setting up $(VENV) (once) ..."
	@$(PYTHON) -m venv $(VENV)
	@index=""; \
	if ! command -v nvidia-smi >/dev/null && $(BIN)/python -c \
		"import urllib.request as u; u.urlopen('$(CPU_INDEX)/torch/', timeout=5)" 2>/dev/null; \
	then index="--extra-index-url $(CPU_INDEX)"; fi; \
	$(BIN)/pip install --quiet --disable-pip-version-check $$index -c constraints.txt torch==2.13.0 setuptools uv
	@# uv takes seconds where pip takes a minute; pip knows of mirrors that uv has not been told of.
	@options="--quiet --no-build-isolation -c constraints.txt -e .[demo,dev]"; \
	$(BIN)/uv pip install --python $(BIN)/python $$options 2>/dev/null || \
		$(BIN)/pip install --disable-pip-version-check $$options
	@touch $@

demo: venv ## train on digits, sweep samplers, measure, compare: a few minutes
	@$(BIN)/python -m jobs.study jobs/configs/demo.yaml

test: lint types contracts unit ## everything that must hold

lint: venv
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: venv
	@$(BIN)/mypy

contracts: venv
	@$(BIN)/lint-imports --no-cache

unit: venv
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not chaos" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: venv ## the checks that take minutes
	@$(BIN)/python -m pytest -m slow

test-gpu: venv ## what needs a GPU, against the CPU's answers
	@$(BIN)/python -m pytest tests/gpu -n 8 --timeout 900

chaos: venv ## real faults against an undisturbed run: what docs/reliability.md says, about an hour
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m chaos -s

.PHONY: readme
readme: venv ## what README.md and the journeys tell a reader to do, done in a fresh clone; READMEFLAGS="--venv .venv"
	@$(BIN)/python -m tests.readme $(READMEFLAGS)

format: venv ## rewrite the code in the project's form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: venv ## measure speed against its targets; BENCH=--quick takes minutes
	@missed=0; for name in sampling training engine evaluation scale; do \
		echo "== $$name"; $(BIN)/python benchmarks/$$name.py $(BENCH) || missed=1; done; exit $$missed

ui: venv ## the MLflow UI over the demo's runs, on http://127.0.0.1:5000
	@MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server \
		--backend-store-uri sqlite:///$(CURDIR)/runs/demo/mlflow.db --workers 1 --host 127.0.0.1 --port 5000

pictures: venv ## the screenshots of docs/ui.md anew
	@OMP_NUM_THREADS=1 SIGMASWEEP_PICTURES=docs/pictures $(BIN)/python -m pytest -m slow -q tests/jobs/test_screen.py

lock: venv ## constraints.txt anew
	@{ head -n 1 constraints.txt; $(BIN)/uv pip compile --quiet pyproject.toml --extra demo --extra dev --extra aws --extra gcp --universal \
		--python-version 3.11 --no-annotate --no-header --no-emit-package torch | grep -vE '^(nvidia|triton|cuda)'; } \
		> constraints.new && mv constraints.new constraints.txt

clean: ## remove the environment and caches, never results
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
