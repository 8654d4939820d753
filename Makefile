# The project's verbs. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
OUT ?= build/langgraph/Dockerfile
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# What the editable installs are built with is locked too, so nothing unlocked is ever fetched.
EDITABLE := $(PIP) install --no-deps --no-build-isolation -e . -e sdk/python
SOURCES := src sdk chains tests benchmarks scripts deploy server.py

.PHONY: help serve cluster test check format bench faults soak audit sbom langgraph dockerfile lock clean system

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

serve: $(VENV)/.serve ## serve the chains of chains/ (HOST, PORT)
	@STREAMSERVE_HOST=$(HOST) STREAMSERVE_PORT=$(PORT) $(BIN)/streamserve serve

cluster: $(VENV)/.dev system ## two replicas behind nginx (PORT), on Redis and Postgres of their own
	@$(BIN)/python -m deploy.cluster --port $(PORT)

test: $(VENV)/.dev $(VENV)/.schemathesis system ## run the tests (installs what they need)
	@$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

check: $(VENV)/.dev ## lint, format, types, declarations
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/streamserve check
	@$(MAKE) --no-print-directory audit

audit: $(VENV)/.dev ## known vulnerabilities in what serving needs; says so where nobody can be asked
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/audit

sbom: $(VENV)/.dev ## what serving is made of, as CycloneDX: build/sbom.json
	@mkdir -p build
	@$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible -o build/sbom.json requirements/serve.txt
	@echo "build/sbom.json"

format: $(VENV)/.dev ## format the code
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.dev ## benchmarks: ours and the peers side by side
	@$(BIN)/python -m benchmarks $(ARGS)

faults: $(VENV)/.dev system ## long fault campaigns: cuts at random bytes, many readers
	@$(BIN)/python -m pytest tests/faults --long $(ARGS)

soak: $(VENV)/.dev ## ten minutes of 100 streams with cuts, cancels and errors; then what is left (ARGS)
	@$(BIN)/python -m benchmarks.soak $(ARGS)

langgraph: $(VENV)/.dev ## LangGraph's development server on the same graphs and routes (PORT)
	@LANGGRAPH_CLI_NO_ANALYTICS=1 LANGGRAPH_NO_VERSION_CHECK=true LANGSMITH_TRACING=false \
		$(BIN)/langgraph dev --no-browser --no-reload --n-jobs-per-worker 50 --host $(HOST) --port $(PORT)

dockerfile: $(VENV)/.dev ## what `langgraph build` builds from, as a file (OUT); needs no Docker
	@mkdir -p $(dir $(OUT))
	@LANGGRAPH_CLI_NO_ANALYTICS=1 $(BIN)/langgraph dockerfile -c langgraph.json $(OUT)

lock: $(VENV)/.dev ## resolve the dependencies anew into requirements/*.txt
	@scripts/lock

system: ## install what the tests need from the system, or say what is left out
	@scripts/system-packages

clean: ## remove what the verbs made
	@rm -rf $(VENV) .langgraph_api .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: requirements/serve.txt pyproject.toml sdk/python/pyproject.toml | $(BIN)/python
	@echo "installing what serving needs ..."
	@$(PIP) install --require-hashes -r requirements/serve.txt
	@$(EDITABLE)
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.serve
	@echo "installing what the tests need ..."
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

# An environment of its own: it and LangGraph's server want different versions of one package.
$(VENV)/.schemathesis: requirements/schemathesis.txt | $(BIN)/python
	@echo "installing schemathesis ..."
	@$(PYTHON) -m venv $(VENV)/schemathesis
	@$(VENV)/schemathesis/bin/python -m pip --disable-pip-version-check -q install --require-hashes -r $<
	@touch $@
