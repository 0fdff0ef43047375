# Everything a person or a CI server calls; `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin
DATA ?= digits

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-full lint format clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: .venv/.installed ## Make .venv with everything installed

.venv/.installed: requirements.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make venv PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: venv ## Pictures to a registered encoder on this machine; DATA=folder-or-shards for your own
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python examples/demo.py "$(DATA)"

test: venv ## The tests a change must pass, about seventeen minutes on two cores
	$(BIN)/python -m pytest -m "not slow"

test-full: venv ## Every test, the long ones too
	$(BIN)/python -m pytest

lint: venv ## Lint, format and types, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and what the demo made
	rm -rf .venv demo build *.egg-info
