# make demo | test | parity | check: each works on a machine that has only Python >= 3.11, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIMES ?= onnxruntime,litert
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

export ORT_DISABLE_TELEMETRY := 1

.PHONY: demo test parity check clean

demo: $(VENV)/.all
	$(BIN)/edgekron demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest edgekron tests runtime_tests --runtimes $(RUNTIMES)

# The whole matrix: hours, resumed where it stopped; ends in build/parity/report.html.
parity: $(VENV)/.dev
	$(BIN)/python -m pytest runtime_tests --full --runtimes $(RUNTIMES) -n auto --dist loadgroup -o console_output_style=count

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist

$(VENV)/.python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "edgekron needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	touch $@

$(VENV)/.all: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) -e '.[all]'
	touch $@

$(VENV)/.dev: $(VENV)/.all
	$(PIP) -e '.[dev]'
	touch $@
