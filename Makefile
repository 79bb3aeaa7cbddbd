# Each target sets up what it needs in .venv: nothing to install by hand but Python >= 3.11.
#   make PYTHON=/path/to/python test    uses another Python

PYTHON ?= $(shell command -v python3 2>/dev/null || command -v python 2>/dev/null)
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
# Test processes, for two cores; 0 runs the tests in place. Each loads the kernels anew.
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup browser demo test test-slow test-robustness lint format bench docs docs-quick linkcheck clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP) ## train, predict and evaluate on the real data that the package carries
	$(RUN) examples/demo.py

test: lint ## lint and tests
	$(RUN) -m pytest -n $(JOBS)

test-slow: $(STAMP) ## the tests that take long
	$(RUN) -m pytest -n $(JOBS) -m slow

test-robustness: $(STAMP) ## kills at random moments, threads, memory limits, any data; minutes
	$(RUN) -m pytest -n 0 -m robustness tests/robustness

lint: $(STAMP) ## style, format and the direction of imports
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) tools/check_imports.py
	$(RUN) tools/check_docstrings.py

format: $(STAMP) ## rewrite the sources in the common format
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: $(DOCS_STAMP) ## the pages with the gallery of examples, in docs/_build/html; a warning is an error
	$(RUN) -m sphinx -W --keep-going -b html docs docs/_build/html

docs-quick: $(DOCS_STAMP) ## the same without running the examples
	SKXMC_GALLERY=0 $(RUN) -m sphinx -W --keep-going -b html docs docs/_build/html

linkcheck: $(DOCS_STAMP) ## follow all links of the pages; needs a network
	SKXMC_GALLERY=0 $(RUN) -m sphinx -b linkcheck docs docs/_build/linkcheck

bench: ## list the benchmarks
	@echo "Each file of benchmarks/ answers one question; run it with $(RUN):"
	@ls benchmarks/*.py 2>/dev/null || echo "(none yet)"

setup: $(STAMP) ## only make .venv

browser: ## a Chromium for the tests of the report page, where it can be installed
	@tools/ensure_browser.sh

clean: ## delete .venv and what tools left behind
	rm -rf $(VENV) build dist docs/_build docs/api/generated docs/gallery .pytest_cache .ruff_cache .hypothesis
	find skxmc tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is newer than what it depends on once the installation has succeeded; an interrupted one is done again.
$(STAMP): pyproject.toml tests/constraints.txt
	@test -n "$(PYTHON)" || { echo "No python3 found. Install Python >= 3.11, or pass PYTHON=/path/to/python."; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "skxmc needs Python >= 3.11; $(PYTHON) is $$("$(PYTHON)" --version 2>&1). Pass PYTHON=/path/to/python."; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv module (on Debian and Ubuntu: apt install python3-venv). Install it, or pass PYTHON=/path/to/python."; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	$(RUN) -m pip install --disable-pip-version-check --quiet -c tests/constraints.txt -e ".[test]"
	@touch $@

$(DOCS_STAMP): $(STAMP)
	$(RUN) -m pip install --disable-pip-version-check --quiet -c tests/constraints.txt -e ".[docs]"
	@touch $@
