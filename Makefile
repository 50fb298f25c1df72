# `make demo` and `make test`; `make test-all` runs the slow tests, too. Each makes .venv on its first call and reuses it afterwards.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint clean

demo: .venv/installed
	$(BIN)/python examples/transform_example.py --weight_bitwidth 4 2 --finetune_epochs 3

test: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -m "not slow"

test-all: test
	$(BIN)/python -m pytest -m slow

# The package itself, not editable: what users get.
.venv/installed: pyproject.toml constraints.txt $(wildcard fxsnn/*.py fxsnn/*/*.py passes/*.py hwtargets/*.py fxsnn/embedded/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt '.[test]'
	touch $@

lint: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

clean:
	rm -rf .venv build dist *.egg-info out
