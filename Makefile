# Needs: make (3.81 or newer), python3 (3.11 or newer). Everything else comes from the lock files.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHECKS := .venv-checks
DIST ?= dist
INSTALLED := $(VENV)/installed
LOCKS := deploy/locks
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test chaos bench bench-quick mutation lint format lock checks sbom clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(INSTALLED) ## Run the whole stack here until Ctrl-C, with a first event from end to end.
	@exec $(BIN)/python -m deploy.cli up $(ARGS)

test: $(INSTALLED) ## Run every test but the long ones; ARGS="-k word" picks some.
	$(BIN)/python -m pytest -m "not long" --numprocesses 3 --dist loadfile $(ARGS)

chaos: $(INSTALLED) ## Kill, cut off and starve the real processes for ten minutes, then compare every response with Postgres.
	$(BIN)/python -m tests.chaos $(ARGS)

bench: $(INSTALLED) ## Measure against floors and a peer for 10 to 20 minutes; ARGS=--growth-full: what grows, an hour.
	$(BIN)/python -m tests.benchmarks $(ARGS)

bench-quick: $(INSTALLED) ## Measure one round, small sizes: about three minutes.
	$(BIN)/python -m tests.benchmarks --quick $(ARGS)

mutation: $(INSTALLED) ## Change the code a little, some 230 times, and see whether its tests notice: an hour.
	$(BIN)/python -m tests.mutation $(ARGS)

lint: $(INSTALLED) ## Check style, formatting, types and the direction of imports.
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## Format the code and fix what can be fixed.
	$(BIN)/python -m ruff format
	$(BIN)/python -m ruff check --fix

lock: ## Pin the dependencies anew from pyproject.toml; UPGRADE=1 takes the newest versions.
	@PYTHON=$(PYTHON) UPGRADE=$(UPGRADE) sh $(LOCKS)/lock.sh

checks: $(CHECKS)/installed ## Install the tools with which make test checks what is shipped in deploy/.

sbom: $(CHECKS)/installed ## Write a bill of materials (CycloneDX) of each lock file that is deployed into dist/.
	@mkdir -p $(DIST)
	@for lock in ingress workers flower console otel; do \
	  PYTHONWARNINGS=ignore $(CHECKS)/bin/cyclonedx-py requirements $(LOCKS)/$$lock.txt --output-reproducible --output-format JSON \
	    --pyproject pyproject.toml --output-file $(DIST)/$$lock.cdx.json && echo "$(DIST)/$$lock.cdx.json"; \
	done

clean: ## Remove the virtual environment and caches; the data in .local stay.
	rm -rf $(VENV) $(CHECKS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(CHECKS)/installed: $(LOCKS)/checks.txt
	@$(PYTHON) -m venv $(CHECKS)
	@$(CHECKS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(LOCKS)/checks.txt
	@touch $(CHECKS)/installed

$(INSTALLED): $(LOCKS)/build.txt $(LOCKS)/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed, and $(PYTHON) is not: install it, or name it with make PYTHON=..." >&2; exit 1; }
	@echo "installing the pinned packages into $(VENV); once, and again when the lock files change"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment: install its venv module (see the lines above)" >&2; exit 1; }
	@$(PIP) install --quiet --no-deps --require-hashes -r $(LOCKS)/build.txt -r $(LOCKS)/dev.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $(INSTALLED)
