# `make demo` shows the whole workflow, `make test` runs all checks.
PYTHON ?= python3
VENV ?= .venv
# Versions of the dependencies. Use another file with a VENV of its own:
# make unit VENV=.venv-lowest CONSTRAINTS=lowest.txt
CONSTRAINTS ?= constraints.txt
DEMO ?= demo
P3D := $(VENV)/bin/p3d
INSTALLED := $(VENV)/.installed

.DELETE_ON_ERROR:
.PHONY: demo demo-2d test lint types layers unit format clean

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

# Write the sample set, train on it, evaluate on its test list, classify two clips.
demo: $(INSTALLED)
	P3D=$(P3D) DEMO=$(DEMO) bash run_scripts/demo.sh

# The same recipe without temporal convolutions, which cannot tell a motion from its reverse.
demo-2d: $(INSTALLED)
	P3D=$(P3D) DEMO=$(DEMO) VARIANT=2d bash run_scripts/demo.sh

test: lint types layers unit

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(INSTALLED)
	$(VENV)/bin/mypy

layers: $(INSTALLED)
	$(VENV)/bin/lint-imports

unit: $(INSTALLED)
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

format: $(INSTALLED)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(DEMO) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
