# `make demo` and `make test` set up everything they need on a machine with Python 3.11 and git.
PYTHON ?= python3.11
PIP_FLAGS := --quiet --disable-pip-version-check --constraint constraints.txt
BIN := .venv/bin

.PHONY: demo test test-fast lint types bench clean

demo: .venv/core
	$(BIN)/clvq-lens demo --out runs/demo

test: .venv/dev
	$(BIN)/python -m pytest

test-fast: .venv/dev
	$(BIN)/python -m pytest -m "not slow"

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/pyright

bench: .venv/bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv runs

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found; run: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/core: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable .
	@touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable ".[dev]"
	@touch $@ .venv/core

.venv/bench: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable ".[dev,bench]"
	@touch $@ .venv/dev .venv/core
