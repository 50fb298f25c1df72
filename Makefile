# `make demo` and `make test`; `make test-all` runs the slow tests, too. Each makes .venv on its first call and reuses it afterwards.
PYTHON ?= python3
BIN := .venv/bin
# What pytest makes of each file of tests is kept, whatever the environment says: all workers read all of them.
export PYTHONDONTWRITEBYTECODE :=
# Each worker of pytest takes one processor and up to a gigabyte.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: demo test types quick test-all oldest forms docs coverage mutants lint clean

demo: .venv/installed
	$(BIN)/python examples/transform_example.py --weight_bitwidth 4 2 --finetune_epochs 3

# What takes long goes side by side: without its cache mypy takes 40 s of one processor.
test: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/lint-imports --no-cache
	$(MAKE) --no-print-directory --jobs 2 types quick

types: .venv/installed-test
	$(BIN)/mypy

quick: .venv/installed-test
	$(PYTEST) -m "not slow"

test-all: test
	$(PYTEST) -m slow
	$(MAKE) docs

# The core tests with the oldest versions that are supported, in an environment of their own.
oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "not slow" \
		--ignore tests/fxsnn/engine/test_cuda.py --ignore tests/fxsnn/engine/test_over_time.py \
		tests/fxsnn tests/passes tests/test_against_reference.py

# Branches of our code that no test takes, slow ones included. What numba and Triton compile is not seen.
coverage: .venv/installed-test
	$(PYTEST) --cov --cov-branch --cov-report term-missing:skip-covered

# One operator, number or condition changed at a time: do tests notice? MUTANTS="--sample 40 --seed 1 --only neuron"
mutants: .venv/installed-test
	$(BIN)/python tests/mutants.py $(MUTANTS)

# docs/forms.md, from the forms of networks that the tests try.
forms: .venv/installed-test
	$(BIN)/python -m tests.forms

# The site, into out/site; a link that leads nowhere, or a docstring that names no parameter of its function, stops it.
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

# The package itself, not editable: what users get.
.venv/installed: pyproject.toml constraints.txt $(wildcard fxsnn/*.py fxsnn/*/*.py passes/*.py hwtargets/*.py fxsnn/embedded/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt .
	touch $@

# Editable, so that fxsnn.passes and fxsnn.hwtargets are found where a checkout has no symbolic links, too.
.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

.venv-oldest/installed: pyproject.toml constraints-oldest.txt
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable '.[nir]' \
		pytest pytest-xdist hypothesis
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

lint: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info out
