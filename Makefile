# make demo        train the water model from nothing: environment, installation, run
# make test        format, types and the fast tests
# make test-all    make test, then the slow tests (they train models)
# make wheel-test  the wheel works outside the checkout
#
# VENV=… puts the environment elsewhere, PYTHON=… chooses the interpreter it is made with,
# JOBS=… the number of test processes, EXTRAS=test,gpu also tests the GPU kernels in their interpreter.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV ?= .venv
JOBS ?= 2
# gpu adds Triton (1 GB), whose kernels are then tested in its interpreter
EXTRAS ?= test
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
# One thread per test process: small tensors gain nothing from more, and the processes do not fight.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(VENV)/bin/python -m pytest

.PHONY: help demo test test-all test-slow wheel-test lint clean

help:
	@sed -n 's/^# make/make/p' Makefile

# --- environment: the stamp files say what is installed, so that a second call installs nothing

$(VENV)/bin/python:
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
	  for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	      python="$$candidate"; break; \
	    fi; \
	  done; \
	fi; \
	if [ -z "$$python" ]; then \
	  echo 'lsf needs Python 3.11 or newer with its venv module, and found none among python3, python3.11 … python3.14.' >&2; \
	  echo 'Install one (Debian, Ubuntu: apt install python3 python3-venv), or name it: make demo PYTHON=/path/to/python' >&2; \
	  exit 1; \
	fi; \
	echo "creating $(VENV) with $$("$$python" --version) …"; \
	"$$python" -m venv "$(VENV)"

$(VENV)/.installed-run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo 'installing lsf and what it needs (some minutes the first time; torch is large) …'
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo 'installing lsf and what its tests need (some minutes the first time; torch is large) …'
	@$(PIP) install -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@ $(VENV)/.installed-run

# --- what people call

demo: $(VENV)/.installed-run
	@$(VENV)/bin/python -m lsf run recipes/water_split.toml

lint: $(VENV)/.installed-test
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy lsf

test: lint
	$(PYTEST) -m 'not slow' -n $(JOBS)

test-slow: $(VENV)/.installed-test
	$(PYTEST) -m slow -n $(JOBS) --ignore tests/test_package.py

test-all: test
	$(MAKE) test-slow

wheel-test: $(VENV)/.installed-test
	$(PYTEST) tests/test_package.py

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
