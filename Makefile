# Reelgraph. `make demo` and `make test` are all a newcomer needs; both make the environment first.
.DEFAULT_GOAL := help
.PHONY: help env demo test test-all check ui bench same-loss cluster-test clean lock
SHELL := /bin/bash

# The first of these that runs; PYTHON=/path/to/python chooses another.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13; do $$name -c "" 2>/dev/null && echo $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1

help:
	@echo "make demo   the whole lineage on clips that the program renders, then a report"
	@echo "make test   the quick tests: those of at most a second of processor time, nine of ten"
	@echo "make test-all  every test: real servers, several processes, kills, full disks"
	@echo "make ui     Dagster on this machine: the lineage, runs, schedules"
	@echo "make check  what CI runs: format, lint, types, all tests but slow ones, some of those, the demo at tiny size"
	@echo "make bench  figures as ratios against named peers"
	@echo "make same-loss BASE=main   ten steps of every objective, here and in a commit, to the last bit"
	@echo "make cluster-test  Slurm of two hosts, S3 and Postgres on this machine, broken one way after the other"
	@echo "make env    only the environment (.venv)"
	@echo "make clean  remove results and caches (asks nothing, keeps .venv)"

env: $(VENV)/.complete

# Three lists with exact versions and hashes (.ci/lock writes them), so that a fresh machine gets the same environment.
LISTS := requirements.lock requirements-dev.lock requirements-torch.lock
PIP = $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off
SHOWN = awk '/^(Collecting|Installing|Successfully)/ { print "  " substr($$0, 1, 100); fflush() }'; test $${PIPESTATUS[0]} -eq 0

$(VENV)/.complete: $(LISTS) pyproject.toml
	@bash .ci/interpreter "$(PYTHON)"
	@echo "making $(VENV) (about 2.3 GB with the CPU build of torch, a few minutes; pip shows each package)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps --require-hashes -r requirements.lock -r requirements-dev.lock | $(SHOWN)
	@bash .ci/torch $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# The committed config works without git; in a clone, say so locally: `dvc exp` needs it.
	@if [ -e .git ]; then dvc config --local core.no_scm false; fi
	@touch $@

demo: env
	@reel demo

test: env
	@OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile -m "not slow and not costly"

test-all: env
	@OMP_NUM_THREADS=1 python -m pytest -n 2

# Of the slow ones: two processes, a full disk, a real server.
SOME_SLOW := tests/training/test_processes.py::test_two_processes_see_log_and_learn_what_one_does_and_resume_exactly \
	tests/training/test_resume.py::test_a_full_disk_stops_a_run_in_one_line_and_it_continues_when_there_is_room \
	tests/dagster_project/test_web.py::test_harmless_queries_of_another_host_or_origin_are_refused

check: env
	ruff format --check .
	ruff check .
	pyright
	@bash .ci/smoke
	@OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal -m "not slow" --quick-within 5
	@OMP_NUM_THREADS=1 python -m pytest -n 2 $(SOME_SLOW)

ui: env
	@reel ui

bench: env
	@python -m benchmarks

BASE ?= main
same-loss: env
	@python -m benchmarks.same_loss $(BASE) $(OTHER)

# Slurm from Debian's packages, the rest from PyPI, all in a temporary folder; as root with networks of its own.
cluster-test: env
	@python -m benchmarks.cluster

clean:
	rm -rf data checkpoints metrics plots report .work .dagster .dvc/cache .dvc/tmp dvc.lock
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Only for maintainers: resolve pyproject.toml anew and write the lists.
lock:
	bash .ci/lock
