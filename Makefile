# Reelgraph. `make demo` and `make test` are all a newcomer needs; both make the environment first.
.DEFAULT_GOAL := help
.PHONY: help env demo test test-all check ui bench same-loss clean lock
SHELL := /bin/bash

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# One thread per process: two stages run side by side.
export OMP_NUM_THREADS ?= 1
export DVC_NO_ANALYTICS := 1

help:
	@echo "make demo   the whole lineage on clips that the program renders, then a report"
	@echo "make test   the tests, but those marked slow"
	@echo "make test-all  every test: real servers, several processes, kills, full disks"
	@echo "make ui     Dagster on this machine: the lineage, runs, schedules"
	@echo "make check  format, lint, types, fast tests"
	@echo "make bench  figures as ratios against named peers"
	@echo "make same-loss BASE=main   ten steps of every objective, here and in a commit, to the last bit"
	@echo "make env    only the environment (.venv)"
	@echo "make clean  remove results and caches (asks nothing, keeps .venv)"

env: $(VENV)/.complete

# requirements.lock holds exact versions of everything, so that a fresh machine gets the same environment.
$(VENV)/.complete: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "making $(VENV) (about 2.3 GB, a few minutes; pip shows each package)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -r requirements.lock \
		| awk '/^(Collecting|Installing|Successfully)/ { print "  " substr($$0, 1, 100); fflush() }'; test $${PIPESTATUS[0]} -eq 0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# The committed config works without git; in a clone, say so locally: `dvc exp` needs it.
	@if [ -e .git ]; then dvc config --local core.no_scm false; fi
	@touch $@

demo: env
	@reel demo

test: env
	@python -m pytest -n 2 -m "not slow"

test-all: env
	@python -m pytest -n 2

check: env
	ruff format --check .
	ruff check .
	pyright
	@python -m pytest -n 2 -m "not slow"

ui: env
	@reel ui

bench: env
	@python -m benchmarks

BASE ?= main
same-loss: env
	@python -m benchmarks.same_loss $(BASE) $(OTHER)

clean:
	rm -rf data checkpoints metrics plots report .work .dagster .dvc/cache .dvc/tmp dvc.lock
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Only for maintainers: resolve pyproject.toml anew and write the lock.
lock:
	$(PYTHON) -m venv .work/lock
	.work/lock/bin/python -m pip install --quiet torch==2.13.0
	.work/lock/bin/python -m pip install --quiet '.[dev]'
	.work/lock/bin/python -m pip freeze --all --exclude reelgraph --exclude pip | sed 's/+cpu$$//; / @ /d' > requirements.lock
	rm -rf .work/lock
