# `make demo` and `make test` set up .venv by themselves; where it stands already, they install nothing.
#
# Torch comes first and alone, because what comes later would take the index's newest. Where the index's torch is a CUDA
# build and you want another, name it:   make test TORCH="--index-url https://… torch==2.13.*"
# A torch that is in .venv already stays.

PYTHON ?= python3
TORCH ?= torch==2.13.*

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
READY := $(VENV)/.ready
VERSION := $(BIN)/python -c 'from importlib import metadata; print(metadata.version("torch"))'

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint format types package sanitize clean

help: ## say what there is to make
	@echo 'usage: make TARGET [PYTHON=python3] [TORCH="torch==2.13.*"]'
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

venv: $(READY) ## set up .venv, once

# FuxiCTR, of the extra `parity`, pins nothing that recsys needs and installs beside it; torch goes along by its exact
# version, so that no package moves it.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'recsys needs Python 3.11 or newer: make PYTHON=…' >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	set -f; $(VERSION) 2>/dev/null || $(PIP) install $(TORCH)
	$(PIP) install --editable '.[dev,parity]' "torch==$$($(VERSION))"
	PIP_QUIET=1 $(BIN)/python -m recsys.install
	@touch $@

demo: venv ## train, compare and score rankers on real data in a few minutes
	$(BIN)/recsys demo

# Without a network the tests on MovieLens, the README's commands among them, skip and say so.
test: lint types venv ## all that must pass: lint, types, tests, and the package on its own
	-$(BIN)/recsys data fetch movielens-100k
	$(BIN)/python -m pytest
	$(MAKE) package

lint: venv ## ruff: rules and layout
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: venv ## lay out the code, and mend what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: venv ## mypy, strict
	$(BIN)/mypy

package: venv ## build it, and install it in a bare environment
	$(BIN)/python scripts/check_package.py --torch '$(TORCH)'

sanitize: venv ## run the C++ kernels hard under the address, undefined-behaviour and thread sanitizers
	$(BIN)/python scripts/check_native.py

clean: ## remove .venv, caches and what was built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find recsys scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
