# `make demo` and `make test` set everything up on a fresh machine; see README.md.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
PYTEST ?= $(BIN)/pytest
JOBS ?= 2
DEMO := demo
IMAGES ?=

.PHONY: help venv system system-tests demo test test-slow test-all check format bench clean

help:
	@echo "make demo      set up, compile for arm64, classify photographs with the arm64 binary"
	@echo "make test      set up, run the quick tests"
	@echo "make test-all  quick and slow tests"
	@echo "make check     ruff and mypy"
	@echo "make bench     compiled subnets beside ONNX Runtime"

venv: $(VENV)/.installed

# Made anew when a dependency may have changed, or how the package is built.
$(VENV)/.installed: pyproject.toml setup.py scripts/make-venv.sh
	@scripts/make-venv.sh $(VENV)
	@touch $@

# Emulator and cross compiler; never fails, says what is missing.
system:
	@scripts/system-packages.sh

# The same with what the tests of other targets need: a software GPU, compilers, emulators.
system-tests:
	@scripts/system-packages.sh tests

demo: venv system
	$(BIN)/ofa-compile --target arm64 --output $(DEMO)/bundle
	@photos="$$($(BIN)/python scripts/sample_photos.py)"; \
	$(BIN)/ofa-compile run $(DEMO)/bundle --top 3 $$(printf -- '--image %s ' $$photos $(IMAGES))

test: venv system-tests
	$(PYTEST) -n $(JOBS)

test-slow: venv system-tests
	$(PYTEST) -m slow -n $(JOBS) || [ $$? -eq 5 ]  # 5: there are none

test-all: test test-slow

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv
	$(BIN)/python benchmarks/bench_runtimes.py

clean:
	rm -rf $(DEMO) build dist .pytest_cache .mypy_cache .ruff_cache
