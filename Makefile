# Each target sets up .venv by itself, once; PYTHON may name another Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_VENV := .venv-docs
DOCS_STAMP := $(DOCS_VENV)/.installed

.PHONY: demo test test-all lint campaign bench docs dist clean models

demo: $(STAMP)
	$(BIN)/foreglow demo --overwrite

# two processes, each with files of its own and one thread
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

test: $(STAMP)
	$(PYTEST) -m "not slow"

test-all: $(STAMP)
	$(PYTEST)

# every command that takes long, killed, interrupted and without room on its disk: an hour, root
campaign: $(STAMP)
	$(BIN)/python tests/campaigns/killed.py
	$(BIN)/python tests/campaigns/full_disk.py

models: $(STAMP)
	$(BIN)/python -m foreglow.shipped

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/table.py

docs: $(DOCS_STAMP)
	PATH="$(CURDIR)/$(DOCS_VENV)/bin:$$PATH" sphinx-build -W --keep-going -b html docs docs/_build/html

dist: $(STAMP)
	PYTHON=$(PYTHON) .ci/wheel

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "foreglow needs Python >= 3.11; set PYTHON=python3.11 or later"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(DOCS_STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) $(DOCS_VENV) docs/_build .pytest_cache .ruff_cache
