# Everything here works with Python 3.11+ (with venv and pip) and make alone.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 8080
CORPUS_DIR ?= ../shared/corpus

.DEFAULT_GOAL := help
.PHONY: help run test proof corpus clients bench bench-quick prices schema profile check format lock clean

help: ## Say what there is.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/.run: requirements/run.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

run: $(VENV)/.run ## Start the gateway on 127.0.0.1:8080 with SQLite and spool under ./data.
	$(BIN)/bursar serve --host $(HOST) --port $(PORT)

test: $(VENV)/.dev ## Run the tests, two rounds of each proof among them.
	$(BIN)/pytest -n auto -m "not proof and not corpus"

proof: $(VENV)/.dev ## Run the proofs at full length: kills, outages, ten thousand calls.
	$(BIN)/pytest -m proof

corpus: $(VENV)/.dev ## Read the recorded exchanges in CORPUS_DIR, cut at every byte, beside the vendors' own SDKs (under .clients).
	CORPUS_DIR=$(CORPUS_DIR) $(BIN)/python -m clients.sdks
	CORPUS_DIR=$(CORPUS_DIR) $(BIN)/pytest -n auto -m corpus

clients: $(VENV)/.dev ## Let unchanged clients (installed under .clients) make calls, and compare what they say with the ledger.
	$(BIN)/python -m clients

bench: $(VENV)/.dev ## Measure bursar beside other gateways (installed under .bench), and write docs/BENCHMARKS.md.
	$(BIN)/python -m bench $(BENCH)

bench-quick: $(VENV)/.dev ## Measure bursar against the limit, in under two minutes.
	$(BIN)/python -m bench --quick

prices: $(VENV)/.dev ## Compile the prices that come along anew, from the data of the genai-prices that is locked.
	$(BIN)/python -m tools.prices

schema: $(VENV)/.dev ## Write anew what a new store is made of, from the migrations.
	$(BIN)/python -m tools.schema

profile: $(VENV)/.dev ## Show where the time of a call goes: WORKLOAD=chat, long or stream.
	$(BIN)/python -m bench.profile $(WORKLOAD)

check: $(VENV)/.dev ## Check format, style, types and floors.
	$(BIN)/ruff format --check --quiet src tests bench clients tools
	$(BIN)/ruff check --quiet src tests bench clients tools
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.dev ## Format the code.
	$(BIN)/ruff format --quiet src tests bench clients tools
	$(BIN)/ruff check --quiet --fix src tests bench clients tools

CLIENTS = openai anthropic langchain-openai llm litellm llm-comply sdks gigachat schemathesis
lock: ## Lock the dependencies anew, with hashes and without the name of any registry.
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --no-annotate --no-emit-index-url --quiet \
	  pyproject.toml requirements/build.in -o requirements/run.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --no-annotate --no-emit-index-url --quiet \
	  --extra test --extra check --extra bench --extra aws --extra google -c requirements/run.txt pyproject.toml requirements/build.in -o requirements/dev.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --no-annotate --no-emit-index-url --quiet \
	  --extra litellm -c requirements/run.txt pyproject.toml -o requirements/clients/in-process.txt
	for client in $(CLIENTS); do \
	  uv pip compile --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --no-annotate --no-emit-index-url --quiet \
	    requirements/clients/$$client.in -o requirements/clients/$$client.txt || exit 1; \
	done
	for folder in ai aimock; do (cd clients/$$folder && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund --silent) || exit 1; done

clean: ## Remove the environment and what tools leave behind; the ledger under ./data stays.
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
