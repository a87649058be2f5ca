# Everything a user or a developer runs. `.venv` is made once; the stamps in it say what it was made from.
#
#   make demo      set up, then train the headline recipe (with its comparison) and the hospitals, whose log is audited
#   make test      set up, then the quick tests
#   make check     format, lint, types, layers
#   make test-all  every test: slow ones, and those that need a service such as a browser
#   make fuzz      the native decoders under sanitisers, 20 seconds each (needs clang); SECONDS_EACH=600 for longer
#   make clean     remove what was built (not .venv); `make distclean` removes .venv too

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# The first Python that is new enough. `make PYTHON=/path/to/python3.12 test` chooses another.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

VENV := .venv
BIN := $(VENV)/bin
EXTRAS := dev,tasks,torch,plots,flower,flower-simulation,ledger,bucket,evm,tsa
RUNS := runs

# Nothing here uses the network once the environment is made.
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One worker per core; each computes on one thread, so that workers do not compete.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses=8 --dist=loadscope --no-loadscope-reorder --max-worker-restart=0

DEPENDENCIES := $(VENV)/dependencies.stamp
PACKAGE := $(VENV)/package.stamp
NATIVE := $(wildcard CMakeLists.txt) $(shell find native -type f 2>/dev/null | sort)

.PHONY: help demo test test-all check fuzz format env native clean distclean

help:
	@sed -n 's/^#   //p' Makefile

env: $(PACKAGE)

# Third-party packages: again only when the pins or the lists change.
$(DEPENDENCIES): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "Phloem needs Python 3.11 or newer: install it, or say make PYTHON=..." >&2; exit 1; fi
	@if [ ! -x $(BIN)/python ]; then echo "making $(VENV) with $(PYTHON)"; "$(PYTHON)" -m venv $(VENV); fi
	@echo "installing the pinned packages ($(EXTRAS))"
	@$(BIN)/python -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print(*p["dependencies"], *(r for e in sys.argv[1].split(",") for r in p["optional-dependencies"][e]), sep="\n")' \
		$(EXTRAS) > $(VENV)/requirements.txt
	@$(PIP) install --quiet --constraint constraints.txt --requirement $(VENV)/requirements.txt
	@touch $@

# Phloem itself, editable: Python files are read from src, the kernels are built again when their sources change.
$(PACKAGE): $(DEPENDENCIES) $(NATIVE)
	@echo "building Phloem"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) install --quiet --no-deps --no-build-isolation \
		--config-settings=build-dir=build/native --editable .
	@$(BIN)/python -c 'import importlib.util as u; print("native kernels: built" if u.find_spec("phloem.kernels._native") \
		else "native kernels: not built (is there a C++ compiler? `make native` shows why); Phloem runs on the NumPy reference")'
	@touch $@

# The same build with its output shown, for finding out why it fails.
native: $(DEPENDENCIES)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) install --verbose --no-deps --no-build-isolation \
		--config-settings=build-dir=build/native --editable .

demo: $(PACKAGE)
	$(BIN)/phloem build examples/digits.toml --compare
	@mkdir -p $(RUNS); models="$$(mktemp -d $(RUNS)/models-XXXX)"; set -x; \
		$(BIN)/phloem init --in "$$models"; \
		$(BIN)/phloem build examples/hospitals.toml --branch trunk --repo "$$models"; \
		$(BIN)/phloem ledger audit "$$(ls -td $(RUNS)/hospitals* | head -1)" --replay; \
		$(BIN)/phloem log -n 3 --repo "$$models"; \
		$(BIN)/phloem verify --replay --repo "$$models"

test: $(PACKAGE)
	$(PYTEST)

test-all: $(PACKAGE)
	$(PYTEST) -m "" --hypothesis-profile=ci --services-required

# All four, whatever the first ones find.
check: $(PACKAGE)
	@failed=; for tool in "ruff format --check ." "ruff check ." "mypy" "lint-imports"; do \
		echo "$$tool"; $(BIN)/$$tool || failed="$$failed [$$tool]"; done; \
		if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

SECONDS_EACH ?= 20
fuzz: $(PACKAGE)
	$(BIN)/python tools/fuzz.py --seconds $(SECONDS_EACH)

format: $(PACKAGE)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -f $(PACKAGE)
	find src -name '_native*.so' -delete
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
