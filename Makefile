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
# The build tools of the editable installs are locked too, so that nothing unlocked is ever fetched.
EDITABLE := $(PIP) install --no-deps --no-build-isolation -e . -e sdk/python
VERSIONS := $(BIN)/python -m scripts.versions
SOURCES := src sdk chains tests benchmarks scripts deploy server.py

.PHONY: help serve cluster test check format bench faults mutants simulate invariants soak audit sbom langgraph dockerfile lock lowest locked newest clean system release schemas

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

serve: $(VENV)/.serve ## serve the chains of chains/ (HOST, PORT)
	@STREAMSERVE_HOST=$(HOST) STREAMSERVE_PORT=$(PORT) $(BIN)/streamserve serve

cluster: $(VENV)/.dev system ## run two replicas behind nginx (PORT), on Redis and Postgres of their own
	@$(BIN)/python -m deploy.cluster --port $(PORT)

test: $(VENV)/.dev $(VENV)/.schemathesis system ## run the tests, after installing their needs
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.dev ## check lint, format, types, declarations and vulnerabilities
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/streamserve check
	@$(MAKE) --no-print-directory schemas
	@$(MAKE) --no-print-directory audit

schemas: $(VENV)/.dev ## check the workflows and the compose file by their schemas
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec deploy/compose.yaml

audit: $(VENV)/.dev ## look for known vulnerabilities of the server's dependencies, where a service for that can be reached
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/audit

sbom: $(VENV)/.dev ## write the server's dependencies as CycloneDX: build/sbom.json
	@mkdir -p build
	@$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible -o build/sbom.json requirements/serve.txt
	@echo "build/sbom.json"

format: $(VENV)/.dev ## format the code
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.dev ## run benchmarks of ours and of the peers side by side (ARGS)
	@$(BIN)/python -m benchmarks $(ARGS)

faults: $(VENV)/.dev system ## run long fault campaigns: cuts at random bytes, many readers, new generated chains
	@$(BIN)/python -m pytest tests/faults --long $(ARGS)
	@$(BIN)/python -m pytest tests/lcel tests/runs/test_output.py --hypothesis-profile=default

mutants: $(VENV)/.dev system ## change the code at random places, and name the changes that no test sees (ARGS)
	@nice $(BIN)/python -m scripts.mutants $(ARGS)

soak: $(VENV)/.dev ## run 100 streams with cuts, cancels, errors and misbehaving calls for ten minutes, then look for leaks (ARGS)
	@$(BIN)/python -m benchmarks.soak $(ARGS)

simulate: $(VENV)/.dev ## run simulated worlds: every fault at every place, and seeds (ARGS)
	@PYTHONHASHSEED=0 $(BIN)/python -m tests.simulation $(or $(ARGS),--places --seeds 20000)

invariants: $(VENV)/.dev ## change the engine at random places, and name the changes that no simulated world sees (ARGS)
	@PYTHONHASHSEED=0 nice $(BIN)/python -m tests.simulation.mutants $(ARGS)

langgraph: $(VENV)/.dev ## run LangGraph's development server on the same graphs and routes (PORT)
	@LANGGRAPH_CLI_NO_ANALYTICS=1 LANGGRAPH_NO_VERSION_CHECK=true LANGSMITH_TRACING=false \
		$(BIN)/langgraph dev --no-browser --no-reload --n-jobs-per-worker 50 --host $(HOST) --port $(PORT)

dockerfile: $(VENV)/.dev ## write the Dockerfile of `langgraph build` (OUT); needs no Docker
	@mkdir -p $(dir $(OUT))
	@LANGGRAPH_CLI_NO_ANALYTICS=1 $(BIN)/langgraph dockerfile -c langgraph.json $(OUT)

release: $(VENV)/.dev ## build the distributions into dist/, and try them in an empty environment
	@scripts/release

lock: $(VENV)/.dev ## resolve the dependencies again into requirements/*.txt
	@scripts/lock

lowest: $(VENV)/.dev system ## run the tests of the promises on the lowest versions that pyproject.toml allows (PYTHON, ARGS)
	@$(VERSIONS) lowest --python $(PYTHON) $(ARGS)

locked: $(VENV)/.dev system ## run them on the locked versions, with another Python (PYTHON, ARGS)
	@$(VERSIONS) locked --python $(PYTHON) $(ARGS)

newest: $(VENV)/.dev system ## run them on the newest versions that the index has (PYTHON, ARGS)
	@$(VERSIONS) newest --python $(PYTHON) $(ARGS)

system: ## install system packages for the tests, or name the missing ones
	@scripts/system-packages

clean: ## remove everything that the verbs made
	@rm -rf $(VENV) build .langgraph_api .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: requirements/serve.txt pyproject.toml sdk/python/pyproject.toml | $(BIN)/python
	@echo "installing the server's dependencies ..."
	@$(PIP) install --require-hashes -r requirements/serve.txt
	@$(EDITABLE)
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.serve
	@echo "installing the tests' dependencies ..."
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

# An environment of its own: schemathesis and LangGraph's server need different versions of one package.
$(VENV)/.schemathesis: requirements/schemathesis.txt | $(BIN)/python
	@echo "installing schemathesis ..."
	@$(PYTHON) -m venv $(VENV)/schemathesis
	@$(VENV)/schemathesis/bin/python -m pip --disable-pip-version-check -q install --require-hashes -r $<
	@touch $@
